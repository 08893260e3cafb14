//! Hardware faults as a callback, with the handlers that were there before kept in the chain.
//!
//! ```text
//! kernel -> entry (on the thread's alternate stack) -> callback(&mut FaultContext) -> Resume: back to the changed registers
//!                                                                                  -> NotOurs: the earlier handler
//! ```
//!
//! The callback runs in signal context: it must neither allocate nor lock nor panic, and may touch only memory that it knows
//! to be mapped. It decides by the program counter whether the fault is its own; which code lies where is the
//! caller's knowledge (the machine in the engine). A thread that may fault on a stack without room calls
//! [`ensure_thread_ready`] first.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::forks;
use super::pages::{Reservation, page_size};
use super::thread_main;

/// Which fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultSignal {
    /// SIGSEGV: an access to memory that is not there or not allowed.
    Segv,
    /// SIGBUS: an access to memory whose content is not there, such as past the end of a mapped file.
    Bus,
    /// SIGILL: an instruction that does not exist, such as the one compilers put where code must not arrive.
    Ill,
    /// SIGFPE: an integer division by zero or one that overflows.
    Fpe,
    /// SIGTRAP: a breakpoint instruction.
    Trap,
}

const SIGNALS: [(c_int, FaultSignal); 5] = [
    (libc::SIGSEGV, FaultSignal::Segv),
    (libc::SIGBUS, FaultSignal::Bus),
    (libc::SIGILL, FaultSignal::Ill),
    (libc::SIGFPE, FaultSignal::Fpe),
    (libc::SIGTRAP, FaultSignal::Trap),
];

/// What the callback decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The fault is dealt with: the thread continues with the registers of the context, its signal mask as before the fault.
    Resume,
    /// The fault belongs to somebody else: it goes to the handler that was there before, as if this one did not exist.
    NotOurs,
}

/// The callback. It is called on the faulting thread, in signal context, on the alternate stack if the thread has one.
pub type FaultHandler = fn(&mut FaultContext<'_>) -> Outcome;

/// A fault and the registers of the thread at that moment, which the callback may change.
pub struct FaultContext<'a> {
    signal: FaultSignal,
    info: &'a libc::siginfo_t,
    registers: &'a mut libc::mcontext_t,
}

/// The callback in use; null before the first [`install`].
static HANDLER: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
static INSTALL: Mutex<()> = Mutex::new(());
/// All signals are taken over: nothing is left to do for [`install`]. Changed under `INSTALL`; pairs with the load without it.
static IS_INSTALLED: AtomicBool = AtomicBool::new(false);
static EARLIER: [Earlier; SIGNALS.len()] = [const { Earlier::new() }; SIGNALS.len()];

/// The action for a signal that was in force before this module's.
struct Earlier {
    action: UnsafeCell<MaybeUninit<libc::sigaction>>,
    /// Set once the action has been read; pairs with the loads in `chain`.
    is_known: AtomicBool,
    /// Set when a handler that wanted to run only once has run.
    is_spent: AtomicBool,
}

// SAFETY: the action is written under `INSTALL` before `is_known` is released, and only read afterwards.
unsafe impl Sync for Earlier {}

impl Earlier {
    const fn new() -> Self {
        let action = UnsafeCell::new(MaybeUninit::uninit());
        Self { action, is_known: AtomicBool::new(false), is_spent: AtomicBool::new(false) }
    }
}

/// Makes `handler` see every fault of the process from now on. It stays for the life of the process; installing the same handler
/// again does nothing.
///
/// Signals that were sent (by `kill` and the like) rather than caused by an instruction never reach the callback.
///
/// # Errors
/// `AlreadyExists` where another handler is installed, otherwise what `sigaction` said.
pub fn install(handler: FaultHandler) -> io::Result<()> {
    let handler = handler as *mut ();
    if IS_INSTALLED.load(Ordering::Acquire) && std::ptr::eq(HANDLER.load(Ordering::Acquire), handler) {
        return Ok(());
    }
    let _guard = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
    let current = HANDLER.load(Ordering::Acquire);
    if !current.is_null() && !std::ptr::eq(current, handler) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another fault handler is installed"));
    }
    // The callback first: a signal entry that runs at once must find it.
    HANDLER.store(handler, Ordering::Release);
    for ((number, _), earlier) in SIGNALS.iter().zip(&EARLIER) {
        if !earlier.is_known.load(Ordering::Acquire) {
            take_over(*number, earlier)?;
        }
    }
    IS_INSTALLED.store(true, Ordering::Release);
    Ok(())
}

/// Puts back what was in force before [`install`], which may be called again afterwards. A signal whose action somebody else replaced in the
/// meantime stays theirs.
///
/// # Errors
/// What `sigaction` said.
///
/// # Safety
/// 1. No thread is in code whose faults the callback is to see, nor will be before the next `install`.
pub unsafe fn uninstall() -> io::Result<()> {
    let _guard = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
    IS_INSTALLED.store(false, Ordering::Release);
    for ((number, _), earlier) in SIGNALS.iter().zip(&EARLIER) {
        if !earlier.is_known.load(Ordering::Acquire) {
            continue;
        }
        let mut current = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: a query; it fills in the action.
        if unsafe { libc::sigaction(*number, std::ptr::null(), current.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the query filled it in.
        if unsafe { current.assume_init_ref() }.sa_sigaction != entry as *const () as usize {
            continue;
        }
        // SAFETY: the action was read from the kernel and is put back as it was.
        if unsafe { libc::sigaction(*number, earlier.action.get().cast(), std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // A signal entry that still runs on another thread finds the callback, and chains to an action that stays where it is.
        earlier.is_spent.store(false, Ordering::Release);
        earlier.is_known.store(false, Ordering::Release);
    }
    Ok(())
}

fn take_over(number: c_int, earlier: &Earlier) -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a query; it fills in the action.
    if unsafe { libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: only this function writes, under `INSTALL`, and nobody reads before `is_known`.
    unsafe { *earlier.action.get() = action };
    // Known before it is replaced, so that a fault on another thread right after the replacement finds it.
    earlier.is_known.store(true, Ordering::Release);
    // SAFETY: all zeros is a valid action.
    let mut ours: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    ours.sa_sigaction = entry as *const () as usize;
    // NODEFER: a fault inside the handler that was there before reaches it again, as it would without us, and a callback that
    // faults dies by that fault rather than silently. The kernel restores the mask on return.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
    // SAFETY: the action is complete and its handler is a function of the right type that lives forever.
    if unsafe { libc::sigaction(number, &ours, std::ptr::null_mut()) } != 0 {
        let error = io::Error::last_os_error();
        earlier.is_known.store(false, Ordering::Release);
        return Err(error);
    }
    Ok(())
}

/// What the kernel calls.
unsafe extern "C" fn entry(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: errno is the thread's own; interrupted code must find it unchanged.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the arguments are those of the kernel.
    unsafe { dispatch(number, info, context) };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// # Safety
/// 1. The arguments are those that the kernel gave to a signal handler which is still running.
unsafe fn dispatch(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(index) = SIGNALS.iter().position(|(known, _)| *known == number) else {
        return;
    };
    let handler = HANDLER.load(Ordering::Acquire);
    // SAFETY: the kernel's information is valid while the handler runs (1).
    let is_caused_by_instruction = unsafe { (*info).si_code } > 0;
    if is_caused_by_instruction && !handler.is_null() {
        // SAFETY: only `install` stores here, and only values of this function type.
        let handler: FaultHandler = unsafe { std::mem::transmute(handler) };
        // SAFETY: the kernel's context is valid, and ours to change, while the handler runs (1).
        let (info, registers) = unsafe { (&*info, &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext) };
        let mut fault = FaultContext { signal: SIGNALS[index].1, info, registers };
        if handler(&mut fault) == Outcome::Resume {
            return;
        }
    }
    // SAFETY: the arguments are those of the kernel (1).
    unsafe { chain(&EARLIER[index], number, info, context, is_caused_by_instruction) };
}

/// Does what would have happened without this module.
///
/// # Safety
/// 1. The arguments are those that the kernel gave to a signal handler which is still running.
unsafe fn chain(earlier: &Earlier, number: c_int, info: *mut libc::siginfo_t, context: *mut c_void, is_caused_by_instruction: bool) {
    if !earlier.is_known.load(Ordering::Acquire) {
        return die(number, is_caused_by_instruction);
    }
    // SAFETY: written before `is_known`, never changed since.
    let action = unsafe { (*earlier.action.get()).assume_init_ref() };
    match action.sa_sigaction {
        // The kernel does not let an instruction's fault be ignored either.
        libc::SIG_IGN if !is_caused_by_instruction => return,
        libc::SIG_DFL | libc::SIG_IGN => return die(number, is_caused_by_instruction),
        _ => {}
    }
    if action.sa_flags & libc::SA_RESETHAND != 0 && earlier.is_spent.swap(true, Ordering::AcqRel) {
        return die(number, is_caused_by_instruction);
    }
    let mut blocked = action.sa_mask;
    if action.sa_flags & libc::SA_NODEFER == 0 {
        // SAFETY: the set is a valid one and the number a signal's.
        unsafe { libc::sigaddset(&mut blocked, number) };
    }
    // SAFETY: only this thread's mask is changed; the kernel restores the one of the context on return.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, std::ptr::null_mut()) };
    if action.sa_flags & libc::SA_SIGINFO != 0 {
        type Full = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        // SAFETY: whoever installed the action with this flag gave a function of this type.
        let handler: Full = unsafe { std::mem::transmute(action.sa_sigaction) };
        // SAFETY: it gets exactly what the kernel would have given it (1).
        unsafe { handler(number, info, context) };
    } else {
        // SAFETY: whoever installed the action without the flag gave a function of this type.
        let handler: unsafe extern "C" fn(c_int) = unsafe { std::mem::transmute(action.sa_sigaction) };
        // SAFETY: it gets exactly what the kernel would have given it (1).
        unsafe { handler(number) };
    }
}

/// Lets the signal take its default course: the process ends by it, with a core file where those are wanted.
fn die(number: c_int, is_caused_by_instruction: bool) {
    // SAFETY: all zeros is the default action with an empty mask.
    let default: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the action is complete.
    unsafe { libc::sigaction(number, &default, std::ptr::null_mut()) };
    // Returning repeats the instruction and with it the fault, now without a handler. A breakpoint is past its instruction and a
    // sent signal has none.
    if !is_caused_by_instruction || number == libc::SIGTRAP {
        // SAFETY: raising a signal for this thread; it is not blocked here.
        unsafe { libc::raise(number) };
    }
}

impl fmt::Debug for FaultContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultContext")
            .field("signal", &self.signal)
            .field("fault_address", &format_args!("{:#x}", self.fault_address()))
            .field("pc", &format_args!("{:#x}", self.pc()))
            .field("sp", &format_args!("{:#x}", self.sp()))
            .field("fp", &format_args!("{:#x}", self.fp()))
            .finish()
    }
}

impl FaultContext<'_> {
    /// Which fault it is.
    pub fn signal(&self) -> FaultSignal {
        self.signal
    }

    /// The system's code for the cause (`si_code`), always positive.
    pub fn code(&self) -> i32 {
        self.info.si_code
    }

    /// The address that was accessed ([`FaultSignal::Segv`], [`FaultSignal::Bus`]) or of the instruction (the others). Zero where
    /// the processor does not tell, as for a non-canonical address.
    pub fn fault_address(&self) -> usize {
        // SAFETY: all these signals carry an address when an instruction caused them, and those alone get here.
        unsafe { self.info.si_addr() }.addr()
    }
}

#[cfg(target_arch = "x86_64")]
impl FaultContext<'_> {
    /// How many arguments of the native C convention are in registers.
    pub const ARG_COUNT: usize = 6;

    const ARGS: [c_int; 6] = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_RCX, libc::REG_R8, libc::REG_R9];

    fn get(&self, register: c_int) -> u64 {
        self.registers.gregs[register as usize] as u64
    }

    fn set(&mut self, register: c_int, value: u64) {
        self.registers.gregs[register as usize] = value as i64;
    }

    /// The address of the faulting instruction; of the one after it for [`FaultSignal::Trap`].
    pub fn pc(&self) -> usize {
        self.get(libc::REG_RIP) as usize
    }

    /// The stack pointer.
    pub fn sp(&self) -> usize {
        self.get(libc::REG_RSP) as usize
    }

    /// The frame pointer.
    pub fn fp(&self) -> usize {
        self.get(libc::REG_RBP) as usize
    }

    /// Integer argument register `index` of the native C convention; `None` from [`ARG_COUNT`](Self::ARG_COUNT) on.
    pub fn arg(&self, index: usize) -> Option<u64> {
        Self::ARGS.get(index).map(|register| self.get(*register))
    }

    /// Sets where the thread continues.
    pub fn set_pc(&mut self, pc: usize) {
        self.set(libc::REG_RIP, pc as u64);
    }

    /// Sets the stack pointer.
    pub fn set_sp(&mut self, sp: usize) {
        self.set(libc::REG_RSP, sp as u64);
    }

    /// Sets the frame pointer.
    pub fn set_fp(&mut self, fp: usize) {
        self.set(libc::REG_RBP, fp as u64);
    }

    /// Sets integer argument register `index` of the native C convention; does nothing from [`ARG_COUNT`](Self::ARG_COUNT) on.
    pub fn set_arg(&mut self, index: usize, value: u64) {
        if let Some(register) = Self::ARGS.get(index) {
            self.set(*register, value);
        }
    }

    /// Sets the register of the first integer result of the native C convention.
    pub fn set_result(&mut self, value: u64) {
        self.set(libc::REG_RAX, value);
    }
}

#[cfg(target_arch = "aarch64")]
impl FaultContext<'_> {
    /// How many arguments of the native C convention are in registers.
    pub const ARG_COUNT: usize = 8;

    /// The address of the faulting instruction.
    pub fn pc(&self) -> usize {
        self.registers.pc as usize
    }

    /// The stack pointer.
    pub fn sp(&self) -> usize {
        self.registers.sp as usize
    }

    /// The frame pointer.
    pub fn fp(&self) -> usize {
        self.registers.regs[29] as usize
    }

    /// Integer argument register `index` of the native C convention; `None` from [`ARG_COUNT`](Self::ARG_COUNT) on.
    pub fn arg(&self, index: usize) -> Option<u64> {
        self.registers.regs[..Self::ARG_COUNT].get(index).copied()
    }

    /// Sets where the thread continues.
    pub fn set_pc(&mut self, pc: usize) {
        self.registers.pc = pc as u64;
    }

    /// Sets the stack pointer.
    pub fn set_sp(&mut self, sp: usize) {
        self.registers.sp = sp as u64;
    }

    /// Sets the frame pointer.
    pub fn set_fp(&mut self, fp: usize) {
        self.registers.regs[29] = fp as u64;
    }

    /// Sets integer argument register `index` of the native C convention; does nothing from [`ARG_COUNT`](Self::ARG_COUNT) on.
    pub fn set_arg(&mut self, index: usize, value: u64) {
        if let Some(register) = self.registers.regs[..Self::ARG_COUNT].get_mut(index) {
            *register = value;
        }
    }

    /// Sets the register of the first integer result of the native C convention.
    pub fn set_result(&mut self, value: u64) {
        self.registers.regs[0] = value;
    }
}

/// An alternate stack at least this large is kept: room for a callback and for the handlers in the chain.
const ENOUGH_LEN_BYTES: usize = 64 << 10;
const ALTERNATE_LEN_BYTES: usize = 128 << 10;

/// The alternate stack of a thread: mapped here, with a guard page below, or nothing while somebody else's is large enough.
struct AlternateStack {
    own: Option<Reservation>,
    /// What to call when the thread is no longer as [`ensure_thread_ready`] left it.
    on_end: fn(),
}

/// Tells when the thread's destructors begin to run.
struct Ending(Cell<Option<fn()>>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(on_end) = self.0.get() {
            on_end();
        }
    }
}

thread_local! {
    static ENDING: Ending = const { Ending(Cell::new(None)) };
    /// In how many rounds of destructors of keys this thread has lost its alternate stack.
    static ROUNDS_LOST: Cell<u32> = const { Cell::new(0) };
}

/// Under this the system keeps the alternate stack of each thread, so that it outlives all that is `thread_local!`: a destructor may call a guest.
static KEY: OnceLock<Result<libc::pthread_key_t, i32>> = OnceLock::new();
/// The object that the destructor of the key is in stays where it is.
static IS_PINNED: AtomicBool = AtomicBool::new(false);

/// How many rounds of destructors of keys every system has at least, as long as keys are set again in them (POSIX, `_POSIX_THREAD_DESTRUCTOR_ITERATIONS`).
const ROUNDS: u32 = 4;

/// Gives this thread an alternate stack for faults, unless it has one that is large enough. It is freed when the thread has ended, among
/// the destructors of keys (`pthread_key_create`); one of them that calls a guest afterwards comes here again, for a stack until the next of their
/// rounds.
///
/// It does not stay the thread's to the end: the standard library takes the alternate stack of the threads that it started out of use before
/// their destructors run. [`thread_main::has_ended`] tells when it may have done so, and `on_end` is called by one of these destructors, and again
/// when the stack is freed; who prepares threads then forgets that this one is ready, and comes here again. Where a process ends with
/// `exit`, which takes the stack out of use too, only the latter tells.
///
/// The system knows functions of this code from now on, for as long as the process lives: the shared object that it is in, if it is in one, stays
/// where it is, whoever closes it.
///
/// # Errors
/// What the system said, or `Unsupported` where the thread has nothing left to run but the C library's own end.
pub fn ensure_thread_ready(on_end: fn()) -> io::Result<()> {
    if ROUNDS_LOST.get() >= ROUNDS {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the thread is ending"));
    }
    let key = key()?;
    // Gone already where a destructor asks, and nothing more is to be told then.
    let _ = ENDING.try_with(|ending| ending.0.set(Some(on_end)));
    if thread_main::has_ended() {
        // What was taken out of use is not taken again.
        thread_main::forget();
    }
    // SAFETY: the key was made, and is never deleted.
    let kept = unsafe { libc::pthread_getspecific(key) }.cast::<AlternateStack>();
    if !kept.is_null() {
        // SAFETY: what is kept under the key is a stack of this thread, which nobody else refers to.
        return unsafe { &mut *kept }.ensure();
    }
    if current_alternate_stack()?.ss_flags & libc::SS_DISABLE == 0 {
        // Whoever it belongs to takes it, or ours in its place, out of use some day.
        thread_main::watch();
    }
    let mut stack = Box::new(AlternateStack { own: None, on_end });
    stack.ensure()?;
    let kept = Box::into_raw(stack);
    // SAFETY: as above. The destructor of the key frees it.
    match unsafe { libc::pthread_setspecific(key, kept.cast()) } {
        0 => Ok(()),
        error => {
            // SAFETY: it was not kept.
            drop(unsafe { Box::from_raw(kept) });
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

/// The key, whose destructor stays where it is from now on.
fn key() -> io::Result<libc::pthread_key_t> {
    let key = match KEY.get() {
        Some(key) => *key,
        None => {
            // No child process is to find the key half made.
            let _inside = forks::enter();
            *KEY.get_or_init(make_key)
        }
    };
    let key = key.map_err(io::Error::from_raw_os_error)?;
    if !IS_PINNED.load(Ordering::Acquire) {
        // With nothing held: the loader may be waited for here, and has others wait while an object that it loads calls its first guest. Each thread
        // sees to it before it keeps anything under the key, as often as that may be.
        pin(thread_ended as *const c_void);
        IS_PINNED.store(true, Ordering::Release);
    }
    Ok(key)
}

fn make_key() -> Result<libc::pthread_key_t, i32> {
    let mut key = 0;
    // SAFETY: the call writes the key; the destructor is a function of the right type that lives forever.
    match unsafe { libc::pthread_key_create(&mut key, Some(thread_ended)) } {
        0 => Ok(key),
        error => Err(error),
    }
}

/// Keeps the shared object that `address` is in where it is for the life of the process, if it is in one: threads that end later call it.
fn pin(address: *const c_void) {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the call fills in what is asked for, or says that it did not. The name is that of an object that is there, since its code runs.
    unsafe {
        if libc::dladdr(address, found.as_mut_ptr()) == 0 || found.assume_init_ref().dli_fname.is_null() {
            return;
        }
        // Nothing is loaded by this. The program itself is not found by its name, and is not closed either.
        libc::dlopen(found.assume_init_ref().dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
    }
}

/// What the C library calls when the thread has ended, once in each round in which a stack is kept. Destructors that call guests may follow: those of
/// other keys, and those of `thread_local!`, where the C library has none of its own for them. They get another stack, which is freed in the next
/// round. In the last one there is none any more: nobody would free it.
unsafe extern "C" fn thread_ended(kept: *mut c_void) {
    ROUNDS_LOST.set(ROUNDS_LOST.get() + 1);
    // SAFETY: what is kept under the key came from a box; nobody else refers to it, and it is no longer kept.
    let stack = unsafe { Box::from_raw(kept.cast::<AlternateStack>()) };
    (stack.on_end)();
}

impl AlternateStack {
    /// Puts a stack that is large enough into use, if none is.
    fn ensure(&mut self) -> io::Result<()> {
        // The kernel's own part of a signal frame grows with the processor's vector state.
        // SAFETY: a query without pointers.
        let frame_bytes = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        let current = current_alternate_stack()?;
        if current.ss_flags & libc::SS_DISABLE == 0 && current.ss_size >= ENOUGH_LEN_BYTES + frame_bytes {
            return Ok(());
        }
        let page_size = page_size();
        let len_bytes = (ALTERNATE_LEN_BYTES + frame_bytes).next_multiple_of(page_size);
        let reservation = match self.own.take() {
            Some(reservation) => reservation,
            None => {
                let reservation = Reservation::new(page_size + len_bytes)?;
                reservation.commit(page_size..page_size + len_bytes)?;
                reservation
            }
        };
        let stack = libc::stack_t { ss_sp: reservation.ptr().wrapping_add(page_size).cast(), ss_flags: 0, ss_size: len_bytes };
        // SAFETY: the stack is mapped and stays so until `drop`, which takes it out of use first.
        if unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.own = Some(reservation);
        Ok(())
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let Some(reservation) = self.own.take() else {
            return;
        };
        let is_in_use = match current_alternate_stack() {
            Ok(current) => current.ss_flags & libc::SS_DISABLE == 0 && reservation.contains(current.ss_sp.addr()),
            Err(_) => true,
        };
        if is_in_use {
            let disabled = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            // SAFETY: it takes this thread's alternate stack out of use.
            if unsafe { libc::sigaltstack(&disabled, std::ptr::null_mut()) } != 0 {
                // Still in use, so it must stay mapped.
                std::mem::forget(reservation);
            }
        }
    }
}

fn current_alternate_stack() -> io::Result<libc::stack_t> {
    let mut current = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: a query; it fills in the description.
    if unsafe { libc::sigaltstack(std::ptr::null(), &mut current) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_an_alternate_stack_and_gives_it_back() {
        let (start, len_bytes) = std::thread::spawn(|| {
            ensure_thread_ready(|| {}).unwrap();
            let first = current_alternate_stack().unwrap();
            assert_eq!(first.ss_flags, 0);
            assert!(first.ss_size >= ENOUGH_LEN_BYTES);
            ensure_thread_ready(|| {}).unwrap();
            let second = current_alternate_stack().unwrap();
            assert_eq!((first.ss_sp, first.ss_size), (second.ss_sp, second.ss_size));
            (first.ss_sp.addr(), first.ss_size)
        })
        .join()
        .unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let bounds = format!("{start:08x}-{:08x} ", start + len_bytes);
        assert!(!maps.lines().any(|line| line.starts_with(&bounds)), "{bounds} is still mapped:\n{maps}");
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn an_object_that_is_pinned_stays_when_it_is_closed() {
        // Whichever the C library brings and nobody uses.
        let names = [c"libBrokenLocale.so.1", c"libanl.so.1", c"libutil.so.1", c"libnsl.so.1"];
        let stays = |is_pinned: bool, name: &std::ffi::CStr| {
            // SAFETY: the object is the C library's own; what is looked up in it is not called, and it is closed once.
            unsafe {
                let object = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
                if object.is_null() {
                    return None;
                }
                let mut map = std::ptr::null_mut::<*const c_void>();
                // The description of an object begins with its address.
                assert_eq!(libc::dlinfo(object, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()), 0);
                let address = (*map).wrapping_byte_add(64);
                if is_pinned {
                    pin(address);
                }
                assert_eq!(libc::dlclose(object), 0);
                Some(libc::dladdr(address, MaybeUninit::<libc::Dl_info>::uninit().as_mut_ptr()) != 0)
            }
        };
        let unused = names.iter().find(|name| stays(false, name) == Some(false)).expect("an object that nobody uses");
        assert_eq!(stays(true, unused), Some(true));
    }

    #[test]
    fn an_alternate_stack_that_is_large_enough_is_kept() {
        std::thread::spawn(|| {
            let mut memory = vec![0u8; 256 << 10];
            let previous = current_alternate_stack().unwrap();
            let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
            // SAFETY: the memory outlives its use, which ends below.
            let set = unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
            assert_eq!(set, 0);
            ensure_thread_ready(|| {}).unwrap();
            assert_eq!(current_alternate_stack().unwrap().ss_sp, stack.ss_sp);
            // SAFETY: what was there before is restored.
            let restored = unsafe { libc::sigaltstack(&previous, std::ptr::null_mut()) };
            assert_eq!(restored, 0);
        })
        .join()
        .unwrap();
    }
}
