//! The veneer of direct calls for x86-64: [`super::enter`] without a stub, for an outermost call whose values are in registers.
//!
//! Parameters are where compiled functions expect them: the context in rdi, then rsi, rdx, rcx, r8, r9, and xmm0 on; results are in rax or
//! xmm0. Compiled code keeps no register but rsp and rbp. The compiler of the caller is told so, and keeps what it needs as it likes: in a
//! loop of calls, nothing is saved and restored.

use crate::vm::entry::direct::{Registers, Returned, Shape};
use peregrine_artifact::vmctx::VmStoreContext;
use std::arch::{asm, naked_asm};
use std::mem::offset_of;

/// Calls `code` on the guest's stack. Returns 0 and the results when the guest returns, something else when it was unwound. `host` is what the
/// store knows its host by: meanwhile that is borrowed from who calls.
///
/// # Safety
///
/// 1. `code` is that of a function with parameters of the given shape, all of which have registers; `vmctx` is its context.
/// 2. The guest's stack is there and empty, and no activation of the store is under way.
/// 3. `host` may be used until the guest returns.
#[inline(always)]
pub(in crate::vm::entry) unsafe fn enter_direct(
    store: *mut VmStoreContext,
    host: *mut (),
    vmctx: u64,
    code: u64,
    registers: &Registers,
    shape: Shape,
) -> (u64, Returned) {
    let [i0, i1, i2, i3, i4] = registers.ints;
    let [f0, f1, f2, f3] = registers.floats.map(f64::from_bits);
    let (int, ended, float): (u64, u64, f64);
    macro_rules! enter {
        ([$($second:tt)*] $(, $register:tt = $value:expr)*) => {
            // SAFETY: as the caller says (1, 2, 3). Every register but rsp, rbp and rbx, which the veneer keeps, is said to change.
            unsafe {
                asm!(
                    "call {direct}",
                    direct = sym direct,
                    in("r10") store,
                    // It is in the store already. The compiler has to know that this pointer is used meanwhile.
                    in("r11") host,
                    in("rdi") vmctx,
                    inlateout("rax") code => int,
                    $($second)*,
                    $(in($register) $value,)*
                    lateout("r12") _,
                    lateout("r13") _,
                    lateout("r14") _,
                    lateout("r15") _,
                    clobber_abi("sysv64"),
                )
            }
        };
    }
    // The shape is known when this is compiled: one of these is left.
    if shape.floats > 0 {
        // SAFETY: as above; xmm0 is given back as a result besides.
        unsafe {
            asm!(
                "call {direct}",
                direct = sym direct,
                in("r10") store,
                in("r11") host,
                in("rdi") vmctx,
                inlateout("rax") code => int,
                in("rsi") i0,
                inlateout("rdx") i1 => ended,
                in("rcx") i2,
                in("r8") i3,
                in("r9") i4,
                inlateout("xmm0") f0 => float,
                in("xmm1") f1,
                in("xmm2") f2,
                in("xmm3") f3,
                lateout("r12") _,
                lateout("r13") _,
                lateout("r14") _,
                lateout("r15") _,
                clobber_abi("sysv64"),
            );
        }
    } else {
        match shape.ints {
            0 => enter!([lateout("rdx") ended, lateout("xmm0") float]),
            1 => enter!([lateout("rdx") ended, lateout("xmm0") float], "rsi" = i0),
            2 => enter!([inlateout("rdx") i1 => ended, lateout("xmm0") float], "rsi" = i0),
            3 => enter!([inlateout("rdx") i1 => ended, lateout("xmm0") float], "rsi" = i0, "rcx" = i2),
            4 => enter!([inlateout("rdx") i1 => ended, lateout("xmm0") float], "rsi" = i0, "rcx" = i2, "r8" = i3),
            _ => enter!([inlateout("rdx") i1 => ended, lateout("xmm0") float], "rsi" = i0, "rcx" = i2, "r8" = i3, "r9" = i4),
        }
    }
    (ended, Returned { int, float: float.to_bits() })
}

/// Calls the code whose address is in rax on the guest's stack, with the store's context in r10. Makes the frame of
/// [`super::enter`], of which the places for r12 to r15 mean nothing. Returns 0 in rdx; unwound, something else.
///
/// The guest's rbp says where the host's stack is. But every frame of the guest reloads rbp from a place that depends on the stack pointer of
/// the host at the call, by way of the store: in a row of calls each would wait for the one before (5 ns for one of 3, in most processes). So the
/// host's stack pointer is in a word of the thread too, whose address depends on nothing. It is right while the host stays on the thread, as a direct
/// call is the only one there; rbp has the last word, which nobody waits for.
///
/// The address is asked for in a way that keeps all registers but rax and is one constant in programs. In libraries it is a call, which has its
/// short way to go: this library's part of the thread is there, as `thread` has just written to it.
///
/// # Safety
///
/// 1. Called by [`enter_direct`] only.
#[unsafe(naked)]
unsafe extern "C" fn direct() {
    naked_asm!(
        ".pushsection .tbss.peregrine_direct_host_sp, \"awT\", @nobits",
        ".p2align 3",
        ".Lhost_sp_of_{direct}:",
        ".zero 8",
        ".popsection",
        ".cfi_startproc",
        // The caller's frame may be on the other stack: debuggers must not take that for the end.
        ".cfi_signal_frame",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rbx",
        ".cfi_offset rbx, -24",
        "sub rsp, 56",
        // There is no activation below: two words in one store.
        "xorps xmm15, xmm15",
        "movups [rbp - 56], xmm15",
        "mov [rsp], r10",
        "mov [r10 + {host_sp}], rsp",
        "mov r11, rax",
        "lea rax, [rip + .Lhost_sp_of_{direct}@TLSDESC]",
        "call [rax + .Lhost_sp_of_{direct}@TLSCALL]",
        "mov fs:[rax], rsp",
        "mov r15, [r10 + {fuel}]",
        "mov rsp, [r10 + {stack_top}]",
        "call r11",
        "mov r12, rax",
        "lea rax, [rip + .Lhost_sp_of_{direct}@TLSDESC]",
        "call [rax + .Lhost_sp_of_{direct}@TLSCALL]",
        "mov rsp, fs:[rax]",
        "lea r10, [rsp + 64]",
        "cmp r10, rbp",
        "jne 3f",
        "2:",
        "mov rax, r12",
        "xor edx, edx",
        "mov r10, [rsp]",
        "cmp qword ptr [r10 + {counts_fuel}], 0",
        "jne 5f",
        "4:",
        "mov rbx, [rsp + 56]",
        "mov rbp, [rsp + 64]",
        ".cfi_remember_state",
        ".cfi_def_cfa rsp, 80",
        "add rsp, 72",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_restore_state",
        "3:",
        "lea rsp, [rbp - 64]",
        "jmp 2b",
        "5:",
        "mov [r10 + {fuel}], r15",
        "jmp 4b",
        ".cfi_endproc",
        direct = sym direct,
        host_sp = const offset_of!(VmStoreContext, host_sp),
        fuel = const offset_of!(VmStoreContext, fuel_consumed),
        counts_fuel = const offset_of!(VmStoreContext, counts_fuel),
        stack_top = const offset_of!(VmStoreContext, guest_stack_top),
    )
}
