//! Limits that are futures, and the forms of what asks them: growth and creation of memories and tables.
//!
//! What is to be asked is asked before, and the answer is kept with the store until the machine asks for it. So the machine's own code is the
//! same with limits of either kind.

use crate::at_once::CANNOT_WAIT;
use crate::budget::Counts;
use crate::context::{AsContextMut, StoreContextMut};
use crate::error::{Error, Result};
use crate::global::HOST_OBJECT_BYTES;
use crate::store::{Limiter, StoreInner};
use crate::vm::{Asking, Growth};
use crate::{Caller, GcHeapOutOfMemory, Memory, MemoryType, Module, Ref, Store, Table, TableType, limits};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Whether a growth is allowed, as a future.
pub type GrowthFuture<'a> = Pin<Box<dyn Future<Output = Result<bool>> + Send + 'a>>;

/// A [`ResourceLimiter`](crate::ResourceLimiter) that may wait before it decides. Installed with [`Store::limiter_async`].
///
/// Its two asynchronous functions are of the shape that the `async_trait` attribute gives to `async fn`s, so that an implementation can be
/// written with it, or by hand:
///
/// ```
/// use peregrine::{Engine, GrowthFuture, Memory, MemoryType, ResourceLimiterAsync, Store};
/// use std::future::Future;
/// use std::pin::pin;
/// use std::task::{Context, Poll, Waker};
///
/// struct OnePage;
///
/// impl ResourceLimiterAsync for OnePage {
///     fn memory_growing<'a, 'b>(&'a mut self, _: usize, desired: usize, _: Option<usize>) -> GrowthFuture<'b>
///     where
///         'a: 'b,
///         Self: 'b,
///     {
///         Box::pin(async move { Ok(desired <= 65536) })
///     }
///
///     fn table_growing<'a, 'b>(&'a mut self, _: usize, _: usize, _: Option<usize>) -> GrowthFuture<'b>
///     where
///         'a: 'b,
///         Self: 'b,
///     {
///         Box::pin(async { Ok(true) })
///     }
/// }
///
/// let mut store = Store::new(&Engine::default(), OnePage);
/// store.limiter_async(|limiter| limiter);
/// let call = pin!(async {
///     let memory = Memory::new_async(&mut store, MemoryType::new(1, None)).await?;
///     Ok::<bool, peregrine::Error>(memory.grow_async(&mut store, 1).await.is_err())
/// });
/// let Poll::Ready(refused) = call.poll(&mut Context::from_waker(Waker::noop())) else { panic!("it does not wait") };
/// assert!(refused?);
/// # Ok::<(), peregrine::Error>(())
/// ```
pub trait ResourceLimiterAsync: Send {
    /// See [`ResourceLimiter::memory_growing`](crate::ResourceLimiter::memory_growing).
    fn memory_growing<'life0, 'async_trait>(
        &'life0 mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> GrowthFuture<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait;

    /// See [`ResourceLimiter::memory_grow_failed`](crate::ResourceLimiter::memory_grow_failed).
    ///
    /// # Errors
    ///
    /// As there.
    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        let _ = error;
        Ok(())
    }

    /// See [`ResourceLimiter::table_growing`](crate::ResourceLimiter::table_growing).
    fn table_growing<'life0, 'async_trait>(
        &'life0 mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> GrowthFuture<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait;

    /// See [`ResourceLimiter::table_grow_failed`](crate::ResourceLimiter::table_grow_failed).
    ///
    /// # Errors
    ///
    /// As there.
    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        let _ = error;
        Ok(())
    }

    /// See [`ResourceLimiter::instances`](crate::ResourceLimiter::instances).
    fn instances(&self) -> usize {
        limits::DEFAULT_INSTANCE_LIMIT
    }

    /// See [`ResourceLimiter::tables`](crate::ResourceLimiter::tables).
    fn tables(&self) -> usize {
        limits::DEFAULT_TABLE_LIMIT
    }

    /// See [`ResourceLimiter::memories`](crate::ResourceLimiter::memories).
    fn memories(&self) -> usize {
        limits::DEFAULT_MEMORY_LIMIT
    }
}

pub(crate) type AsyncLimiter<T> = Box<dyn (FnMut(&mut T) -> &mut dyn ResourceLimiterAsync) + Send + Sync>;

impl<T: 'static> Store<T> {
    /// [`limiter`](Self::limiter) with one that may wait. Memories and tables are made and grown, and modules instantiated, by the functions
    /// whose names end in `_async` then, and guests that grow them are called as futures; the other functions end with an error if the limiter
    /// waits.
    pub fn limiter_async(&mut self, mut limiter: impl (FnMut(&mut T) -> &mut dyn ResourceLimiterAsync) + Send + Sync + 'static) {
        let inner = self.inner_mut();
        let found = limiter(&mut inner.data);
        let most = (found.instances(), found.tables(), found.memories());
        inner.set_limiter(Limiter::Async(Box::new(limiter)), most);
    }

    /// [`gc`](Self::gc) as a future.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn gc_async(&mut self, why: Option<&GcHeapOutOfMemory<()>>) -> Result<()> {
        self.gc(why)
    }
}

impl<T: 'static> StoreContextMut<'_, T> {
    /// See [`Store::gc_async`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn gc_async(&mut self, why: Option<&GcHeapOutOfMemory<()>>) -> Result<()> {
        self.gc(why)
    }
}

impl<T: 'static> Caller<'_, T> {
    /// See [`Store::gc_async`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn gc_async(&mut self, why: Option<&GcHeapOutOfMemory<()>>) -> Result<()> {
        self.gc(why)
    }
}

impl<T: 'static> StoreInner<T> {
    /// Begins to ask a limiter that may wait. `None` if there is none.
    pub(crate) fn ask_async(&mut self, growth: Growth) -> Option<Asking<'_>> {
        let Limiter::Async(limiter) = &mut self.limiter else { return None };
        let limiter = limiter(&mut self.data);
        let Growth { is_memory, current, desired, max } = growth;
        Some(if is_memory { limiter.memory_growing(current, desired, max) } else { limiter.table_growing(current, desired, max) })
    }

    /// Whether the growth is allowed, by a limiter that may wait: as it answered before, or answers at once.
    pub(crate) fn answer(&mut self, growth: Growth) -> Result<bool> {
        if let Some(position) = self.answers.iter().position(|(asked, _)| *asked == growth) {
            return self.answers.swap_remove(position).1;
        }
        let Some(mut asking) = self.ask_async(growth) else { return Ok(true) };
        match asking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer,
            Poll::Pending => Err(crate::format_err!("{CANNOT_WAIT}")),
        }
    }
}

/// A store whose limiter, if it is one that may wait, is asked for what one operation is about to do. The answers are good for that operation:
/// they are forgotten when this is dropped, however the operation ended.
pub(crate) struct Asked<'a, T: 'static> {
    store: &'a mut StoreInner<T>,
    /// What the store would hold with what was asked for. `None` when the budget refused something: then nothing more is asked, as the operation
    /// will not get there.
    trial: Option<Counts>,
}

impl<'a, T: 'static> Asked<'a, T> {
    /// Nothing was asked yet.
    pub(crate) fn new(store: &'a mut StoreInner<T>) -> Self {
        store.answers.clear();
        let trial = Some(store.opaque.counts);
        Self { store, trial }
    }

    /// The store, to do what was asked for.
    pub(crate) fn store(&mut self) -> &mut StoreInner<T> {
        self.store
    }

    /// Asks, unless the budget refuses it anyway, and keeps the answer.
    async fn ask(&mut self, growth: Growth) {
        self.trial = self.trial.and_then(|mut trial| trial.grow(growth.is_memory, growth.current, growth.desired).then_some(trial));
        if self.trial.is_none() {
            return;
        }
        let answer = match self.store.ask_async(growth) {
            Some(asking) => asking.await,
            None => return,
        };
        self.store.answers.push((growth, answer));
    }

    /// Notes what will be counted before anything is asked.
    fn will_count(&mut self, count: impl FnOnce(&mut Counts) -> Result<()>) {
        self.trial = self.trial.and_then(|mut trial| count(&mut trial).ok().map(|()| trial));
    }

    /// Asks for the memories and tables of an instance of `module`.
    pub(crate) async fn ask_for_instance(&mut self, module: &Module) {
        if !matches!(self.store.limiter, Limiter::Async(_)) {
            return;
        }
        let description = module.loaded().module();
        let tables = description.tables.len() - description.imported_tables as usize;
        let memories = description.memories.len() - description.imported_memories as usize;
        self.will_count(|counts| {
            counts.add(1, tables, memories)?;
            counts.add_host_bytes(module.loaded().instance_bytes())
        });
        for ty in description.memories.values().skip(description.imported_memories as usize) {
            self.ask(Growth::of_memory(ty)).await;
        }
        for table in description.tables.values().skip(description.imported_tables as usize) {
            self.ask(Growth::of_table(&table.ty)).await;
        }
    }
}

impl<T: 'static> Drop for Asked<'_, T> {
    fn drop(&mut self) {
        self.store.answers.clear();
    }
}

impl Memory {
    /// [`new`](Self::new) as a future, for stores with a [limiter that may wait](Store::limiter_async).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub async fn new_async(mut store: impl AsContextMut, ty: MemoryType) -> Result<Self> {
        // What cannot be had is not asked for.
        Self::check_type(&ty)?;
        let mut asked = Asked::new(store.as_context_mut().0);
        asked.will_count(|counts| counts.add(0, 0, 1).and_then(|()| counts.add_host_bytes(HOST_OBJECT_BYTES)));
        asked.ask(Growth::of_memory(&ty.ty)).await;
        Self::make(asked.store(), ty)
    }

    /// [`grow`](Self::grow) as a future, for stores with a [limiter that may wait](Store::limiter_async).
    ///
    /// # Errors
    ///
    /// As [`grow`](Self::grow).
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub async fn grow_async(&self, mut store: impl AsContextMut, delta: u64) -> Result<u64> {
        let mut asked = Asked::new(store.as_context_mut().0);
        let opaque = &asked.store().opaque;
        let (owner, index) = self.id(opaque);
        if delta != 0 {
            let growth = Growth::growing_memory(opaque.vm.instance(owner).memory(index), delta);
            asked.ask(growth).await;
        }
        self.grow_as_asked(asked.store(), delta)
    }
}

impl Table {
    /// [`new`](Self::new) as a future, for stores with a [limiter that may wait](Store::limiter_async).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub async fn new_async(mut store: impl AsContextMut, ty: TableType, init: Ref) -> Result<Self> {
        let wasm_ty = ty.to_wasm()?;
        // What cannot be had is not asked for.
        Self::check_type(&wasm_ty)?;
        let mut asked = Asked::new(store.as_context_mut().0);
        Self::initial_element(&asked.store().opaque, &wasm_ty, init)?;
        asked.will_count(|counts| counts.add(0, 1, 0).and_then(|()| counts.add_host_bytes(HOST_OBJECT_BYTES)));
        asked.ask(Growth::of_table(&wasm_ty)).await;
        Self::make(asked.store(), ty, init)
    }

    /// [`grow`](Self::grow) as a future, for stores with a [limiter that may wait](Store::limiter_async).
    ///
    /// # Errors
    ///
    /// As [`grow`](Self::grow).
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    pub async fn grow_async(&self, mut store: impl AsContextMut, delta: u64, init: Ref) -> Result<u64> {
        let mut asked = Asked::new(store.as_context_mut().0);
        let opaque = &asked.store().opaque;
        let (owner, index) = self.id(opaque);
        if delta != 0 {
            let growth = Growth::growing_table(opaque.vm.instance(owner).table(index), delta);
            asked.ask(growth).await;
        }
        self.grow_as_asked(asked.store(), delta, init)
    }
}
