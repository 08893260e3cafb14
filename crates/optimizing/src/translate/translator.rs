//! The translator of one body: its state, and the loop over the operators, which sends each to the file of its family.
//!
//! Bodies are valid: what validation guarantees (types and depths of operands, indices in range) is relied on.

use super::metering::Metering;
use super::stack::OperandStack;
use crate::abi;
use crate::budget::{Budget, Mode};
use crate::isa::has_fuel_register;
use cranelift_codegen::ir::{Block, FuncRef, Function, InstBuilder, SigRef, SourceLoc, Value, types::I64};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use peregrine_artifact::builtins::Builtin;
use peregrine_artifact::compiler::{CompileError, LoopEntry};
use peregrine_artifact::profile::Feedback;
use peregrine_artifact::settings::Settings;
use peregrine_artifact::vmctx::{VmContextHeader, VmLayout};
use peregrine_compile::tier::ModuleEnv;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, Module, TypeIndex};
use std::collections::HashMap;
use std::mem::offset_of;
use target_lexicon::Architecture;
use wasmparser::Operator;

use super::control::{Frame, OpenLoop};
use super::entry::Arrival;
use super::flags::Region;
use super::guesses::Guesses;
use super::locals::Locals;

/// What a translation is made from.
pub(crate) struct FunctionInput<'a> {
    /// The module and the settings.
    pub env: &'a ModuleEnv<'a>,
    /// What code is made for.
    pub isa: &'a dyn TargetIsa,
    /// Which body.
    pub index: DefinedFuncIndex,
    /// How.
    pub mode: Mode,
    /// The loop at whose head it is entered, instead of at its start.
    pub entry: Option<LoopEntry>,
    /// How the functions ran, if that is known.
    pub feedback: Option<&'a dyn Feedback>,
    /// How much memory compiling it may take.
    pub max_bytes: u64,
}

/// What is known of a finished translation beside its CLIF.
#[derive(Debug, Default)]
pub(crate) struct Translated {
    /// The blocks at whose start pending interruptions may be looked for, and their places in the body: the headers of loops, and calls in the
    /// midst of long code.
    pub looks: Vec<(Block, SourceLoc)>,
    /// Headers of loops that have to look for calls which are in the loop, as written, and far from what looks before it: each with the place of
    /// such a call. It may be on a way out, and so in no loop that the passes see.
    pub relied_on: Vec<(Block, SourceLoc)>,
    /// Whether the function calls wasm functions.
    pub calls: bool,
    /// Whether it calls them elsewhere than in loops. If not, whatever goes on for long gets to the header of a loop.
    pub calls_outside_loops: bool,
    /// What the function does last before its first operator, if it keeps locals: it says that they are there.
    pub kept_from: Option<cranelift_codegen::ir::Inst>,
    /// Bytes of memory that compiling it takes, roughly.
    pub memory_bytes: u64,
}

/// Why there is no translation.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// Too costly in this mode.
    Budget,
    /// For good.
    Error(CompileError),
}

impl From<wasmparser::BinaryReaderError> for Stopped {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Error(CompileError::invalid(error.message(), usize::try_from(error.offset()).unwrap_or(usize::MAX)))
    }
}

/// The state of one translation.
pub(crate) struct Translator<'a, 'b> {
    /// Where instructions are appended.
    pub builder: FunctionBuilder<'b>,
    pub(super) env: &'a ModuleEnv<'a>,
    pub(super) module: &'a Module,
    pub(super) layout: &'a VmLayout,
    pub(super) isa: &'a dyn TargetIsa,
    pub(super) mode: Mode,
    /// The context of the instance.
    pub(super) vmctx: Value,
    pub(super) stack: OperandStack,
    pub(super) control: Vec<Frame>,
    /// Those of the frames that are loops, which look where they begin.
    pub(super) open_loops: Vec<OpenLoop>,
    /// Where in the body the last look for interruptions is, on each way to here, but for those of loops.
    pub(super) last_look: u32,
    /// Whether the code at this place can be reached.
    pub(super) reachable: bool,
    /// How many blocks were begun in unreachable code.
    pub(super) skipped_blocks: u32,
    pub(super) locals: Locals,
    /// Where it is entered, if not at its start.
    pub(super) arrival: Option<Arrival>,
    pub(super) budget: Budget,
    pub(super) metering: Metering,
    pub(super) translated: Translated,
    /// How the functions ran, and how this one did.
    pub(super) guesses: Guesses<'a>,
    /// The function.
    pub(super) own_index: FuncIndex,
    /// Its type.
    pub(super) ty: TypeIndex,
    /// Branch hints of this function that are still ahead.
    pub(super) hints: &'a [(u32, bool)],
    /// The offset of the operator in the body.
    pub(super) offset: u32,
    pub(super) signatures: HashMap<TypeIndex, SigRef>,
    pub(super) functions: HashMap<FuncIndex, FuncRef>,
    builtin_signatures: HashMap<u32, SigRef>,
    /// How many operations of [`super::short`] have a length known at run time.
    pub(super) short_sites: u32,
    /// What this tier has not, if the body asks for it.
    pub(super) unsupported: Option<String>,
}

/// Translates a body into `func`, which is empty.
///
/// # Errors
///
/// [`Stopped`]; `func` and `context` are in no good state then.
pub(crate) fn translate(
    input: &FunctionInput<'_>,
    func: &mut Function,
    context: &mut FunctionBuilderContext,
) -> Result<Translated, Stopped> {
    let module = &input.env.translation.module;
    let func_index = module.func_index(input.index);
    let ty = module.functions[func_index].ty;
    func.signature = match input.entry {
        None => abi::wasm_signature(&module.types[ty]),
        Some(_) => abi::loop_entry_signature(&module.types[ty]),
    };

    let mut builder = FunctionBuilder::new(func, context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let vmctx = builder.block_params(entry)[0];
    let arrival = input.entry.map(|entry| Arrival::begin(input, entry, &mut builder)).transpose()?;
    let hints = input.env.translation.function_branch_hints(func_index);

    let translator = Translator {
        builder,
        env: input.env,
        module,
        layout: &input.env.layout,
        isa: input.isa,
        mode: input.mode,
        vmctx,
        stack: OperandStack::default(),
        control: Vec::new(),
        open_loops: Vec::new(),
        last_look: 0,
        reachable: true,
        skipped_blocks: 0,
        locals: Locals::default(),
        arrival,
        budget: Budget::new(input.mode, input.max_bytes),
        metering: Metering::new(input.env.settings.fuel, has_fuel_register(input.isa.triple().architecture)),
        translated: Translated::default(),
        guesses: Guesses::new(input),
        own_index: func_index,
        ty,
        hints,
        offset: 0,
        signatures: HashMap::new(),
        functions: HashMap::new(),
        builtin_signatures: HashMap::new(),
        short_sites: 0,
        unsupported: None,
    };
    translator.run(input)
}

impl<'a> Translator<'a, '_> {
    fn run(mut self, input: &FunctionInput<'a>) -> Result<Translated, Stopped> {
        let body = self.env.translation.body(input.index);
        let start = self.env.translation.bodies[input.index].start as u64;
        if abi::has_vectors(&self.module.types[self.ty]) {
            self.require_vectors();
        }
        self.builder.set_srcloc(SourceLoc::new(0));
        self.declare_locals(body.get_locals_reader()?, input.index)?;
        self.enter_function();
        self.meter_entry(input.index)?;

        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let (op, position) = operators.read_with_offset()?;
            self.offset = (position - start) as u32;
            if self.reachable {
                self.builder.set_srcloc(SourceLoc::new(self.offset));
                self.meter(&op);
                self.operator(&op);
            } else {
                self.unreachable_operator(&op);
            }
            if self.budget.is_spent(self.builder.func.dfg.num_insts()) {
                return Err(Stopped::Budget);
            }
            if let Some(message) = self.unsupported.take() {
                return Err(Stopped::Error(CompileError::Unsupported { message }));
            }
        }
        if let Some(arrival) = &self.arrival {
            arrival.check_arrived()?;
        }
        let body_bytes = self.env.translation.body_bytes(input.index).len() as u64;
        self.finish(body_bytes)
    }

    fn finish(mut self, body_bytes: u64) -> Result<Translated, Stopped> {
        for (slot, bytes) in [self.stack.frame(), self.locals.frame()].into_iter().flatten() {
            if bytes > i32::MAX as u64 / 2 {
                return Err(Stopped::Error(CompileError::Limit { message: format!("a frame of {bytes} bytes") }));
            }
            self.builder.func.sized_stack_slots[slot].size = bytes.max(1) as u32;
        }
        let dfg = &self.builder.func.dfg;
        let too_large = Budget::is_too_large(dfg.num_values(), dfg.num_blocks()) || self.budget.has_too_many_elements(body_bytes);
        if self.mode == Mode::Optimized && too_large {
            return Err(Stopped::Budget);
        }
        self.translated.memory_bytes = self.budget.memory_bytes(dfg.num_insts());
        let config = self.isa.frontend_config();
        self.builder.finalize(config);
        Ok(self.translated)
    }

    /// Translates one operator in reachable code.
    fn operator(&mut self, op: &Operator<'_>) {
        let done = self.locals(op)
            || self.numeric(op)
            || self.memory(op)
            || self.control(op)
            || self.calls(op)
            || self.globals(op)
            || self.vectors(op)
            || self.references(op)
            || self.table(op)
            || self.bulk(op)
            || self.atomics(op);
        if !done {
            self.unsupported = Some(format!("the instruction {op:?}, at offset {:#x} of a body", self.offset));
        }
    }

    fn vectors(&mut self, op: &Operator<'_>) -> bool {
        let done = self.simd(op);
        if done {
            self.require_vectors();
        }
        done
    }

    /// Notes that the body needs registers for vectors.
    pub(super) fn require_vectors(&mut self) {
        if matches!(self.architecture(), Architecture::Riscv64(_)) && !self.has_cpu_feature("has_v") {
            self.unsupported = Some(String::from("vectors on a riscv64 processor without the V extension"));
        }
    }

    /// What code depends on.
    pub(crate) fn settings(&self) -> &'a Settings {
        self.env.settings
    }

    /// Whether code may use a feature of the processor, by the name the settings give it.
    pub(crate) fn has_cpu_feature(&self, name: &str) -> bool {
        self.settings().target.cpu_features.iter().any(|feature| feature == name)
    }

    /// The architecture that code is made for.
    pub(crate) fn architecture(&self) -> Architecture {
        self.isa.triple().architecture
    }

    /// Calls a function of the engine with the context and `args`.
    pub(crate) fn call_builtin(&mut self, builtin: Builtin, args: &[Value]) -> Option<Value> {
        let key = builtin as u32;
        let signature = match self.builtin_signatures.get(&key) {
            Some(&signature) => signature,
            None => {
                let signature = self.builder.import_signature(abi::builtin_signature(builtin, self.isa));
                self.builtin_signatures.insert(key, signature);
                signature
            }
        };
        // Loaded here and nowhere earlier: calls of builtins are rare or slow, and registers are few.
        let flags = Region::Constant.trusted(self.builder.func);
        let builtins = self.builder.ins().load(I64, flags, self.vmctx, offset_of!(VmContextHeader, builtins) as i32);
        let code = self.builder.ins().load(I64, flags, builtins, builtin.offset_bytes());
        let mut all = super::stack::Values::with_capacity(args.len() + 1);
        all.push(self.vmctx);
        all.extend_from_slice(args);
        self.budget.arguments(all.len());
        let call = self.builder.ins().call_indirect(signature, code, &all);
        self.builder.inst_results(call).first().copied()
    }

    /// Loads a pointer of the context that never changes.
    pub(super) fn load_context_pointer(&mut self, offset: usize) -> Value {
        let flags = Region::Constant.constant(self.builder.func);
        self.builder.ins().load(I64, flags, self.vmctx, offset as i32)
    }
}
