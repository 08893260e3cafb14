//! What hot modules and functions may ask of the optimizing tier: each module has its turn, a function has so many entries, and guests do not wait.

mod patience;

use patience::until_answered;
use peregrine::{Config, Engine, Instance, Linker, Module, OptLevel, Store, Strategy, TypedFunc};
use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// An engine with one thread for the optimizing tier.
fn engine() -> Engine {
    let mut config = Config::new();
    config.strategy(Strategy::Tiered).parallel_compilation(false).cranelift_opt_level(OptLevel::Speed);
    Engine::new(&config).expect("an engine")
}

/// Functions with a long body each, around which they loop.
fn many_functions(count: usize, operators: usize) -> String {
    let mut text = String::from("(module (memory 1)");
    let body = (0..operators).fold(String::new(), |mut body, number| {
        let _ = write!(
            body,
            "(local.set $sum (i32.xor (i32.mul (local.get $sum) (i32.const {})) (i32.load (i32.and (local.get $sum) (i32.const 0xff0)))))",
            number * 2 + 3
        );
        body
    });
    for number in 0..count {
        let _ = write!(
            text,
            r#"(func (export "{number}") (param i32) (result i32) (local $sum i32) (loop $again {body}
                (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (local.get $sum))"#
        );
    }
    text + ")"
}

fn instantiate(module: &Module) -> (Store<()>, Instance) {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[]).expect("there are no imports");
    (store, instance)
}

fn functions(store: &mut Store<()>, instance: &Instance, count: usize) -> Vec<TypedFunc<i32, i32>> {
    (0..count).map(|number| instance.get_typed_func(&mut *store, &number.to_string()).expect("it is exported")).collect()
}

#[test]
fn a_module_with_much_to_optimize_does_not_keep_others_waiting() {
    const FUNCTIONS: usize = 300;
    let engine = engine();
    let large = Module::new(&engine, many_functions(FUNCTIONS, 60)).expect("it is valid");
    let small = Module::new(&engine, many_functions(1, 1)).expect("it is valid");
    let (mut large_store, instance) = instantiate(&large);
    let all = functions(&mut large_store, &instance, FUNCTIONS);
    for function in &all {
        function.call(&mut large_store, 900).expect("it does not trap");
    }
    let (mut store, instance) = instantiate(&small);
    let kernel = &functions(&mut store, &instance, 1)[0];
    let metrics = large.tiering_metrics();
    let before = metrics.optimized_functions;
    assert!(before < FUNCTIONS as u64 / 2, "there has to be enough that waits: {before} are done");
    assert!(metrics.pending_requests + before + metrics.refused >= FUNCTIONS as u64, "{metrics:?}");
    let start = Instant::now();
    while small.tiering_metrics().optimized_functions == 0 {
        kernel.call(&mut store, 100_000).expect("it does not trap");
        assert!(start.elapsed() < PATIENCE, "{:?}", small.tiering_metrics());
    }
    let meanwhile = large.tiering_metrics().optimized_functions - before;
    // One is under way, then it is the turn of the other module. A busy machine may notice late.
    assert!(meanwhile <= 40, "{meanwhile} functions of the other module went first");
}

#[test]
fn a_function_has_so_many_entries_at_its_loops() {
    const LOOPS: usize = 40;
    // Each call is in another loop, calls the next one from there, and goes on there afterwards.
    let mut text = String::from(
        r#"(module (import "host" "more" (func $more (param i32) (result i32)))
            (func $run (export "0") (param $n i32) (result i32) (local $turns i32) "#,
    );
    for number in 0..LOOPS {
        let _ = write!(
            text,
            r#"(if (i32.eq (local.get $n) (i32.const {number})) (then
                (if (local.get $n) (then (drop (call $run (i32.sub (local.get $n) (i32.const 1))))))
                (loop $again (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
                    (br_if $again (if (result i32) (i32.rem_u (local.get $turns) (i32.const 1000000))
                        (then (i32.const 1)) (else (call $more (local.get $turns)))))))) "#
        );
    }
    text.push_str("(local.get $turns)))");
    let engine = engine();
    let module = Module::new(&engine, text).expect("it is valid");
    let mut linker = Linker::new(&engine);
    let asked = module.clone();
    let more = move |turns: i32| -> i32 {
        until_answered(&asked);
        (turns < 30_000_000).into()
    };
    linker.func_wrap("host", "more", more).expect("it is new");
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module).expect("the import is there");
    let run = &functions(&mut store, &instance, 1)[0];
    assert_eq!(run.call(&mut store, LOOPS as i32 - 1).expect("it does not trap"), 30_000_000);
    let metrics = module.tiering_metrics();
    assert!(metrics.optimized_functions == 1 && (1..=8).contains(&metrics.loop_entries), "{metrics:?}");
}

/// Names of this process's threads, with their priorities.
fn thread_priorities() -> Vec<(String, i32)> {
    let tasks = fs::read_dir("/proc/self/task").expect("it can be listed");
    let thread = |path: std::path::PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((name.to_string(), fields.split_ascii_whitespace().nth(16)?.parse().ok()?))
    };
    // A thread may have ended meanwhile.
    tasks.filter_map(|task| thread(task.ok()?.path())).collect()
}

/// How often this thread waited for something.
fn waits() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").expect("it can be read");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("the system counts")
}

#[test]
fn guests_do_not_wait_while_much_is_optimized() {
    const FUNCTIONS: usize = 150;
    let mut config = Config::new();
    config.strategy(Strategy::Tiered);
    let engine = Engine::new(&config).expect("an engine");
    let cores = std::thread::available_parallelism().expect("the system tells").get();
    let module = Module::new(&engine, many_functions(FUNCTIONS, 30)).expect("it is valid");
    // More guests than there are processors, all of them in the same functions.
    let waits: Vec<u64> = std::thread::scope(|scope| {
        let guest = || {
            let (mut store, instance) = instantiate(&module);
            let functions = functions(&mut store, &instance, FUNCTIONS);
            for function in &functions {
                function.call(&mut store, 1).expect("it does not trap");
            }
            let (start, before) = (Instant::now(), waits());
            let mut seen = 0;
            while module.tiering_metrics().optimized_functions < FUNCTIONS as u64 / 2 {
                for function in &functions {
                    function.call(&mut store, 300).expect("it does not trap");
                }
                let quiet: Vec<_> = thread_priorities().into_iter().filter(|(name, _)| name.starts_with("peregrine-tier")).collect();
                // Whatever engines other tests of this process have. One more may be ending.
                assert!(quiet.len() <= 1 + (cores - 1).max(1), "{quiet:?}");
                seen += quiet.iter().filter(|(_, priority)| *priority > 0).count();
                assert!(start.elapsed() < PATIENCE, "{:?}", module.tiering_metrics());
            }
            assert!(seen > 0, "no thread of the optimizing tier at low priority");
            waits() - before
        };
        let guests: Vec<_> = (0..2 * cores).map(|_| scope.spawn(guest)).collect();
        guests.into_iter().map(|guest| guest.join().expect("no guest fails")).collect()
    });
    // A wait is a lock that another thread has at the moment.
    assert!(waits.iter().all(|waits| *waits < FUNCTIONS as u64), "{waits:?}");
}
