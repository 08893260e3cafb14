//! The `path_*` functions: right use, wrong use, permissions, trailing slashes.

mod guest;

use guest::*;
use peregrine_wasi::p1::Errno;
use peregrine_wasi::p1::table::Function;
use peregrine_wasi::{DirPerms, FilePerms};

const END: u64 = MEMORY_LEN as u64;
const FOLLOW: u32 = 1;

#[test]
fn files_are_created_opened_and_cut() {
    let mut guest = Guest::new();
    assert_eq!(guest.open("file", 0, READ), Err(Errno::Noent));
    let fd = guest.open("file", CREAT | EXCL, RW).unwrap();
    assert_eq!(guest.write(fd, b"contents"), Ok(8));
    assert_eq!(guest.open("file", CREAT | EXCL, RW), Err(Errno::Exist));
    let again = guest.open("file", CREAT, READ).unwrap();
    assert_eq!(guest.read(again, 8), Ok(b"contents".to_vec()));
    let cut = guest.open("file", TRUNC, 0).unwrap();
    assert_eq!(guest.fd_stat(cut).unwrap().size, 0);
    assert_eq!(guest.open("file", DIRECTORY, READ), Err(Errno::Notdir));
    assert_eq!(guest.open("file/x", 0, READ), Err(Errno::Notdir));
    assert_eq!(guest.open("new", DIRECTORY | CREAT, READ), Err(Errno::Inval));
    assert_eq!(guest.open("new", DIRECTORY | TRUNC, READ), Err(Errno::Inval));
    for oflags in [16, 0x1_0001, u32::MAX] {
        assert_eq!(guest.open("file", oflags, READ), Err(Errno::Inval));
    }
    assert_eq!(guest.open_with(DIR, 2, "file", 0, READ, 0), Err(Errno::Inval));
    assert_eq!(guest.open_with(99, 0, "file", 0, READ, 0), Err(Errno::Badf));
}

#[test]
fn directories_are_opened() {
    let mut guest = Guest::new();
    guest.mkdir("dir").unwrap();
    guest.create("dir/file", b"x");
    let dir = guest.open("dir", DIRECTORY, RW).unwrap();
    assert_eq!(guest.fdstat(dir).unwrap().0, 3);
    let file = guest.open_with(dir, 0, "file", 0, READ, 0).unwrap();
    assert_eq!(guest.read(file, 2), Ok(b"x".to_vec()));
    let implicit = guest.open("dir", 0, READ).unwrap();
    assert_eq!(guest.fdstat(implicit).unwrap().0, 3);
    assert_eq!(guest.open("dir", 0, RW), Err(Errno::Isdir));
    assert_eq!(guest.open("dir", CREAT, READ), Err(Errno::Isdir));
    assert_eq!(guest.open_with(dir, 0, "../dir", 0, READ, 0), Err(Errno::Perm), "a directory keeps below itself");
}

/// Calls every function that takes a path, with one path, in the granted directory.
fn every_path_function(guest: &mut Guest, path: &[u8]) -> Vec<(&'static str, Result<(), Errno>)> {
    vec![
        ("open", guest.open(path, 0, READ).map(|_| ())),
        ("create", guest.open(path, CREAT, RW).map(|_| ())),
        ("directory", guest.open(path, DIRECTORY, READ).map(|_| ())),
        ("stat", guest.stat(path, 0).map(|_| ())),
        ("stat following", guest.stat(path, FOLLOW).map(|_| ())),
        ("times", guest.set_times(path, 0, 5, 5, 5)),
        ("times following", guest.set_times(path, FOLLOW, 5, 5, 5)),
        ("mkdir", guest.mkdir(path)),
        ("rmdir", guest.rmdir(path)),
        ("unlink", guest.unlink(path)),
        ("readlink", guest.readlink(path, 10).map(|_| ())),
        ("symlink", guest.symlink("target", path)),
        ("link from", guest.link(path, "somewhere")),
        ("link to", guest.link("present", path)),
        ("rename from", guest.rename(path, "somewhere")),
        ("rename to", guest.rename("present", path)),
    ]
}

#[test]
fn malformed_paths_are_refused_by_every_function() {
    let mut guest = Guest::new();
    guest.create("present", b"");
    let long = vec![b'a'; 5000];
    let long_name = vec![b'a'; 300];
    let deep = "d/".repeat(2047);
    let cases: &[(&[u8], Errno)] = &[
        (b"", Errno::Noent),
        (b"/", Errno::Perm),
        (b"/etc/passwd", Errno::Perm),
        (b"//x", Errno::Perm),
        (b"a\0b", Errno::Inval),
        (b"\0", Errno::Inval),
        (b"present\0", Errno::Inval),
        (b"\xff\xfe", Errno::Ilseq),
        (b"a/\xc0\x80", Errno::Ilseq),
        (b"..", Errno::Perm),
        (b"../", Errno::Perm),
        (b"../x", Errno::Perm),
        (b"./../x", Errno::Perm),
        (b"../root/present", Errno::Perm),
        (&long, Errno::Nametoolong),
        (&long_name, Errno::Nametoolong),
        (deep.as_bytes(), Errno::Noent),
    ];
    for (path, errno) in cases {
        for (function, result) in every_path_function(&mut guest, path) {
            assert_eq!(result, Err(*errno), "{function} {:?}", String::from_utf8_lossy(&path[..path.len().min(20)]));
        }
    }
    assert_eq!(tree(guest.scratch.path()).len(), 2);
}

#[test]
fn paths_out_of_the_memory_are_faults() {
    let mut guest = Guest::new();
    let one = [Function::path_create_directory, Function::path_remove_directory, Function::path_unlink_file];
    for (ptr, len) in [(END, 1), (END - 1, 2), (0, END + 1), (u64::from(u32::MAX), u64::from(u32::MAX)), (PATH.into(), 0x8000_0000)] {
        for function in one {
            assert_eq!(guest.call(function, &[DIR.into(), ptr, len]), Errno::Fault);
        }
        let dir = u64::from(DIR);
        let (good, good_len) = guest.put_path2(b"x");
        assert_eq!(guest.call(Function::path_open, &[dir, 0, ptr, len, 1, 0, 0, 0, OUT.into()]), Errno::Fault);
        assert_eq!(guest.call(Function::path_filestat_get, &[dir, 0, ptr, len, OUT.into()]), Errno::Fault);
        assert_eq!(guest.call(Function::path_filestat_set_times, &[dir, 0, ptr, len, 0, 0, 0]), Errno::Fault);
        assert_eq!(guest.call(Function::path_readlink, &[dir, ptr, len, BUF.into(), 10, OUT.into()]), Errno::Fault);
        assert_eq!(guest.call(Function::path_link, &[dir, 0, ptr, len, dir, good, good_len]), Errno::Fault);
        assert_eq!(guest.call(Function::path_link, &[dir, 0, good, good_len, dir, ptr, len]), Errno::Fault);
        assert_eq!(guest.call(Function::path_rename, &[dir, ptr, len, dir, good, good_len]), Errno::Fault);
        assert_eq!(guest.call(Function::path_rename, &[dir, good, good_len, dir, ptr, len]), Errno::Fault);
        assert_eq!(guest.call(Function::path_symlink, &[ptr, len, dir, good, good_len]), Errno::Fault);
        assert_eq!(guest.call(Function::path_symlink, &[good, good_len, dir, ptr, len]), Errno::Fault);
    }
    // Results out of bounds: nothing has happened.
    let (path, len) = guest.put_path(b"made");
    assert_eq!(guest.call(Function::path_open, &[DIR.into(), 0, path, len, 1, 0, 0, 0, END - 3]), Errno::Fault);
    assert!(!guest.host("made").exists());
    guest.symlink("x", "link").unwrap();
    let (path, len) = guest.put_path(b"link");
    assert_eq!(guest.call(Function::path_readlink, &[DIR.into(), path, len, END - 3, 4, OUT.into()]), Errno::Fault);
    assert_eq!(guest.call(Function::path_readlink, &[DIR.into(), path, len, BUF.into(), 4, END - 3]), Errno::Fault);
    assert_eq!(guest.call(Function::path_filestat_get, &[DIR.into(), 0, path, len, END - 63]), Errno::Fault);
    assert_eq!(guest.call(Function::path_create_directory, &[99, path, len]), Errno::Badf);
}

#[test]
fn stat_tells_links_and_what_they_lead_to() {
    let mut guest = Guest::new();
    guest.create("file", b"12345");
    guest.mkdir("dir").unwrap();
    guest.symlink("file", "link").unwrap();
    guest.symlink("../file", "dir/up").unwrap();
    guest.symlink("dir", "to-dir").unwrap();
    let file = guest.stat("file", 0).unwrap();
    assert_eq!((file.filetype, file.size, file.nlink), (4, 5, 1));
    assert_eq!(guest.stat("file", FOLLOW), Ok(file));
    assert_eq!(guest.stat("./file", 0), Ok(file));
    assert_eq!(guest.stat("dir/../file", 0), Ok(file));
    assert_eq!(guest.stat("dir/.//./../dir/up", FOLLOW), Ok(file));
    assert_eq!(guest.stat("link", 0).unwrap().filetype, 7);
    assert_eq!(guest.stat("link", FOLLOW), Ok(file));
    assert_eq!(guest.stat("to-dir/up", 0).unwrap().filetype, 7);
    assert_eq!(guest.stat("to-dir/up", FOLLOW), Ok(file));
    assert_eq!(guest.stat(".", 0).unwrap().filetype, 3);
    assert_eq!(guest.stat("dir/..", 0), guest.stat(".", 0));
    assert_eq!(guest.stat("to-dir/", 0).unwrap().filetype, 3);
    assert_eq!(guest.stat("file/", 0), Err(Errno::Notdir));
    assert_eq!(guest.stat("link/", 0), Err(Errno::Notdir));
    assert_eq!(guest.stat("missing", 0), Err(Errno::Noent));
    assert_eq!(guest.stat("missing/", FOLLOW), Err(Errno::Noent));
    assert_eq!(guest.stat("file", 2), Err(Errno::Inval));
    assert_eq!(guest.stat_at(99, "file", 0), Err(Errno::Badf));
}

#[test]
fn times_are_set_on_links_and_what_they_lead_to() {
    let mut guest = Guest::new();
    guest.create("file", b"");
    guest.symlink("file", "link").unwrap();
    guest.set_times("link", 0, 11_000_000_001, 12_000_000_002, 5).unwrap();
    let link = guest.stat("link", 0).unwrap();
    assert_eq!((link.atim, link.mtim), (11_000_000_001, 12_000_000_002));
    assert!(guest.stat("file", 0).unwrap().mtim > 12_000_000_002);
    guest.set_times("link", FOLLOW, 1, 2, 5).unwrap();
    let file = guest.stat("file", 0).unwrap();
    assert_eq!((file.atim, file.mtim), (1, 2));
    guest.set_times("./file", 0, 3, 4, 4).unwrap();
    let file = guest.stat("file", 0).unwrap();
    assert_eq!((file.atim, file.mtim), (1, 4));
    guest.set_times("file", 0, 0, 0, 10).unwrap();
    assert!(guest.stat("file", 0).unwrap().mtim > 1_000_000_000_000_000_000);
    for flags in [3, 12, 16] {
        assert_eq!(guest.set_times("file", 0, 0, 0, flags), Err(Errno::Inval));
    }
    assert_eq!(guest.set_times("missing", 0, 0, 0, 5), Err(Errno::Noent));
    assert_eq!(guest.set_times("file/", 0, 0, 0, 5), Err(Errno::Notdir));
}

#[test]
fn directories_are_made_and_removed() {
    let mut guest = Guest::new();
    assert_eq!(guest.mkdir("dir"), Ok(()));
    assert_eq!(guest.mkdir("dir"), Err(Errno::Exist));
    assert_eq!(guest.mkdir("dir/"), Err(Errno::Exist));
    assert_eq!(guest.mkdir("dir/sub/"), Ok(()));
    assert_eq!(guest.mkdir("dir/sub2//"), Ok(()));
    assert_eq!(guest.mkdir("missing/x"), Err(Errno::Noent));
    assert_eq!(guest.mkdir("."), Err(Errno::Exist));
    assert_eq!(guest.mkdir("dir/.."), Err(Errno::Exist));
    assert_eq!(guest.rmdir("dir"), Err(Errno::Notempty));
    assert_eq!(guest.rmdir("dir/sub/"), Ok(()));
    assert_eq!(guest.rmdir("dir/sub2"), Ok(()));
    assert_eq!(guest.rmdir("."), Err(Errno::Inval));
    assert_eq!(guest.rmdir("dir/."), Err(Errno::Inval));
    guest.create("file", b"");
    assert_eq!(guest.rmdir("file"), Err(Errno::Notdir));
    assert_eq!(guest.rmdir("file/"), Err(Errno::Notdir));
    guest.symlink("dir", "link").unwrap();
    assert_eq!(guest.rmdir("link"), Err(Errno::Notdir));
    assert_eq!(guest.rmdir("link/"), Err(Errno::Notdir));
    assert_eq!(guest.rmdir("dir"), Ok(()));
    assert_eq!(guest.rmdir("dir"), Err(Errno::Noent));
    assert_eq!(guest.mkdir("link"), Err(Errno::Exist));
}

#[test]
fn files_are_unlinked() {
    let mut guest = Guest::new();
    guest.create("file", b"");
    guest.mkdir("dir").unwrap();
    guest.symlink("file", "link").unwrap();
    guest.symlink("dir", "dirlink").unwrap();
    assert_eq!(guest.unlink("dir"), Err(Errno::Isdir));
    assert_eq!(guest.unlink("dir/"), Err(Errno::Isdir));
    assert_eq!(guest.unlink("."), Err(Errno::Isdir));
    assert_eq!(guest.unlink("file/"), Err(Errno::Notdir));
    assert_eq!(guest.unlink("link/"), Err(Errno::Notdir));
    assert_eq!(guest.unlink("dirlink/"), Err(Errno::Notdir));
    assert_eq!(guest.unlink("link"), Ok(()));
    assert_eq!(guest.unlink("dirlink"), Ok(()));
    assert_eq!(guest.unlink("dir/../file"), Ok(()));
    assert_eq!(guest.unlink("file"), Err(Errno::Noent));
    assert!(guest.host("dir").exists());
}

#[test]
fn renames() {
    let mut guest = Guest::new();
    guest.create("file", b"a");
    guest.create("other", b"b");
    guest.mkdir("dir").unwrap();
    guest.mkdir("empty").unwrap();
    assert_eq!(guest.rename("file", "dir/moved"), Ok(()));
    assert_eq!(guest.rename("dir/moved", "other"), Ok(()));
    assert_eq!(std::fs::read(guest.host("other")).unwrap(), b"a");
    assert_eq!(guest.rename("missing", "x"), Err(Errno::Noent));
    assert_eq!(guest.rename("other", "dir"), Err(Errno::Isdir));
    assert_eq!(guest.rename("dir", "other"), Err(Errno::Notdir));
    assert_eq!(guest.rename("other/", "x"), Err(Errno::Notdir));
    assert_eq!(guest.rename("other", "x/"), Err(Errno::Notdir));
    assert_eq!(guest.rename("empty/", "renamed/"), Ok(()));
    assert_eq!(guest.rename("renamed", "dir"), Ok(()));
    assert_eq!(guest.rename("dir", "dir/sub"), Err(Errno::Inval));
    assert_eq!(guest.rename(".", "x"), Err(Errno::Busy));
    assert_eq!(guest.rename("other", "dir/."), Err(Errno::Busy));
    guest.symlink("other", "link").unwrap();
    assert_eq!(guest.rename("link", "link2"), Ok(()));
    assert_eq!(guest.readlink("link2", 10), Ok(b"other".to_vec()));
    assert_eq!(guest.rename("link2/", "link3"), Err(Errno::Notdir));
    assert_eq!(guest.rename_at(99, "other", DIR, "x"), Err(Errno::Badf));
    assert_eq!(guest.rename_at(DIR, "other", 99, "x"), Err(Errno::Badf));
    assert_eq!(guest.rename_at(DIR, "other", 1, "x"), Err(Errno::Notdir));
}

#[test]
fn links() {
    let mut guest = Guest::new();
    guest.create("file", b"");
    guest.mkdir("dir").unwrap();
    assert_eq!(guest.link("file", "link"), Ok(()));
    assert_eq!(guest.stat("link", 0), guest.stat("file", 0));
    assert_eq!(guest.stat("link", 0).unwrap().nlink, 2);
    assert_eq!(guest.link("file", "dir/link"), Ok(()));
    assert_eq!(guest.link("file", "link"), Err(Errno::Exist));
    assert_eq!(guest.link("file", "file"), Err(Errno::Exist));
    assert_eq!(guest.link("file", "dir"), Err(Errno::Exist));
    assert_eq!(guest.link("file", "dir/."), Err(Errno::Exist));
    assert_eq!(guest.link("file", "new/"), Err(Errno::Noent));
    assert_eq!(guest.link("file/", "new"), Err(Errno::Notdir));
    assert_eq!(guest.link("dir", "new"), Err(Errno::Perm));
    assert_eq!(guest.link("dir/", "new"), Err(Errno::Perm));
    assert_eq!(guest.link(".", "new"), Err(Errno::Perm));
    assert_eq!(guest.link("missing", "new"), Err(Errno::Noent));
    guest.symlink("nowhere", "dangling").unwrap();
    assert_eq!(guest.link("dangling", "copy"), Ok(()));
    assert_eq!(guest.readlink("copy", 10), Ok(b"nowhere".to_vec()));
    assert_eq!(guest.link("file", "dangling"), Err(Errno::Exist));
    assert_eq!(guest.link_at(DIR, FOLLOW, "dangling", DIR, "new"), Err(Errno::Inval));
    assert_eq!(guest.link_at(DIR, 2, "file", DIR, "new"), Err(Errno::Inval));
    assert_eq!(guest.link_at(99, 0, "file", DIR, "new"), Err(Errno::Badf));
    assert_eq!(guest.link_at(DIR, 0, "file", 99, "new"), Err(Errno::Badf));
}

#[test]
fn symbolic_links() {
    let mut guest = Guest::new();
    guest.create("file", b"");
    guest.mkdir("dir").unwrap();
    assert_eq!(guest.symlink("target", "link"), Ok(()));
    assert_eq!(guest.readlink("link", 100), Ok(b"target".to_vec()));
    assert_eq!(guest.readlink("link", 3), Ok(b"tar".to_vec()));
    assert_eq!(guest.readlink("link", 0), Ok(vec![]));
    assert_eq!(guest.readlink("./link", 100), Ok(b"target".to_vec()));
    assert_eq!(guest.readlink("file", 10), Err(Errno::Inval));
    assert_eq!(guest.readlink("dir", 10), Err(Errno::Inval));
    assert_eq!(guest.readlink("dir/", 10), Err(Errno::Inval));
    assert_eq!(guest.readlink(".", 10), Err(Errno::Inval));
    assert_eq!(guest.readlink("file/", 10), Err(Errno::Notdir));
    assert_eq!(guest.readlink("link/", 10), Err(Errno::Noent));
    assert_eq!(guest.readlink("missing", 10), Err(Errno::Noent));
    assert_eq!(guest.symlink("x", "link"), Err(Errno::Exist));
    assert_eq!(guest.symlink("x", "new/"), Err(Errno::Noent));
    assert_eq!(guest.symlink("x", "dir/"), Err(Errno::Exist));
    assert_eq!(guest.symlink("x", "."), Err(Errno::Exist));
    assert_eq!(guest.symlink("", "new"), Err(Errno::Noent));
    assert_eq!(guest.symlink("/etc/passwd", "new"), Err(Errno::Perm));
    assert_eq!(guest.symlink("/", "new"), Err(Errno::Perm));
    assert_eq!(guest.symlink("a\0", "new"), Err(Errno::Inval));
    assert_eq!(guest.symlink("../../anywhere", "dir/out"), Ok(()));
    assert_eq!(guest.readlink("dir/out", 100), Ok(b"../../anywhere".to_vec()));
    // The buffer may lie over the path.
    let (ptr, len) = guest.put_path(b"link");
    assert_eq!(guest.call(Function::path_readlink, &[DIR.into(), ptr, len, ptr, 100, OUT.into()]), Errno::Success);
    assert_eq!(guest.bytes(PATH, 6), b"target");
}

#[test]
fn a_read_only_grant_refuses_every_change() {
    for (dir, file) in [(DirPerms::READ, FilePerms::READ), (DirPerms::READ, FilePerms::all())] {
        let other = tempfile::tempdir().unwrap();
        let mut guest = Guest::with(dir, file, |builder| {
            builder.preopened_dir(other.path(), "other", DirPerms::all(), FilePerms::all()).unwrap();
        });
        std::fs::write(guest.host("file"), "contents").unwrap();
        std::fs::create_dir(guest.host("dir")).unwrap();
        std::os::unix::fs::symlink("file", guest.host("link")).unwrap();
        std::fs::write(other.path().join("mine"), "mine").unwrap();
        let before = tree(guest.scratch.path());
        let fd = guest.open("file", 0, READ).unwrap();
        assert_eq!(guest.read(fd, 8), Ok(b"contents".to_vec()));
        assert_eq!(guest.open("dir", DIRECTORY, READ).map(|_| ()), Ok(()));
        assert_eq!(guest.stat("file", 0).unwrap().size, 8);
        assert_eq!(guest.readlink("link", 10), Ok(b"file".to_vec()));
        for path in ["file", "link", "./file", "dir/../file"] {
            assert_eq!(guest.open(path, TRUNC, READ), Err(Errno::Perm));
            assert_eq!(guest.open(path, TRUNC, 0), Err(Errno::Perm));
            assert_eq!(guest.open(path, CREAT, READ), Err(Errno::Perm));
            assert_eq!(guest.open(path, CREAT | TRUNC | EXCL, RW), Err(Errno::Perm));
            assert_eq!(guest.unlink(path), Err(Errno::Perm));
            assert_eq!(guest.set_times(path, 0, 0, 0, 5), Err(Errno::Perm));
            assert_eq!(guest.set_times(path, FOLLOW, 0, 0, 10), Err(Errno::Perm));
            assert_eq!(guest.rename(path, "new"), Err(Errno::Perm));
            assert_eq!(guest.rename_at(DIR, path, 4, "new"), Err(Errno::Perm));
            assert_eq!(guest.link(path, "new"), Err(Errno::Perm));
            assert_eq!(guest.link_at(DIR, 0, path, 4, "new"), Err(Errno::Perm));
        }
        assert_eq!(guest.open("new", CREAT, READ), Err(Errno::Perm));
        assert_eq!(guest.mkdir("new"), Err(Errno::Perm));
        assert_eq!(guest.rmdir("dir"), Err(Errno::Perm));
        assert_eq!(guest.symlink("x", "new"), Err(Errno::Perm));
        assert_eq!(guest.rename_at(4, "mine", DIR, "new"), Err(Errno::Perm));
        assert_eq!(guest.link_at(4, 0, "mine", DIR, "new"), Err(Errno::Perm));
        assert_eq!(guest.call(Function::fd_filestat_set_times, &[DIR.into(), 0, 0, 5]), Errno::Perm);
        if file == FilePerms::READ {
            assert_eq!(guest.open("file", 0, WRITE), Err(Errno::Perm));
            assert_eq!(guest.open("file", 0, RW), Err(Errno::Perm));
            assert_eq!(guest.call(Function::fd_filestat_set_times, &[fd.into(), 0, 0, 5]), Errno::Perm);
        } else {
            assert_eq!(guest.open("file", 0, RW).map(|_| ()), Ok(()));
        }
        let sub = guest.open("dir", DIRECTORY, RW).unwrap();
        assert_eq!(guest.open_with(sub, 0, "new", CREAT, RW, 0), Err(Errno::Perm), "what is below inherits");
        assert_eq!(tree(guest.scratch.path()), before);
    }
}

#[test]
fn a_file_that_may_only_be_read_cannot_be_moved_to_where_it_may_be_written() {
    let other = tempfile::tempdir().unwrap();
    let mut guest = Guest::with(DirPerms::all(), FilePerms::READ, |builder| {
        builder.preopened_dir(other.path(), "other", DirPerms::all(), FilePerms::all()).unwrap();
    });
    std::fs::write(guest.host("file"), "contents").unwrap();
    assert_eq!(guest.link_at(DIR, 0, "file", 4, "file"), Err(Errno::Perm));
    assert_eq!(guest.rename_at(DIR, "file", 4, "file"), Err(Errno::Perm));
    assert_eq!(guest.rename("file", "renamed"), Ok(()));
    guest.put(PATH, b"x");
    std::fs::write(other.path().join("mine"), "").unwrap();
    assert_eq!(guest.rename_at(4, "mine", DIR, "given"), Ok(()));
}

#[test]
fn a_grant_that_is_missing_is_explained() {
    let mut builder = peregrine_wasi::WasiCtxBuilder::new();
    let error = builder.preopened_dir("/no/such/directory", "data", DirPerms::READ, FilePerms::READ).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot open directory '/no/such/directory' for the guest's 'data': no such file or directory");
}
