//! Per-function tables beside the code, as compact streams: which instruction traps why, and where code comes from.
//!
//! The image finds the function of a program counter by binary search; one function's stream is then read from its start, without
//! allocation, so that a signal handler can do it.

pub mod addresses;
pub mod traps;

/// Appends `value` as unsigned LEB128.
fn write_unsigned(stream: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        stream.push(value as u8 | 0x80);
        value >>= 7;
    }
    stream.push(value as u8);
}

/// Reads an unsigned LEB128 number off the front of `stream`. `None` at its end, or if it is malformed.
fn read_unsigned(stream: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = stream.split_first()?;
        *stream = rest;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Folds the sign into the lowest bit, so that small numbers of either sign are short.
fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

/// The inverse of [`zigzag`].
fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}
