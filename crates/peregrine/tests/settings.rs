//! Settings: each is put to work, accepted and read back, or refused by name.

use peregrine::{
    Collector, Config, Enabled, Engine, Inlining, Module, ModuleVersionStrategy, OptLevel, PoolingAllocationConfig, ProfilingStrategy,
    RegallocAlgorithm, Strategy, WasmFeatures,
};
use std::path::Path;

fn refused(change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::new();
    change(&mut config);
    Engine::new(&config).unwrap_err().to_string()
}

#[test]
fn what_there_is_not_is_refused_by_name() {
    let check = |change: fn(&mut Config), expected: &str| assert_eq!(refused(change), format!("not implemented: {expected}"));
    check(|config| _ = config.wasm_gc(true), "the garbage collection proposal; leave it off");
    check(|config| _ = config.wasm_legacy_exceptions(true), "the legacy exception handling proposal; leave it off");
    check(|config| _ = config.wasm_component_model_async(true), "the component model async proposal; leave it off");
    let debug = "debugging guests from the embedder (`guest_debug`); debug them from outside, with `debug_info`";
    check(|config| _ = config.guest_debug(true), debug);
    check(|config| _ = config.wmemcheck(true), "checking accesses to memory (`wmemcheck`); take the setting out");
    check(|config| _ = config.emit_clif(Path::new("/clif")), "writing intermediate code to `/clif` (`emit_clif`); take the setting out");
    check(|config| _ = config.signals_based_traps(false), "code that traps without signals (`signals_based_traps` off); leave it on");
    let without =
        "a WebAssembly without its mutable globals, sign extension, saturating conversions, floats and types of references; leave them on";
    check(|config| _ = config.wasm_features(WasmFeatures::FLOATS, false), without);
    check(|config| _ = config.wasm_features(WasmFeatures::GC | WasmFeatures::SIMD, true), "the garbage collection proposal; leave it off");
    let keys = |config: &mut Config| {
        let mut pooling = PoolingAllocationConfig::new();
        pooling.memory_protection_keys(Enabled::Yes);
        config.allocation_strategy(pooling);
    };
    check(
        keys,
        "memory protection keys (`memory_protection_keys`); memories are kept apart by address space, and `Enabled::Auto` does without keys",
    );
    // SAFETY: a flag is not handed on, so there is nothing to promise.
    let flag = |config: &mut Config| _ = unsafe { config.cranelift_flag_set("opt_level", "none") };
    check(flag, "the compiler flag `opt_level=none`; take the setting out");
    // SAFETY: as above.
    check(|config| _ = unsafe { config.cranelift_flag_enable("enable_x") }, "the compiler flag `enable_x`; take the setting out");
    assert_eq!(refused(|config| _ = config.max_wasm_stack(100)), "max_wasm_stack is 100 bytes, expected at least 16384; set a larger one");
    let reservation = refused(|config| _ = config.memory_reservation(1 << 46).memory_guard_size(0));
    let expected = "memory_reservation is 70368744177664 bytes and memory_guard_size 0, expected at most 35184372088832 together; set one of them lower";
    assert_eq!(reservation, expected);
    assert!(refused(|config| _ = config.profiler(ProfilingStrategy::VTune)).contains("VTune"));
    // What was asked for can be taken back.
    let mut config = Config::new();
    config.wasm_gc(true).wasm_gc(false).guest_debug(true).guest_debug(false);
    // SAFETY: as above.
    unsafe { config.cranelift_flag_set("preserve_frame_pointers", "true") };
    Engine::new(&config).unwrap();
}

#[test]
fn settings_can_be_read_back() {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::None)
        .compiler_inlining(Inlining::InterModule)
        .collector(Collector::Copying)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass)
        .memory_may_move(false)
        .memory_reservation_for_growth(5)
        .guard_before_linear_memory(false)
        .table_lazy_init(false)
        .memory_init_cow(false)
        .max_wasm_stack(1 << 17)
        .consume_fuel(true)
        .parallel_compilation(false);
    assert_eq!(config.get_strategy(), Some(Strategy::Cranelift));
    assert_eq!(config.get_cranelift_opt_level(), Some(OptLevel::None));
    assert_eq!(config.get_compiler_inlining(), Inlining::InterModule);
    assert_eq!(config.get_collector(), Collector::Copying);
    assert_eq!(config.get_cranelift_regalloc_algorithm(), RegallocAlgorithm::SinglePass);
    assert_eq!((config.get_memory_may_move(), config.get_memory_reservation_for_growth()), (false, 5));
    assert_eq!((config.get_max_wasm_stack(), config.get_consume_fuel(), config.get_parallel_compilation()), (1 << 17, true, false));
    Engine::new(&config).unwrap();
    config.wasm_features(WasmFeatures::SIMD | WasmFeatures::RELAXED_SIMD | WasmFeatures::MULTI_MEMORY, false);
    let features = config.get_wasm_features();
    assert!(!features.intersects(WasmFeatures::SIMD | WasmFeatures::MULTI_MEMORY) && features.contains(WasmFeatures::MULTI_VALUE));
    let engine = Engine::new(&config).unwrap();
    assert!(Module::new(&engine, "(module (memory 1) (memory 1))").is_err());
}

#[test]
fn an_engine_without_a_compiler_loads_images() {
    let image = Engine::default().precompile_module(b"(module)").unwrap();
    let engine = Engine::new(Config::new().enable_compiler(false)).unwrap();
    assert!(Module::new(&engine, "(module)").unwrap_err().to_string().contains("only images can be loaded"));
    // SAFETY: the image was made above.
    unsafe { Module::deserialize(&engine, &image) }.unwrap();
}

#[test]
fn images_are_marked_with_a_version() {
    let version = |strategy| Engine::new(Config::new().module_version(strategy).unwrap()).unwrap();
    let image = version(ModuleVersionStrategy::Custom("one".into())).precompile_module(b"(module)").unwrap();
    // SAFETY: the images were made above.
    let load = |engine: &Engine| unsafe { Module::deserialize(engine, &image) };
    let error = load(&Engine::default()).unwrap_err().to_string();
    assert!(error.contains("`module_version` = \"one\""), "{error}");
    load(&version(ModuleVersionStrategy::Custom("one".into()))).unwrap();
    load(&version(ModuleVersionStrategy::None)).unwrap();
    assert!(Config::new().module_version(ModuleVersionStrategy::Custom("x".repeat(256))).is_err());
}

#[test]
fn the_embedder_may_say_what_the_processor_has() {
    let image = Engine::default().precompile_module(b"(module)").unwrap();
    let mut config = Config::new();
    // SAFETY: it is said to have less than it has.
    unsafe { config.detect_host_feature(|_| Some(false)) };
    let engine = Engine::new(&config).unwrap();
    // SAFETY: the image was made above.
    let error = unsafe { Module::deserialize(&engine, &image) }.unwrap_err().to_string();
    assert!(error.contains("needs the processor feature"), "{error}");
}
