//! Settings: each is put to work, accepted and read back, or refused by name.

use peregrine::{
    Collector, Config, Engine, Inlining, Module, ModuleVersionStrategy, OptLevel, ProfilingStrategy, RegallocAlgorithm, Strategy,
    WasmFeatures,
};
use std::path::Path;

fn refused(change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::new();
    change(&mut config);
    Engine::new(&config).unwrap_err().to_string()
}

#[test]
fn what_there_is_not_is_refused_by_name() {
    let check = |change: fn(&mut Config), name: &str| {
        let error = refused(change);
        assert!(error.contains(name) && error.contains("take the setting out"), "{name}: {error}");
    };
    check(|config| _ = config.wasm_gc(true), "the garbage collection proposal");
    check(|config| _ = config.wasm_legacy_exceptions(true), "legacy exception handling");
    check(|config| _ = config.wasm_component_model_async(true), "component model async");
    check(|config| _ = config.guest_debug(true), "guest_debug");
    check(|config| _ = config.wmemcheck(true), "wmemcheck");
    check(|config| _ = config.emit_clif(Path::new("/tmp/clif")), "/tmp/clif");
    check(|config| _ = config.signals_based_traps(false), "signals_based_traps");
    check(|config| _ = config.wasm_features(WasmFeatures::FLOATS, false), "floats");
    check(|config| _ = config.wasm_features(WasmFeatures::GC | WasmFeatures::SIMD, true), "garbage collection");
    // SAFETY: a flag is not handed on, so there is nothing to promise.
    check(|config| _ = unsafe { config.cranelift_flag_set("opt_level", "none") }, "`opt_level=none`");
    // SAFETY: as above.
    check(|config| _ = unsafe { config.cranelift_flag_enable("enable_x") }, "`enable_x`");
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
