//! The page that guest code looks at in every loop, and that becomes inaccessible when it shall stop.

use super::interrupt_pages::Page;
use peregrine_sys::forks;
use peregrine_sys::pages::page_size;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a store is interrupted. Each is raised and cleared by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cause {
    /// The epoch of the deadline has come.
    Epoch = 1,
    /// The time of the deadline has come.
    Time = 2,
    /// The process was forked while the guest was under way: deadlines are not watched yet in the child.
    Fork = 4,
}

/// One store's page. Shared with whoever may interrupt the store.
pub(crate) struct InterruptPage {
    page: ManuallyDrop<Page>,
    /// The causes that are raised, as bits. Changed with `state` locked.
    causes: AtomicU8,
    state: Mutex<State>,
    /// Called when a cause is raised: the store's thread sleeps in a builtin, or its task waits there.
    wake: Mutex<Option<Wake>>,
}

/// What wakes a thread that sleeps, or a task. It may do anything, so nothing is locked when it is called or dropped.
pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

/// A cause was raised, and who waits is still to be told.
#[must_use = "who waits is not woken yet"]
pub(crate) struct Raised {
    wake: Option<Wake>,
    closed: io::Result<()>,
}

impl Raised {
    /// Wakes who waits: to be called with nothing locked, since a waker of the embedder's may do anything, panic too.
    ///
    /// # Errors
    ///
    /// If the page could not be closed, so that guest code which runs goes on.
    pub(crate) fn tell(self) -> io::Result<()> {
        if let Some(wake) = self.wake {
            wake();
        }
        self.closed
    }
}

/// How many pages could not be closed.
static FAILED: AtomicU64 = AtomicU64::new(0);

/// How many interruptions of the process did not become known to the guest's code.
pub(crate) fn failed_interruptions() -> u64 {
    FAILED.load(Ordering::Relaxed)
}

/// As long as it lives, an interruption calls what was given to [`InterruptPage::wake_with`].
pub(super) struct Awake(Arc<InterruptPage>);

impl Drop for Awake {
    fn drop(&mut self) {
        let old = self.0.with_wake(Option::take);
        drop(old);
    }
}

/// Locked while the page's protection is changed, and before nothing else.
struct State {
    /// Guest code may look at the page: before, its protection does not matter and is left alone.
    is_watched: bool,
    is_closed: bool,
}

impl InterruptPage {
    /// A page, with `cause` raised if there is one.
    pub(crate) fn new(cause: Option<Cause>) -> io::Result<Self> {
        let page = ManuallyDrop::new(Page::new()?);
        let causes = AtomicU8::new(cause.map_or(0, |cause| cause as u8));
        Ok(Self { page, causes, state: Mutex::new(State { is_watched: false, is_closed: false }), wake: Mutex::default() })
    }

    /// Interrupts the guest at its next look, and, when the result is [told](Raised::tell), where it waits. From any thread.
    pub(crate) fn raise(&self, cause: Cause) -> Raised {
        // Paired with the loads in `is_raised`: long builtins look at the causes, compiled code at the page.
        let closed = self.change(|_| {
            self.causes.fetch_or(cause as u8, Ordering::Release);
        });
        Raised { wake: self.with_wake(|current| current.clone()), closed }
    }

    /// Calls `wake` on every interruption while the result lives, and perhaps a little later. The caller looks at
    /// [`is_requested`](Self::is_requested) before it sleeps: what was requested before is not told again.
    pub(super) fn wake_with(self: &Arc<Self>, wake: Wake) -> Awake {
        let old = self.with_wake(|current| current.replace(wake));
        drop(old);
        Awake(Arc::clone(self))
    }

    /// Lets the guest run on, unless there is another cause.
    pub(crate) fn clear(&self, cause: Cause) -> io::Result<()> {
        self.change(|_| {
            self.causes.fetch_and(!(cause as u8), Ordering::Release);
        })
    }

    /// From now on guest code may look at the page.
    pub(crate) fn watch(&self) -> io::Result<()> {
        self.change(|state| state.is_watched = true)
    }

    fn with_wake<R>(&self, work: impl FnOnce(&mut Option<Wake>) -> R) -> R {
        let _inside = forks::enter();
        work(&mut self.wake.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        // The thread that watches deadlines comes here too, and a child process has one of its own.
        let _inside = forks::enter();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let close = state.is_watched && self.is_requested();
        if close != state.is_closed {
            self.page.set_closed(close).inspect_err(|_| _ = FAILED.fetch_add(u64::from(close), Ordering::Relaxed))?;
            state.is_closed = close;
        }
        Ok(())
    }

    /// Where the causes that are raised are, for as long as this lives: not 0 if there are any.
    pub(super) fn causes(&self) -> NonNull<AtomicU8> {
        NonNull::from(&self.causes)
    }

    /// Whether the guest is to stop.
    pub(crate) fn is_requested(&self) -> bool {
        self.causes.load(Ordering::Acquire) != 0
    }

    /// Whether it is to stop for `cause`.
    pub(crate) fn is_raised(&self, cause: Cause) -> bool {
        self.causes.load(Ordering::Acquire) & cause as u8 != 0
    }

    /// Whether `address` is in the page. Signal-safe.
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.page.address()) < page_size()
    }

    /// The page's address, for contexts.
    pub(crate) fn address(&self) -> u64 {
        self.page.address() as u64
    }
}

impl Drop for InterruptPage {
    fn drop(&mut self) {
        // SAFETY: it is not used again.
        unsafe { ManuallyDrop::take(&mut self.page) }.give_back();
    }
}
