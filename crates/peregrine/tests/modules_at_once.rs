//! Ten thousand modules at once in one process, each compiled one function at a time: all of them run, and they cost neither descriptors nor
//! more than a few mappings and pages each.

mod process;

use peregrine::{Config, Engine, Instance, Module, Store, Strategy};
use process::mappings;

const MODULES: i32 = 10_000;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("the system lists them").count()
}

#[test]
fn ten_thousand_modules_live_side_by_side() {
    let engine = Engine::new(Config::new().strategy(Strategy::Tiered)).expect("an engine");
    let text = |number: i32| {
        format!(
            r#"(module (func $add (param i32) (result i32) (i32.add (local.get 0) (i32.const {number})))
                (func (export "run") (param i32) (result i32) (call $add (local.get 0))) (func (export "other") unreachable))"#
        )
    };
    let run = |module: &Module, argument: i32| {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
        let run = instance.get_typed_func::<i32, i32>(&mut store, "run").expect("it is exported");
        run.call(&mut store, argument).expect("it does not trap")
    };
    // What is made once is made.
    let first = Module::new(&engine, text(-1)).expect("it is valid");
    assert_eq!(run(&first, 1), 0);
    let (descriptors_before, mappings_before) = (descriptors(), mappings());
    let modules: Vec<Module> = (0..MODULES).map(|number| Module::new(&engine, text(number)).expect("it is valid")).collect();
    for (number, module) in (0..).zip(&modules) {
        assert_eq!(run(module, 5), number + 5);
    }
    // Again, now that all are compiled, the other way round.
    for (number, module) in (0..MODULES).rev().zip(modules.iter().rev()) {
        assert_eq!(run(module, -1), number - 1);
        let metrics = module.tiering_metrics();
        assert_eq!((metrics.functions, metrics.baseline_functions), (3, 2), "{metrics:?}");
    }
    assert!(descriptors() <= descriptors_before + 2, "{} descriptors, {descriptors_before} before", descriptors());
    let each = (mappings() - mappings_before) / MODULES as usize;
    assert!(each <= 6, "{each} mappings for each module");
    drop(modules);
    assert!(mappings() < mappings_before + 200, "{} mappings, {mappings_before} before", mappings());
    assert_eq!(run(&first, 1), 0);
}
