//! The guest's memory, as the functions of preview 1 see it: every access is checked, and what is out of bounds is `Fault`.
//!
//! A view holds the bytes for one call only, since the memory may grow or change between calls.

use super::types::{Errno, IOVEC_SIZE_BYTES};
use smallvec::SmallVec;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;

/// Buffers of one call that are used; a longer list is cut short, as a short read or write. The limit of the system.
const IOVECS_MAX: u32 = 1024;
/// Bytes that one call reads or writes at most; more is a short read or write. Nobody can stop a guest while the system moves them, which takes
/// milliseconds.
pub(super) const TRANSFER_MAX_BYTES: usize = 8 << 20;
/// Buffers that fit on the stack.
const IOVECS_INLINE: usize = 8;

/// A view of the guest's memory for the time of one call.
///
/// It is made of plain bytes. A memory that other threads can write would need another kind of view behind the same methods, which is why
/// the bytes are private.
pub struct GuestMemory<'a> {
    bytes: &'a mut [u8],
}

/// One buffer of a list, within bounds and not empty.
type Buffer = Range<usize>;

impl<'a> GuestMemory<'a> {
    /// A view of `bytes`, which start at the guest's address zero. What lies beyond 4 GiB cannot be reached.
    #[inline]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        GuestMemory { bytes }
    }

    /// Where `len` bytes at `ptr` lie.
    #[inline]
    fn range(&self, ptr: u32, len: u32) -> Result<Range<usize>, Errno> {
        let (start, end) = (u64::from(ptr), u64::from(ptr) + u64::from(len));
        if end <= self.bytes.len() as u64 { Ok(start as usize..end as usize) } else { Err(Errno::Fault) }
    }

    /// Whether `len` bytes at `ptr` are within bounds, for what shall be written only after something else took place.
    #[inline]
    pub(crate) fn check(&self, ptr: u32, len: u32) -> Result<(), Errno> {
        self.range(ptr, len).map(|_| ())
    }

    /// Bytes to read.
    #[inline]
    pub(crate) fn slice(&self, ptr: u32, len: u32) -> Result<&[u8], Errno> {
        let range = self.range(ptr, len)?;
        Ok(&self.bytes[range])
    }

    /// Bytes to write.
    #[inline]
    pub(crate) fn slice_mut(&mut self, ptr: u32, len: u32) -> Result<&mut [u8], Errno> {
        let range = self.range(ptr, len)?;
        Ok(&mut self.bytes[range])
    }

    /// Copies a layout out.
    #[inline]
    pub(crate) fn load<const N: usize>(&self, ptr: u32) -> Result<[u8; N], Errno> {
        self.slice(ptr, N as u32)?.try_into().map_err(|_| Errno::Fault)
    }

    /// Copies a layout in.
    #[inline]
    pub(crate) fn store<const N: usize>(&mut self, ptr: u32, value: [u8; N]) -> Result<(), Errno> {
        self.slice_mut(ptr, N as u32)?.copy_from_slice(&value);
        Ok(())
    }

    /// Writes 32 bits.
    #[inline]
    pub(crate) fn store_u32(&mut self, ptr: u32, value: u32) -> Result<(), Errno> {
        self.store(ptr, value.to_le_bytes())
    }

    /// Writes a count of bytes.
    #[inline]
    pub(crate) fn store_size(&mut self, ptr: u32, value: usize) -> Result<(), Errno> {
        self.store_u32(ptr, u32::try_from(value).map_err(|_| Errno::Overflow)?)
    }

    /// Writes 64 bits.
    #[inline]
    pub(crate) fn store_u64(&mut self, ptr: u32, value: u64) -> Result<(), Errno> {
        self.store(ptr, value.to_le_bytes())
    }

    /// The one buffer that an `iovec` describes.
    #[inline]
    fn buffer(&self, iovec: u32) -> Result<Buffer, Errno> {
        let [p0, p1, p2, p3, l0, l1, l2, l3] = self.load::<8>(iovec)?;
        self.range(u32::from_le_bytes([p0, p1, p2, p3]), u32::from_le_bytes([l0, l1, l2, l3]))
    }

    /// The one buffer that an `iovec` describes, to write.
    #[inline]
    pub(crate) fn one_buffer(&mut self, iovec: u32) -> Result<&mut [u8], Errno> {
        let buffer = first_of(self.buffer(iovec)?, TRANSFER_MAX_BYTES);
        Ok(&mut self.bytes[buffer])
    }

    /// The buffers of a list that are not empty, up to the limit and to so many bytes together. Those beyond must be within bounds too.
    fn buffers(&self, iovecs: u32, count: u32, mut bytes: usize) -> Result<SmallVec<[Buffer; IOVECS_INLINE]>, Errno> {
        let count = count.min(IOVECS_MAX);
        self.check(iovecs, count * IOVEC_SIZE_BYTES)?;
        let mut buffers = SmallVec::new();
        for at in 0..count {
            // Within bounds, so it does not overflow.
            let buffer = first_of(self.buffer(iovecs + at * IOVEC_SIZE_BYTES)?, bytes);
            if !buffer.is_empty() {
                bytes -= buffer.len();
                buffers.push(buffer);
            }
        }
        Ok(buffers)
    }

    /// Lets `write` send from the buffers of a list; they may overlap.
    #[inline]
    pub(crate) fn gather<T>(&self, iovecs: u32, count: u32, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> Result<T, Errno> {
        if count == 1 {
            let buffer = first_of(self.buffer(iovecs)?, TRANSFER_MAX_BYTES);
            return Ok(write(&[IoSlice::new(&self.bytes[buffer])]));
        }
        let buffers = self.buffers(iovecs, count, TRANSFER_MAX_BYTES)?;
        let slices: SmallVec<[IoSlice<'_>; IOVECS_INLINE]> = buffers.into_iter().map(|buffer| IoSlice::new(&self.bytes[buffer])).collect();
        Ok(write(&slices))
    }

    /// Lets `read` fill the buffers of a list. Where they overlap, only the first is offered: a short read.
    #[inline]
    pub(crate) fn scatter<T>(&mut self, iovecs: u32, count: u32, read: impl FnOnce(&mut [IoSliceMut<'_>]) -> T) -> Result<T, Errno> {
        self.scatter_up_to(TRANSFER_MAX_BYTES, iovecs, count, read)
    }

    /// As [`scatter`](Self::scatter), of so many bytes at most.
    #[inline]
    pub(crate) fn scatter_up_to<T>(
        &mut self,
        most_bytes: usize,
        iovecs: u32,
        count: u32,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> T,
    ) -> Result<T, Errno> {
        if count == 1 {
            let buffer = first_of(self.buffer(iovecs)?, most_bytes);
            return Ok(read(&mut [IoSliceMut::new(&mut self.bytes[buffer])]));
        }
        let mut buffers = self.buffers(iovecs, count, most_bytes)?;
        let mut order: SmallVec<[u32; IOVECS_INLINE]> = (0..buffers.len() as u32).collect();
        let ascending = buffers.windows(2).all(|pair| pair[0].end <= pair[1].start);
        if !ascending {
            order.sort_unstable_by_key(|&at| buffers[at as usize].start);
            if order.windows(2).any(|pair| buffers[pair[0] as usize].end > buffers[pair[1] as usize].start) {
                buffers.truncate(1);
                order.clear();
                order.push(0);
            }
        }
        // Cut the memory in ascending order, and put each piece in its place in the list.
        let mut slices: SmallVec<[IoSliceMut<'_>; IOVECS_INLINE]> = buffers.iter().map(|_| IoSliceMut::new(&mut [])).collect();
        let (mut rest, mut cut) = (&mut *self.bytes, 0);
        for at in order {
            let buffer = &buffers[at as usize];
            let (_, from) = rest.split_at_mut(buffer.start - cut);
            let (piece, after) = from.split_at_mut(buffer.end - buffer.start);
            slices[at as usize] = IoSliceMut::new(piece);
            (rest, cut) = (after, buffer.end);
        }
        Ok(read(&mut slices))
    }
}

/// The first bytes of a buffer, as many as `most` at most.
#[inline]
fn first_of(buffer: Buffer, most: usize) -> Buffer {
    buffer.start..buffer.start + buffer.len().min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_with(bytes: &mut Vec<u8>, iovecs: &[(u32, u32)]) {
        bytes.resize(4096, 0);
        for (at, (ptr, len)) in iovecs.iter().enumerate() {
            bytes[at * 8..at * 8 + 4].copy_from_slice(&ptr.to_le_bytes());
            bytes[at * 8 + 4..at * 8 + 8].copy_from_slice(&len.to_le_bytes());
        }
    }

    fn lengths(iovecs: &[(u32, u32)]) -> Result<Vec<usize>, Errno> {
        let mut bytes = Vec::new();
        memory_with(&mut bytes, iovecs);
        GuestMemory::new(&mut bytes).scatter(0, iovecs.len() as u32, |slices| slices.iter().map(|slice| slice.len()).collect())
    }

    #[test]
    fn buffers_keep_the_order_of_the_list() {
        assert_eq!(lengths(&[(1000, 3), (500, 2), (2000, 1)]), Ok(vec![3, 2, 1]));
        assert_eq!(lengths(&[(1000, 3), (1003, 2), (0, 0)]), Ok(vec![3, 2]));
        assert_eq!(lengths(&[]), Ok(vec![]));
    }

    #[test]
    fn more_than_one_call_moves_is_cut_short() {
        const MOST: u32 = TRANSFER_MAX_BYTES as u32;
        let mut bytes = Vec::new();
        let mut lengths = |iovecs: &[(u32, u32)]| {
            memory_with(&mut bytes, iovecs);
            bytes.resize(3 * TRANSFER_MAX_BYTES, 0);
            let mut memory = GuestMemory::new(&mut bytes);
            let count = iovecs.len() as u32;
            let read = memory.scatter(0, count, |slices| slices.iter().map(|slice| slice.len() as u32).collect::<Vec<_>>());
            let written = memory.gather(0, count, |slices| slices.iter().map(|slice| slice.len() as u32).collect::<Vec<_>>());
            assert_eq!(read, written);
            read
        };
        assert_eq!(lengths(&[(1000, MOST)]), Ok(vec![MOST]));
        assert_eq!(lengths(&[(1000, 2 * MOST)]), Ok(vec![MOST]));
        assert_eq!(lengths(&[(1000, 1), (1001, 2 * MOST), (100, 5)]), Ok(vec![1, MOST - 1]));
        assert_eq!(lengths(&[(1000, 1), (1001, MOST), (3 * MOST - 1, 2)]), Err(Errno::Fault), "those beyond are looked at");
        memory_with(&mut bytes, &[(1000, 2 * MOST)]);
        bytes.resize(3 * TRANSFER_MAX_BYTES, 0);
        let mut memory = GuestMemory::new(&mut bytes);
        assert_eq!(memory.one_buffer(0).map(|buffer| buffer.len()), Ok(TRANSFER_MAX_BYTES));
        assert_eq!(memory.scatter_up_to(usize::MAX, 0, 1, |slices| slices[0].len()), Ok(2 * TRANSFER_MAX_BYTES));
    }

    #[test]
    fn overlapping_buffers_are_a_short_read() {
        assert_eq!(lengths(&[(1000, 10), (1009, 2)]), Ok(vec![10]));
        assert_eq!(lengths(&[(1009, 2), (1000, 10)]), Ok(vec![2]));
        assert_eq!(lengths(&[(1000, 1), (1000, 1), (3000, 5)]), Ok(vec![1]));
    }

    #[test]
    fn what_is_out_of_bounds_is_a_fault() {
        assert_eq!(lengths(&[(4095, 1), (4095, 2)]), Err(Errno::Fault));
        assert_eq!(lengths(&[(u32::MAX, u32::MAX)]), Err(Errno::Fault));
        assert_eq!(lengths(&[(4097, 0)]), Err(Errno::Fault));
        let mut bytes = [0; 16];
        let memory = GuestMemory::new(&mut bytes);
        assert!(memory.gather(0, u32::MAX, |_| ()).is_err_and(|e| e == Errno::Fault));
        assert!(memory.check(16, 0).is_ok() && memory.check(16, 1).is_err() && memory.check(u32::MAX, u32::MAX).is_err());
    }
}
