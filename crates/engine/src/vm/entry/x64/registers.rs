//! The veneer for x86-64 by which guests call host functions whose values are all in registers, without a return of its own.
//!
//! Guests and C functions have their parameters in the same registers, so one veneer serves all types: it notes where the guest is, goes to
//! the host's stack and *jumps* to the host function, a [`RegisterCode`]. This ends with a call of [`give_back`] (or of its twin for floating
//! point numbers) in tail position, which the compiler makes a jump wherever it can, with the function's frame gone. `give_back` sees that
//! by the stack pointer, and goes back to the guest. So there is one call and one return for both, which predictors of returns see as
//! the pair that it is; a second pair would cost as much as everything else here.
//!
//! Where the compiler made it a call, `give_back` returns to the function, that returns as any other does, to [`after`] whose address the
//! veneer left for it, and this goes back to the guest. That is right, but foils the predictor. After [`MOST_MISSES`] times the function is
//! called from [`called`] instead, which is what the veneer jumps to from then on.
//!
//! ```text
//! guest -call-> exit_registers -jump-> host function -jump-> give_back -return-> guest
//!                                                    -call-> give_back -return-> host function -return-> after -jump-> guest
//!                              -jump-> called -call-> host function -call or jump-> give_back -return-> called -return-> guest
//! ```
//!
//! The frame on the guest's stack is that of [`super::leave`]. The guest's registers that C functions keep are kept by the host
//! function, the frame pointer among them. Stores that count fuel have no such functions: r15 is the guest's.

use super::{VENEER_FRAME_BYTES, stop};
use peregrine_artifact::vmctx::{VmContextHeader, VmStoreContext};
use std::arch::{asm, naked_asm};
use std::mem::offset_of;
use std::sync::atomic::AtomicU64;

/// A host function with its parameters in registers: its context, integers and references, and floating point numbers; a result that is no
/// floating point number is in rax, another one in xmm0. It calls [`give_back`] or [`give_back_float`] last, in tail position.
pub(crate) type RegisterCode<R = u64> = unsafe extern "C" fn(*mut VmContextHeader, u64, u64, u64, u64, u64, f64, f64, f64, f64) -> R;

/// The context of a host function, with what this file knows of it.
#[repr(C)]
pub(in crate::vm) struct HostContext {
    pub(in crate::vm) header: VmContextHeader,
    /// The [`RegisterCode`]; 0 if there is none.
    registers: u64,
    /// What the veneer jumps to: `registers`, or [`called`] if jumping does not pay. Changed by [`after`].
    jump: AtomicU64,
    /// How often the function came back by [`after`], which counts.
    misses: AtomicU64,
}

/// How often a function may come back by [`after`] until it is called in place of being jumped to.
const MOST_MISSES: u64 = 64;

/// What the veneer puts on the host's stack: the address of the frame, the context, and the address of [`after`].
const PUSHED_BYTES: usize = 24;

impl HostContext {
    /// A context with code for values in registers, a [`RegisterCode`], if there is any.
    pub(in crate::vm) fn new(header: VmContextHeader, registers: Option<*const u8>) -> Self {
        let registers = registers.map_or(0, |registers| registers as u64);
        Self { header, registers, jump: AtomicU64::new(registers), misses: AtomicU64::new(0) }
    }

    /// A context of the same function with another header.
    pub(in crate::vm) fn with_header(&self, header: VmContextHeader) -> Self {
        let Self { registers, .. } = *self;
        Self { header, registers, jump: AtomicU64::new(registers), misses: AtomicU64::new(0) }
    }
}

/// The veneer for host functions that have a [`RegisterCode`].
pub(in crate::vm) fn register_veneer() -> *const u8 {
    exit_registers as *const u8
}

/// Where a guest called the veneer from that `pc` is in, before it has left the guest's stack, whose stack pointer is `sp`: the place of the
/// return address.
pub(in crate::vm) fn return_place(pc: usize, sp: usize) -> Option<usize> {
    let start = exit_registers as *const () as usize;
    // The frame pointer is pushed first. The rest is shorter than this.
    (start..start + 16).contains(&pc).then(|| if pc == start { sp } else { sp + 8 })
}

/// Calls the host function whose context is in rdi.
///
/// # Safety
///
/// 1. Called by compiled code only, with the context of a host function that has a [`RegisterCode`].
#[unsafe(naked)]
unsafe extern "C" fn exit_registers() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_signal_frame",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov r10, [rdi + {store}]",
        // The lowest word of the frame: the guard, if it is there, is found now.
        "mov [rsp - {frame}], r10",
        "mov rax, rsp",
        ".cfi_def_cfa_register rax",
        "mov [r10 + {exit_fp}], rax",
        "mov rsp, [r10 + {host_sp}]",
        // Faster than to push them.
        "lea r11, [rip + {after} + 1]",
        "mov [rsp - 8], rax",
        "mov [rsp - 16], rdi",
        "mov [rsp - 24], r11",
        "sub rsp, {pushed}",
        "jmp [rdi + {jump}]",
        ".cfi_endproc",
        store = const offset_of!(VmContextHeader, store),
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        host_sp = const offset_of!(VmStoreContext, host_sp),
        frame = const VENEER_FRAME_BYTES,
        pushed = const PUSHED_BYTES,
        jump = const offset_of!(HostContext, jump),
        after = sym after,
    )
}

/// Goes back to the guest, if the stack pointer says that no frame is between here and the veneer; goes on otherwise. `$result` is the
/// register that the result is passed in.
macro_rules! back_to_guest {
    ($store:expr, $result:tt, $value:expr) => {{
        let returned: u64;
        asm!(
            "mov rax, rdi",
            "lea rcx, [rsp + {pushed}]",
            "cmp rcx, [rsi + {host_sp}]",
            "jne 2f",
            "cmp qword ptr [rsi + {pending}], 0",
            "jne {ended}",
            // All registers that are the guest's have its values: nothing was kept here, or the stack pointer would tell.
            "mov rsp, [rsi + {exit_fp}]",
            "mov qword ptr [rsi + {exit_fp}], 0",
            "add rsp, 8",
            "ret",
            "2:",
            pushed = const PUSHED_BYTES,
            exit_fp = const offset_of!(VmStoreContext, exit_fp),
            host_sp = const offset_of!(VmStoreContext, host_sp),
            pending = const offset_of!(VmStoreContext, pending),
            ended = sym ended,
            in("rsi") $store,
            in($result) $value,
            lateout("rax") returned,
            out("rcx") _,
            // What goes on has pushed nothing, and the stack need not be aligned for it.
            options(nostack),
        );
        returned
    }};
}

/// What host functions end with: goes back to the guest with `result`, if the caller's frame is gone; returns `result` to it otherwise.
///
/// No naked function, since these are called by way of a table, and a table's entry is more to predict.
///
/// # Safety
///
/// 1. Called last, in tail position, by a [`RegisterCode`] that is under way in the store of the context.
#[inline(never)]
pub(in crate::vm) unsafe extern "C" fn give_back(result: u64, store: *mut VmStoreContext) -> u64 {
    // SAFETY: as the caller says (1). If the frames of the host function and of this one are not gone, the stack pointer is another, and this
    // only returns.
    unsafe { back_to_guest!(store, "rdi", result) }
}

/// [`give_back`] for a floating point number.
///
/// # Safety
///
/// 1. As for [`give_back`].
#[inline(never)]
pub(in crate::vm) unsafe extern "C" fn give_back_float(result: f64, store: *mut VmStoreContext) -> f64 {
    // SAFETY: as in `give_back`. The result stays where it is; what is in the register for integers means nothing.
    unsafe {
        let _ = back_to_guest!(store, "xmm0", result);
    }
    result
}

/// What [`give_back`] does when something is pending, with the store's context in rsi.
///
/// # Safety
///
/// 1. Jumped to by `give_back` only.
#[unsafe(naked)]
unsafe extern "C" fn ended() {
    naked_asm!(
        "mov r10, rsi",
        "mov rbp, [r10 + {exit_fp}]",
        "jmp {stop}",
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        stop = sym stop,
    )
}

/// Where a host function returns to that was jumped to, and whose frame was not gone when it called [`give_back`]. The predictor of returns
/// has spent the guest's call on that, so the guest is jumped to. The address to return to is the second instruction's.
///
/// # Safety
///
/// 1. Returned to only, from a host function that [`exit_registers`] went to.
#[unsafe(naked)]
unsafe extern "C" fn after() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_signal_frame",
        // The frame is where the word below the host's stack pointer says.
        ".cfi_escape 0x0f, 0x05, 0x77, 0x08, 0x06, 0x23, 0x10",
        ".cfi_offset rbp, -16",
        // Not gone to: walkers look for what is before the return address.
        "nop",
        "pop rcx",
        ".cfi_escape 0x0f, 0x05, 0x77, 0x00, 0x06, 0x23, 0x10",
        "mov rsi, [rcx + {store}]",
        "cmp qword ptr [rsi + {pending}], 0",
        "jne {ended}",
        "pop rsp",
        ".cfi_def_cfa rsp, 16",
        "inc qword ptr [rcx + {misses}]",
        "cmp qword ptr [rcx + {misses}], {most}",
        "jb 2f",
        "lea rdx, [rip + {called}]",
        "mov [rcx + {jump}], rdx",
        "2:",
        "mov qword ptr [rsi + {exit_fp}], 0",
        "pop rbp",
        ".cfi_def_cfa_offset 8",
        "pop rcx",
        ".cfi_def_cfa_offset 0",
        ".cfi_register rip, rcx",
        "jmp rcx",
        ".cfi_endproc",
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        pending = const offset_of!(VmStoreContext, pending),
        store = const offset_of!(VmContextHeader, store),
        misses = const offset_of!(HostContext, misses),
        most = const MOST_MISSES,
        jump = const offset_of!(HostContext, jump),
        called = sym called,
        ended = sym ended,
    )
}

/// Calls the host function whose context is in rdi, and goes back to the guest.
///
/// # Safety
///
/// 1. Jumped to by [`exit_registers`] only.
#[unsafe(naked)]
unsafe extern "C" fn called() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_signal_frame",
        // As in `after`, with a word below. `give_back` finds another stack pointer than where a frame is gone.
        ".cfi_escape 0x0f, 0x05, 0x77, 0x10, 0x06, 0x23, 0x10",
        ".cfi_offset rbp, -16",
        "sub rsp, 8",
        ".cfi_escape 0x0f, 0x05, 0x77, 0x18, 0x06, 0x23, 0x10",
        "call [rdi + {registers}]",
        "pop rcx",
        ".cfi_escape 0x0f, 0x05, 0x77, 0x10, 0x06, 0x23, 0x10",
        "mov rcx, [rsp + 8]",
        "mov rsi, [rcx + {store}]",
        "cmp qword ptr [rsi + {pending}], 0",
        "jne {ended}",
        "mov rsp, [rsp + 16]",
        ".cfi_def_cfa rsp, 16",
        "mov qword ptr [rsi + {exit_fp}], 0",
        "pop rbp",
        ".cfi_def_cfa_offset 8",
        "ret",
        ".cfi_endproc",
        registers = const offset_of!(HostContext, registers),
        store = const offset_of!(VmContextHeader, store),
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        pending = const offset_of!(VmStoreContext, pending),
        ended = sym ended,
    )
}
