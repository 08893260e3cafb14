//! The differential oracle: a module must do the same in Peregrine and in wasmi.
//!
//! [`check`] makes a module of bytes, calls each of its functions with several sets of arguments in a fresh instance of each engine, and
//! compares results, the class of traps, and then every exported global and memory. Plain functions: tests run them for seeds, the fuzz
//! target for whatever its engine finds.

use crate::modules::{self, Random};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Functions called of one module.
const MAX_FUNCTIONS: usize = 8;
/// Sets of arguments for one function.
const ARGUMENT_SETS: usize = 2;

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Modules that both engines ran.
    pub modules: u64,
    /// Calls that returned the same results.
    pub returned: u64,
    /// Calls that trapped for the same reason.
    pub trapped: u64,
    /// Calls that were not compared, because one engine ran out of stack or memory.
    pub skipped: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.modules += other.modules;
        self.returned += other.returned;
        self.trapped += other.trapped;
        self.skipped += other.skipped;
    }
}

/// Why a guest stopped, as far as engines agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Unreachable,
    Memory,
    Table,
    NullCall,
    Signature,
    Overflow,
    DivisionByZero,
    Conversion,
    /// Depends on the engine: not compared.
    Resources,
}

/// A value in bits; references only as null or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    I32(u32),
    I64(u64),
    F32(u32),
    F64(u64),
    V128(u128),
    Reference { is_null: bool },
}

/// Everything that a call can be seen to have done.
#[derive(Debug, PartialEq)]
struct Observed {
    outcome: Result<Vec<Bits>, Stop>,
    globals: Vec<(String, Bits)>,
    memories: Vec<(String, Vec<u8>)>,
}

impl Observed {
    /// Engines list exports in different orders; here they go by name.
    fn new(outcome: Result<Vec<Bits>, Stop>, mut globals: Vec<(String, Bits)>, mut memories: Vec<(String, Vec<u8>)>) -> Self {
        globals.sort_by(|a, b| a.0.cmp(&b.0));
        memories.sort_by(|a, b| a.0.cmp(&b.0));
        Self { outcome, globals, memories }
    }
}

/// The engines, made once.
pub struct Oracle {
    subject: peregrine::Engine,
    reference: wasmi::Engine,
}

impl Oracle {
    /// Compares Peregrine as `config` has it.
    ///
    /// # Errors
    ///
    /// If `config` asks for what there is not.
    pub fn new(config: &peregrine::Config) -> peregrine::Result<Self> {
        let mut reference = wasmi::Config::default();
        reference.wasm_wide_arithmetic(true).wasm_simd(true).wasm_multi_memory(true).wasm_tail_call(true).wasm_memory64(true);
        Ok(Self { subject: peregrine::Engine::new(config)?, reference: wasmi::Engine::new(&reference) })
    }

    /// Makes a module of `bytes` and compares all that can be seen of it. No module is no difference.
    ///
    /// # Errors
    ///
    /// What differs, and the module in the text format.
    pub fn check(&self, bytes: &[u8]) -> Result<Stats, String> {
        let Some(wasm) = modules::terminating(bytes) else { return Ok(Stats::default()) };
        self.compare(&wasm).map_err(|difference| {
            let mut text = difference;
            let wat = wasmprinter::print_bytes(&wasm).unwrap_or_else(|error| format!("(the module cannot be printed: {error})"));
            let _ = write!(text, "\n{wat}");
            text
        })
    }

    fn compare(&self, wasm: &[u8]) -> Result<Stats, String> {
        // What the reference does not know, or fails to translate, cannot be compared.
        let reference = match catch_unwind(AssertUnwindSafe(|| wasmi::Module::new(&self.reference, wasm))) {
            Ok(Ok(module)) => module,
            Ok(Err(_)) | Err(_) => return Ok(Stats { skipped: 1, ..Stats::default() }),
        };
        let subject = peregrine::Module::new(&self.subject, wasm).map_err(|error| format!("the module is refused: {error:#}"))?;
        let mut stats = Stats { modules: 1, ..Stats::default() };
        let functions: Vec<(String, peregrine::FuncType)> = subject
            .exports()
            .filter_map(|export| Some((export.name().to_string(), export.ty().func()?.clone())))
            .take(MAX_FUNCTIONS)
            .collect();
        let mut random = Random::new(wasm.len() as u64);
        for (name, ty) in &functions {
            for _ in 0..ARGUMENT_SETS {
                let params: Vec<Bits> = ty.params().map(|ty| random_bits(&mut random, &ty)).collect();
                let found = run_subject(&self.subject, &subject, name, &params)?;
                // The reference translates a function at its first call, and fails then.
                let Ok(expected) = catch_unwind(AssertUnwindSafe(|| run_reference(&self.reference, &reference, name, &params))) else {
                    stats.skipped += 1;
                    continue;
                };
                let expected = expected?;
                stats += judge(name, &params, &found, &expected)?;
            }
        }
        Ok(stats)
    }
}

/// Compares one module with Peregrine's defaults; see [`Oracle::check`].
///
/// # Errors
///
/// As there.
pub fn check(bytes: &[u8]) -> Result<Stats, String> {
    thread_local! {
        static ORACLE: Oracle = Oracle::new(&peregrine::Config::new()).expect("the default configuration works");
    }
    ORACLE.with(|oracle| oracle.check(bytes))
}

fn judge(name: &str, params: &[Bits], found: &Observed, expected: &Observed) -> Result<Stats, String> {
    if found.outcome == Err(Stop::Resources) || expected.outcome == Err(Stop::Resources) {
        return Ok(Stats { skipped: 1, ..Stats::default() });
    }
    if found.outcome != expected.outcome {
        return Err(format!("`{name}` with {params:x?}: expected {:x?}, found {:x?}", expected.outcome, found.outcome));
    }
    for ((name_found, found), (name_expected, expected)) in found.globals.iter().zip(&expected.globals) {
        if name_found != name_expected || found != expected {
            return Err(format!("after `{name}` with {params:x?}, the global `{name_expected}`: expected {expected:x?}, found {found:x?}"));
        }
    }
    for ((name_found, found), (name_expected, expected)) in found.memories.iter().zip(&expected.memories) {
        if name_found != name_expected || found.len() != expected.len() {
            let (found, expected) = (found.len(), expected.len());
            return Err(format!("after `{name}` with {params:x?}, the memory `{name_expected}`: expected {expected} bytes, found {found}"));
        }
        if let Some(at) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
            let (found, expected) = (found[at], expected[at]);
            let place = format!("the memory `{name_expected}` at {at:#x}");
            return Err(format!("after `{name}` with {params:x?}, {place}: expected {expected:#04x}, found {found:#04x}"));
        }
    }
    if found.globals.len() != expected.globals.len() || found.memories.len() != expected.memories.len() {
        return Err(format!("after `{name}`: the exports differ"));
    }
    Ok(match found.outcome {
        Ok(_) => Stats { returned: 1, ..Stats::default() },
        Err(_) => Stats { trapped: 1, ..Stats::default() },
    })
}

pub(crate) fn random_bits(random: &mut Random, ty: &peregrine::ValType) -> Bits {
    // Numbers at the borders of their types find more than those in between.
    const EDGES: [u64; 8] = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, u64::MAX, 1 << 63, 65535];
    let number = if random.below(2) == 0 { EDGES[random.below(EDGES.len())] } else { random.next() };
    let float = random.next() as i32 as f64 / 64.0;
    match ty {
        peregrine::ValType::I32 => Bits::I32(number as u32),
        peregrine::ValType::I64 => Bits::I64(number),
        peregrine::ValType::F32 => Bits::F32((float as f32).to_bits()),
        peregrine::ValType::F64 => Bits::F64(float.to_bits()),
        peregrine::ValType::V128 => Bits::V128(u128::from(number) << 64 | u128::from(random.next())),
        peregrine::ValType::Ref(_) => Bits::Reference { is_null: true },
    }
}

fn run_subject(engine: &peregrine::Engine, module: &peregrine::Module, name: &str, params: &[Bits]) -> Result<Observed, String> {
    use peregrine::{ExternType, Val};
    let mut store = peregrine::Store::new(engine, ());
    // Modules end by themselves: neither deadline nor fuel is to play a part. Fuel is refused where it is not counted.
    store.set_epoch_deadline(1 << 40);
    let _ = store.set_fuel(u64::MAX / 4);
    let instance = match peregrine::Instance::new(&mut store, module, &[]) {
        Ok(instance) => instance,
        Err(error) => return Ok(Observed { outcome: Err(stop_of_subject(&error)?), globals: Vec::new(), memories: Vec::new() }),
    };
    let func = instance.get_func(&mut store, name).ok_or("the export has gone")?;
    let ty = func.ty(&store);
    let values: Vec<Val> = params.iter().zip(ty.params()).map(|(bits, ty)| value_of(*bits, &ty)).collect();
    let mut results = vec![Val::I32(0); ty.results().len()];
    let outcome = match func.call(&mut store, &values, &mut results) {
        Ok(()) => Ok(results.iter().map(bits_of_subject).collect()),
        Err(error) => Err(stop_of_subject(&error)?),
    };
    let (mut globals, mut memories) = (Vec::new(), Vec::new());
    for export in module.exports() {
        match export.ty() {
            ExternType::Global(_) => {
                let global = instance.get_global(&mut store, export.name()).ok_or("a global has gone")?;
                globals.push((export.name().to_string(), bits_of_subject(&global.get(&mut store))));
            }
            ExternType::Memory(_) => {
                let memory = instance.get_memory(&mut store, export.name()).ok_or("a memory has gone")?;
                memories.push((export.name().to_string(), memory.data(&store).to_vec()));
            }
            _ => {}
        }
    }
    Ok(Observed::new(outcome, globals, memories))
}

pub(crate) fn bits_of_subject(value: &peregrine::Val) -> Bits {
    use peregrine::Val;
    match value {
        Val::I32(value) => Bits::I32(value.cast_unsigned()),
        Val::I64(value) => Bits::I64(value.cast_unsigned()),
        Val::F32(bits) => Bits::F32(*bits),
        Val::F64(bits) => Bits::F64(*bits),
        Val::V128(value) => Bits::V128(value.as_u128()),
        Val::FuncRef(None) | Val::ExternRef(None) => Bits::Reference { is_null: true },
        _ => Bits::Reference { is_null: false },
    }
}

pub(crate) fn stop_of_subject(error: &peregrine::Error) -> Result<Stop, String> {
    use peregrine::Trap;
    let Some(trap) = error.downcast_ref::<Trap>() else { return Err(format!("an error that is no trap: {error:#}")) };
    Ok(match trap {
        Trap::UnreachableCodeReached => Stop::Unreachable,
        Trap::MemoryOutOfBounds => Stop::Memory,
        Trap::TableOutOfBounds => Stop::Table,
        Trap::IndirectCallToNull => Stop::NullCall,
        Trap::BadSignature => Stop::Signature,
        Trap::IntegerOverflow => Stop::Overflow,
        Trap::IntegerDivisionByZero => Stop::DivisionByZero,
        Trap::BadConversionToInteger => Stop::Conversion,
        Trap::StackOverflow => Stop::Resources,
        other => return Err(format!("a trap that no module here can cause: {other}")),
    })
}

fn run_reference(engine: &wasmi::Engine, module: &wasmi::Module, name: &str, params: &[Bits]) -> Result<Observed, String> {
    use wasmi::{ExternType, F32, F64, Ref, Val, ValType};
    let mut store = wasmi::Store::new(engine, ());
    let linker = wasmi::Linker::new(engine);
    let instance = match linker.instantiate_and_start(&mut store, module) {
        Ok(instance) => instance,
        Err(error) => return Ok(Observed { outcome: Err(stop_of_reference(&error)?), globals: Vec::new(), memories: Vec::new() }),
    };
    let func = instance.get_func(&store, name).ok_or("the reference has no such export")?;
    let ty = func.ty(&store);
    let values: Vec<Val> = params
        .iter()
        .zip(ty.params())
        .map(|(bits, ty)| match (*bits, ty) {
            (Bits::I32(bits), _) => Val::I32(bits.cast_signed()),
            (Bits::I64(bits), _) => Val::I64(bits.cast_signed()),
            (Bits::F32(bits), _) => Val::F32(F32::from_bits(bits)),
            (Bits::F64(bits), _) => Val::F64(F64::from_bits(bits)),
            (Bits::V128(bits), _) => Val::V128(bits.into()),
            (Bits::Reference { .. }, ValType::ExternRef) => Val::ExternRef(Ref::Null),
            (Bits::Reference { .. }, _) => Val::FuncRef(Ref::Null),
        })
        .collect();
    let mut results = vec![Val::I32(0); ty.results().len()];
    let outcome = match func.call(&mut store, &values, &mut results) {
        Ok(()) => Ok(results.iter().map(bits_of_reference).collect()),
        Err(error) => Err(stop_of_reference(&error)?),
    };
    let (mut globals, mut memories) = (Vec::new(), Vec::new());
    for export in module.exports() {
        match export.ty() {
            ExternType::Global(_) => {
                let global = instance.get_global(&store, export.name()).ok_or("the reference has no such global")?;
                globals.push((export.name().to_string(), bits_of_reference(&global.get(&store))));
            }
            ExternType::Memory(_) => {
                let memory = instance.get_memory(&store, export.name()).ok_or("the reference has no such memory")?;
                memories.push((export.name().to_string(), memory.data(&store).to_vec()));
            }
            _ => {}
        }
    }
    Ok(Observed::new(outcome, globals, memories))
}

/// The value for our own engines that has these bits.
pub(crate) fn value_of(bits: Bits, ty: &peregrine::ValType) -> peregrine::Val {
    use peregrine::{Val, ValType};
    match (bits, ty) {
        (Bits::I32(bits), _) => Val::I32(bits.cast_signed()),
        (Bits::I64(bits), _) => Val::I64(bits.cast_signed()),
        (Bits::F32(bits), _) => Val::F32(bits),
        (Bits::F64(bits), _) => Val::F64(bits),
        (Bits::V128(bits), _) => Val::V128(bits.into()),
        (Bits::Reference { .. }, ValType::Ref(ty)) if ty.heap_type().is_extern() => Val::ExternRef(None),
        (Bits::Reference { .. }, _) => Val::FuncRef(None),
    }
}

pub(crate) fn bits_of_reference(value: &wasmi::Val) -> Bits {
    use wasmi::Val;
    match value {
        Val::I32(value) => Bits::I32(value.cast_unsigned()),
        Val::I64(value) => Bits::I64(value.cast_unsigned()),
        Val::F32(value) => Bits::F32(value.to_bits()),
        Val::F64(value) => Bits::F64(value.to_bits()),
        Val::V128(value) => Bits::V128(value.as_u128()),
        Val::FuncRef(reference) => Bits::Reference { is_null: reference.is_null() },
        Val::ExternRef(reference) => Bits::Reference { is_null: reference.is_null() },
    }
}

pub(crate) fn stop_of_reference(error: &wasmi::Error) -> Result<Stop, String> {
    use wasmi::TrapCode;
    // An active segment out of bounds is a trap of instantiation that the reference reports in its own way.
    let Some(code) = error.as_trap_code() else { return stop_of_instantiation(error) };
    Ok(match code {
        TrapCode::UnreachableCodeReached => Stop::Unreachable,
        TrapCode::MemoryOutOfBounds => Stop::Memory,
        TrapCode::TableOutOfBounds => Stop::Table,
        TrapCode::IndirectCallToNull => Stop::NullCall,
        TrapCode::BadSignature => Stop::Signature,
        TrapCode::IntegerOverflow => Stop::Overflow,
        TrapCode::IntegerDivisionByZero => Stop::DivisionByZero,
        TrapCode::BadConversionToInteger => Stop::Conversion,
        _ => Stop::Resources,
    })
}

fn stop_of_instantiation(error: &wasmi::Error) -> Result<Stop, String> {
    let text = error.to_string();
    match text {
        _ if text.contains("memory") || text.contains("data segment") => Ok(Stop::Memory),
        _ if text.contains("table") || text.contains("element segment") => Ok(Stop::Table),
        _ => Err(format!("the reference fails for another reason: {text}")),
    }
}
