//! The cache on disk, in a directory of its own.

use crate::peregrine::{guest, peregrine};
use std::path::{Path, PathBuf};

/// How many bytes the cache in `dir` has, by the command.
fn size(dir: &str) -> u64 {
    let finished = peregrine(["cache", "-C", &format!("cache-dir={dir}"), "size"]).finish().code(0);
    finished.stdout.trim().parse().expect("a number")
}

#[test]
fn modules_are_kept_and_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    // Under stress nothing is kept.
    let (text, flag) = (path.display().to_string(), format!("strategy=tiered,cache-dir={}", path.display()));
    let hello = guest("hello.wat").display().to_string();

    peregrine(["-C", &flag, &hello]).finish().code(0).stdout("hello\n");
    let first = size(&text);
    assert!(first > 0);
    peregrine(["-C", &flag, &hello]).finish().code(0).stdout("hello\n");
    assert_eq!(size(&text), first);
    // Other settings are another entry.
    peregrine(["-C", &flag, "-O", "opt-level=0", &hello]).finish().code(0).stdout("hello\n");
    assert!(size(&text) > first);

    let place = format!("cache-dir={text}");
    peregrine(["cache", "-C", &place, "clear"]).finish().code(0);
    assert_eq!(size(&text), 0);
    peregrine(["cache", "-C", &place, "path"]).finish().code(0).stdout(&format!("{text}\n"));
}

#[test]
fn damaged_entries_are_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let flag = format!("strategy=tiered,cache-dir={}", path.display());
    let hello = guest("hello.wat").display().to_string();
    peregrine(["-C", &flag, &hello]).finish().code(0);
    let mut damaged = 0;
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap().path();
        let mut bytes = std::fs::read(&entry).unwrap();
        if entry.extension().is_some_and(|extension| extension == "pgn") {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&entry, &bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    peregrine(["-C", &flag, &hello]).finish().code(0).stdout("hello\n");
}

#[test]
fn the_cache_can_be_off_and_is_never_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let hello = guest("hello.wat").display().to_string();
    peregrine(["-C", &format!("cache=n,cache-dir={}", path.display()), &hello]).finish().code(0).stdout("hello\n");
    assert!(!path.exists());
    // A directory that was asked for and cannot be one is an error; the default one is not.
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    peregrine(["-C", &format!("cache-dir={}", file.display()), &hello]).finish().code(1).complains("cache");
    peregrine([&hello]).env("XDG_CACHE_HOME", &file).env("HOME", &file).finish().code(0).stdout("hello\n");
}

#[test]
fn images_leave_the_cache_alone() {
    let guest = guest("hello.wat").display().to_string();
    let command = peregrine(["run", "hello.pgn"]).after(peregrine(["compile", &guest]));
    let cache = command.dir.path().join("cache");
    assert!(!cache.exists(), "`compile` writes to the place that it is told");
    let finished = command.finish().code(0).stdout("hello\n");
    let modules = walk(&finished.dir.path().join("cache")).into_iter().filter(|path| path.extension().is_some_and(|end| end == "pgn"));
    assert_eq!(modules.count(), 0, "what is compiled already is not kept once more");
}

/// All files below `dir`.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn what_ran_is_kept_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let options = format!("strategy=tiered,cache-dir={}", path.display());
    let numbers = guest("numbers.wat").display().to_string();
    let add = || peregrine(["-C", &options, "--invoke", "add", &numbers, "1", "2"]).finish().code(0).stdout("3\n");
    add();
    let entry = walk(&path).into_iter().find(|path| path.extension().is_some_and(|end| end == "pgn"));
    let entry = entry.expect("an entry").display().to_string();
    peregrine(["inspect", &entry]).finish().code(0).says("baseline").says("relocations");
    add();
    // It is no program by itself: it lacks what did not run.
    peregrine(["run", "--invoke", "add", &entry, "1", "2"]).finish().code(1).stdout("").complains("lacks the code of functions");
}
