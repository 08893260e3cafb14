//! The processors that the threads of the optimizing tier use: those of the first thread too, whatever the thread has that asked for them. The
//! only test of its process.

mod patience;

use patience::wait_for;
use peregrine::{Config, Engine, Instance, Module, Result, Store, Strategy};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;

/// The processors that a thread of the optimizing tier may use, if there is one.
fn of_tier() -> Option<CpuSet> {
    let tasks = fs::read_dir("/proc/self/task").expect("it can be listed");
    let mut tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
    let thread = tasks.find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "peregrine-tier"))?;
    let thread = thread.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
    sched_getaffinity(Some(thread)).ok()
}

/// Makes an engine and has a function of it optimized.
fn optimize() -> Result<Engine> {
    let engine = Engine::new(Config::new().strategy(Strategy::Tiered))?;
    let text = r#"(module (func (export "run") (param i32) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"#;
    let module = Module::new(&engine, text)?;
    let mut store = Store::new(&engine, ());
    let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, ()>(&mut store, "run")?;
    wait_for("optimized code", || {
        run.call(&mut store, 100_000).expect("it returns");
        (module.tiering_metrics().optimized_functions > 0).then_some(())
    });
    Ok(engine)
}

#[test]
fn a_thread_with_one_processor_does_not_bind_them() -> Result<()> {
    let all = sched_getaffinity(None).expect("the system tells");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("this runs somewhere");
    let engine = std::thread::spawn(move || {
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).expect("anybody may do with less");
        optimize()
    });
    let _engine = engine.join().expect("it does not panic")?;
    assert!(of_tier().expect("the thread waits for more") == all);
    Ok(())
}
