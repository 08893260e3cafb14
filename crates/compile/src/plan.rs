//! What is to be compiled for a module, and in which batches: functions that are not copies of others, then stubs.

use crate::budget::{Budget, exceeded};
use crate::duplicates::Duplicates;
use crate::parallel::Batch;
use peregrine_artifact::abi::{MOST_TYPES_WITH_ALL_STUBS, StubKind};
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::profile::Feedback;
use peregrine_frontend::Translation;
use peregrine_wasm::{DefinedFuncIndex, FuncType, IndexVec, Module, TypeIndex};
use std::cmp::Reverse;
use std::collections::HashMap;

/// A batch is full when its cost reaches this: small enough to keep all threads busy to the end, large enough to make little of the lock.
const BATCH_COST: usize = 8 << 10;
/// Cost of a function besides its bytes.
const FUNCTION_COST: usize = 64;
/// Cost of a stub.
const STUB_COST: usize = 256;

/// One piece of work for a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The body of a function.
    Function(DefinedFuncIndex),
    /// A stub for a type.
    Stub(StubKind, TypeIndex),
}

/// For each type of a module, the first that is structurally the same.
pub(crate) struct CanonicalTypes {
    first: IndexVec<TypeIndex, TypeIndex>,
}

impl CanonicalTypes {
    /// Compares all types of `module`.
    pub(crate) fn find(module: &Module) -> Self {
        let mut seen: HashMap<&FuncType, TypeIndex> = HashMap::with_capacity(module.types.len());
        Self { first: module.types.iter().map(|(index, ty)| *seen.entry(ty).or_insert(index)).collect() }
    }

    /// The first type that is the same as `index`.
    pub(crate) fn canonical(&self, index: TypeIndex) -> TypeIndex {
        self.first[index]
    }
}

/// Everything to compile, in the order of the text.
#[derive(Default)]
pub(crate) struct Plan {
    /// The pieces of work.
    pub(crate) units: Vec<Unit>,
    /// All of them, in batches.
    pub(crate) batches: Vec<Batch>,
}

impl Plan {
    /// The functions of a module, without copies.
    pub(crate) fn functions(translation: &Translation<'_>, duplicates: &Duplicates) -> Self {
        let mut plan = Self::default();
        for (index, body) in translation.bodies.iter().filter(|(index, _)| duplicates.original(*index).is_none()) {
            plan.add(Unit::Function(index), body.len() + FUNCTION_COST);
        }
        plan
    }

    /// All functions of a module, those that were called most first. What was never called, and what nothing is known of, keeps its order.
    pub(crate) fn by_heat(translation: &Translation<'_>, feedback: &dyn Feedback) -> Self {
        let mut functions: Vec<_> =
            translation.bodies.indices().map(|index| (Reverse(feedback.calls(index).unwrap_or(0)), index)).collect();
        functions.sort();
        let mut plan = Self::default();
        functions.iter().for_each(|(_, index)| plan.add(Unit::Function(*index), translation.bodies[*index].len() + FUNCTION_COST));
        plan
    }

    /// Adds the stubs of a module: for every function type, or, if there are very many, for the types of imported functions (Exit) and of
    /// defined ones that escape (Enter).
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`].
    pub(crate) fn add_stubs(&mut self, module: &Module, types: &CanonicalTypes, budget: &Budget) -> Result<(), CompileError> {
        let mut wanted: IndexVec<TypeIndex, [bool; 2]> = module.types.indices().map(|index| [types.canonical(index) == index; 2]).collect();
        if wanted.values().filter(|wanted| wanted[0]).count() > MOST_TYPES_WITH_ALL_STUBS {
            wanted = module.types.indices().map(|_| [false; 2]).collect();
            for (index, function) in module.functions.iter() {
                let imported = module.defined_func_index(index).is_none();
                let wanted = &mut wanted[types.canonical(function.ty)];
                wanted[0] |= !imported && function.func_ref.is_some();
                wanted[1] |= imported;
            }
        }
        let found = wanted.values().filter(|wanted| wanted.contains(&true)).count();
        if found > budget.max_stub_types {
            return Err(exceeded("types of functions that are imported or escape", "max_stub_types", budget.max_stub_types, found));
        }
        for (index, [enter, exit]) in wanted.iter() {
            for kind in [enter.then_some(StubKind::Enter), exit.then_some(StubKind::Exit)].into_iter().flatten() {
                self.add(Unit::Stub(kind, index), STUB_COST);
            }
        }
        Ok(())
    }

    /// Appends a piece of work to the last batch, or to a new one if that is full.
    fn add(&mut self, unit: Unit, cost: usize) {
        let start = self.units.len();
        self.units.push(unit);
        match self.batches.last_mut() {
            Some(batch) if batch.cost < BATCH_COST => {
                batch.items.end = start + 1;
                batch.cost += cost;
            }
            _ => self.batches.push(Batch { items: start..start + 1, cost }),
        }
    }

    /// Cost of all batches.
    pub(crate) fn cost(&self) -> usize {
        self.batches.iter().map(|batch| batch.cost).sum()
    }
}
