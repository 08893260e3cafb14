//! Host functions as the machine sees them: a context to call them with, and a function reference that stands for them.

use super::entry::veneer::registers::{HostContext, register_veneer};
use super::store::VmStore;
use super::value::ValRaw;
use peregrine_artifact::vmctx::{HOST_MAGIC, VmContextHeader, VmFuncRef};
use std::any::Any;
use std::ptr::NonNull;

/// The code of a host function: takes its context and the array of parameters, which it overwrites with the results. On failure it
/// raises something pending in the store and returns.
pub(crate) type HostCode = unsafe extern "C" fn(*mut VmContextHeader, *mut ValRaw);

/// The code of a host function, and the ways by which guests call it without a stub.
#[derive(Clone, Copy)]
pub(crate) struct HostCodes {
    /// The code for all calls.
    pub(crate) array: HostCode,
    /// The veneer that makes the array, if there is one for the function's type.
    pub(crate) veneer: Option<*const u8>,
    /// A [`RegisterCode`](super::entry::veneer::registers::RegisterCode), for where fuel is not counted.
    pub(crate) registers: Option<*const u8>,
}

/// Bytes that a host function takes in a store, for [`Budget::host_bytes`](crate::Budget::host_bytes): its context, its reference, the handle
/// of its closure, and its places in three tables.
pub(crate) const HOST_FUNC_BYTES: usize = 256;

const _: () = assert!(size_of::<HostFunc>() + 3 * 16 <= HOST_FUNC_BYTES);

/// One host function of one store. Boxed; never moves.
pub(crate) struct HostFunc {
    context: HostContext,
    func_ref: VmFuncRef,
    /// Whether the code of the reference is a veneer, and not an Exit stub.
    has_veneer: bool,
    data: Box<dyn Any + Send + Sync>,
}

impl HostFunc {
    /// A host function of type `type_id`. If its code has no veneer for guests to call it by, it has no Exit stub either: no guest can call it
    /// through a reference yet.
    pub(crate) fn new(
        store: NonNull<VmStore>,
        number: u32,
        type_id: u32,
        codes: HostCodes,
        counts_fuel: bool,
        data: Box<dyn Any + Send + Sync>,
    ) -> Box<Self> {
        let header = VmContextHeader {
            magic: HOST_MAGIC,
            instance: number,
            store: store.as_ptr() as u64,
            builtins: super::builtins::array_address(),
            type_ids: codes.array as usize as u64,
            owner: 0,
            interrupt_page: 0,
        };
        let registers = codes.registers.filter(|_| !counts_fuel);
        let veneer = if registers.is_some() { Some(register_veneer()) } else { codes.veneer };
        let func_ref = VmFuncRef { code: veneer.map_or(0, |veneer| veneer as u64), vmctx: 0, type_id, reserved: 0, enter: 0 };
        let mut function = Box::new(Self { context: HostContext::new(header, registers), func_ref, has_veneer: veneer.is_some(), data });
        function.context.header.owner = &raw mut *function as u64;
        function.func_ref.vmctx = &raw mut function.context as u64;
        function
    }

    /// The function as an import of `caller`, whose module has the Exit stub `exit` for its type. Its pointers are set by [`BoundHostFunc::settle`].
    pub(crate) fn bind(&self, caller: NonNull<VmContextHeader>, exit: *const u8) -> BoundHostFunc {
        let context = self.context.with_header(VmContextHeader { interrupt_page: caller.as_ptr() as u64, ..self.context.header });
        let code = if self.has_veneer { self.func_ref.code } else { exit as u64 };
        BoundHostFunc { context, func_ref: VmFuncRef { code, ..self.func_ref } }
    }

    /// The code.
    pub(crate) fn code(&self) -> HostCode {
        // SAFETY: `new` stored a `HostCode` there, and nothing changes it.
        unsafe { std::mem::transmute::<usize, HostCode>(self.context.header.type_ids as usize) }
    }

    /// What stands for the function as a value.
    pub(crate) fn func_ref(&mut self) -> NonNull<VmFuncRef> {
        NonNull::from(&mut self.func_ref)
    }

    /// The engine-wide identity of its type.
    pub(crate) fn func_type_id(&self) -> u32 {
        self.func_ref.type_id
    }

    /// The address of its Exit stub; 0 if it has none.
    pub(crate) fn exit(&self) -> usize {
        self.func_ref.code as usize
    }

    /// Gives the function the Exit stub of its type, if it has none.
    pub(crate) fn set_exit(&mut self, exit: *const u8) {
        if self.func_ref.code == 0 {
            self.func_ref.code = exit as u64;
        }
    }

    /// What the API keeps with the function.
    pub(crate) fn data(&self) -> &(dyn Any + Send + Sync) {
        &*self.data
    }
}

/// A host function as an import of one instance: called through it, directly or by a reference, the instance is the caller.
pub(crate) struct BoundHostFunc {
    context: HostContext,
    func_ref: VmFuncRef,
}

impl BoundHostFunc {
    /// Fills in the address of the context, once it has its final place. Returns it and what stands for the function as a value.
    pub(crate) fn settle(&mut self) -> (*const VmContextHeader, NonNull<VmFuncRef>) {
        let context = (&raw mut self.context).cast::<VmContextHeader>().cast_const();
        self.func_ref.vmctx = context as u64;
        (context, NonNull::from(&mut self.func_ref))
    }
}

/// What the code of a host function learns from its context.
pub(crate) struct HostCall {
    /// The store that the call happens in.
    pub(crate) store: NonNull<VmStore>,
    /// The function.
    pub(crate) function: NonNull<HostFunc>,
    /// The calling instance: the one that imported the function. `None` if the host calls, or if the call came through a function
    /// reference that the host made.
    pub(crate) caller: Option<super::InstanceId>,
}

impl HostCall {
    /// Reads the context that a [`HostCode`] was given.
    ///
    /// # Safety
    ///
    /// 1. `context` is the first argument of a `HostCode` under way.
    pub(crate) unsafe fn from_context(context: *mut VmContextHeader) -> Self {
        // SAFETY: contexts given to host code are those made in this file, and live in the store or an instance of it (1).
        unsafe {
            let header = &*context;
            debug_assert_eq!(header.magic, HOST_MAGIC);
            let caller = NonNull::new(header.interrupt_page as *mut VmContextHeader);
            Self {
                store: NonNull::new_unchecked(header.store as *mut VmStore),
                function: NonNull::new_unchecked(header.owner as *mut HostFunc),
                caller: caller.map(|caller| super::InstanceId::from_u32(caller.as_ref().instance)),
            }
        }
    }
}
