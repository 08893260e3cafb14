//! Functions of the host that a module with thousands of types is to call through tables, whose stubs could not be compiled at first: they can be
//! called when the compiler has time again. With a compiler of its own, which refuses when it is told to.

use peregrine_artifact::compiler::{CompileError, Compiler, CompilerEntry, CompilerKind, Progress};
use peregrine_artifact::settings::{Settings, Target};
use peregrine_compile::ImageCompiler;
use peregrine_engine::*;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// More types than a module has all stubs for.
const TYPES: usize = 2_100;

/// What the compiler does: compiles, or refuses for a reason that passes or for one that stays.
static MODE: AtomicU32 = AtomicU32::new(COMPILES);
const COMPILES: u32 = 0;
const HAS_NO_TIME: u32 = 1;
const IS_UNABLE: u32 = 2;

struct Moody(ImageCompiler);

#[linkme::distributed_slice(COMPILERS)]
static MOODY: CompilerEntry =
    CompilerEntry { kind: CompilerKind::Optimizing, make: |_| Arc::new(Moody(ImageCompiler::new(Arc::new(peregrine_baseline::Baseline)))) };

impl Compiler for Moody {
    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError> {
        self.0.target(triple)
    }

    fn to_binary<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, CompileError> {
        self.0.to_binary(bytes)
    }

    fn validate(&self, wasm: &[u8], settings: &Settings) -> Result<(), CompileError> {
        self.0.validate(wasm, settings)
    }

    fn compile(&self, wasm: &[u8], settings: &Settings, progress: &dyn Progress) -> Result<Vec<u8>, CompileError> {
        match MODE.load(Ordering::Relaxed) {
            HAS_NO_TIME => Err(CompileError::Limit { message: "compiling the module takes too long".into() }),
            IS_UNABLE => Err(CompileError::Unsupported { message: "there are no such functions".into() }),
            _ => self.0.compile(wasm, settings, progress),
        }
    }
}

fn text() -> String {
    let others = (0..TYPES).map(|number| {
        let params = (0..12).map(|bit| if number >> bit & 1 == 1 { " i64" } else { " i32" });
        format!("(type (func (param{})))", params.collect::<String>())
    });
    format!(
        r#"(module {}
            (type $float (func (param f64) (result f64)))
            (import "host" "table" (table $table 1 funcref))
            (func (export "float") (result f64)
                (call_indirect $table (type $float) (f64.const 1.5) (i32.const 0))))"#,
        others.collect::<String>()
    )
}

/// A store whose guest calls a function of the host that was made while the compiler refused.
fn start(engine: &Engine, module: &Module, refusal: u32) -> Result<(Store<()>, Instance, TypedFunc<(), f64>)> {
    let mut store = Store::new(engine, ());
    let table = Table::new(&mut store, TableType::new(RefType::FUNCREF, 1, None), Ref::Func(None))?;
    let instance = Instance::new(&mut store, module, &[table.into()])?;
    let float = instance.get_typed_func::<(), f64>(&mut store, "float")?;
    MODE.store(refusal, Ordering::Relaxed);
    let twice = Func::new(&mut store, FuncType::new(engine, [ValType::F64], [ValType::F64]), |_, params, results| {
        results[0] = Val::from(params[0].unwrap_f64() * 2.0);
        Ok(())
    });
    table.set(&mut store, 0, Ref::Func(Some(twice)))?;
    let stopped = float.call(&mut store, ());
    MODE.store(COMPILES, Ordering::Relaxed);
    assert_eq!(stopped.expect_err("there is no stub").downcast_ref(), Some(&Trap::IndirectCallToNull));
    Ok((store, instance, float))
}

/// One test, since the compiler's mood is that of the process.
#[test]
fn stubs_are_compiled_when_the_compiler_has_time_again() -> Result<()> {
    let engine = Engine::new(Config::new().strategy(Strategy::Ahead))?;
    let module = Module::new(&engine, text())?;
    // Two stores that had none. Either has one when a function is looked up there, a moment later.
    let mut stores = [start(&engine, &module, HAS_NO_TIME)?, start(&engine, &module, HAS_NO_TIME)?];
    for (store, instance, float) in &mut stores {
        let mut attempts = 0;
        let doubled = loop {
            instance.get_func(&mut *store, "float").expect("it is exported");
            match float.call(&mut *store, ()) {
                Err(error) if attempts == 2_000 => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
                Ok(doubled) => break doubled,
            }
            attempts += 1;
        };
        assert_eq!(doubled, 3.0);
    }
    // What the compiler is not able to do is not tried again.
    let engine = Engine::new(Config::new().strategy(Strategy::Ahead))?;
    let module = Module::new(&engine, text())?;
    let (mut store, instance, float) = start(&engine, &module, IS_UNABLE)?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(1));
        instance.get_func(&mut store, "float").expect("it is exported");
        float.call(&mut store, ()).expect_err("there is no stub");
    }
    Ok(())
}
