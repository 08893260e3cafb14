//! Veneers for x86-64 by which guests call host functions that take few values, all of them integers or references, and return at most one:
//! the frame of [`super::leave`], which has room for the values, and no Exit stub. A guest that is suspended meanwhile goes on with its
//! result in a register.

use super::{VENEER_FRAME_BYTES, stop};
use peregrine_artifact::vmctx::{VmContextHeader, VmStoreContext};
use std::arch::naked_asm;
use std::mem::offset_of;

/// The veneer for so many parameters, if there is one. It takes the context of a host function, and calls its code.
pub(crate) fn exit_veneer(params: usize) -> Option<*const u8> {
    const VENEERS: [unsafe extern "C" fn(); 6] = [exit_0, exit_1, exit_2, exit_3, exit_4, exit_5];
    VENEERS.get(params).map(|veneer| *veneer as *const u8)
}

macro_rules! exit {
    ($name:ident $(, $store:literal)*) => {
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
                $($store,)*
                "lea rsi, [rbp - 128]",
                "call [rdi + {code}]",
                "mov r10, [rbp - {frame}]",
                "cmp qword ptr [r10 + {pending}], 0",
                "jne {stop}",
                "cmp qword ptr [r10 + {counts_fuel}], 0",
                "je 2f",
                "mov r15, [r10 + {fuel}]",
                "2:",
                "mov rax, [rbp - 128]",
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

exit!(exit_0);
exit!(exit_1, "mov [rbp - 128], rsi");
exit!(exit_2, "mov [rbp - 128], rsi", "mov [rbp - 112], rdx");
exit!(exit_3, "mov [rbp - 128], rsi", "mov [rbp - 112], rdx", "mov [rbp - 96], rcx");
exit!(exit_4, "mov [rbp - 128], rsi", "mov [rbp - 112], rdx", "mov [rbp - 96], rcx", "mov [rbp - 80], r8");
exit!(exit_5, "mov [rbp - 128], rsi", "mov [rbp - 112], rdx", "mov [rbp - 96], rcx", "mov [rbp - 80], r8", "mov [rbp - 64], r9");
