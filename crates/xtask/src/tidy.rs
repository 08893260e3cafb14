//! `cargo xtask tidy`: the written rules that a program can check, over every file under version control.
//!
//! A rule is a function from a file to findings. Length is a warning; everything else fails the task.

use crate::arguments::Arguments;
use crate::failure::{Context, Result};
use crate::{source_text, workspace};
use std::path::Path;
use std::process::ExitCode;

const LONGEST_FILE_LINES: usize = 800;
/// Where a machine keeps people's files. Written in halves so that this file passes its own check.
const MACHINE_PATHS: [&str; 4] = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];
const TEXT_FILES: [&str; 14] = ["rs", "md", "toml", "c", "h", "cpp", "zig", "go", "mjs", "js", "sh", "yml", "wast", "wat"];

/// One finding: the file and line, what is wrong, whether it fails the task.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    rule: String,
    fails: bool,
}

/// Runs the task.
///
/// # Errors
/// When the files cannot be listed or read.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    arguments.finish()?;
    let root = workspace::root()?;
    let (mut files, mut failed, mut warned) = (0, 0, 0);
    for file in workspace::files(&root)? {
        if !TEXT_FILES.iter().any(|extension| file.extension().is_some_and(|found| found == *extension)) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(&file)).context(file.display())?;
        files += 1;
        for finding in check(&file, &text) {
            let word = if finding.fails { "error" } else { "warning" };
            println!("{word}: {}:{}: {}", file.display(), finding.line, finding.rule);
            failed += usize::from(finding.fails);
            warned += usize::from(!finding.fails);
        }
    }
    println!("tidy: {files} files, {failed} errors, {warned} warnings");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |line: usize, rule: &str| findings.push(Finding { line, rule: rule.to_owned(), fails: true });
    for line in source_text::lines_where(text, names_machine_path) {
        add(line, "names a path of one machine");
    }
    if file.extension().is_some_and(|extension| extension == "rs") {
        if !text.starts_with("//!") {
            add(1, "does not start with `//!`: what the file holds, what it leaves to others, who calls it");
        }
        let code = source_text::code_only(text);
        for (mark, rule) in [("todo!(", "`todo!`: finish it or return an error"), ("unimplemented!(", "`unimplemented!`: likewise")] {
            for line in source_text::lines_where(&code, |line| line.contains(mark)) {
                add(line, rule);
            }
        }
        for line in source_text::lines_where(&code, |line| line.contains("#[ignore")) {
            add(line, "`#[ignore]`: list an expected failure by name instead");
        }
        for line in source_text::lines_where(&code, |line| is_module(line) && is_nameless(line)) {
            add(line, "a module is named for the one thing it holds");
        }
        let lines = text.lines().count();
        if lines > LONGEST_FILE_LINES {
            let rule = format!("{lines} lines; more than {LONGEST_FILE_LINES} hold more than one thing");
            findings.push(Finding { line: lines, rule, fails: false });
        }
    }
    findings
}

/// Whether the line has an absolute path of a machine; `../` and the like before it make it a path of a guest.
fn names_machine_path(line: &str) -> bool {
    let starts_there = |at: usize| !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-}".contains(before));
    MACHINE_PATHS.iter().any(|path| line.match_indices(path).any(|(at, _)| starts_there(at)))
}

/// Whether a line declares a module, for whomever it is visible.
fn is_module(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("pub").map_or(line, |rest| match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(')').map_or("", |(_, rest)| rest),
        None => rest,
    });
    line.trim_start().starts_with("mod ")
}

fn is_nameless(line: &str) -> bool {
    ["util", "utils", "common", "misc", "helpers", "prelude"].iter().any(|name| line.trim_end().ends_with(&format!("mod {name};")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(file: &str, text: &str) -> Vec<(usize, String)> {
        check(Path::new(file), text).into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    #[test]
    fn a_good_file_has_no_findings() {
        assert_eq!(rules("a.rs", "//! Holds a. `todo!(` may be named here.\nfn f() { g(\"unimplemented!(\") }\n"), []);
        assert_eq!(rules("a.md", "no header is needed\n"), []);
    }

    #[test]
    fn each_rule_finds_what_breaks_it() {
        for (text, line, part) in [
            ("fn f() {}\n", 1, "//!"),
            ("//! A.\nfn f() { todo!() }\n", 2, "todo!"),
            ("//! A.\n\nfn f() { unimplemented!(\"x\") }\n", 3, "unimplemented!"),
            ("//! A.\n#[ignore]\nfn f() {}\n", 2, "ignore"),
            ("//! A.\n#[ignore = \"slow\"]\nfn f() {}\n", 2, "ignore"),
            ("//! A.\nmod util;\n", 2, "named"),
        ] {
            let found = rules("a.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(found[0].0, line);
            assert!(found[0].1.contains(part), "{found:?}");
        }
    }

    #[test]
    fn machine_paths_are_found_in_any_text() {
        let text = format!("# A\n\nsee {}someone/x\n", MACHINE_PATHS[1]);
        assert_eq!(rules("a.md", &text).len(), 1);
        assert_eq!(rules("a.md", &format!("..{}present\n", MACHINE_PATHS[0])), []);
    }

    #[test]
    fn a_long_file_is_a_warning() {
        let text = format!("//! A.\n{}", "fn f() {}\n".repeat(900));
        let found = check(Path::new("a.rs"), &text);
        assert_eq!(found.len(), 1);
        assert!(!found[0].fails);
    }
}
