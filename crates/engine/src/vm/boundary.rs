//! The machine's side of the API: the few operations on raw memory and code that the safe rest of the crate is built on.
//!
//! Everything here takes the API's own types and checks what can be checked in one comparison; what stays is listed with each function as
//! an obligation that the API discharges by construction (handles carry their store, types are compared before values are written).

use super::alloc::{EngineLease, KeptShared};
use super::code::{LoadError, LoadOptions, LoadedModule};
use super::entry::direct::{self, Registers, Returned, Shape};
use super::hooked_call::{HookedCall, Values, hooked_call};
use super::host::{HostCall, HostCode};
use super::preempt::{decide, decide_nested};
use super::suspend::{Progress, Suspended, Wait};
use super::value::ValRaw;
use super::{Cause, FuncId, InstanceId, Pending, SharedMemory, StoreHost, Unusual, VmImport, VmShared, VmStore, memory, table};
use crate::Caller;
use crate::call_hook::CallHook;
use crate::host_func::HostBody;
use crate::store::{StoreId, StoreInner, StoreOpaque};
use peregrine_artifact::vmctx::{VmContextHeader, VmFuncRef, VmGlobal};
use peregrine_sys::unwind::UnwindRegistration;
use peregrine_wasm::{DefinedGlobalIndex, DefinedMemoryIndex, DefinedTableIndex, MemoryType, Module, Trap};
use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::Context;

/// A store on the heap. Unlike in a `Box`, pointers to the content stay good while the owner is moved.
pub(crate) struct StoreBox<T: 'static>(NonNull<StoreInner<T>>);

// SAFETY: it owns its content as a box does; `OwnedVm` and everything else in there is `Send`.
unsafe impl<T: Send> Send for StoreBox<T> {}
// SAFETY: sharing it shares its content, as for a box.
unsafe impl<T: Sync> Sync for StoreBox<T> {}

impl<T: 'static> StoreBox<T> {
    /// Moves `inner` to the heap.
    pub(crate) fn new(inner: StoreInner<T>) -> Self {
        Self(NonNull::from(Box::leak(Box::new(inner))))
    }

    /// The content, back from the heap.
    pub(crate) fn into_inner(self) -> StoreInner<T> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the pointer came from a box, and `this` is not dropped.
        *unsafe { Box::from_raw(this.0.as_ptr()) }
    }
}

impl<T: 'static> Deref for StoreBox<T> {
    type Target = StoreInner<T>;

    fn deref(&self) -> &StoreInner<T> {
        // SAFETY: the content lives as long as the box, and is borrowed as the box is.
        unsafe { self.0.as_ref() }
    }
}

impl<T: 'static> DerefMut for StoreBox<T> {
    fn deref_mut(&mut self) -> &mut StoreInner<T> {
        // SAFETY: as in `deref`.
        unsafe { self.0.as_mut() }
    }
}

impl<T: 'static> Drop for StoreBox<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box and nothing else frees it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A [`VmStore`] that is owned. Contexts and compiled code point to it.
pub(crate) struct OwnedVm(NonNull<VmStore>);

// SAFETY: what it points to is used by whoever has the store borrowed, on any thread; nothing in it depends on the thread between calls.
unsafe impl Send for OwnedVm {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for OwnedVm {}

impl OwnedVm {
    /// An empty store, interrupted for `cause` from the beginning.
    ///
    /// The owner ends the lease after dropping the result: both are private to a store, which declares them in that order.
    pub(crate) fn new(engine: &EngineLease, cause: Option<Cause>) -> io::Result<Self> {
        // SAFETY: as described.
        let shared = unsafe { KeptShared::of(engine) };
        Ok(Self(NonNull::from(Box::leak(VmStore::new(shared, cause)?))))
    }
}

impl Deref for OwnedVm {
    type Target = VmStore;

    fn deref(&self) -> &VmStore {
        // SAFETY: it lives as long as `self`; the machine uses it only while the store is lent to a call.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for OwnedVm {
    fn deref_mut(&mut self) -> &mut VmStore {
        // SAFETY: as in `deref`.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for OwnedVm {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box and nothing else frees it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl OwnedVm {
    /// The machine's part of the store, for who has borrowed the whole.
    pub(super) fn pointer(&self) -> NonNull<VmStore> {
        self.0
    }
}

/// While it lives, a store is lent to the machine, by pointers alone.
pub(super) struct StoreLoan {
    vm: NonNull<VmStore>,
    outer: Option<NonNull<dyn StoreHost>>,
}

impl StoreLoan {
    /// # Safety
    ///
    /// 1. `vm` is the machine's part of `store`; both are valid as long as the result lives, and nobody else uses them.
    pub(super) unsafe fn new<T: 'static>(vm: NonNull<VmStore>, store: NonNull<StoreInner<T>>) -> Self {
        // SAFETY: as the caller says (1).
        unsafe {
            let outer = (*vm.as_ptr()).host();
            (*vm.as_ptr()).set_host(store);
            Self { vm, outer }
        }
    }
}

impl Drop for StoreLoan {
    fn drop(&mut self) {
        // SAFETY: as was promised to `new`.
        unsafe { (*self.vm.as_ptr()).restore_host(self.outer) };
    }
}

/// Lends the store to the machine, which may call back its limits and host functions.
fn lend<T: 'static, R>(store: &mut StoreInner<T>, work: impl FnOnce(NonNull<VmStore>) -> R) -> R {
    let vm = store.opaque.vm.0;
    let host: NonNull<dyn StoreHost> = NonNull::from(&mut *store);
    // SAFETY: the machine's part is alive and nobody has borrowed it: the API's `&mut` is here. `host` is good until `work` is done;
    // afterwards the one of the call outside is put back.
    unsafe {
        let outer = (*vm.as_ptr()).host();
        (*vm.as_ptr()).set_host(host);
        let result = work(vm);
        if let Some(outer) = outer {
            (*vm.as_ptr()).set_host(outer);
        }
        result
    }
}

/// A function, looked up and ready to be called.
#[derive(Clone, Copy)]
pub(crate) struct Callee {
    store: StoreId,
    slots: u32,
    code: Code,
}

#[derive(Clone, Copy)]
enum Code {
    Wasm(NonNull<VmFuncRef>),
    Host(HostCode, NonNull<VmContextHeader>),
}

// SAFETY: its pointers are followed only with the store borrowed whose number it carries.
unsafe impl Send for Callee {}
// SAFETY: as above.
unsafe impl Sync for Callee {}

impl Callee {
    /// Prepares calls of the function that `func` stands for, whose type has at most `slots` parameters and at most `slots` results.
    pub(crate) fn new(store: &StoreOpaque, func: FuncBits, slots: usize) -> Self {
        let func_ref = func.pointer();
        // SAFETY: the reference is one of this store's, so it and the context of a host function live as long as the store.
        let code = unsafe {
            if (*func_ref.as_ptr()).enter != 0 {
                Code::Wasm(func_ref)
            } else {
                let FuncId::Host(number) = store.vm.func_of_ref(func_ref) else { unreachable!("guest functions have an Enter stub") };
                let context = NonNull::new_unchecked((*func_ref.as_ptr()).vmctx as *mut VmContextHeader);
                Code::Host(store.vm.host_func(number).code(), context)
            }
        };
        // A function type has at most a thousand of either.
        Self { store: store.id(), slots: slots as u32, code }
    }

    /// Calls the function. `values` holds parameters of the types it takes, and its results on success.
    ///
    /// # Panics
    ///
    /// If it belongs to another store, or `values` has fewer slots than parameters or results.
    #[inline]
    pub(crate) fn call<T: 'static>(&self, store: &mut StoreInner<T>, values: &mut [ValRaw]) -> Result<(), Pending> {
        self.check(store, values.len());
        let values = values.as_mut_ptr();
        store.crossing(CallHook::CallingWasm).map_err(|error| Pending::Error(error, Vec::new()))?;
        // SAFETY: the store is borrowed.
        let outcome = if let Some(task) = unsafe { (*store.opaque.vm.0.as_ptr()).set_task(None) } {
            // A host function of a call that can wait makes one that cannot.
            let vm = store.opaque.vm.0;
            let outcome = self.call_values(store, values);
            // SAFETY: the store is borrowed.
            unsafe { (*vm.as_ptr()).set_task(Some(task)) };
            outcome
        } else {
            self.call_values(store, values)
        };
        match (store.crossing(CallHook::ReturningFromWasm), outcome) {
            (Err(error), outcome) if !matches!(outcome, Err(Pending::Panic(_))) => Err(Pending::Error(error, Vec::new())),
            (_, outcome) => outcome,
        }
    }

    #[inline]
    fn call_values<T: 'static>(&self, store: &mut StoreInner<T>, values: *mut ValRaw) -> Result<(), Pending> {
        lend(store, |vm| match self.code {
            // SAFETY: the store is lent and the reference is its own; there are enough slots, and the API has written values of the right
            // types to them.
            Code::Wasm(func_ref) => unsafe {
                (*vm.as_ptr()).used.count_call();
                // A call that waits is looked at where it begins; this one cannot, so that there is nothing to wait for.
                let outcome = look(vm, None).and_then(|_| super::call(vm, func_ref, values));
                (*vm.as_ptr()).rest();
                outcome
            },
            Code::Host(code, context) => {
                // SAFETY: the code belongs to the context, which the store keeps; values as above. Before the function is called and when it
                // has returned, nobody has borrowed the machine's part.
                let pending = unsafe {
                    let outer = (*vm.as_ptr()).set_unusual(Unusual::HostCall, true);
                    code(context.as_ptr(), values);
                    (*vm.as_ptr()).set_unusual(Unusual::HostCall, outer);
                    (*vm.as_ptr()).take_pending()
                };
                match pending {
                    None => Ok(()),
                    Some(pending) => Err(pending),
                }
            }
        })
    }

    /// Whether the function can be called directly now. [`Callee::call`] is for all other calls.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    #[inline(always)]
    pub(crate) fn direct<T: 'static>(&self, store: &StoreInner<T>) -> Option<DirectCallee> {
        store.opaque.check_func(self.store, self.address());
        // SAFETY: the store is borrowed.
        let is_possible = unsafe { direct::is_possible(store.opaque.vm.0, std::ptr::from_ref(store).cast()) };
        match self.code {
            Code::Wasm(func_ref) if is_possible => Some(DirectCallee(func_ref)),
            _ => None,
        }
    }

    /// The address of what it is called through, which is part of its store.
    #[inline]
    fn address(&self) -> u64 {
        match self.code {
            Code::Wasm(func_ref) => func_ref.as_ptr() as u64,
            Code::Host(_, context) => context.as_ptr() as u64,
        }
    }

    /// Checks that a call in `store` with `slots` values can be made.
    #[inline]
    pub(super) fn check<T: 'static>(&self, store: &StoreInner<T>, slots: usize) {
        store.opaque.check_func(self.store, self.address());
        assert!(slots >= self.slots as usize, "too few slots for a call");
    }

    /// Counts a call that may be suspended, and looks for an interruption before it begins. Gives what is to be waited for first, if there is something.
    ///
    /// # Errors
    ///
    /// What ends the call.
    ///
    /// # Safety
    ///
    /// 1. The store is lent.
    pub(super) unsafe fn look(&self, vm: NonNull<VmStore>, task: &mut Context<'_>) -> Result<Option<Wait>, Pending> {
        match self.code {
            // SAFETY: as the caller says (1).
            Code::Wasm(_) => unsafe {
                // One that ends here is a call too.
                (*vm.as_ptr()).used.count_call();
                look(vm, Some(task))
            },
            Code::Host(..) => Ok(None),
        }
    }

    /// Begins a call that may be suspended; the task is noted.
    ///
    /// # Safety
    ///
    /// 1. The store, which is the one that [`Callee::check`] was asked about, is lent.
    /// 2. `values` has as many slots as were checked, and holds parameters of the right types. It stays where it is until the call has ended.
    pub(super) unsafe fn begin(&self, vm: NonNull<VmStore>, values: *mut ValRaw) -> Progress {
        match self.code {
            // SAFETY: as the caller says (1, 2).
            Code::Wasm(func_ref) => unsafe { super::entry::begin(vm, func_ref, values) },
            Code::Host(code, context) => {
                // SAFETY: the code belongs to the context, which the store keeps; values as the caller says (2).
                unsafe { code(context.as_ptr(), values) };
                // SAFETY: the function has returned or waits, so nobody has borrowed the machine's part.
                let vm = unsafe { &mut *vm.as_ptr() };
                match (vm.take_wait(), vm.take_pending()) {
                    (Some((_, wait)), _) => Progress::Suspended(Suspended { frame: None, wait }),
                    (None, Some(pending)) => Progress::Ended(pending),
                    (None, None) => Progress::Returned,
                }
            }
        }
    }
}

/// Looks for an interruption before a guest is entered: short functions do not look themselves. `task` is that of the call, if it can wait; without
/// one there is nothing to wait for.
///
/// # Errors
///
/// What ends the call.
///
/// # Safety
///
/// 1. `vm` is valid and lent, and no reference into it is held.
#[inline]
unsafe fn look(vm: NonNull<VmStore>, task: Option<&mut Context<'_>>) -> Result<Option<Wait>, Pending> {
    // SAFETY: as the caller says (1).
    unsafe {
        if !(*vm.as_ptr()).is_interrupted() {
            return Ok(None);
        }
        let decided = match task {
            // The guest below is the one to yield.
            None if (*vm.as_ptr()).context.exit_fp != 0 => decide_nested(vm).map(|()| None),
            task => decide(vm, task),
        };
        decided.inspect_err(|pending| {
            if let Pending::Trap(..) = pending {
                (*vm.as_ptr()).used.count_trap();
            }
        })
    }
}

/// A function of a store in which nothing unusual is under way.
pub(crate) struct DirectCallee(NonNull<VmFuncRef>);

impl DirectCallee {
    /// Calls the function. `registers` holds parameters of the types it takes, which are of a shape that is
    /// [direct](Shape::is_direct). `store` is the one that [`Callee::direct`] was asked about, unchanged since.
    #[inline(always)]
    pub(crate) fn call<T: 'static>(self, store: &mut StoreInner<T>, registers: &Registers, shape: Shape) -> Result<Returned, Pending> {
        let vm = store.opaque.vm.0;
        // SAFETY: the store is lent as by `lend`, with a host that it knows already; no call is outside, so nobody is to be put back. The
        // reference is the store's own, and the API has written values of the right types, as many as there are.
        let returned = unsafe {
            (*vm.as_ptr()).used.count_call();
            direct::call(vm, (&raw mut *store).cast(), self.0, registers, shape)
        };
        returned.ok_or_else(|| why_ended(store.opaque.vm.0))
    }
}

#[cold]
#[inline(never)]
fn why_ended(vm: NonNull<VmStore>) -> Pending {
    // SAFETY: the caller has borrowed the store, and the guest is gone.
    unsafe { super::entry::why_ended(vm) }
}

/// The code of host functions with the body `B`, whose data is an `Arc<B>`, in stores of `T`.
///
/// # Safety
///
/// 1. Called by a veneer or by [`Callee::call`], with the context of a host function that was made with an `Arc<B>` in a store of `T`.
/// 2. `values` has as many slots as the body says, holding its parameters.
pub(crate) unsafe extern "C" fn host_entry<T: 'static, B: HostBody<T>>(context: *mut VmContextHeader, values: *mut ValRaw) {
    // SAFETY: the context is that of the host function under way (1). While it runs, the store belongs to it: `lend` gave the machine the
    // pointer to the whole store, and everything outside waits. The data is what the function was made with (1).
    let (vm, store, body, caller) = unsafe {
        let call = HostCall::from_context(context);
        let vm = call.store;
        let host = vm.as_ref().host().expect("the guest runs only in a store that was lent");
        let body = &*std::ptr::from_ref(call.function.as_ref().data()).cast::<Arc<B>>();
        (vm, &mut *host.as_ptr().cast::<StoreInner<T>>(), body, call.caller)
    };
    // SAFETY: the caller gives that many slots (2).
    let values = unsafe { std::slice::from_raw_parts_mut(values, body.slots()) };
    // Nothing installs a hook while the function runs: that takes the store itself.
    let outcome = if store.call_hook.is_none() {
        catch_unwind(AssertUnwindSafe(|| body.call(Caller::new(&mut *store, caller), values)))
    } else {
        // SAFETY: as above; the values stay where they are until the guest goes on, or whoever called has its result.
        catch_unwind(AssertUnwindSafe(|| unsafe { call_hooked(vm, NonNull::from(&**body), NonNull::from(store), caller, values) }))
    };
    if !matches!(outcome, Ok(Ok(()))) {
        failed(vm, outcome);
    }
}

/// Calls the body of a host function, and the store's hook before and after. If this has to wait, the guest is suspended.
///
/// # Safety
///
/// 1. `vm` is the machine's part of `store`, which belongs to the host function under way and is not borrowed; the body is kept by it.
/// 2. `values` are as the body expects, and stay where they are until the call has ended.
#[cold]
#[inline(never)]
unsafe fn call_hooked<T: 'static, B: HostBody<T>>(
    vm: NonNull<VmStore>,
    body: NonNull<B>,
    mut store: NonNull<StoreInner<T>>,
    caller: Option<InstanceId>,
    values: &mut [ValRaw],
) -> anyhow::Result<()> {
    // SAFETY: as the caller says (1, 2); every borrow ends at once.
    unsafe {
        if store.as_ref().hook_may_wait() && vm.as_ref().task().is_some() {
            return hooked_call(HookedCall::new(vm, body, store, caller, Values::Lent(values))).map(drop);
        }
        store.as_mut().crossing(CallHook::CallingHost)?;
        let outcome = body.as_ref().call(Caller::new(store.as_mut(), caller), values);
        store.as_mut().crossing(CallHook::ReturningFromHost)?;
        outcome
    }
}

/// Raises what a host function failed with, which is done with the store.
#[cold]
#[inline(never)]
pub(super) fn failed(mut vm: NonNull<VmStore>, outcome: std::thread::Result<anyhow::Result<()>>) {
    let pending = match outcome {
        Ok(Ok(())) => return,
        // SAFETY: the body is done with the store.
        Ok(Err(error)) => Pending::Error(error, super::backtrace(unsafe { vm.as_ref() })),
        Err(payload) => Pending::Panic(payload),
    };
    // SAFETY: as above.
    unsafe { vm.as_mut() }.raise(pending);
}

/// Makes an instance. See [`VmStore::instantiate`].
pub(crate) fn instantiate<T: 'static>(
    store: &mut StoreInner<T>,
    module: &crate::Module,
    imports: &[VmImport],
) -> Result<InstanceId, Pending> {
    // SAFETY: the machine's part is lent.
    lend(store, |vm| unsafe { (*vm.as_ptr()).instantiate(module, imports) })
}

/// Makes something of the host's: a memory, a table or a global.
pub(crate) fn create<T: 'static, R>(store: &mut StoreInner<T>, work: impl FnOnce(&mut VmStore) -> R) -> R {
    // SAFETY: the machine's part is lent.
    lend(store, |vm| work(unsafe { &mut *vm.as_ptr() }))
}

/// Grows a memory. See [`memory::grow`].
pub(crate) fn grow_memory<T: 'static>(
    store: &mut StoreInner<T>,
    owner: InstanceId,
    index: DefinedMemoryIndex,
    delta_pages: u64,
) -> Result<Option<u64>, Pending> {
    // SAFETY: the machine's part is lent, and no reference into it is held.
    lend(store, |vm| unsafe {
        let growth = memory::measure(vm, (owner, index), delta_pages);
        memory::grow(vm, (owner, index), delta_pages, growth)
    })
}

/// Grows a table. See [`table::grow`].
pub(crate) fn grow_table<T: 'static>(
    store: &mut StoreInner<T>,
    owner: InstanceId,
    index: DefinedTableIndex,
    delta: u64,
    element: u64,
) -> Result<Option<u64>, Pending> {
    // SAFETY: as in `grow_memory`.
    lend(store, |vm| unsafe { table::grow(vm, owner, index, delta, element) })
}

/// Copies elements between tables of a store. See [`table::copy`].
pub(crate) fn copy_table(
    store: &mut StoreOpaque,
    target: (InstanceId, DefinedTableIndex, u64),
    source: (InstanceId, DefinedTableIndex, u64),
    len: u64,
) -> Result<(), Trap> {
    // SAFETY: the store is borrowed here, and no reference into the machine's part is held.
    unsafe { table::copy(store.vm.0, target, source, len) }
}

/// The bytes of a memory.
pub(crate) fn memory_bytes(store: &StoreOpaque, owner: InstanceId, index: DefinedMemoryIndex) -> &[u8] {
    let memory = store.vm.instance(owner).memory(index);
    // SAFETY: the memory's accessible bytes; it neither grows nor is written while the store is borrowed.
    unsafe { std::slice::from_raw_parts(memory.base(), memory.len_bytes()) }
}

/// The bytes of a memory, to change them, beside the embedder's data.
pub(crate) fn memory_bytes_mut<T: 'static>(store: &mut StoreInner<T>, owner: InstanceId, index: DefinedMemoryIndex) -> (&mut [u8], &mut T) {
    let memory = store.opaque.vm.instance(owner).memory(index);
    // SAFETY: the memory's accessible bytes, which no Rust object is in; the store stays borrowed as long as they are.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.base(), memory.len_bytes()) };
    (bytes, &mut store.data)
}

/// Makes a memory that belongs to no store.
pub(crate) fn new_shared_memory(shared: &VmShared, ty: MemoryType) -> anyhow::Result<Arc<SharedMemory>> {
    let module = LoadedModule::without_code(Module::default(), &shared.types);
    let is_no_room = |error: &anyhow::Error| error.downcast_ref().is_some_and(super::is_no_room);
    shared.make_where_room_is(is_no_room, || {
        SharedMemory::new(ty, (&shared.settings, &shared.room), (&module, DefinedMemoryIndex::from_u32(0)))
    })
}

/// The bytes of a shared memory.
pub(crate) fn shared_memory_bytes(memory: &SharedMemory) -> &[UnsafeCell<u8>] {
    // SAFETY: the accessible bytes, which stay so while the memory lives; cells may be changed by anyone at any time.
    unsafe { std::slice::from_raw_parts(memory.base().cast(), memory.len_bytes()) }
}

/// The value of a global, as bits.
pub(crate) fn global_bits(store: &StoreOpaque, owner: InstanceId, index: DefinedGlobalIndex) -> u128 {
    // SAFETY: the cell is part of the owner's context, and nobody writes it while the store is borrowed.
    u128::from_le_bytes(unsafe { store.vm.instance(owner).global(index).read() }.bytes)
}

/// Writes a global, whose type the bits are of.
pub(crate) fn set_global_bits(store: &mut StoreOpaque, owner: InstanceId, index: DefinedGlobalIndex, bits: u128) {
    // SAFETY: as in `global_bits`.
    unsafe { store.vm.instance(owner).global(index).write(VmGlobal { bytes: bits.to_le_bytes() }) };
}

/// A function of a store as the machine refers to it: the address of a [`VmFuncRef`]. The bits come from that store: from a value of
/// a function type that the machine gave, or from the caller of an `unsafe` function of the API who says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FuncBits(NonZeroU64);

impl FuncBits {
    /// The function that the machine's bits stand for; `None` for null.
    pub(crate) fn new(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    /// What stands for a function of the store.
    pub(crate) fn of(store: &mut StoreOpaque, function: FuncId) -> Self {
        let address = store.vm.func_ref(function).as_ptr() as u64;
        Self(NonZeroU64::new(address).expect("a reference is not null"))
    }

    /// The bits.
    pub(crate) fn get(self) -> u64 {
        self.0.get()
    }

    /// The function. `store` is the one it belongs to.
    pub(crate) fn id(self, store: &StoreOpaque) -> FuncId {
        // SAFETY: the reference is one of this store's.
        unsafe { store.vm.func_of_ref(self.pointer()) }
    }

    /// The engine-wide identity of its type. `store` is the one it belongs to.
    pub(crate) fn type_id(self, store: &StoreOpaque) -> u32 {
        let _ = store;
        // SAFETY: references live as long as their store, which is borrowed.
        unsafe { (*self.pointer().as_ptr()).type_id }
    }

    fn pointer(self) -> NonNull<VmFuncRef> {
        // SAFETY: not zero.
        unsafe { NonNull::new_unchecked(self.get() as *mut VmFuncRef) }
    }
}

/// Maps an image. The file is replaced by renaming only: it is an entry of the cache, or the caller of an `unsafe` function of the API
/// says so.
pub(crate) fn map_image(file: &File, shared: &VmShared, options: LoadOptions) -> Result<Arc<LoadedModule>, LoadError> {
    // SAFETY: as described.
    shared.make_where_room_is(LoadError::is_no_room, || unsafe { LoadedModule::from_file(file, &shared.types, options) })
}

/// Tells the unwinder of the process about code. `eh_frame` describes the text of a loaded module, which outlives the result.
pub(crate) fn register_unwind(eh_frame: &[u8]) -> io::Result<UnwindRegistration> {
    // SAFETY: the section is made in this crate for that text alone.
    unsafe { UnwindRegistration::new(eh_frame) }
}

/// Takes the handlers of faults back. For [`Engine::unload_process_handlers`](crate::Engine::unload_process_handlers) alone, whose callers promise
/// that no guest of any engine runs on any thread meanwhile.
pub(crate) fn unload_fault_handlers() -> io::Result<()> {
    // SAFETY: promised by who calls the one caller.
    unsafe { super::fault::uninstall() }
}
