//! What this process holds, for tests that count it.

#![allow(dead_code, reason = "a test counts what it is about")]

/// How many mappings it has.
pub fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("the system lists them").lines().count()
}

/// Bytes of address space, and bytes that are resident.
pub fn bytes() -> [u64; 2] {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("there is such a file");
    let mut pages = statm.split(' ').map(|pages| pages.parse::<u64>().expect("pages"));
    [(); 2].map(|()| pages.next().expect("two figures") * 4096)
}

/// Keeps the C library from mapping up to 128 MiB for the allocations of each thread that begins, as threads of the engine do at moments of
/// their own.
pub fn maps_nothing_for_threads() {
    // SAFETY: it is a setting of the allocator, which may change at any moment.
    assert_eq!(unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) }, 1);
}
