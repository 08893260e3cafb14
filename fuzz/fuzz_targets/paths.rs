//! Whatever a guest does with names, nothing outside of the directory that it was given is read or changed: `cargo +nightly fuzz run paths`.
#![no_main]

#[path = "../../crates/wasi/tests/guest/mod.rs"]
mod guest;

use guest::*;
use peregrine_wasi::p1::table::Function;
use std::fs;

const SECRET: &[u8] = b"what lies outside";

/// Pieces that names are made of, besides what the fuzzer says.
const PIECES: [&str; 12] = ["a", "b", "..", ".", "/", "//", "a/", "/..", "../secret", "b/../..", "\u{e9}", "/dev/null"];

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn name(&mut self) -> Vec<u8> {
        let mut name = Vec::new();
        for _ in 0..self.byte() % 6 {
            match usize::from(self.byte()) {
                piece if piece < 192 => name.extend_from_slice(PIECES[piece % PIECES.len()].as_bytes()),
                other => name.push(other as u8),
            }
        }
        name
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut guest = Guest::new();
    let outside = guest.scratch.path().join("secret");
    fs::write(&outside, SECRET).expect("a file");
    let mut directories = vec![DIR];
    while !input.0.is_empty() {
        let directory = directories[usize::from(input.byte()) % directories.len()];
        let (dir, choice) = (u64::from(directory), input.byte());
        let (name, other) = (input.name(), input.name());
        let (at, len) = guest.put_path(&name);
        let (at2, len2) = guest.put_path2(&other);
        match choice % 9 {
            0 => drop(guest.try_call(Function::path_create_directory, &[dir, at, len])),
            // The old name first: what the link says.
            1 => drop(guest.try_call(Function::path_symlink, &[at2, len2, dir, at, len])),
            2 => drop(guest.try_call(Function::path_rename, &[dir, at, len, DIR.into(), at2, len2])),
            3 => drop(guest.try_call(Function::path_link, &[dir, u64::from(choice >> 4 & 1), at, len, DIR.into(), at2, len2])),
            4 => drop(guest.try_call(Function::path_unlink_file, &[dir, at, len])),
            5 => drop(guest.try_call(Function::path_remove_directory, &[dir, at, len])),
            6 => drop(guest.try_call(Function::path_filestat_get, &[dir, 1, at, len, OUT.into()])),
            7 => {
                if let Ok(fd) = guest.open_with(directory, u32::from(choice >> 4 & 1), &name, DIRECTORY, READ, 0)
                    && directories.len() < 8
                {
                    directories.push(fd);
                }
            }
            _ => {
                let flags = u32::from(choice >> 4) & (CREAT | EXCL | TRUNC);
                if let Ok(fd) = guest.open_with(directory, 1, &name, flags, RW, 0) {
                    if let Ok(content) = guest.read(fd, 64) {
                        assert!(!content.starts_with(b"what"), "a file outside was read");
                    }
                    let _ = guest.write(fd, b"mine");
                    let _ = guest.try_call(Function::fd_close, &[fd.into()]);
                }
            }
        }
    }
    assert_eq!(fs::read(&outside).expect("it is there"), SECRET);
    let mut names: Vec<_> =
        fs::read_dir(guest.scratch.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["root", "secret"]);
});
