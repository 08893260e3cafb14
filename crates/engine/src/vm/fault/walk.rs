//! Walks the guest's frames by frame pointers.

use super::Fault;
use super::kept;
use crate::vm::code::{LoadedModule, registry};
use crate::vm::entry::veneer::OUTER_EXIT_FP_OFFSET;
use crate::vm::store::VmStore;
use peregrine_wasm::{FuncIndex, Trap};
use std::ops::Range;
use std::sync::Arc;

/// One frame of the guest.
#[derive(Clone)]
pub(crate) struct RawFrame {
    /// Whose code it is.
    pub(crate) module: Arc<LoadedModule>,
    /// The function.
    pub(crate) function: FuncIndex,
    /// Where in the binary, if it is known.
    pub(crate) wasm_offset: Option<u32>,
    /// The address of the context that it was called with, if its code keeps it. Not checked: to compare with those of instances.
    pub(crate) context: Option<u64>,
    /// The bits of its locals, parameters first, if its code keeps them.
    pub(crate) locals: Option<Box<[u128]>>,
}

/// The frames of the guest while the host runs, newest first, over all activations of the store.
pub(crate) fn backtrace(store: &VmStore) -> Vec<RawFrame> {
    backtrace_from(store, None)
}

/// The frames of the guest, beginning with that of a fault if there is one.
pub(super) fn backtrace_from(store: &VmStore, fault: Option<Fault>) -> Vec<RawFrame> {
    let mut frames = Vec::new();
    let most = store.shared().most_frames;
    let mut fp = store.context.exit_fp as usize;
    if let Some(fault) = fault {
        // A function that runs off the stack has no frame yet.
        let place = (fault.trap != Trap::StackOverflow).then_some((store, fault.sp..fault.fp));
        push_frame(&mut frames, fault.pc, place);
        fp = fault.fp;
    }
    while fp != 0 && frames.len() < most {
        if !store.is_on_stack(fp) {
            // The frame of `enter`, on the host's stack, which remembers where the activation below left the guest. The walk may begin with it: an
            // Enter stub that runs off the stack at once has no frame of its own.
            // SAFETY: while the guest runs, frame pointers outside of its stack are those of `enter` alone; the offset is part of that frame.
            fp = unsafe { (fp as *const u8).offset(OUTER_EXIT_FP_OFFSET).cast::<usize>().read() };
            continue;
        }
        // SAFETY: `fp` is the frame pointer of a veneer, of an Enter stub or of compiled code: each keeps the caller's frame pointer there
        // and the return address above it. The guest is stopped, so its frames are intact.
        let (caller_fp, return_address) = unsafe { ((fp as *const usize).read(), (fp as *const usize).add(1).read()) };
        // The frame ends where its caller's, which has the frame pointer and the return address, begins.
        push_frame(&mut frames, return_address.wrapping_sub(1), Some((store, fp + 2 * size_of::<usize>()..caller_fp)));
        fp = caller_fp;
    }
    frames.truncate(most);
    frames
}

/// Adds the frames of the functions that the code at `pc` belongs to. Stubs are not functions and are passed over. `place` says where on the stack
/// of the store they are, up to their frame pointer.
fn push_frame(frames: &mut Vec<RawFrame>, pc: usize, place: Option<(&VmStore, Range<usize>)>) {
    let Some(module) = registry::lookup(pc) else { return };
    // SAFETY: code on the stack of a store belongs to a module that the store keeps.
    let Some(module) = unsafe { &*module }.to_arc() else { return };
    let found = module.frames_at(pc);
    let functions: Vec<FuncIndex> = found.iter().map(|(function, _)| *function).collect();
    let kept = place.map(|(store, place)| kept::find(store, &module, pc, place, &functions)).unwrap_or_default();
    let mut locals = kept.locals.into_iter();
    for (function, wasm_offset) in found {
        frames.push(RawFrame { module: module.clone(), function, wasm_offset, context: kept.context, locals: locals.next().flatten() });
    }
}
