//! Inlining: calls of small functions of the module become their bodies.
//!
//! A candidate calls nothing and has no loop: then neither interruption nor the depth of the stack can tell that there is no call. Nor can
//! fuel: such a function adds what it costs and does not look at the counter. Nor can a
//! backtrace: instructions of an inlined body that trap have a place of their own, with a frame for the call. All others count as the call
//! instruction. Whether a call is inlined depends on the module, and on how its functions ran if that is known: what is called often may
//! be larger, what is called rarely stays a call. It does not depend on what was compiled before.

use crate::budget::Mode;
use crate::places::{InlinedPlace, Places};
use crate::translate::{FUNCTION_NAMESPACE, FunctionInput, translate};
use cranelift_codegen::CodegenResult;
use cranelift_codegen::Context;
use cranelift_codegen::entity::EntityRef;
use cranelift_codegen::inline::{Inline, InlineCommand};
use cranelift_codegen::ir::{ExternalName, FuncRef, Function, Inst, Opcode, SourceLoc, Value};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::traversals::Dfs;
use cranelift_frontend::FunctionBuilderContext;
use peregrine_artifact::profile::Feedback;
use peregrine_compile::tier::ModuleEnv;
use peregrine_frontend::FuncValidatorAllocations;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// The longest body that is looked at, in bytes.
const MAX_BODY_BYTES: usize = 160;
/// The most instructions of a candidate.
const MAX_INSTRUCTIONS: usize = 100;
/// The most blocks of a candidate.
const MAX_BLOCKS: usize = 8;
/// The most bytes that a candidate has in its frame: the caller's gains as many with every call.
const MAX_FRAME_BYTES: u32 = 4096;
/// The longest body of a function that is called often, in bytes.
const MAX_HOT_BODY_BYTES: usize = 480;
/// The most instructions of a candidate that is called often.
const MAX_HOT_INSTRUCTIONS: usize = 280;
/// The most blocks of a candidate that is called often.
const MAX_HOT_BLOCKS: usize = 24;
/// Calls that make a function one that is called often.
const HOT_CALLS: u64 = 500;
/// A function is called rarely if its caller is called so many times as often.
const RARE: u64 = 64;
/// How many instructions any function may gain; larger ones may double.
const MIN_GROWTH: usize = 600;
/// How many instructions the largest function may gain.
const MAX_GROWTH: usize = 20_000;
/// What an inlined call counts as beside its instructions: it splits a block, and the passes do not like long chains of blocks.
const CALL_GROWTH: usize = 8;
/// The most memory that translating a candidate may take, in bytes: a short body can name thousands of values many times.
const MAX_CANDIDATE_MEMORY_BYTES: u64 = 4 << 20;
/// How many candidates are kept before all are forgotten.
const MAX_KEPT: usize = 2048;

/// The candidates that one thread knows.
#[derive(Default)]
pub(crate) struct Candidates {
    /// What was looked at: the body to inline, or that there is none.
    known: HashMap<DefinedFuncIndex, Option<Box<Function>>>,
    /// The same with the limits of what is called often.
    hot: HashMap<DefinedFuncIndex, Option<Box<Function>>>,
    builder: FunctionBuilderContext,
    validation: FuncValidatorAllocations,
}

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heat {
    /// Often, or nobody knows.
    Usual,
    /// Very often.
    Hot,
    /// Rarely, if at all.
    Cold,
}

impl Candidates {
    /// The candidates of a heat.
    fn of(&mut self, heat: Heat) -> &mut HashMap<DefinedFuncIndex, Option<Box<Function>>> {
        if heat == Heat::Hot { &mut self.hot } else { &mut self.known }
    }
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
    feedback: Option<&dyn Feedback>,
    candidates: &mut Candidates,
    places: &mut Places,
) -> CodegenResult<()> {
    for kept in [&mut candidates.known, &mut candidates.hot] {
        if kept.len() > MAX_KEPT {
            kept.clear();
        }
    }
    let growth_left = context.func.dfg.num_insts().clamp(MIN_GROWTH, MAX_GROWTH);
    let mut pass = Pass { env, isa, caller, feedback, candidates, growth_left, looked_at: Vec::new() };
    if !context.inline(&mut pass)? {
        return Ok(());
    }
    let looked_at = pass.looked_at;
    context.flowgraph();
    for (position, (first, inlined)) in looked_at.iter().enumerate() {
        let end = looked_at.get(position + 1).map_or(context.func.dfg.num_insts(), |next| next.0);
        if let Some(inlined) = inlined
            && let Some(Some(body)) = candidates.of(inlined.heat).get(&inlined.function)
        {
            locate(&mut context.func, *first..end, inlined, body, places);
        }
    }
    Ok(())
}

/// Says where instructions come from that were made from those of `body`.
fn locate(func: &mut Function, numbers: Range<usize>, inlined: &Inlined, body: &Function, places: &mut Places) {
    // In this order they were made.
    let mut order = Dfs::new();
    let mut originals = order.pre_order_iter(body).flat_map(|block| body.layout.block_insts(block));
    for number in numbers {
        let inst = Inst::new(number);
        func.set_srcloc(inst, inlined.call);
        let Some(original) = originals.next() else { continue };
        let made_from = &body.dfg.insts[original];
        debug_assert!(made_from.opcode().is_return() || func.dfg.insts[inst].opcode() == made_from.opcode());
        if made_from.opcode().can_trap() || made_from.memflags_trap_code(&body.dfg).is_some() {
            let call = (!inlined.is_last_act).then(|| inlined.call.bits());
            let offset = body.srcloc(original).bits();
            func.set_srcloc(inst, places.keep(InlinedPlace { function: inlined.function, offset, call }));
        }
    }
}

/// A call that became a body.
struct Inlined {
    function: DefinedFuncIndex,
    heat: Heat,
    /// Where the call was.
    call: SourceLoc,
    /// Whether it was in tail position.
    is_last_act: bool,
}

/// One run over the calls of a function.
struct Pass<'p, 'm> {
    env: &'p ModuleEnv<'m>,
    isa: &'p dyn TargetIsa,
    caller: DefinedFuncIndex,
    feedback: Option<&'p dyn Feedback>,
    candidates: &'p mut Candidates,
    growth_left: usize,
    /// For every call that was looked at: how many instructions there were, and what those that come next are made from.
    looked_at: Vec<(usize, Option<Inlined>)>,
}

impl Pass<'_, '_> {
    /// How a function is called.
    fn heat(&self, callee: DefinedFuncIndex) -> Heat {
        let Some(feedback) = self.feedback else { return Heat::Usual };
        let Some(calls) = feedback.calls(callee) else { return Heat::Usual };
        let callers = feedback.calls(self.caller).unwrap_or(0);
        match calls {
            _ if calls < callers / RARE => Heat::Cold,
            _ if calls >= HOT_CALLS => Heat::Hot,
            _ => Heat::Usual,
        }
    }

    /// The function of the module that is called, and how it is called.
    fn callee(&self, caller: &Function, callee: FuncRef) -> Option<(DefinedFuncIndex, Heat)> {
        let ExternalName::User(name) = caller.dfg.ext_funcs[callee].name else { return None };
        let name = &caller.params.user_named_funcs()[name];
        if name.namespace != FUNCTION_NAMESPACE {
            return None;
        }
        let index = self.env.translation.module.defined_func_index(FuncIndex::from_u32(name.index))?;
        let heat = self.heat(index);
        let max_bytes = match heat {
            Heat::Usual => MAX_BODY_BYTES,
            Heat::Hot => MAX_HOT_BODY_BYTES,
            Heat::Cold => 0,
        };
        (index != self.caller && self.env.translation.bodies[index].len() <= max_bytes).then_some((index, heat))
    }

    /// Looks at a function for the first time.
    fn look_at(&mut self, index: DefinedFuncIndex, heat: Heat) {
        if self.candidates.of(heat).contains_key(&index) {
            return;
        }
        // The driver has not come to this body yet, and only a valid one can be translated. Its errors are reported when it does.
        if self.env.translation.validate_body(index, &mut self.candidates.validation).is_err() {
            self.candidates.of(heat).insert(index, None);
            return;
        }
        let mut func = Function::new();
        let (mode, max_bytes) = (Mode::Optimized, MAX_CANDIDATE_MEMORY_BYTES);
        let input = FunctionInput { env: self.env, isa: self.isa, index, mode, entry: None, feedback: None, max_bytes };
        let candidate = match translate(&input, &mut func, &mut self.candidates.builder) {
            Ok(translated) => (!translated.calls && translated.looks.is_empty() && is_candidate(&func, heat)).then(|| Box::new(func)),
            Err(_) => {
                // What stopped it is reported when the function itself is compiled.
                self.candidates.builder = FunctionBuilderContext::new();
                None
            }
        };
        self.candidates.of(heat).insert(index, candidate);
    }
}

fn is_candidate(func: &Function, heat: Heat) -> bool {
    let (instructions, blocks) = match heat {
        Heat::Hot => (MAX_HOT_INSTRUCTIONS, MAX_HOT_BLOCKS),
        Heat::Usual | Heat::Cold => (MAX_INSTRUCTIONS, MAX_BLOCKS),
    };
    if func.dfg.num_insts() > instructions || func.dfg.num_blocks() > blocks {
        return false;
    }
    if func.sized_stack_slots.values().any(|slot| slot.size > MAX_FRAME_BYTES) {
        return false;
    }
    func.layout.blocks().flat_map(|block| func.layout.block_insts(block)).all(|inst| !func.dfg.insts[inst].opcode().is_call())
}

impl Inline for Pass<'_, '_> {
    fn inline(&mut self, caller: &Function, call: Inst, opcode: Opcode, callee: FuncRef, _: &[Value]) -> InlineCommand<'_> {
        let instructions = caller.dfg.num_insts();
        let found = if self.growth_left == 0 { None } else { self.callee(caller, callee) };
        if let Some((index, heat)) = found {
            self.look_at(index, heat);
            if let Some(Some(candidate)) = self.candidates.of(heat).get(&index) {
                self.growth_left = self.growth_left.saturating_sub(candidate.dfg.num_insts() + CALL_GROWTH);
                let inlined = Inlined { function: index, heat, call: caller.srcloc(call), is_last_act: opcode == Opcode::ReturnCall };
                self.looked_at.push((instructions, Some(inlined)));
                return InlineCommand::Inline { callee: Cow::Borrowed(candidate), visit_callee: false };
            }
        }
        self.looked_at.push((instructions, None));
        InlineCommand::KeepCall
    }
}
