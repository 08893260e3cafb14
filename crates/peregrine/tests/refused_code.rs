//! Where the system takes no more code, calls of functions that were never called fail, each time: that uses up no room, and when the system takes
//! code again they run. In a process of its own, whose files may grow no further.

use peregrine::{Config, Engine, Instance, Module, Store, Strategy, TypedFunc};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::Command;

/// Says that the process is the one that is limited.
const CASE: &str = "PEREGRINE_TEST_REFUSED_CODE";
const FUNCTIONS: i32 = 4;

fn functions(store: &mut Store<()>, instance: &Instance) -> Vec<TypedFunc<(), i32>> {
    let function = |number: i32| instance.get_typed_func(&mut *store, &format!("f{number}")).expect("it is exported");
    (0..FUNCTIONS).map(function).collect()
}

fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).expect("a lower limit is everybody's");
}

#[test]
fn code_that_the_system_refuses_takes_no_room() {
    if std::env::var_os(CASE).is_none() {
        let own = std::env::current_exe().expect("this test has a file");
        let output = Command::new(own).env(CASE, "1").output().expect("the test can run again");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    if getrlimit(Resource::Fsize).current.is_some() {
        // Code is in no file then.
        return;
    }
    // SAFETY: it is ignored, so that writing fails instead.
    assert_ne!(unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) }, libc::SIG_ERR);
    let engine = Engine::new(Config::new().strategy(Strategy::Winch)).expect("an engine");
    let text = |number: i32| format!(r#"(func (export "f{number}") (result i32) (i32.const {number}))"#);
    let module = Module::new(&engine, format!("(module {})", (0..FUNCTIONS).map(text).collect::<String>())).expect("it is valid");
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
    let functions = functions(&mut store, &instance);
    // The file of code is there.
    assert_eq!(functions[0].call(&mut store, ()).expect("it returns"), 0);
    limit_files(Some(0));
    let used = |after: &mut dyn FnMut()| {
        after();
        module.tiering_metrics().room_used_bytes
    };
    let mut refuse = |function: &TypedFunc<(), i32>| {
        let error = function.call(&mut store, ()).expect_err("there is no place for its code");
        assert!(format!("{error:#}").contains("no room for code"), "{error:#}");
    };
    // The first time it may.
    let first = used(&mut || refuse(&functions[1]));
    let last = used(&mut || (0..1000).for_each(|_| functions[1..].iter().for_each(&mut refuse)));
    assert!(last - first < 16, "{first} bytes became {last}");
    limit_files(None);
    for (number, function) in functions.iter().enumerate() {
        assert_eq!(function.call(&mut store, ()).expect("the system takes it again"), number as i32);
    }
    let used = module.tiering_metrics().room_used_bytes;
    assert!(used > last, "the code is in the room: {used} bytes were {last}");
}
