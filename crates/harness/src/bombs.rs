//! Hostile modules: small inputs that cost a compiler which is careless somewhere minutes or gigabytes.
//!
//! Each is a function from nothing to the bytes of a valid module. The `bombs` program compiles them one by one, each in a process of its
//! own, and holds their cost against the limits.

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, EntityType, ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType,
    ImportSection, Instruction, MemArg, MemArgTarget, MemorySection, MemoryType, Module, RefType, TableSection, TableType, TypeSection,
    ValType,
};

/// One hostile module.
pub struct Bomb {
    /// A name for reports.
    pub name: &'static str,
    /// Makes the module.
    pub make: fn() -> Vec<u8>,
    /// Processor time that compiling it may take.
    pub max_cpu_seconds: f64,
}

/// What any module of up to 1 MB may cost.
const USUAL_CPU_SECONDS: f64 = 2.0;
/// What the million functions may cost.
const MILLION_CPU_SECONDS: f64 = 10.0;

/// All of them.
pub const BOMBS: &[Bomb] = &[
    usual("nested-loops-300-locals", nested_loops),
    usual("loop-50000-locals", loop_with_many_locals),
    Bomb { name: "million-functions", make: million_functions, max_cpu_seconds: MILLION_CPU_SECONDS },
    usual("million-const-additions", const_additions),
    usual("nested-blocks-100000", nested_blocks),
    usual("nested-ifs-30000", nested_ifs),
    usual("br-table-500000-targets", huge_br_table),
    usual("br-tables-700x700", many_br_tables),
    usual("many-locals-many-functions", many_locals_many_functions),
    usual("block-results-900x300", wide_blocks),
    usual("loop-params-900x300", wide_loops),
    usual("br-if-with-100-values", branches_with_values),
    usual("operand-stack-300000", deep_operand_stack),
    usual("calls-with-1000-arguments", wide_calls),
    usual("straight-line-adds", straight_line),
    usual("v128-constants", vector_constants),
    usual("dependent-loads", dependent_loads),
    usual("call-indirects", indirect_calls),
    usual("selects", selects),
    usual("many-types", many_types),
    usual("many-imports", many_imports),
    usual("many-exports", many_exports),
    usual("many-globals", many_globals),
    usual("huge-table", huge_table),
    usual("small-loops", small_loops),
    usual("memory-grows", memory_grows),
    usual("types-with-1000-params", wide_types),
    usual("tee-chain", tee_chain),
    usual("calls-with-many-results", calls_with_results),
    usual("if-else-with-locals", if_else_with_locals),
    usual("loops-with-locals-in-a-row", loops_in_a_row),
    usual("loops-5000-by-5000-locals", loops_by_locals),
    usual("80-functions-of-1000-loops", functions_of_loops),
    usual("call-indirects-in-many-functions", scattered_indirect_calls),
    usual("memory-grows-in-many-functions", scattered_memory_grows),
    usual("calls-of-1000-mixed-values", calls_of_mixed_values),
    usual("returns-of-1000-mixed-values", returns_of_mixed_values),
];

const fn usual(name: &'static str, make: fn() -> Vec<u8>) -> Bomb {
    Bomb { name, make, max_cpu_seconds: USUAL_CPU_SECONDS }
}

/// Bytes of memory that compiling `wasm` may take, the process included.
pub fn max_memory_bytes(wasm: &[u8]) -> u64 {
    100 * wasm.len() as u64 + (50 << 20)
}

/// A module of functions of one type each, with a memory and a table.
struct Builder {
    types: TypeSection,
    functions: FunctionSection,
    code: CodeSection,
    type_count: u32,
}

impl Builder {
    fn new() -> Self {
        Self { types: TypeSection::new(), functions: FunctionSection::new(), code: CodeSection::new(), type_count: 0 }
    }

    fn ty(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        self.types.ty().function(params.iter().copied(), results.iter().copied());
        self.type_count += 1;
        self.type_count - 1
    }

    fn function(&mut self, ty: u32, locals: u32, body: &[Instruction<'_>]) {
        self.functions.function(ty);
        let mut function = Function::new((locals > 0).then_some((locals, ValType::I32)));
        for instruction in body {
            function.instruction(instruction);
        }
        function.instruction(&Instruction::End);
        self.code.function(&function);
    }

    fn finish(self) -> Vec<u8> {
        let mut tables = TableSection::new();
        tables.table(TableType { element_type: RefType::FUNCREF, table64: false, minimum: 10, maximum: None, shared: false });
        let mut memories = MemorySection::new();
        memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
        let mut module = Module::new();
        module.section(&self.types).section(&self.functions).section(&tables).section(&memories).section(&self.code);
        module.finish()
    }
}

/// Stores what is on the operand stack, so that what made it is not dead code. The address comes first.
const STORE: Instruction<'static> = Instruction::I32Store(MemArg { offset: 0, align: 2, target: MemArgTarget::Memory(0), ordering: None });

/// One function with so many `i32` locals. The first hundred are parameters, so that compilers cannot know that they are zero.
fn single(locals: u32, body: &[Instruction<'_>]) -> Vec<u8> {
    let mut builder = Builder::new();
    let params = locals.min(100);
    let ty = builder.ty(&vec![ValType::I32; params as usize], &[]);
    builder.function(ty, locals - params, body);
    builder.finish()
}

fn add_one(local: u32) -> [Instruction<'static>; 4] {
    [Instruction::LocalGet(local), Instruction::I32Const(1), Instruction::I32Add, Instruction::LocalSet(local)]
}

fn nested_loops() -> Vec<u8> {
    let mut body = vec![Instruction::Loop(BlockType::Empty); 500];
    for local in 0..300 {
        body.extend(add_one(local));
    }
    for depth in 0..500 {
        body.extend([Instruction::LocalGet(depth % 300), Instruction::BrIf(0), Instruction::End]);
    }
    single(300, &body)
}

fn loop_with_many_locals() -> Vec<u8> {
    let mut body = vec![Instruction::Loop(BlockType::Empty)];
    for local in 0..49_999 {
        body.extend([Instruction::LocalGet(local), Instruction::LocalSet(local + 1)]);
    }
    body.extend([Instruction::LocalGet(7), Instruction::BrIf(0), Instruction::End]);
    single(50_000, &body)
}

fn million_functions() -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&[], &[]);
    for _ in 0..1_000_000 {
        builder.function(ty, 0, &[]);
    }
    builder.finish()
}

fn const_additions() -> Vec<u8> {
    let mut expression = vec![0x41, 0x01];
    for _ in 0..1_000_000 {
        expression.extend([0x41, 0x01, 0x6a]);
    }
    let mut globals = GlobalSection::new();
    globals.global(GlobalType { val_type: ValType::I32, mutable: false, shared: false }, &ConstExpr::raw(expression));
    let mut module = Module::new();
    module.section(&globals);
    module.finish()
}

fn nested_blocks() -> Vec<u8> {
    let mut body = vec![Instruction::Block(BlockType::Empty); 100_000];
    body.push(Instruction::Nop);
    body.extend(vec![Instruction::End; 100_000]);
    single(1, &body)
}

fn nested_ifs() -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..30_000 {
        body.extend([Instruction::LocalGet(0), Instruction::If(BlockType::Empty)]);
        body.extend(add_one(1));
        body.push(Instruction::Else);
    }
    body.extend(vec![Instruction::End; 30_000]);
    single(2, &body)
}

fn huge_br_table() -> Vec<u8> {
    let targets: Vec<u32> = (0..500_000).map(|target| target % 100).collect();
    let mut body = vec![Instruction::Block(BlockType::Empty); 100];
    body.extend([Instruction::LocalGet(0), Instruction::BrTable(targets.into(), 0)]);
    for _ in 0..100 {
        body.push(Instruction::End);
        body.extend(add_one(0));
    }
    single(1, &body)
}

fn many_br_tables() -> Vec<u8> {
    let targets: Vec<u32> = (0..700).collect();
    let mut body = vec![Instruction::Block(BlockType::Empty); 701];
    for _ in 0..700 {
        body.extend([Instruction::Block(BlockType::Empty), Instruction::LocalGet(0)]);
        body.extend([Instruction::BrTable(targets.clone().into(), 0), Instruction::End]);
    }
    for _ in 0..701 {
        body.push(Instruction::End);
        body.extend(add_one(0));
    }
    single(1, &body)
}

fn many_locals_many_functions() -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&[], &[]);
    for _ in 0..50_000 {
        builder.function(ty, 50_000, &[Instruction::I32Const(0), Instruction::LocalGet(49_999), STORE]);
    }
    builder.finish()
}

fn wide_blocks() -> Vec<u8> {
    wide(|ty| Instruction::Block(BlockType::FunctionType(ty)))
}

fn wide_loops() -> Vec<u8> {
    wide(|ty| Instruction::Loop(BlockType::FunctionType(ty)))
}

fn wide(open: fn(u32) -> Instruction<'static>) -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&[], &[]);
    let wide = builder.ty(&[ValType::I32; 900], &[ValType::I32; 900]);
    let mut body = vec![Instruction::LocalGet(0); 900];
    for _ in 0..300 {
        body.push(open(wide));
        body.extend([Instruction::LocalGet(0), Instruction::BrIf(0)]);
    }
    body.extend(vec![Instruction::End; 300]);
    body.extend(vec![Instruction::Drop; 900]);
    builder.function(ty, 1, &body);
    builder.finish()
}

fn branches_with_values() -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&[], &[]);
    let results = builder.ty(&[], &[ValType::I32; 100]);
    let mut body = vec![Instruction::Block(BlockType::FunctionType(results))];
    body.extend(vec![Instruction::LocalGet(0); 100]);
    for _ in 0..100_000 {
        body.extend([Instruction::LocalGet(0), Instruction::BrIf(0)]);
    }
    body.push(Instruction::End);
    body.extend(vec![Instruction::Drop; 100]);
    builder.function(ty, 1, &body);
    builder.finish()
}

fn deep_operand_stack() -> Vec<u8> {
    let mut body = vec![Instruction::I32Const(0)];
    for _ in 0..300_000 {
        body.push(Instruction::LocalGet(0));
    }
    body.extend(vec![Instruction::I32Add; 299_999]);
    body.push(STORE);
    single(1, &body)
}

fn wide_calls() -> Vec<u8> {
    let mut builder = Builder::new();
    let wide = builder.ty(&[ValType::I32; 1000], &[]);
    let mut body = Vec::new();
    for _ in 0..400 {
        body.extend((0..1000).map(Instruction::LocalGet));
        body.push(Instruction::Call(0));
    }
    builder.function(wide, 0, &body);
    builder.finish()
}

fn straight_line() -> Vec<u8> {
    let mut body = vec![Instruction::I32Const(0), Instruction::LocalGet(0)];
    for local in 0..240_000 {
        body.extend([Instruction::LocalGet(local % 8), Instruction::I32Add]);
    }
    body.push(STORE);
    single(8, &body)
}

fn vector_constants() -> Vec<u8> {
    let mut body = Vec::new();
    for number in 0..45_000i128 {
        body.extend([Instruction::I32Const(0), Instruction::V128Const(number << 64 | number)]);
        body.push(Instruction::V128Store(MemArg { offset: 0, align: 0, target: MemArgTarget::Memory(0), ordering: None }));
    }
    single(0, &body)
}

fn dependent_loads() -> Vec<u8> {
    let mut body = vec![Instruction::LocalGet(0)];
    body.extend(vec![Instruction::I32Load(MemArg { offset: 0, align: 2, target: MemArgTarget::Memory(0), ordering: None }); 300_000]);
    body.push(Instruction::Drop);
    single(1, &body)
}

fn indirect_calls() -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&[ValType::I32], &[]);
    let called = builder.ty(&[], &[]);
    let mut body = Vec::new();
    for _ in 0..180_000 {
        body.extend([Instruction::LocalGet(0), Instruction::CallIndirect { type_index: called, table_index: 0 }]);
    }
    builder.function(ty, 0, &body);
    builder.finish()
}

fn selects() -> Vec<u8> {
    let mut body = vec![Instruction::I32Const(0), Instruction::LocalGet(0)];
    for local in 0..180_000 {
        body.extend([Instruction::LocalGet(local % 4), Instruction::LocalGet(0), Instruction::Select]);
    }
    body.push(STORE);
    single(4, &body)
}

fn many_types() -> Vec<u8> {
    let mut builder = Builder::new();
    let numbers = [ValType::I32, ValType::I64, ValType::F32, ValType::F64];
    for number in 0..60_000usize {
        let params: Vec<ValType> = (0..8).map(|place| numbers[number >> (2 * place) & 3]).collect();
        builder.ty(&params, &[]);
    }
    builder.function(0, 0, &[]);
    builder.finish()
}

fn many_imports() -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], []);
    let mut imports = ImportSection::new();
    for number in 0..80_000 {
        imports.import("m", &format!("{number}"), EntityType::Function(0));
    }
    let mut module = Module::new();
    module.section(&types).section(&imports);
    module.finish()
}

fn many_exports() -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut exports = ExportSection::new();
    for number in 0..80_000 {
        exports.export(&format!("{number}"), ExportKind::Func, 0);
    }
    let mut code = CodeSection::new();
    let mut function = Function::new([]);
    function.instruction(&Instruction::End);
    code.function(&function);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&exports).section(&code);
    module.finish()
}

fn many_globals() -> Vec<u8> {
    let mut globals = GlobalSection::new();
    for number in 0..150_000 {
        globals.global(GlobalType { val_type: ValType::I32, mutable: true, shared: false }, &ConstExpr::i32_const(number));
    }
    let mut module = Module::new();
    module.section(&globals);
    module.finish()
}

fn huge_table() -> Vec<u8> {
    let mut tables = TableSection::new();
    tables.table(TableType { element_type: RefType::FUNCREF, table64: false, minimum: 10_000_000, maximum: None, shared: false });
    let mut module = Module::new();
    module.section(&tables);
    module.finish()
}

fn small_loops() -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..50_000 {
        body.push(Instruction::Loop(BlockType::Empty));
        body.extend(add_one(0));
        body.extend([Instruction::LocalGet(1), Instruction::BrIf(0), Instruction::End]);
    }
    single(20, &body)
}

fn memory_grows() -> Vec<u8> {
    let mut body = vec![Instruction::LocalGet(0)];
    body.extend(vec![Instruction::MemoryGrow(0); 200_000]);
    body.push(Instruction::Drop);
    single(1, &body)
}

fn wide_types() -> Vec<u8> {
    let mut builder = Builder::new();
    let numbers = [ValType::I32, ValType::I64, ValType::F32, ValType::F64];
    for number in 0..900usize {
        let params: Vec<ValType> = (0..1000).map(|place| numbers[(number >> (2 * (place % 6)) & 3 ^ place) & 3]).collect();
        let ty = builder.ty(&params, &[]);
        builder.function(ty, 0, &[]);
    }
    builder.finish()
}

fn tee_chain() -> Vec<u8> {
    let mut body = vec![Instruction::LocalGet(0)];
    for local in 0..200_000 {
        body.extend([Instruction::LocalTee(local % 200), Instruction::LocalGet((local + 7) % 200), Instruction::I32Add]);
    }
    body.push(Instruction::Drop);
    single(200, &body)
}

fn calls_with_results() -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&[], &[]);
    let many = builder.ty(&[], &[ValType::I32; 1000]);
    let mut results = vec![Instruction::I32Const(1); 1000];
    builder.function(many, 0, &results);
    results.clear();
    for _ in 0..900 {
        results.push(Instruction::Call(0));
        results.extend(vec![Instruction::Drop; 1000]);
    }
    builder.function(ty, 0, &results);
    builder.finish()
}

fn if_else_with_locals() -> Vec<u8> {
    let mut body = Vec::new();
    for turn in 0..30_000 {
        body.extend([Instruction::LocalGet(turn % 500), Instruction::If(BlockType::Empty)]);
        body.extend(add_one(turn % 499));
        body.push(Instruction::Else);
        body.extend(add_one((turn + 250) % 500));
        body.push(Instruction::End);
    }
    single(500, &body)
}

fn loops_in_a_row() -> Vec<u8> {
    let mut body = Vec::new();
    for turn in 0..30_000 {
        body.push(Instruction::Loop(BlockType::Empty));
        body.extend([Instruction::LocalGet(turn % 1000), Instruction::LocalSet((turn + 1) % 1000)]);
        body.extend([Instruction::LocalGet((turn + 2) % 1000), Instruction::BrIf(0), Instruction::End]);
    }
    single(1000, &body)
}

fn loops_by_locals() -> Vec<u8> {
    let mut body = vec![Instruction::Loop(BlockType::Empty); 5000];
    for local in 0..5000 {
        body.extend(add_one(local));
    }
    for depth in 0..5000 {
        body.extend([Instruction::LocalGet(depth), Instruction::BrIf(0), Instruction::End]);
    }
    single(5000, &body)
}

fn functions_of_loops() -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&[ValType::I32; 20], &[]);
    let mut body = Vec::new();
    for _ in 0..1000 {
        body.push(Instruction::Loop(BlockType::Empty));
        body.extend([Instruction::LocalGet(0), Instruction::LocalSet(2)]);
        body.extend([Instruction::LocalGet(1), Instruction::BrIf(0), Instruction::End]);
    }
    for _ in 0..80 {
        builder.function(ty, 0, &body);
    }
    builder.finish()
}

/// As many functions of `body` as make a megabyte: small ones, whose fixed cost counts most.
fn scattered(functions: u32, body: &[Instruction<'_>]) -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&[ValType::I32], &[]);
    builder.ty(&[], &[]);
    for _ in 0..functions {
        builder.function(ty, 0, body);
    }
    builder.finish()
}

fn scattered_indirect_calls() -> Vec<u8> {
    scattered(100_000, &[Instruction::LocalGet(0), Instruction::CallIndirect { type_index: 1, table_index: 0 }])
}

fn scattered_memory_grows() -> Vec<u8> {
    scattered(100_000, &[Instruction::LocalGet(0), Instruction::MemoryGrow(0), Instruction::Drop])
}

/// A thousand values, of which the sizes alternate.
fn mixed() -> Vec<ValType> {
    [ValType::I32, ValType::V128].repeat(500)
}

/// A function of those values that repeats operators thirty thousand times.
fn of_mixed_values(repeated: &[Instruction<'_>]) -> Vec<u8> {
    let mut builder = Builder::new();
    let ty = builder.ty(&mixed(), &mixed());
    let mut body: Vec<Instruction<'_>> = (0..1000).map(Instruction::LocalGet).collect();
    for _ in 0..30_000 {
        body.extend_from_slice(repeated);
    }
    builder.function(ty, 0, &body);
    builder.finish()
}

fn calls_of_mixed_values() -> Vec<u8> {
    of_mixed_values(&[Instruction::Call(0)])
}

fn returns_of_mixed_values() -> Vec<u8> {
    of_mixed_values(&[Instruction::LocalGet(0), Instruction::BrIf(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_small_and_named_once() {
        for (at, bomb) in BOMBS.iter().enumerate() {
            assert!(BOMBS[..at].iter().all(|other| other.name != bomb.name), "{}", bomb.name);
            let len_bytes = (bomb.make)().len();
            assert!(len_bytes <= 6 << 20, "{}: {len_bytes} bytes", bomb.name);
        }
    }
}
