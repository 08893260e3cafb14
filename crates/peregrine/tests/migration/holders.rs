//! Hosts that keep what they make in types of their own, generic ones among them, and that describe what they want by sets and settings.

use peregrine::{
    Cache, CacheConfig, Caller, Config, Enabled, Engine, EngineWeak, Extern, ExternRef, Func, I31, Instance, InstanceAllocationStrategy,
    InstancePre, Linker, Memory, MemoryType, Module, ModuleExport, NoFunc, OwnedRooted, PoolConcurrencyLimitError, PoolingAllocationConfig,
    Ref, RefType, Result, RootScope, Rooted, Store, Strategy, Table, TableType, Trap, WasmFeatures, WasmRet, WasmTy, WasmTyList,
};
use std::collections::hash_map::DefaultHasher;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// No bound on the data of its stores.
struct Host<T> {
    linker: Linker<T>,
    pre: Option<InstancePre<T>>,
}

impl<T> Clone for Host<T> {
    fn clone(&self) -> Self {
        Self { linker: self.linker.clone(), pre: self.pre.clone() }
    }
}

impl<T> Host<T> {
    fn new(engine: &Engine) -> Self {
        let mut linker = Linker::new(engine);
        linker.allow_shadowing(true);
        Self { linker, pre: None }
    }
}

impl<T: 'static> Host<T> {
    fn resolve(&mut self, module: &Module) -> Result<()> {
        self.pre = Some(self.linker.instantiate_pre(module)?);
        Ok(())
    }
}

/// Exports that are looked up once, in a struct that is copied about.
#[derive(Clone, Copy, Debug)]
struct Exports {
    run: ModuleExport,
    memory: ModuleExport,
}

#[test]
fn structs_of_the_hosts_own() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, r#"(module (memory (export "m") 1) (func (export "run") (result i32) (i32.const 7)))"#)?;
    let exports = Exports { run: module.get_export_index("run").unwrap(), memory: module.get_export_index("m").unwrap() };
    let copied = exports;
    let mut host = Host::<String>::new(&engine);
    host.resolve(&module)?;
    let host = host.clone();
    let mut store = Store::new(&engine, String::new());
    let instance = host.pre.as_ref().unwrap().instantiate(&mut store)?;
    assert!(matches!(instance.get_module_export(&mut store, &copied.memory), Some(Extern::Memory(_))));
    let run = instance.get_module_export(&mut store, &exports.run).and_then(Extern::into_func).unwrap();
    assert_eq!(run.typed::<(), i32>(&store)?.call(&mut store, ())?, 7);
    // Of another module, with the first one gone.
    drop((host, module));
    let mut store = Store::new(&engine, String::new());
    for _ in 0..10 {
        let other = Module::new(&engine, "(module)")?;
        let instance = Instance::new(&mut store, &other, &[])?;
        assert!(instance.get_module_export(&mut store, &exports.run).is_none());
    }
    assert!(EngineWeak::default().upgrade().is_none());
    assert_eq!(I31::default().get_u32(), 0);
    Ok(())
}

/// Defines an asynchronous function, for parameters and results of any types.
fn define<T: Send + 'static, P: WasmTyList + Send + 'static, R: WasmRet + Send + 'static>(
    linker: &mut Linker<T>,
    make: fn(P) -> R,
) -> Result<()> {
    assert!(P::valtypes().count() <= 17);
    linker.func_wrap_async("host", "f", move |_: Caller<'_, T>, params: P| Box::new(async move { make(params) }))?;
    Ok(())
}

fn never_called<T: WasmTy>(_: T) {}

#[test]
fn functions_of_any_types() -> Result<()> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    define(&mut linker, |(a, b): (i32, i64)| i64::from(a) + b)?;
    let text = r#"(module (import "host" "f" (func $f (param i32 i64) (result i64)))
        (func (export "run") (result i64) (call $f (i32.const 40) (i64.const 2))))"#;
    let module = Module::new(&engine, text)?;
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module)?;
    let run = instance.get_typed_func::<(), i64>(&mut store, "run")?;
    let Poll::Ready(result) = pin!(run.call_async(&mut store, ())).poll(&mut Context::from_waker(Waker::noop())) else { panic!() };
    assert_eq!(result?, 42);
    Func::wrap(&mut store, |nothing: NoFunc| never_called(nothing));
    Ok(())
}

const COMMAND: &str = r#"(module
    (memory (export "memory") 1) (table (export "__indirect_function_table") 1 funcref)
    (global (export "__heap_base") i32 (i32.const 1)) (global (export "__data_end") i32 (i32.const 1))
    (global (export "__dso_handle") i32 (i32.const 1)) (global (export "__rtti_base") i32 (i32.const 1))
    (func (export "_start")) (func (export "two") (result i32) (i32.const 2)))"#;

#[test]
fn commands_of_toolchains() -> Result<()> {
    let engine = Engine::default();
    let command = Module::new(&engine, COMMAND)?;
    // A table that is called a memory, and a global that no toolchain exports.
    let odd = ["(table (export \"memory\") 1 funcref)", "(global (export \"g\") i32 (i32.const 1))"];
    let odd = odd.map(|field| Module::new(&engine, format!(r#"(module (func (export "_start")) {field})"#)).unwrap());
    let mut store = Store::new(&engine, ());
    let task = &mut Context::from_waker(Waker::noop());
    for is_async in [false, true] {
        let mut linker = Linker::new(&engine);
        let mut define = |linker: &mut Linker<()>, name: &str, module: &Module| match is_async {
            false => linker.module(&mut store, name, module).map(drop),
            true => match pin!(linker.module_async(&mut store, name, module)).poll(task) {
                Poll::Ready(result) => result.map(drop),
                Poll::Pending => panic!("nothing waits"),
            },
        };
        define(&mut linker, "command", &command)?;
        for odd in &odd {
            assert!(define(&mut linker, "odd", odd).is_err());
        }
        linker.allow_unknown_exports(true).allow_shadowing(true);
        for odd in &odd {
            define(&mut linker, "odd", odd)?;
        }
        assert!(linker.get(&mut store, "command", "two").is_ok() && linker.get(&mut store, "command", "memory").is_err());
    }
    Ok(())
}

#[test]
fn types_are_as_declared() -> Result<()> {
    let mut store = Store::new(&Engine::default(), ());
    let memory = Memory::new(&mut store, MemoryType::new(1, Some(5)))?;
    let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 1, None), Ref::Func(None))?;
    memory.grow(&mut store, 2)?;
    table.grow(&mut store, 2, Ref::Func(None))?;
    let memory: Extern = memory.into();
    assert_eq!(memory.ty(&store).unwrap_memory().minimum(), 1);
    assert_eq!(Extern::from(table).ty(&store).unwrap_table().minimum(), 1);
    // What has grown is enough for who asks for more.
    let mut linker = Linker::new(store.engine());
    linker.define(&store, "", "m", memory)?;
    let module = Module::new(store.engine(), r#"(module (import "" "m" (memory 3)))"#)?;
    linker.instantiate(&mut store, &module)?;
    Ok(())
}

#[test]
fn references_are_hashed() -> Result<()> {
    let mut store = Store::new(&Engine::default(), ());
    let mut scope = RootScope::new(&mut store);
    let value: Rooted<ExternRef> = ExternRef::new(&mut scope, 5u32)?;
    let owned: OwnedRooted<ExternRef> = value.to_owned_rooted(&mut scope)?;
    let (mut first, mut second) = (DefaultHasher::new(), DefaultHasher::new());
    value.ref_hash(&scope, &mut first)?;
    owned.ref_hash(&scope, &mut second);
    Ok(())
}

#[test]
fn sets_of_proposals() {
    let mut features = WasmFeatures::WASM2 & !WasmFeatures::SIMD;
    features |= WasmFeatures::TAIL_CALL;
    features &= WasmFeatures::all();
    features -= WasmFeatures::MULTI_VALUE;
    assert!(!features.contains(WasmFeatures::SIMD) && features.contains(WasmFeatures::MVP | WasmFeatures::BULK_MEMORY_OPT));
    assert!(WasmFeatures::WASM1.contains(WasmFeatures::GC_TYPES) && WasmFeatures::WASM3.contains(WasmFeatures::WASM2));
    assert!((features ^ features).is_empty() && WasmFeatures::WASM3.contains(WasmFeatures::LIME1));
    assert_eq!(WasmFeatures::from_bits(features.bits()), Some(features));
    assert_eq!(features.iter().fold(WasmFeatures::empty(), |all, feature| all | feature), features);
    assert!(features.iter_names().any(|(name, feature)| name == "TAIL_CALL" && feature == WasmFeatures::TAIL_CALL));
    let mut config = Config::new();
    config.wasm_features(WasmFeatures::all() - WasmFeatures::WASM2, false);
    assert!(Engine::new(&config).is_ok());
}

#[test]
fn pools_protect() -> Result<()> {
    let engine = |change: fn(&mut PoolingAllocationConfig)| {
        let mut pooling = PoolingAllocationConfig::new();
        change(&mut pooling);
        Engine::new(Config::new().allocation_strategy(InstanceAllocationStrategy::Pooling(pooling)))
    };
    if !PoolingAllocationConfig::are_memory_protection_keys_available() {
        assert!(engine(|pooling| _ = pooling.memory_protection_keys(Enabled::Yes)).is_err());
    }
    engine(|pooling| _ = pooling.memory_protection_keys(Enabled::Auto))?;
    let engine = engine(|pooling| _ = pooling.max_memory_size(2 << 16).table_elements(10))?;
    let text = r#"(module (memory 1) (table 5 funcref)
        (func (export "memory") (result i32) (memory.grow (i32.const 2)))
        (func (export "table") (result i32) (table.grow (ref.null func) (i32.const 6))))"#;
    let mut store = Store::new(&engine, ());
    let module = Module::new(&engine, text)?;
    for _ in 0..3 {
        let instance = Instance::new(&mut store, &module, &[])?;
        for name in ["memory", "table"] {
            assert_eq!(instance.get_typed_func::<(), i32>(&mut store, name)?.call(&mut store, ())?, -1);
        }
    }
    for text in ["(module (memory 3))", "(module (table 11 funcref))"] {
        let made = Module::new(&engine, text).and_then(|module| Instance::new(&mut store, &module, &[]));
        assert!(made.unwrap_err().downcast_ref::<PoolConcurrencyLimitError>().is_none());
    }
    Ok(())
}

#[test]
fn a_cache_is_described() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("embedder-cache-{}", std::process::id()));
    let file = dir.with_extension("toml");
    std::fs::write(&file, format!("[cache]\ndirectory = {:?}\nfiles-total-size-soft-limit = \"1Gi\"\ncleanup-interval = \"1d\"\n", dir))?;
    let mut described = CacheConfig::new();
    described.with_directory(&dir).with_files_total_size_soft_limit(1 << 30).with_worker_event_queue_size(16);
    for cache in [Cache::new(described)?, Cache::from_file(Some(&file))?] {
        let mut config = Config::new();
        config.cache(Some(cache.clone())).strategy(Strategy::Cranelift);
        let engine = Engine::new(&config)?;
        Module::new(&engine, r#"(module (func (export "run") (result i32) (i32.const 1)))"#)?;
        assert_eq!(cache.cache_hits() + cache.cache_misses(), 1);
        assert!(cache.directory().ends_with(dir.file_name().unwrap()));
    }
    std::fs::write(&file, "[cache]\nno-such-setting = 1\n")?;
    assert!(CacheConfig::from_file(Some(&file)).is_err());
    std::fs::remove_file(&file)?;
    std::fs::remove_dir_all(&dir)?;
    // Where the default is; not touched here.
    let _ = || -> Result<()> {
        Config::new().cache(Some(Cache::from_file(None)?));
        Ok(())
    };
    Ok(())
}

#[test]
fn traps_are_numbers() {
    let trap = Trap::MemoryOutOfBounds;
    assert_eq!(Trap::from_u8(trap as u8), Some(trap));
    assert_eq!(Trap::from_u8(255), None);
    for never in [Trap::CastFailure, Trap::ArrayOutOfBounds, Trap::UnhandledTag] {
        assert!(never.to_string().starts_with("wasm trap: "));
    }
}
