//! What code of the baseline tells the engine: that a function, or a loop in it, is hot.

use super::Caller;

/// See the table.
///
/// # Safety
///
/// 1. Called by compiled code, through the veneer.
pub(super) unsafe extern "C" fn hot_function(_caller: Caller, _function: u32) {}

/// See the table.
///
/// # Safety
///
/// 1. Called by compiled code, through the veneer.
pub(super) unsafe extern "C" fn hot_loop(_caller: Caller, _function_and_loop: u64, _homes: *const u8, _layout: u32) -> u64 {
    0
}
