//! Huge pages: how large they are, and which of them a range has.
//!
//! Memory that many instructions reach into at random is read faster from huge pages: the processor finds their addresses in its buffers, and
//! one of them is touched for the first time once, not five hundred times. Which memory is worth them is the callers' business: the
//! machine in the engine asks with [`Reservation::advise_huge_pages`](super::pages::Reservation::advise_huge_pages), and
//! [`prefer_huge_pages`](super::pages::prefer_huge_pages) does for what is filled at once.

use std::ops::Range;
use std::sync::OnceLock;

/// The size of a huge page in bytes, a power of two, if the system has them.
pub fn huge_page_size() -> Option<usize> {
    static SIZE: OnceLock<Option<usize>> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let size: usize = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").ok()?.trim().parse().ok()?;
        size.is_power_of_two().then_some(size)
    })
}

/// The huge pages that lie in a range of addresses as a whole. `page_bytes` is a power of two.
pub fn whole_huge_pages(addresses: Range<usize>, page_bytes: usize) -> Range<usize> {
    let end = addresses.end & !(page_bytes - 1);
    let start = addresses.start.checked_next_multiple_of(page_bytes).unwrap_or(end);
    start.min(end)..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_of_a_range() {
        assert_eq!(whole_huge_pages(1..0x40_0000, 0x20_0000), 0x20_0000..0x40_0000);
        assert_eq!(whole_huge_pages(0x20_0000..0x5f_ffff, 0x20_0000), 0x20_0000..0x40_0000);
        assert!(whole_huge_pages(1..0x3f_ffff, 0x20_0000).is_empty());
        assert!(whole_huge_pages(usize::MAX - 5..usize::MAX, 0x20_0000).is_empty());
    }
}
