//! `cargo xtask layers`: proves that the arrows between the crates point the way ARCHITECTURE.md says.
//!
//! Five checks. The direct edges between the crates of the workspace are in a table. Some crates must not be reached from
//! others, however long the way. Each dependency is named by who lists it. Code marked `unsafe` lives in the rooms that are named
//! for it, and the pure crates forbid it. Files of the baseline above the processors' folders name nothing of a processor but roles of
//! registers. Only normal dependencies count for the first two: what tests and build scripts use does not end up in the product.

use crate::arguments::Arguments;
use crate::failure::{Context, Result};
use crate::process::Job;
use crate::{dependencies, source_text, workspace};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

/// A crate of the workspace and the crates of the workspace that it may name. Lowest layer first.
const ALLOWED: &[(&str, &[&str])] = &[
    ("peregrine-wasm", &[]),
    ("peregrine-sys", &[]),
    ("peregrine-artifact", &["peregrine-wasm"]),
    ("peregrine-frontend", &["peregrine-wasm", "peregrine-artifact"]),
    ("peregrine-compile", &["peregrine-wasm", "peregrine-artifact", "peregrine-frontend"]),
    ("peregrine-engine", &["peregrine-wasm", "peregrine-artifact", "peregrine-sys"]),
    ("peregrine-baseline", &["peregrine-wasm", "peregrine-artifact", "peregrine-frontend", "peregrine-compile"]),
    ("peregrine-optimizing", &["peregrine-wasm", "peregrine-artifact", "peregrine-frontend", "peregrine-compile"]),
    (
        "peregrine",
        &[
            "peregrine-wasm",
            "peregrine-artifact",
            "peregrine-frontend",
            "peregrine-compile",
            "peregrine-engine",
            "peregrine-baseline",
            "peregrine-optimizing",
        ],
    ),
    ("peregrine-wasi", &["peregrine-wasm", "peregrine-artifact", "peregrine-sys", "peregrine-engine"]),
    ("peregrine-cli", &[ANY]),
    ("peregrine-harness", &[ANY]),
    ("xtask", &[]),
];
const ANY: &str = "*";

/// Crates that are for development; what the product uses of them, as the command line does of the harness, is looked at with the product.
const DEVELOPMENT: [&str; 2] = ["peregrine-harness", "xtask"];

/// What makes code of WebAssembly.
const COMPILING: &[&str] =
    &["wasmparser", "cranelift*", "regalloc2", "peregrine-frontend", "peregrine-compile", "peregrine-optimizing", "peregrine-baseline"];

/// Who must not reach what, over any number of edges. A name that ends in `*` stands for all that start so.
const UNREACHABLE: &[(&str, &[&str])] = &[
    ("peregrine-engine", COMPILING),
    ("peregrine-wasi", COMPILING),
    ("peregrine-frontend", &["peregrine-engine", "peregrine-sys", "cranelift*"]),
    ("peregrine-compile", &["peregrine-engine", "peregrine-sys"]),
    ("peregrine-optimizing", &["peregrine-engine", "peregrine-sys", "peregrine-baseline"]),
    (
        "peregrine-baseline",
        &["peregrine-engine", "peregrine-sys", "peregrine-optimizing", "cranelift-codegen", "cranelift-frontend", "cranelift-native"],
    ),
    ("peregrine-wasm", &["peregrine-*"]),
    ("peregrine-artifact", &["peregrine-sys", "wasmparser", "cranelift*"]),
];

/// Other runtimes and their parts: never in the product.
const FORBIDDEN: [&str; 7] = ["wasmtime*", "wasmer*", "wasmi", "winch*", "wiggle*", "wasi-common", "wizer"];
/// What the published code generator brings along by itself.
const BROUGHT_ALONG: (&str, &str) = ("wasmtime-internal-core", "cranelift*");

const PURE: [&str; 6] = ["wasm", "artifact", "frontend", "compile", "baseline", "optimizing"];
/// Where unsafe code may stand, by the start of the path; tests, benchmarks and examples may as well.
const UNSAFE_ROOMS: [&str; 3] = ["crates/sys/", "crates/engine/src/vm/", "crates/xtask/"];
/// Where public functions may be declared `unsafe`, without any unsafe block.
const PROMISES: &str = "crates/engine/src/";
/// Unsafe blocks of an embedder: the file, and how many. To run an image is to vouch for it.
const ACCEPTED: [(&str, usize); 1] = [("crates/cli/src/commands/run.rs", 1)];

/// Where the baseline knows no processor, and the folder in it that does.
const SEAM: (&str, &str) = ("crates/baseline/src/", "crates/baseline/src/isa/");
/// What files above the folder may name of it: modules, and what of them; nothing where that is any name.
const ACROSS_SEAM: [(&str, &[&str]); 3] = [
    ("moves", &["Condition"]),
    (
        "registers",
        &[
            "ALWAYS_TEMPORARY",
            "DESTROYED_FOR_LOCALS",
            "INTEGER",
            "JOIN",
            "PREFERRED",
            "PRESERVED",
            "PRESERVED_FOR_LOCALS",
            "VECTOR",
            "VECTORS_FOR_LOCALS",
            "VECTOR_JOIN",
        ],
    ),
    ("target", &["self", "target", "features", "Features", "PADDING"]),
];

/// The normal dependencies: package name to the names of the packages it depends on.
#[derive(Debug, Default)]
struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
    members: BTreeSet<String>,
}

/// Runs the task.
///
/// # Errors
/// When cargo or git fail.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    arguments.finish()?;
    let root = workspace::root()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = ["metadata", "--format-version", "1", "--all-features"];
    let output = Job::new(&cargo).args(metadata).folder(&root).run_well()?;
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let graph = Graph::read(&metadata);
    let mut wrong = graph.check();
    wrong.extend(dependencies::unnamed(&metadata, &root)?);
    // What is built for users: unlike the metadata, the tree leaves out the features that only tests turn on.
    let mut tree = Job::new(&cargo).args(["tree", "--edges", "normal", "--prefix", "depth", "--format", " {p}"]).folder(&root);
    for member in graph.product_members() {
        tree = tree.args(["--package", member]);
    }
    wrong.extend(Graph::read_tree(&tree.run_well()?.text()).check_forbidden());
    for file in workspace::files(&root)? {
        if file.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(root.join(&file)).context(file.display())?;
            wrong.extend(check_unsafe(&file, &text));
            wrong.extend(check_seam(&file, &text));
        }
    }
    for line in &wrong {
        println!("error: {line}");
    }
    println!("layers: {} crates, {} packages in all, {} errors", graph.members.len(), graph.edges.len(), wrong.len());
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Graph {
    fn read(metadata: &Value) -> Self {
        let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let names: BTreeMap<String, String> =
            array(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let name = |id: &Value| names.get(&text(id)).cloned().unwrap_or_default();
        let mut graph = Self::default();
        for node in array(&metadata["resolve"]["nodes"]) {
            let edges = graph.edges.entry(name(&node["id"])).or_default();
            for edge in array(&node["deps"]) {
                if array(&edge["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                    edges.insert(name(&edge["pkg"]));
                }
            }
        }
        graph.members = array(&metadata["workspace_members"]).iter().map(name).collect();
        graph
    }

    fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for member in &self.members {
            self.check_edges(member, &mut wrong);
        }
        for (from, targets) in UNREACHABLE {
            for (reached, way) in self.ways_from(from) {
                if reached != *from && targets.iter().any(|target| matches(target, &reached)) {
                    wrong.push(format!("{from} must not reach {reached}: {way}"));
                }
            }
        }
        wrong
    }

    /// Reads the output of `cargo tree` with the depth before each name; its roots are the members.
    fn read_tree(text: &str) -> Self {
        let mut graph = Self::default();
        let mut way: Vec<String> = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(Ok(depth)), Some(name)) = (words.next().map(str::parse::<usize>), words.next()) else {
                continue;
            };
            way.truncate(depth);
            match way.last() {
                Some(parent) => drop(graph.edges.entry(parent.clone()).or_default().insert(name.to_owned())),
                None => drop(graph.members.insert(name.to_owned())),
            }
            way.push(name.to_owned());
        }
        graph
    }

    fn product_members(&self) -> impl Iterator<Item = &String> {
        self.members.iter().filter(|member| !DEVELOPMENT.contains(&member.as_str()))
    }

    fn check_edges(&self, member: &str, wrong: &mut Vec<String>) {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == member) else {
            wrong.push(format!("{member} has no place in the table of layers (crates/xtask/src/layers.rs)"));
            return;
        };
        for target in self.edges.get(member).into_iter().flatten().filter(|target| self.members.contains(*target)) {
            if !allowed.contains(&ANY) && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{member} must not depend on {target}"));
            }
        }
    }

    fn check_forbidden(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for member in self.product_members() {
            for (reached, way) in self.ways_from(member) {
                for target in self.edges.get(&reached).into_iter().flatten() {
                    let brought = target == BROUGHT_ALONG.0 && matches(BROUGHT_ALONG.1, &reached);
                    if !brought && FORBIDDEN.iter().any(|name| matches(name, target)) {
                        wrong.push(format!("{member} must not contain {target}: {way} -> {target}"));
                    }
                }
            }
        }
        wrong
    }

    /// Every package that is reached from this one, itself included, with one way to it.
    fn ways_from(&self, from: &str) -> BTreeMap<String, String> {
        let mut ways = BTreeMap::new();
        let mut open = vec![(from.to_owned(), from.to_owned())];
        while let Some((name, way)) = open.pop() {
            if ways.contains_key(&name) {
                continue;
            }
            for target in self.edges.get(&name).into_iter().flatten() {
                open.push((target.clone(), format!("{way} -> {target}")));
            }
            ways.insert(name, way);
        }
        ways
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

fn check_unsafe(file: &Path, text: &str) -> Vec<String> {
    let path = file.to_string_lossy().replace('\\', "/");
    let mut wrong = Vec::new();
    let pure = PURE.iter().find(|name| path == format!("crates/{name}/src/lib.rs"));
    let code = source_text::code_only(text);
    if pure.is_some() && !code.contains("#![forbid(unsafe_code)]") {
        wrong.push(format!("{path} must have #![forbid(unsafe_code)]"));
    }
    let in_room = UNSAFE_ROOMS.iter().any(|room| path.starts_with(room));
    let in_tests = ["/tests/", "/benches/", "/examples/"].iter().any(|part| path.contains(part));
    if !in_room && !in_tests {
        let lines: Vec<&str> = code.lines().collect();
        let mut found = source_text::lines_with_word(&code, "unsafe");
        // A public function may ask its caller for a promise; what relies on the promise stands in a room.
        found.retain(|line| !(path.starts_with(PROMISES) && lines[line - 1].trim_start().starts_with("pub unsafe fn ")));
        let accepted = ACCEPTED.iter().find(|(file, _)| *file == path).map_or(0, |(_, count)| *count);
        if found.len() > accepted {
            for line in found {
                wrong.push(format!("{path}:{line}: unsafe code outside the rooms for it"));
            }
        }
    }
    wrong
}

/// Names of a processor's folder in files above it.
fn check_seam(file: &Path, text: &str) -> Vec<String> {
    let path = file.to_string_lossy().replace('\\', "/");
    if !path.starts_with(SEAM.0) || path.starts_with(SEAM.1) {
        return Vec::new();
    }
    let code = source_text::code_only(text);
    let mut wrong = Vec::new();
    for (position, rest) in code.match_indices("isa::").map(|(position, found)| (position, &code[position + found.len()..])) {
        // Up to the end of the path, a list in braces included.
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
        let end = match (rest.find(|c| !is_part(c)), rest.find('}')) {
            (Some(brace), Some(end)) if rest[brace..].starts_with('{') => end,
            (end, _) => end.unwrap_or(rest.len()),
        };
        let mut names = rest[..end].split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|name| !name.is_empty());
        let (machine, module) = (names.next(), names.next());
        let allowed = ACROSS_SEAM.iter().find(|(allowed, _)| module == Some(allowed)).map_or(&[][..], |(_, names)| names);
        if machine != Some("machine") || allowed.is_empty() || names.any(|name| !allowed.contains(&name)) {
            let line = code[..position].lines().count();
            wrong.push(format!("{path}:{line}: `isa::{}` is of the processor alone; say what is meant by `operators.rs`", &rest[..end]));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph from lines of `from -> to`.
    fn check(edges: &[(&str, &str)], expect: &[&str]) {
        let mut graph = Graph::default();
        for (from, to) in edges {
            graph.edges.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            graph.edges.entry((*to).to_owned()).or_default();
        }
        graph.members = graph.edges.keys().filter(|name| name.starts_with("peregrine") || *name == "stray").cloned().collect();
        let mut found = graph.check();
        found.extend(graph.check_forbidden());
        assert_eq!(found.len(), expect.len(), "{edges:?}: {found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.contains(expect), "{found} does not say {expect}");
        }
    }

    #[test]
    fn arrows_that_point_down_are_fine() {
        check(
            &[
                ("peregrine-artifact", "peregrine-wasm"),
                ("peregrine-engine", "peregrine-sys"),
                ("peregrine-optimizing", "cranelift-codegen"),
                ("cranelift-codegen", "wasmtime-internal-core"),
                ("peregrine-cli", "peregrine-wasi"),
                ("peregrine-harness", "wasmi"),
            ],
            &[],
        );
    }

    #[test]
    fn each_arrow_that_points_up_is_named() {
        check(&[("peregrine-wasm", "peregrine-artifact")], &["peregrine-wasm must not depend on", "peregrine-wasm must not reach"]);
        check(&[("peregrine-engine", "wasmparser")], &["peregrine-engine must not reach wasmparser"]);
        check(
            &[("peregrine-compile", "helper"), ("helper", "peregrine-sys")],
            &["peregrine-compile must not reach peregrine-sys: peregrine-compile -> helper -> peregrine-sys"],
        );
        check(&[("peregrine-wasi", "x"), ("x", "cranelift-codegen")], &["peregrine-wasi must not reach cranelift-codegen"]);
    }

    #[test]
    fn other_runtimes_are_found_however_deep() {
        check(&[("peregrine-cli", "x"), ("x", "wasmer-types")], &["peregrine-cli -> x -> wasmer-types"]);
        check(&[("peregrine-cli", "wasmtime-internal-core")], &["wasmtime-internal-core"]);
        check(&[("peregrine-cli", "wasmi")], &["wasmi"]);
    }

    #[test]
    fn a_tree_is_read() {
        let tree = "0 peregrine-cli v0.1.0 (x)\n1 a v1\n2 b v1\n2 c v1\n1 wasmi v2\n\n0 xtask v0.1.0\n1 wasmi v2 (*)\n";
        let graph = Graph::read_tree(tree);
        assert_eq!(graph.edges["a"].iter().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(graph.check_forbidden(), ["peregrine-cli must not contain wasmi: peregrine-cli -> wasmi"]);
    }

    #[test]
    fn a_crate_without_a_place_is_an_error() {
        check(&[("stray", "x")], &["stray has no place"]);
    }

    #[test]
    fn metadata_is_read_and_other_kinds_of_dependency_are_left_out() {
        let metadata = serde_json::json!({
            "packages": [{ "id": "1", "name": "peregrine-wasm" }, { "id": "2", "name": "serde" }, { "id": "3", "name": "wasmi" }],
            "workspace_members": ["1"],
            "resolve": { "nodes": [{ "id": "1", "deps": [
                { "pkg": "2", "dep_kinds": [{ "kind": null }] },
                { "pkg": "3", "dep_kinds": [{ "kind": "dev" }, { "kind": "build" }] },
            ]}]},
        });
        let graph = Graph::read(&metadata);
        assert_eq!(graph.edges["peregrine-wasm"].iter().collect::<Vec<_>>(), ["serde"]);
        assert!(graph.check().is_empty());
    }

    #[test]
    fn names_of_processors_are_found_above_their_folder() {
        let found = |path: &str, text: &str| check_seam(Path::new(path), text).len();
        for good in [
            "use crate::isa::machine::moves::Condition;",
            "use crate::isa::machine::registers::{INTEGER, VECTOR};",
            "use crate::isa::machine::target::{self, Features};",
            "//! isa::machine::assembler::Mem",
            "mod isa;",
        ] {
            assert_eq!(found("crates/baseline/src/a.rs", good), 0, "{good}");
        }
        for bad in [
            "use crate::isa::machine::assembler::{Alu, Cc};",
            "use crate::isa::machine::moves::{Condition, Mem};",
            "use crate::isa::machine::registers::RAX;",
            "use crate::isa::x64::registers::INTEGER;",
            "fn f() { crate::isa::machine::memory::Load::U8 }",
        ] {
            assert_eq!(found("crates/baseline/src/a.rs", bad), 1, "{bad}");
            assert_eq!(found("crates/baseline/src/isa/x64/a.rs", bad), 0, "{bad}");
        }
    }

    #[test]
    fn unsafe_code_is_found_outside_its_rooms() {
        let found = |path: &str, text: &str| check_unsafe(Path::new(path), text).len();
        assert_eq!(found("crates/cli/src/main.rs", "//! A.\nfn f() { unsafe { g() } }\n"), 1);
        assert_eq!(found("crates/cli/src/main.rs", "//! unsafe\nfn f() { g(\"unsafe\") }\n"), 0);
        assert_eq!(found("crates/engine/src/store.rs", "unsafe impl Send for A {}\n"), 1);
        assert_eq!(found("crates/engine/src/func.rs", "    pub unsafe fn a() {}\n"), 0);
        assert_eq!(found("crates/engine/src/func.rs", "    pub unsafe fn a() { unsafe { b() } }\n    unsafe { b() }\n"), 1);
        assert_eq!(found("crates/cli/src/commands/run.rs", "unsafe { a() }\n"), 0);
        assert_eq!(found("crates/cli/src/commands/run.rs", "unsafe { a() }\nunsafe { b() }\n"), 2);
        assert_eq!(found("crates/engine/src/vm/call.rs", "unsafe impl Send for A {}\n"), 0);
        assert_eq!(found("crates/sys/src/linux/pages.rs", "unsafe {}\n"), 0);
        assert_eq!(found("crates/wasm/src/lib.rs", "//! A.\n"), 1);
        assert_eq!(found("crates/wasm/src/lib.rs", "//! A.\n#![forbid(unsafe_code)]\n"), 0);
        assert_eq!(found("crates/wasm/src/lib.rs", "//! #![forbid(unsafe_code)]\n"), 1);
    }
}
