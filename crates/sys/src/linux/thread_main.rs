//! Whether the function that a thread was started with has returned, in a few instructions.
//!
//! The standard library takes the alternate signal stack of its threads out of use between the end of their function and the destructors of
//! what is thread-local. These run in the reverse order of their registration, so no destructor of ours is sure to be the first, and asking the
//! system costs more than calling a guest. But the C library calls the function of every thread from one place: the return address that it puts
//! at the top of the thread's stack is there until it calls whatever runs the destructors from another place. So [`watch`] looks for that
//! address on the stack, once, and [`has_ended`] compares it.
//!
//! The function that a process begins with is not known by this: where it ends, the process does. For `faults` and the machine (in the engine).

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the C library goes on when the function of a thread has returned. 0 until somebody was told, [`UNKNOWN`] where it cannot be told.
static RETURN_ADDRESS: AtomicUsize = AtomicUsize::new(0);
/// No code is there.
const UNKNOWN: usize = 1;

thread_local! {
    static MAIN: Main = const { Main { place: Cell::new(&raw const NOWHERE), expected: Cell::new(0) } };
}

/// What is known of the function of this thread. Both words are found by one look.
struct Main {
    /// What holds `expected` until that function has returned: a word at the top of the thread's stack, or [`NOWHERE`].
    place: Cell<*const AtomicUsize>,
    expected: Cell<usize>,
}

/// Of threads that are not watched. Always 0.
static NOWHERE: AtomicUsize = AtomicUsize::new(0);

/// Whether the function that this thread was started with has returned since it was [watched](watch).
#[inline(always)]
pub fn has_ended() -> bool {
    // The look for it alone has to be inlined from elsewhere: what asks cannot afford a call.
    let main = MAIN.with(std::ptr::from_ref);
    // SAFETY: it is there as long as the thread, having no destructor, and its place is a word of the thread's stack, or the static.
    unsafe { (*(*main).place.get()).load(Ordering::Relaxed) != (*main).expected.get() }
}

/// Ends what [`watch`] began.
pub(super) fn forget() {
    MAIN.with(|main| {
        main.place.set(&raw const NOWHERE);
        main.expected.set(0);
    });
}

/// Lets [`has_ended`] tell when the function returns that this thread was started with. Does nothing on the first thread of a process, on a stack that
/// is not the thread's own, and where threads begin in another way.
#[cfg(target_arch = "x86_64")]
pub(super) fn watch() {
    if rustix::thread::gettid() == rustix::process::getpid() {
        return;
    }
    let address = match RETURN_ADDRESS.load(Ordering::Relaxed) {
        0 => learn(),
        address => address,
    };
    if let Some(place) = super::threads::thread_stack().filter(|_| address > UNKNOWN).and_then(|stack| find(&stack, address)) {
        MAIN.with(|main| {
            main.place.set(place);
            main.expected.set(address);
        });
    }
}

/// Lets [`has_ended`] tell when the function returns that this thread was started with: not on this processor.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn watch() {}

/// How far from the top of a stack the address is looked for: what is thread-local is up there too.
#[cfg(target_arch = "x86_64")]
const REACH_BYTES: usize = 1 << 20;

/// The topmost word of this thread's stack that holds `address`.
#[cfg(target_arch = "x86_64")]
fn find(stack: &std::ops::Range<usize>, address: usize) -> Option<*const AtomicUsize> {
    const WORD: usize = size_of::<usize>();
    let here = std::ptr::from_ref(&address).addr();
    // On another stack nothing is known of what is mapped.
    let range = stack.contains(&here).then(|| here.max(stack.end.saturating_sub(REACH_BYTES)).next_multiple_of(WORD)..stack.end)?;
    let places = range.step_by(WORD).rev().map(|place| place as *const AtomicUsize);
    // SAFETY: words of this thread's stack, above the frame of this function, which nobody else writes.
    places.into_iter().find(|place| unsafe { (**place).load(Ordering::Relaxed) } == address)
}

/// Asks a thread that is there for nothing else. What is known now: 0 where there was no thread to be had in this moment.
#[cfg(target_arch = "x86_64")]
fn learn() -> usize {
    note(&RETURN_ADDRESS, ask_thread(tell_return_address).map(|returned| returned.addr()))
}

/// Notes what an attempt to learn an address came to, and gives what is known then. Others may have learned it meanwhile, and look for theirs already.
#[cfg(target_arch = "x86_64")]
fn note(known: &AtomicUsize, told: Result<usize, libc::c_int>) -> usize {
    let told = match told {
        Ok(address) => address,
        // There are too many threads, or there is too little memory: the next one that is watched asks again.
        Err(libc::EAGAIN | libc::ENOMEM) => 0,
        Err(_) => UNKNOWN,
    };
    known.compare_exchange(0, told, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|before| before, |_| told)
}

/// What `function` returns on a thread that is there for nothing else, or the number of the error. No handler of a signal runs on that thread.
#[cfg(target_arch = "x86_64")]
fn ask_thread(function: extern "C" fn(*mut std::ffi::c_void) -> *mut std::ffi::c_void) -> Result<*mut std::ffi::c_void, libc::c_int> {
    use std::mem::MaybeUninit;
    /// Enough for what is thread-local in most programs; the function itself needs none.
    const STACK_BYTES: usize = 256 << 10;
    let done = |error| if error == 0 { Ok(()) } else { Err(error) };
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    let (mut all, mut before) = (MaybeUninit::<libc::sigset_t>::uninit(), MaybeUninit::<libc::sigset_t>::uninit());
    let mut returned = std::ptr::null_mut();
    // SAFETY: the attributes are made, used and destroyed once; the function is one for threads, and the thread is joined if it was started. It begins
    // with the mask of this thread, which is put back as it was.
    unsafe {
        done(libc::pthread_attr_init(attributes.as_mut_ptr()))?;
        let started = done(libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK_BYTES)).and_then(|()| {
            libc::sigfillset(all.as_mut_ptr());
            done(libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()))?;
            let started = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), function, std::ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
            done(started)
        });
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        started?;
        done(libc::pthread_join(thread.assume_init(), &mut returned))?;
    }
    Ok(returned)
}

/// The function of a thread: gives the address that it returns to.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn tell_return_address(_: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
    std::arch::naked_asm!("endbr64", "mov rax, [rsp]", "ret")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Says when it is dropped whether the function of the thread has returned, before and after that is forgotten.
    struct Last(Sender<[bool; 2]>);

    impl Drop for Last {
        fn drop(&mut self) {
            let before = has_ended();
            forget();
            self.0.send([before, has_ended()]).unwrap();
        }
    }

    thread_local! {
        static LAST: Cell<Option<Last>> = const { Cell::new(None) };
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_thread_tells_when_its_function_has_returned() {
        for _ in 0..3 {
            let (sender, receiver) = channel();
            let during = std::thread::spawn(move || {
                watch();
                LAST.set(Some(Last(sender)));
                has_ended()
            });
            assert!(!during.join().unwrap());
            assert_eq!(receiver.recv().unwrap(), [true, false]);
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_passes_is_asked_again_and_what_is_known_stays() {
        let known = AtomicUsize::new(0);
        assert_eq!([libc::EAGAIN, libc::ENOMEM].map(|error| note(&known, Err(error))), [0, 0]);
        assert_eq!(note(&known, Ok(0x1234)), 0x1234);
        // Threads that asked at the same time.
        assert_eq!([libc::EAGAIN, libc::EINVAL].map(|error| note(&known, Err(error))), [0x1234; 2]);
        assert_eq!((known.load(Ordering::Relaxed), note(&AtomicUsize::new(0), Err(libc::EINVAL))), (0x1234, UNKNOWN));
    }

    /// Whether this thread takes a signal that embedders use: not null if so.
    #[cfg(target_arch = "x86_64")]
    extern "C" fn takes_signals(_: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
        let mut mask = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: a query; it fills in the mask.
        let is_blocked = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
            libc::sigismember(mask.as_ptr(), libc::SIGUSR1) == 1
        };
        std::ptr::without_provenance_mut(usize::from(!is_blocked))
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_thread_that_is_asked_takes_no_signals() {
        assert_eq!(ask_thread(takes_signals).map(<*mut _>::is_null), Ok(true));
        assert!(!takes_signals(std::ptr::null_mut()).is_null(), "the mask of this thread is another one now");
    }
}
