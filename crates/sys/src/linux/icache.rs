//! Making freshly written code visible to instruction fetch.
//!
//! `image` calls this after it copied code by hand. Code that the kernel mapped from a file needs only
//! [`synchronize_cores`]: the kernel cleans the caches when it maps a page executable.

/// Makes the `len_bytes` of code at `code`, written through the data side, visible to instruction fetch on all cores.
///
/// On x86_64 the hardware does it all and this is a no-op.
///
/// # Safety
/// 1. The range is readable for the duration of the call.
#[cfg(target_arch = "x86_64")]
pub unsafe fn publish(code: *const u8, len_bytes: usize) {
    let _ = (code, len_bytes);
}

/// Makes the `len_bytes` of code at `code`, written through the data side, visible to instruction fetch on all cores.
///
/// # Safety
/// 1. The range is readable for the duration of the call.
#[cfg(target_arch = "aarch64")]
pub unsafe fn publish(code: *const u8, len_bytes: usize) {
    use std::arch::asm;

    let cache_type: u64;
    // SAFETY: Linux lets user code read the cache type register; nothing else is touched.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) cache_type, options(nomem, nostack, preserves_flags)) };
    let data_line_bytes = 4usize << ((cache_type >> 16) & 0xf);
    let code_line_bytes = 4usize << (cache_type & 0xf);
    let data_is_coherent = cache_type & (1 << 28) != 0;
    let code_is_coherent = cache_type & (1 << 29) != 0;
    let end = code.addr() + len_bytes;
    if !data_is_coherent {
        for line in ((code.addr() & !(data_line_bytes - 1))..end).step_by(data_line_bytes) {
            // SAFETY: cleaning a line to the point of unification changes no content; the caller keeps it readable (1).
            unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    if !code_is_coherent {
        for line in ((code.addr() & !(code_line_bytes - 1))..end).step_by(code_line_bytes) {
            // SAFETY: invalidating an instruction line changes no content; the caller keeps it readable (1).
            unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
    synchronize_cores();
}

/// Makes every thread of the process discard instructions it may have fetched before this call. A no-op on x86_64.
pub fn synchronize_cores() {
    #[cfg(target_arch = "aarch64")]
    {
        use std::sync::Once;

        const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 5;
        const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 6;
        static REGISTERED: Once = Once::new();
        let membarrier = |command: i32| {
            // SAFETY: membarrier touches no memory of ours; an unknown command is an error that is ignored, since kernels
            // without it run where a context switch already synchronizes.
            unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
        };
        REGISTERED.call_once(|| membarrier(REGISTER_PRIVATE_EXPEDITED_SYNC_CORE));
        membarrier(PRIVATE_EXPEDITED_SYNC_CORE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_changes_no_content() {
        let code = [0xc3u8; 300];
        // SAFETY: the array is readable.
        unsafe { publish(code.as_ptr(), code.len()) };
        synchronize_cores();
        assert!(code.iter().all(|byte| *byte == 0xc3));
    }
}
