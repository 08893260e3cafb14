//! Faults end to end: real signals, real redirects, and the chain. The cases that end or change a process run in a child.

use std::ffi::{c_int, c_void};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use peregrine_sys::faults::{self, FaultContext, FaultSignal, Outcome};
use peregrine_sys::stack::{DEFAULT_GUARD_LEN_BYTES, GuestStack};

// `probe_load(address)` loads from the address; `probe_landing(value)`, entered with the registers of the fault, returns the
// value to the caller of the probe. `probe_overflow(stack_top)` runs off a stack and `probe_overflow_landing(value)` comes back.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".text",
    ".globl probe_load, probe_divide, probe_undefined, probe_break, probe_landing, probe_overflow, probe_overflow_landing",
    "probe_load: mov rax, qword ptr [rdi]",
    "ret",
    "probe_divide: mov eax, 1",
    "xor edx, edx",
    "xor ecx, ecx",
    "div ecx",
    "ret",
    "probe_undefined: ud2",
    "probe_break: int3",
    "ret",
    "probe_landing: mov rax, rdi",
    "ret",
    "probe_overflow: push rbp",
    "mov rbp, rsp",
    "mov rsp, rdi",
    "2: push rax",
    "jmp 2b",
    "probe_overflow_landing: mov rsp, rbp",
    "pop rbp",
    "mov rax, rdi",
    "ret",
    "probe_end: nop",
    ".globl probe_end",
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".text",
    ".globl probe_load, probe_divide, probe_undefined, probe_break, probe_landing, probe_overflow, probe_overflow_landing",
    "probe_load: ldr x0, [x0]",
    "ret",
    "probe_divide: udf #0",
    "probe_undefined: udf #0",
    "probe_break: brk #0",
    "ret",
    "probe_landing: ret",
    "probe_overflow: stp x29, x30, [sp, #-16]!",
    "mov x29, sp",
    "mov sp, x0",
    "2: stp x0, x0, [sp, #-16]!",
    "b 2b",
    "probe_overflow_landing: mov sp, x29",
    "ldp x29, x30, [sp], #16",
    "ret",
    "probe_end: nop",
    ".globl probe_end",
);

unsafe extern "C" {
    fn probe_load(address: usize) -> u64;
    fn probe_divide() -> u64;
    fn probe_undefined() -> u64;
    fn probe_break() -> u64;
    fn probe_landing();
    fn probe_overflow(stack_top: *mut u8) -> u64;
    fn probe_overflow_landing();
    fn probe_end();
}

static LAST_ADDRESS: AtomicUsize = AtomicUsize::new(0);
static STACK_BASE: AtomicUsize = AtomicUsize::new(0);

const BAD_ADDRESS: usize = 0x10;

/// Takes the faults of the probes and of nothing else.
fn on_fault(fault: &mut FaultContext<'_>) -> Outcome {
    let pc = fault.pc();
    if !(probe_load as *const () as usize..probe_end as *const () as usize).contains(&pc) {
        return Outcome::NotOurs;
    }
    LAST_ADDRESS.store(fault.fault_address(), Ordering::SeqCst);
    let value = match fault.signal() {
        FaultSignal::Segv => 1,
        FaultSignal::Bus => 2,
        FaultSignal::Ill => 3,
        FaultSignal::Fpe => 4,
        FaultSignal::Trap => 5,
    };
    let is_overflow = (probe_overflow as *const () as usize..probe_overflow_landing as *const () as usize).contains(&pc);
    STACK_BASE.store(fault.sp(), Ordering::SeqCst);
    fault.set_arg(0, value);
    fault.set_pc(if is_overflow { probe_overflow_landing as *const () as usize } else { probe_landing as *const () as usize });
    Outcome::Resume
}

fn ready() {
    faults::install(on_fault).unwrap();
    faults::ensure_thread_ready(|| {}).unwrap();
}

fn signal_mask() -> Vec<bool> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a query of the mask into a valid set, which is then read.
    unsafe {
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr()), 0);
        (1..32).map(|number| libc::sigismember(set.as_ptr(), number) == 1).collect()
    }
}

#[test]
fn a_bad_access_lands_where_the_callback_says() {
    ready();
    let mask = signal_mask();
    for _ in 0..3 {
        // SAFETY: the callback takes the fault and returns to here.
        assert_eq!(unsafe { probe_load(BAD_ADDRESS) }, 1);
        assert_eq!(signal_mask(), mask, "the signal mask is as before");
    }
    let value = 77u64;
    // SAFETY: a valid address.
    assert_eq!(unsafe { probe_load(&raw const value as usize) }, 77);
}

#[test]
fn every_fault_has_its_name() {
    ready();
    // SAFETY: the callback takes each fault and returns to here.
    unsafe {
        assert_eq!(probe_undefined(), 3);
        assert_eq!(probe_divide(), if cfg!(target_arch = "x86_64") { 4 } else { 3 });
        assert_eq!(probe_break(), 5);
    }
}

#[test]
fn an_access_past_the_end_of_a_file_is_a_bus_fault() {
    ready();
    let path = std::env::temp_dir().join(format!("peregrine-sys-empty-{}", std::process::id()));
    std::fs::write(&path, b"").unwrap();
    let reservation = peregrine_sys::pages::Reservation::new(4096).unwrap();
    reservation.map_file_private(0, std::fs::File::open(&path).unwrap(), 0, reservation.len_bytes()).unwrap();
    std::fs::remove_file(path).unwrap();
    // SAFETY: the callback takes the fault and returns to here.
    assert_eq!(unsafe { probe_load(reservation.ptr() as usize) }, 2);
}

#[test]
fn errno_survives_a_fault() {
    ready();
    // SAFETY: errno is the thread's own, and the callback takes the fault.
    unsafe {
        *libc::__errno_location() = 123;
        probe_load(BAD_ADDRESS);
        assert_eq!(*libc::__errno_location(), 123);
    }
}

#[test]
fn many_threads_fault_at_once() {
    ready();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                ready();
                for _ in 0..500 {
                    // SAFETY: the callback takes the fault and returns to here.
                    assert_eq!(unsafe { probe_load(BAD_ADDRESS) }, 1);
                }
            });
        }
    });
}

#[test]
fn another_handler_is_refused() {
    fn other(fault: &mut FaultContext<'_>) -> Outcome {
        fault.set_pc(0);
        Outcome::NotOurs
    }
    ready();
    ready();
    assert_eq!(faults::install(other).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
}

/// Runs a case of `child` in a process of its own.
fn run(case: &str) -> Output {
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new(exe);
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env("PEREGRINE_SYS_CASE", case);
    command.output().unwrap()
}

fn check_exits(case: &str) {
    let output = run(case);
    assert_eq!(output.status.code(), Some(33), "{case}: {output:?}");
}

fn check_dies(case: &str, signal: c_int) {
    let output = run(case);
    assert_eq!(output.status.signal(), Some(signal), "{case}: {output:?}");
}

#[test]
fn running_off_a_guest_stack_comes_back() {
    check_exits("overflow");
}

#[test]
fn a_foreign_fault_goes_to_the_earlier_handler() {
    check_exits("chained");
    check_exits("chained-plain");
    check_exits("chained-sent");
}

#[test]
fn an_earlier_handler_has_its_mask_and_runs_once_if_it_asked_to() {
    check_exits("chained-mask");
    check_dies("chained-once", libc::SIGSEGV);
}

#[test]
fn a_foreign_fault_without_a_handler_ends_the_process() {
    check_dies("default", libc::SIGSEGV);
    check_dies("default-illegal", libc::SIGILL);
    check_dies("default-break", libc::SIGTRAP);
    check_dies("default-sent", libc::SIGSEGV);
}

#[test]
fn an_ignored_signal_is_ignored_only_when_sent() {
    check_exits("ignored-sent");
    check_dies("ignored", libc::SIGSEGV);
}

#[test]
fn the_overflow_of_a_native_stack_is_still_reported() {
    let output = run("native-overflow");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("overflowed its stack"), "{output:?}");
}

static CALLS: AtomicUsize = AtomicUsize::new(0);

fn is_blocked(number: c_int) -> bool {
    signal_mask()[number as usize - 1]
}

/// An earlier handler that ends the process with the code the tests expect.
unsafe extern "C" fn earlier_exits(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the arguments are the kernel's; exiting is allowed here.
    unsafe {
        let is_right = number == libc::SIGSEGV && (*info).si_addr() as usize == BAD_ADDRESS && !context.is_null();
        libc::_exit(if is_right { 33 } else { 1 });
    }
}

unsafe extern "C" fn earlier_plain(number: c_int) {
    // SAFETY: exiting is allowed here.
    unsafe { libc::_exit(if number == libc::SIGSEGV { 33 } else { 1 }) };
}

unsafe extern "C" fn earlier_checks_mask(_number: c_int) {
    let is_right = is_blocked(libc::SIGSEGV) && is_blocked(libc::SIGUSR1) && !is_blocked(libc::SIGUSR2);
    // SAFETY: exiting is allowed here.
    unsafe { libc::_exit(if is_right { 33 } else { 1 }) };
}

/// Returns, so that the instruction is repeated.
unsafe extern "C" fn earlier_returns(_number: c_int) {
    if CALLS.fetch_add(1, Ordering::SeqCst) > 0 {
        // SAFETY: exiting is allowed here.
        unsafe { libc::_exit(1) };
    }
}

fn set_action(number: c_int, handler: usize, flags: c_int, blocked: &[c_int]) {
    // SAFETY: the action is filled in completely, and the handlers are functions of the type that their flags promise.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        blocked.iter().for_each(|number| assert_eq!(libc::sigaddset(&mut action.sa_mask, *number), 0));
        assert_eq!(libc::sigaction(number, &action, std::ptr::null_mut()), 0);
    }
}

/// Faults outside the probes.
#[inline(never)]
fn foreign_fault() {
    let address = std::hint::black_box(BAD_ADDRESS) as *const u32;
    // SAFETY: not at all: the point is the fault.
    std::hint::black_box(unsafe { address.read_volatile() });
}

#[inline(never)]
fn recurse_forever(depth: &mut u64) -> u64 {
    let mut next = std::hint::black_box([*depth + 1; 64]);
    if next[0] == u64::MAX {
        return 0;
    }
    recurse_forever(&mut next[7]) + std::hint::black_box(next[3])
}

fn send(number: c_int) {
    // SAFETY: a signal for this thread.
    unsafe { libc::raise(number) };
}

/// The body of the child processes; without a case it has nothing to do.
#[test]
fn child() {
    let Ok(case) = std::env::var("PEREGRINE_SYS_CASE") else {
        return;
    };
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a limit of this process.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &no_core) };
    let segv = libc::SIGSEGV;
    match case.as_str() {
        "chained" => set_action(segv, earlier_exits as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK, &[]),
        "chained-plain" | "chained-sent" => set_action(segv, earlier_plain as *const () as usize, libc::SA_ONSTACK, &[]),
        "chained-mask" => set_action(segv, earlier_checks_mask as *const () as usize, 0, &[libc::SIGUSR1]),
        "chained-once" => set_action(segv, earlier_returns as *const () as usize, libc::SA_RESETHAND, &[]),
        "ignored" | "ignored-sent" => set_action(segv, libc::SIG_IGN, 0, &[]),
        "default" | "default-sent" => set_action(segv, libc::SIG_DFL, 0, &[]),
        "default-illegal" => set_action(libc::SIGILL, libc::SIG_DFL, 0, &[]),
        "default-break" => set_action(libc::SIGTRAP, libc::SIG_DFL, 0, &[]),
        "overflow" | "native-overflow" => {}
        other => panic!("no case {other}"),
    }
    ready();
    // SAFETY: the callback takes the fault and returns to here.
    assert_eq!(unsafe { probe_load(BAD_ADDRESS) }, 1);
    match case.as_str() {
        "chained-sent" | "default-sent" | "ignored-sent" => send(segv),
        "default-illegal" => std::process::exit(undefined_instruction()),
        "default-break" => breakpoint(),
        "overflow" => overflow(),
        "native-overflow" => std::process::exit(recurse_forever(&mut 0) as i32),
        _ => foreign_fault(),
    }
    std::process::exit(33);
}

/// An undefined instruction outside the probes.
fn undefined_instruction() -> i32 {
    // SAFETY: ends the process by its fault.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("ud2");
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("udf #0");
    }
    1
}

/// A breakpoint outside the probes.
fn breakpoint() {
    // SAFETY: ends the process by its signal.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("int3");
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("brk #0");
    }
}

fn overflow() {
    for _ in 0..3 {
        let stack = GuestStack::new(256 << 10, DEFAULT_GUARD_LEN_BYTES).unwrap();
        // SAFETY: the stack is mapped; the fault in its guard is taken by the callback, which returns to here.
        assert_eq!(unsafe { probe_overflow(stack.top()) }, 1);
        assert!(stack.contains_guard(LAST_ADDRESS.load(Ordering::SeqCst)));
        assert_eq!(STACK_BASE.load(Ordering::SeqCst), stack.limit() as usize);
        assert_eq!(stack.resident_bytes().unwrap(), stack.usable_len_bytes());
    }
    // The whole of it again on a thread that nobody prepared but `ready`.
    std::thread::spawn(|| {
        ready();
        let stack = GuestStack::new(64 << 10, 4096).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { probe_overflow(stack.top()) }, 1);
    })
    .join()
    .unwrap();
}
