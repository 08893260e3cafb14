//! Rooms that grow, are forked, refuse code and go on in other files.

use super::*;
use crate::image::{Beside, CodeMapping};

/// `mov eax, number; ret`
fn returns(number: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend_from_slice(&number.to_le_bytes());
    code.push(0xc3);
    code
}

fn run(address: usize) -> u32 {
    // SAFETY: the tests put a function of this type there.
    let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(address) };
    function()
}

fn mapping() -> CodeMapping {
    let beside = Beside { align_bytes: 64 << 10, slots_len_bytes: 100, room_len_bytes: 64 << 10 };
    CodeMapping::from_bytes(b"image", beside).unwrap()
}

fn permissions(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let parse = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        Some((range, rest.get(..4)?.to_string()))
    };
    maps.lines().filter_map(parse).find(|(range, _)| range.contains(&address)).unwrap().1
}

#[test]
fn code_that_is_added_runs_beside_code_that_runs() {
    for kind in [RoomKind::Shared, RoomKind::Plain] {
        let mapping = mapping();
        let mut room = mapping.room(kind);
        let mut addresses = Vec::new();
        for number in 0..10 {
            let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
            assert_eq!(address % CODE_ALIGN_BYTES, 0);
            assert!(mapping.contains(address));
            room.append(&returns(number)).unwrap();
            addresses.push(address);
            assert!(addresses.iter().enumerate().all(|(number, address)| run(*address) == number as u32), "{kind:?}");
            assert!(matches!(&*permissions(address), "r-xs" | "r-xp"));
        }
    }
}

#[test]
fn code_begins_at_a_place_of_its_choice() {
    for kind in [RoomKind::Shared, RoomKind::Plain] {
        let mapping = mapping();
        let mut room = mapping.room(kind);
        // Each takes a page of a room that is plain memory.
        for number in 0..if kind == RoomKind::Shared { 40 } else { 10 } {
            let offset = number as usize * 7 % 4 * CODE_ALIGN_BYTES;
            let address = room.next_address_after(64, offset).unwrap();
            assert_eq!(address % 64, if kind == RoomKind::Shared { offset } else { 0 });
            room.append(&returns(number)).unwrap();
            assert_eq!(run(address), number, "{kind:?}");
        }
    }
}

#[test]
fn pages_that_were_put_aside_are_filled_later() {
    for kind in [RoomKind::Shared, RoomKind::Plain] {
        let mapping = mapping();
        let mut room = mapping.room(kind);
        let aside = room.put_aside(3 * page_size() - 1).unwrap();
        let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
        assert_eq!(address, aside + 3 * page_size());
        room.append(&returns(1)).unwrap();
        room.fill_page(2, &returns(2)).unwrap();
        room.fill_page(0, &returns(3)).unwrap();
        assert_eq!((run(address), run(aside + 2 * page_size()), run(aside)), (1, 2, 3));
    }
}

#[test]
fn a_room_is_filled_to_its_end_and_no_further() {
    let mapping = mapping();
    let mut room = mapping.room(RoomKind::Shared);
    assert_eq!(room.left_bytes(), 64 << 10);
    room.append(&vec![0xcc; (64 << 10) - 100]).unwrap();
    assert_eq!(room.append(&[0xcc; 101]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
    room.append(&returns(7)).unwrap();
    assert_eq!(run(address), 7);
}

#[test]
fn what_the_system_does_not_take_uses_nothing_up() {
    let mapping = mapping();
    let mut room = mapping.room(RoomKind::Shared);
    for _ in 0..3 {
        let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
        let good = room.ready.take().unwrap();
        // Opened to be read.
        room.ready = Some(Arc::new(File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&good))).unwrap()));
        assert_eq!(room.append(&returns(1)).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(room.next_address(CODE_ALIGN_BYTES).unwrap(), address);
    }
    let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
    room.append(&returns(1)).unwrap();
    assert_eq!(run(address), 1);
}

#[test]
fn rooms_share_one_descriptor() {
    let count = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
            .filter(|path| path.to_string_lossy().contains("memfd:peregrine-code"))
            .count()
    };
    let rooms: Vec<_> = (0..50)
        .map(|number| {
            let mut mapping = mapping();
            mapping.close_file();
            let mut room = mapping.room(RoomKind::Shared);
            let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
            room.append(&returns(number)).unwrap();
            (mapping, room, address)
        })
        .collect();
    assert!(rooms.iter().enumerate().all(|(number, (.., address))| run(*address) == number as u32));
    // Other tests have some at the same time.
    assert!(count() < 30, "{}", count());
}

#[test]
fn repeated_code_takes_the_memory_of_one() {
    let mut code = returns(3);
    code.resize(2 * page_size(), 0xcc);
    let mut repeated = RepeatedCode::new(code, 10).unwrap();
    repeated.ensure(3).unwrap();
    repeated.ensure(2).unwrap();
    repeated.ensure(10).unwrap();
    let start = repeated.ptr().addr();
    assert!((0..10).all(|time| run(start + time * 2 * page_size()) == 3));
    assert!(repeated.ensure(11).is_err());
}

#[test]
fn a_child_process_does_not_write_to_the_code_of_its_parent() {
    let mapping = mapping();
    let mut room = mapping.room(RoomKind::Shared);
    let first = room.next_address(CODE_ALIGN_BYTES).unwrap();
    room.append(&returns(1)).unwrap();
    // Another test must not have it locked in the child for ever.
    let file = FILES.lock().unwrap();
    // SAFETY: the child only makes system calls and ends without running anything of the parent's.
    let child = unsafe { libc::fork() };
    drop(file);
    let second = room.next_address(CODE_ALIGN_BYTES).unwrap();
    let number = if child == 0 { 3 } else { 2 };
    room.append(&returns(number)).unwrap();
    let good = run(first) == 1 && run(second) == number;
    if child == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(good && status == 0 && run(second) == 2, "{status}");
}

/// The file of a room, unless it was closed: tests of other threads make files too.
fn file_of(room: &CodeRoom) -> Option<Arc<File>> {
    let Backing::File { file, .. } = &room.backing else { panic!("the room has a file") };
    file.open()
}

/// Bytes of memory that a file takes.
fn file_bytes(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn a_child_process_goes_on_in_a_room_that_its_parent_dropped() {
    let (mut ends, mut image) = ([0; 2], vec![0xcc; page_size()]);
    image[..6].copy_from_slice(&returns(2));
    let mapping = CodeMapping::from_bytes(&image, Beside { room_len_bytes: 64 << 10, ..Beside::default() }).unwrap();
    mapping.map_executable(0..page_size()).unwrap();
    let in_image = mapping.ptr().addr();
    let mut room = mapping.room(RoomKind::Shared);
    let first = room.next_address(CODE_ALIGN_BYTES).unwrap();
    room.append(&returns(1)).unwrap();
    // SAFETY: both are descriptors of this test.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let file = FILES.lock().unwrap();
    // SAFETY: the child only makes system calls and ends without running anything of the parent's.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: waits until the parent says that it has dropped the room, or is gone.
        unsafe {
            libc::close(ends[1]);
            libc::read(ends[0], [0u8; 1].as_mut_ptr().cast(), 1);
        }
        let good = run(first) == 1 && run(in_image) == 2;
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    drop(file);
    drop((room, mapping));
    let mut status = 0;
    // SAFETY: the descriptors are those above, and the child is waited for once.
    unsafe {
        libc::close(ends[1]);
        libc::waitpid(child, &mut status, 0);
        libc::close(ends[0]);
    }
    assert_eq!(status, 0, "{status:#x}");
}

#[test]
fn memory_of_rooms_is_given_back_without_forks_and_with_the_file_after_one() {
    let fill = |room: &mut CodeRoom| room.append(&[0xcc; 60 << 10]).unwrap();
    // Tests of other threads fork too, so now and then a room is not emptied.
    let emptied = (0..50).any(|_| {
        let mappings = [mapping(), mapping()];
        let [mut kept, mut dropped] = [&mappings[0], &mappings[1]].map(|mapping| mapping.room(RoomKind::Shared));
        fill(&mut kept);
        fill(&mut dropped);
        let Some(file) = file_of(&kept) else { return false };
        let before = file_bytes(&file);
        drop(dropped);
        file_bytes(&file) < before
    });
    assert!(emptied, "the memory of a room stays");
    let (before, mut after) = (mapping(), mapping());
    let mut before = before.room(RoomKind::Shared);
    fill(&mut before);
    let file = FILES.lock().unwrap();
    // SAFETY: the child ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    drop(file);
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &mut 0, 0) };
    after.close_file();
    let mut after = after.room(RoomKind::Shared);
    fill(&mut after);
    let (Backing::File { file: old, .. }, Backing::File { file: new, .. }) = (&before.backing, &after.backing) else {
        panic!("both have files")
    };
    assert!(!Arc::ptr_eq(old, new), "what is new would keep what is old");
}

/// A child process that ends at once.
fn fork() {
    let file = FILES.lock().unwrap();
    // SAFETY: the child ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    drop(file);
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &mut 0, 0) };
}

#[test]
fn a_room_goes_on_when_its_file_is_closed() {
    let old_mapping = mapping();
    let mut old = old_mapping.room(RoomKind::Shared);
    let aside = old.put_aside(2 * page_size()).unwrap();
    old.fill_page(1, &returns(1)).unwrap();
    let first = old.next_address(CODE_ALIGN_BYTES).unwrap();
    old.append(&returns(2)).unwrap();
    // In a file each, which stay.
    let others: Vec<_> = (0..=MANY_FILES)
        .map(|_| {
            fork();
            let mut mapping = mapping();
            mapping.close_file();
            let mut room = mapping.room(RoomKind::Shared);
            let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
            room.append(&returns(3)).unwrap();
            (mapping, room, address)
        })
        .collect();
    let Backing::File { file, .. } = &old.backing else { panic!("the room has a file") };
    assert!(file.open().is_none(), "there are {} files", others.len());
    let second = old.next_address(CODE_ALIGN_BYTES).unwrap();
    old.append(&returns(4)).unwrap();
    old.fill_page(0, &returns(5)).unwrap();
    let all = [aside + page_size(), first, second, aside].map(run);
    assert_eq!(all, [1, 2, 4, 5]);
    assert!(others.iter().all(|(.., address)| run(*address) == 3));
    drop(old);
    assert!(others.iter().all(|(.., address)| run(*address) == 3));
}

#[test]
fn the_file_of_before_a_fork_goes_with_its_last_room() {
    // Tests of other threads make rooms and fork, so now and then it is not that of this test alone.
    let gone = (0..50).any(|_| {
        fork();
        let mapping = mapping();
        let mut room = mapping.room(RoomKind::Shared);
        room.append(&returns(1)).unwrap();
        fork();
        let Backing::File { file, .. } = &room.backing else { panic!("the room has a file") };
        let file = Arc::downgrade(file);
        drop(room);
        file.upgrade().is_none()
    });
    assert!(gone, "somebody holds it");
}

#[test]
fn what_refuses_code_holds_no_file_open() {
    let mapping = mapping();
    let mut room = mapping.room(RoomKind::Shared);
    assert_eq!(room.append(&[0xcc; 65 << 10]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(room.ready.is_none());
    room.next_address(CODE_ALIGN_BYTES).unwrap();
    assert!(room.ready.is_some());
    room.release();
    assert!(room.ready.is_none());
    let address = room.next_address(CODE_ALIGN_BYTES).unwrap();
    room.append(&returns(1)).unwrap();
    assert_eq!(run(address), 1);
}

#[test]
fn the_file_of_before_a_fork_is_good_where_there_is_no_other() {
    let page = page_size() as u64;
    let files = Mutex::new(Files { current: None, open: Vec::new() });
    // As many as are open at a time, and one that is closed for the last of them.
    let claimed: Vec<_> = (0..=MANY_FILES)
        .map(|_| {
            fork();
            claim(&files, page).unwrap()
        })
        .collect();
    let is_open = || claimed.iter().map(|claimed| claimed.file.open().is_some()).collect::<Vec<_>>();
    let before = is_open();
    fork();
    let last = claimed.last().unwrap();
    let none = |error: libc::c_int| move || Err(io::Error::from_raw_os_error(error));
    for offset in [page, 2 * page] {
        let more = claim_with(&files, page, none(libc::EMFILE)).unwrap();
        assert_eq!((Arc::ptr_eq(&more.file, &last.file), more.offset), (true, offset));
        more.open.write_all_at(&[1], offset).unwrap();
    }
    // Files that may not grow are not tried.
    assert!(claim_with(&files, page, none(libc::EFBIG)).is_err());
    assert_eq!(is_open(), before, "a file is closed for one that is not there");
    let new = claim(&files, page).unwrap();
    assert!(!Arc::ptr_eq(&new.file, &last.file) && new.offset == 0);
    assert!(claim_with(&Mutex::new(Files { current: None, open: Vec::new() }), page, none(libc::EMFILE)).is_err());
}
