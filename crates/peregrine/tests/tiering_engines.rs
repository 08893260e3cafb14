//! Many engines, and the threads of the optimizing tier that they share. The only test of its process, which has two processors in it.

mod patience;

use patience::wait_for;
use peregrine::{Config, Engine, Instance, Module, OptLevel, Store, Strategy, TypedFunc};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fmt::Write;
use std::fs;

/// Engines beside the one that has much to do.
const ENGINES: usize = 8;
/// Functions of that one.
const FUNCTIONS: usize = 300;

/// Lets this thread and those that it starts have two processors at most, whatever the machine has.
fn have_two_processors() {
    let all = sched_getaffinity(None).expect("the system tells");
    let mut two = CpuSet::new();
    (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).take(2).for_each(|cpu| two.set(cpu));
    sched_setaffinity(None, &two).expect("anybody may do with less");
    assert!(std::thread::available_parallelism().expect("the system tells").get() <= 2);
}

/// How many threads of the optimizing tier the process has.
fn tier_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("it can be listed");
    // A thread may have ended meanwhile.
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "peregrine-tier").count()
}

/// An engine with a module of functions that loop around a long body each.
struct Tenant {
    module: Module,
    store: Store<()>,
    functions: Vec<TypedFunc<i32, i32>>,
}

impl Tenant {
    fn new(functions: usize, operators: usize) -> Self {
        let body =
            "(local.set $sum (i32.xor (i32.mul (local.get $sum) (i32.const 5)) (i32.load (i32.and (local.get $sum) (i32.const 0xff0)))))"
                .repeat(operators);
        let mut text = String::from("(module (memory 1)");
        for number in 0..functions {
            let _ = write!(
                text,
                r#"(func (export "{number}") (param i32) (result i32) (local $sum i32) (loop $again {body}
                    (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (local.get $sum))"#
            );
        }
        let engine = Engine::new(Config::new().strategy(Strategy::Tiered).cranelift_opt_level(OptLevel::Speed)).expect("an engine");
        let module = Module::new(&engine, text + ")").expect("it is valid");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("there are no imports");
        let function = |number: usize| instance.get_typed_func(&mut store, &number.to_string()).expect("it is exported");
        let functions = (0..functions).map(function).collect();
        Self { module, store, functions }
    }

    /// Calls each function, for so many turns of its loop.
    fn run(&mut self, turns: i32) {
        for function in &self.functions {
            function.call(&mut self.store, turns).expect("it does not trap");
        }
    }

    fn optimized(&self) -> u64 {
        self.module.tiering_metrics().optimized_functions
    }
}

#[test]
fn engines_share_the_threads_that_the_machine_can_spare_and_each_has_its_turn() {
    have_two_processors();
    let mut busy = Tenant::new(FUNCTIONS, 60);
    busy.run(900);
    let mut tenants: Vec<Tenant> = (0..ENGINES).map(|_| Tenant::new(2, 1)).collect();
    let before = busy.optimized();
    let metrics = busy.module.tiering_metrics();
    assert!(
        before < FUNCTIONS as u64 / 2 && metrics.pending_requests > FUNCTIONS as u64 / 3,
        "there has to be enough that waits: {metrics:?}"
    );
    let mut most = 0;
    wait_for("each engine has its turn", || {
        tenants.iter_mut().for_each(|tenant| tenant.run(20_000));
        most = most.max(tier_threads());
        tenants.iter().all(|tenant| tenant.optimized() == 2).then_some(())
    });
    let meanwhile = busy.optimized() - before;
    // One for each job of another engine, were they asked for at once. This thread may not get the processor for a while.
    assert!(meanwhile <= 200, "{meanwhile} functions of another engine went first");
    assert_eq!(most, 1, "threads");

    // Those that stay are served when others go, the busy one first, and none is left with the last.
    drop(busy);
    tenants.truncate(ENGINES / 2);
    let mut late = Tenant::new(2, 1);
    wait_for("a late engine has its turn", || {
        late.run(20_000);
        assert!(tier_threads() <= 1);
        (late.optimized() == 2).then_some(())
    });
    drop((tenants, late));
    wait_for("threads end with the engines", || (tier_threads() == 0).then_some(()));
    let mut last = Tenant::new(1, 1);
    wait_for("another thread", || {
        last.run(20_000);
        (last.optimized() == 1).then_some(())
    });
}
