//! The page that guest code looks at in every loop, and that becomes inaccessible when it shall stop.

use peregrine_sys::pages::{Reservation, page_size};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// One store's page. Shared with whoever may interrupt the store.
pub(crate) struct InterruptPage {
    page: Reservation,
    requested: AtomicBool,
    /// Called when the page is requested: the store's thread sleeps in a builtin.
    wake: Mutex<Option<Wake>>,
}

/// What wakes a thread that sleeps.
pub(super) type Wake = Box<dyn Fn() + Send + Sync>;

/// As long as it lives, an interruption calls what was given to [`InterruptPage::wake_with`].
pub(super) struct Awake<'a>(&'a InterruptPage);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        *self.0.wake.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl InterruptPage {
    /// An accessible page.
    pub(crate) fn new() -> io::Result<Self> {
        let page = Reservation::new(page_size())?;
        page.commit(0..page_size())?;
        Ok(Self { page, requested: AtomicBool::new(false), wake: Mutex::default() })
    }

    /// Makes the guest trap at its next look. From any thread.
    pub(crate) fn interrupt(&self) -> io::Result<()> {
        // Paired with the load in `is_requested`: long builtins look at the flag, compiled code at the page.
        self.requested.store(true, Ordering::Release);
        if let Some(wake) = &*self.wake.lock().unwrap_or_else(PoisonError::into_inner) {
            wake();
        }
        self.page.protect_none(0..page_size())
    }

    /// Lets the guest run on.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.requested.store(false, Ordering::Release);
        self.page.commit(0..page_size())
    }

    /// Calls `wake` on every interruption while the result lives. The caller looks at [`is_requested`](Self::is_requested) before it
    /// sleeps: what was requested before is not told again.
    pub(super) fn wake_with(&self, wake: Wake) -> Awake<'_> {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(wake);
        Awake(self)
    }

    /// Whether the guest is to stop.
    pub(crate) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Whether `address` is in the page. Signal-safe.
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.page.contains(address)
    }

    /// The page's address, for contexts.
    pub(crate) fn address(&self) -> u64 {
        self.page.ptr() as u64
    }
}
