//! The `fd_*` functions: right use, wrong use, rights.

mod guest;

use guest::*;
use peregrine_wasi::host::error::Error;
use peregrine_wasi::host::stdio::{Input, InputStream, Output, OutputStream};
use peregrine_wasi::p1::Errno;
use peregrine_wasi::p1::table::Function;
use peregrine_wasi::p1::types::Rights;
use peregrine_wasi::{DirPerms, FilePerms, MemoryInputPipe};
use std::sync::{Arc, Mutex};

const END: u64 = MEMORY_LEN as u64;
const BAD_FD: u64 = 99;

fn seek(guest: &mut Guest, fd: u32, offset: i64, whence: u64) -> Result<u64, Errno> {
    guest.try_call(Function::fd_seek, &[fd.into(), offset as u64, whence, OUT.into()])?;
    Ok(guest.u64(OUT))
}

fn tell(guest: &mut Guest, fd: u32) -> Result<u64, Errno> {
    guest.try_call(Function::fd_tell, &[fd.into(), OUT.into()])?;
    Ok(guest.u64(OUT))
}

#[test]
fn reads_and_writes_move_the_position() {
    let mut guest = Guest::new();
    let fd = guest.open("file", CREAT, RW).unwrap();
    assert_eq!(fd, 4);
    assert_eq!(guest.write(fd, b"hello world"), Ok(11));
    assert_eq!(tell(&mut guest, fd), Ok(11));
    assert_eq!(guest.read(fd, 10), Ok(vec![]));
    assert_eq!(seek(&mut guest, fd, 6, 0), Ok(6));
    assert_eq!(guest.read(fd, 3), Ok(b"wor".to_vec()));
    assert_eq!(seek(&mut guest, fd, -2, 1), Ok(7));
    assert_eq!(seek(&mut guest, fd, -1, 2), Ok(10));
    assert_eq!(guest.read(fd, 100), Ok(b"d".to_vec()));
    assert_eq!(seek(&mut guest, fd, 0, 1), Ok(11));
    assert_eq!(seek(&mut guest, fd, -1, 0), Err(Errno::Inval));
    assert_eq!(seek(&mut guest, fd, -100, 1), Err(Errno::Inval));
    assert_eq!(seek(&mut guest, fd, i64::MIN, 2), Err(Errno::Inval));
    assert_eq!(seek(&mut guest, fd, 0, 3), Err(Errno::Inval));
    assert_eq!(guest.call(Function::fd_seek, &[fd.into(), 0, 0, END - 7]), Errno::Fault);
    assert_eq!(guest.call(Function::fd_tell, &[fd.into(), END - 7]), Errno::Fault);
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"hello world");
}

#[test]
fn positioned_reads_and_writes_leave_the_position() {
    let mut guest = Guest::new();
    guest.create("file", b"0123456789");
    let fd = guest.open("file", 0, RW).unwrap();
    guest.put_iovs(&[(BUF, 2), (BUF + 100, 3)]);
    assert_eq!(guest.call(Function::fd_pread, &[fd.into(), IOVS.into(), 2, 4, OUT.into()]), Errno::Success);
    assert_eq!((guest.u32(OUT), guest.bytes(BUF, 2), guest.bytes(BUF + 100, 3)), (5, &b"45"[..], &b"678"[..]));
    assert_eq!(guest.call(Function::fd_pwrite, &[fd.into(), IOVS.into(), 2, 0, OUT.into()]), Errno::Success);
    assert_eq!(tell(&mut guest, fd), Ok(0));
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"4567856789");
    for function in [Function::fd_pread, Function::fd_pwrite] {
        assert_eq!(guest.call(function, &[fd.into(), IOVS.into(), 1, u64::MAX, OUT.into()]), Errno::Inval);
        assert_eq!(guest.call(function, &[BAD_FD, IOVS.into(), 1, 0, OUT.into()]), Errno::Badf);
        assert_eq!(guest.call(function, &[fd.into(), END - 4, 1, 0, OUT.into()]), Errno::Fault);
        assert_eq!(guest.call(function, &[fd.into(), IOVS.into(), 1, 0, END - 3]), Errno::Fault);
        assert_eq!(
            guest.call(function, &[0, IOVS.into(), 1, 0, OUT.into()]),
            if function == Function::fd_pread { Errno::Spipe } else { Errno::Badf }
        );
    }
}

#[test]
fn lists_of_buffers_are_checked_before_anything_is_moved() {
    let mut guest = Guest::new();
    guest.create("file", b"0123456789");
    let fd = guest.open("file", 0, RW).unwrap();
    let bad: &[&[(u32, u32)]] = &[
        &[(BUF, 1), (MEMORY_LEN - 1, 2)],
        &[(BUF, u32::MAX), (BUF, 1)],
        &[(u32::MAX, 1), (BUF, 1)],
        &[(u32::MAX, u32::MAX), (BUF, 1)],
        &[(BUF, 0x8000_0000), (BUF, 1)],
        &[(MEMORY_LEN + 1, 0), (BUF, 1)],
    ];
    for function in [Function::fd_read, Function::fd_write] {
        for iovs in bad {
            guest.put_iovs(iovs);
            for count in [iovs.len() as u64, 1].into_iter().filter(|&count| count > 1 || iovs[0] != (BUF, 1)) {
                assert_eq!(guest.call(function, &[fd.into(), IOVS.into(), count, OUT.into()]), Errno::Fault, "{function:?} {iovs:?}");
            }
        }
        guest.put_iovs(&[(BUF, 1)]);
        for (iovs, count) in [(END - 7, 1), (END, 1), (u64::from(u32::MAX), 1), (IOVS.into(), u64::from(u32::MAX)), (END - 8, 2)] {
            assert_eq!(guest.call(function, &[fd.into(), iovs, count, OUT.into()]), Errno::Fault, "{function:?} {iovs} {count}");
        }
        for out in [END - 3, END, u64::from(u32::MAX)] {
            assert_eq!(guest.call(function, &[fd.into(), IOVS.into(), 1, out]), Errno::Fault);
        }
        assert_eq!(guest.call(function, &[fd.into(), IOVS.into(), 0, OUT.into()]), Errno::Success);
        assert_eq!(guest.u32(OUT), 0);
        // An empty buffer may lie at the very end.
        guest.put_iovs(&[(MEMORY_LEN, 0), (MEMORY_LEN, 0)]);
        assert_eq!(guest.call(function, &[fd.into(), IOVS.into(), 2, OUT.into()]), Errno::Success);
    }
    assert_eq!(tell(&mut guest, fd), Ok(0));
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"0123456789");
}

#[test]
fn buffers_may_overlap_each_other_the_list_and_the_result() {
    let mut guest = Guest::new();
    guest.create("file", b"0123456789");
    let fd = guest.open("file", 0, READ).unwrap();
    guest.put_iovs(&[(BUF, 4), (BUF + 2, 4)]);
    assert_eq!(guest.call(Function::fd_read, &[fd.into(), IOVS.into(), 2, OUT.into()]), Errno::Success);
    assert_eq!((guest.u32(OUT), guest.bytes(BUF, 4)), (4, &b"0123"[..]));
    // Out of order: later bytes of the file go to lower addresses.
    guest.put_iovs(&[(BUF + 8, 2), (BUF, 2)]);
    assert_eq!(guest.call(Function::fd_read, &[fd.into(), IOVS.into(), 2, OUT.into()]), Errno::Success);
    assert_eq!((guest.bytes(BUF + 8, 2), guest.bytes(BUF, 2)), (&b"45"[..], &b"67"[..]));
    // Into the list itself and over the count.
    guest.put_iovs(&[(IOVS, 2)]);
    assert_eq!(guest.call(Function::fd_read, &[fd.into(), IOVS.into(), 1, IOVS.into()]), Errno::Success);
    assert_eq!(guest.u32(IOVS), 2);
    // More buffers than the system takes at once: a short read.
    for at in 0..2000_u32 {
        guest.put(BUF + at * 8, &(BUF * 2 + at).to_le_bytes());
        guest.put(BUF + at * 8 + 4, &1_u32.to_le_bytes());
    }
    guest.create("long", &[7; 2000]);
    for at in 0..2000_u32 {
        guest.put(BUF + at * 8, &(BUF * 2 + at).to_le_bytes());
        guest.put(BUF + at * 8 + 4, &1_u32.to_le_bytes());
    }
    let long = guest.open("long", 0, READ).unwrap();
    assert_eq!(guest.call(Function::fd_read, &[long.into(), BUF.into(), 2000, OUT.into()]), Errno::Success);
    assert_eq!(guest.u32(OUT), 1024);
}

#[test]
fn access_modes_are_rights() {
    let mut guest = Guest::new();
    guest.create("file", b"x");
    let read = guest.open("file", 0, READ).unwrap();
    let write = guest.open("file", 0, WRITE).unwrap();
    let neither = guest.open("file", 0, 0).unwrap();
    assert_eq!(guest.write(read, b"y"), Err(Errno::Badf));
    assert_eq!(guest.read(write, 1), Err(Errno::Badf));
    assert_eq!(guest.read(neither, 1), Ok(b"x".to_vec()));
    let (kind, flags, base, _) = guest.fdstat(read).unwrap();
    assert_eq!((kind, flags), (4, 0));
    assert!(base.contains(Rights::FD_READ | Rights::FD_SEEK | Rights::FD_TELL) && !base.intersects(Rights::NEEDS_WRITE));
    let (_, _, base, _) = guest.fdstat(write).unwrap();
    assert!(base.contains(Rights::NEEDS_WRITE) && !base.contains(Rights::FD_READ));
    assert_eq!(guest.call(Function::fd_filestat_set_size, &[read.into(), 0]), Errno::Notcapable);
    assert_eq!(guest.call(Function::fd_allocate, &[read.into(), 0, 10]), Errno::Notcapable);
    let (kind, flags, base, inheriting) = guest.fdstat(DIR).unwrap();
    assert_eq!((kind, flags, base), (3, 0, Rights::DIRECTORY));
    assert_eq!(inheriting, Rights::DIRECTORY | Rights::FILE);
    assert_eq!(guest.fdstat(99), Err(Errno::Badf));
    assert_eq!(guest.call(Function::fd_fdstat_get, &[DIR.into(), END - 23]), Errno::Fault);
}

#[test]
fn rights_can_only_be_taken_away() {
    let mut guest = Guest::new();
    guest.create("file", b"x");
    let fd = guest.open("file", 0, RW).unwrap();
    let (_, _, base, inheriting) = guest.fdstat(fd).unwrap();
    let less = base - Rights::FD_READ - Rights::FD_SEEK;
    assert_eq!(guest.call(Function::fd_fdstat_set_rights, &[fd.into(), less.bits(), inheriting.bits()]), Errno::Success);
    assert_eq!(guest.fdstat(fd).unwrap().2, less);
    assert_eq!(guest.read(fd, 1), Err(Errno::Badf));
    assert_eq!(seek(&mut guest, fd, 1, 0), Err(Errno::Notcapable));
    assert_eq!(seek(&mut guest, fd, 0, 1), Ok(0));
    assert_eq!(guest.call(Function::fd_fdstat_set_rights, &[fd.into(), base.bits(), 0]), Errno::Notcapable);
    assert_eq!(guest.call(Function::fd_fdstat_set_rights, &[fd.into(), 0, u64::MAX]), Errno::Notcapable);
    assert_eq!(guest.call(Function::fd_fdstat_set_rights, &[fd.into(), 1 << 40, 0]), Errno::Notcapable);
    assert_eq!(guest.call(Function::fd_fdstat_set_rights, &[BAD_FD, 0, 0]), Errno::Badf);
    assert_eq!(guest.fdstat(fd).unwrap().2, less);

    // What a directory no longer passes on cannot be had below it.
    let (_, _, base, inheriting) = guest.fdstat(DIR).unwrap();
    let (base, inheriting) = (base - Rights::PATH_CREATE_FILE - Rights::PATH_FILESTAT_SET_SIZE, inheriting - Rights::FD_WRITE);
    assert_eq!(guest.call(Function::fd_fdstat_set_rights, &[DIR.into(), base.bits(), inheriting.bits()]), Errno::Success);
    assert_eq!(guest.open("file", 0, WRITE), Err(Errno::Notcapable));
    assert_eq!(guest.open("new", CREAT, READ), Err(Errno::Notcapable));
    assert_eq!(guest.open("file", TRUNC, READ), Err(Errno::Notcapable));
    let fd = guest.open(".", DIRECTORY, 0).unwrap();
    assert_eq!(guest.open_with(fd, 0, "file", 0, WRITE, 0), Err(Errno::Notcapable));
    let narrow = base - Rights::PATH_OPEN - Rights::FD_READDIR - Rights::PATH_FILESTAT_GET;
    assert_eq!(guest.call(Function::fd_fdstat_set_rights, &[DIR.into(), narrow.bits(), inheriting.bits()]), Errno::Success);
    assert_eq!(guest.open("file", 0, READ), Err(Errno::Notcapable));
    assert_eq!(guest.stat("file", 0), Err(Errno::Notcapable));
    assert_eq!(guest.call(Function::fd_readdir, &[DIR.into(), BUF.into(), 100, 0, OUT.into()]), Errno::Notcapable);
}

#[test]
fn a_directory_is_no_file() {
    let mut guest = Guest::new();
    let fd = u64::from(DIR);
    assert_eq!(guest.read(DIR, 1), Err(Errno::Badf));
    assert_eq!(guest.write(DIR, b"x"), Err(Errno::Badf));
    guest.put_iovs(&[(BUF, 1)]);
    assert_eq!(guest.call(Function::fd_pread, &[fd, IOVS.into(), 1, 0, OUT.into()]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_pwrite, &[fd, IOVS.into(), 1, 0, OUT.into()]), Errno::Badf);
    for whence in 0..3 {
        assert_eq!(seek(&mut guest, DIR, 0, whence), Err(Errno::Badf));
    }
    assert_eq!(tell(&mut guest, DIR), Err(Errno::Badf));
    assert_eq!(guest.call(Function::fd_advise, &[fd, 0, 0, 4]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_allocate, &[fd, 0, 1]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_filestat_set_size, &[fd, 0]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[fd, 4]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_sync, &[fd]), Errno::Success);
    assert_eq!(guest.call(Function::fd_datasync, &[fd]), Errno::Success);
    guest.create("file", b"");
    let file = guest.open("file", 0, RW).unwrap();
    assert_eq!(guest.open_with(file, 0, "x", 0, READ, 0), Err(Errno::Notdir));
    assert_eq!(guest.stat_at(file, "x", 0), Err(Errno::Notdir));
    assert_eq!(guest.call(Function::fd_readdir, &[file.into(), BUF.into(), 100, 0, OUT.into()]), Errno::Notdir);
}

#[test]
fn flags_of_an_open_file() {
    let mut guest = Guest::new();
    const APPEND: u32 = 1;
    const NONBLOCK: u32 = 4;
    const SYNC: u32 = 16;
    let fd = guest.open_with(DIR, 0, "file", CREAT, RW, APPEND | SYNC).unwrap();
    assert_eq!(guest.fdstat(fd).unwrap().1, (APPEND | SYNC) as u16);
    assert_eq!(guest.write(fd, b"abc"), Ok(3));
    assert_eq!(seek(&mut guest, fd, 0, 0), Ok(0));
    assert_eq!(guest.write(fd, b"def"), Ok(3));
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[fd.into(), 0]), Errno::Inval);
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[fd.into(), SYNC.into()]), Errno::Success);
    assert_eq!(seek(&mut guest, fd, 0, 0), Ok(0));
    assert_eq!(guest.write(fd, b"X"), Ok(1));
    assert_eq!(guest.fdstat(fd).unwrap().1, SYNC as u16);
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[fd.into(), (SYNC | NONBLOCK).into()]), Errno::Success);
    assert_eq!(guest.fdstat(fd).unwrap().1, (SYNC | NONBLOCK) as u16);
    for flags in [32, 0x1_0000, u64::from(u32::MAX)] {
        assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[fd.into(), flags]), Errno::Inval);
    }
    assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[BAD_FD, 0]), Errno::Badf);
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"Xbcdef");
    assert_eq!(guest.open_with(DIR, 0, "file", 0, RW, 32), Err(Errno::Inval));
}

#[test]
fn sizes_space_and_advice() {
    let mut guest = Guest::new();
    let fd = guest.open("file", CREAT, RW).unwrap();
    assert_eq!(guest.call(Function::fd_filestat_set_size, &[fd.into(), 1000]), Errno::Success);
    assert_eq!(guest.fd_stat(fd).unwrap().size, 1000);
    assert_eq!(guest.call(Function::fd_filestat_set_size, &[fd.into(), u64::MAX]), Errno::Fbig);
    assert_eq!(guest.call(Function::fd_filestat_set_size, &[BAD_FD, 0]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_allocate, &[fd.into(), 900, 200]), Errno::Success);
    assert_eq!(guest.fd_stat(fd).unwrap().size, 1100);
    assert_eq!(guest.call(Function::fd_allocate, &[fd.into(), 0, 0]), Errno::Inval);
    assert_eq!(guest.call(Function::fd_allocate, &[fd.into(), u64::MAX, 2]), Errno::Fbig);
    assert_eq!(guest.call(Function::fd_allocate, &[fd.into(), 1 << 62, 1 << 62]), Errno::Fbig);
    assert_eq!(guest.call(Function::fd_allocate, &[BAD_FD, 0, 1]), Errno::Badf);
    for advice in 0..6 {
        assert_eq!(guest.call(Function::fd_advise, &[fd.into(), 10, 50, advice]), Errno::Success);
        assert_eq!(guest.call(Function::fd_advise, &[fd.into(), 0, 0, advice]), Errno::Success);
    }
    assert_eq!(guest.call(Function::fd_advise, &[fd.into(), 0, 0, 6]), Errno::Inval);
    assert_eq!(guest.call(Function::fd_advise, &[fd.into(), u64::MAX, 0, 0]), Errno::Inval);
    assert_eq!(guest.call(Function::fd_advise, &[BAD_FD, 0, 0, 0]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_advise, &[0, 0, 0, 0]), Errno::Spipe);
    assert_eq!(guest.call(Function::fd_sync, &[fd.into()]), Errno::Success);
    assert_eq!(guest.call(Function::fd_datasync, &[fd.into()]), Errno::Success);
    assert_eq!(guest.call(Function::fd_sync, &[BAD_FD]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_datasync, &[BAD_FD]), Errno::Badf);
}

#[test]
fn times_of_open_files() {
    let mut guest = Guest::new();
    let fd = guest.open("file", CREAT, RW).unwrap();
    assert_eq!(guest.call(Function::fd_filestat_set_times, &[fd.into(), 1_500_000_001, 7, 1 | 4]), Errno::Success);
    let stat = guest.fd_stat(fd).unwrap();
    assert_eq!((stat.atim, stat.mtim, stat.filetype, stat.nlink), (1_500_000_001, 7, 4, 1));
    assert_eq!(guest.call(Function::fd_filestat_set_times, &[fd.into(), 99, 99, 0]), Errno::Success);
    assert_eq!(guest.fd_stat(fd).unwrap().atim, 1_500_000_001);
    assert_eq!(guest.call(Function::fd_filestat_set_times, &[fd.into(), 0, 0, 2 | 8]), Errno::Success);
    assert!(guest.fd_stat(fd).unwrap().mtim > 1_000_000_000_000_000_000);
    for flags in [3, 12, 16, 0xffff_ffff] {
        assert_eq!(guest.call(Function::fd_filestat_set_times, &[fd.into(), 1, 1, flags]), Errno::Inval);
    }
    assert_eq!(guest.call(Function::fd_filestat_set_times, &[BAD_FD, 0, 0, 0]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_filestat_set_times, &[DIR.into(), 0, 42, 4]), Errno::Success);
    assert_eq!(guest.fd_stat(DIR).unwrap().mtim, 42);
    assert_eq!(guest.fd_stat(99), Err(Errno::Badf));
    assert_eq!(guest.call(Function::fd_filestat_get, &[fd.into(), END - 63]), Errno::Fault);
    assert_eq!(guest.fd_stat(0).unwrap().filetype, 0);
}

#[test]
fn grants_are_told_by_number() {
    let other = tempfile::tempdir().unwrap();
    let mut guest = Guest::with(DirPerms::all(), FilePerms::all(), |builder| {
        builder.preopened_dir(other.path(), "/other", DirPerms::all(), FilePerms::all()).unwrap();
    });
    assert_eq!(guest.call(Function::fd_prestat_get, &[4, OUT.into()]), Errno::Success);
    assert_eq!((guest.u32(OUT), guest.u32(OUT + 4)), (0, 6));
    assert_eq!(guest.call(Function::fd_prestat_dir_name, &[4, BUF.into(), 6]), Errno::Success);
    assert_eq!(guest.bytes(BUF, 6), b"/other");
    assert_eq!(guest.call(Function::fd_prestat_dir_name, &[4, BUF.into(), 7]), Errno::Success);
    for len in [0, 5] {
        assert_eq!(guest.call(Function::fd_prestat_dir_name, &[4, BUF.into(), len]), Errno::Nametoolong);
    }
    assert_eq!(guest.call(Function::fd_prestat_dir_name, &[4, END - 5, 6]), Errno::Fault);
    assert_eq!(guest.call(Function::fd_prestat_get, &[4, END - 7]), Errno::Fault);
    for fd in [0, 1, 5, u64::from(u32::MAX)] {
        assert_eq!(guest.call(Function::fd_prestat_get, &[fd, OUT.into()]), Errno::Badf);
        assert_eq!(guest.call(Function::fd_prestat_dir_name, &[fd, BUF.into(), 6]), Errno::Badf);
    }
    let opened = guest.open(".", DIRECTORY, 0).unwrap();
    assert_eq!(guest.call(Function::fd_prestat_get, &[opened.into(), OUT.into()]), Errno::Badf);
    assert_eq!(guest.close(4), Ok(()));
    assert_eq!(guest.call(Function::fd_prestat_get, &[4, OUT.into()]), Errno::Badf);
}

/// Lists a directory with a buffer of `len` bytes: names, kinds and numbers.
fn list(guest: &mut Guest, fd: u32, len: u32) -> Vec<(String, u8, u64)> {
    let (mut cookie, mut entries) = (0, Vec::new());
    loop {
        guest.try_call(Function::fd_readdir, &[fd.into(), BUF.into(), len.into(), cookie, OUT.into()]).unwrap();
        let used = guest.u32(OUT);
        assert!(used <= len);
        let mut at = 0;
        while at + 24 <= used {
            let name_len = guest.u32(BUF + at + 16);
            if at + 24 + name_len > used {
                break;
            }
            assert_eq!(guest.bytes(BUF + at + 21, 3), [0; 3], "padding is zero");
            let name = String::from_utf8(guest.bytes(BUF + at + 24, name_len).to_vec()).unwrap();
            entries.push((name, guest.memory[(BUF + at + 20) as usize], guest.u64(BUF + at + 8)));
            cookie = guest.u64(BUF + at);
            at += 24 + name_len;
        }
        if used < len {
            return entries;
        }
        assert!(at > 0, "a buffer of {len} bytes holds an entry");
    }
}

#[test]
fn directories_are_listed_with_any_buffer() {
    let mut guest = Guest::new();
    let empty = list(&mut guest, DIR, 4096);
    assert_eq!(empty.iter().map(|entry| (entry.0.as_str(), entry.1)).collect::<Vec<_>>(), [(".", 3), ("..", 3)]);
    let own = guest.fd_stat(DIR).unwrap().ino;
    assert_eq!((empty[0].2, empty[1].2), (own, own), "the number of the parent is not told");
    guest.create("file", b"");
    guest.mkdir("dir").unwrap();
    guest.symlink("file", "link").unwrap();
    for at in 0..500 {
        std::fs::write(guest.host(&format!("a-file-with-a-long-name-{at:04}")), "").unwrap();
    }
    let mut expect: Vec<String> = [".", "..", "file", "dir", "link"].map(str::to_owned).to_vec();
    expect.extend((0..500).map(|at| format!("a-file-with-a-long-name-{at:04}")));
    expect.sort();
    for len in [64, 100, 333, 4096, 65536] {
        let mut entries = list(&mut guest, DIR, len);
        entries.sort();
        assert_eq!(entries.iter().map(|entry| entry.0.clone()).collect::<Vec<_>>(), expect, "{len}");
        let kind = |name: &str| entries.iter().find(|entry| entry.0 == name).map(|entry| entry.1);
        assert_eq!((kind("file"), kind("dir"), kind("link")), (Some(4), Some(3), Some(7)));
    }
    let ino = guest.stat("file", 0).unwrap().ino;
    assert!(list(&mut guest, DIR, 4096).iter().any(|entry| entry.0 == "file" && entry.2 == ino));
}

#[test]
fn listing_with_wrong_operands() {
    let mut guest = Guest::new();
    guest.create("file", b"");
    // A buffer too small for an entry is filled with the piece that fits.
    for len in [1, 10, 24, 25] {
        assert_eq!(guest.call(Function::fd_readdir, &[DIR.into(), BUF.into(), len, 0, OUT.into()]), Errno::Success);
        assert_eq!(u64::from(guest.u32(OUT)), len);
    }
    assert_eq!(guest.call(Function::fd_readdir, &[DIR.into(), BUF.into(), 0, 0, OUT.into()]), Errno::Success);
    assert_eq!(guest.u32(OUT), 0);
    for cookie in [u64::MAX, 1 << 63] {
        assert_eq!(guest.call(Function::fd_readdir, &[DIR.into(), BUF.into(), 100, cookie, OUT.into()]), Errno::Inval);
    }
    // A cookie out of the air is harmless, whatever the file system makes of it.
    for cookie in [3, 1 << 40, i64::MAX as u64] {
        guest.call(Function::fd_readdir, &[DIR.into(), BUF.into(), 100, cookie, OUT.into()]);
    }
    assert_eq!(list(&mut guest, DIR, 4096).len(), 3);
    assert_eq!(guest.call(Function::fd_readdir, &[DIR.into(), END - 10, 11, 0, OUT.into()]), Errno::Fault);
    assert_eq!(guest.call(Function::fd_readdir, &[DIR.into(), BUF.into(), 0xffff_ffff, 0, OUT.into()]), Errno::Fault);
    assert_eq!(guest.call(Function::fd_readdir, &[DIR.into(), BUF.into(), 100, 0, END - 3]), Errno::Fault);
    assert_eq!(guest.call(Function::fd_readdir, &[BAD_FD, BUF.into(), 100, 0, OUT.into()]), Errno::Badf);
    // What is created while a listing is under way is seen by the next.
    assert_eq!(guest.call(Function::fd_readdir, &[DIR.into(), BUF.into(), 4096, 0, OUT.into()]), Errno::Success);
    guest.create("second", b"");
    assert_eq!(list(&mut guest, DIR, 4096).len(), 4);
}

#[test]
fn renumbering_is_atomic_and_closes_the_target() {
    let mut guest = Guest::new();
    guest.create("one", b"1");
    guest.create("two", b"2");
    let one = guest.open("one", 0, READ).unwrap();
    let two = guest.open("two", 0, READ).unwrap();
    let stat = guest.fdstat(one).unwrap();
    assert_eq!(guest.call(Function::fd_renumber, &[one.into(), two.into()]), Errno::Success);
    assert_eq!(guest.close(one), Err(Errno::Badf));
    assert_eq!(guest.fdstat(two), Ok(stat));
    assert_eq!(guest.read(two, 1), Ok(b"1".to_vec()));
    assert_eq!(guest.call(Function::fd_renumber, &[two.into(), one.into()]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_renumber, &[one.into(), two.into()]), Errno::Badf);
    assert_eq!(guest.call(Function::fd_renumber, &[two.into(), two.into()]), Errno::Success);
    assert_eq!(guest.call(Function::fd_renumber, &[two.into(), u64::from(u32::MAX)]), Errno::Badf);
    assert_eq!(guest.open("two", 0, READ), Ok(one));
    // Over a grant: the grant is gone.
    let dir = guest.open(".", DIRECTORY, 0).unwrap();
    assert_eq!(guest.call(Function::fd_renumber, &[dir.into(), DIR.into()]), Errno::Success);
    assert_eq!(guest.call(Function::fd_prestat_get, &[DIR.into(), OUT.into()]), Errno::Badf);
    assert_eq!(guest.open("two", 0, READ), Ok(dir));
}

#[test]
fn descriptors_are_limited() {
    let mut guest = Guest::with(DirPerms::all(), FilePerms::all(), |builder| {
        builder.max_open_fds(6);
    });
    guest.create("file", b"");
    let (a, b) = (guest.open("file", 0, READ), guest.open("file", 0, READ));
    assert_eq!((a, b), (Ok(4), Ok(5)));
    assert_eq!(guest.open("file", 0, READ), Err(Errno::Mfile));
    assert_eq!(guest.open("new", CREAT, READ), Err(Errno::Mfile));
    assert_eq!(guest.stat("new", 0), Err(Errno::Noent), "nothing is created when there is no number for it");
    assert_eq!(guest.close(0), Ok(()));
    assert_eq!(guest.open("file", 0, READ), Ok(0));
    assert_eq!(guest.close(99), Err(Errno::Badf));
    assert_eq!(guest.close(u32::MAX), Err(Errno::Badf));
}

#[test]
fn standard_streams_in_memory() {
    let (out, err) = (pipe(), peregrine_wasi::MemoryOutputPipe::new(5));
    let mut guest = Guest::bare(|builder| {
        builder.stdin(MemoryInputPipe::new("input")).stdout(out.clone()).stderr(err.clone());
    });
    assert_eq!(guest.read(0, 3), Ok(b"inp".to_vec()));
    assert_eq!(guest.read(0, 3), Ok(b"ut".to_vec()));
    assert_eq!(guest.read(0, 3), Ok(vec![]));
    assert_eq!(guest.write(1, b"some output"), Ok(11));
    guest.put_iovs(&[(BUF, 4), (BUF, 4)]);
    assert_eq!(guest.call(Function::fd_write, &[1, IOVS.into(), 2, OUT.into()]), Errno::Success);
    assert_eq!(out.contents(), b"some outputsomesome");
    assert_eq!(guest.write(2, b"123456789"), Ok(5));
    assert_eq!(guest.write(2, b"123456789"), Err(Errno::Nospc));
    assert_eq!(err.contents(), b"12345");
    assert_eq!(guest.write(0, b"x"), Err(Errno::Badf));
    assert_eq!(guest.read(1, 1), Err(Errno::Badf));
    assert_eq!(seek(&mut guest, 1, 0, 0), Err(Errno::Spipe));
    assert_eq!(guest.fdstat(1).unwrap().0, 0);
    assert_eq!(guest.open_with(1, 0, "x", 0, 0, 0), Err(Errno::Notdir));
}

#[test]
fn standard_streams_from_files_keep_their_kind() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let reopen = || std::fs::OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut guest = Guest::bare(|builder| {
        builder.stdin(null).stdout(reopen()).stderr(reopen());
    });
    assert_eq!(guest.write(1, b"hello"), Ok(5));
    assert_eq!(std::fs::read(file.path()).unwrap(), b"hello");
    assert_eq!(seek(&mut guest, 1, 0, 0), Ok(0));
    let (kind, _, rights, _) = guest.fdstat(1).unwrap();
    assert_eq!(kind, 4);
    assert!(rights.contains(Rights::FD_SEEK | Rights::FD_WRITE));
    assert_eq!(guest.call(Function::fd_filestat_set_size, &[1, 0]), Errno::Notcapable);
    assert_eq!(guest.call(Function::fd_filestat_set_times, &[1, 0, 0, 0]), Errno::Notcapable);
    let (kind, _, rights, _) = guest.fdstat(0).unwrap();
    assert_eq!(kind, 2);
    assert!(rights.contains(Rights::FD_SEEK), "no terminal");
    assert_eq!(guest.read(0, 1), Ok(vec![]));
}

#[test]
fn inherited_streams_stay_open_and_untouched() {
    let before = rustix_flags();
    {
        let mut guest = Guest::bare(|builder| {
            builder.inherit_stdio();
        });
        assert_eq!(guest.write(2, b""), Ok(0));
        let nonblock = guest.fdstat(2).unwrap().1 | 4;
        assert_eq!(guest.call(Function::fd_fdstat_set_flags, &[2, nonblock.into()]), Errno::Success);
        assert_eq!(guest.fdstat(2).unwrap().1, nonblock);
        for fd in 0..3 {
            assert_eq!(guest.close(fd), Ok(()));
        }
    }
    assert_eq!(rustix_flags(), before);
}

/// The status flags of this process's standard streams.
fn rustix_flags() -> Vec<String> {
    let flags = |fd| std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    (0..3).map(|fd| flags(fd).lines().filter(|line| line.starts_with("flags")).collect()).collect()
}

/// Takes three bytes at a time, and gives three until it fails.
#[derive(Clone, Default)]
struct ThreeAtATime(Arc<Mutex<Vec<u8>>>);

impl OutputStream for ThreeAtATime {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Error> {
        let count = buffer.len().min(3);
        self.0.lock().unwrap().extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl InputStream for ThreeAtATime {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut bytes = self.0.lock().unwrap();
        let count = buffer.len().min(3).min(bytes.len());
        if count == 0 {
            return Err(Error::NoSpace);
        }
        buffer[..count].copy_from_slice(&bytes[..count]);
        bytes.drain(..count);
        Ok(count)
    }
}

#[test]
fn what_an_embedders_stream_leaves_comes_next() {
    let (taken, given) = (ThreeAtATime::default(), ThreeAtATime(Arc::new(Mutex::new(b"abc".to_vec()))));
    let mut guest = Guest::bare(|builder| {
        builder.stdin(Input::Custom(Box::new(given))).stdout(Output::Custom(Box::new(taken.clone())));
    });
    guest.put(BUF, b"abcdefX");
    guest.put_iovs(&[(BUF, 6), (BUF + 6, 1)]);
    guest.try_call(Function::fd_write, &[1, IOVS.into(), 2, OUT.into()]).unwrap();
    assert_eq!((guest.u32(OUT), taken.0.lock().unwrap().as_slice()), (3, &b"abc"[..]), "the next buffer has to wait");
    guest.put_iovs(&[(BUF, 3), (BUF + 3, 1)]);
    guest.try_call(Function::fd_read, &[0, IOVS.into(), 2, OUT.into()]).unwrap();
    assert_eq!(guest.u32(OUT), 3, "what came before the error is told");
    assert_eq!(guest.call(Function::fd_read, &[0, IOVS.into(), 2, OUT.into()]), Errno::Nospc);
}
