//! Guests that destructors of a thread call: what is wrong with them is an error there as anywhere, and never the end of the process. Each case is in a
//! process of its own, that its end can be seen.

use peregrine::{Engine, Instance, Module, Store, Trap, TypedFunc};
use std::cell::RefCell;
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
}

/// Does `work`, which gives a thread-local a plug-in, on a thread of its own, and says what the calls of the destructor came to.
fn on_a_thread(work: impl FnOnce(Plugin) + Send) -> Vec<String> {
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| work(Plugin::new(sender)));
    });
    receiver.recv().expect("the destructor was run")
}

#[test]
fn what_destructors_call_gives_errors() {
    let all = ["7", "MemoryOutOfBounds", "StackOverflow", "7"];
    if std::env::var_os(CASE).is_none() {
        let own = std::env::current_exe().expect("this test has a file");
        let mut child = Command::new(own);
        child.args(["--exact", "what_destructors_call_gives_errors", "--nocapture"]).env(CASE, "1");
        let output = child.output().expect("the test can run again");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the child ended with {}\n{said}", output.status);
        return;
    }
    for _ in 0..3 {
        // The plug-in calls its guest first where it is dropped, or before as well.
        assert_eq!(on_a_thread(|plugin| EARLY.set(Some(plugin))), all);
        assert_eq!(on_a_thread(|plugin| EARLY.with_borrow_mut(|early| assert_eq!(early.insert(plugin).call(), all))), all);
    }
}
