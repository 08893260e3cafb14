//! Random programs with loops: nested, with operands that live across them, calls, traffic with memories, and traps in some turn.
//!
//! Modules of wasm-smith rarely stay in a loop; these do little else, and end all the same. [`looping`] makes a module of bytes. It imports
//! one function, `host` `log`, of type `(i64) -> (i64)`, and exports all that it defines.

mod body;
mod choices;
mod operators;

use body::{Body, Finished, MAX_COST};
use choices::Choices;
use operators::Ty;
use std::collections::HashMap;
use wasm_encoder::{
    CodeSection, ConstExpr, ElementSection, Elements, EntityType, ExportKind, ExportSection, Function, FunctionSection, GlobalSection,
    GlobalType, ImportSection, MemorySection, MemoryType, Module, RefType, TableSection, TableType, TypeSection,
};

/// The index of the imported function.
const HOST_LOG: u32 = 0;
/// The index of the first function that is defined.
const FIRST_DEFINED: u32 = 1;
/// Defined functions at most.
const MAX_FUNCTIONS: usize = 5;
/// Empty places at the end of the table.
const EMPTY_PLACES: u64 = 1;

/// A small one, whose accesses are compared with its size; one that relies on the guard; and one with 64-bit addresses.
const MEMORIES: [MemoryType; 3] = [memory(Some(3), false), memory(None, false), memory(Some(4), true)];

const fn memory(maximum: Option<u64>, memory64: bool) -> MemoryType {
    MemoryType { minimum: 1, maximum, memory64, shared: false, page_size_log2: None }
}

/// What functions can know of each other. Later ones are made first.
struct Plan {
    functions: Vec<Signature>,
    /// Whether every NaN that is computed is made the canonical one.
    canonical_nans: bool,
    /// Whether `if` takes operands along, which not every reference can translate.
    operands_of_ifs: bool,
}

struct Signature {
    params: Vec<Ty>,
    results: Vec<Ty>,
    /// The most turns and calls that one call comes to; far too many while it is not known.
    cost: u32,
}

/// Types of functions and blocks, each once.
#[derive(Default)]
struct Types {
    section: TypeSection,
    indices: HashMap<(Vec<Ty>, Vec<Ty>), u32>,
}

impl Types {
    fn index(&mut self, params: &[Ty], results: &[Ty]) -> u32 {
        let next = self.indices.len() as u32;
        *self.indices.entry((params.to_vec(), results.to_vec())).or_insert_with(|| {
            let types = |types: &[Ty]| types.iter().map(|ty| ty.val_type()).collect::<Vec<_>>();
            self.section.ty().function(types(params), types(results));
            next
        })
    }
}

/// A valid module of `bytes`, which ends by itself. Where `canonical_nans`, no bit of a NaN is left to the engine.
pub fn looping(bytes: &[u8], canonical_nans: bool) -> Vec<u8> {
    let mut choices = Choices::new(bytes);
    let mut types = Types::default();
    let log = types.index(&[Ty::I64], &[Ty::I64]);
    let functions = (0..2 + choices.below(MAX_FUNCTIONS - 1)).map(|_| signature(&mut choices)).collect();
    let operands_of_ifs = choices.once_in(2);
    let mut plan = Plan { functions, canonical_nans, operands_of_ifs };
    let mut bodies: Vec<Finished> = Vec::new();
    for number in (0..plan.functions.len()).rev() {
        let finished = Body::new(&mut choices, &plan, &mut types, number).finish();
        plan.functions[number].cost = finished.cost;
        bodies.push(finished);
    }
    bodies.reverse();
    assemble(&plan, types, log, &bodies)
}

fn signature(choices: &mut Choices) -> Signature {
    let mut any = |at_most: usize| -> Vec<Ty> { (0..choices.below(at_most + 1)).map(|_| Ty::ALL[choices.below(5)]).collect() };
    let mut params = vec![Ty::I32];
    params.extend(any(3));
    Signature { params, results: any(3), cost: MAX_COST + 1 }
}

fn assemble(plan: &Plan, mut types: Types, log: u32, bodies: &[Finished]) -> Vec<u8> {
    let (mut functions, mut code, mut exports) = (FunctionSection::new(), CodeSection::new(), ExportSection::new());
    let mut imports = ImportSection::new();
    imports.import("host", "log", EntityType::Function(log));
    for (number, (signature, body)) in plan.functions.iter().zip(bodies).enumerate() {
        functions.function(types.index(&signature.params, &signature.results));
        exports.export(&format!("f{number}"), ExportKind::Func, FIRST_DEFINED + number as u32);
        let mut function = Function::new_with_locals_types(body.locals.iter().map(|ty| ty.val_type()));
        for instruction in &body.code {
            function.instruction(instruction);
        }
        code.function(&function);
    }
    let count = plan.functions.len() as u64;
    let mut tables = TableSection::new();
    let places = count + EMPTY_PLACES;
    tables.table(TableType { element_type: RefType::FUNCREF, table64: false, minimum: places, maximum: Some(places), shared: false });
    let indices: Vec<u32> = (FIRST_DEFINED..FIRST_DEFINED + count as u32).collect();
    let mut elements = ElementSection::new();
    elements.active(None, &ConstExpr::i32_const(0), Elements::Functions(indices.into()));
    let mut memories = MemorySection::new();
    for (number, memory) in MEMORIES.iter().enumerate() {
        memories.memory(*memory);
        exports.export(&format!("m{number}"), ExportKind::Memory, number as u32);
    }
    let mut globals = GlobalSection::new();
    for (number, ty) in Ty::ALL.into_iter().enumerate() {
        let start = match ty {
            Ty::I32 => ConstExpr::i32_const(7),
            Ty::I64 => ConstExpr::i64_const(-3),
            Ty::F32 => ConstExpr::f32_const(0.5.into()),
            Ty::F64 => ConstExpr::f64_const((-1e3).into()),
            Ty::V128 => ConstExpr::v128_const(0x0123_4567_89ab_cdef),
        };
        globals.global(GlobalType { val_type: ty.val_type(), mutable: true, shared: false }, &start);
        exports.export(&format!("g{number}"), ExportKind::Global, number as u32);
    }
    exports.export("t", ExportKind::Table, 0);
    let mut module = Module::new();
    module.section(&types.section).section(&imports).section(&functions).section(&tables).section(&memories).section(&globals);
    module.section(&exports).section(&elements).section(&code);
    module.finish()
}
