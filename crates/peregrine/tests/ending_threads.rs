//! Guests that destructors of a thread call: what is wrong with them is an error there as anywhere, and never the end of the process. Each case is in a
//! process of its own, that its end can be seen.

use peregrine::{Engine, Instance, Module, Store, Trap, TypedFunc};
use std::cell::RefCell;
use std::ffi::c_void;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

/// Says which case the process is for.
const CASE: &str = "PEREGRINE_TEST_ENDING_THREAD";

const TEXT: &str = r#"(module (memory 1)
    (func (export "well") (result i32) i32.const 7)
    (func $deeper (export "overflow") (result i32) (i32.add (call $deeper) (i32.const 1)))
    (func (export "fault") (result i32) (i32.load (i32.const 0x7fffffff))))"#;

/// What a host keeps for a thread.
struct Plugin {
    store: Store<()>,
    calls: Vec<TypedFunc<(), i32>>,
    ended: Option<Sender<Vec<String>>>,
}

impl Plugin {
    fn new(ended: Sender<Vec<String>>) -> Self {
        let engine = Engine::default();
        let module = Module::new(&engine, TEXT).expect("it is valid");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
        let calls = ["well", "fault", "overflow", "well"];
        let calls = calls.map(|name| instance.get_typed_func(&mut store, name).expect("it is exported")).to_vec();
        Self { store, calls, ended: Some(ended) }
    }

    fn call(&mut self) -> Vec<String> {
        let outcome = |call: &TypedFunc<(), i32>| match call.call(&mut self.store, ()) {
            Ok(value) => value.to_string(),
            Err(error) => error.downcast_ref::<Trap>().map_or_else(|| error.to_string(), |trap| format!("{trap:?}")),
        };
        self.calls.iter().map(outcome).collect()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let outcomes = self.call();
        self.ended.take().expect("it is dropped once").send(outcomes).expect("somebody waits");
    }
}

thread_local! {
    /// Known to the thread before the first call of a guest.
    static EARLY: RefCell<Option<Plugin>> = const { RefCell::new(None) };
    /// Known to the thread after it.
    static LATE: RefCell<Option<Plugin>> = const { RefCell::new(None) };
}

/// What a host keeps under a key of the C library.
struct Keyed {
    plugin: Plugin,
    key: libc::pthread_key_t,
    /// In how many rounds of destructors its guest is called.
    rounds: u32,
    outcomes: Vec<String>,
}

/// Keeps a plug-in under a key, for the rest of the thread.
fn keep(plugin: Plugin, key: libc::pthread_key_t, rounds: u32) {
    let keyed = Box::new(Keyed { plugin, key, rounds, outcomes: Vec::new() });
    // SAFETY: the key was made, and its destructor takes such a box.
    assert_eq!(unsafe { libc::pthread_setspecific(key, Box::into_raw(keyed).cast()) }, 0);
}

fn new_key() -> libc::pthread_key_t {
    let mut key = 0;
    // SAFETY: the call writes the key; the destructor is there for ever.
    assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(call_keyed)) }, 0);
    key
}

unsafe extern "C" fn call_keyed(keyed: *mut c_void) {
    // SAFETY: what is kept under the keys of these tests is such a box, and the system has forgotten it.
    let mut keyed = unsafe { Box::from_raw(keyed.cast::<Keyed>()) };
    keyed.rounds -= 1;
    let outcomes = keyed.plugin.call();
    keyed.outcomes.extend(outcomes);
    if keyed.rounds > 0 {
        let key = keyed.key;
        // SAFETY: as in `keep`.
        assert_eq!(unsafe { libc::pthread_setspecific(key, Box::into_raw(keyed).cast()) }, 0);
        return;
    }
    // The plug-in says what its last call came to, and this what the others did.
    let sender = keyed.plugin.ended.clone().expect("it is not dropped yet");
    sender.send(std::mem::take(&mut keyed.outcomes)).expect("somebody waits");
}

/// Does `work`, which gives a thread a plug-in for the rest of its life, on a thread of its own, and says what the calls of the destructor came to.
fn on_a_thread(work: impl FnOnce(Plugin) + Send) -> Vec<String> {
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        // The scope waits for the function alone.
        scope.spawn(|| work(Plugin::new(sender)));
    });
    receiver.iter().flatten().collect()
}

/// Runs the test `name` in a process of its own, that its end can be seen. Whether this is that process.
fn is_own_process(name: &str) -> bool {
    if std::env::var_os(CASE).is_some() {
        return true;
    }
    let own = std::env::current_exe().expect("this test has a file");
    let output = Command::new(own).args(["--exact", name, "--nocapture"]).env(CASE, "1").output().expect("the test can run again");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the child ended with {}\n{said}", output.status);
    false
}

const ALL: [&str; 4] = ["7", "MemoryOutOfBounds", "StackOverflow", "7"];

#[test]
fn what_destructors_call_gives_errors() {
    if !is_own_process("what_destructors_call_gives_errors") {
        return;
    }
    for _ in 0..3 {
        // The plug-in calls its guest first where it is dropped, or before as well.
        assert_eq!(on_a_thread(|plugin| EARLY.set(Some(plugin))), ALL);
        assert_eq!(on_a_thread(|plugin| EARLY.with_borrow_mut(|early| assert_eq!(early.insert(plugin).call(), ALL))), ALL);
    }
}

#[test]
fn what_destructors_call_that_run_first_gives_errors() {
    if !is_own_process("what_destructors_call_that_run_first_gives_errors") {
        return;
    }
    for _ in 0..3 {
        // Destructors run in the reverse order of the first uses.
        let outcomes = on_a_thread(|mut plugin| {
            assert_eq!(plugin.call(), ALL);
            LATE.set(Some(plugin));
        });
        assert_eq!(outcomes, ALL);
    }
}

#[test]
fn what_destructors_of_keys_call_gives_errors() {
    if !is_own_process("what_destructors_of_keys_call_gives_errors") {
        return;
    }
    // One that the C library knows before ours, and one that it knows afterwards.
    let before = new_key();
    let first = on_a_thread(|plugin| EARLY.set(Some(plugin)));
    assert_eq!(first, ALL);
    for key in [before, new_key()] {
        for rounds in 1..=3 {
            for is_called in [false, true] {
                let outcomes = on_a_thread(|mut plugin| {
                    if is_called {
                        assert_eq!(plugin.call(), ALL);
                    }
                    keep(plugin, key, rounds);
                });
                // In each round, and when it is dropped.
                assert_eq!(outcomes, ALL.repeat(rounds as usize + 1), "{rounds} rounds");
            }
        }
    }
}

#[test]
fn threads_whose_first_guest_is_called_by_a_key_leave_nothing_mapped() {
    if !is_own_process("threads_whose_first_guest_is_called_by_a_key_leave_nothing_mapped") {
        return;
    }
    // As above: the system gets to know a key of ours between these.
    let before = new_key();
    assert_eq!(on_a_thread(|plugin| EARLY.set(Some(plugin))), ALL);
    for key in [before, new_key()] {
        for rounds in 1..=3 {
            let run = |times: usize| {
                for _ in 0..times {
                    assert_eq!(on_a_thread(|plugin| keep(plugin, key, rounds)), ALL.repeat(rounds as usize + 1));
                }
                std::fs::read_to_string("/proc/self/maps").expect("the system tells what is mapped").lines().count()
            };
            let warm = run(10);
            let after = run(50);
            // A stack and its guard are two; the last threads may still be ending.
            assert!(after < warm + 40, "{warm} mappings became {after}, {rounds} rounds");
        }
    }
}
