//! The store: what instances live in, with the embedder's data, limits, fuel and deadline.

use crate::async_limits::AsyncLimiter;
use crate::budget::Counts;
use crate::call_hook::{GuestClock, Hook};
use crate::context::{AsContext, AsContextMut, StoreContext, StoreContextMut};
use crate::error::{Error, Result, bail};
use crate::exhausted;
use crate::extern_ref::HandleTable;
use crate::global::HOST_OBJECT_BYTES;
use crate::host_func::HostFunc;
use crate::interruption::EpochAction;
use crate::limiter::EmbedderPanic;
use crate::vm::alloc::EngineLease;
use crate::vm::boundary::{OwnedVm, StoreBox};
use crate::vm::{Asking, Cause, FuncId, Growth, Held, InstanceId, Interruption, MOST_DROPS, Pending, StoreHost, Unusual};
use crate::{
    Engine, FuncType, GcHeapOutOfMemory, HeapType, Module, RefType, ResourceLimiter, TagType, Trap, Val, WasmBacktrace, WasmCoreDump,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Instances and everything they use, with data `T` of the embedder.
///
/// Handles ([`Func`](crate::Func), [`Memory`](crate::Memory), [`Instance`](crate::Instance) and so on) are small and copied freely; they
/// mean something only together with their store, and every use checks that. **Using a handle with another store panics** with "object used
/// with the wrong store".
///
/// What a store holds is freed when the store is dropped.
///
/// ```
/// use peregrine::{Engine, Store};
///
/// let mut store = Store::new(&Engine::default(), 0);
/// *store.data_mut() += 1;
/// assert_eq!(store.into_data(), 1);
/// ```
pub struct Store<T: 'static> {
    inner: StoreBox<T>,
}

/// The number of a store, unique in the process, and in its low bits how many instances the store had dropped when a handle was made.
///
/// So a handle that is as new as the last drop is known to be good by one comparison, and older ones are looked up.
#[derive(Clone, Copy)]
pub struct StoreId(NonZeroU64);

/// Bits of a [`StoreId`] that count drops.
const DROP_BITS: u32 = 24;

impl PartialEq for StoreId {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
    }
}

impl Eq for StoreId {}

impl Hash for StoreId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}

/// Numbers of stores that a thread takes at once, so that threads do not meet at the counter.
const NUMBERS_AT_ONCE: u64 = 1 << 10;

impl StoreId {
    fn next() -> Self {
        thread_local! {
            static LEFT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (mut next, mut end) = LEFT.get();
        if next == end {
            next = NEXT.fetch_add(NUMBERS_AT_ONCE, Ordering::Relaxed);
            end = next + NUMBERS_AT_ONCE;
        }
        LEFT.set((next + 1, end));
        Self(NonZeroU64::new(next << DROP_BITS).expect("numbers end later than the process"))
    }
}

/// A store with its data.
pub struct StoreInner<T: 'static> {
    pub(crate) opaque: StoreOpaque,
    pub(crate) data: T,
    pub(crate) limiter: Limiter<T>,
    /// What a limiter that may wait answered before it was asked.
    pub(crate) answers: Vec<(Growth, Result<bool>)>,
    pub(crate) call_hook: Option<Hook<T>>,
    pub(crate) epoch_action: EpochAction<T>,
}

/// What decides over growth.
pub(crate) enum Limiter<T: 'static> {
    /// Nothing: everything is allowed.
    None,
    /// One that decides at once.
    Sync(SyncLimiter<T>),
    /// One that may wait.
    Async(AsyncLimiter<T>),
}

/// How many of the types that were kept last are compared with a new one.
const FEW_TYPES: usize = 8;

type SyncLimiter<T> = Box<dyn (FnMut(&mut T) -> &mut dyn ResourceLimiter) + Send + Sync>;

/// A store without its data.
pub struct StoreOpaque {
    id: StoreId,
    pub(crate) vm: OwnedVm,
    /// Dropped after the machine's part, which uses what belongs to the engine.
    engine: EngineLease,
    pub(crate) handles: HandleTable,
    /// Host functions of linkers that are part of this store already, by address.
    shared_funcs: BTreeMap<usize, (Arc<HostFunc>, u32)>,
    pub(crate) counts: Counts,
    /// Fuel beyond what the machine's counter holds.
    fuel_reserve: u64,
    /// After how much fuel the guest lets other tasks run.
    pub(crate) fuel_interval: Option<NonZeroU64>,
    /// The epoch at which the guest is interrupted.
    epoch_deadline: u64,
    /// The time at which the guest is interrupted.
    pub(crate) time_deadline: Option<Instant>,
    /// Types of functions that were called dynamically, by identity.
    func_types: BTreeMap<u32, FuncType>,
    /// Types of what the host made here: the machine knows their identities only.
    host_types: Vec<FuncType>,
    /// Values of dynamic calls, kept for their allocation.
    pub(crate) scratch: Vec<Val>,
    /// How long guests ran, if that is measured.
    pub(crate) guest_clock: GuestClock,
    /// Types of tags, by number.
    pub(crate) tags: Vec<TagType>,
}

impl<T: 'static> Store<T> {
    /// An empty store.
    ///
    /// # Panics
    ///
    /// Where [`try_new`](Self::try_new) fails.
    pub fn new(engine: &Engine, data: T) -> Self {
        Self::try_new(engine, data).expect("the system has room for a store")
    }

    /// As [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// If the engine interrupts guests and the system has no page left to tell them by.
    pub fn try_new(engine: &Engine, data: T) -> Result<Self> {
        let counts = Counts::new(engine.config());
        let engine = EngineLease::new(engine);
        let opaque = StoreOpaque {
            id: StoreId::next(),
            vm: OwnedVm::new(&engine, engine.config().epochs.then_some(Cause::Epoch))?,
            engine,
            handles: HandleTable::default(),
            shared_funcs: BTreeMap::new(),
            counts,
            fuel_reserve: 0,
            fuel_interval: None,
            epoch_deadline: 0,
            time_deadline: None,
            func_types: BTreeMap::new(),
            host_types: Vec::new(),
            guest_clock: GuestClock::default(),
            scratch: Vec::new(),
            tags: Vec::new(),
        };
        let inner =
            StoreInner { opaque, data, limiter: Limiter::None, answers: Vec::new(), call_hook: None, epoch_action: EpochAction::Trap };
        Ok(Self { inner: StoreBox::new(inner) })
    }

    /// Drops one instance: its memories, tables and globals are freed, or kept warm for the next instance of its module, and it no longer
    /// counts for limits. Everything else of the store goes on. The module's code stays until the store is dropped; it counts for none of the
    /// store's limits, as modules belong to no store. So a store in which ever new modules come and go grows with their code; drop it from
    /// time to time.
    ///
    /// A store drops 16,777,215 instances at most, since handles have 24 bits to tell how old they are.
    ///
    /// Handles to the instance, and to what was its, are of no use afterwards: whatever takes one panics, as it does with handles of other
    /// stores. They never mean another instance.
    ///
    /// ```
    /// use peregrine::{Engine, Instance, Module, Store};
    ///
    /// let engine = Engine::default();
    /// let module = Module::new(&engine, r#"(module (memory 1) (func (export "run")))"#)?;
    /// let mut store = Store::new(&engine, ());
    /// for _ in 0..1000 {
    ///     let plugin = Instance::new(&mut store, &module, &[])?;
    ///     plugin.get_typed_func::<(), ()>(&mut store, "run")?.call(&mut store, ())?;
    ///     store.drop_instance(plugin)?;
    /// }
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a guest of the store is running, or something refers to the instance, which the error names: another instance imports something
    /// of it, or a table or global has a function of it. If the store has dropped as many instances as it can, which the error says. Nothing
    /// has changed then.
    ///
    /// # Panics
    ///
    /// If it belongs to another store, or was dropped before.
    pub fn drop_instance(&mut self, instance: crate::Instance) -> Result<()> {
        instance.drop_in(&mut self.inner.opaque)
    }

    pub(crate) fn inner_mut(&mut self) -> &mut StoreInner<T> {
        &mut self.inner
    }

    pub(crate) fn opaque(&self) -> &StoreOpaque {
        &self.inner.opaque
    }

    pub(crate) fn opaque_mut(&mut self) -> &mut StoreOpaque {
        &mut self.inner.opaque
    }

    /// The embedder's data.
    pub fn data(&self) -> &T {
        &self.inner.data
    }

    /// The embedder's data, to change it.
    pub fn data_mut(&mut self) -> &mut T {
        &mut self.inner.data
    }

    /// The embedder's data; everything else is dropped.
    pub fn into_data(self) -> T {
        self.inner.into_inner().data
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.inner.opaque.engine
    }

    /// Installs what decides over the growth of memories and tables. `limiter` finds it in the embedder's data. Takes effect for what is
    /// created and grown from now on.
    pub fn limiter(&mut self, mut limiter: impl (FnMut(&mut T) -> &mut dyn ResourceLimiter) + Send + Sync + 'static) {
        let found = limiter(&mut self.inner.data);
        let most = (found.instances(), found.tables(), found.memories());
        self.inner.set_limiter(Limiter::Sync(Box::new(limiter)), most);
    }

    /// Installs a hook in place of what was there.
    pub(crate) fn set_call_hook(&mut self, hook: Hook<T>) {
        self.inner.opaque.vm.set_unusual(Unusual::CallHook, true);
        self.inner.call_hook = Some(hook);
    }

    /// The fuel that is left. See [`set_fuel`](Self::set_fuel).
    ///
    /// # Errors
    ///
    /// If the engine does not count fuel.
    pub fn get_fuel(&self) -> Result<u64> {
        self.inner.opaque.get_fuel()
    }

    /// Sets the fuel that guests may use from now on; a guest that runs out of it stops with [`Trap::OutOfFuel`]. A new store has none.
    ///
    /// ```
    /// use peregrine::{Config, Engine, Instance, Module, Store, Trap};
    ///
    /// let engine = Engine::new(Config::new().consume_fuel(true))?;
    /// let module = Module::new(&engine, r#"(module (func (export "spin") (loop br 0)))"#)?;
    /// let mut store = Store::new(&engine, ());
    /// store.set_fuel(10_000)?;
    /// let instance = Instance::new(&mut store, &module, &[])?;
    /// let spin = instance.get_typed_func::<(), ()>(&mut store, "spin")?;
    /// let error = spin.call(&mut store, ()).unwrap_err();
    /// assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::OutOfFuel));
    /// assert_eq!(store.get_fuel()?, 0);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the engine does not count fuel.
    pub fn set_fuel(&mut self, fuel: u64) -> Result<()> {
        self.inner.opaque.set_fuel(fuel)
    }

    /// Sets the deadline of guests `ticks_beyond_current` epochs from now. A new store's deadline is reached already. Without meaning
    /// unless the engine has [`Config::epoch_interruption`](crate::Config::epoch_interruption) on.
    pub fn set_epoch_deadline(&mut self, ticks_beyond_current: u64) {
        self.inner.opaque.set_epoch_deadline(ticks_beyond_current);
    }

    /// Accepted for compatibility: there is no collector yet, host values that guests hold are freed with the store.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn gc(&mut self, why: Option<&GcHeapOutOfMemory<()>>) -> Result<()> {
        let _ = why;
        Ok(())
    }

    /// Bytes of the heap of collected values: there is none.
    pub fn gc_heap_capacity(&self) -> usize {
        0
    }

    /// Whether an exception is on its way to the embedder: there are none.
    pub fn has_pending_exception(&self) -> bool {
        false
    }
}

impl<T: 'static> AsContext for Store<T> {
    type Data = T;

    fn as_context(&self) -> StoreContext<'_, T> {
        StoreContext(&self.inner)
    }
}

impl<T: 'static> AsContextMut for Store<T> {
    fn as_context_mut(&mut self) -> StoreContextMut<'_, T> {
        StoreContextMut(&mut self.inner)
    }
}

impl<T: fmt::Debug> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("data", &self.inner.data).finish_non_exhaustive()
    }
}

impl<T: Default> Default for Store<T> {
    fn default() -> Self {
        Self::new(&Engine::default(), T::default())
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}", self.number())
    }
}

impl StoreId {
    /// The number.
    pub(crate) fn number(self) -> u64 {
        self.0.get() >> DROP_BITS
    }

    /// How many instances the store had dropped.
    fn drops(self) -> u64 {
        self.0.get() & ((1 << DROP_BITS) - 1)
    }
}

impl StoreOpaque {
    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The check that every use of a handle makes: `id` is that of the store, at whatever time.
    #[inline]
    pub(crate) fn check_id(&self, id: StoreId) {
        assert!(self.id == id, "object used with the wrong store");
    }

    /// Whether something with `id` is of this store, for values, whose use elsewhere is an error.
    #[inline]
    pub(crate) fn owns(&self, id: StoreId) -> bool {
        self.id == id
    }

    /// As [`check_id`](Self::check_id), and that the instance that is meant was not dropped since.
    #[inline]
    pub(crate) fn check_instance(&self, id: StoreId, instance: InstanceId) {
        if self.id.0 != id.0 {
            self.check_id(id);
            assert!(self.vm.is_alive(instance, id.drops()), "object used after its instance was dropped");
        }
    }

    /// As [`check_id`](Self::check_id), and that the function at `address` was not dropped since with its instance.
    #[inline]
    pub(crate) fn check_func(&self, id: StoreId, address: u64) {
        if self.id.0 != id.0 {
            self.check_earlier_func(id, address);
        }
    }

    #[cold]
    #[inline(never)]
    fn check_earlier_func(&self, id: StoreId, address: u64) {
        self.check_id(id);
        assert!(self.vm.is_function_alive(address, id.drops()), "function used after its instance was dropped");
    }

    /// Takes back what an instance that was dropped had, and the shared memories that left with it: before there were `adopted`.
    pub(crate) fn uncount(&mut self, held: Held, adopted: usize) {
        self.counts.remove(held);
        let released = adopted.saturating_sub(self.vm.adopted_count());
        let memory_bytes = self.vm.take_released_bytes();
        self.counts.remove_shared(memory_bytes, released * HOST_OBJECT_BYTES);
        self.note_drops();
    }

    /// Makes handles that exist older than the last drop.
    pub(crate) fn note_drops(&mut self) {
        const { assert!(MOST_DROPS < 1 << DROP_BITS) };
        let id = self.id.number() << DROP_BITS | self.vm.drops();
        self.id = StoreId(NonZeroU64::new(id).unwrap_or(self.id.0));
    }

    /// The module of an instance, if a module made it.
    pub(crate) fn module_of(&self, instance: InstanceId) -> Option<&Module> {
        self.vm.module_of(instance)
    }

    /// The instances that modules made, by rising number.
    pub(crate) fn instances(&self) -> impl Iterator<Item = (InstanceId, &Module)> {
        self.vm.live_instances().filter_map(|instance| Some((instance.id(), self.vm.module_of(instance.id())?)))
    }

    /// The function type with an identity of the engine.
    pub(crate) fn func_type(&mut self, id: u32) -> FuncType {
        self.func_types.entry(id).or_insert_with(|| FuncType::from_id(id, self.engine.shared())).clone()
    }

    /// A host function that is shared between stores, as a function of this one.
    pub(crate) fn shared_func(&mut self, function: &Arc<HostFunc>) -> FuncId {
        let address = Arc::as_ptr(function) as usize;
        if let Some((_, number)) = self.shared_funcs.get(&address) {
            return FuncId::Host(*number);
        }
        let number = self.add_host_func(function);
        self.shared_funcs.insert(address, (Arc::clone(function), number));
        FuncId::Host(number)
    }

    /// Makes a host function part of this store.
    ///
    /// # Panics
    ///
    /// If its type belongs to another engine, whose identities mean other types here.
    pub(crate) fn add_host_func(&mut self, function: &HostFunc) -> u32 {
        assert!(function.ty().comes_from(&self.engine), "function used with a store of another engine");
        self.counts.add_host_bytes_anyway(crate::vm::HOST_FUNC_BYTES);
        self.vm.new_host_func(function.ty().id(), function.codes(), function.data())
    }

    /// Keeps the type of what the host makes here as long as the store, so that its identity stays what it is.
    pub(crate) fn keep_type(&mut self, ty: &FuncType) {
        if !self.host_types.iter().rev().take(FEW_TYPES).any(|kept| kept == ty) {
            self.host_types.push(ty.clone());
        }
    }

    /// As [`keep_type`](Self::keep_type), for references to functions of one type.
    pub(crate) fn keep_types_of(&mut self, ty: &RefType) {
        if let HeapType::ConcreteFunc(ty) = ty.heap_type() {
            self.keep_type(ty);
        }
    }

    pub(crate) fn get_fuel(&self) -> Result<u64> {
        if !self.engine.config().fuel {
            bail!("fuel is not counted; turn on `Config::consume_fuel`");
        }
        let consumed = self.vm.context.fuel_consumed;
        let used_beyond = u64::try_from(consumed).unwrap_or(0);
        Ok(self.fuel_reserve.saturating_add(consumed.min(0).unsigned_abs()).saturating_sub(used_beyond))
    }

    pub(crate) fn set_fuel(&mut self, fuel: u64) -> Result<()> {
        if !self.engine.config().fuel {
            bail!("fuel is not counted; turn on `Config::consume_fuel`");
        }
        let counted = i64::try_from(fuel.min(self.fuel_interval.map_or(u64::MAX, NonZeroU64::get))).unwrap_or(i64::MAX);
        self.vm.context.fuel_consumed = -counted;
        self.fuel_reserve = fuel - counted as u64;
        Ok(())
    }

    pub(crate) fn set_epoch_deadline(&mut self, ticks: u64) {
        if !self.engine.config().epochs {
            return;
        }
        self.vm.set_has_epoch_deadline();
        if let Some(page) = self.vm.interrupt_page() {
            self.epoch_deadline = self.engine.set_deadline(self.id.number(), page, self.epoch_deadline, ticks);
        }
    }

    /// The error of a call that did not return, or the panic of the host function that stopped it.
    #[cold]
    pub(crate) fn error_of(&self, pending: Pending) -> Error {
        let (error, frames) = match pending {
            Pending::Trap(trap, frames) => (Error::from(trap), frames),
            Pending::Error(error, frames) => (exhausted::explain(EmbedderPanic::resume(error)), frames),
            Pending::Panic(payload) => resume_unwind(payload),
        };
        let dump = self.engine.config().coredump_on_trap && !frames.is_empty() && error.downcast_ref::<WasmCoreDump>().is_none();
        let error = if dump { error.context(WasmCoreDump::new(self, frames.clone())) } else { error };
        let wanted = self.engine.config().wasm_backtrace && !frames.is_empty() && error.downcast_ref::<WasmBacktrace>().is_none();
        if wanted { error.context(WasmBacktrace::new(&self.engine, frames)) } else { error }
    }
}

impl Drop for StoreOpaque {
    fn drop(&mut self) {
        self.stop_clock();
        // A new store's deadline is nowhere.
        if self.epoch_deadline != 0 {
            self.engine.remove_deadline(self.id.number(), self.epoch_deadline);
        }
        if let Some(at) = self.time_deadline {
            crate::deadline::forget(at, self.id.number());
        }
    }
}

impl<T: 'static> StoreHost for StoreInner<T> {
    fn memory_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> Result<bool> {
        self.growing(Growth { is_memory: true, current, desired, max })
    }

    fn table_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> Result<bool> {
        self.growing(Growth { is_memory: false, current, desired, max })
    }

    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        self.growth_failed(true, error)
    }

    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        self.growth_failed(false, error)
    }

    fn budget_refusal(&self) -> Option<String> {
        self.opaque.counts.refusal()
    }

    fn ask_growth(&mut self, growth: Growth) -> Option<Asking<'_>> {
        // What the budget refuses no limiter is asked for.
        let mut trial = self.opaque.counts;
        trial.grow(growth.is_memory, growth.current, growth.desired).then(|| self.ask_async(growth)).flatten()
    }

    fn growth_answered(&mut self, growth: Growth, answer: Result<bool>) {
        self.answers.clear();
        self.answers.push((growth, answer));
    }

    fn growth_outdated(&mut self, growth: Growth, answer: Result<bool>) -> Result<()> {
        match answer {
            Ok(true) => {
                self.tell_failure(growth.is_memory, Error::msg("another thread made the memory larger before the limiter had answered"))
            }
            Ok(false) => Ok(()),
            // As where it is asked in time: the guest is not to go on.
            Err(error) => Err(error),
        }
    }

    fn forget_answers(&mut self) {
        self.answers.clear();
    }

    fn out_of_fuel(&mut self) -> Result<bool> {
        let opaque = &mut self.opaque;
        let used_beyond = u64::try_from(opaque.vm.context.fuel_consumed).unwrap_or(0);
        if opaque.fuel_reserve < used_beyond {
            // What was used beyond the fuel given is forgiven, so that what is left reads 0.
            (opaque.vm.context.fuel_consumed, opaque.fuel_reserve) = (0, 0);
            return Err(Trap::OutOfFuel.into());
        }
        // Whatever the interval, what was used is paid.
        let wanted = opaque.fuel_interval.map_or(i64::MAX as u64 / 2, NonZeroU64::get).max(used_beyond);
        let refill = opaque.fuel_reserve.min(wanted).min(i64::MAX as u64 / 2);
        opaque.fuel_reserve -= refill;
        opaque.vm.context.fuel_consumed -= refill as i64;
        Ok(opaque.fuel_interval.is_some())
    }

    fn interrupted(&mut self) -> Result<Interruption> {
        EmbedderPanic::catch(|| self.at_interruption())
    }

    fn extend_deadline(&mut self, ticks: u64) {
        self.opaque.set_epoch_deadline(ticks);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Engine, Func, FuncType, Store, ValType};

    #[test]
    fn a_store_keeps_the_types_it_uses_and_not_the_engines() {
        let engine = Engine::new(&crate::Config::new()).expect("an engine");
        let types: Vec<_> = (0..500).map(|count| FuncType::new(&engine, (0..count).map(|_| ValType::I32), [])).collect();
        let last = FuncType::new(&engine, [ValType::F64], []);
        let mut store = Store::new(&engine, ());
        let func = Func::new(&mut store, last, |_, _, _| Ok(()));
        func.call(&mut store, &[crate::Val::F64(0)], &mut []).expect("it returns");
        assert_eq!((store.opaque().func_types.len(), types.len()), (1, 500));
    }
}
