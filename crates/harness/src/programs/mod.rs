//! Random programs with loops: nested, with operands that live across them, calls, traffic with memories, and traps in some turn.
//!
//! Modules of wasm-smith rarely stay in a loop; these do little else, and end all the same. [`looping`] makes a module of bytes. It imports
//! one function, `host` `log`, of type `(i64) -> (i64)`, and exports all that it defines. [`rich`] makes one that also has what the reference
//! interpreter lacks, and functions of many parameters; it imports `object`, `(i32) -> (externref)`, and `number`, `(externref) -> (i64)`, too.

mod body;
mod choices;
mod operators;
mod rich;

use body::{Body, Finished, MAX_COST};
use choices::Choices;
use operators::Ty;
use std::borrow::Cow;
use std::collections::HashMap;
use wasm_encoder::{
    CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection, Elements, EntityType, ExportKind, ExportSection, Function,
    FunctionSection, GlobalSection, GlobalType, HeapType, ImportSection, MemorySection, MemoryType, Module, RefType, TableSection,
    TableType, TypeSection, ValType,
};

/// The index of the imported function.
const HOST_LOG: u32 = 0;
/// The index of the imported function that makes an object of a number.
const HOST_OBJECT: u32 = 1;
/// The index of the imported function that tells the number of an object.
const HOST_NUMBER: u32 = 2;
/// Defined functions at most.
const MAX_FUNCTIONS: usize = 5;
/// Empty places at the end of the table.
const EMPTY_PLACES: u64 = 1;

/// A small one, whose accesses are compared with its size; one that relies on the guard; one with 64-bit addresses; and one that threads share,
/// which only rich programs have.
const MEMORIES: [MemoryType; 4] = [
    memory(Some(3), false),
    memory(None, false),
    memory(Some(4), true),
    MemoryType { minimum: 1, maximum: Some(2), memory64: false, shared: true, page_size_log2: None },
];
/// How many of them other programs have.
const COMMON_MEMORIES: usize = 3;
/// Passive data of rich programs.
const DATA: [&[u8]; 2] = [b"some bytes that are there from the beginning", b"few"];
/// Elements of tables for references to one function at first, and at most.
const TYPED_ELEMENTS: (u64, u64) = (3, 8);
/// Elements of the table for objects of the host at first, and at most.
const OBJECTS: (u64, u64) = (2, 9);

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
    /// Whether the program has what the reference interpreter lacks.
    is_rich: bool,
}

impl Plan {
    /// The index of a defined function.
    fn index(&self, number: usize) -> u32 {
        let first = if self.is_rich { HOST_NUMBER + 1 } else { HOST_LOG + 1 };
        first + number as u32
    }

    fn memories(&self) -> &'static [MemoryType] {
        &MEMORIES[..if self.is_rich { MEMORIES.len() } else { COMMON_MEMORIES }]
    }

    /// The table for references to one function.
    fn typed_table(&self, number: usize) -> u32 {
        1 + number as u32
    }

    /// Whether that table has 64-bit indices.
    fn is_table64(number: usize) -> bool {
        number % 2 == 1
    }

    /// The table for objects of the host.
    fn object_table(&self) -> u32 {
        1 + self.functions.len() as u32
    }

    /// The global for an object of the host.
    fn object_global(&self) -> u32 {
        Ty::ALL.len() as u32
    }

    /// The global for a reference to one function.
    fn typed_global(&self, number: usize) -> u32 {
        Ty::ALL.len() as u32 + 1 + number as u32
    }
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
    indices: HashMap<(Vec<ValType>, Vec<ValType>), u32>,
}

impl Types {
    fn index(&mut self, params: &[Ty], results: &[Ty]) -> u32 {
        let types = |types: &[Ty]| types.iter().map(|ty| ty.val_type()).collect();
        self.index_of(types(params), types(results))
    }

    fn index_of(&mut self, params: Vec<ValType>, results: Vec<ValType>) -> u32 {
        let next = self.indices.len() as u32;
        *self.indices.entry((params, results)).or_insert_with_key(|(params, results)| {
            self.section.ty().function(params.iter().copied(), results.iter().copied());
            next
        })
    }

    /// References to a function, or null.
    fn reference_to(&mut self, signature: &Signature, nullable: bool) -> RefType {
        RefType { nullable, heap_type: HeapType::Concrete(self.index(&signature.params, &signature.results)) }
    }
}

/// A valid module of `bytes`, which ends by itself. Where `canonical_nans`, no bit of a NaN is left to the engine.
pub fn looping(bytes: &[u8], canonical_nans: bool) -> Vec<u8> {
    program(bytes, canonical_nans, false)
}

/// A valid module of `bytes`, which ends by itself, with references to functions by their types, objects of the host, atomic operators, tables and
/// memories of all kinds, and functions of many parameters.
pub fn rich(bytes: &[u8], canonical_nans: bool) -> Vec<u8> {
    program(bytes, canonical_nans, true)
}

fn program(bytes: &[u8], canonical_nans: bool, is_rich: bool) -> Vec<u8> {
    let mut choices = Choices::new(bytes);
    let mut types = Types::default();
    let log = types.index(&[Ty::I64], &[Ty::I64]);
    let functions = (0..2 + choices.below(MAX_FUNCTIONS - 1)).map(|_| signature(&mut choices, is_rich)).collect();
    let operands_of_ifs = choices.once_in(2);
    let mut plan = Plan { functions, canonical_nans, operands_of_ifs, is_rich };
    let mut bodies: Vec<Finished> = Vec::new();
    for number in (0..plan.functions.len()).rev() {
        let finished = Body::new(&mut choices, &plan, &mut types, number).finish();
        plan.functions[number].cost = finished.cost;
        bodies.push(finished);
    }
    bodies.reverse();
    assemble(&plan, types, log, &bodies)
}

fn signature(choices: &mut Choices, is_rich: bool) -> Signature {
    // More than there are registers, now and then.
    let at_most = if is_rich && choices.once_in(3) { 30 } else { 3 };
    let mut any = |at_most: usize| -> Vec<Ty> { (0..choices.below(at_most + 1)).map(|_| Ty::ALL[choices.below(5)]).collect() };
    let mut params = vec![Ty::I32];
    params.extend(any(at_most));
    Signature { params, results: any(at_most), cost: MAX_COST + 1 }
}

fn assemble(plan: &Plan, mut types: Types, log: u32, bodies: &[Finished]) -> Vec<u8> {
    let (mut functions, mut code, mut exports) = (FunctionSection::new(), CodeSection::new(), ExportSection::new());
    let mut imports = ImportSection::new();
    imports.import("host", "log", EntityType::Function(log));
    if plan.is_rich {
        imports.import("host", "object", EntityType::Function(types.index_of(vec![ValType::I32], vec![ValType::EXTERNREF])));
        imports.import("host", "number", EntityType::Function(types.index_of(vec![ValType::EXTERNREF], vec![ValType::I64])));
    }
    for (number, (signature, body)) in plan.functions.iter().zip(bodies).enumerate() {
        functions.function(types.index(&signature.params, &signature.results));
        exports.export(&format!("f{number}"), ExportKind::Func, plan.index(number));
        let mut function = Function::new_with_locals_types(body.locals.iter().copied());
        for instruction in &body.code {
            function.instruction(instruction);
        }
        code.function(&function);
    }
    let count = plan.functions.len() as u64;
    let mut tables = TableSection::new();
    let places = count + EMPTY_PLACES;
    tables.table(TableType { element_type: RefType::FUNCREF, table64: false, minimum: places, maximum: Some(places), shared: false });
    let indices: Vec<u32> = (0..plan.functions.len()).map(|number| plan.index(number)).collect();
    let mut elements = ElementSection::new();
    elements.active(None, &ConstExpr::i32_const(0), Elements::Functions(indices.into()));
    let mut memories = MemorySection::new();
    for (number, memory) in plan.memories().iter().enumerate() {
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
    let (mut data_count, mut data) = (None, None);
    if plan.is_rich {
        for (number, signature) in plan.functions.iter().enumerate() {
            let reference = types.reference_to(signature, true);
            let (minimum, maximum) = (TYPED_ELEMENTS.0, Some(TYPED_ELEMENTS.1));
            tables.table(TableType { element_type: reference, table64: Plan::is_table64(number), minimum, maximum, shared: false });
            exports.export(&format!("t{number}"), ExportKind::Table, plan.typed_table(number));
            let itself = ConstExpr::ref_func(plan.index(number));
            let null = ConstExpr::ref_null(reference.heap_type);
            elements.passive(Elements::Expressions(reference, Cow::Owned(vec![itself.clone(), null, itself])));
        }
        let (minimum, maximum) = (OBJECTS.0, Some(OBJECTS.1));
        tables.table(TableType { element_type: RefType::EXTERNREF, table64: false, minimum, maximum, shared: false });
        exports.export("objects", ExportKind::Table, plan.object_table());
        let null = ConstExpr::ref_null(HeapType::EXTERN);
        globals.global(GlobalType { val_type: ValType::EXTERNREF, mutable: true, shared: false }, &null);
        exports.export("object", ExportKind::Global, plan.object_global());
        for (number, signature) in plan.functions.iter().enumerate() {
            let reference = types.reference_to(signature, true);
            let null = ConstExpr::ref_null(reference.heap_type);
            globals.global(GlobalType { val_type: ValType::Ref(reference), mutable: true, shared: false }, &null);
            exports.export(&format!("r{number}"), ExportKind::Global, plan.typed_global(number));
        }
        let mut section = DataSection::new();
        for bytes in DATA {
            section.passive(bytes.iter().copied());
        }
        (data_count, data) = (Some(DataCountSection { count: DATA.len() as u32 }), Some(section));
    }
    let mut module = Module::new();
    module.section(&types.section).section(&imports).section(&functions).section(&tables).section(&memories).section(&globals);
    module.section(&exports).section(&elements);
    if let Some(count) = &data_count {
        module.section(count);
    }
    module.section(&code);
    if let Some(data) = &data {
        module.section(data);
    }
    module.finish()
}
