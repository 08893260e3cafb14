//! A store as the machine sees it: instances, host functions, the guest stack, and what is pending.

use super::address_space::AddressRoom;
use super::adopted::Adopted;
use super::alloc::lease::{KeptModule, KeptShared, ModuleRef, ModuleSource};
use super::alloc::{
    Counters, Counting, WarmModules,
    idle::{HeldStacks, IdleSlots},
    used::{StoresUsed, Used},
};
use super::code::LoadedModule;
use super::dropping::Alive;
use super::fault::Fault;
use super::host::{HostCodes, HostFunc};
use super::instance::{FuncId, InstanceId, VmInstance};
use super::interrupt::{Cause, InterruptPage};
use super::owned_instance::OwnedInstance;
use super::pending::Pending;
use super::store_host::StoreHost;
use super::suspend::{PENDING_SUSPENSION, Wait};
use super::types::TypeRegistry;
use crate::MemoryCreator;
use peregrine_artifact::abi::MOST_TYPES_WITH_ALL_STUBS;
use peregrine_artifact::settings::Settings;
use peregrine_artifact::vmctx::{INSTANCE_MAGIC, VmContextHeader, VmFuncRef, VmStoreContext};
use peregrine_sys::stack::{GuestStack, StackPool};
use peregrine_wasm::{Trap, TypeIndex};
use smallvec::SmallVec;
use std::any::Any;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Context;
use std::time::Instant;

/// Up to this many modules are compared one by one: faster than hashing, and without an allocation.
const FEW_MODULES: usize = 8;

/// How many frames backtraces have unless the embedder says otherwise.
pub(crate) const DEFAULT_FRAMES: usize = 256;

/// What all stores of an engine share.
pub(crate) struct VmShared {
    /// Identities of types.
    pub(crate) types: TypeRegistry,
    /// Guest stacks.
    pub(crate) stacks: StackPool,
    /// What modules are compiled with.
    pub(crate) settings: Settings,
    /// How much address space there is for instances.
    pub(crate) room: Arc<AddressRoom>,
    /// What happened so far.
    pub(crate) counters: Counters,
    /// What guests of the stores did.
    pub(crate) stores_used: StoresUsed,
    /// How many warm instances are kept.
    pub(crate) idle: IdleSlots,
    /// Where they are.
    pub(crate) warm: WarmModules,
    /// Makes memories in place of the engine, if there is one.
    pub(crate) memory_creator: OnceLock<Arc<dyn MemoryCreator>>,
    /// The most frames that a backtrace holds; a deep recursion has hundreds of thousands.
    pub(crate) most_frames: usize,
    /// How many stores have a guest stack.
    pub(crate) held_stacks: HeldStacks,
    /// What the instances are of that own shared memories which came from outside.
    pub(super) adopting: OnceLock<Arc<LoadedModule>>,
}

impl VmShared {
    /// For an engine that compiles with `settings` and whose guests run on `stacks`.
    pub(crate) fn new(settings: Settings, room: AddressRoom, stacks: StackPool) -> Self {
        // Before there is anything to lock: a fork does not wait for who enters the gate for the first time meanwhile.
        peregrine_sys::forks::generation();
        Self {
            types: TypeRegistry::default(),
            stacks,
            settings,
            idle: IdleSlots::new(room.idle_bytes()),
            room: Arc::new(room),
            counters: Counters::default(),
            stores_used: StoresUsed::default(),
            warm: WarmModules::default(),
            held_stacks: HeldStacks::default(),
            most_frames: DEFAULT_FRAMES,
            memory_creator: OnceLock::new(),
            adopting: OnceLock::new(),
        }
    }

    /// Gives up all warm instances and unused stacks of the engine, since there is no room for what is needed now. Whether there were any.
    #[cold]
    pub(crate) fn give_up_warm(&self) -> bool {
        let mut count = self.stacks.clear();
        self.warm.empty(|spares| {
            count += spares.len();
            self.drop_surplus(spares);
        });
        count != 0
    }

    /// What `make` gives; where the system has no room for it, once more with what was warm given up.
    pub(crate) fn make_where_room_is<V, E>(&self, is_no_room: impl Fn(&E) -> bool, mut make: impl FnMut() -> Result<V, E>) -> Result<V, E> {
        match make() {
            Err(error) if is_no_room(&error) && self.give_up_warm() => make(),
            made => made,
        }
    }

    fn drop_surplus(&self, surplus: Vec<OwnedInstance>) {
        for instance in surplus {
            self.idle.remove(instance.idle_shard(), instance.reserved_bytes());
            self.counters.add(Counting::SlotsSurplus, 1);
        }
    }
}

/// Whether the system refused something because there is no memory, no address space or no mapping left.
pub(crate) fn is_no_room(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::OutOfMemory && error.raw_os_error().is_some()
}

/// What makes a store unusual: calls go the long way, which looks at each. See [`VmStore::is_usual`].
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Unusual {
    /// It has no stack for its guest, so nothing is prepared either.
    NoStack = 1,
    /// It returns its stack after each call.
    ReturnsStack = 2,
    /// Its embedder is told of calls.
    CallHook = 4,
    /// The call under way can wait.
    Task = 8,
    /// The host has called one of its own functions.
    HostCall = 16,
}

/// The causes of interruptions of stores that have none.
static NONE: AtomicU8 = AtomicU8::new(0);

/// One store. Made on the heap, never moves: contexts and compiled code point to it.
#[repr(C)]
pub(crate) struct VmStore {
    /// What compiled code and veneers see. First, so that its address is the store's.
    pub(crate) context: VmStoreContext,
    /// Bits of [`Unusual`].
    unusual: u32,
    /// Where the causes of an interruption are that are raised, for the look before each call: in `interrupt`, or [`NONE`].
    causes: NonNull<AtomicU8>,
    pub(crate) used: Used,
    shared: KeptShared,
    stack: Option<GuestStack>,
    /// Whether the stack goes back to the pool when no call is under way: many stores have one.
    returns_stack: bool,
    /// Where the stack is counted, if there is one.
    stack_shard: usize,
    /// Whether a guest has ever run here: memories that nobody wrote need no reset.
    guest_ran: bool,
    /// One has its place here, as most stores have one, and there are many stores.
    instances: SmallVec<[Option<OwnedInstance>; 1]>,
    /// Numbers of instances that were dropped.
    free_numbers: Vec<u32>,
    /// How many instances there were, those that are included.
    instances_made: u64,
    /// How many of them were made of a warm slot, and how many of one that was mapped anew. The others are the host's.
    slots: (u64, u64),
    /// How many instances were dropped, each alone.
    pub(super) drops: u64,
    /// Where function references may be.
    pub(super) alive: Alive,
    /// Boxed, because contexts and references point to them.
    #[expect(clippy::vec_box, reason = "host functions must not move")]
    host_funcs: Vec<Box<HostFunc>>,
    /// Host functions that references were made to and whose types no module had an Exit stub for: type and number.
    without_exit: Vec<(u32, u32)>,
    /// How many of them were looked for in vain among the types of [modules](Self::has_partial_modules) that may lack stubs.
    without_exit_looked_at: usize,
    /// When those whose stubs could not be had are to be looked for again.
    next_look_for_exits: Option<Instant>,
    /// Whether it keeps a module with so many types that it has not all stubs.
    has_partial_modules: bool,
    /// Every module that ran here: references to their functions may be anywhere in the store. Dropped after the instances.
    modules: SmallVec<[KeptModule; 1]>,
    /// Where modules are in `modules`, once there are many.
    module_positions: BTreeMap<*const LoadedModule, u32>,
    /// The shared memories that came from outside.
    pub(super) adopted: Adopted,
    pending: Option<Pending>,
    /// What the guest is to wait for, until the call that drives it takes it.
    wait: Option<(u64, Wait)>,
    /// The task that polls the call under way. None if the call cannot wait.
    task: Option<NonNull<Context<'static>>>,
    host: Option<NonNull<dyn StoreHost>>,
    interrupt: Option<Arc<InterruptPage>>,
    /// How many callbacks are under way in which no memory may move: their guests were stopped where they do not expect it.
    pub(super) held_still: u32,
    /// A guest that is interrupted may go on, so that one which cannot, for want of room on its stack, has another reason to stop.
    pub(super) may_go_on: bool,
    /// Whether the epoch of the deadline was set, ever.
    has_epoch_deadline: bool,
    /// How many of its activations are on stacks that are not the thread's, those of stores below counted: see [`super::entry::go_deeper`].
    pub(super) unknown_depth: u32,
    /// The fault that is being turned into a trap.
    pub(super) fault: Option<Fault>,
}

impl VmStore {
    /// An empty store, interrupted for `cause` from the beginning.
    ///
    /// # Errors
    ///
    /// What the system said about the interrupt page, if the settings ask for one.
    pub(crate) fn new(shared: KeptShared, cause: Option<Cause>) -> std::io::Result<Box<Self>> {
        let interrupt = match shared.settings.interrupt {
            true => Some(Arc::new(shared.make_where_room_is(is_no_room, || InterruptPage::new(cause))?)),
            false => None,
        };
        Ok(Box::new(Self {
            context: VmStoreContext { counts_fuel: u64::from(shared.settings.fuel), ..VmStoreContext::default() },
            unusual: Unusual::NoStack as u32,
            causes: interrupt.as_ref().map_or(NonNull::from(&NONE), |page| page.causes()),
            used: Used::default(),
            shared,
            stack: None,
            returns_stack: false,
            stack_shard: 0,
            guest_ran: false,
            instances: SmallVec::new(),
            free_numbers: Vec::new(),
            instances_made: 0,
            slots: (0, 0),
            drops: 0,
            alive: Alive::default(),
            host_funcs: Vec::new(),
            without_exit: Vec::new(),
            without_exit_looked_at: 0,
            next_look_for_exits: None,
            has_partial_modules: false,
            modules: SmallVec::new(),
            adopted: Adopted::default(),
            module_positions: BTreeMap::new(),
            pending: None,
            wait: None,
            task: None,
            host: None,
            interrupt,
            held_still: 0,
            may_go_on: false,
            has_epoch_deadline: false,
            unknown_depth: 0,
            fault: None,
        }))
    }

    /// What it shares with other stores of the engine.
    pub(crate) fn shared(&self) -> &VmShared {
        &self.shared
    }

    /// Whether there is nothing that a call has to look at.
    #[inline(always)]
    pub(super) fn is_usual(&self) -> bool {
        self.unusual | u32::from(self.raised_causes()) == 0
    }

    /// The causes of an interruption that are raised.
    #[inline(always)]
    fn raised_causes(&self) -> u8 {
        // SAFETY: the store keeps its page, and `NONE` is there for ever.
        unsafe { self.causes.as_ref() }.load(Ordering::Acquire)
    }

    /// Whether guests are to stop.
    #[inline(always)]
    pub(super) fn is_interrupted(&self) -> bool {
        self.raised_causes() != 0
    }

    /// Says that the embedder chose the epoch of the deadline, which is not that of a new store any longer.
    pub(crate) fn set_has_epoch_deadline(&mut self) {
        self.has_epoch_deadline = true;
    }

    /// Looks for an interruption of work that is done for a guest which does not run, as an instantiation or a long host function: whether
    /// a deadline that was set is over, and it would not go on then.
    ///
    /// # Errors
    ///
    /// [`Trap::Interrupt`].
    pub(crate) fn look(&self) -> Result<(), Trap> {
        let Some(page) = self.interrupt.as_ref().filter(|page| page.is_requested()) else { return Ok(()) };
        // Other causes, such as that the process forked, are no deadline.
        let is_over = page.is_raised(Cause::Time) || page.is_raised(Cause::Epoch) && self.has_epoch_deadline && !self.may_go_on;
        if is_over { Err(Trap::Interrupt) } else { Ok(()) }
    }

    /// Whether the embedder is told of calls.
    #[inline(always)]
    pub(super) fn is_told(&self) -> bool {
        self.unusual & Unusual::CallHook as u32 != 0
    }

    /// Says whether there is something unusual. Returns whether there was.
    #[inline]
    pub(crate) fn set_unusual(&mut self, what: Unusual, is: bool) -> bool {
        let was = self.unusual & what as u32 != 0;
        self.unusual = if is { self.unusual | what as u32 } else { self.unusual & !(what as u32) };
        was
    }

    /// Says who answers for limits. The pointer must stay valid as long as the store is used.
    pub(crate) fn set_host(&mut self, host: NonNull<dyn StoreHost>) {
        self.host = Some(host);
    }

    /// Whether that is who was said to answer last.
    #[inline(always)]
    pub(super) fn knows_host(&self, host: *const ()) -> bool {
        self.host.is_some_and(|known| std::ptr::addr_eq(known.as_ptr(), host))
    }

    /// Puts back who answered before; if nobody did, whoever does now goes on.
    pub(super) fn restore_host(&mut self, outer: Option<NonNull<dyn StoreHost>>) {
        self.host = outer.or(self.host);
    }

    /// Who answers for limits.
    pub(crate) fn host(&self) -> Option<NonNull<dyn StoreHost>> {
        self.host
    }

    /// The page to interrupt the store by, if its code looks at one.
    pub(crate) fn interrupt_page(&self) -> Option<&Arc<InterruptPage>> {
        self.interrupt.as_ref()
    }

    /// Says whether a guest that is interrupted may go on.
    pub(crate) fn set_may_go_on(&mut self, may: bool) {
        self.may_go_on = may;
    }

    /// Whether memories may move now: not where a guest was stopped other than by a call that it made.
    pub(super) fn memories_may_move(&self) -> bool {
        self.held_still == 0
    }

    /// The usable part of the guest's stack below `address`, in bytes, if it is on that stack.
    pub(super) fn stack_left_below(&self, address: usize) -> Option<usize> {
        self.is_on_stack(address).then(|| address - self.context.guest_stack_limit as usize)
    }

    /// An instance.
    ///
    /// # Panics
    ///
    /// If it was dropped.
    pub(crate) fn instance(&self, id: InstanceId) -> &VmInstance {
        self.instances[id.as_u32() as usize].as_deref().expect("handles to dropped instances are refused before")
    }

    /// An instance, to change it.
    ///
    /// # Panics
    ///
    /// If it was dropped.
    pub(crate) fn instance_mut(&mut self, id: InstanceId) -> &mut VmInstance {
        self.instances[id.as_u32() as usize].as_deref_mut().expect("handles to dropped instances are refused before")
    }

    /// All instances.
    pub(crate) fn live_instances(&self) -> impl Iterator<Item = &VmInstance> {
        self.instances.iter().filter_map(|instance| instance.as_deref())
    }

    /// An instance, unless it was dropped.
    pub(super) fn find_instance(&self, id: InstanceId) -> Option<&VmInstance> {
        self.instances.get(id.as_u32() as usize)?.as_deref()
    }

    /// Takes an instance out of the store. Its number is given to another one.
    pub(super) fn take_instance(&mut self, id: InstanceId) -> Option<OwnedInstance> {
        let instance = self.instances.get_mut(id.as_u32() as usize)?.take()?;
        self.free_numbers.push(id.as_u32());
        Some(instance)
    }

    /// Where references to host functions, and their contexts, are.
    pub(super) fn host_func_homes(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.host_funcs.iter().map(|function| home_of(function))
    }

    /// How many instances there are and were: more than before if one came about.
    pub(crate) fn instances_made(&self) -> u64 {
        self.instances_made
    }

    /// How many instances were made of a warm slot, and how many of one that was mapped anew.
    pub(crate) fn slots_warm_and_cold(&self) -> (u64, u64) {
        self.slots
    }

    /// What guests of the store used so far.
    pub(crate) fn used(&self) -> &Used {
        &self.used
    }

    /// Bytes of memories and tables that are in physical memory.
    pub(crate) fn resident_bytes(&self) -> std::io::Result<u64> {
        let backings = self.live_instances().flat_map(VmInstance::backings);
        backings.map(|backing| Ok(backing.resident_bytes()? as u64)).sum()
    }

    /// The number of the next instance.
    pub(super) fn next_instance(&self) -> InstanceId {
        let fresh = || u32::try_from(self.instances.len()).expect("memory ends before the numbers do");
        InstanceId::from_u32(self.free_numbers.last().copied().unwrap_or_else(fresh))
    }

    /// Adds an instance whose number is [`VmStore::next_instance`].
    pub(super) fn push_instance(&mut self, mut instance: OwnedInstance, what: Counting) {
        debug_assert_eq!(instance.id(), self.next_instance());
        instance.born = self.drops;
        self.instances_made += 1;
        match what {
            Counting::SlotsWarm => self.slots.0 += 1,
            Counting::SlotsCold => self.slots.1 += 1,
            _ => {}
        }
        self.shared.counters.add(what, 1);
        self.count_imports(&instance);
        match self.free_numbers.pop() {
            Some(number) => self.instances[number as usize] = Some(instance),
            None => {
                self.instances.push(Some(instance));
            }
        }
    }

    /// The header of a new instance's context.
    pub(super) fn instance_header(&mut self, id: InstanceId, module: &LoadedModule) -> VmContextHeader {
        VmContextHeader {
            magic: INSTANCE_MAGIC,
            instance: id.as_u32(),
            store: &raw mut *self as u64,
            builtins: super::builtins::array_address(),
            type_ids: module.type_ids().as_ptr() as u64,
            owner: 0,
            interrupt_page: self.interrupt.as_ref().map_or(0, |page| page.address()),
        }
    }

    /// Makes a host function of type `type_id`. Returns its number.
    pub(crate) fn new_host_func(&mut self, type_id: u32, codes: HostCodes, data: Box<dyn Any + Send + Sync>) -> u32 {
        let number = u32::try_from(self.host_funcs.len()).expect("memory ends before the numbers do");
        let function = HostFunc::new(NonNull::from(&mut *self), number, type_id, codes, self.shared.settings.fuel, data);
        self.alive.add(home_of(&function), self.drops);
        self.host_funcs.push(function);
        number
    }

    /// A host function.
    pub(crate) fn host_func(&self, number: u32) -> &HostFunc {
        &self.host_funcs[number as usize]
    }

    /// Keeps a module as long as the store, and lets host functions use its Exit stubs. Takes a warm instance of it, if there is one.
    pub(super) fn keep(&mut self, source: ModuleSource<'_>) -> Kept {
        let address: *const LoadedModule = source.loaded();
        let known = if self.modules.len() <= FEW_MODULES {
            self.modules.iter().position(|kept| std::ptr::eq(kept.loaded(), address)).map(|position| position as u32)
        } else {
            self.module_positions.get(&address).copied()
        };
        if let Some(number) = known {
            let warm = self.modules[number as usize].pool().and_then(|(pool, shard)| pool.take(shard));
            return Kept { number, is_new: false, warm: self.no_longer_idle(warm) };
        }
        let number = u32::try_from(self.modules.len()).expect("memory ends before the numbers do");
        let (module, warm) = source.keep();
        self.modules.push(module);
        if self.modules.len() > FEW_MODULES {
            // All at once when they become many, then each.
            let first = if self.modules.len() == FEW_MODULES + 1 { 0 } else { number as usize };
            let new = self.modules.iter().enumerate().skip(first);
            self.module_positions.extend(new.map(|(position, kept)| (std::ptr::from_ref(kept.loaded()), position as u32)));
        }
        self.has_partial_modules |= self.modules[number as usize].loaded().type_ids().len() > MOST_TYPES_WITH_ALL_STUBS;
        if !self.without_exit.is_empty() {
            self.without_exit_looked_at = 0;
            let module = self.kept_module(number);
            let host_funcs = &mut self.host_funcs;
            self.without_exit.retain(|(type_id, function)| match module.exit_stub(*type_id) {
                Some(exit) => {
                    host_funcs[*function as usize].set_exit(exit);
                    false
                }
                None => true,
            });
        }
        Kept { number, is_new: true, warm: self.no_longer_idle(warm) }
    }

    /// Whether there may be host functions that guests can call through references and that lack an Exit stub.
    pub(crate) fn may_lack_exits(&self) -> bool {
        let are_new = self.without_exit_looked_at < self.without_exit.len();
        self.has_partial_modules && (are_new || self.is_time_for_exits())
    }

    fn is_time_for_exits(&self) -> bool {
        self.next_look_for_exits.is_some_and(|time| Instant::now() >= time)
    }

    /// The types of host functions without an Exit stub that a module with very many types has among them. Each is told once, and
    /// again when [its time](Self::look_for_exits_again) has come.
    pub(crate) fn missing_exits(&mut self) -> Vec<u32> {
        if self.is_time_for_exits() {
            (self.next_look_for_exits, self.without_exit_looked_at) = (None, 0);
        }
        let new = std::mem::replace(&mut self.without_exit_looked_at, self.without_exit.len());
        let mut wanted: Vec<u32> = self.without_exit[new..].iter().map(|(type_id, _)| *type_id).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let partial = self.modules.iter().map(|kept| kept.loaded().type_ids()).filter(|ids| ids.len() > MOST_TYPES_WITH_ALL_STUBS);
        let mut missing: Vec<u32> = partial.flatten().copied().filter(|id| wanted.binary_search(id).is_ok()).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Makes [`missing_exits`](Self::missing_exits) tell again what it told, at `time`, if nobody wants that earlier.
    pub(crate) fn look_for_exits_again(&mut self, time: Instant) {
        self.next_look_for_exits = Some(self.next_look_for_exits.map_or(time, |earlier| earlier.min(time)));
    }

    /// Gives the host functions of a type the Exit stub that `module` has for its one type, and keeps the module.
    pub(crate) fn give_exit(&mut self, type_id: u32, module: &Arc<LoadedModule>) {
        self.keep(ModuleSource::Own(module));
        let (_, exit) = module.stubs(TypeIndex::from_u32(0));
        let host_funcs = &mut self.host_funcs;
        self.without_exit.retain(|(without, function)| {
            if *without == type_id {
                host_funcs[*function as usize].set_exit(exit);
            }
            *without != type_id
        });
        self.without_exit_looked_at = self.without_exit.len();
    }

    /// Counts that a warm instance is none any more.
    fn no_longer_idle(&self, warm: Option<OwnedInstance>) -> Option<OwnedInstance> {
        if let Some(instance) = &warm {
            self.shared.idle.remove(instance.idle_shard(), instance.reserved_bytes());
        }
        warm
    }

    /// Forgets a module that was kept last, for an instance that did not come about.
    pub(super) fn unkeep(&mut self, number: u32) {
        if number as usize + 1 != self.modules.len() {
            return;
        }
        let module = self.kept_module(number);
        // Stubs of the module that host functions were given stay in use.
        let text = module.text();
        if self.host_funcs.iter().any(|function| text.contains(&function.exit())) {
            return;
        }
        if let Some(kept) = self.modules.pop() {
            self.module_positions.remove(&std::ptr::from_ref(kept.loaded()));
        }
    }

    /// A module that the store keeps.
    pub(super) fn kept_module(&self, number: u32) -> ModuleRef {
        // SAFETY: modules are dropped with the store, after its instances; what is made of the result lives in the store.
        unsafe { ModuleRef::new(self.modules[number as usize].loaded()) }
    }

    /// The embedder's module that an instance is of.
    pub(crate) fn module_of(&self, id: InstanceId) -> Option<&crate::Module> {
        let instance = self.instances.get(id.as_u32() as usize)?.as_deref()?;
        self.modules[instance.kept() as usize].module()
    }

    /// What an instance counts as for which everything was made anew.
    pub(super) fn cold(&self, kept: u32) -> Counting {
        if self.modules[kept as usize].pool().is_some() { Counting::SlotsCold } else { Counting::InstancesOfHost }
    }

    /// Says that what `keep` did not give was not made either.
    pub(super) fn give_nothing(&self, kept: u32) {
        if let Some((pool, shard)) = self.modules[kept as usize].pool() {
            self.shared.drop_surplus(pool.give(shard, None, 0));
        }
    }

    /// Makes an instance warm, if its module is the embedder's, or frees it.
    pub(super) fn give_back(&mut self, mut instance: OwnedInstance) {
        self.shared.counters.add(Counting::InstancesDropped, 1);
        let Some((pool, shard)) = self.modules[instance.kept() as usize].pool() else { return };
        let mut spare = match instance.reset(self.guest_ran) {
            _ if !instance.is_reusable() => None,
            Ok(()) => Some(instance),
            Err(error) => {
                tracing::warn!(%error, "an instance cannot be reset: what it held is unmapped");
                self.shared.counters.add(Counting::SlotsQuarantined, 1);
                None
            }
        };
        if let Some(instance) = &mut spare {
            let shard = self.shared.idle.add(instance.reserved_bytes());
            instance.set_idle_shard(shard);
        }
        let most = if self.shared.idle.is_full() { 0 } else { usize::MAX };
        self.shared.drop_surplus(pool.give(shard, spare, most));
    }

    /// The reference that stands for a function.
    pub(crate) fn func_ref(&mut self, function: FuncId) -> NonNull<VmFuncRef> {
        match function {
            FuncId::Wasm(instance, index) => self.instance_mut(instance).func_ref(index),
            FuncId::Host(number) => {
                let host_func = &mut self.host_funcs[number as usize];
                if host_func.exit() == 0 {
                    let type_id = host_func.func_type_id();
                    match self.modules.iter().find_map(|kept| kept.loaded().exit_stub(type_id)) {
                        Some(exit) => host_func.set_exit(exit),
                        None if self.without_exit.contains(&(type_id, number)) => {}
                        None => self.without_exit.push((type_id, number)),
                    }
                }
                host_func.func_ref()
            }
        }
    }

    /// The function that a reference stands for.
    ///
    /// # Safety
    ///
    /// 1. `func_ref` was made by this store.
    pub(crate) unsafe fn func_of_ref(&self, func_ref: NonNull<VmFuncRef>) -> FuncId {
        // SAFETY: references live as long as their store (1), and so do the contexts that they point to.
        let header = unsafe { &*((*func_ref.as_ptr()).vmctx as *const VmContextHeader) };
        if header.magic != INSTANCE_MAGIC {
            return FuncId::Host(header.instance);
        }
        let id = InstanceId::from_u32(header.instance);
        let index = self.instance(id).func_of_ref(func_ref).expect("a reference of an instance is in its context");
        FuncId::Wasm(id, index)
    }

    /// Records why the guest shall not go on. The veneer that the host was called by unwinds when it returns. The first reason stays.
    pub(crate) fn raise(&mut self, pending: Pending) {
        self.context.pending = 1;
        self.pending.get_or_insert(pending);
    }

    /// Takes what is pending.
    pub(crate) fn take_pending(&mut self) -> Option<Pending> {
        self.context.pending = 0;
        let pending = self.pending.take();
        if let Some(Pending::Trap(..)) = pending {
            self.used.count_trap();
        }
        pending
    }

    /// Records that the guest shall be suspended until `wait` is over. The veneer that the host was called by does it when it returns.
    /// Only if [`task`](Self::task) says that the call can wait.
    pub(crate) fn suspend(&mut self, wait: Wait) {
        debug_assert!(self.task.is_some() && self.pending.is_none());
        self.context.pending = PENDING_SUSPENSION;
        // `exit_fp` is that of the call below when the veneer has suspended the guest.
        self.wait = Some((self.context.exit_fp, wait));
    }

    /// Takes what the guest waits for, with the frame pointer of the veneer that it left by.
    pub(super) fn take_wait(&mut self) -> Option<(u64, Wait)> {
        self.context.pending = 0;
        self.wait.take()
    }

    /// The task that polls the call under way, if the call can wait.
    pub(crate) fn task(&self) -> Option<NonNull<Context<'static>>> {
        self.task
    }

    /// Notes the task that polls the call under way. Returns the one before.
    pub(super) fn set_task(&mut self, task: Option<NonNull<Context<'static>>>) -> Option<NonNull<Context<'static>>> {
        self.set_unusual(Unusual::Task, task.is_some());
        std::mem::replace(&mut self.task, task)
    }

    /// Makes sure that there is a stack to run guests on.
    pub(super) fn ensure_stack(&mut self) -> std::io::Result<()> {
        if !self.guest_ran {
            self.guest_ran = true;
            let this = &raw mut *self;
            // SAFETY: a store does not move, and is removed when it is dropped; the pointer is made of one to the store.
            unsafe { self.shared.stores_used.add(NonNull::new_unchecked(&raw mut (*this).used)) };
        }
        if self.stack.is_none() {
            let stack = self.shared.stacks.take()?;
            self.context.guest_stack_top = stack.top() as u64;
            self.context.guest_stack_limit = stack.limit() as u64;
            self.stack = Some(stack);
            (self.stack_shard, self.returns_stack) = self.shared.held_stacks.add();
            self.set_unusual(Unusual::ReturnsStack, self.returns_stack);
            self.set_unusual(Unusual::NoStack, false);
        }
        Ok(())
    }

    /// Said after each call: an idle store among many keeps no stack.
    #[inline]
    pub(super) fn rest(&mut self) {
        if self.returns_stack && self.context.exit_fp == 0 {
            self.shared.counters.add(Counting::StacksReturned, 1);
            self.return_stack();
        }
    }

    #[cold]
    fn return_stack(&mut self) {
        if let Some(stack) = self.stack.take() {
            (self.context.guest_stack_top, self.context.guest_stack_limit) = (0, 0);
            self.returns_stack = false;
            self.set_unusual(Unusual::NoStack, true);
            self.shared.held_stacks.remove(self.stack_shard);
            self.shared.stacks.give(stack);
        }
    }

    /// Whether `address` is in the usable part of the guest stack.
    pub(super) fn is_on_stack(&self, address: usize) -> bool {
        self.stack.as_ref().is_some_and(|stack| stack.contains(address))
    }

    /// Whether `address` is in a memory of the store or its guard. Signal-safe.
    pub(super) fn is_memory(&self, address: usize) -> bool {
        self.instances.iter().flatten().any(|instance| instance.memories.values().any(|memory| memory.contains(address)))
    }

    /// Whether `address` is in the guard of the guest stack. Signal-safe.
    pub(super) fn is_stack_guard(&self, address: usize) -> bool {
        self.stack.as_ref().is_some_and(|stack| stack.contains_guard(address))
    }
}

/// A module that a store keeps.
pub(super) struct Kept {
    /// Its number.
    pub(super) number: u32,
    /// Whether the store did not keep it before.
    pub(super) is_new: bool,
    /// A warm instance of it, reset. If there is none, one has to be made or `give_nothing` called.
    pub(super) warm: Option<OwnedInstance>,
}

/// Where a host function is.
fn home_of(function: &HostFunc) -> std::ops::Range<usize> {
    let start = std::ptr::from_ref(function) as usize;
    start..start + size_of::<HostFunc>()
}

impl Drop for VmStore {
    fn drop(&mut self) {
        for instance in std::mem::take(&mut self.instances).into_iter().flatten() {
            self.give_back(instance);
        }
        self.shared.stores_used.remove(&self.used);
        self.return_stack();
    }
}
