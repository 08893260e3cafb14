//! A collector of events that panics at each event on threads of the engine, as one does whose lock is poisoned: the optimizing tier goes on. The
//! only test of its process, as the collector is that of all threads.

mod listening;
mod patience;

use listening::Listener;
use patience::wait_for;
use peregrine::{Config, Engine, Instance, Module, Result, Store, Strategy};

#[test]
fn the_tier_goes_on() -> Result<()> {
    let poisoned = Listener::new(
        |metadata| metadata.is_event(),
        |_| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| name.starts_with("peregrine-")) {
                // Quietly: there are many.
                std::panic::resume_unwind(Box::new("a poisoned lock"));
            }
        },
    );
    tracing::subscriber::set_global_default(poisoned).expect("it is the first");
    for round in 0..4 {
        let engine = Engine::new(Config::new().strategy(Strategy::Tiered))?;
        let module = Module::new(
            &engine,
            r#"(module (func (export "sum") (param $n i32) (result i32) (local $sum i32)
                (loop $more
                    (local.set $sum (i32.add (local.get $sum) (local.get $n)))
                    (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.get $sum)))"#,
        )?;
        let mut store = Store::new(&engine, ());
        let sum = Instance::new(&mut store, &module, &[])?.get_typed_func::<i32, i32>(&mut store, "sum")?;
        // Each engine is served, though a thread panicked at a job of the one before: whatever its job came to, it is done with.
        wait_for("a job that is done", || {
            assert_eq!(sum.call(&mut store, 10_000).expect("it returns"), 50_005_000);
            let tiering = module.tiering_metrics();
            let done = tiering.optimized_functions + tiering.loop_entries + tiering.refused + tiering.failed_functions;
            (tiering.pending_requests == 0 && done > 0).then_some(round)
        });
    }
    Ok(())
}
