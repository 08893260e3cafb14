//! What making a module may cost, in every strategy, and what the host holds for guests: each limit refuses by its name.

mod patience;

use patience::wait_for;
use peregrine::*;
use std::fmt::Write;
use std::time::Duration;

const STRATEGIES: [Strategy; 3] = [Strategy::Ahead, Strategy::Tiered, Strategy::Baseline];

fn engine(strategy: Strategy, change: impl FnOnce(&mut Budget)) -> Engine {
    let mut budget = Budget::trusted();
    change(&mut budget);
    Engine::new(Config::new().strategy(strategy).budget(budget)).unwrap()
}

/// The errors of making, validating and precompiling `text` are about `limit`.
fn is_refused(engine: &Engine, text: &str, limit: &str) {
    let binary = wat::parse_str(text).unwrap();
    let errors = [
        Module::new(engine, text).map(drop),
        Module::from_binary(engine, &binary).map(drop),
        Module::validate(engine, &binary),
        engine.precompile_module(&binary).map(drop),
    ];
    for (position, error) in errors.into_iter().enumerate() {
        let error = format!("{:#}", error.expect_err("too much"));
        assert!(error.contains(&format!("`Budget::{limit}`")) && error.contains("sets it"), "{position}: {error}");
    }
}

fn functions(count: usize, body: &str) -> String {
    let mut text = "(module".to_owned();
    (0..count).for_each(|number| write!(text, "(func (param i32) (result i32) {body} (i32.const {number}))").unwrap());
    text + ")"
}

#[test]
fn each_limit_on_a_module_refuses_by_its_name() {
    for strategy in STRATEGIES {
        let ten = functions(10, "");
        is_refused(&engine(strategy, |budget| budget.functions = 9), &ten, "functions");
        Module::new(&engine(strategy, |budget| budget.functions = 10), &ten).unwrap();

        let long = functions(1, &"(drop (i32.const 0))".repeat(100));
        is_refused(&engine(strategy, |budget| budget.function_bytes = 300), &long, "function_bytes");
        Module::new(&engine(strategy, |budget| budget.function_bytes = 400), &long).unwrap();

        let locals = format!("(module {})", "(func (local i32 i32 i64 i64 f32))".repeat(4));
        is_refused(&engine(strategy, |budget| budget.locals = 19), &locals, "locals");
        Module::new(&engine(strategy, |budget| budget.locals = 20), &locals).unwrap();

        is_refused(&engine(strategy, |budget| budget.module_bytes = 100), &functions(100, ""), "module_bytes");
        is_refused(&engine(strategy, |budget| budget.compile_time = Duration::ZERO), &ten, "compile_time");
        is_refused(&engine(strategy, |budget| budget.compile_memory_bytes = 1 << 20), &functions(10_000, ""), "compile_memory_bytes");
        Module::new(&engine(strategy, |budget| budget.compile_memory_bytes = 64 << 20), functions(10_000, "")).unwrap();
    }
}

/// What a larger budget let into the cache is refused as if it were compiled, by bytes and by file, and stays for those who may have it.
#[test]
fn cached_modules_are_within_the_budget() -> Result<()> {
    let body = "(local i32 i64 i64) (drop (i32.const 1))".to_owned();
    let text = format!("(module (import \"\" \"\" (func)) {})", format!("(func {body})").repeat(10) + "(func (drop (i32.const 70000)))")
        // A large file is recognized without being read.
        .replace("(module", &format!("(module (@custom \"filler\" \"{}\")", "x".repeat(300 << 10)));
    let binary = wat::parse_str(&text)?;
    type Change = fn(&mut Budget);
    let limits: [(&str, Change); 3] = [
        ("functions", |budget| budget.functions = 10),
        ("function_bytes", |budget| budget.function_bytes = 6),
        ("locals", |budget| budget.locals = 29),
    ];
    for strategy in [Strategy::Ahead, Strategy::Tiered] {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("module.wasm");
        std::fs::write(&path, &binary)?;
        let cached = |budget: Budget| -> Result<Engine> {
            let cache = Cache::new(dir.path().join("cache"))?;
            Engine::new(Config::new().strategy(strategy).budget(budget).cache(Some(cache)))
        };
        Module::from_file(&cached(Budget::trusted())?, &path)?.keep_compiled();
        for (name, change) in limits {
            let plain = Module::from_binary(&engine(strategy, change), &binary).unwrap_err();
            assert!(format!("{plain:#}").contains(&format!("`Budget::{name}`")), "{plain:#}");
            let mut budget = Budget::trusted();
            change(&mut budget);
            let engine = cached(budget)?;
            let again = [Module::from_binary(&engine, &binary).unwrap_err(), Module::from_file(&engine, &path).unwrap_err()];
            assert_eq!(format!("{:#}", again[0]), format!("{plain:#}"), "{strategy:?}");
            assert!(format!("{:#}", again[1]).ends_with(&format!("{plain:#}")), "{:#}", again[1]);
        }
        let engine = cached(Budget::trusted())?;
        Module::from_file(&engine, &path)?;
        assert_eq!(engine.metrics().cache_hits, 1, "{strategy:?}");
    }
    Ok(())
}

#[test]
fn code_counts_as_memory() {
    // Little to read and much to make: one operator is many instructions.
    let body = "(v128.store (local.get 0) (i32x4.trunc_sat_f32x4_u (v128.load (local.get 0))))".repeat(20);
    let mut text = functions(500, &body);
    text.replace_range(..7, "(module (memory 1)");
    Module::validate(&engine(Strategy::Ahead, |budget| budget.compile_memory_bytes = 3 << 20), &wat::parse_str(&text).unwrap()).unwrap();
    let engine = engine(Strategy::Ahead, |budget| budget.compile_memory_bytes = 3 << 20);
    let error = Module::new(&engine, &text).unwrap_err().to_string();
    assert!(error.contains("`Budget::compile_memory_bytes`, which is 3145728"), "{error}");
}

/// Calls the functions of a module until each of them is optimized, or is not to be, one after the other.
fn tier_up(engine: &Engine, text: &str, count: usize) -> Result<TieringMetrics> {
    let module = Module::new(engine, text)?;
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    for number in 0..count {
        let function = instance.get_typed_func::<i32, i32>(&mut store, &number.to_string())?;
        wait_for("an answer", || {
            for _ in 0..1000 {
                assert_eq!(function.call(&mut store, 16).unwrap(), number as i32);
            }
            let metrics = module.tiering_metrics();
            (metrics.pending_requests == 0 && metrics.optimized_functions + metrics.refused > number as u64).then_some(())
        });
    }
    Ok(module.tiering_metrics())
}

/// Code that is made while the module runs counts too: what is called is compiled, and not compiled again once there is too much of it.
#[test]
fn code_that_is_made_in_the_background_counts_as_memory() -> Result<()> {
    const FUNCTIONS: usize = 120;
    let body = "(v128.store (local.get 0) (i32x4.trunc_sat_f32x4_u (v128.load (local.get 0))))".repeat(40);
    let text = (0..FUNCTIONS).fold(String::from("(module (memory 1)"), |mut text, number| {
        write!(text, r#"(func (export "{number}") (param i32) (result i32) {body} (i32.const {number}))"#).unwrap();
        text
    }) + ")";
    let all = tier_up(&engine(Strategy::Tiered, |_| {}), &text, FUNCTIONS)?;
    assert_eq!((all.optimized_functions, all.refused), (FUNCTIONS as u64, 0), "{all:?}");
    // Of what is kept, about a half.
    let memory_bytes = 4 * all.room_used_bytes as usize;
    let some = tier_up(&engine(Strategy::Tiered, |budget| budget.compile_memory_bytes = memory_bytes), &text, FUNCTIONS)?;
    assert_eq!(some.baseline_functions, FUNCTIONS as u64, "{some:?}");
    assert!(some.optimized_functions > 0 && some.refused > FUNCTIONS as u64 / 4, "{some:?}");
    assert_eq!(some.optimized_functions + some.refused, FUNCTIONS as u64, "{some:?}");
    assert!(8 * some.optimized_code_bytes < memory_bytes as u64, "{some:?}");
    Ok(())
}

#[test]
fn text_may_be_so_much_longer() {
    let engine = engine(Strategy::Auto, |budget| budget.module_bytes = 1000);
    let spaces = |count: usize| format!("(module {})", " ".repeat(count));
    Module::new(&engine, spaces(7000)).unwrap();
    let error = Module::new(&engine, spaces(8000)).unwrap_err().to_string();
    assert!(error.contains("`Budget::module_bytes`, which is 1000"), "{error}");
}

#[test]
fn a_stack_is_within_the_budget() {
    let error = Engine::new(Config::new().budget(Budget::untrusted()).max_wasm_stack(2 << 20)).unwrap_err().to_string();
    assert!(error.contains("`Budget::stack_bytes` is 1048576"), "{error}");
    Engine::new(Config::new().budget(Budget::untrusted())).unwrap();
}

#[test]
fn the_presets_take_what_programs_are() {
    let engine = Engine::new(Config::new().budget(Budget::untrusted())).unwrap();
    let module = Module::new(&engine, functions(20_000, "(drop (i32.add (local.get 0) (i32.const 1)))")).unwrap();
    assert_eq!(module.functions().len(), 20_000);
}

#[test]
fn host_values_globals_and_instances_are_counted() -> Result<()> {
    let refused = |result: Result<()>| {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains("`Budget::host_bytes` is 65536; `Store::set_budget`"), "{error}");
    };
    let small = || {
        let engine = engine(Strategy::Auto, |budget| budget.host_bytes = 64 << 10);
        Store::new(&engine, ())
    };
    let mut store = small();
    let made = (0..).take_while(|number: &usize| ExternRef::new(&mut store, *number).is_ok()).count();
    assert!((1000..2000).contains(&made), "{made} values");
    refused(ExternRef::new(&mut store, 0).map(drop));
    assert!(store.metrics().host_bytes > 65_000);

    let mut store = small();
    ExternRef::new(&mut store, [0u8; 60_000])?;
    refused(ExternRef::new(&mut store, [0u8; 60_000]).map(drop));

    let mut store = small();
    let ty = || GlobalType::new(ValType::I32, Mutability::Const);
    let made = (0..1000).take_while(|_| Global::new(&mut store, ty(), Val::I32(0)).is_ok()).count();
    assert_eq!(made, 32);
    refused(Table::new(&mut store, TableType::new(RefType::FUNCREF, 1, None), Ref::Func(None)).map(drop));
    refused(Memory::new(&mut store, MemoryType::new(1, None)).map(drop));

    // A context of 16 bytes for each global.
    let mut store = small();
    let module = Module::new(store.engine(), format!("(module {})", "(global (mut v128) (v128.const i64x2 0 0))".repeat(1000)))?;
    for _ in 0..3 {
        Instance::new(&mut store, &module, &[])?;
    }
    refused(Instance::new(&mut store, &module, &[]).map(drop));
    let before = store.metrics();
    refused(Instance::new(&mut store, &module, &[]).map(drop));
    assert_eq!(store.metrics(), before, "what was refused is not counted");

    // Functions of the host cannot be refused, and count.
    let mut store = small();
    for _ in 0..300 {
        Func::wrap(&mut store, || ());
    }
    refused(ExternRef::new(&mut store, 0).map(drop));
    Ok(())
}

/// A file's length is looked at before anything is made for its content.
#[test]
fn a_file_that_is_too_long_is_not_read() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("long.wasm");
    // Longer than memory, and takes none of the disk.
    std::fs::File::create(&path)?.set_len(1 << 42)?;
    let error = Module::from_file(&Engine::default(), &path).unwrap_err();
    assert!(format!("{error:#}").contains("the file has 4398046511104 bytes, `Budget::module_bytes` is"), "{error:#}");
    Ok(())
}
