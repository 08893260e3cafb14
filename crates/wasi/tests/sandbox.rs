//! Attempts to get out of a granted directory: links of every kind, generated paths, and links that are swapped while a path is resolved.
//! A tree outside the grant stands as a sentinel: nothing in it may change, be opened or be described.

mod guest;

use guest::*;
use peregrine_wasi::p1::Errno;
use peregrine_wasi::p1::table::Function;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const FOLLOW: u32 = 1;
const SECRET: &[u8] = b"outside contents";

/// Builds the tree outside the grant.
fn build_outside(guest: &Guest) {
    let outside = guest.scratch.path().join("outside");
    std::fs::create_dir_all(outside.join("dir/sub")).unwrap();
    std::fs::create_dir_all(outside.join("empty")).unwrap();
    for file in ["secret", "dir/secret", "dir/sub/secret", "file"] {
        std::fs::write(outside.join(file), SECRET).unwrap();
    }
    symlink("secret", outside.join("link")).unwrap();
}

/// Builds the tree inside the grant, anew.
fn build_inside(guest: &Guest) {
    let root = guest.host("");
    let outside = guest.scratch.path().join("outside");
    for entry in std::fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() || !path.is_dir() { std::fs::remove_file(path).unwrap() } else { std::fs::remove_dir_all(path).unwrap() }
    }
    std::fs::create_dir_all(root.join("dir/sub")).unwrap();
    for file in ["file", "dir/file", "dir/sub/file"] {
        std::fs::write(root.join(file), "inside").unwrap();
    }
    let links: &[(&str, &str)] = &[
        ("../outside", "up"),
        ("../outside/", "up-slash"),
        ("../outside/secret", "up-file"),
        ("../outside/created", "up-dangling"),
        ("../outside/created/", "up-dangling-slash"),
        ("../../outside", "dir/up"),
        ("../up", "dir/chain"),
        ("dir/chain", "chain"),
        ("chain/", "chain-slash"),
        ("..", "parent"),
        ("parent/outside", "through-parent"),
        ("dir/../../outside/secret", "zigzag"),
        ("loop", "loop"),
        ("loop-b", "loop-a"),
        ("loop-a", "loop-b"),
        ("dir", "inner"),
        ("dir/sub/../file", "inner-file"),
        ("dir/", "inner-slash"),
        ("nowhere", "dangling"),
        (".", "self"),
        ("/proc/self/root", "magic"),
        ("/proc/self/cwd", "magic-cwd"),
        ("/dev/null", "null"),
    ];
    for (target, name) in links {
        symlink(target, root.join(name)).unwrap();
    }
    symlink(&outside, root.join("absolute")).unwrap();
    symlink(outside.join("secret"), root.join("absolute-file")).unwrap();
    symlink(outside.join("created"), root.join("absolute-dangling")).unwrap();
}

/// The files outside, by device and number.
fn outside_files(guest: &Guest) -> HashSet<(u64, u64)> {
    let mut files = HashSet::new();
    let mut pending = vec![guest.scratch.path().join("outside")];
    for root in [guest.scratch.path(), std::path::Path::new("/"), std::path::Path::new("/dev/null")] {
        let metadata = std::fs::metadata(root).unwrap();
        files.insert((metadata.dev(), metadata.ino()));
    }
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        files.insert((metadata.dev(), metadata.ino()));
        if metadata.is_dir() {
            pending.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    files
}

#[test]
fn links_do_not_lead_out() {
    let mut guest = Guest::new();
    build_outside(&guest);
    build_inside(&guest);
    let before = tree(&guest.scratch.path().join("outside"));
    let leaving = [
        "up/secret",
        "up-slash/secret",
        "up-slash",
        "up-file",
        "up-dangling",
        "up-dangling-slash",
        "dir/up/secret",
        "chain/secret",
        "chain",
        "chain-slash",
        "chain-slash/dir/",
        "parent",
        "parent/",
        "parent/outside/secret",
        "through-parent/secret",
        "zigzag",
        "absolute",
        "absolute/",
        "absolute/secret",
        "absolute-file",
        "absolute-dangling",
        "magic",
        "magic/etc",
        "null",
        "inner/../../outside/secret",
        "self/../outside",
        "dir/sub/../../../outside/secret",
    ];
    for path in leaving {
        for oflags in [0, CREAT, TRUNC, CREAT | TRUNC, DIRECTORY] {
            for rights in [READ, RW] {
                let opened = guest.open(path, oflags, rights);
                // A path or a link's target that ends in a slash is refused before it is walked, if it shall be created.
                let refused = matches!(opened, Err(Errno::Perm)) || oflags & CREAT != 0 && opened == Err(Errno::Isdir);
                assert!(refused, "{path} {oflags} {rights}: {opened:?}");
            }
        }
        assert_eq!(guest.stat(path, FOLLOW), Err(Errno::Perm), "{path}");
        assert_eq!(guest.set_times(path, FOLLOW, 1, 1, 5), Err(Errno::Perm), "{path}");
        let beyond = format!("{path}/x");
        for result in [
            guest.mkdir(&beyond),
            guest.rmdir(&beyond),
            guest.unlink(&beyond),
            guest.symlink("x", &beyond),
            guest.readlink(&beyond, 10).map(|_| ()),
            guest.rename("file", &beyond),
            guest.rename(&beyond, "new"),
            guest.link("file", &beyond),
            guest.link(&beyond, "new"),
        ] {
            assert_eq!(result, Err(Errno::Perm), "{beyond}");
        }
    }
    for path in ["loop", "loop-a", "loop/x", "loop-b/"] {
        assert_eq!(guest.open(path, 0, READ), Err(Errno::Loop));
        assert_eq!(guest.stat(path, FOLLOW), Err(Errno::Loop));
    }
    // Links are not followed unless that is asked for.
    for path in ["up", "up-file", "absolute-file", "inner", "loop", "dangling"] {
        assert_eq!(guest.open_with(DIR, 0, path, 0, READ, 0), Err(Errno::Loop), "{path}");
        assert_eq!(guest.open_with(DIR, 0, path, CREAT, RW, 0), Err(Errno::Loop), "{path}");
        assert_eq!(guest.stat(path, 0).unwrap().filetype, 7);
    }
    assert_eq!(guest.open("up-file", CREAT | EXCL, RW), Err(Errno::Exist));
    // Within the grant they are.
    assert_eq!(guest.open("inner/sub/file", 0, READ).and_then(|fd| guest.read(fd, 9)), Ok(b"inside".to_vec()));
    assert_eq!(guest.open("inner-slash/file", 0, READ).and_then(|fd| guest.read(fd, 9)), Ok(b"inside".to_vec()));
    assert_eq!(guest.open("inner-file", 0, READ).and_then(|fd| guest.read(fd, 9)), Ok(b"inside".to_vec()));
    assert_eq!(guest.open("dangling", CREAT, RW).map(|_| ()), Ok(()));
    assert!(guest.host("nowhere").exists());
    // Working on a link itself does nothing to what it leads to.
    guest.set_times("up-file", 0, 1, 1, 5).unwrap();
    guest.rename("up-file", "up-renamed").unwrap();
    guest.link("up", "up-too").unwrap();
    guest.unlink("up-renamed").unwrap();
    guest.unlink("absolute").unwrap();
    assert_eq!(tree(&guest.scratch.path().join("outside")), before);
}

#[test]
fn links_that_a_guest_makes_do_not_lead_out() {
    let mut guest = Guest::new();
    build_outside(&guest);
    guest.mkdir("a").unwrap();
    guest.symlink("../../outside", "a/out").unwrap();
    guest.symlink("a/out", "out").unwrap();
    guest.symlink("..", "a/up").unwrap();
    assert_eq!(guest.open("out/secret", 0, READ), Err(Errno::Perm));
    assert_eq!(guest.open("a/out/secret", 0, READ), Err(Errno::Perm));
    assert_eq!(guest.open("a/up/../outside/secret", 0, READ), Err(Errno::Perm));
    // A directory that moves takes its links with it: `..` then leads elsewhere, but never out.
    guest.rename("a/up", "up").unwrap();
    assert_eq!(guest.open("up/outside/secret", 0, READ), Err(Errno::Perm));
    // Below a directory that was opened, even what lies within the grant is out.
    let a = guest.open("a", DIRECTORY, READ).unwrap();
    guest.create("file", b"");
    guest.symlink("../file", "a/sideways").unwrap();
    assert_eq!(guest.open_with(a, FOLLOW, "sideways", 0, READ, 0), Err(Errno::Perm));
    assert_eq!(guest.stat_at(a, "sideways", FOLLOW), Err(Errno::Perm));
}

/// A path from the grammar.
fn generate(numbers: &mut Numbers) -> String {
    const NAMES: &[&str] = &[
        ".",
        "..",
        "..",
        "file",
        "dir",
        "sub",
        "up",
        "up-slash",
        "up-file",
        "up-dangling",
        "chain",
        "chain-slash",
        "parent",
        "zigzag",
        "loop",
        "loop-a",
        "inner",
        "inner-file",
        "inner-slash",
        "dangling",
        "self",
        "magic",
        "null",
        "absolute",
        "absolute-file",
        "absolute-dangling",
        "outside",
        "secret",
        "new",
        "new-2",
        "",
    ];
    // Half of the paths start within the grant, so that many operations succeed.
    const WITHIN: &[&str] = &["", "./", "dir/", "dir/sub/", "dir/../", "self/", "inner/", "inner/sub/..//", "inner-slash/sub/"];
    if numbers.below(2) == 0 {
        let prefix = numbers.pick(WITHIN);
        let name = numbers.pick(&["file", "new", "new-2", "new-3", "new/x", "dir", "sub", "up", "loop", "link/..", ".", "..", "new/"]);
        return format!("{prefix}{name}");
    }
    let mut path = String::new();
    if numbers.below(40) == 0 {
        path.push('/');
    }
    let count = 1 + numbers.below(6);
    for at in 0..count {
        if at > 0 {
            path.push_str(numbers.pick(&["/", "/", "/", "//"]));
        }
        path.push_str(numbers.pick(NAMES));
    }
    if numbers.below(4) == 0 {
        path.push_str(numbers.pick(&["/", "//", "/.", "/..", "/./"]));
    }
    if numbers.below(200) == 0 {
        path.push('\0');
    }
    path
}

/// Does one random thing with random paths. What it opens or describes must lie inside. Gives back what was done and whether it succeeded.
fn act(guest: &mut Guest, numbers: &mut Numbers, dirs: &mut Vec<u32>, outside: &HashSet<(u64, u64)>) -> (usize, bool) {
    let (path, second) = (generate(numbers), generate(numbers));
    let (dir, other) = (dirs[numbers.below(dirs.len())], dirs[numbers.below(dirs.len())]);
    let lookup = numbers.below(2) as u32;
    let (ptr2, len2) = guest.put_path2(second.as_bytes());
    let (ptr, len) = guest.put_path(path.as_bytes());
    let d = u64::from(dir);
    let action = numbers.below(ACTIONS);
    let result = match action {
        0 => {
            let oflags = numbers.below(16) as u32;
            let rights = [0, READ, WRITE, RW, u64::MAX][numbers.below(5)];
            guest.open_with(dir, lookup, &path, oflags, rights, 0).map(|fd| {
                let stat = guest.fd_stat(fd).unwrap();
                assert!(!outside.contains(&(stat.dev, stat.ino)), "{path:?} opened something outside");
                if stat.filetype == 3 && dirs.len() < 8 {
                    dirs.push(fd);
                    return;
                }
                let _ = guest.write(fd, b"written by the guest");
                guest.close(fd).unwrap();
            })
        }
        1 => guest.stat_at(dir, &path, lookup).map(|stat| {
            assert!(!outside.contains(&(stat.dev, stat.ino)), "{path:?} described something outside");
        }),
        2 => guest.try_call(Function::path_filestat_set_times, &[d, lookup.into(), ptr, len, 7, 7, 5]),
        3 => guest.try_call(Function::path_create_directory, &[d, ptr, len]),
        4 => guest.try_call(Function::path_remove_directory, &[d, ptr, len]),
        5 => guest.try_call(Function::path_unlink_file, &[d, ptr, len]),
        6 => guest.try_call(Function::path_symlink, &[ptr2, len2, d, ptr, len]),
        7 => guest.try_call(Function::path_link, &[d, 0, ptr, len, other.into(), ptr2, len2]),
        8 => guest.try_call(Function::path_rename, &[d, ptr, len, other.into(), ptr2, len2]),
        _ => guest.try_call(Function::path_readlink, &[d, ptr, len, BUF.into(), 100, OUT.into()]),
    };
    (action, result.is_ok())
}

/// The functions that take a path.
const ACTIONS: usize = 10;

#[test]
fn generated_paths_do_not_lead_out() {
    let mut guest = Guest::new();
    build_outside(&guest);
    let outside = guest.scratch.path().join("outside");
    let (before, files) = (tree(&outside), outside_files(&guest));
    let mut succeeded = [0; ACTIONS];
    for batch in 0..60 {
        build_inside(&guest);
        let mut numbers = Numbers::new(batch + 1);
        let mut dirs = vec![DIR];
        for _ in 0..150 {
            let (action, done) = act(&mut guest, &mut numbers, &mut dirs, &files);
            succeeded[action] += u32::from(done);
        }
        for fd in dirs.drain(1..) {
            guest.close(fd).unwrap();
        }
        assert_eq!(tree(&outside), before, "batch {batch} changed something outside");
        assert_eq!(std::fs::read_dir(guest.scratch.path()).unwrap().count(), 2, "batch {batch} made something beside the grant");
    }
    println!("succeeded: {succeeded:?}");
    assert!(succeeded.iter().all(|&count| count > 10), "{succeeded:?}");
}

/// How many attacks there are in a race, and how many swaps of names meanwhile, at least.
const ROUNDS: usize = 4000;
/// After this, what is waited for does not happen. It ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// Swaps names as fast as it can while `attack` runs, many times each, and on until it says that it has met both names: a busy machine may let
/// only one of the two threads run for long.
fn race(guest: &mut Guest, swap: impl Fn() + Sync, mut attack: impl FnMut(&mut Guest) -> bool) {
    /// Ends the swapping, also when the attack panics.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                swap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = Stop(&stop);
        let start = Instant::now();
        let (mut attacks, mut met_both) = (0, false);
        while !met_both || attacks < ROUNDS || swaps.load(Ordering::Relaxed) < ROUNDS {
            met_both = attack(guest);
            attacks += 1;
            assert!(start.elapsed() < PATIENCE, "{attacks} attacks, {swaps:?} swaps, met both: {met_both}");
        }
    });
}

#[test]
fn a_directory_swapped_for_a_link_does_not_lead_out() {
    let mut guest = Guest::new();
    build_outside(&guest);
    let (real, link) = (guest.host("swap"), guest.host("swapped"));
    std::fs::create_dir_all(real.join("dir")).unwrap();
    std::fs::write(real.join("secret"), "inside").unwrap();
    std::fs::write(real.join("dir/secret"), "inside").unwrap();
    std::fs::write(guest.host("mine"), "mine").unwrap();
    symlink("../outside", &link).unwrap();
    let outside = guest.scratch.path().join("outside");
    let (before, files) = (tree(&outside), outside_files(&guest));
    let mut numbers = Numbers::new(7);
    let mut seen = HashSet::new();
    let swap = || renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    race(&mut guest, swap, |guest| {
        let path =
            numbers.pick(&["swap/secret", "swap/dir/secret", "swap/dir/../secret", "swap/../swap/secret", "swap/./dir/../../swap/secret"]);
        match guest.open(path, [0, CREAT][numbers.below(2)], READ) {
            Ok(fd) => {
                assert_eq!(guest.read(fd, 20), Ok(b"inside".to_vec()), "{path}");
                seen.insert(Errno::Success);
                guest.close(fd).unwrap();
            }
            Err(errno) => drop(seen.insert(errno)),
        }
        if let Ok(stat) = guest.stat(path, FOLLOW) {
            assert!(!files.contains(&(stat.dev, stat.ino)), "{path}");
        }
        let _ = guest.set_times(path, FOLLOW, 7, 7, 5);
        let _ = guest.mkdir("swap/made");
        let _ = guest.rmdir("swap/made");
        let _ = guest.symlink("x", "swap/link-made");
        let _ = guest.unlink("swap/link-made");
        let _ = guest.unlink("swap/file");
        let _ = guest.rmdir("swap/empty");
        let _ = guest.link("mine", "swap/linked");
        let _ = guest.unlink("swap/linked");
        let _ = guest.rename("mine", "swap/renamed");
        let _ = guest.rename("swap/renamed", "mine");
        let _ = guest.open("swap/file", TRUNC, RW).map(|fd| guest.close(fd));
        seen.contains(&Errno::Success) && seen.contains(&Errno::Perm)
    });
    assert_eq!(tree(&outside), before);
    assert!(seen.contains(&Errno::Success) && seen.contains(&Errno::Perm), "the race took place: {seen:?}");
}

#[test]
fn a_file_swapped_for_a_link_does_not_lead_out() {
    let mut guest = Guest::new();
    build_outside(&guest);
    let (real, link) = (guest.host("file"), guest.host("other"));
    std::fs::write(&real, "inside").unwrap();
    symlink("../outside/secret", &link).unwrap();
    let outside = guest.scratch.path().join("outside");
    let (before, files) = (tree(&outside), outside_files(&guest));
    let mut numbers = Numbers::new(9);
    let swap = || renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    race(&mut guest, swap, |guest| {
        for lookup in [0, FOLLOW] {
            if let Ok(stat) = guest.stat("file", lookup) {
                assert!(!files.contains(&(stat.dev, stat.ino)));
            }
            let _ = guest.set_times("file", lookup, 7, 7, 5);
            let oflags = [0, CREAT, TRUNC, CREAT | TRUNC][numbers.below(4)];
            if let Ok(fd) = guest.open_with(DIR, lookup, "file", oflags, RW, 0) {
                let stat = guest.fd_stat(fd).unwrap();
                assert!(!files.contains(&(stat.dev, stat.ino)));
                let _ = guest.write(fd, b"guest");
                guest.close(fd).unwrap();
            }
        }
        true
    });
    assert_eq!(tree(&outside), before);
}

#[test]
fn a_directory_that_is_moved_out_does_not_lead_further() {
    let mut guest = Guest::new();
    build_outside(&guest);
    std::fs::create_dir_all(guest.host("a/b/c")).unwrap();
    std::fs::write(guest.host("secret"), "inside").unwrap();
    let (inside, moved) = (guest.host("a/b"), guest.scratch.path().join("outside/dir/moved"));
    let files = outside_files(&guest);
    let swap = || {
        std::fs::rename(&inside, &moved).unwrap();
        std::fs::rename(&moved, &inside).unwrap();
    };
    race(&mut guest, swap, |guest| {
        for path in ["a/b/c/../../../secret", "a/b/c/../../secret", "a/b/../../secret", "a/b/../secret"] {
            if let Ok(fd) = guest.open(path, 0, READ) {
                assert_eq!(guest.read(fd, 20), Ok(b"inside".to_vec()), "{path}");
                guest.close(fd).unwrap();
            }
            if let Ok(stat) = guest.stat(path, FOLLOW) {
                assert!(!files.contains(&(stat.dev, stat.ino)), "{path}");
            }
        }
        true
    });
}
