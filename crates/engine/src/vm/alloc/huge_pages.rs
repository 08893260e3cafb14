//! Huge pages for memories of which a guest asked for much at once: it is about to fill a large array, or to walk one.
//!
//! What is there at first gets none: it is seldom used as a whole, and an instance that is used again would have to clear it. What grows little
//! by little was touched before a huge page of it is complete. A hint in any case: nothing fails where there are none.

use peregrine_sys::huge::{huge_page_size, whole_huge_pages};
use peregrine_sys::pages::Reservation;
use std::ops::Range;

/// Growth by less than this many bytes is little.
const MUCH_BYTES: usize = 4 << 20;

/// Asks for huge pages for what of a memory has just become accessible, the range `grown` of offsets, where it has them as a whole.
pub(super) fn prefer(reservation: &Reservation, grown: Range<usize>) {
    if grown.len() < MUCH_BYTES {
        return;
    }
    let Some(page_bytes) = huge_page_size() else { return };
    let base = reservation.ptr() as usize;
    let whole = whole_huge_pages(base + grown.start..base + grown.end, page_bytes);
    if !whole.is_empty() {
        // Without them it is slower, no more.
        let _ = reservation.advise_huge_pages(whole.start - base..whole.end - base);
    }
}
