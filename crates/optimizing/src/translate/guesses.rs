//! Guesses of what indirect calls go to, and of what is never reached, from what earlier runs did.
//!
//! A call that went to few functions becomes a comparison for each of them and a direct call, which may be inlined:
//!
//! ```text
//!     reference == context + place of function 3's own reference?  yes: call function 3
//!     no: check the reference's type, call what it points to
//! ```
//!
//! The reference decides, so the guess may be wrong at any time. That a function's own reference is not null and of the right type is known when
//! this is compiled; all checks are on the other way, in the order that they always have, and fuel is counted after them on each.

use super::calls::Callee;
use super::stack::Values;
use super::translator::{FunctionInput, Translator};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value};
use peregrine_artifact::profile::{Feedback, SiteProfile};
use peregrine_artifact::vmctx::FUNC_ELEMENT_INITIALIZED;
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, TableIndex, TypeIndex};
use smallvec::SmallVec;
use wasmparser::Operator;

/// The most comparisons at one call.
const MAX_GUESSES: usize = 2;
/// A call is guessed if this share of what was seen went to the target.
const MIN_SHARE_PERCENT: u64 = 30;
/// Less often than this, what was seen says nothing.
const MIN_CALLS: u64 = 8;
/// The other way is put aside if it was taken less than once in so many calls.
const RARE: u64 = 16;
/// A function that was called this often would have reached what it does not avoid.
const WELL_KNOWN_CALLS: u64 = 64;
/// The most calls of one function that are guessed.
const MAX_SITES: usize = 256;

/// What the reference that is called comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// A table.
    Table(TableIndex),
    /// The operand stack.
    Reference,
}

/// What is known of how functions ran.
pub(super) struct Guesses<'a> {
    feedback: Option<&'a dyn Feedback>,
    function: DefinedFuncIndex,
    /// Whether the function was called often enough for what it did not reach to be rarely reached.
    well_known: bool,
    /// How many more calls may be guessed.
    left: usize,
}

impl<'a> Guesses<'a> {
    pub(super) fn new(input: &FunctionInput<'a>) -> Self {
        let feedback = input.feedback;
        let well_known = feedback.and_then(|feedback| feedback.calls(input.index)).is_some_and(|calls| calls >= WELL_KNOWN_CALLS);
        Self { feedback, function: input.index, well_known, left: MAX_SITES }
    }

    fn site(&self, offset: u32) -> Option<SiteProfile> {
        self.feedback?.site(self.function, offset)
    }
}

impl Translator<'_, '_> {
    /// Puts the code at this place aside if the function that it calls was never called.
    pub(super) fn guess_reached(&mut self, callee: FuncIndex) {
        let Some(feedback) = self.guesses.feedback.filter(|_| self.guesses.well_known) else { return };
        if self.module.defined_func_index(callee).and_then(|callee| feedback.calls(callee)) == Some(0) {
            self.put_aside();
        }
    }

    fn put_aside(&mut self) {
        match self.builder.current_block() {
            Some(block) if Some(block) != self.builder.func.layout.entry_block() => self.builder.set_cold_block(block),
            _ => {}
        }
    }

    /// The functions that a call of type `ty` is compared with, each with its place among the references of an instance.
    fn guessed_targets(&self, site: &SiteProfile, ty: TypeIndex) -> SmallVec<[(FuncIndex, u32); MAX_GUESSES]> {
        let total = site.total();
        if total < MIN_CALLS {
            return SmallVec::new();
        }
        let module = self.module;
        let likely =
            site.targets().iter().filter(|(_, calls)| *calls >= total / 100 * MIN_SHARE_PERCENT + total % 100 * MIN_SHARE_PERCENT / 100);
        let known = likely.filter_map(|(target, _)| {
            let index = FuncIndex::from_u32(module.imported_functions.checked_add(target.as_u32())?);
            let function = module.functions.get(index)?;
            (module.types[function.ty] == module.types[ty]).then_some((index, function.func_ref?))
        });
        known.take(MAX_GUESSES).collect()
    }

    /// Calls what `reference` points to, with the mark of an element if it comes out of a table, by way of guesses, if there are any. The
    /// arguments are on the stack.
    pub(super) fn call_guessed(&mut self, op: &Operator<'_>, reference: Value, source: Source, ty: TypeIndex) -> bool {
        if self.guesses.left == 0 {
            return false;
        }
        let Some(site) = self.guesses.site(self.offset) else { return false };
        if site.total() == 0 && self.guesses.well_known {
            self.put_aside();
            return false;
        }
        let targets = self.guessed_targets(&site, ty);
        if targets.is_empty() {
            return false;
        }
        self.guesses.left -= 1;
        self.translated.calls = true;
        self.translated.calls_outside_loops |= self.open_loops.is_empty();
        let is_return = matches!(op, Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } | Operator::ReturnCallRef { .. });
        let args = self.arguments(self.vmctx, ty);
        let done = (!is_return).then(|| self.builder.create_block());
        let mut results = 0;
        // What was counted is added on each way.
        let metering = self.metering;
        let mark = match source {
            Source::Table(_) => FUNC_ELEMENT_INITIALIZED as i64,
            Source::Reference => 0,
        };
        for &(index, position) in &targets {
            let guessed = self.builder.create_block();
            let other = self.builder.create_block();
            let own = self.builder.ins().iadd_imm_s(self.vmctx, i64::from(self.layout.func_ref(position)) + mark);
            let is_own = self.builder.ins().icmp(IntCC::Equal, reference, own);
            self.builder.ins().brif(is_own, guessed, &[], other, &[]);
            self.begin_sealed(guessed);
            let callee = self.function(index);
            self.metering = metering;
            self.meter_flush();
            results = self.call_and_join(&callee, &args, done);
            self.begin_sealed(other);
        }
        let guessed = site.targets().iter().take(targets.len());
        let guessed_calls = guessed.fold(0_u64, |sum, (_, calls)| sum.saturating_add(*calls));
        if site.total().saturating_sub(guessed_calls) < site.total() / RARE
            && let Some(block) = self.builder.current_block()
        {
            self.builder.set_cold_block(block);
        }
        let callee = match source {
            Source::Table(table) => self.table_callee(reference, table, ty),
            Source::Reference => self.reference_callee(reference, ty),
        };
        self.metering = metering;
        self.meter_flush();
        self.call_and_join(&callee, &args, done);
        match done {
            None => self.end_of_code(),
            Some(done) => {
                self.begin_sealed(done);
                let values = Values::from_slice(self.builder.block_params(done));
                debug_assert_eq!(values.len(), results);
                values.into_iter().for_each(|value| self.push(value));
            }
        }
        true
    }

    /// Calls with `args`, whose context is that of this instance, and goes on at `done` with the results; in place of this frame if there is no
    /// `done`. How many results there are.
    fn call_and_join(&mut self, callee: &Callee, args: &Values, done: Option<Block>) -> usize {
        let mut args = args.clone();
        if let Callee::Code { vmctx, .. } = callee {
            args[0] = *vmctx;
        }
        let call = match (callee, done) {
            (Callee::Defined(function), Some(_)) => self.builder.ins().call(*function, &args),
            (Callee::Code { signature, code, .. }, Some(_)) => self.builder.ins().call_indirect(*signature, *code, &args),
            (Callee::Defined(function), None) => self.builder.ins().return_call(*function, &args),
            (Callee::Code { signature, code, .. }, None) => self.builder.ins().return_call_indirect(*signature, *code, &args),
        };
        let Some(done) = done else { return 0 };
        let results = Values::from_slice(self.builder.inst_results(call));
        self.budget.arguments(args.len() + results.len());
        if self.builder.block_params(done).is_empty() {
            for result in &results {
                let ty = self.builder.func.dfg.value_type(*result);
                self.builder.append_block_param(done, ty);
            }
        }
        let arguments: SmallVec<[BlockArg; 8]> = results.iter().map(|result| BlockArg::from(*result)).collect();
        self.builder.ins().jump(done, &arguments);
        results.len()
    }
}
