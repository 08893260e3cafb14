//! Profiles: what is counted, and that code made with one is faster where the guess is right and the same wherever it is wrong.

mod patience;

use patience::wait_for;
use peregrine::{
    Cache, Config, DefinedFuncIndex, Engine, Error, Func, FunctionProfile, Instance, Module, Profile, ProfileError, Ref, SiteProfile,
    Store, Strategy, Trap, TypedFunc, Val, WasmBacktrace,
};

/// A table of functions that are called in every way: the first is called by nearly all.
const PROGRAM: &str = r#"(module
    (type $unary (func (param i32) (result i32)))
    (type $wide (func (param i64 f64 i32) (result i32 i64 f64)))
    (import "host" "negate" (func $negate (type $unary)))
    (table (export "table") 10 funcref)
    (elem (i32.const 0) $divide $double $square $increment $nothing $negate)
    (elem (i32.const 8) $turn)
    (func $divide (export "divide") (type $unary) (i32.div_u (i32.const 1000) (local.get 0)))
    (func $double (type $unary) (i32.mul (local.get 0) (i32.const 2)))
    (func $square (type $unary) (i32.mul (local.get 0) (local.get 0)))
    (func $increment (type $unary) (i32.add (local.get 0) (i32.const 1)))
    (func $nothing)
    (func $turn (type $wide) (local.get 2) (local.get 0) (local.get 1))
    (func $call (export "call") (param i32 i32) (result i32) (call_indirect (type $unary) (local.get 1) (local.get 0)))
    (func $tail (export "tail") (param i32 i32) (result i32) (return_call_indirect (type $unary) (local.get 1) (local.get 0)))
    (func $wide (export "wide") (param i64 f64 i32 i32) (result i32 i64 f64)
        (call_indirect (type $wide) (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
    (func $many (export "many") (param $which i32) (param $count i32) (result i32) (local $sum i32)
        (loop $again
            (local.set $sum (i32.add (local.get $sum)
                (call_indirect (type $unary) (i32.or (local.get $count) (i32.const 1)) (local.get $which))))
            (br_if $again (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
        (local.get $sum))
    (func $rare (export "rare") (param i32) (result i32)
        (if (i32.eq (local.get 0) (i32.const 77)) (then (call $never)))
        (i32.add (local.get 0) (i32.const 5)))
    (func $never (unreachable))
    (func (export "set") (param i32 i32) (table.set (local.get 0) (table.get (local.get 1)))))"#;

const DIVIDE: u32 = 0;
const DOUBLE: u32 = 1;
const CALL: u32 = 6;
const TAIL: u32 = 7;
const WIDE: u32 = 8;
const MANY: u32 = 9;
const RARE: u32 = 10;

fn index(number: u32) -> DefinedFuncIndex {
    DefinedFuncIndex::from_u32(number)
}

fn engine(change: impl FnOnce(&mut Config)) -> Engine {
    let mut config = Config::new();
    config.strategy(Strategy::Ahead);
    change(&mut config);
    Engine::new(&config).unwrap()
}

fn counting() -> Engine {
    engine(|config| _ = config.gather_profile(true))
}

/// An instance with what is needed to call it.
struct Program {
    store: Store<()>,
    instance: Instance,
}

impl Program {
    fn new(engine: &Engine, module: &Module) -> Self {
        let mut store = Store::new(engine, ());
        if engine.config().get_consume_fuel() {
            store.set_fuel(1 << 40).unwrap();
        }
        let negate = Func::wrap(&mut store, |value: i32| -value);
        let instance = Instance::new(&mut store, module, &[negate.into()]).unwrap();
        Self { store, instance }
    }

    fn call(&mut self, name: &str, which: i32, value: i32) -> Result<i32, Error> {
        let func: TypedFunc<(i32, i32), i32> = self.instance.get_typed_func(&mut self.store, name).unwrap();
        func.call(&mut self.store, (which, value))
    }

    fn wide(&mut self, which: i32) -> Result<(i32, i64, f64), Error> {
        let func = self.instance.get_typed_func::<(i64, f64, i32, i32), (i32, i64, f64)>(&mut self.store, "wide").unwrap();
        func.call(&mut self.store, (4, 2.5, 8, which))
    }

    fn rare(&mut self, value: i32) -> Result<i32, Error> {
        let func: TypedFunc<i32, i32> = self.instance.get_typed_func(&mut self.store, "rare").unwrap();
        func.call(&mut self.store, value)
    }

    fn set(&mut self, target: i32, source: i32) {
        let func: TypedFunc<(i32, i32), ()> = self.instance.get_typed_func(&mut self.store, "set").unwrap();
        func.call(&mut self.store, (target, source)).unwrap();
    }

    /// What the profile is made of: nearly all calls go to the first function.
    fn train(&mut self) {
        for name in ["call", "tail"] {
            for _ in 0..90 {
                assert_eq!(self.call(name, 0, 10).unwrap(), 100);
            }
            for _ in 0..10 {
                assert_eq!(self.call(name, 1, 10).unwrap(), 20);
            }
        }
        for _ in 0..100 {
            assert_eq!(self.wide(8).unwrap(), (8, 4, 2.5));
            assert_eq!(self.rare(1).unwrap(), 6);
        }
        self.call("many", 0, 5000).unwrap();
    }
}

fn trained() -> Profile {
    let engine = counting();
    let module = Module::new(&engine, PROGRAM).unwrap();
    let mut program = Program::new(&engine, &module);
    program.train();
    module.profile().unwrap()
}

/// The only indirect call of a function.
fn site(profile: &Profile, function: u32) -> SiteProfile {
    let function = profile.function(index(function)).expect("it ran");
    assert_eq!(function.sites.len(), 1);
    function.sites.values().next().unwrap().clone()
}

#[test]
fn calls_and_targets_are_counted() {
    let profile = trained();
    let calls = |function| profile.function(index(function)).unwrap().calls;
    assert_eq!([CALL, TAIL, WIDE, RARE, MANY].map(calls), [100, 100, 100, 100, 1]);
    assert_eq!((calls(DIVIDE), calls(DOUBLE)), (90 + 90 + 5000, 20));
    assert!(profile.function(index(2)).is_none() && profile.function(index(11)).is_none(), "what did not run is not there");
    for function in [CALL, TAIL] {
        assert_eq!(site(&profile, function), SiteProfile::new([(index(DIVIDE), 90), (index(DOUBLE), 10)], 0));
    }
    assert_eq!(site(&profile, MANY), SiteProfile::new([(index(DIVIDE), 5000)], 0));
    // A turn of the loop runs through some thirty bytes.
    let work = |function| profile.function(index(function)).unwrap().work;
    assert!((20 * 5000..60 * 5000).contains(&work(MANY)), "{}", work(MANY));
    assert!(work(CALL) > 0 && work(CALL) < work(MANY));
}

#[test]
fn functions_of_others_and_too_many_different_ones_are_counted_together() {
    let engine = counting();
    let module = Module::new(&engine, PROGRAM).unwrap();
    let mut program = Program::new(&engine, &module);
    for _ in 0..7 {
        assert_eq!(program.call("call", 5, 3).unwrap(), -3);
    }
    for which in 0..4 {
        program.call("call", which, 3).unwrap();
    }
    // What traps before it is called does not count.
    for (which, trap) in [(4, Trap::BadSignature), (6, Trap::IndirectCallToNull), (99, Trap::TableOutOfBounds)] {
        assert_eq!(program.call("call", which, 3).unwrap_err().downcast_ref::<Trap>(), Some(&trap));
    }
    let found = site(&module.profile().unwrap(), CALL);
    // The host's function has the first of three places.
    assert_eq!(found, SiteProfile::new([(index(0), 1), (index(1), 1)], 7 + 2));

    // Other instances of the module count as the same: what is known does not depend on where an instance is.
    let mut other = Program::new(&engine, &module);
    other.call("call", 0, 3).unwrap();
    assert_eq!(site(&module.profile().unwrap(), CALL).targets()[0], (index(0), 2));
    // A function of the other instance is not one of this one.
    let table = other.instance.get_table(&mut other.store, "table").unwrap();
    let third = Program::new(&engine, &module);
    drop(third);
    assert!(matches!(table.get(&mut other.store, 0), Some(Ref::Func(Some(_)))));
}

#[test]
fn calls_that_go_everywhere_are_not_counted_for_ever() {
    let engine = counting();
    let module = Module::new(&engine, PROGRAM).unwrap();
    let mut program = Program::new(&engine, &module);
    for which in [0, 1, 2] {
        program.call("call", which, 3).unwrap();
    }
    for _ in 0..20_000 {
        assert_eq!(program.call("call", 3, 3).unwrap(), 4);
    }
    for _ in 0..5 {
        assert_eq!(program.call("call", 0, 10).unwrap(), 100);
    }
    let expected = SiteProfile::new([(index(0), 1), (index(1), 1), (index(2), 1)], 1 << 14);
    assert_eq!(site(&module.profile().unwrap(), CALL), expected);
}

/// All that calls can be seen to do: results, traps, backtraces.
fn observe(program: &mut Program) -> Vec<String> {
    let mut seen = Vec::new();
    let mut look = |what: String, result: Result<String, Error>| {
        let text = result.unwrap_or_else(|error| {
            let frames = error.downcast_ref::<WasmBacktrace>().map(|trace| {
                let frame = |frame: &peregrine::FrameInfo| (frame.func_index(), frame.func_offset(), frame.module_offset());
                trace.frames().iter().map(frame).collect::<Vec<_>>()
            });
            format!("{:?} {frames:?}", error.downcast_ref::<Trap>())
        });
        seen.push(format!("{what}: {text}"));
    };
    for round in 0..3 {
        for name in ["call", "tail", "many"] {
            for which in [0, 1, 2, 3, 4, 5, 6, 8, 99, -1] {
                for value in [1, 10, 0] {
                    if name == "many" && value == 0 {
                        continue;
                    }
                    let result = program.call(name, which, value);
                    look(format!("{round} {name} {which} {value}"), result.map(|value| value.to_string()));
                }
            }
        }
        for which in [8, 0, 6, 5] {
            let result = program.wide(which);
            look(format!("{round} wide {which}"), result.map(|values| format!("{values:?}")));
        }
        for value in [1, 77] {
            let result = program.rare(value);
            look(format!("{round} rare {value}"), result.map(|value| value.to_string()));
        }
        match round {
            // The guess is wrong from now on.
            0 => program.set(0, 3),
            // Then null, and of the wrong type.
            _ => {
                program.set(0, 6);
                program.set(8, 4);
            }
        }
    }
    seen
}

/// Profiles that were never true: targets of the wrong type, that do not exist, that cannot be referred to; calls where there are none.
fn made_up(module: &[u8], calls: u64) -> Profile {
    let mut profile = Profile::new(module);
    let trained = trained();
    for (function, known) in trained.functions() {
        let targets = [4, 5, 6, 11, 12, 1_000_000, u32::MAX].map(|target| (index(target), calls));
        let sites = known.sites.keys().chain(&[0, 1, 2, 3, u32::MAX]).map(|offset| (*offset, SiteProfile::new(targets, 0)));
        profile.insert(function, FunctionProfile { calls: u64::MAX, work: u64::MAX, sites: sites.collect() });
    }
    profile.insert(index(u32::MAX), FunctionProfile { calls: u64::MAX, ..FunctionProfile::default() });
    profile
}

/// Profiles in which other functions are the usual ones.
fn shifted(wasm: &[u8], target: u32) -> Profile {
    let mut profile = Profile::new(wasm);
    for (function, known) in trained().functions() {
        let sites = known.sites.keys().map(|offset| (*offset, SiteProfile::new([(index(target), 1000), (index(target + 1), 900)], 3)));
        profile.insert(function, FunctionProfile { calls: 1 << 20, work: 1, sites: sites.collect() });
    }
    profile
}

#[test]
fn code_with_a_profile_means_the_same() {
    let wasm = wat::parse_str(PROGRAM).unwrap();
    for (name, engine) in [
        ("ahead", engine(|_| {})),
        ("not inlined", engine(|config| _ = config.compiler_inlining(false))),
        ("unoptimized", engine(|config| _ = config.cranelift_opt_level(peregrine::OptLevel::None))),
        ("interrupted", engine(|config| _ = config.epoch_interruption(true))),
        ("tiered", engine(|config| _ = config.strategy(Strategy::Tiered))),
        ("tiered at once", engine(|config| _ = config.strategy(Strategy::Tiered).tiering_stress(peregrine::TieringStress::OptimizeAtOnce))),
        (
            "loop entries",
            engine(|config| _ = config.strategy(Strategy::Tiered).tiering_stress(peregrine::TieringStress::LoopEntryEverywhere)),
        ),
    ] {
        let observe = |module: Module| {
            let mut program = Program::new(&engine, &module);
            program.store.set_epoch_deadline(1 << 40);
            observe(&mut program)
        };
        let expected = observe(Module::new(&engine, &wasm).unwrap());
        let profiles = [
            trained(),
            made_up(&wasm, 1000),
            made_up(&wasm, u64::MAX),
            shifted(&wasm, 0),
            shifted(&wasm, 1),
            shifted(&wasm, 3),
            Profile::new(&wasm),
        ];
        for (number, profile) in profiles.iter().enumerate() {
            let found = observe(Module::new_with_profile(&engine, &wasm, profile).unwrap());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "{name}, profile {number}");
            }
        }
    }
}

#[test]
fn fuel_is_the_same_with_a_profile() {
    let engine = engine(|config| _ = config.consume_fuel(true));
    let used = |module: Module| {
        let mut program = Program::new(&engine, &module);
        let mut used = Vec::new();
        for which in [0, 1, 4, 6] {
            let _ = program.call("call", which, 10);
            let _ = program.call("tail", which, 10);
            used.push(program.store.get_fuel().unwrap());
        }
        program.call("many", 0, 1000).unwrap();
        used.push(program.store.get_fuel().unwrap());
        used
    };
    let plain = used(Module::new(&engine, PROGRAM).unwrap());
    assert_eq!(used(Module::new_with_profile(&engine, PROGRAM, &trained()).unwrap()), plain);
}

#[test]
fn the_same_profile_gives_the_same_image() {
    let engine = engine(|_| {});
    let wasm = wat::parse_str(PROGRAM).unwrap();
    let image = |profile: &Profile| engine.precompile_module_with_profile(&wasm, profile, &()).unwrap();
    let profile = trained();
    assert_eq!(image(&profile), image(&Profile::from_bytes(&profile.to_bytes()).unwrap()));
    assert_ne!(image(&profile), engine.precompile_module(&wasm).unwrap());
}

#[test]
fn what_was_called_most_comes_first_in_an_image_made_ahead() {
    const IMPORTS: u32 = 1;
    let wasm = wat::parse_str(PROGRAM).unwrap();
    let profile = trained();
    let engine = engine(|_| {});
    let by_place = |module: Module| {
        let functions = module.functions().filter(|function| function.len > 0);
        let mut functions: Vec<_> = functions.map(|function| (function.offset, function.index.as_u32() - IMPORTS)).collect();
        functions.sort_unstable();
        functions.into_iter().map(|(_, function)| function).collect::<Vec<_>>()
    };
    let functions = by_place(Module::new(&engine, &wasm).unwrap());
    assert!(functions.len() > 10 && functions.is_sorted());
    let mut expected = functions;
    // Of the defined ones the profile knows calls; those without keep their order.
    expected.sort_by_key(|function| std::cmp::Reverse(profile.function(index(*function)).map_or(0, |function| function.calls)));
    assert_eq!(expected[0], DIVIDE, "{expected:?}");
    assert!(!expected.is_sorted(), "{expected:?}");
    assert_eq!(by_place(Module::new_with_profile(&engine, &wasm, &profile).unwrap()), expected);
    let image = engine.precompile_module_with_profile(&wasm, &profile, &()).unwrap();
    // SAFETY: the image was made just now.
    assert_eq!(by_place(unsafe { Module::deserialize(&engine, &image) }.unwrap()), expected);
}

#[test]
fn profiles_of_other_modules_are_refused() {
    let wrong =
        |result: Result<(), Error>| assert_eq!(result.unwrap_err().downcast_ref::<ProfileError>(), Some(&ProfileError::OtherModule));
    let other = "(module (func (export \"other\")))";
    let profile = trained();
    for strategy in [Strategy::Ahead, Strategy::Tiered] {
        let engine = engine(|config| _ = config.strategy(strategy));
        wrong(Module::new_with_profile(&engine, other, &profile).map(drop));
        wrong(engine.precompile_module_with_profile(other.as_bytes(), &profile, &()).map(drop));
    }
    let tiered = engine(|config| _ = config.strategy(Strategy::Tiered));
    wrong(Module::new(&tiered, other).unwrap().add_profile(&profile));
    assert!(Module::new(&engine(|_| {}), other).unwrap().profile().is_none(), "code that is compiled as a whole counts nothing");
    let mut config = Config::new();
    let dir = tempfile::tempdir().unwrap();
    config.gather_profile(true).cache(Some(Cache::new(dir.path().join("cache")).unwrap()));
    assert!(Engine::new(&config).unwrap_err().to_string().contains("cache"));
}

/// Calls until so many functions are optimized.
fn until_optimized(program: &mut Program, module: &Module, which: i32, functions: u64) {
    wait_for("something optimized", || {
        program.call("many", which, 1000).unwrap();
        (module.tiering_metrics().optimized_functions >= functions).then_some(())
    });
}

#[test]
fn the_background_goes_by_what_is_counted() {
    let engine = engine(|config| _ = config.strategy(Strategy::Tiered));
    let module = Module::new(&engine, PROGRAM).unwrap();
    let mut program = Program::new(&engine, &module);
    until_optimized(&mut program, &module, 1, 1);
    // The call of a small function that was guessed became its body, which has no entry in the baseline.
    let calls = || module.profile().unwrap().function(index(DOUBLE)).unwrap().calls;
    let before = calls();
    program.call("many", 1, 1000).unwrap();
    assert!(before > 0 && calls() == before, "{before}, {}", calls());
    // The table changes after the guess was made.
    for (which, expected) in [(1, 2), (2, 1), (3, 2), (5, -1)] {
        program.set(1, which);
        assert_eq!(program.call("many", 1, 1).unwrap(), expected, "{which}");
        assert_eq!(program.call("call", 1, 1).unwrap(), expected, "{which}");
    }
    program.set(1, 4);
    assert_eq!(program.call("many", 1, 1).unwrap_err().downcast_ref::<Trap>(), Some(&Trap::BadSignature));
    program.set(1, 8);
    assert!(program.call("many", 1, 1).is_err());
}

/// What earlier runs worked on for long is compiled better as soon as anything is, before it is hot in this run too.
#[test]
fn the_background_begins_with_what_was_hot_before() {
    let engine = engine(|config| _ = config.strategy(Strategy::Tiered));
    let module = Module::new(&engine, PROGRAM).unwrap();
    let mut profile = Profile::new(&wat::parse_str(PROGRAM).unwrap());
    // `call` worked for long, `tail` did not.
    for (function, work) in [(CALL, 1 << 30), (TAIL, 10)] {
        profile.insert(index(function), FunctionProfile { calls: 1, work, sites: Default::default() });
    }
    module.add_profile(&profile).unwrap();
    let mut program = Program::new(&engine, &module);
    // Code of the baseline counts its calls.
    let is_counted = |program: &mut Program, name, function| {
        let calls = || module.profile().unwrap().function(index(function)).map_or(0, |function| function.calls);
        let before = calls();
        assert_eq!(program.call(name, 0, 10).unwrap(), 100);
        calls() > before
    };
    assert!(is_counted(&mut program, "call", CALL) && is_counted(&mut program, "tail", TAIL));
    until_optimized(&mut program, &module, 0, 1);
    wait_for("`call` optimized", || (!is_counted(&mut program, "call", CALL)).then_some(()));
    assert!(is_counted(&mut program, "tail", TAIL));
}

#[test]
fn the_cache_keeps_profiles() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let profiles = || {
        let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "profile")).collect::<Vec<_>>()
    };
    let run = |functions| {
        let engine = engine(|config| _ = config.strategy(Strategy::Tiered).cache(Some(Cache::new(&path).unwrap())));
        let module = Module::new(&engine, PROGRAM).unwrap();
        let mut program = Program::new(&engine, &module);
        assert_eq!(program.call("call", 0, 10).unwrap(), 100);
        if functions > 0 {
            until_optimized(&mut program, &module, 0, functions);
        }
        module.keep_compiled();
        assert_eq!(program.call("many", 0, 1).unwrap(), 1000);
    };
    run(0);
    assert!(profiles().is_empty(), "what runs for a moment is not worth it");
    run(1);
    let [profile] = &profiles()[..] else { panic!("{:?}", profiles()) };
    let kept = Profile::from_bytes(&std::fs::read(profile).unwrap()).unwrap();
    assert!(kept.function(index(DIVIDE)).is_some_and(|function| function.calls > 0));
    // What others left there does no harm, and is replaced by the next that has something to say.
    for damage in [&b""[..], b"pgnprof", &made_up(&wat::parse_str(PROGRAM).unwrap(), 1000).to_bytes(), &[0xff; 1000]] {
        std::fs::write(profile, damage).unwrap();
        run(0);
    }
    Cache::new(&path).unwrap().clear().unwrap();
    assert!(profiles().is_empty());
}

#[test]
fn values_of_every_kind_cross_guessed_calls() {
    // Results and arguments on the stack, vectors, references, and a guess in each position.
    let text = r#"(module
        (type $all (func (param i32 i64 f32 f64 v128 funcref externref i64 i64 i64 i64) (result f64 v128 i32 funcref externref i64 i64 i64 i64 i64 i64 i64)))
        (table 2 2 funcref)
        (elem (i32.const 0) $first $second)
        (func $first (type $all)
            (local.get 3) (local.get 4) (local.get 0) (local.get 5) (local.get 6)
            (local.get 1) (local.get 7) (local.get 8) (local.get 9) (local.get 10) (local.get 1) (i64.const 1))
        (func $second (type $all)
            (f64.neg (local.get 3)) (v128.not (local.get 4)) (i32.eqz (local.get 0)) (local.get 5) (ref.null extern)
            (local.get 10) (local.get 9) (local.get 8) (local.get 7) (local.get 1) (local.get 1) (i64.const 2))
        (func (export "call") (param i32) (result f64 v128 i32 funcref externref i64 i64 i64 i64 i64 i64 i64)
            (call_indirect (type $all) (i32.const 1) (i64.const 2) (f32.const 3) (f64.const 4) (v128.const i64x2 5 6) (ref.null func) (ref.null extern)
                (i64.const 7) (i64.const 8) (i64.const 9) (i64.const 10) (local.get 0)))
        (func (export "tail") (param i32) (result f64 v128 i32 funcref externref i64 i64 i64 i64 i64 i64 i64)
            (return_call_indirect (type $all) (i32.const 1) (i64.const 2) (f32.const 3) (f64.const 4) (v128.const i64x2 5 6) (ref.null func) (ref.null extern)
                (i64.const 7) (i64.const 8) (i64.const 9) (i64.const 10) (local.get 0))))"#;
    let run = |engine: &Engine, module: &Module, rounds: usize| {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, module, &[]).unwrap();
        let mut seen = Vec::new();
        for _ in 0..rounds {
            for name in ["call", "tail"] {
                for which in [0, 1] {
                    let func = instance.get_func(&mut store, name).unwrap();
                    let mut results = vec![Val::I32(0); 12];
                    func.call(&mut store, &[Val::I32(which)], &mut results).unwrap();
                    seen.push(format!("{results:?}"));
                }
            }
        }
        seen
    };
    let counting = counting();
    let module = Module::new(&counting, text).unwrap();
    let expected = run(&counting, &module, 20);
    let profile = module.profile().unwrap();
    let sites: Vec<_> = profile.functions().flat_map(|(_, function)| function.sites.values().cloned()).collect();
    assert_eq!(sites, vec![SiteProfile::new([(index(0), 20), (index(1), 20)], 0); 2]);
    let ahead = engine(|_| {});
    assert_eq!(run(&ahead, &Module::new_with_profile(&ahead, text, &profile).unwrap(), 20), expected);
}
