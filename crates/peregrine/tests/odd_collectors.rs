//! Collectors of events that panic where the engine, called by a guest, tells what it does. The panic goes on in who called the guest, and leaves
//! the store and the module as they were.

mod listening;

use listening::{Listener, Told};
use peregrine::*;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Panics once, at an event with this message.
fn odd(at: &'static str) -> Listener<impl Fn(Told)> {
    let has_panicked = AtomicBool::new(false);
    Listener::new(
        |metadata| metadata.is_event(),
        move |told| {
            if matches!(told, Told::Event(message) if message == at) && !has_panicked.swap(true, SeqCst) {
                panic_any("an odd collector");
            }
        },
    )
}

#[test]
fn their_panics_go_on_in_who_called_the_guest() -> Result<()> {
    for (strategy, stress, message) in [
        (Strategy::Baseline, TieringStress::None, "compiled at its first call"),
        (Strategy::Tiered, TieringStress::None, "compiled at its first call"),
        (Strategy::Tiered, TieringStress::OneInstructionBudget, "asked for"),
        (Strategy::Tiered, TieringStress::OptimizeAtOnce, "optimized"),
        (Strategy::Tiered, TieringStress::LoopEntryEverywhere, "goes on in optimized code"),
    ] {
        let engine = Engine::new(Config::new().strategy(strategy).tiering_stress(stress))?;
        let module = Module::new(
            &engine,
            r#"(module (import "" "again" (func $again (param i32) (result i32)))
                (func (export "outer") (param i32) (result i32) (call $again (local.get 0)))
                (func (export "sum") (param $n i32) (result i32) (local $sum i32)
                    (loop $more
                        (local.set $sum (i32.add (local.get $sum) (local.get $n)))
                        (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                    (local.get $sum)))"#,
        )?;
        let mut store = Store::new(&engine, None);
        let again = Func::wrap(&mut store, |mut caller: Caller<'_, Option<TypedFunc<i32, i32>>>, n: i32| -> Result<i32> {
            let sum = caller.data().clone().expect("it was set");
            sum.call(&mut caller, n)
        });
        let instance = Instance::new(&mut store, &module, &[again.into()])?;
        *store.data_mut() = Some(instance.get_typed_func(&mut store, "sum")?);
        let outer = instance.get_typed_func::<i32, i32>(&mut store, "outer")?;
        // Guests are on the stack twice.
        let caught = tracing::subscriber::with_default(odd(message), || catch_unwind(AssertUnwindSafe(|| outer.call(&mut store, 100))));
        let payload = caught.expect_err("it panics");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"an odd collector"), "{message}");
        for n in [10, 100, 1000] {
            assert_eq!(outer.call(&mut store, n)?, n * (n + 1) / 2, "{message}");
        }
    }
    Ok(())
}
