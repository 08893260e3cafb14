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
const MAX_SLICE: i32 = 1 << 24;

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
    fn a_loop_around_a_large_body_is_asked_now_and_then_only() {
        for body_bytes in [10, 1000, 150_000] {
            assert!(slice(body_bytes) as u32 / body_bytes >= 100, "{body_bytes}");
            assert!(settling(body_bytes) as u32 / body_bytes >= 200, "{body_bytes}");
        }
        assert_eq!((slice(u32::MAX), settling(u32::MAX)), (MAX_SLICE, MAX_SETTLING));
    }
}
