//! Inlining: calls of small functions of the module become their bodies.
//!
//! A candidate calls nothing, has no loop, and traps for no other reason than an access to memory: then neither interruption nor the
//! depth of the stack nor, but for such an access, a backtrace can tell that there is no call. Instructions of an inlined body count as
//! the call instruction. Whether a call is inlined depends on the module alone, not on what was compiled before.

use crate::budget::Mode;
use crate::translate::{FUNCTION_NAMESPACE, FunctionInput, translate};
use cranelift_codegen::CodegenResult;
use cranelift_codegen::Context;
use cranelift_codegen::entity::EntityRef;
use cranelift_codegen::inline::{Inline, InlineCommand};
use cranelift_codegen::ir::{ExternalName, FuncRef, Function, Inst, Opcode, SourceLoc, Value};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::FunctionBuilderContext;
use peregrine_compile::tier::ModuleEnv;
use peregrine_frontend::FuncValidatorAllocations;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex};
use std::borrow::Cow;
use std::collections::HashMap;

/// The longest body that is looked at, in bytes.
const MAX_BODY_BYTES: usize = 160;
/// The most instructions of a candidate.
const MAX_INSTRUCTIONS: usize = 100;
/// The most blocks of a candidate.
const MAX_BLOCKS: usize = 8;
/// How many instructions any function may gain; larger ones may double.
const MIN_GROWTH: usize = 600;
/// How many instructions the largest function may gain.
const MAX_GROWTH: usize = 20_000;
/// What an inlined call counts as beside its instructions: it splits a block, and the passes do not like long chains of blocks.
const CALL_GROWTH: usize = 8;
/// How many candidates are kept before all are forgotten.
const MAX_KEPT: usize = 2048;

/// The candidates that one thread knows.
#[derive(Default)]
pub(crate) struct Candidates {
    /// What was looked at: the body to inline, or that there is none.
    known: HashMap<DefinedFuncIndex, Option<Box<Function>>>,
    builder: FunctionBuilderContext,
    validation: FuncValidatorAllocations,
}

/// Inlines what is worth it into the function of `context`.
///
/// # Errors
///
/// Cranelift's, if the function grows beyond its limits.
pub(crate) fn inline(
    context: &mut Context,
    env: &ModuleEnv<'_>,
    isa: &dyn TargetIsa,
    caller: DefinedFuncIndex,
    candidates: &mut Candidates,
) -> CodegenResult<()> {
    if candidates.known.len() > MAX_KEPT {
        candidates.known.clear();
    }
    let growth_left = context.func.dfg.num_insts().clamp(MIN_GROWTH, MAX_GROWTH);
    let mut pass = Pass { env, isa, caller, candidates, growth_left, inlined: Vec::new() };
    if !context.inline(&mut pass)? {
        return Ok(());
    }
    let inlined = pass.inlined;
    context.flowgraph();
    for (position, &(first, location)) in inlined.iter().enumerate() {
        let end = inlined.get(position + 1).map_or(context.func.dfg.num_insts(), |next| next.0);
        if let Some(location) = location {
            for number in first..end {
                context.func.set_srcloc(Inst::new(number), location);
            }
        }
    }
    Ok(())
}

/// One run over the calls of a function.
struct Pass<'p, 'm> {
    env: &'p ModuleEnv<'m>,
    isa: &'p dyn TargetIsa,
    caller: DefinedFuncIndex,
    candidates: &'p mut Candidates,
    growth_left: usize,
    /// For every call that was looked at: how many instructions there were, and where those that come next count to come from.
    inlined: Vec<(usize, Option<SourceLoc>)>,
}

impl Pass<'_, '_> {
    /// The function of the module that is called.
    fn callee(&self, caller: &Function, callee: FuncRef) -> Option<DefinedFuncIndex> {
        let ExternalName::User(name) = caller.dfg.ext_funcs[callee].name else { return None };
        let name = &caller.params.user_named_funcs()[name];
        if name.namespace != FUNCTION_NAMESPACE {
            return None;
        }
        let index = self.env.translation.module.defined_func_index(FuncIndex::from_u32(name.index))?;
        (index != self.caller && self.env.translation.bodies[index].len() <= MAX_BODY_BYTES).then_some(index)
    }

    /// Looks at a function for the first time.
    fn look_at(&mut self, index: DefinedFuncIndex) {
        if self.candidates.known.contains_key(&index) {
            return;
        }
        // The driver has not come to this body yet, and only a valid one can be translated. Its errors are reported when it does.
        if self.env.translation.validate_body(index, &mut self.candidates.validation).is_err() {
            self.candidates.known.insert(index, None);
            return;
        }
        let mut func = Function::new();
        let input = FunctionInput { env: self.env, isa: self.isa, index, mode: Mode::Optimized, entry: None, max_bytes: u64::MAX };
        let candidate = match translate(&input, &mut func, &mut self.candidates.builder) {
            Ok(translated) => (!translated.calls && translated.loop_headers.is_empty() && is_candidate(&func)).then(|| Box::new(func)),
            Err(_) => {
                // What stopped it is reported when the function itself is compiled.
                self.candidates.builder = FunctionBuilderContext::new();
                None
            }
        };
        self.candidates.known.insert(index, candidate);
    }
}

fn is_candidate(func: &Function) -> bool {
    if func.dfg.num_insts() > MAX_INSTRUCTIONS || func.dfg.num_blocks() > MAX_BLOCKS {
        return false;
    }
    func.layout.blocks().flat_map(|block| func.layout.block_insts(block)).all(|inst| {
        let opcode = func.dfg.insts[inst].opcode();
        let memory = opcode.can_load() || opcode.can_store();
        !opcode.is_call() && (memory || !opcode.can_trap() && opcode != Opcode::Trap)
    })
}

impl Inline for Pass<'_, '_> {
    fn inline(&mut self, caller: &Function, call: Inst, _: Opcode, callee: FuncRef, _: &[Value]) -> InlineCommand<'_> {
        let instructions = caller.dfg.num_insts();
        let found = if self.growth_left == 0 { None } else { self.callee(caller, callee) };
        if let Some(index) = found {
            self.look_at(index);
            if let Some(Some(candidate)) = self.candidates.known.get(&index) {
                self.growth_left = self.growth_left.saturating_sub(candidate.dfg.num_insts() + CALL_GROWTH);
                self.inlined.push((instructions, Some(caller.srcloc(call))));
                return InlineCommand::Inline { callee: Cow::Borrowed(candidate), visit_callee: false };
            }
        }
        self.inlined.push((instructions, None));
        InlineCommand::KeepCall
    }
}
