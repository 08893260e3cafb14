//! Faults of the hardware in guest code become traps.
//!
//! The handler runs in signal context: it decides whose fault it is, notes it in the store, and lets the thread go on at a landing on the
//! host's stack, where the backtrace is taken and the call is unwound. It neither allocates nor locks.

mod kept;
pub(crate) mod walk;

use super::alloc::Counting;
use super::code::registry;
use super::entry::veneer::look::look_len_bytes;
use super::entry::veneer::registers::return_place;
use super::entry::{current_store, veneer};
use super::pending::Pending;
use super::store::VmStore;
use peregrine_artifact::vmctx::VmStoreContext;
use peregrine_sys::faults::{self, FaultContext, FaultSignal, Outcome};
use peregrine_wasm::Trap;
use std::io;

/// Makes faults of guests known to [`handle`]. Once for the process.
pub(super) fn install() -> io::Result<()> {
    faults::install(handle)
}

/// Gives the handlers back to who had them before [`install`].
///
/// # Safety
///
/// 1. No guest runs on any thread, nor will before the next `install`.
pub(crate) unsafe fn uninstall() -> io::Result<()> {
    // SAFETY: only guests have faults for `handle` (1).
    unsafe { faults::uninstall() }
}

/// Gives this thread a stack for the handler. `on_end` is called when the thread is no longer prepared.
pub(super) fn prepare_thread(on_end: fn()) -> io::Result<()> {
    faults::ensure_thread_ready(on_end)
}

/// Where a guest was when it faulted, and the trap that this is.
#[derive(Clone, Copy, Debug)]
pub(in crate::vm) struct Fault {
    /// The program counter.
    pub(in crate::vm) pc: usize,
    /// The stack pointer.
    pub(in crate::vm) sp: usize,
    /// The frame pointer.
    pub(in crate::vm) fp: usize,
    /// The trap.
    pub(in crate::vm) trap: Trap,
}

fn handle(context: &mut FaultContext<'_>) -> Outcome {
    let store = current_store();
    if store.is_null() {
        return Outcome::NotOurs;
    }
    // SAFETY: the store lives as long as a call of it is under way on this thread. Only fields that nobody changes meanwhile are read:
    // the thread is stopped in guest code, in a veneer before it leaves, or in the host (told apart by `exit_fp`).
    let store = unsafe { &mut *store };
    if store.context.exit_fp != 0 {
        return Outcome::NotOurs;
    }
    let pc = context.pc();
    let in_memory_access = matches!(context.signal(), FaultSignal::Segv | FaultSignal::Bus);
    let trap = if in_memory_access && store.is_stack_guard(context.fault_address()) {
        Some(Trap::StackOverflow)
    } else if pc == 0 {
        // A host function of a type that no module in the store has a stub for was called through a table.
        Some(Trap::IndirectCallToNull)
    } else {
        registry::lookup(pc).and_then(|module| {
            // SAFETY: the module's code is running, so its store keeps it.
            unsafe { &*module }.trap_at(pc)
        })
    };
    let Some(trap) = trap.filter(|trap| !in_memory_access || is_expected(store, *trap, context.fault_address())) else {
        return Outcome::NotOurs;
    };
    // A call of nothing has no code to be found in: its caller is where the trap happened. The call, or the one that a tail call took the
    // place of, has just put its return address on the stack. So it is with a veneer that has no frame of its own yet.
    let pc = match context.sp() {
        // SAFETY: a word of the stopped guest's stack.
        sp if pc == 0 && store.is_on_stack(sp) => unsafe { (sp as *const usize).read() }.wrapping_sub(1),
        sp => match return_place(pc, sp) {
            // SAFETY: as above.
            Some(place) if store.is_on_stack(place) => unsafe { (place as *const usize).read() }.wrapping_sub(1),
            _ => pc,
        },
    };
    let trap = if trap != Trap::Interrupt {
        trap
    } else if go_on_in_vain(store, context) || land_on_guest_stack(store, context) {
        return Outcome::Resume;
    } else if store.may_go_on {
        Trap::StackOverflow
    } else {
        Trap::Interrupt
    };
    store.fault = Some(Fault { pc, sp: context.sp(), fp: context.fp(), trap });
    context.set_sp(store.context.host_sp as usize);
    context.set_arg(0, &raw mut store.context as u64);
    context.set_pc(veneer::fault_landing as *const () as usize);
    Outcome::Resume
}

/// Lets a guest go on that nobody asked to stop: the page is closed for others, or was closed a moment ago. Whether that is so.
fn go_on_in_vain(store: &VmStore, context: &mut FaultContext<'_>) -> bool {
    if store.interrupt_page().is_none_or(|page| page.is_requested()) {
        return false;
    }
    let pc = context.pc();
    // SAFETY: as in `land_on_guest_stack`.
    let Some(len_bytes) = look_len_bytes(|position| unsafe { (pc as *const u8).add(position).read() }) else { return false };
    store.shared().counters.add(Counting::LooksInVain, 1);
    context.set_pc(pc + len_bytes);
    true
}

/// What the landing of an interruption needs below the guest's frame: [`veneer::interrupt_landing`].
const LANDING_BYTES: usize = 1024;

/// Lets an interrupted guest go on at the landing on its own stack, from where it can return to the instruction that faulted. Whether there
/// is room.
fn land_on_guest_stack(store: &mut VmStore, context: &mut FaultContext<'_>) -> bool {
    let sp = context.sp();
    if store.stack_left_below(sp).is_none_or(|left| left < LANDING_BYTES) {
        return false;
    }
    let pc = context.pc();
    // SAFETY: the bytes are those of the instruction that the guest is stopped at, which may be read as well as executed.
    let Some(len_bytes) = look_len_bytes(|position| unsafe { (pc as *const u8).add(position).read() }) else { return false };
    let end = sp - veneer::RED_ZONE_BYTES;
    // As a call would: the return address is after the beginning of the instruction, so that walks find the instruction. In the end the landing
    // goes to the next one.
    let frame = [&raw mut store.context as u64, context.fp() as u64, pc as u64 + 1, (pc + len_bytes) as u64];
    let start = end - size_of_val(&frame);
    // SAFETY: the words are below the stopped guest's frame and above the limit of its stack, as was just checked.
    unsafe { (start as *mut [u64; 4]).write_unaligned(frame) };
    context.set_sp(start);
    context.set_fp(start + 8);
    context.set_pc(veneer::interrupt_landing as *const () as usize);
    true
}

/// Whether an access to `address` is how guest code comes to `trap`. Anything else is a fault of the host or of a compiler, and must not look
/// like the guest's doing.
fn is_expected(store: &VmStore, trap: Trap, address: usize) -> bool {
    match trap {
        Trap::StackOverflow => store.is_stack_guard(address),
        Trap::MemoryOutOfBounds => store.is_memory(address),
        Trap::Interrupt => store.interrupt_page().is_some_and(|page| page.contains(address)),
        // References that are null are read through, and what is outside of a table is looked for at address 0.
        Trap::IndirectCallToNull | Trap::NullReference | Trap::TableOutOfBounds => address < NULL_REACH,
        _ => false,
    }
}

/// Addresses below this belong to nobody.
const NULL_REACH: usize = 4096;

/// Turns the fault noted by the handler into a pending trap. Called by the landing, on the host's stack.
pub(super) unsafe extern "C" fn landed(context: *mut VmStoreContext) {
    // SAFETY: the context is the first field of the store that the handler found; its guest is stopped.
    let store = unsafe { &mut *context.cast::<VmStore>() };
    if let Some(fault) = store.fault.take() {
        let frames = walk::backtrace_from(store, Some(fault));
        store.raise(Pending::Trap(fault.trap, frames));
    }
}
