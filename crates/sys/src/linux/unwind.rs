//! Unwind tables for the unwinder of the process.
//!
//! The engine makes an `.eh_frame` section for its code; registering it lets the C++ and Rust unwinder, and profilers that use
//! it, walk through that code. Compiled code is not unwound by exceptions; its own backtraces follow frame pointers.

use std::ffi::c_void;
use std::io;

unsafe extern "C" {
    fn __register_frame(begin: *const c_void);
    fn __deregister_frame(begin: *const c_void);
}

/// A registered `.eh_frame` section; dropping it takes it out of the unwinder's tables.
#[derive(Debug)]
pub struct UnwindRegistration {
    /// What was registered, as offsets into the section, in the order of registration.
    registered: Vec<usize>,
    /// The section, ended by a zero length, in words so that it is aligned.
    section: Box<[u64]>,
}

impl UnwindRegistration {
    /// Registers a copy of an `.eh_frame` section. Since it is copied, its pointers must be absolute (`DW_EH_PE_absptr`). A
    /// terminator is added where there is none.
    ///
    /// # Errors
    /// `InvalidInput` where the lengths in the section do not add up or it uses 64-bit lengths.
    ///
    /// # Safety
    /// 1. The section is well-formed beyond its lengths, and describes how the code in its ranges can be unwound.
    /// 2. No other registered section describes the same code, and the code stays mapped while the registration lives.
    pub unsafe fn new(eh_frame: &[u8]) -> io::Result<Self> {
        let entries = entries(eh_frame)?;
        let end = entries.last().map_or(0, |entry| entry.end);
        let mut section = vec![0u64; (end + size_of::<u32>()).div_ceil(size_of::<u64>())].into_boxed_slice();
        // SAFETY: the words are at least `end` bytes long and fresh; bytes have no alignment.
        unsafe { std::ptr::copy_nonoverlapping(eh_frame.as_ptr(), section.as_mut_ptr().cast::<u8>(), end) };
        // The unwinder of GCC takes the section at once; the one of LLVM, which musl targets link, takes each FDE.
        let registered: Vec<usize> = if cfg!(target_env = "musl") {
            entries.iter().filter(|entry| entry.is_fde).map(|entry| entry.start).collect()
        } else if entries.iter().any(|entry| entry.is_fde) {
            vec![0]
        } else {
            Vec::new()
        };
        let registration = Self { registered, section };
        for offset in &registration.registered {
            // SAFETY: the section is terminated, well-formed (1), and lives until it was deregistered.
            unsafe { __register_frame(registration.at(*offset)) };
        }
        Ok(registration)
    }

    fn at(&self, offset: usize) -> *const c_void {
        self.section.as_ptr().cast::<u8>().wrapping_add(offset).cast()
    }
}

impl Drop for UnwindRegistration {
    fn drop(&mut self) {
        // In reverse, and before the section is freed.
        for offset in self.registered.iter().rev() {
            // SAFETY: registered with this address and not deregistered since.
            unsafe { __deregister_frame(self.at(*offset)) };
        }
    }
}

struct Entry {
    start: usize,
    end: usize,
    is_fde: bool,
}

/// The entries of a section up to its terminator or end.
fn entries(eh_frame: &[u8]) -> io::Result<Vec<Entry>> {
    let word = |offset: usize| {
        let bytes = eh_frame.get(offset..offset.checked_add(4)?)?;
        bytes.as_array::<4>().map(|bytes| u32::from_ne_bytes(*bytes))
    };
    let mut entries = Vec::new();
    let mut start = 0;
    while start < eh_frame.len() {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!(".eh_frame entry at {start:#x}: {what}"));
        let len_bytes = word(start).ok_or_else(|| bad("truncated length"))?;
        match len_bytes {
            0 => break,
            u32::MAX => return Err(bad("64-bit lengths are not supported")),
            _ => {}
        }
        let end = start + 4 + len_bytes as usize;
        if end > eh_frame.len() || len_bytes < 4 {
            return Err(bad("length does not fit"));
        }
        let id = word(start + 4).ok_or_else(|| bad("truncated identifier"))?;
        entries.push(Entry { start, end, is_fde: id != 0 });
        start = end;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn _Unwind_FindEnclosingFunction(pc: *mut c_void) -> *mut c_void;
    }

    /// A CIE and an FDE for `code`, with absolute pointers and no instructions but padding.
    fn eh_frame(code: &std::ops::Range<usize>) -> Vec<u8> {
        let mut section = Vec::new();
        section.extend_from_slice(&20u32.to_ne_bytes());
        section.extend_from_slice(&0u32.to_ne_bytes());
        // Version 1, no augmentation, code alignment 1, data alignment -8, return address register 16,
        // CFA = register 7 + 8, return address at CFA - 8.
        section.extend_from_slice(&[1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1, 0, 0, 0, 0, 0, 0]);
        let fde_start = section.len();
        section.extend_from_slice(&20u32.to_ne_bytes());
        section.extend_from_slice(&(fde_start as u32 + 4).to_ne_bytes());
        section.extend_from_slice(&code.start.to_ne_bytes());
        section.extend_from_slice(&(code.end - code.start).to_ne_bytes());
        section
    }

    #[test]
    fn registered_code_is_found_until_it_is_dropped() {
        let code = Box::new([0u8; 64]);
        let range = code.as_ptr().addr()..code.as_ptr().addr() + 64;
        let find = || {
            // SAFETY: a look-up by address; nothing is run or read there.
            unsafe { _Unwind_FindEnclosingFunction(std::ptr::without_provenance_mut(range.start + 9)) }.addr()
        };
        assert_ne!(find(), range.start);
        // SAFETY: the section is well-formed, its code is this test's own and is never run.
        let registration = unsafe { UnwindRegistration::new(&eh_frame(&range)) }.unwrap();
        assert_eq!(find(), range.start);
        drop(registration);
        assert_ne!(find(), range.start);
    }

    #[test]
    fn sections_that_do_not_add_up_are_refused() {
        let whole = eh_frame(&(0x1000..0x2000));
        for len_bytes in 1..whole.len() {
            let is_entry_boundary = len_bytes == 24;
            assert_eq!(entries(&whole[..len_bytes]).is_ok(), is_entry_boundary, "{len_bytes}");
        }
        assert!(entries(&[0xff; 12]).is_err());
        // SAFETY: an empty section describes nothing.
        let empty = unsafe { UnwindRegistration::new(&[]) }.unwrap();
        assert!(empty.registered.is_empty());
    }
}
