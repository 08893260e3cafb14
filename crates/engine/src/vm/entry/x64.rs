//! Veneers for x86-64 (System V convention).
//!
//! Frame of `enter` on the host's stack, by offset from its frame pointer; [`super::super::fault::walk`] reads it:
//!
//! | offset | content |
//! |---|---|
//! | +8 | return address |
//! | 0 | caller's frame pointer |
//! | -8..-40 | rbx, r12, r13, r14, r15 |
//! | -48 | `exit_fp` of the activation below |
//! | -56 | `host_sp` of the activation below |
//! | -64 | the store's context; `host_sp` points here |
//!
//! Frame of a veneer on the guest's stack: return address to the guest, the guest's frame pointer (`exit_fp` points here), the store's context.

use crate::vm::value::ValRaw;
use peregrine_artifact::vmctx::{VmContextHeader, VmStoreContext};
use std::arch::naked_asm;
use std::mem::offset_of;

/// Where `enter` keeps the `exit_fp` of the activation below, from its frame pointer.
pub(in crate::vm) const OUTER_EXIT_FP_OFFSET: isize = -48;

/// Runs an Enter stub on the guest's stack. Returns 0 when the guest returns, 1 when it was unwound.
///
/// # Safety
///
/// 1. All arguments are as [`super::call`] makes them.
#[unsafe(naked)]
pub(in crate::vm) unsafe extern "C" fn enter(
    store: *mut VmStoreContext,
    enter_stub: u64,
    vmctx: u64,
    code: u64,
    values: *mut ValRaw,
) -> u64 {
    naked_asm!(
        ".cfi_startproc",
        // The caller's frame may be on the other stack: debuggers must not take that for the end.
        ".cfi_signal_frame",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        ".cfi_offset rbx, -24",
        ".cfi_offset r12, -32",
        ".cfi_offset r13, -40",
        ".cfi_offset r14, -48",
        ".cfi_offset r15, -56",
        "mov rax, [rdi + {exit_fp}]",
        "push rax",
        "push [rdi + {host_sp}]",
        "push rdi",
        "mov [rdi + {host_sp}], rsp",
        // The guest goes on below its last frame, or at the top of a fresh stack.
        "mov r9, [rdi + {stack_top}]",
        "lea r10, [rax - 32]",
        "test rax, rax",
        "cmovnz r9, r10",
        "and r9, -16",
        "mov qword ptr [rdi + {exit_fp}], 0",
        "mov rsp, r9",
        "mov rax, rsi",
        "mov rdi, rdx",
        "mov rsi, rcx",
        "mov rdx, r8",
        "call rax",
        "xor eax, eax",
        "lea rsp, [rbp - 64]",
        "pop rdi",
        "pop [rdi + {host_sp}]",
        "pop [rdi + {exit_fp}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        host_sp = const offset_of!(VmStoreContext, host_sp),
        stack_top = const offset_of!(VmStoreContext, guest_stack_top),
    )
}

/// Ends the activation of the store whose context is in r10: `enter` returns 1. On any stack.
///
/// # Safety
///
/// 1. Jumped to, not called; the activation's `enter` frame is there.
#[unsafe(naked)]
unsafe extern "C" fn unwind() {
    naked_asm!(
        "mov rsp, [r10 + {host_sp}]",
        "lea rbp, [rsp + 64]",
        "mov eax, 1",
        "pop rdi",
        "pop [rdi + {host_sp}]",
        "pop [rdi + {exit_fp}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        host_sp = const offset_of!(VmStoreContext, host_sp),
    )
}

/// Calls the host function whose address is in rax, on the host's stack, with the arguments as they are. The first is a context.
/// Unwinds if something is pending afterwards.
///
/// # Safety
///
/// 1. Jumped to from a veneer that the guest called.
#[unsafe(naked)]
pub(in crate::vm) unsafe extern "C" fn leave() {
    naked_asm!(
        ".cfi_startproc",
        // The caller's frame may be on the other stack: debuggers must not take that for the end.
        ".cfi_signal_frame",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov r10, [rdi + {store}]",
        "push r10",
        "mov [r10 + {exit_fp}], rbp",
        "mov rsp, [r10 + {host_sp}]",
        "call rax",
        "mov r10, [rbp - 8]",
        "cmp qword ptr [r10 + {pending}], 0",
        "jne {unwind}",
        "mov qword ptr [r10 + {exit_fp}], 0",
        "mov rsp, rbp",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        store = const offset_of!(VmContextHeader, store),
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        host_sp = const offset_of!(VmStoreContext, host_sp),
        pending = const offset_of!(VmStoreContext, pending),
        unwind = sym unwind,
    )
}

/// The veneer of the builtin `host_call`: the code to call is in the host context.
///
/// # Safety
///
/// 1. Called by compiled code only.
#[unsafe(naked)]
pub(in crate::vm) unsafe extern "C" fn host_call() {
    naked_asm!(
        "mov rax, [rdi + {code}]",
        "jmp {leave}",
        code = const offset_of!(VmContextHeader, type_ids),
        leave = sym leave,
    )
}

/// Where the fault handler lets a faulting guest go on: on the host's stack, with the store's context in rdi.
///
/// # Safety
///
/// 1. Gone to by the fault handler only.
#[unsafe(naked)]
pub(in crate::vm) unsafe extern "C" fn fault_landing() {
    naked_asm!(
        "push rdi",
        "push rdi",
        "call {landed}",
        "pop r10",
        "pop r10",
        "jmp {unwind}",
        landed = sym crate::vm::fault::landed,
        unwind = sym unwind,
    )
}

/// Defines a veneer that leaves the guest for a builtin.
macro_rules! veneer {
    ($name:ident, $target:path) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                "lea rax, [rip + {target}]",
                "jmp {leave}",
                target = sym $target,
                leave = sym $crate::vm::entry::veneer::leave,
            )
        }
    };
}
pub(in crate::vm) use veneer;
