//! Interrupting guests: by epochs, by the clock, and by fuel; and what becomes of them then.

use crate::context::StoreContextMut;
use crate::deadline;
use crate::error::{Result, bail, ensure};
use crate::store::{StoreInner, StoreOpaque};
use crate::vm::{Cause, InterruptPage, Interruption};
use crate::{Caller, Store, Trap};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// What to do with a guest at the epoch of its deadline. See [`Store::epoch_deadline_callback`].
#[non_exhaustive]
pub enum UpdateDeadline {
    /// It stops with [`Trap::Interrupt`]. The deadline stays where it is.
    Interrupt,
    /// It goes on; the next deadline is so many epochs from now.
    Continue(u64),
    /// It lets other tasks run, and goes on in its task's next turn; the next deadline is so many epochs from then. Ends the call with an
    /// error if it is not one of those that are futures; one that a host function makes begins nevertheless, and the guest below is asked
    /// about again where it looks next.
    Yield(u64),
    /// It goes on when the future is ready; the next deadline is so many epochs from then. As [`Yield`](Self::Yield) otherwise.
    YieldCustom(u64, Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// What a store does at the epoch of its deadline.
pub(crate) enum EpochAction<T: 'static> {
    Trap,
    Yield(u64),
    Ask(EpochCallback<T>),
    /// While the callback is asked: guests that it calls stop.
    Asking,
}

pub(crate) type EpochCallback<T> = Box<dyn FnMut(StoreContextMut<'_, T>) -> Result<UpdateDeadline> + Send + Sync>;

/// Interruption by epochs, by the clock and by fuel.
impl<T: 'static> Store<T> {
    /// Makes guests stop with [`Trap::Interrupt`] at the epoch of their deadline. So does a new store.
    pub fn epoch_deadline_trap(&mut self) {
        self.inner_mut().set_epoch_action(EpochAction::Trap);
    }

    /// Makes guests let other tasks run at the epoch of their deadline, and go on with the next deadline `delta` epochs later. They have to
    /// be called as futures. A host function that such a guest calls may call short functions without being a future: the guest below yields.
    pub fn epoch_deadline_async_yield_and_update(&mut self, delta: u64) {
        self.inner_mut().set_epoch_action(EpochAction::Yield(delta));
    }

    /// Asks `callback` what to do with a guest at the epoch of its deadline. An error that it returns ends the call.
    ///
    /// It is asked on the thread that runs the guest, in the middle of the guest's code. It may use the store; a guest that it calls itself
    /// stops with [`Trap::Interrupt`] unless it sets a new deadline before.
    ///
    /// ```
    /// use peregrine::{Config, Engine, Instance, Module, Store, UpdateDeadline};
    ///
    /// let engine = Engine::new(Config::new().epoch_interruption(true))?;
    /// let module = Module::new(
    ///     &engine,
    ///     r#"(module (func (export "spin") (param $n i32)
    ///         (loop (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"#,
    /// )?;
    /// let mut store = Store::new(&engine, 0);
    /// store.epoch_deadline_callback(|mut context| {
    ///     *context.data_mut() += 1;
    ///     Ok(UpdateDeadline::Continue(1))
    /// });
    /// let spin = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, ()>(&mut store, "spin")?;
    /// // The deadline of a new store has come already.
    /// spin.call(&mut store, 1000)?;
    /// assert_eq!(*store.data(), 1);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn epoch_deadline_callback(
        &mut self,
        callback: impl FnMut(StoreContextMut<'_, T>) -> Result<UpdateDeadline> + Send + Sync + 'static,
    ) {
        self.inner_mut().set_epoch_action(EpochAction::Ask(Box::new(callback)));
    }

    /// Makes guests stop with [`Trap::Interrupt`] when `after` has passed from now, wherever they are: in loops, in calls, and in long
    /// operations on memories and tables. A guest that is called later does not begin. Nobody has to increment epochs for it; a thread of
    /// the process watches the clock while there are deadlines.
    ///
    /// A guest looks where it turns in a loop, calls, or begins a slice of a long operation, unless what is ahead is over in a moment: of
    /// loops that turn a known number of times, and short functions that call nothing, a guest that is about to end may end. Instantiation
    /// stops too where it writes much: what was written to imported tables and memories stays.
    ///
    /// A host function is not interrupted, unless it asks ([`Caller::check_interruption`]); the guest stops when it returns, or where it
    /// looks next. The thread also wakes the tasks whose guests wait, one after another: a waker that takes long, as one does that runs its
    /// task at once or waits for a lock, holds up the deadlines that come after the next look at the clock, which is when all those are
    /// told that are due together. After a fork, deadlines that were set before hold in the child too: the clock is watched there from the
    /// first guest on that is entered or goes on, or the first host function that asks.
    ///
    /// ```
    /// use peregrine::{Config, Engine, Instance, Module, Store, Trap};
    /// use std::time::Duration;
    ///
    /// let engine = Engine::new(Config::new().deadlines(true))?;
    /// let module = Module::new(&engine, r#"(module (func (export "spin") (loop (br 0))))"#)?;
    /// let mut store = Store::new(&engine, ());
    /// let spin = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "spin")?;
    /// store.deadline(Duration::from_millis(10))?;
    /// assert_eq!(spin.call(&mut store, ()).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the engine has neither [`Config::deadlines`](crate::Config::deadlines) nor
    /// [`Config::epoch_interruption`](crate::Config::epoch_interruption) on, or the system gives no thread.
    pub fn deadline(&mut self, after: Duration) -> Result<()> {
        self.set_deadline(Instant::now().checked_add(after))
    }

    /// Sets the time at which guests stop, as [`deadline`](Self::deadline) does; `None` is never.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_deadline(&mut self, at: Option<Instant>) -> Result<()> {
        self.inner_mut().opaque.set_time_deadline(at)
    }

    /// Makes guests let other tasks run each time they have used `interval` units of fuel; `None`, as in a new store, is never. Their
    /// fuel, results and traps are the same. Calls that are no futures do not yield.
    ///
    /// # Errors
    ///
    /// If `interval` is 0, or the engine does not count fuel.
    pub fn fuel_async_yield_interval(&mut self, interval: Option<u64>) -> Result<()> {
        self.inner_mut().opaque.set_fuel_interval(interval)
    }
}

impl<T: 'static> StoreContextMut<'_, T> {
    /// See [`Store::epoch_deadline_trap`].
    pub fn epoch_deadline_trap(&mut self) {
        self.0.set_epoch_action(EpochAction::Trap);
    }

    /// See [`Store::epoch_deadline_async_yield_and_update`].
    pub fn epoch_deadline_async_yield_and_update(&mut self, delta: u64) {
        self.0.set_epoch_action(EpochAction::Yield(delta));
    }

    /// See [`Store::set_deadline`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_deadline(&mut self, at: Option<Instant>) -> Result<()> {
        self.0.opaque.set_time_deadline(at)
    }

    /// See [`Store::fuel_async_yield_interval`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn fuel_async_yield_interval(&mut self, interval: Option<u64>) -> Result<()> {
        self.0.opaque.set_fuel_interval(interval)
    }
}

impl<T: 'static> Caller<'_, T> {
    /// For host functions that take long: whether the guest that called is to stop. Costs next to nothing; asked every few milliseconds, the
    /// guest stops as soon as one that computes.
    ///
    /// A store that asks or yields at the epoch of its deadline, rather than stop, does so when the function has returned. The epoch counts
    /// only where the embedder chose one: the answer is `Ok` in a store whose [`set_epoch_deadline`](Store::set_epoch_deadline) was never
    /// called, though guests of a new store stop at once.
    ///
    /// ```
    /// use peregrine::{Caller, Config, Engine, Linker, Module, Store, Trap};
    /// use std::time::Duration;
    ///
    /// let engine = Engine::new(Config::new().deadlines(true))?;
    /// let module = Module::new(&engine, r#"(module (import "" "work" (func $work)) (func (export "run") (call $work)))"#)?;
    /// let mut linker = Linker::new(&engine);
    /// linker.func_wrap("", "work", |caller: Caller<'_, ()>| -> peregrine::Result<()> {
    ///     loop {
    ///         caller.check_interruption()?;
    ///         std::thread::sleep(Duration::from_millis(1));
    ///     }
    /// })?;
    /// let mut store = Store::new(&engine, ());
    /// let run = linker.instantiate(&mut store, &module)?.get_typed_func::<(), ()>(&mut store, "run")?;
    /// store.deadline(Duration::from_millis(10))?;
    /// assert_eq!(run.call(&mut store, ()).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::Interrupt));
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Trap::Interrupt`](crate::Trap::Interrupt), for the function to return, if a deadline is over, or the epoch of one has come at
    /// which guests of the store stop. What the system said, if the process forked since the guest was entered and the child can have no
    /// thread for its deadlines.
    pub fn check_interruption(&self) -> Result<()> {
        let vm = &self.opaque().vm;
        if let Some(page) = vm.interrupt_page() {
            watch_after_fork(page)?;
        }
        Ok(vm.look()?)
    }

    /// See [`Store::fuel_async_yield_interval`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn fuel_async_yield_interval(&mut self, interval: Option<u64>) -> Result<()> {
        self.inner().opaque.set_fuel_interval(interval)
    }
}

/// Has the deadlines watched if the process forked while the guest was under way.
fn watch_after_fork(page: &InterruptPage) -> Result<()> {
    if page.is_raised(Cause::Fork) {
        deadline::resume()?;
        page.clear(Cause::Fork)?;
    }
    Ok(())
}

impl<T: 'static> StoreInner<T> {
    fn set_epoch_action(&mut self, action: EpochAction<T>) {
        self.opaque.vm.set_may_go_on(!matches!(action, EpochAction::Trap));
        self.epoch_action = action;
    }

    /// What to do with a guest that was interrupted.
    pub(crate) fn at_interruption(&mut self) -> Result<Interruption> {
        let Some(page) = self.opaque.vm.interrupt_page() else { return Ok(Interruption::GoOn) };
        watch_after_fork(page)?;
        if page.is_raised(Cause::Time) {
            return Err(Trap::Interrupt.into());
        }
        if !page.is_raised(Cause::Epoch) {
            return Ok(Interruption::GoOn);
        }
        let update = match &mut self.epoch_action {
            EpochAction::Trap | EpochAction::Asking => UpdateDeadline::Interrupt,
            EpochAction::Yield(ticks) => UpdateDeadline::Yield(*ticks),
            action @ EpochAction::Ask(_) => {
                let EpochAction::Ask(mut callback) = std::mem::replace(action, EpochAction::Asking) else {
                    unreachable!("it was just seen")
                };
                let update = callback(StoreContextMut(self));
                // Unless the callback chose something else.
                if matches!(self.epoch_action, EpochAction::Asking) {
                    self.epoch_action = EpochAction::Ask(callback);
                }
                update?
            }
        };
        Ok(match update {
            UpdateDeadline::Interrupt => return Err(Trap::Interrupt.into()),
            UpdateDeadline::Continue(ticks) => {
                self.opaque.set_epoch_deadline(ticks);
                Interruption::GoOn
            }
            UpdateDeadline::Yield(then_ticks) => Interruption::Yield { until: None, then_ticks },
            UpdateDeadline::YieldCustom(then_ticks, until) => Interruption::Yield { until: Some(until), then_ticks },
        })
    }
}

impl StoreOpaque {
    fn set_time_deadline(&mut self, at: Option<Instant>) -> Result<()> {
        let store = self.id().number();
        let Some(page) = self.vm.interrupt_page() else {
            ensure!(at.is_none(), "guests are not interrupted; turn on `Config::deadlines` or `Config::epoch_interruption`");
            return Ok(());
        };
        if let Some(old) = self.time_deadline.take() {
            deadline::forget(old, store);
            page.clear(Cause::Time)?;
        }
        if let Some(at) = at {
            deadline::set(at, store, page)?;
            self.time_deadline = Some(at);
        }
        Ok(())
    }

    fn set_fuel_interval(&mut self, interval: Option<u64>) -> Result<()> {
        if interval == Some(0) {
            bail!("fuel_async_yield_interval must not be 0");
        }
        let fuel = self.get_fuel()?;
        self.fuel_interval = interval.and_then(NonZeroU64::new);
        self.set_fuel(fuel)
    }
}
