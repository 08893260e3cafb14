//! Hosts that ask an engine how it was set up, and that want to be told of calls as futures.

use peregrine::{
    CallHook, CallHookHandler, Caller, Config, Engine, InstanceAllocationStrategy, Linker, Module, OptLevel, PoolingAllocationConfig,
    Result, Store, StoreContextMut,
};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

#[test]
fn settings_are_read_back() -> Result<()> {
    let mut pooling = PoolingAllocationConfig::new();
    pooling.total_core_instances(7).max_memory_size(1 << 20).table_elements(50);
    let mut config = Config::new();
    config.max_wasm_stack(256 << 10).consume_fuel(true).cranelift_opt_level(OptLevel::SpeedAndSize);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    let engine = Engine::new(&config)?;
    assert_eq!(engine.get_max_wasm_stack(), 256 << 10);
    assert!(engine.get_consume_fuel() && !engine.get_epoch_interruption());
    assert!(matches!(engine.get_cranelift_opt_level(), Some(OptLevel::SpeedAndSize)));
    let pooling = engine.get_pooling_config().expect("it was set");
    assert_eq!((pooling.get_total_core_instances(), pooling.get_max_memory_size(), pooling.get_table_elements()), (7, 1 << 20, 50));
    assert!(Engine::default().get_pooling_config().is_none());
    Ok(())
}

struct Log;

impl CallHookHandler<Vec<CallHook>> for Log {
    fn handle_call_event<'life0, 'life1, 'async_trait>(
        &'life0 self,
        mut store: StoreContextMut<'life1, Vec<CallHook>>,
        event: CallHook,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            store.data_mut().push(event);
            Ok(())
        })
    }
}

#[test]
fn calls_are_told_as_futures() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (import "" "f" (func $f)) (func (export "run") (call $f)))"#)?;
    let mut linker: Linker<Vec<CallHook>> = Linker::new(&engine);
    linker.func_wrap_async("", "f", |_: Caller<'_, Vec<CallHook>>, (): ()| Box::new(async {}))?;
    let mut store = Store::new(&engine, Vec::new());
    store.call_hook_async(Log);
    let mut whole = Box::pin(async {
        let instance = linker.instantiate_async(&mut store, &module).await?;
        let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
        run.call_async(&mut store, ()).await
    });
    let mut task = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = whole.as_mut().poll(&mut task) {
            result?;
            break;
        }
    }
    drop(whole);
    use CallHook::{CallingHost, CallingWasm, ReturningFromHost, ReturningFromWasm};
    assert!(matches!(store.data()[..], [CallingWasm, CallingHost, ReturningFromHost, ReturningFromWasm]));
    Ok(())
}
