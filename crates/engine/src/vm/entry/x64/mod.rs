//! Veneers for x86-64 (System V convention).
//!
//! Frame of `enter` on the host's stack, by offset from its frame pointer; [`crate::vm::fault::walk`] reads it:
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
//! The fuel counter is in r15 while compiled code runs that counts fuel, and in the store's context while the host does. Where fuel is not
//! counted, r15 is a register like others, and what is stored of it means nothing.
//!
//! The frame of a direct call is the same, but for the registers that it does not keep: [`super::direct`].
//!
//! Frame of a veneer on the guest's stack, by offset from its frame pointer, which `exit_fp` is:
//!
//! | offset | content |
//! |---|---|
//! | +8 | return address to the guest |
//! | 0 | the guest's frame pointer |
//! | -8..-40 | while the guest is suspended: its rbx, r12, r13, r14, r15 |
//! | -128..-48 | values that the veneer has made an array of: [`exit`] |
//! | -144 | the store's context; a nested activation begins below |
//!
//! An activation is suspended when the host function that the veneer called says so: `enter` returns, and no host frame is left.
//! [`resume`] makes a new frame of the layout above and goes on in the veneer. The Enter stub keeps the frame pointer of `enter` two
//! words below the activation's first stack pointer, and gives it back at the end: that word is made to point to the new frame.

pub(super) mod direct;
pub(crate) mod exit;
pub(in crate::vm) mod look;
pub(crate) mod registers;

use crate::vm::suspend::PENDING_SUSPENSION;
use crate::vm::value::ValRaw;
use peregrine_artifact::func::RelocKind;
use peregrine_artifact::vmctx::{VmContextHeader, VmStoreContext};
use std::arch::naked_asm;
use std::mem::offset_of;

/// Where `enter` keeps the `exit_fp` of the activation below, from its frame pointer.
pub(in crate::vm) const OUTER_EXIT_FP_OFFSET: isize = -48;

/// How far below `exit_fp` the frame of a veneer reaches.
pub(in crate::vm) const VENEER_FRAME_BYTES: usize = 144;

/// Runs an Enter stub on the guest's stack. Returns 0 when the guest returns, 1 when it was unwound, 2 when it is suspended.
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
        "lea r10, [rax - {veneer_frame}]",
        "test rax, rax",
        "cmovnz r9, r10",
        "and r9, -16",
        "mov qword ptr [rdi + {exit_fp}], 0",
        "mov rsp, r9",
        "mov r15, [rdi + {fuel}]",
        "mov rax, rsi",
        "mov rdi, rdx",
        "mov rsi, rcx",
        "mov rdx, r8",
        "call rax",
        "xor eax, eax",
        "lea rsp, [rbp - 64]",
        "pop rdi",
        "mov [rdi + {fuel}], r15",
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
        fuel = const offset_of!(VmStoreContext, fuel_consumed),
        veneer_frame = const VENEER_FRAME_BYTES,
    )
}

/// Goes on in the veneer that a suspended activation left by, whose `exit_fp` is given, with `result` as what the host function returned: as
/// an integer and as a floating point number.
/// `enter_fp` is where the activation's Enter stub keeps the frame pointer of `enter`. Returns what [`enter`] would.
///
/// # Safety
///
/// 1. The activation is suspended, is the last one on the guest's stack, and the store is prepared as for [`super::call`].
/// 2. The context's `exit_fp` is that of the activation below.
#[unsafe(naked)]
pub(in crate::vm) unsafe extern "C" fn resume(store: *mut VmStoreContext, exit_fp: u64, result: u64, enter_fp: *mut u64) -> u64 {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push [rdi + {exit_fp}]",
        "push [rdi + {host_sp}]",
        "push rdi",
        "mov [rdi + {host_sp}], rsp",
        "mov [rcx], rbp",
        "mov rax, rdx",
        "movq xmm0, rdx",
        "mov rbp, rsi",
        "mov rbx, [rbp - 8]",
        "mov r12, [rbp - 16]",
        "mov r13, [rbp - 24]",
        "mov r14, [rbp - 32]",
        "mov r15, [rbp - 40]",
        "cmp qword ptr [rdi + {counts_fuel}], 0",
        "je 2f",
        "mov r15, [rdi + {fuel}]",
        "2:",
        "mov qword ptr [rdi + {exit_fp}], 0",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        host_sp = const offset_of!(VmStoreContext, host_sp),
        fuel = const offset_of!(VmStoreContext, fuel_consumed),
        counts_fuel = const offset_of!(VmStoreContext, counts_fuel),
    )
}

/// Ends the activation of the store whose context is in r10: `enter` returns 1. On any stack.
///
/// # Safety
///
/// 1. Jumped to, not called; the activation's `enter` frame is there.
#[unsafe(naked)]
unsafe extern "C" fn unwind() {
    naked_asm!("mov eax, 1", "jmp {end}", end = sym end)
}

/// What a veneer whose frame is in rbp does when something is pending after a host function: unwinds, or suspends the activation.
///
/// # Safety
///
/// 1. As for [`unwind`].
#[unsafe(naked)]
pub(super) unsafe extern "C" fn stop() {
    naked_asm!(
        "cmp qword ptr [r10 + {pending}], {suspend}",
        "jne {unwind}",
        "mov [rbp - 8], rbx",
        "mov [rbp - 16], r12",
        "mov [rbp - 24], r13",
        "mov [rbp - 32], r14",
        "mov [rbp - 40], r15",
        "mov eax, 2",
        "jmp {end}",
        pending = const offset_of!(VmStoreContext, pending),
        suspend = const PENDING_SUSPENSION,
        unwind = sym unwind,
        end = sym end,
    )
}

/// Lets `enter`, `resume` or `direct` return what is in eax; the last expects it in edx.
///
/// # Safety
///
/// 1. As for [`unwind`].
#[unsafe(naked)]
unsafe extern "C" fn end() {
    naked_asm!(
        "mov edx, eax",
        "mov rsp, [r10 + {host_sp}]",
        "lea rbp, [rsp + 64]",
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
/// Unwinds, or suspends the activation, if something is pending afterwards.
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
        // The lowest word of the frame: the guard, if it is there, is found now.
        "mov [rbp - {frame}], r10",
        "mov [r10 + {exit_fp}], rbp",
        "mov [r10 + {fuel}], r15",
        "mov rsp, [r10 + {host_sp}]",
        "call rax",
        "mov r10, [rbp - {frame}]",
        "cmp qword ptr [r10 + {pending}], 0",
        "jne {stop}",
        "cmp qword ptr [r10 + {counts_fuel}], 0",
        "je 2f",
        "mov r15, [r10 + {fuel}]",
        "2:",
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
        fuel = const offset_of!(VmStoreContext, fuel_consumed),
        counts_fuel = const offset_of!(VmStoreContext, counts_fuel),
        frame = const VENEER_FRAME_BYTES,
        stop = sym stop,
    )
}

/// [`lazy_call`] for functions whose context is their first argument.
///
/// # Safety
///
/// 1. Jumped to by thunks only.
#[unsafe(naked)]
unsafe extern "C" fn lazy_call_first() {
    naked_asm!("mov r11, rdi", "jmp {lazy_call}", lazy_call = sym lazy_call)
}

/// [`lazy_call`] for functions whose context is their second argument, after the address of an area for results.
///
/// # Safety
///
/// 1. Jumped to by thunks only.
#[unsafe(naked)]
unsafe extern "C" fn lazy_call_second() {
    naked_asm!("mov r11, rsi", "jmp {lazy_call}", lazy_call = sym lazy_call)
}

/// Has a function compiled that was called through its entry slot, with the mark of its thunk in rax and its context in r11, and goes on to
/// its code. All arguments stay as they are. Unwinds if there is no code.
///
/// The frame on the guest's stack is that of [`leave`], with the registers that hold arguments below it.
///
/// # Safety
///
/// 1. Jumped to by thunks only.
#[unsafe(naked)]
unsafe extern "C" fn lazy_call() {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_signal_frame",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov r10, [r11 + {store}]",
        "push r10",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 136",
        "movups [rbp - 192], xmm0",
        "movups [rbp - 176], xmm1",
        "movups [rbp - 160], xmm2",
        "movups [rbp - 144], xmm3",
        "movups [rbp - 128], xmm4",
        "movups [rbp - 112], xmm5",
        "movups [rbp - 96], xmm6",
        "movups [rbp - 80], xmm7",
        "mov [r10 + {exit_fp}], rbp",
        "mov [r10 + {fuel}], r15",
        "mov rsp, [r10 + {host_sp}]",
        "mov rdi, r11",
        "mov rsi, rax",
        "call {first_call}",
        "mov r10, [rbp - 8]",
        "cmp qword ptr [r10 + {pending}], 0",
        "jne {unwind}",
        "mov qword ptr [r10 + {exit_fp}], 0",
        "movups xmm0, [rbp - 192]",
        "movups xmm1, [rbp - 176]",
        "movups xmm2, [rbp - 160]",
        "movups xmm3, [rbp - 144]",
        "movups xmm4, [rbp - 128]",
        "movups xmm5, [rbp - 112]",
        "movups xmm6, [rbp - 96]",
        "movups xmm7, [rbp - 80]",
        "mov rdi, [rbp - 16]",
        "mov rsi, [rbp - 24]",
        "mov rdx, [rbp - 32]",
        "mov rcx, [rbp - 40]",
        "mov r8, [rbp - 48]",
        "mov r9, [rbp - 56]",
        "mov rsp, rbp",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "jmp rax",
        ".cfi_endproc",
        store = const offset_of!(VmContextHeader, store),
        exit_fp = const offset_of!(VmStoreContext, exit_fp),
        host_sp = const offset_of!(VmStoreContext, host_sp),
        pending = const offset_of!(VmStoreContext, pending),
        fuel = const offset_of!(VmStoreContext, fuel_consumed),
        first_call = sym crate::vm::builtins::first_call,
        unwind = sym unwind,
    )
}

/// Bytes of a thunk: a call, whose return address is the mark.
pub(super) const THUNK_BYTES: usize = 5;
/// Bytes after the last thunk of a piece.
pub(super) const THUNK_END_BYTES: usize = 16;

/// A piece of code of `len_bytes` with `count` thunks, each of which goes to [`lazy_call`] with its mark in rax. No argument is passed in
/// rax or r11.
pub(super) fn thunks(count: usize, len_bytes: usize, results_in_area: bool) -> Vec<u8> {
    let target = if results_in_area { lazy_call_second as *const () } else { lazy_call_first as *const () };
    let end = count * THUNK_BYTES;
    let mut code = Vec::with_capacity(len_bytes);
    for thunk in 0..count {
        code.push(0xe8);
        code.extend_from_slice(&((end - (thunk + 1) * THUNK_BYTES) as u32).to_le_bytes());
    }
    // pop rax; jmp [rip + 0]
    code.extend_from_slice(&[0x58, 0xff, 0x25, 0, 0, 0, 0]);
    code.extend_from_slice(&(target as u64).to_le_bytes());
    code.resize(len_bytes, 0xcc);
    code
}

/// Bytes of code that goes to where a slot points. As long as a slot, so that slots and such code are at one distance throughout.
pub(in crate::vm) const FOLLOWER_BYTES: usize = 8;

/// Code that goes to where the slot `distance` bytes from it points, if that can be expressed.
pub(in crate::vm) fn follower(distance: i64) -> Option<[u8; FOLLOWER_BYTES]> {
    // jmp [rip + rel32]; int3; int3
    let rel32 = i32::try_from(distance - 6).ok()?.to_le_bytes();
    Some([0xff, 0x25, rel32[0], rel32[1], rel32[2], rel32[3], 0xcc, 0xcc])
}

/// Writes the distance of an address into code at `place`, if it can be expressed there. `delta` is counted from the place, addend included.
pub(in crate::vm) fn relocate(kind: RelocKind, place: &mut [u8], delta: i64) -> Option<()> {
    match kind {
        RelocKind::X64Rel32 => place.get_mut(..4)?.copy_from_slice(&i32::try_from(delta).ok()?.to_le_bytes()),
        // Of other processors.
        _ => return None,
    }
    Some(())
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
        "mov [rdi + {fuel}], r15",
        "push rdi",
        "push rdi",
        "call {landed}",
        "pop r10",
        "pop r10",
        "jmp {unwind}",
        fuel = const offset_of!(VmStoreContext, fuel_consumed),
        landed = sym crate::vm::fault::landed,
        unwind = sym unwind,
    )
}

/// What compiled code may use below its stack pointer.
pub(in crate::vm) const RED_ZONE_BYTES: usize = 128;

/// Puts the registers for integers on the stack, rax first and r15 last, and those for vectors below them. Of these the low 128 bits:
/// compiled code uses no more.
macro_rules! keep_registers {
    () => {
        concat!(
            "push rax\n",
            "push rcx\n",
            "push rdx\n",
            "push rbx\n",
            "push rsi\n",
            "push rdi\n",
            "push r8\n",
            "push r9\n",
            "push r10\n",
            "push r11\n",
            "push r12\n",
            "push r13\n",
            "push r14\n",
            "push r15\n",
            "sub rsp, 256\n",
            "and rsp, -16\n",
            "movaps [rsp + 0], xmm0\n",
            "movaps [rsp + 16], xmm1\n",
            "movaps [rsp + 32], xmm2\n",
            "movaps [rsp + 48], xmm3\n",
            "movaps [rsp + 64], xmm4\n",
            "movaps [rsp + 80], xmm5\n",
            "movaps [rsp + 96], xmm6\n",
            "movaps [rsp + 112], xmm7\n",
            "movaps [rsp + 128], xmm8\n",
            "movaps [rsp + 144], xmm9\n",
            "movaps [rsp + 160], xmm10\n",
            "movaps [rsp + 176], xmm11\n",
            "movaps [rsp + 192], xmm12\n",
            "movaps [rsp + 208], xmm13\n",
            "movaps [rsp + 224], xmm14\n",
            "movaps [rsp + 240], xmm15\n",
        )
    };
}

/// Takes the vector registers back, which rsp points to.
macro_rules! restore_vectors {
    () => {
        concat!(
            "movaps xmm0, [rsp + 0]\n",
            "movaps xmm1, [rsp + 16]\n",
            "movaps xmm2, [rsp + 32]\n",
            "movaps xmm3, [rsp + 48]\n",
            "movaps xmm4, [rsp + 64]\n",
            "movaps xmm5, [rsp + 80]\n",
            "movaps xmm6, [rsp + 96]\n",
            "movaps xmm7, [rsp + 112]\n",
            "movaps xmm8, [rsp + 128]\n",
            "movaps xmm9, [rsp + 144]\n",
            "movaps xmm10, [rsp + 160]\n",
            "movaps xmm11, [rsp + 176]\n",
            "movaps xmm12, [rsp + 192]\n",
            "movaps xmm13, [rsp + 208]\n",
            "movaps xmm14, [rsp + 224]\n",
            "movaps xmm15, [rsp + 240]\n",
        )
    };
}

/// Takes the registers for integers off the stack, r15 left out: rsp points to r14.
macro_rules! restore_integers {
    () => {
        concat!(
            "pop r14\n",
            "pop r13\n",
            "pop r12\n",
            "pop r11\n",
            "pop r10\n",
            "pop r9\n",
            "pop r8\n",
            "pop rdi\n",
            "pop rsi\n",
            "pop rbx\n",
            "pop rdx\n",
            "pop rcx\n",
            "pop rax\n",
        )
    };
}

/// How many registers for integers these keep.
const KEPT_INTEGERS: usize = 14;

/// The veneer of the builtin `out_of_fuel`. Keeps every register but the fuel counter's, so that compiled code need not keep any for a call
/// that hardly ever happens. The frame is as that of [`interrupt_landing`], without the flags.
///
/// # Safety
///
/// 1. Called by compiled code only.
#[unsafe(naked)]
pub(in crate::vm) unsafe extern "C" fn out_of_fuel() {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        keep_registers!(),
        "cld",
        "lea rax, [rip + {target}]",
        "call {leave}",
        restore_vectors!(),
        // The veneer has brought r15 back.
        "lea rsp, [rbp - {kept} + 8]",
        restore_integers!(),
        "pop rbp",
        "ret",
        target = sym crate::vm::builtins::out_of_fuel,
        leave = sym leave,
        kept = const 8 * KEPT_INTEGERS,
    )
}

/// Where the fault handler lets an interrupted guest go on: on its own stack, below the red zone, with a frame of four words that rbp is
/// in: the store's context, the frame pointer, the address of the interrupted instruction plus 1, and that of the next one. Keeps every
/// register, asks [`crate::vm::preempt::interrupted`], and goes to the next instruction.
///
/// # Safety
///
/// 1. Gone to by the fault handler only.
#[unsafe(naked)]
pub(in crate::vm) unsafe extern "C" fn interrupt_landing() {
    naked_asm!(
        "pushfq",
        keep_registers!(),
        "cld",
        // The word at 8 from here is the store's context: all that `leave` and the function read of a context.
        "lea rdi, [rbp - 16]",
        "lea rax, [rip + {interrupted}]",
        "call {leave}",
        restore_vectors!(),
        "mov rax, [rbp + 16]",
        "mov [rbp + 8], rax",
        // The veneer has kept r15, or brought the fuel counter back.
        "lea rsp, [rbp - {saved} + 8]",
        restore_integers!(),
        "popfq",
        "mov rsp, rbp",
        "pop rbp",
        "ret {red_zone}",
        interrupted = sym crate::vm::preempt::interrupted,
        leave = sym leave,
        saved = const 8 * (2 + KEPT_INTEGERS),
        // With the address that was taken from there.
        red_zone = const RED_ZONE_BYTES + 8,
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
