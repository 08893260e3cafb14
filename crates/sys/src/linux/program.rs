//! Which build of this code runs: the identity of the object, an executable or a shared one, that holds a function.
//!
//! The linker leaves a build id in most objects: a hash of all that is in it. Where there is none, the file that is mapped there stands for it,
//! by device, inode, size and times, as long as it is that file which is still found under its name. The cache in the engine calls this: code that one
//! build made must not meet another one.

use std::ffi::{c_int, c_void};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// What tells the build of the object that holds the code at `address` from all others; `None` if nothing does.
pub fn identity_of_object(address: usize) -> Option<Vec<u8>> {
    build_id(address).map(|id| [b"build", id.as_slice()].concat()).or_else(|| mapped_file(address))
}

/// What is looked for among the objects.
struct Search {
    address: usize,
    found: Option<Vec<u8>>,
}

/// The build id in the notes of the object that holds the code at `address`.
fn build_id(address: usize) -> Option<Vec<u8>> {
    let mut search = Search { address, found: None };
    // SAFETY: the function is called for each object, during this call, with the pointer that is given.
    unsafe { libc::dl_iterate_phdr(Some(look_at), (&raw mut search).cast()) };
    search.found
}

/// Looks at one object. Not 0: no further ones.
unsafe extern "C" fn look_at(info: *mut libc::dl_phdr_info, _len: usize, search: *mut c_void) -> c_int {
    // SAFETY: the pointers are those of the loader and of `build_id`, good during this call.
    let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the loader says that there are so many.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let range = |header: &libc::Elf64_Phdr| {
        let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
        start..start.saturating_add(header.p_memsz as usize)
    };
    let holds = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && range(header).contains(&search.address);
    if !headers.iter().any(|header| holds(&header)) {
        return 0;
    }
    for header in headers.iter().filter(|header| header.p_type == libc::PT_NOTE) {
        let notes = range(header);
        // Notes that are not part of what is mapped cannot be read.
        let is_mapped = |load: &libc::Elf64_Phdr| {
            let mapped = range(load);
            load.p_type == libc::PT_LOAD && mapped.start <= notes.start && notes.end <= mapped.end
        };
        if headers.iter().any(is_mapped) {
            // SAFETY: the notes are within a part of the object that is loaded, and nobody changes them.
            let bytes = unsafe { std::slice::from_raw_parts(notes.start as *const u8, notes.len()) };
            search.found = search.found.take().or_else(|| build_id_note(bytes, header.p_align as usize));
        }
    }
    1
}

/// The build id among notes whose parts begin at multiples of `align_bytes`, of 4 if that is less than 8.
fn build_id_note(mut notes: &[u8], align_bytes: usize) -> Option<Vec<u8>> {
    const BUILD_ID: u32 = 3;
    let align_bytes = if align_bytes == 8 { 8 } else { 4 };
    let word = |bytes: &[u8], offset: usize| Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?));
    loop {
        let (name_len, len, kind) = (word(notes, 0)? as usize, word(notes, 4)? as usize, word(notes, 8)?);
        let start = 12usize.checked_add(name_len)?.checked_next_multiple_of(align_bytes)?;
        let end = start.checked_add(len)?;
        let content = notes.get(start..end)?;
        // An id that was set by hand to next to nothing tells nothing.
        if kind == BUILD_ID && notes.get(12..12 + name_len) == Some(b"GNU\0") && len >= 8 {
            return Some(content.to_vec());
        }
        notes = notes.get(end.checked_next_multiple_of(align_bytes)?..)?;
    }
}

/// The state of the file that is mapped at `address`.
fn mapped_file(address: usize) -> Option<Vec<u8>> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let (path, inode) = maps.lines().find_map(|line| path_at(line, address))?;
    let metadata = fs::metadata(path).ok()?;
    // Replaced or removed since: of what runs nothing is known.
    (metadata.ino() == inode).then(|| {
        let words = [metadata.dev(), metadata.ino(), metadata.len()];
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()].map(|time| time as u64);
        words.iter().chain(&times).flat_map(|word| word.to_ne_bytes()).collect()
    })
}

/// Path and inode of what a line of the list of mappings is about, if the address is in there and it is a file that is still in its place.
fn path_at(line: &str, address: usize) -> Option<(&str, u64)> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let inode = line.split_ascii_whitespace().nth(4)?.parse().ok().filter(|inode| *inode != 0)?;
    let path = &line[line.find('/')?..];
    (range.contains(&address) && !path.ends_with(" (deleted)")).then_some((path, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_process_are_told_apart() {
        let own = identity_of_object(identity_of_object as *const () as usize).unwrap();
        assert_eq!(own, identity_of_object(mapped_file as *const () as usize).unwrap());
        // A function of the C library, where that is an object of its own.
        // SAFETY: the name ends with a zero.
        let other = unsafe { libc::dlsym(libc::RTLD_NEXT, c"getenv".as_ptr()) } as usize;
        assert!(other == 0 || identity_of_object(other).unwrap() != own);
        let heap = Box::new(0u8);
        assert_eq!(identity_of_object(&raw const *heap as usize), None);
    }

    #[test]
    fn build_ids_are_found_among_notes() {
        let note = |name: &[u8], kind: u32, content: &[u8]| {
            let mut note: Vec<u8> = [name.len() as u32, content.len() as u32, kind].iter().flat_map(|word| word.to_ne_bytes()).collect();
            for part in [name, content] {
                note.extend_from_slice(part);
                note.resize(note.len().next_multiple_of(4), 0);
            }
            note
        };
        let id = [7; 20];
        let notes = [note(b"GNU\0", 1, &[1; 16]), note(b"stapsdt\0", 3, &[2; 9]), note(b"GNU\0", 3, &id)].concat();
        assert_eq!(build_id_note(&notes, 4).as_deref(), Some(&id[..]));
        assert_eq!(build_id_note(&notes[..notes.len() - 1], 4), None);
        assert_eq!(build_id_note(&note(b"GNU\0", 3, &[1; 4]), 4), None);
        assert_eq!(build_id_note(&[0xff; 64], 4), None);
    }

    #[test]
    fn a_file_that_was_replaced_tells_nothing() {
        let line = "7f00-7f80 r-xp 00001000 fe:00 1234                       /usr/lib/some where/lib.so";
        assert_eq!(path_at(line, 0x7f10), Some(("/usr/lib/some where/lib.so", 1234)));
        assert_eq!(path_at(line, 0x7f80), None);
        assert_eq!(path_at(&format!("{line} (deleted)"), 0x7f10), None);
        assert_eq!(path_at("7f00-7f80 rw-p 00000000 00:00 0 [heap]", 0x7f10), None);
        let own = mapped_file(mapped_file as *const () as usize);
        assert!(own.is_some_and(|own| own.len() == 56));
    }
}
