//! Guests that wait: on an executor of the embedder's.

use peregrine::{Caller, Config, Engine, Linker, Module, Result, Store, Trap};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The smallest executor. Gives the number of polls too.
fn block_on<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    let mut polls = 0;
    loop {
        polls += 1;
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return (output, polls);
        }
    }
}

/// Is not ready when it is first polled.
async fn yield_once() {
    let mut polled = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await
}

const WAT: &str = r#"
(module
    (import "net" "fetch" (func $fetch (param i32) (result i32)))
    (import "net" "now" (func $now (result i64)))
    (func (export "sum") (param i32) (result i32)
        (i32.add (call $fetch (local.get 0)) (call $fetch (i32.const 5))))
    (func (export "now") (result i64) (call $now))
    (func (export "fail") (drop (call $fetch (i32.const -1)))))
"#;

#[test]
fn host_functions_wait() -> Result<()> {
    let engine = Engine::new(&Config::new())?;
    let module = Module::new(&engine, WAT)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap_async("net", "fetch", |mut caller: Caller<'_, Vec<i32>>, (key,): (i32,)| {
        Box::new(async move {
            if key < 0 {
                return Err(Trap::UnreachableCodeReached.into());
            }
            yield_once().await;
            caller.data_mut().push(key);
            Ok(key * 2)
        })
    })?;
    linker.func_wrap("net", "now", || 77i64)?;
    let (done, polls) = block_on(async {
        let mut store = Store::new(&engine, Vec::new());
        let instance = linker.instantiate_async(&mut store, &module).await?;
        let sum = instance.get_typed_func::<i32, i32>(&mut store, "sum")?;
        assert_eq!(sum.call_async(&mut store, 1).await?, 12);
        let now = instance.get_func(&mut store, "now").unwrap();
        let mut results = [peregrine::Val::I64(0)];
        now.call_async(&mut store, &[], &mut results).await?;
        assert_eq!(results[0].unwrap_i64(), 77);
        let fail = instance.get_typed_func::<(), ()>(&mut store, "fail")?;
        assert_eq!(fail.call_async(&mut store, ()).await.unwrap_err().downcast_ref(), Some(&Trap::UnreachableCodeReached));
        assert_eq!(store.data(), &[1, 5]);
        Result::<()>::Ok(())
    });
    done?;
    assert_eq!(polls, 3);
    Ok(())
}

#[test]
fn a_future_can_be_dropped() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, WAT)?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap_async("net", "fetch", |_: Caller<'_, ()>, (_,): (i32,)| Box::new(std::future::pending::<i32>()))?;
    linker.func_wrap("net", "now", || 1i64)?;
    let mut store = Store::new(&engine, ());
    let (instance, _) = block_on(linker.instantiate_async(&mut store, &module));
    let sum = instance?.get_typed_func::<i32, i32>(&mut store, "sum")?;
    {
        let mut call = pin!(sum.call_async(&mut store, 1));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let (instance, _) = block_on(linker.instantiate_async(&mut store, &module));
    let now = instance?.get_typed_func::<(), i64>(&mut store, "now")?;
    assert_eq!(block_on(now.call_async(&mut store, ())).0?, 1);
    Ok(())
}
