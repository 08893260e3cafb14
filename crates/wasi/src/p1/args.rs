//! `args_get` and `args_sizes_get`, and the writing of string lists that the environment shares.

use super::WasiP1Ctx;
use super::memory::GuestMemory;
use super::types::Errno;

/// Writes strings with their terminators at `buffer`, and pointers to them at `pointers`.
pub(super) fn store_strings(memory: &mut GuestMemory<'_>, strings: &[Vec<u8>], pointers: u32, buffer: u32) -> Result<(), Errno> {
    let (mut pointer, mut place) = (pointers, buffer);
    for string in strings {
        let len = u32::try_from(string.len()).map_err(|_| Errno::Overflow)?;
        let after = place.checked_add(len).and_then(|end| end.checked_add(1)).ok_or(Errno::Fault)?;
        let bytes = memory.slice_mut(place, len + 1)?;
        bytes[..string.len()].copy_from_slice(string);
        bytes[string.len()] = 0;
        memory.store_u32(pointer, place)?;
        pointer = pointer.checked_add(4).ok_or(Errno::Fault)?;
        place = after;
    }
    Ok(())
}

/// Writes the count of strings and the bytes that they need with their terminators.
pub(super) fn store_sizes(memory: &mut GuestMemory<'_>, strings: &[Vec<u8>], count: u32, size: u32) -> Result<(), Errno> {
    memory.check(size, 4)?;
    memory.store_size(count, strings.len())?;
    memory.store_size(size, strings.iter().map(|string| string.len() + 1).sum())
}

impl WasiP1Ctx {
    /// Writes pointers to the arguments at `argv` and the arguments, each with a NUL, at `argv_buf`.
    pub fn args_get(&mut self, memory: &mut GuestMemory<'_>, argv: u32, argv_buf: u32) -> Result<(), Errno> {
        store_strings(memory, &self.ctx.args, argv, argv_buf)
    }

    /// Writes the count of arguments and the bytes that they need.
    pub fn args_sizes_get(&mut self, memory: &mut GuestMemory<'_>, argc: u32, argv_buf_size: u32) -> Result<(), Errno> {
        store_sizes(memory, &self.ctx.args, argc, argv_buf_size)
    }
}
