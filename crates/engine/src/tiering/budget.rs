//! How much work a function does before it is worth compiling again.
//!
//! Work is counted by code of the baseline in bytes of the binary that it runs through. Compiling costs the optimizing tier about a microsecond
//! for a byte, in which the baseline runs through some two thousand; but other threads do it, and what they make pays for longer than the
//! time since the start of the program, so less than that is asked.

/// Work for each byte of a body.
const WORK_PER_BYTE: u64 = 400;
/// Work of any function.
const MIN_WORK: u64 = 20_000;
/// No function works longer unnoticed: about a second.
const MAX_WORK: u64 = 1 << 30;

/// What a function may do at least until it is asked for its heat again where it is too early to compile it: about half a millisecond, as
/// asking for the time of the processor takes a microsecond.
const MIN_SETTLING: i32 = 1 << 20;
/// What it may do at most.
const MAX_SETTLING: i32 = 1 << 25;
/// The most that a function does until it is asked for its heat again.
pub(super) const MAX_SLICE: i32 = 1 << 24;
/// The most that it does while it waits for better code, unless [`slice`] is more: a fraction of a millisecond, and a thousand times what
/// asking costs.
const MAX_WAITING: i32 = 1 << 19;
/// How often the time between two looks of a function that waits is doubled.
const MAX_PATIENCE: u32 = 10;

/// What is counted down where nothing more is to be compiled. Once in a while it is used up all the same.
pub(super) const FAR: i32 = i32::MAX;

/// What a function with a body of so many bytes may do before it is compiled again.
pub(super) fn first(body_bytes: u32) -> i32 {
    (MIN_WORK + u64::from(body_bytes) * WORK_PER_BYTE).min(MAX_WORK) as i32
}

/// What it may do until it is asked for its heat again, and until a loop looks whether there is better code. More for large bodies: in a loop
/// around all of a body, which some compilers make of every function with loops, each turn costs the whole body whatever it runs through.
pub(super) fn slice(body_bytes: u32) -> i32 {
    (first(body_bytes) / 4).min(MAX_SLICE)
}

/// The same where better code is asked for, and it was asked so often whether it is there.
pub(super) fn waiting(body_bytes: u32, patience: u32) -> i32 {
    let slice = slice(body_bytes);
    slice.saturating_mul(1 << patience.min(MAX_PATIENCE)).min(MAX_WAITING.max(slice))
}

/// What a function may do until it is asked for again, if it was not to be had so many times.
pub(super) fn again(body_bytes: u32, setbacks: u32) -> i32 {
    first(body_bytes).saturating_mul(1 << (2 * setbacks).min(20)).min(MAX_WORK as i32)
}

/// The same where it is too early to compile it.
pub(super) fn settling(body_bytes: u32) -> i32 {
    first(body_bytes).clamp(MIN_SETTLING, MAX_SETTLING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_functions_have_to_work_for_it() {
        assert!(first(10) < first(1000) && first(1000) < first(100_000));
        assert_eq!(first(u32::MAX), MAX_WORK as i32);
        assert!(slice(10) > 0 && slice(10) < first(10));
    }

    #[test]
    fn who_waits_looks_ever_less_often() {
        for body_bytes in [1, 100, 5000, 200_000, u32::MAX] {
            let slices: Vec<_> = (0..40).map(|patience| waiting(body_bytes, patience)).collect();
            assert_eq!(slices[0], slice(body_bytes));
            assert!(slices.is_sorted() && slices[39] >= MAX_WAITING && slices[39] <= MAX_WAITING.max(MAX_SLICE), "{body_bytes}");
            // A second of waiting, some 2^30 of work, is few looks: the most is with the smallest.
            let (mut work, mut looks) = (0i64, 0);
            while work < 1 << 30 {
                work += i64::from(waiting(body_bytes, looks));
                looks += 1;
            }
            assert!(looks < 2100, "{looks} looks with {body_bytes} bytes");
        }
        assert!(again(100, 0) == first(100) && again(100, 1) == 4 * first(100) && again(u32::MAX, 50) == MAX_WORK as i32);
    }

    #[test]
    fn a_loop_around_a_large_body_is_asked_now_and_then_only() {
        for body_bytes in [10, 1000, 150_000] {
            assert!(slice(body_bytes) as u32 / body_bytes >= 100, "{body_bytes}");
            assert!(settling(body_bytes) as u32 / body_bytes >= 200, "{body_bytes}");
        }
        assert_eq!((slice(u32::MAX), settling(u32::MAX)), (MAX_SLICE, MAX_SETTLING));
    }
}
