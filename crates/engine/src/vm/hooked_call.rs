//! Host functions that are no futures, in calls that are, of a store whose call hook may wait: the guest is suspended while it does.
//!
//! ```text
//! CallingHost -ready-> body -> ReturningFromHost -ready-> result
//! ```

use super::fault::walk::backtrace;
use super::instance::InstanceId;
use super::pending::Pending;
use super::store::VmStore;
use super::suspend::{Wait, WaitFuture};
use super::value::ValRaw;
use crate::Caller;
use crate::call_hook::CallHook;
use crate::error::Result;
use crate::host_func::HostBody;
use crate::store::StoreInner;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, ready};

/// The values of a call.
pub(super) enum Values {
    /// In a place that stays.
    Lent(*mut [ValRaw]),
    /// Kept here.
    Own(Box<[ValRaw]>),
}

/// A call hook under way. What it borrows is the store.
type HookFuture = Pin<Box<dyn Future<Output = Result<()>>>>;

/// Such a call under way. Gives the first result as the register of results has it; the values have all.
pub(super) struct HookedCall<T: 'static, B> {
    hook: Option<HookFuture>,
    /// What came of the body, once it was called.
    ended: Option<Result<()>>,
    values: Values,
    caller: Option<InstanceId>,
    body: NonNull<B>,
    store: NonNull<StoreInner<T>>,
    vm: NonNull<VmStore>,
}

impl<T: 'static, B> Unpin for HookedCall<T, B> {}

impl<T: 'static, B: HostBody<T>> HookedCall<T, B> {
    /// A call that has not begun.
    ///
    /// # Safety
    ///
    /// 1. `vm` is the machine's part of `store`, which belongs to the call until the result is dropped, and is not borrowed when that is polled
    ///    or dropped. The body is kept by the store.
    /// 2. `values` are as the body expects, and stay where they are.
    pub(super) unsafe fn new(
        vm: NonNull<VmStore>,
        body: NonNull<B>,
        store: NonNull<StoreInner<T>>,
        caller: Option<InstanceId>,
        values: Values,
    ) -> Self {
        Self { hook: None, ended: None, values, caller, body, store, vm }
    }

    /// Begins to tell the hook.
    fn tell(&mut self, kind: CallHook) {
        // SAFETY: the store belongs to this call, as was promised to `new`, and is used by nothing else while the future is there: it is dropped
        // before the body is called, and with this.
        self.hook = Some(unsafe {
            let future: Pin<Box<dyn Future<Output = Result<()>> + '_>> = Box::pin((*self.store.as_ptr()).crossing_async(kind));
            std::mem::transmute::<Pin<Box<dyn Future<Output = Result<()>> + '_>>, HookFuture>(future)
        });
    }

    fn call_body(&mut self) -> Result<()> {
        // SAFETY: as was promised to `new`; the hook is done with the store.
        unsafe {
            let values = match &mut self.values {
                Values::Lent(values) => &mut **values,
                Values::Own(values) => values,
            };
            self.body.as_ref().call(Caller::new(&mut *self.store.as_ptr(), self.caller), values)
        }
    }

    fn result(&self) -> u64 {
        let first = match &self.values {
            // SAFETY: as was promised to `new`.
            Values::Lent(values) => unsafe { (&**values).first() },
            Values::Own(values) => values.first(),
        };
        first.map_or(0, |value| value.get_u64())
    }

    fn advance(&mut self, task: &mut Context<'_>) -> Poll<Result<u64>> {
        if self.hook.is_none() {
            self.tell(CallHook::CallingHost);
        }
        loop {
            let Some(hook) = &mut self.hook else { panic!("a host function was polled after it had ended") };
            let told = ready!(hook.as_mut().poll(task));
            // The store's borrow ends with it.
            self.hook = None;
            match (told, self.ended.take()) {
                (Err(error), _) | (Ok(()), Some(Err(error))) => return Poll::Ready(Err(error)),
                (Ok(()), Some(Ok(()))) => return Poll::Ready(Ok(self.result())),
                (Ok(()), None) => {
                    self.ended = Some(self.call_body());
                    self.tell(CallHook::ReturningFromHost);
                }
            }
        }
    }
}

impl<T: 'static, B: HostBody<T>> Future for HookedCall<T, B> {
    type Output = Result<u64, Pending>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.advance(task));
        // SAFETY: whoever used the store is done with it.
        Poll::Ready(outcome.map_err(|error| Pending::Error(error, backtrace(unsafe { self.vm.as_ref() }))))
    }
}

/// Begins such a call, whose task is noted in the store. Gives what it gives if it need not wait; otherwise the guest is suspended, and the
/// result means nothing.
///
/// # Safety
///
/// 1. The host function under way is what the call is of, and returns next.
pub(super) unsafe fn hooked_call<T: 'static, B: HostBody<T>>(mut call: HookedCall<T, B>) -> Result<u64> {
    let mut vm = call.vm;
    // SAFETY: the task is that of the poll which this call is part of (1).
    let Some(task) = (unsafe { vm.as_ref().task().map(|task| &mut *task.as_ptr()) }) else { panic!("the caller has looked for the task") };
    match call.advance(task) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => {
            let future: Pin<Box<dyn Future<Output = Result<u64, Pending>>>> = Box::pin(call);
            // SAFETY: a hook that may wait is installed only where the data of the store is `Send`, and is so itself; the body is `Sync`, and the
            // rest are addresses, used by whoever the store is lent to.
            let future = unsafe { std::mem::transmute::<Pin<Box<dyn Future<Output = Result<u64, Pending>>>>, WaitFuture>(future) };
            // SAFETY: the hook waits, and the store is used by it alone until it is polled.
            unsafe { vm.as_mut() }.suspend(Wait::for_future(future));
            Ok(0)
        }
    }
}
