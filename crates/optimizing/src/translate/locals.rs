//! Locals: `local.get`, `local.set`, `local.tee`, and their declaration.
//!
//! In [`Mode::Optimized`] a local is a variable of the SSA builder, in [`Mode::Plain`] a place in the frame.

use super::entry::named_locals;
use super::stack::FRAME_VALUE_BYTES;
use super::translator::{Stopped, Translator};
use crate::abi;
use crate::budget::Mode;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::types::{F32, F64, I8X16, I64};
use cranelift_codegen::ir::{InstBuilder, StackSlot, StackSlotData, StackSlotKind, Type, Value};
use cranelift_frontend::Variable;
use peregrine_artifact::abi::{KEPT_HEADER_BYTES, KEPT_LOCAL_BYTES, KEPT_MARK, MOST_KEPT_LOCALS};
use peregrine_wasm::DefinedFuncIndex;
use wasmparser::{LocalsReader, Operator};

/// Places of the frame before the locals that are kept.
const KEPT_HEADER_PLACES: usize = KEPT_HEADER_BYTES / KEPT_LOCAL_BYTES;
/// Of a local that the body does not name.
const NO_PLACE: u32 = u32::MAX;
/// More places of kept locals are made zero by a loop.
const MOST_ZEROS_ONE_BY_ONE: usize = 128;
const _: () = assert!(KEPT_LOCAL_BYTES == FRAME_VALUE_BYTES as usize);

/// The locals of a function, parameters first.
#[derive(Debug, Default)]
pub(crate) struct Locals {
    types: Vec<Type>,
    /// Optimized mode.
    variables: Vec<Variable>,
    /// Plain mode.
    slot: Option<StackSlot>,
    /// Plain mode: how many places the slot has.
    places: usize,
    /// Plain mode, of functions with many locals: the place of each that the body names, or [`NO_PLACE`].
    place_of: Option<Vec<u32>>,
    /// Plain mode: for each local, its value if the current block has read or written it, with the number of the block.
    known: Vec<Option<(u32, Value)>>,
    /// Plain mode: the number of the current block.
    block: u32,
    /// Where the values are kept for core dumps, after a header.
    kept: Option<StackSlot>,
}

impl Locals {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.types.len()
    }

    /// Their types.
    pub(crate) fn types(&self) -> &[Type] {
        &self.types
    }

    /// The slot of the frame, and the bytes it needs.
    pub(crate) fn frame(&self) -> Option<(StackSlot, u64)> {
        self.slot.map(|slot| (slot, self.places as u64 * u64::from(FRAME_VALUE_BYTES)))
    }

    /// Plain mode: where a local is, if it has a place.
    fn place(&self, position: usize) -> Option<usize> {
        match &self.place_of {
            None => Some(position),
            Some(places) => Some(places[position]).filter(|place| *place != NO_PLACE).map(|place| place as usize),
        }
    }

    /// Another block begins: what the last one knew is not known here.
    pub(crate) fn begin_block(&mut self) {
        self.block += 1;
    }
}

impl Translator<'_, '_> {
    /// Declares parameters and locals, and gives them their first values.
    pub(super) fn declare_locals(&mut self, mut reader: LocalsReader<'_>, index: DefinedFuncIndex) -> Result<(), Stopped> {
        let ty = &self.module.types[self.ty];
        self.locals.types.extend(ty.params.iter().map(|&ty| abi::value_type(ty)));
        let params = self.locals.types.len();
        for _ in 0..reader.get_count() {
            let (count, ty) = reader.read()?;
            let ty = abi::parsed_value_type(ty);
            self.locals.types.extend(std::iter::repeat_n(ty, count as usize));
        }
        if self.locals.types.contains(&I8X16) {
            self.require_vectors();
        }
        let entry = self.builder.current_block().expect("the entry block is current");
        // The start of a loop entry has no parameters: nothing reaches it.
        let values = self.builder.block_params(entry).get(1..).unwrap_or_default().to_vec();
        match self.mode {
            Mode::Optimized => self.declare_variables(&values),
            Mode::Plain => self.declare_places(&values, params, named_locals(self.env, index)?),
        }
        if self.settings().keeps_locals && self.locals.len() <= MOST_KEPT_LOCALS {
            let slot = self.frame_slot(KEPT_HEADER_PLACES + self.locals.len());
            self.locals.kept = Some(slot);
            let end = self.locals.len();
            let is_long = end - params > MOST_ZEROS_ONE_BY_ONE;
            for position in 0..if is_long { params } else { end } {
                let value = values.get(position).copied();
                let value = value.unwrap_or_else(|| self.zero(self.locals.types[position]));
                self.store_frame(slot, KEPT_HEADER_PLACES + position, value);
            }
            if is_long {
                self.clear_places(slot, KEPT_HEADER_PLACES + params, KEPT_HEADER_PLACES + end);
            }
            self.mark_kept_locals();
        }
        Ok(())
    }

    /// Makes zero of the places of kept locals, but of parameters. How many parameters there are; none if locals are not kept.
    pub(super) fn clear_kept_locals(&mut self) -> u32 {
        let Some(slot) = self.locals.kept else { return 0 };
        let params = self.module.types[self.ty].params.len();
        if params < self.locals.len() {
            self.clear_places(slot, KEPT_HEADER_PLACES + params, KEPT_HEADER_PLACES + self.locals.len());
        }
        params as u32
    }

    /// Writes the header of the locals that are kept, if they are.
    pub(super) fn mark_kept_locals(&mut self) {
        let Some(slot) = self.locals.kept else { return };
        let count = self.locals.len() as u64;
        let mark = self.builder.ins().iconst(I64, (u64::from(KEPT_MARK) << 32 | count) as i64);
        let frame_pointer = self.builder.ins().get_frame_pointer(I64);
        let function = self.builder.ins().iconst(I64, i64::from(self.own_index.as_u32()));
        let flags = super::flags::Region::Frame.trusted(self.builder.func);
        let address = self.builder.ins().stack_addr(I64, slot, 0);
        for (value, offset) in [(mark, 0), (frame_pointer, 8), (function, 16), (self.vmctx, 24)] {
            self.translated.kept_from = Some(self.builder.ins().store(flags, value, address, offset));
        }
    }

    fn declare_variables(&mut self, params: &[Value]) {
        let mut zeros: Vec<(Type, Value)> = Vec::new();
        for position in 0..self.locals.len() {
            let ty = self.locals.types[position];
            let value = match (params.get(position), zeros.iter().find(|zero| zero.0 == ty)) {
                (Some(&param), _) => param,
                (None, Some(&(_, zero))) => zero,
                (None, None) => {
                    let zero = self.zero(ty);
                    zeros.push((ty, zero));
                    zero
                }
            };
            let variable = self.builder.declare_var(ty);
            self.builder.def_var(variable, value);
            self.locals.variables.push(variable);
        }
    }

    fn declare_places(&mut self, values: &[Value], params: usize, named: Option<Vec<u32>>) {
        self.locals.known = vec![None; self.locals.len()];
        self.locals.places = named.as_ref().map_or(self.locals.len(), Vec::len);
        if self.locals.places == 0 {
            return;
        }
        // Those of parameters come first.
        let mut params_places = params;
        if let Some(named) = named {
            params_places = named.partition_point(|local| (*local as usize) < params);
            let mut places = vec![NO_PLACE; self.locals.len()];
            for (place, local) in (0..).zip(named) {
                places[local as usize] = place;
            }
            self.locals.place_of = Some(places);
        }
        let slot = self.frame_slot(self.locals.places);
        self.locals.slot = Some(slot);
        for (position, &value) in values.iter().enumerate() {
            if let Some(place) = self.locals.place(position) {
                self.store_frame(slot, place, value);
            }
        }
        if params_places < self.locals.places {
            self.clear_places(slot, params_places, self.locals.places);
        }
    }

    /// Makes zero of the places from `first` up to `end`, in a loop: there may be many.
    fn clear_places(&mut self, slot: StackSlot, first: usize, end: usize) {
        let bytes = |position: usize| position as i64 * i64::from(FRAME_VALUE_BYTES);
        let base = self.builder.ins().stack_addr(I64, slot, 0);
        let start = self.builder.ins().iadd_imm_s(base, bytes(first));
        let last = self.builder.ins().iadd_imm_s(base, bytes(end));
        let zero = self.builder.ins().iconst(I64, 0);
        let header = self.builder.create_block();
        let address = self.builder.append_block_param(header, I64);
        let exit = self.builder.create_block();
        self.builder.ins().jump(header, &[start.into()]);
        self.builder.switch_to_block(header);
        let flags = super::flags::Region::Frame.trusted(self.builder.func);
        self.builder.ins().store(flags, zero, address, 0);
        self.builder.ins().store(flags, zero, address, 8);
        let next = self.builder.ins().iadd_imm_s(address, i64::from(FRAME_VALUE_BYTES));
        let more = self.builder.ins().icmp(IntCC::UnsignedLessThan, next, last);
        self.builder.ins().brif(more, header, &[next.into()], exit, &[]);
        self.builder.seal_block(header);
        self.builder.seal_block(exit);
        self.builder.switch_to_block(exit);
    }

    /// The zero or null of a type.
    pub(super) fn zero(&mut self, ty: Type) -> Value {
        match ty {
            F32 => self.builder.ins().f32const(Ieee32::with_bits(0)),
            F64 => self.builder.ins().f64const(Ieee64::with_bits(0)),
            I8X16 => {
                let constant = self.builder.func.dfg.constants.insert(vec![0; 16].into());
                self.builder.ins().vconst(I8X16, constant)
            }
            _ => self.builder.ins().iconst(ty, 0),
        }
    }

    /// A slot of the frame for so many values.
    pub(super) fn frame_slot(&mut self, values: usize) -> StackSlot {
        let size = u32::try_from(values as u64 * u64::from(FRAME_VALUE_BYTES)).unwrap_or(u32::MAX);
        self.builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4))
    }

    fn get_local(&mut self, index: u32) -> Value {
        let position = index as usize;
        let place = self.locals.place(position);
        match (self.mode, self.locals.slot.zip(place)) {
            (Mode::Plain, Some((slot, place))) => match self.locals.known[position] {
                Some((block, value)) if block == self.locals.block => value,
                _ => {
                    let value = self.load_frame(slot, place, self.locals.types[position]);
                    self.locals.known[position] = Some((self.locals.block, value));
                    value
                }
            },
            _ => self.builder.use_var(self.locals.variables[position]),
        }
    }

    pub(super) fn set_local(&mut self, index: u32, value: Value) {
        let position = index as usize;
        let value = self.canonical(value);
        match self.mode {
            Mode::Plain => {
                if let (Some(slot), Some(place)) = (self.locals.slot, self.locals.place(position)) {
                    self.store_frame(slot, place, value);
                    self.locals.known[position] = Some((self.locals.block, value));
                }
            }
            Mode::Optimized => self.builder.def_var(self.locals.variables[position], value),
        }
        if let Some(slot) = self.locals.kept {
            self.store_frame(slot, KEPT_HEADER_PLACES + position, value);
        }
    }

    /// Translates `op` if it is of this family.
    pub(super) fn locals(&mut self, op: &Operator<'_>) -> bool {
        match *op {
            Operator::LocalGet { local_index } => {
                let value = self.get_local(local_index);
                self.push(value);
            }
            Operator::LocalSet { local_index } => {
                let value = self.pop();
                self.set_local(local_index, value);
            }
            Operator::LocalTee { local_index } => {
                let value = self.pop();
                self.set_local(local_index, value);
                self.push(value);
            }
            _ => return false,
        }
        true
    }
}
