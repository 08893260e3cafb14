//! Calls as futures: each poll enters or resumes the guest, until it returns or waits; and the host functions that it waits for.
//!
//! The task of a poll is noted in the store as long as the guest runs, and only then can the guest be suspended: a call that is made in
//! the meantime by other means than a future hides it.

use super::boundary::{Callee, StoreLoan};
use super::entry;
use super::host::HostCall;
use super::instance::InstanceId;
use super::pending::Pending;
use super::store::VmStore;
use super::suspend::{Progress, Suspended, Wait, extend_deadline};
use super::value::ValRaw;
use crate::Caller;
use crate::call_hook::CallHook;
use crate::error::{Error, Result};
use crate::store::StoreInner;
use peregrine_artifact::vmctx::VmContextHeader;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

/// A call under way, with the store lent to it.
pub(crate) struct GuestCall<'a, T: 'static> {
    store: NonNull<StoreInner<T>>,
    vm: NonNull<VmStore>,
    state: State,
    borrowed: PhantomData<(&'a mut StoreInner<T>, &'a mut [ValRaw])>,
}

enum State {
    New(Callee, *mut ValRaw),
    /// It was interrupted before it began, and waits for that.
    Yielded(Wait, Callee, *mut ValRaw),
    Suspended(Suspended),
    Done,
}

// SAFETY: it is a unique borrow of a store and of values, as its type says; what it waits for is `Send`.
unsafe impl<T: Send> Send for GuestCall<'_, T> {}

impl<'a, T: 'static> GuestCall<'a, T> {
    /// A call that begins when it is first polled. `values` holds parameters of the types that the function takes, and its results in the
    /// end.
    ///
    /// # Panics
    ///
    /// If the function belongs to another store, or `values` has fewer slots than parameters or results.
    pub(crate) fn new(store: &'a mut StoreInner<T>, callee: Callee, values: &'a mut [ValRaw]) -> Self {
        callee.check(store, values.len());
        let vm = store.opaque.vm.pointer();
        Self { store: NonNull::from(store), vm, state: State::New(callee, values.as_mut_ptr()), borrowed: PhantomData }
    }

    /// The call has ended.
    #[inline]
    fn rest(&mut self) {
        // SAFETY: the store is lent to this call.
        unsafe { (*self.vm.as_ptr()).rest() };
    }

    /// Does one turn, with the store lent. `None` if it waits before it begins.
    fn turn(&mut self, task: &mut Context<'_>) -> Option<Progress> {
        let vm = self.vm;
        let (wait, callee, values) = match std::mem::replace(&mut self.state, State::Done) {
            // SAFETY: the store is lent to this call.
            State::New(callee, values) => match unsafe { callee.look(vm, task) } {
                Ok(wait) => (wait, callee, values),
                Err(pending) => return Some(Progress::Ended(pending)),
            },
            State::Yielded(mut wait, callee, values) => match catch_unwind(AssertUnwindSafe(|| wait.poll(task))) {
                Ok(Poll::Pending) => (Some(wait), callee, values),
                Ok(Poll::Ready(Ok((_, ticks)))) => {
                    if let Some(ticks) = ticks {
                        // SAFETY: as above; the host is the store's other part, which is lent too.
                        unsafe { extend_deadline(vm, ticks) };
                    }
                    (None, callee, values)
                }
                Ok(Poll::Ready(Err(pending))) => return Some(Progress::Ended(pending)),
                Err(payload) => return Some(Progress::Ended(Pending::Panic(payload))),
            },
            begun => return Some(self.go_on(begun, task)),
        };
        match wait {
            // SAFETY: as above; the values are as `new` asks, and there are enough of them.
            None => Some(with_task(vm, task, || unsafe { callee.begin(vm, values) })),
            Some(wait) => {
                self.state = State::Yielded(wait, callee, values);
                None
            }
        }
    }

    /// [`turn`](Self::turn) of a call that has begun.
    fn go_on(&mut self, state: State, task: &mut Context<'_>) -> Progress {
        let vm = self.vm;
        match state {
            State::Suspended(mut suspended) => {
                // SAFETY: the store is lent, and the guest's stack is as it was left: whoever used the store meanwhile is gone.
                let polled = unsafe {
                    let _deeper = match entry::go_deeper(vm) {
                        Ok(deeper) => deeper,
                        Err(pending) => {
                            suspended.cancel(vm);
                            return Progress::Ended(pending);
                        }
                    };
                    catch_unwind(AssertUnwindSafe(|| suspended.poll(vm, task)))
                };
                match polled {
                    Ok(Poll::Pending) => Progress::Suspended(suspended),
                    Ok(Poll::Ready(Err(pending))) => Progress::Ended(pending),
                    Ok(Poll::Ready(Ok((value, ticks)))) => {
                        if let Some(ticks) = ticks {
                            // SAFETY: as above; the host is the store's other part, which is lent too.
                            unsafe { extend_deadline(vm, ticks) };
                        }
                        match suspended.frame {
                            None => Progress::Returned,
                            // SAFETY: as above; the frame is that of the activation, which is the last on the stack.
                            Some(frame) => with_task(vm, task, || unsafe { entry::go_on(vm, frame, value) }),
                        }
                    }
                    Err(payload) => Progress::Ended(Pending::Panic(payload)),
                }
            }
            _ => panic!("a call was polled after it had ended"),
        }
    }
}

/// Does `work` with the task noted.
fn with_task<R>(vm: NonNull<VmStore>, task: &mut Context<'_>, work: impl FnOnce() -> R) -> R {
    // SAFETY: the store is lent to the caller. The machine looks at the task only while `work` is under way.
    unsafe {
        let outer = (*vm.as_ptr()).set_task(Some(NonNull::from(task).cast()));
        let result = work();
        (*vm.as_ptr()).set_task(outer);
        result
    }
}

impl<T: 'static> Future for GuestCall<'_, T> {
    type Output = Result<(), Pending>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: the store is borrowed by this call, and nobody but what it waits for uses it in the meantime.
        let _loan = unsafe { StoreLoan::new(self.vm, self.store) };
        // Each by itself, so that what comes of a call that returned is not moved.
        match self.turn(task) {
            None => Poll::Pending,
            Some(Progress::Returned) => {
                self.rest();
                Poll::Ready(Ok(()))
            }
            Some(Progress::Ended(pending)) => {
                self.rest();
                Poll::Ready(Err(pending))
            }
            Some(Progress::Suspended(suspended)) => {
                self.state = State::Suspended(suspended);
                Poll::Pending
            }
        }
    }
}

impl<T: 'static> Drop for GuestCall<'_, T> {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Done);
        if !matches!(state, State::Done) {
            // Nobody tells of a crossing.
            // SAFETY: as in `poll`.
            unsafe { (*self.store.as_ptr()).opaque.stop_clock() };
        }
        if let State::Suspended(suspended) = state {
            // SAFETY: as in `poll`.
            unsafe {
                let _loan = StoreLoan::new(self.vm, self.store);
                suspended.cancel(self.vm);
                (*self.vm.as_ptr()).rest();
            }
        }
    }
}

/// What an asynchronous host function does, by values as the machine passes them.
pub(crate) trait AsyncHostBody<T: 'static>: Send + Sync + 'static {
    /// What the future gives.
    type Output;

    /// How many values a call has room for: the larger of the numbers of parameters and results.
    fn slots(&self) -> usize;

    /// Begins to serve a call with the parameters `values`.
    fn begin<'a>(&'a self, caller: Caller<'a, T>, values: &[ValRaw]) -> Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    /// Ends it: writes the results.
    fn end(&self, store: &mut StoreInner<T>, output: Self::Output, values: &mut [ValRaw]) -> Result<()>;
}

/// A call hook under way. What it borrows is the store.
type HookFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A call of a host function under way.
struct HostFuture<T: 'static, B: AsyncHostBody<T>> {
    /// The body's future, whose borrows are those of this struct. `None` before the body has begun, and once it has ended.
    future: Option<Pin<Box<dyn Future<Output = B::Output> + Send>>>,
    /// A call hook that waits, before the body begins or after it has ended.
    hook: Option<HookFuture>,
    /// What came of the body, once it has ended.
    ended: Option<Result<()>>,
    caller: Option<InstanceId>,
    body: NonNull<B>,
    store: NonNull<StoreInner<T>>,
    vm: NonNull<VmStore>,
    values: *mut [ValRaw],
}

// SAFETY: it stands for a unique borrow of the store and of values on the guest's stack, and a shared one of the body, which is `Sync`.
unsafe impl<T: Send, B: AsyncHostBody<T>> Send for HostFuture<T, B> {}

impl<T: 'static, B: AsyncHostBody<T>> Unpin for HostFuture<T, B> {}

impl<T: Send + 'static, B: AsyncHostBody<T>> HostFuture<T, B> {
    /// Begins to wait for the call hook.
    ///
    /// # Safety
    ///
    /// 1. The store is borrowed for this future, and the body does not use it now.
    unsafe fn wait_for_hook(&mut self, kind: CallHook) {
        // SAFETY: as the caller says (1). The future is dropped before anything else uses the store: it is taken first in `poll`, and by who
        // drops this one.
        self.hook = Some(unsafe {
            let future: Pin<Box<dyn Future<Output = Result<()>> + Send + '_>> = Box::pin((*self.store.as_ptr()).crossing_async(kind));
            std::mem::transmute::<Pin<Box<dyn Future<Output = Result<()>> + Send + '_>>, HookFuture>(future)
        });
    }

    /// Begins the body.
    ///
    /// # Safety
    ///
    /// 1. As for [`wait_for_hook`](Self::wait_for_hook).
    unsafe fn begin(&mut self) {
        // SAFETY: the body is kept by the store, and the values are where the guest put them. The future is dropped before the borrows end that
        // it is made of: by `poll` before it uses the store, and by the call that waits for it before the store is given back.
        self.future = Some(unsafe {
            let future = self.body.as_ref().begin(Caller::new(&mut *self.store.as_ptr(), self.caller), &*self.values);
            std::mem::transmute::<
                Pin<Box<dyn Future<Output = B::Output> + Send + '_>>,
                Pin<Box<dyn Future<Output = B::Output> + Send + 'static>>,
            >(future)
        });
    }

    fn failed(&self, error: Error) -> Poll<Result<u64, Pending>> {
        // SAFETY: whoever used the store is done with it.
        Poll::Ready(Err(Pending::Error(error, super::backtrace(unsafe { self.vm.as_ref() }))))
    }
}

impl<T: Send + 'static, B: AsyncHostBody<T>> Future for HostFuture<T, B> {
    type Output = Result<u64, Pending>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(hook) = &mut self.hook {
            let told = std::task::ready!(hook.as_mut().poll(task));
            // The store's borrow ends with it.
            self.hook = None;
            match (told, self.ended.take()) {
                (Err(error), _) | (Ok(()), Some(Err(error))) => return self.failed(error),
                (Ok(()), Some(Ok(()))) => return Poll::Ready(Ok(0)),
                // SAFETY: the hook is done with the store.
                (Ok(()), None) => unsafe { self.begin() },
            }
        }
        let Some(future) = &mut self.future else { panic!("a host function was polled after it had ended") };
        let output = std::task::ready!(future.as_mut().poll(task));
        // The store's borrow ends with it.
        self.future = None;
        // SAFETY: the body is kept by the store, as long as calls are under way; the store is borrowed for this future, and the values are where
        // the guest, which waits, expects them.
        let ended = unsafe {
            let store = &mut *self.store.as_ptr();
            let ended = self.body.as_ref().end(store, output, &mut *self.values);
            if store.hook_may_wait() {
                self.ended = Some(ended);
                self.wait_for_hook(CallHook::ReturningFromHost);
                return self.poll(task);
            }
            store.crossing(CallHook::ReturningFromHost).and(ended)
        };
        match ended {
            Ok(()) => Poll::Ready(Ok(0)),
            Err(error) => self.failed(error),
        }
    }
}

/// The code of asynchronous host functions with the body `B`, whose data is an `Arc<B>`, in stores of `T`.
///
/// # Safety
///
/// 1. As for [`super::boundary::host_entry`].
pub(crate) unsafe extern "C" fn async_host_entry<T: Send + 'static, B: AsyncHostBody<T>>(
    context: *mut VmContextHeader,
    values: *mut ValRaw,
) {
    // SAFETY: as in `host_entry` (1).
    let (mut vm, store, body, caller) = unsafe {
        let call = HostCall::from_context(context);
        let host = call.store.as_ref().host().expect("the guest runs only in a store that was lent");
        let body = &*std::ptr::from_ref(call.function.as_ref().data()).cast::<std::sync::Arc<B>>();
        (call.store, host.cast::<StoreInner<T>>(), NonNull::from(&**body), call.caller)
    };
    // SAFETY: the task, if there is one, is that of the poll which this call is part of.
    let task = unsafe { vm.as_ref().task().map(|task| &mut *task.as_ptr()) };
    let can_wait = task.is_some();
    let mut nobody = Context::from_waker(Waker::noop());
    let work = || {
        // SAFETY: the body is kept by the store, which belongs to this call; the caller gives as many values as the body says.
        let mut future = unsafe {
            let values = std::ptr::slice_from_raw_parts_mut(values, body.as_ref().slots());
            let mut future = HostFuture::<T, B> { future: None, hook: None, ended: None, caller, body, store, vm, values };
            if (*store.as_ptr()).hook_may_wait() {
                future.wait_for_hook(CallHook::CallingHost);
            } else {
                let hooked = (*store.as_ptr()).crossing(CallHook::CallingHost);
                hooked.map_err(|error| Pending::Error(error, super::backtrace(vm.as_ref())))?;
                future.begin();
            }
            future
        };
        match Pin::new(&mut future).poll(task.unwrap_or(&mut nobody)) {
            Poll::Ready(result) => result.map(|_| None),
            Poll::Pending if can_wait => Ok(Some(future)),
            Poll::Pending => {
                drop(future);
                // SAFETY: the body is done with the store.
                Err(Pending::Error(crate::format_err!("{CANNOT_WAIT}"), super::backtrace(unsafe { vm.as_ref() })))
            }
        }
    };
    let outcome = catch_unwind(AssertUnwindSafe(work));
    // SAFETY: the body is done with the store, or waits.
    let vm = unsafe { vm.as_mut() };
    match outcome {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(future))) => vm.suspend(Wait::for_future(Box::pin(future))),
        Ok(Err(pending)) => vm.raise(pending),
        Err(payload) => vm.raise(Pending::Panic(payload)),
    }
}

const CANNOT_WAIT: &str = "an asynchronous host function has to wait, but the guest was not called as a future; \
    use `call_async`, `instantiate_async` or another function whose name ends in `_async`";
