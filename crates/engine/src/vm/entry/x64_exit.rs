//! Veneers for x86-64 by which guests call host functions that take few values, all of them integers or references, and return at most one:
//! the frame of [`super::veneer::leave`], and no Exit stub. The values are in an array on the host's stack, so the function must return
//! before its guest goes on or is given up: futures have an Exit stub.

use super::veneer::{VENEER_FRAME_BYTES, stop};
use peregrine_artifact::vmctx::{VmContextHeader, VmStoreContext};
use std::arch::naked_asm;
use std::mem::offset_of;

/// The veneer for so many parameters, if there is one. It takes the context of a host function, and calls its code.
pub(crate) fn exit_veneer(params: usize) -> Option<*const u8> {
    const VENEERS: [unsafe extern "C" fn(); 6] = [exit_0, exit_1, exit_2, exit_3, exit_4, exit_5];
    VENEERS.get(params).map(|veneer| *veneer as *const u8)
}

macro_rules! exit {
    ($name:ident, $array_bytes:literal $(, $store:literal)*) => {
        /// Calls a host function with its parameters in an array, and returns its first value.
        ///
        /// # Safety
        ///
        /// 1. Called by compiled code only, with the context of a host function of such a type.
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                ".cfi_startproc",
                ".cfi_signal_frame",
                "push rbp",
                ".cfi_def_cfa_offset 16",
                ".cfi_offset rbp, -16",
                "mov rbp, rsp",
                ".cfi_def_cfa_register rbp",
                "mov r10, [rdi + {store}]",
                // The lowest word of the frame: the guard, if it is there, is found now.
                "mov [rbp - {frame}], r10",
                "mov [r10 + {exit_fp}], rbp",
                "mov [r10 + {fuel}], r15",
                "mov rsp, [r10 + {host_sp}]",
                concat!("sub rsp, ", $array_bytes),
                $($store,)*
                "mov rsi, rsp",
                "call [rdi + {code}]",
                "mov r10, [rbp - {frame}]",
                "cmp qword ptr [r10 + {pending}], 0",
                "jne {stop}",
                "cmp qword ptr [r10 + {counts_fuel}], 0",
                "je 2f",
                "mov r15, [r10 + {fuel}]",
                "2:",
                "mov rax, [rsp]",
                "mov qword ptr [r10 + {exit_fp}], 0",
                "mov rsp, rbp",
                "pop rbp",
                ".cfi_def_cfa rsp, 8",
                "ret",
                ".cfi_endproc",
                store = const offset_of!(VmContextHeader, store),
                code = const offset_of!(VmContextHeader, type_ids),
                exit_fp = const offset_of!(VmStoreContext, exit_fp),
                host_sp = const offset_of!(VmStoreContext, host_sp),
                pending = const offset_of!(VmStoreContext, pending),
                fuel = const offset_of!(VmStoreContext, fuel_consumed),
                counts_fuel = const offset_of!(VmStoreContext, counts_fuel),
                frame = const VENEER_FRAME_BYTES,
                stop = sym stop,
            )
        }
    };
}

exit!(exit_0, 16);
exit!(exit_1, 16, "mov [rsp + 0], rsi");
exit!(exit_2, 32, "mov [rsp + 0], rsi", "mov [rsp + 16], rdx");
exit!(exit_3, 48, "mov [rsp + 0], rsi", "mov [rsp + 16], rdx", "mov [rsp + 32], rcx");
exit!(exit_4, 64, "mov [rsp + 0], rsi", "mov [rsp + 16], rdx", "mov [rsp + 32], rcx", "mov [rsp + 48], r8");
exit!(exit_5, 80, "mov [rsp + 0], rsi", "mov [rsp + 16], rdx", "mov [rsp + 32], rcx", "mov [rsp + 48], r8", "mov [rsp + 64], r9");
