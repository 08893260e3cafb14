//! Compiling one function: its state, the walk over its operators, and what is put at its end.

use crate::body::{Body, VectorReader};
use crate::control::Frame;
use crate::frame::MAX_FRAME_BYTES;
use crate::hotness::Stretch;
use crate::isa::machine::moves::Condition;
use crate::isa::machine::target::{self, Features};
use crate::masm::{Label, Masm};
use crate::registers::{NO_OWNER, Reg, RegSet, Registers};
use crate::scan::Scan;
use crate::values::{Local, Operand, Ty, parsed_type};
use peregrine_artifact::abi::{KEPT_LOCAL_BYTES, LONG_BODY_BYTES, MOST_KEPT_LOCALS, StubKind, has_homes_by_rank};
use peregrine_artifact::code_bounds::{CodeBounds, FUNCTION_CODE_BYTES};
use peregrine_artifact::compiler::{CompileError, Guidance};
use peregrine_artifact::func::CompiledFunc;
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_artifact::vmctx::VmLayout;
use peregrine_compile::tier::{FunctionCompiler, ModuleEnv};
use peregrine_wasm::{DefinedFuncIndex, Module, Trap, TypeIndex, ValType};

/// The most bytes of code of a function that is not compiled in the plain way.
const MAX_CODE_BYTES: u64 = 128 << 20;
/// The most bytes of code for each byte of a body, beyond what every function may have, if it is not compiled in the plain way. Programs have two.
/// Calls after which many locals are loaded again have fifty, heads of loops that look at the fuel a hundred.
const MAX_CODE_PER_BODY_BYTE: u64 = 64;

/// The most bytes of memory of one kind that are kept from one function to the next.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// What is put at the end of a function, because it is rarely executed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cold {
    /// A trap.
    Trap { label: Label, trap: Trap, offset: u32 },
    /// The engine fills in an element of a table, whose index is in `index`; the reference goes to `result`.
    InitElement { label: Label, back: Label, table: u32, index: Reg, result: Reg, live: RegSet, offset: u32 },
    /// A call went elsewhere than the first time: the cell of that number counts it.
    CountTarget { label: Label, back: Label, site: u32 },
    /// The engine is asked about fuel.
    OutOfFuel { label: Label, back: Label, live: RegSet, offset: u32 },
    /// A conversion of a float gave the one number that also stands for "no result": traps, or goes back if it is right.
    Convert { label: Label, back: Option<Label>, source: Reg, from: Ty, to_wide: bool, offset: u32 },
    /// A large frame is touched page by page.
    Probe { label: Label, back: Label },
    /// The engine is told that the function is hot.
    HotFunction { label: Label, back: Label },
    /// The engine is asked for code to go on with at the head of a loop; `offset` is that of the loop.
    HotLoop { label: Label, back: Label, offset: u32 },
}

/// Compiles the functions of one module on one thread.
pub(crate) struct Compiler<'m> {
    pub env: &'m ModuleEnv<'m>,
    pub module: &'m Module,
    pub layout: &'m VmLayout,
    pub settings: &'m Settings,
    /// Whether a function type or global has vectors.
    pub module_has_vectors: bool,
    /// What the processor has.
    pub features: Features,
    pub masm: Masm,
    pub scan: Scan,
    pub vector_reader: VectorReader,
    pub regs: Registers,
    pub stack: Vec<Operand>,
    /// All operands below this depth are constants or in their homes.
    pub flushed: usize,
    /// All homes of operands that are used are below this depth.
    pub max_depth: usize,
    /// The outcome of a comparison is on top of the stack.
    pub flags_pending: bool,
    /// The locals, up to `local_count`; only parameters and those that are used are those of this function.
    pub locals: Vec<Local>,
    pub local_count: usize,
    /// How many of them have homes.
    pub local_homes: usize,
    /// Types of locals: each holds up to the local of this number, from where the one before ends.
    pub local_types: Vec<(u32, Ty)>,
    /// The local that has a register.
    pub local_of: [u32; 32],
    /// Whether all locals are in their homes at any time, for core dumps.
    pub keeps_locals: bool,
    /// Whether nothing has a register for longer than an operator needs it: the body would become too much code otherwise.
    pub plain: bool,
    /// Whether that is so for every body.
    pub always_plain: bool,
    /// Homes have `1 << home_log2` bytes.
    pub home_log2: u32,
    /// What code of the functions of the module may become.
    pub code_bounds: CodeBounds,
    /// The most bytes of code that this body may become.
    pub max_code_bytes: u32,
    /// Whether the body is so long that an interruption is looked for at its entry.
    pub is_long: bool,
    /// Where in the body the last look for interruptions is, on each way to here, but for those of loops.
    pub last_look: u32,
    /// Where the innermost loop begins that is open here, which looks there; 0 without one.
    pub innermost_loop: u32,
    pub context_pin: Option<Reg>,
    pub base_pin: Option<Reg>,
    /// Registers of locals that the caller wants back.
    pub saved: RegSet,
    /// Registers of locals that calls destroy.
    pub volatile: RegSet,
    /// Those of `volatile` that hold their locals; the others were destroyed by a call, and the locals are in their homes.
    pub valid: RegSet,
    /// Those of `volatile` whose locals' homes are out of date.
    pub dirty: RegSet,
    pub control: Vec<Frame>,
    pub cold: Vec<Cold>,
    /// Whether the code at this place can be reached.
    pub reachable: bool,
    /// How many blocks were begun in unreachable code.
    pub skipped_blocks: u32,
    /// The offset of the operator in the body.
    pub offset: u32,
    /// The register and number of the local that the next operator writes.
    pub hint: Option<(Reg, u32)>,
    pub fuel: bool,
    /// Whether the function looks at the fuel where it is entered.
    pub looks_at_entry: bool,
    /// Fuel that was counted and not added yet.
    pub fuel_pending: i32,
    /// Whether budgets are counted down.
    pub counted: bool,
    /// Whether calls are to count where they go.
    pub record: bool,
    /// The calls of this function that do, by the offset of the operator.
    pub sites: Vec<u32>,
    /// The code that counts targets but the first one, if something needs it.
    pub count_target: Option<Label>,
    /// The body and the open loops in it, whose costs are counted. Empty if budgets are not counted.
    pub stretches: Vec<Stretch>,
    /// The code that asks for a loop entry and goes on with it, if there is a loop.
    pub loop_entry: Option<Label>,
    /// The function.
    pub function: DefinedFuncIndex,
    /// The type of the function.
    pub ty: TypeIndex,
    /// Bytes of arguments that the function pops.
    pub argument_bytes: u32,
    /// The most bytes below the frame for arguments and results of calls.
    pub max_outgoing_bytes: u32,
    /// Where the frame is made: the place of its size.
    pub frame_size_place: u32,
    /// What this tier has not, if the body asks for it.
    pub unsupported: Option<String>,
}

impl<'m> Compiler<'m> {
    /// A compiler for the module of `env`.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unsupported`] if there is no code for the target.
    pub(crate) fn new(env: &'m ModuleEnv<'m>) -> Result<Self, CompileError> {
        let module = &env.translation.module;
        let mut types = module.types.values().flat_map(|ty| ty.params.iter().chain(&ty.results));
        let module_has_vectors =
            types.any(|ty| *ty == ValType::V128) || module.globals.values().any(|global| global.ty.content == ValType::V128);
        Ok(Self {
            module_has_vectors,
            env,
            module: &env.translation.module,
            layout: &env.layout,
            settings: env.settings,
            features: target::features(env.settings)?,
            masm: Masm::default(),
            scan: Scan::default(),
            vector_reader: VectorReader::default(),
            regs: Registers::new(RegSet::EMPTY),
            stack: Vec::new(),
            flushed: 0,
            max_depth: 0,
            flags_pending: false,
            locals: Vec::new(),
            local_count: 0,
            local_homes: 0,
            local_types: Vec::new(),
            local_of: [u32::MAX; 32],
            keeps_locals: false,
            plain: false,
            always_plain: false,
            home_log2: 3,
            code_bounds: CodeBounds::of(&env.translation.module),
            max_code_bytes: 0,
            is_long: false,
            last_look: 0,
            innermost_loop: 0,
            context_pin: None,
            base_pin: None,
            saved: RegSet::EMPTY,
            volatile: RegSet::EMPTY,
            valid: RegSet::EMPTY,
            dirty: RegSet::EMPTY,
            control: Vec::new(),
            cold: Vec::new(),
            reachable: true,
            skipped_blocks: 0,
            offset: 0,
            hint: None,
            fuel: env.settings.fuel,
            looks_at_entry: false,
            fuel_pending: 0,
            counted: env.settings.tiering == Tiering::Counted,
            record: false,
            sites: Vec::new(),
            count_target: None,
            stretches: Vec::new(),
            loop_entry: None,
            function: DefinedFuncIndex::from_u32(0),
            ty: TypeIndex::from_u32(0),
            argument_bytes: 0,
            max_outgoing_bytes: 0,
            frame_size_place: 0,
            unsupported: None,
        })
    }

    fn clear(&mut self) {
        self.masm.clear();
        self.stack.clear();
        self.local_types.clear();
        self.control.clear();
        self.cold.clear();
        self.stretches.clear();
        self.sites.clear();
        (self.loop_entry, self.count_target) = (None, None);
        (self.flushed, self.max_depth, self.flags_pending, self.home_log2) = (0, 0, false, 3);
        (self.context_pin, self.base_pin) = (None, None);
        (self.reachable, self.skipped_blocks, self.offset, self.hint, self.fuel_pending) = (true, 0, 0, None, 0);
        (self.max_outgoing_bytes, self.unsupported) = (0, None);
        (self.last_look, self.innermost_loop) = (0, 0);
    }

    /// Reads how many locals there are of which types. What follows is only done for those that are used.
    fn declare_locals(&mut self, body: &wasmparser::FunctionBody<'_>) -> wasmparser::Result<()> {
        let params = &self.module.types[self.ty].params;
        let mut count = 0;
        for &ty in params {
            count += 1;
            self.local_types.push((count, Ty::from(ty)));
        }
        let mut reader = body.get_locals_reader()?;
        for _ in 0..reader.get_count() {
            let (more, ty) = reader.read()?;
            count += more;
            self.local_types.push((count, parsed_type(ty)));
        }
        self.local_count = count as usize;
        Ok(())
    }

    /// Forgets what the last function knew of the locals that this one uses, and of parameters.
    fn begin_locals(&mut self) {
        if self.locals.len() < self.local_count {
            self.locals.resize(self.local_count, Local { ty: Ty::I32, pin: None, operands: NO_OWNER, home: 0 });
        }
        let params = self.module.types[self.ty].params.len();
        for (index, &(_, ty)) in self.local_types[..params].iter().enumerate() {
            self.locals[index] = Local { ty, pin: None, operands: NO_OWNER, home: index as u32 };
        }
        let by_rank = has_homes_by_rank(self.local_count, self.settings.keeps_locals);
        if by_rank {
            self.scan.touched.sort_unstable();
        }
        for (rank, &index) in (0..).zip(&self.scan.touched) {
            let run = self.local_types.partition_point(|run| run.0 <= index);
            let home = if by_rank { rank } else { index };
            self.locals[index as usize] = Local { ty: self.local_types[run].1, pin: None, operands: NO_OWNER, home };
        }
        self.local_homes = if by_rank { self.scan.touched.len() } else { self.local_count };
    }

    /// The code of a function, made in the plain way if it is too much otherwise.
    fn compile(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        let body_bytes = self.env.translation.body_bytes(index).len() as u64;
        self.plain = false;
        self.max_code_bytes = MAX_CODE_BYTES.min(FUNCTION_CODE_BYTES + MAX_CODE_PER_BODY_BYTE * body_bytes) as u32;
        let made = if self.always_plain { Err(CompileError::Limit { message: String::new() }) } else { self.compile_once(index) };
        match made {
            Err(CompileError::Limit { .. }) => {
                self.plain = true;
                self.max_code_bytes = u32::try_from(self.code_bounds.function(body_bytes)).unwrap_or(u32::MAX);
                self.compile_once(index)
            }
            made => made,
        }
    }

    fn compile_once(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        self.clear();
        let translation = self.env.translation;
        self.function = index;
        self.ty = self.module.functions[self.module.func_index(index)].ty;
        let body = translation.body(index);
        let start = translation.bodies[index].start;
        let bytes = translation.body_bytes(index);
        let end = start + bytes.len();
        self.is_long = bytes.len() > LONG_BODY_BYTES;
        self.declare_locals(&body).map_err(malformed)?;
        self.looks_at_entry = self.fuel && translation.looks_at_fuel_at_entry(index).map_err(malformed)?;
        let operators = body.get_operators_reader().map_err(malformed)?;
        let first = usize::try_from(operators.original_position()).unwrap_or(end);
        self.scan.run(&bytes[first - start..], self.local_count);
        self.begin_locals();
        let has_vectors = self.module_has_vectors || self.scan.vectors || self.local_types.iter().any(|run| run.1 == Ty::V128);
        self.keeps_locals = self.settings.keeps_locals && self.local_count <= MOST_KEPT_LOCALS;
        self.home_log2 = if has_vectors || self.keeps_locals { KEPT_LOCAL_BYTES.ilog2() } else { 3 };
        self.plan_registers();

        self.masm.address_here(0);
        self.prologue();
        self.enter_function((first - start) as u32);
        let mut body = Body::new(&bytes[first - start..]);
        while !body.is_at_end() {
            self.offset = (first - start + body.position()) as u32;
            let opcode = body.byte();
            if self.reachable {
                self.visit(opcode, &mut body);
            } else {
                self.visit_unreachable(opcode, &mut body);
            }
            self.check_code_bytes(self.masm.position() as usize)?;
            if self.stack.len() > MAX_FRAME_BYTES as usize >> self.home_log2 {
                return Ok(self.overflowing());
            }
            if self.unsupported.is_some() {
                return Err(CompileError::Unsupported { message: self.unsupported.take().unwrap_or_default() });
            }
        }
        self.finish()
    }

    fn finish(&mut self) -> Result<CompiledFunc, CompileError> {
        let frame_bytes = self.frame_bytes();
        if frame_bytes > MAX_FRAME_BYTES {
            return Ok(self.overflowing());
        }
        self.finish_prologue(frame_bytes as u32);
        let cold = std::mem::take(&mut self.cold);
        for path in &cold {
            self.cold_path(path);
            self.check_code_bytes(self.masm.position() as usize)?;
        }
        self.cold = cold;
        if let Some(label) = self.loop_entry {
            self.masm.bind(label);
            self.enter_loop();
        }
        if let Some(label) = self.count_target {
            self.masm.bind(label);
            self.count_other_target();
        }
        let made = self.masm.finish(target::PADDING);
        // With tables of branches and constants.
        self.check_code_bytes(made.code.len())?;
        Ok(CompiledFunc { sites: self.sites.clone(), ..made })
    }

    /// Whether so much code is within the bound of the body.
    fn check_code_bytes(&self, code_bytes: usize) -> Result<(), CompileError> {
        let most = self.max_code_bytes;
        if code_bytes as u64 <= u64::from(most) {
            return Ok(());
        }
        let body_bytes = self.env.translation.body_bytes(self.function).len();
        let message = format!("a function body of {body_bytes} bytes becomes more than {most} bytes of code");
        Err(CompileError::Limit { message })
    }

    /// The code of a function whose frame no stack has room for: each call of it finds that.
    fn overflowing(&mut self) -> CompiledFunc {
        self.clear();
        self.begin_frame();
        self.trap(Trap::StackOverflow);
        self.masm.finish(target::PADDING)
    }

    fn cold_path(&mut self, path: &Cold) {
        match *path {
            Cold::Trap { label, trap, offset } => {
                self.masm.bind(label);
                self.offset = offset;
                self.trap(trap);
            }
            Cold::InitElement { label, back, table, index, result, live, offset } => {
                self.masm.bind(label);
                self.offset = offset;
                self.cold_init_element(table, index, result, live);
                self.masm.jmp(back);
            }
            Cold::CountTarget { label, back, site } => {
                self.masm.bind(label);
                self.cold_count_target(site);
                self.masm.jmp(back);
            }
            Cold::OutOfFuel { label, back, live, offset } => {
                self.masm.bind(label);
                self.offset = offset;
                self.cold_out_of_fuel(live);
                self.masm.jmp(back);
            }
            Cold::Convert { label, back, source, from, to_wide, offset } => {
                self.masm.bind(label);
                self.offset = offset;
                self.cold_convert(source, from, to_wide, back);
            }
            Cold::Probe { label, back } => {
                self.masm.bind(label);
                // Before the first operator, wherever this is.
                self.masm.address_here(0);
                self.cold_probe(self.frame_bytes() as u32);
                self.masm.jmp(back);
            }
            Cold::HotFunction { label, back } => {
                self.masm.bind(label);
                self.cold_hot_function();
                self.masm.jmp(back);
            }
            Cold::HotLoop { label, back, offset } => {
                self.masm.bind(label);
                self.cold_hot_loop(offset);
                self.masm.jmp(back);
            }
        }
    }

    /// Gives back what large functions took: several compilers are kept for each module.
    fn give_back_memory(&mut self) {
        fn shrink<T>(list: &mut Vec<T>) {
            if list.capacity() * size_of::<T>() > MAX_KEPT_BYTES {
                *list = Vec::new();
            }
        }
        self.masm.give_back_memory();
        shrink(&mut self.stack);
        shrink(&mut self.locals);
        shrink(&mut self.local_types);
        shrink(&mut self.control);
        shrink(&mut self.cold);
        shrink(&mut self.stretches);
        shrink(&mut self.sites);
        self.scan.give_back_memory(MAX_KEPT_BYTES);
    }

    /// Notes that the body asks for what there is not.
    pub(crate) fn refuse(&mut self, what: String) {
        self.unsupported = Some(what);
    }

    /// A condition's opposite; so that files without knowledge of the processor can say it.
    pub(crate) fn opposite(condition: Condition) -> Condition {
        condition.inverted()
    }
}

fn malformed(error: wasmparser::BinaryReaderError) -> CompileError {
    CompileError::invalid(error.message(), usize::try_from(error.offset()).unwrap_or(usize::MAX))
}

impl FunctionCompiler for Compiler<'_> {
    fn guide(&mut self, guidance: &Guidance) {
        self.record = guidance.record && self.counted;
    }

    fn function(&mut self, index: DefinedFuncIndex) -> Result<CompiledFunc, CompileError> {
        let made = self.compile(index);
        self.give_back_memory();
        made
    }

    fn stub(&mut self, kind: StubKind, ty: TypeIndex) -> Result<CompiledFunc, CompileError> {
        self.clear();
        match kind {
            StubKind::Enter => self.enter_stub(ty),
            StubKind::Exit => self.exit_stub(ty),
        }
        Ok(self.masm.finish(target::PADDING))
    }
}
