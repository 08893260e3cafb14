//! Guarded stacks and a pool of them.
//!
//! A [`GuestStack`] is address space with an inaccessible guard at its low end; memory arrives as it is touched. Running off the
//! stack faults in the guard, which the fault callback recognizes by [`GuestStack::contains_guard`]. What runs on the stack and
//! how it gets there is the machine's business in the engine.

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pages::{Reservation, page_size, round_up_to_pages};

/// The guard size that suits code which probes its large frames: 64 KiB.
pub const DEFAULT_GUARD_LEN_BYTES: usize = 64 << 10;

/// An owned stack that grows down towards its guard:
///
/// ```text
/// base            limit                              top
///   | guard, no access | usable, readable and writable |
/// ```
pub struct GuestStack {
    space: Space,
    limit: *mut u8,
    top: *mut u8,
    guard: Range<usize>,
}

enum Space {
    Own(Reservation),
    /// Memory of somebody else's, which is given back when this is dropped.
    Lent(#[expect(dead_code, reason = "kept for its drop")] Box<dyn Any + Send + Sync>),
}

// SAFETY: the pointers are addresses of memory that it owns, as a box does.
unsafe impl Send for GuestStack {}
// SAFETY: a shared reference gives addresses away, no access.
unsafe impl Sync for GuestStack {}

impl fmt::Debug for GuestStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestStack").field("limit", &self.limit).field("top", &self.top).field("guard", &self.guard).finish()
    }
}

impl GuestStack {
    /// Maps a stack of `usable_len_bytes` above a guard of `guard_len_bytes`, each rounded up to whole pages; the usable part
    /// has at least one page. No memory is taken before it is touched.
    ///
    /// # Errors
    /// `InvalidInput` where the sizes overflow, otherwise what the system said.
    pub fn new(usable_len_bytes: usize, guard_len_bytes: usize) -> io::Result<Self> {
        let sizes = round_up_to_pages(usable_len_bytes.max(1)).zip(round_up_to_pages(guard_len_bytes));
        let (total_len_bytes, guard_len_bytes) = sizes
            .and_then(|(usable, guard)| Some((usable.checked_add(guard)?, guard)))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("stack of {usable_len_bytes} bytes is too large")))?;
        let reservation = Reservation::new(total_len_bytes)?;
        reservation.commit(guard_len_bytes..total_len_bytes)?;
        // A stack is touched at its top and little further: a huge page would only be zeroed in vain. Kernels without
        // huge pages refuse the hint.
        let _ = reservation.advise_small_pages(guard_len_bytes..total_len_bytes);
        let base = reservation.ptr();
        let (limit, top) = (base.wrapping_add(guard_len_bytes), base.wrapping_add(total_len_bytes));
        Ok(Self { space: Space::Own(reservation), limit, top, guard: base.addr()..limit.addr() })
    }

    /// A stack in memory of somebody else's: `limit..top`, with `guard` right below. `owner` is dropped with it.
    ///
    /// # Safety
    /// 1. The stack can be read and written, and nobody else does, until `owner` is dropped.
    /// 2. Accesses to the guard fault.
    /// 3. `top` is aligned to 16 bytes.
    pub unsafe fn lent(owner: Box<dyn Any + Send + Sync>, limit: *mut u8, top: *mut u8, guard: Range<usize>) -> Self {
        Self { space: Space::Lent(owner), limit, top, guard }
    }

    /// Whether it is in memory of somebody else's.
    fn is_lent(&self) -> bool {
        matches!(self.space, Space::Lent(_))
    }

    /// The end of the stack, page-aligned: the first value of the stack pointer. Writes start right below it.
    pub fn top(&self) -> *mut u8 {
        self.top
    }

    /// The lowest usable byte, right above the guard.
    pub fn limit(&self) -> *mut u8 {
        self.limit
    }

    /// The usable size in bytes.
    pub fn usable_len_bytes(&self) -> usize {
        self.top.addr() - self.limit.addr()
    }

    /// The size of the guard in bytes.
    pub fn guard_len_bytes(&self) -> usize {
        self.guard.len()
    }

    /// Whether the address is in the guard. Safe to call in a fault callback.
    pub fn contains_guard(&self, addr: usize) -> bool {
        self.guard.contains(&addr)
    }

    /// Whether the address is in the usable part. Safe to call in a fault callback.
    pub fn contains(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.limit().addr()) < self.usable_len_bytes()
    }

    /// How many bytes of the stack are in memory; none of what is somebody else's.
    ///
    /// # Errors
    /// What the system said.
    pub fn resident_bytes(&self) -> io::Result<usize> {
        match &self.space {
            Space::Own(reservation) => reservation.resident_bytes(self.guard.len()..reservation.len_bytes()),
            Space::Lent(_) => Ok(0),
        }
    }

    /// Gives memory back, except for the `keep_resident_bytes` (rounded up to pages) below the top, whose content stays.
    ///
    /// # Errors
    /// What the system said.
    pub fn shrink_resident(&self, keep_resident_bytes: usize) -> io::Result<()> {
        let kept_bytes = keep_resident_bytes.min(self.usable_len_bytes()).next_multiple_of(page_size());
        match &self.space {
            Space::Own(reservation) => reservation.decommit(self.guard.len()..reservation.len_bytes() - kept_bytes),
            Space::Lent(_) => Ok(()),
        }
    }
}

/// What the stacks of a [`StackPool`] look like and how many it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StackPoolConfig {
    /// The usable size of each stack in bytes.
    pub usable_len_bytes: usize,
    /// The guard size of each stack in bytes.
    pub guard_len_bytes: usize,
    /// How many unused stacks are kept; more are unmapped when given back.
    pub max_warm: usize,
    /// How many bytes below the top of an unused stack stay in memory, of those beyond `max_untrimmed`.
    pub keep_resident_bytes: usize,
    /// So many unused stacks stay as their users left them: those that are taken next, so that giving and taking one is no system call where
    /// few are in use at once.
    pub max_untrimmed: usize,
}

impl Default for StackPoolConfig {
    fn default() -> Self {
        Self {
            usable_len_bytes: 1 << 20,
            guard_len_bytes: DEFAULT_GUARD_LEN_BYTES,
            max_warm: 64,
            keep_resident_bytes: 64 << 10,
            max_untrimmed: 4,
        }
    }
}

/// How often stacks are given back between two looks at how many of the unused ones were needed meanwhile.
const WINDOW: u32 = 64;

/// A bounded store of unused stacks, shared between threads. Never empty: where it has none, it makes one. What many calls at once needed
/// is unmapped by and by when fewer come.
pub struct StackPool {
    config: StackPoolConfig,
    warm: Mutex<Warm>,
    lender: Option<Box<Lender>>,
}

/// Unused stacks.
#[derive(Default)]
struct Warm {
    /// The warmest last.
    stacks: Vec<GuestStack>,
    /// The fewest that there were since the last look: so many were not needed.
    fewest: usize,
    /// How many were given back since then.
    gives: u32,
}

impl Warm {
    fn take(&mut self) -> Option<GuestStack> {
        let stack = self.stacks.pop();
        self.fewest = self.fewest.min(self.stacks.len());
        stack
    }

    /// Keeps `stack`. Returns the coldest one if none of those that were there all the time was needed for long.
    fn give(&mut self, stack: GuestStack) -> Option<GuestStack> {
        self.stacks.push(stack);
        self.gives += 1;
        if self.gives < WINDOW {
            return None;
        }
        let is_surplus = self.fewest > 0;
        (self.gives, self.fewest) = (0, self.stacks.len() - usize::from(is_surplus));
        is_surplus.then(|| self.stacks.remove(0))
    }
}

/// Makes stacks in memory of somebody else's, of a usable size in bytes.
type Lender = dyn Fn(usize) -> io::Result<GuestStack> + Send + Sync;

impl StackPool {
    /// An empty pool.
    pub fn new(config: StackPoolConfig) -> Self {
        Self { config, warm: Mutex::default(), lender: None }
    }

    /// A pool that keeps nothing: every stack comes from `lender`.
    pub fn lent(config: StackPoolConfig, lender: impl Fn(usize) -> io::Result<GuestStack> + Send + Sync + 'static) -> Self {
        Self { lender: Some(Box::new(lender)), ..Self::new(config) }
    }

    /// What the stacks look like.
    pub fn config(&self) -> &StackPoolConfig {
        &self.config
    }

    /// The stack that was given back last, whose content is what its user left near the top, or else a new one.
    ///
    /// # Errors
    /// What the system said where a new stack had to be mapped.
    pub fn take(&self) -> io::Result<GuestStack> {
        if let Some(lender) = &self.lender {
            return lender(self.config.usable_len_bytes);
        }
        let warm = self.warm().take();
        match warm {
            Some(stack) => Ok(stack),
            None => GuestStack::new(self.config.usable_len_bytes, self.config.guard_len_bytes),
        }
    }

    /// Gives a stack back. It is unmapped where the pool is full or where it is not of the pool's sizes.
    pub fn give(&self, stack: GuestStack) {
        if stack.is_lent() || !self.fits(&stack) {
            return;
        }
        let surplus = {
            let mut warm = self.warm();
            match warm.stacks.len() {
                count if count >= self.config.max_warm => Err(Some(stack)),
                count if count < self.config.max_untrimmed => Err(warm.give(stack)),
                _ => Ok(stack),
            }
        };
        // Whatever is dropped is unmapped outside the lock.
        let Ok(stack) = surplus else { return };
        // Outside the lock: the system call may take a while.
        if stack.shrink_resident(self.config.keep_resident_bytes).is_err() {
            return;
        }
        let surplus = {
            let mut warm = self.warm();
            if warm.stacks.len() < self.config.max_warm { warm.give(stack) } else { Some(stack) }
        };
        // Unmapped outside the lock too.
        drop(surplus);
    }

    /// How many unused stacks the pool holds.
    pub fn warm_count(&self) -> usize {
        self.warm().stacks.len()
    }

    /// Unmaps all unused stacks. Returns how many there were.
    pub fn clear(&self) -> usize {
        let warm = std::mem::take(&mut *self.warm());
        warm.stacks.len()
    }

    fn fits(&self, stack: &GuestStack) -> bool {
        round_up_to_pages(self.config.usable_len_bytes.max(1)) == Some(stack.usable_len_bytes())
            && round_up_to_pages(self.config.guard_len_bytes) == Some(stack.guard_len_bytes())
    }

    fn warm(&self) -> MutexGuard<'_, Warm> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StackPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackPool").field("config", &self.config).field("warm", &self.warm_count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(stack: &GuestStack, depth_bytes: usize) {
        for offset in (1..=depth_bytes).step_by(page_size()) {
            assert!(offset <= stack.usable_len_bytes());
            // SAFETY: the address is in the usable part, and the test alone uses the stack.
            unsafe { stack.top().sub(offset).write_volatile(1) };
        }
    }

    #[test]
    fn a_stack_has_its_guard_below() {
        let stack = GuestStack::new(1 << 20, DEFAULT_GUARD_LEN_BYTES).unwrap();
        assert_eq!(stack.usable_len_bytes(), 1 << 20);
        assert_eq!(stack.top().addr() - stack.limit().addr(), 1 << 20);
        assert!(!stack.contains(stack.top().addr()) && stack.contains(stack.top().addr() - 1));
        assert!(stack.contains(stack.limit().addr()) && !stack.contains(stack.limit().addr() - 1));
        assert!(stack.contains_guard(stack.limit().addr() - 1) && !stack.contains_guard(stack.limit().addr()));
        let base = stack.limit().addr() - DEFAULT_GUARD_LEN_BYTES;
        assert!(stack.contains_guard(base) && !stack.contains_guard(base - 1));
        assert_eq!(stack.resident_bytes().unwrap(), 0);
        touch(&stack, 1 << 20);
        assert_eq!(stack.resident_bytes().unwrap(), 1 << 20);
    }

    #[test]
    fn sizes_are_rounded_and_checked() {
        let stack = GuestStack::new(1, 0).unwrap();
        assert_eq!((stack.usable_len_bytes(), stack.guard_len_bytes()), (page_size(), 0));
        assert!(!stack.contains_guard(stack.limit().addr()));
        assert!(GuestStack::new(usize::MAX, 0).is_err());
        assert!(GuestStack::new(usize::MAX / 2, usize::MAX / 2 + 2).is_err());
    }

    #[test]
    fn the_pool_keeps_what_it_was_told_and_no_more() {
        let config = StackPoolConfig {
            usable_len_bytes: 256 << 10,
            max_warm: 2,
            keep_resident_bytes: 16 << 10,
            max_untrimmed: 0,
            ..Default::default()
        };
        let pool = StackPool::new(config);
        let stacks: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
        stacks.iter().for_each(|stack| touch(stack, 128 << 10));
        let tops: Vec<_> = stacks.iter().map(|stack| stack.top().addr()).collect();
        stacks.into_iter().for_each(|stack| pool.give(stack));
        assert_eq!(pool.warm_count(), 2);
        let stack = pool.take().unwrap();
        assert_eq!(stack.top().addr(), tops[1], "the warmest comes first");
        assert_eq!(stack.resident_bytes().unwrap(), 16 << 10);
        pool.give(GuestStack::new(page_size(), 0).unwrap());
        assert_eq!(pool.warm_count(), 1, "a foreign stack is not kept");
        assert_eq!((pool.clear(), pool.warm_count()), (1, 0));
    }

    #[test]
    fn few_stacks_come_back_as_they_were_left() {
        let config = StackPoolConfig { usable_len_bytes: 256 << 10, keep_resident_bytes: 16 << 10, max_untrimmed: 2, ..Default::default() };
        let pool = StackPool::new(config);
        let stacks: Vec<_> = (0..5).map(|_| pool.take().unwrap()).collect();
        stacks.iter().for_each(|stack| touch(stack, 128 << 10));
        stacks.into_iter().for_each(|stack| pool.give(stack));
        let resident: Vec<_> = (0..5).map(|_| pool.take().unwrap().resident_bytes().unwrap() >> 10).collect();
        assert_eq!(resident, [16, 16, 16, 128, 128]);
    }

    #[test]
    fn what_is_not_needed_any_more_is_unmapped() {
        let config = StackPoolConfig { usable_len_bytes: 64 << 10, ..Default::default() };
        let pool = StackPool::new(config);
        let many: Vec<_> = (0..20).map(|_| pool.take().unwrap()).collect();
        many.into_iter().for_each(|stack| pool.give(stack));
        assert_eq!(pool.warm_count(), 20);
        // Two at a time from now on.
        for _ in 0..30 * WINDOW {
            let two = [pool.take().unwrap(), pool.take().unwrap()];
            two.into_iter().for_each(|stack| pool.give(stack));
        }
        assert_eq!(pool.warm_count(), 2);
    }

    #[test]
    fn threads_share_the_pool() {
        let pool = StackPool::new(StackPoolConfig { usable_len_bytes: 64 << 10, max_warm: 3, ..Default::default() });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let stack = pool.take().unwrap();
                        touch(&stack, 8 << 10);
                        pool.give(stack);
                    }
                });
            }
        });
        assert!((1..=3).contains(&pool.warm_count()));
    }
}
