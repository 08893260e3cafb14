//! The code of one function while it is made: bytes, labels, constants, and the tables that go with it.
//!
//! Knows no instruction: those are written by the processor's `assembler.rs`, which extends [`Masm`]. Its memory is kept from one
//! function to the next. A jump to a label that is not bound yet keeps, in the place of its distance, where the jump before it is,
//! so that labels need no memory of their own for those.

use peregrine_artifact::compiler::CompilerKind;
use peregrine_artifact::func::{CompiledFunc, Reloc};
use peregrine_wasm::Trap;

/// A place in the code that can be jumped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(pub u32);

const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct LabelState {
    /// Where it is, or [`NOWHERE`].
    position: u32,
    /// The last place that waits for it, or [`NOWHERE`].
    last_use: u32,
}

/// The most bytes that one instruction takes.
const MAX_INSTRUCTION_BYTES: usize = 16;

/// The most bytes of memory for code that are kept from one function to the next: several compilers are kept for each module.
const MAX_KEPT_BYTES: usize = 4 << 20;

/// The code of one function, and what it will be linked and found by.
#[derive(Debug, Default)]
pub(crate) struct Masm {
    bytes: Vec<u8>,
    len: usize,
    labels: Vec<LabelState>,
    constants: Vec<u128>,
    /// Places of 32-bit distances to constants: where, and the number of the constant.
    constant_uses: Vec<(u32, u32)>,
    /// Tables of jumps: where the distance to the table is, and the range of `table_labels`.
    tables: Vec<(u32, u32, u32)>,
    table_labels: Vec<Label>,
    traps: Vec<(u32, Trap)>,
    addresses: Vec<(u32, u32)>,
    relocs: Vec<Reloc>,
}

impl Masm {
    /// Forgets the last function.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.labels.clear();
        self.constants.clear();
        self.constant_uses.clear();
        self.tables.clear();
        self.table_labels.clear();
        self.traps.clear();
        self.addresses.clear();
        self.relocs.clear();
    }

    /// Gives memory back if the last function took much: the tables grow with the code. Forgets it then.
    pub(crate) fn give_back_memory(&mut self) {
        if self.bytes.len() > MAX_KEPT_BYTES {
            *self = Self::default();
        }
    }

    /// How many bytes there are.
    #[inline]
    pub(crate) fn position(&self) -> u32 {
        self.len as u32
    }

    /// Appends the first `len` of `bytes`.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8; MAX_INSTRUCTION_BYTES], len: usize) {
        if self.len + MAX_INSTRUCTION_BYTES > self.bytes.len() {
            self.bytes.resize((self.bytes.len() * 2).max(4096), 0);
        }
        self.bytes[self.len..self.len + MAX_INSTRUCTION_BYTES].copy_from_slice(bytes);
        self.len += len;
    }

    /// Appends a few bytes.
    pub(crate) fn put_slice(&mut self, slice: &[u8]) {
        for chunk in slice.chunks(MAX_INSTRUCTION_BYTES) {
            let mut bytes = [0; MAX_INSTRUCTION_BYTES];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.put(&bytes, chunk.len());
        }
    }

    /// A label that is nowhere yet.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(LabelState { position: NOWHERE, last_use: NOWHERE });
        Label(self.labels.len() as u32 - 1)
    }

    /// Where a label is, if it is bound.
    pub(crate) fn bound(&self, label: Label) -> Option<u32> {
        let position = self.labels[label.0 as usize].position;
        (position != NOWHERE).then_some(position)
    }

    /// Whether something jumps to a label that is not bound yet.
    pub(crate) fn is_used(&self, label: Label) -> bool {
        self.labels[label.0 as usize].last_use != NOWHERE
    }

    /// Notes that a table of jumps has the label, so that it counts as used.
    fn note_use_by_table(&mut self, label: Label) {
        let state = &mut self.labels[label.0 as usize];
        if state.last_use == NOWHERE {
            state.last_use = NOWHERE - 1;
        }
    }

    /// The 4 bytes that come next are the distance to `label` from their end: gives what to write.
    #[inline]
    pub(crate) fn distance_to(&mut self, label: Label, place: u32) -> u32 {
        let state = &mut self.labels[label.0 as usize];
        if state.position != NOWHERE {
            return state.position.wrapping_sub(place + 4);
        }
        std::mem::replace(&mut state.last_use, place)
    }

    /// Binds a label here.
    pub(crate) fn bind(&mut self, label: Label) {
        let here = self.position();
        let state = &mut self.labels[label.0 as usize];
        state.position = here;
        let mut place = std::mem::replace(&mut state.last_use, NOWHERE);
        while place < NOWHERE - 1 {
            let next = self.read_u32(place);
            self.write_u32(place, here.wrapping_sub(place + 4));
            place = next;
        }
    }

    /// Binds a label that nothing jumps to yet at a place in code that is there already.
    pub(crate) fn bind_at(&mut self, label: Label, position: u32) {
        debug_assert!(!self.is_used(label));
        self.labels[label.0 as usize].position = position;
    }

    fn read_u32(&self, place: u32) -> u32 {
        let place = place as usize;
        u32::from_le_bytes([self.bytes[place], self.bytes[place + 1], self.bytes[place + 2], self.bytes[place + 3]])
    }

    /// Overwrites 4 bytes.
    pub(crate) fn write_u32(&mut self, place: u32, value: u32) {
        self.bytes[place as usize..place as usize + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Overwrites one byte.
    pub(crate) fn write_u8(&mut self, place: u32, value: u8) {
        self.bytes[place as usize] = value;
    }

    /// The byte at `place`.
    pub(crate) fn byte_at(&self, place: u32) -> u8 {
        self.bytes[place as usize]
    }

    /// Drops everything from `position` on, which no table knows of.
    pub(crate) fn rewind(&mut self, position: u32) {
        self.len = position as usize;
    }

    /// The number of a constant. All have 16 bytes and are aligned to that.
    pub(crate) fn constant(&mut self, value: u128) -> u32 {
        // The last ones only: looking at all would not be linear.
        let recent = self.constants.len().saturating_sub(32);
        if let Some(found) = self.constants[recent..].iter().position(|constant| *constant == value) {
            return (recent + found) as u32;
        }
        self.constants.push(value);
        self.constants.len() as u32 - 1
    }

    /// The number of the first of constants that follow each other.
    pub(crate) fn constants_in_a_row(&mut self, values: &[u128]) -> u32 {
        let recent = self.constants.len().saturating_sub(64);
        if let Some(found) = self.constants[recent..].windows(values.len()).position(|constants| constants == values) {
            return (recent + found) as u32;
        }
        self.constants.extend(values);
        (self.constants.len() - values.len()) as u32
    }

    /// The 4 bytes at `place` will be the distance to a constant from there; they already hold minus the number of bytes from `place` to
    /// the end of the instruction.
    pub(crate) fn use_constant(&mut self, place: u32, constant: u32) {
        self.constant_uses.push((place, constant));
    }

    /// The 4 bytes at `place` will be the distance from their end to a table of distances from its start to `labels`.
    pub(crate) fn use_table(&mut self, place: u32, labels: impl Iterator<Item = Label>) {
        let start = self.table_labels.len() as u32;
        self.table_labels.extend(labels);
        let end = self.table_labels.len() as u32;
        for position in start..end {
            self.note_use_by_table(self.table_labels[position as usize]);
        }
        self.tables.push((place, start, end));
    }

    /// The next instruction can trap.
    #[inline]
    pub(crate) fn trap_here(&mut self, trap: Trap) {
        self.traps.push((self.position(), trap));
    }

    /// What comes next is from `offset` in the body.
    #[inline]
    pub(crate) fn address_here(&mut self, offset: u32) {
        let position = self.position();
        match self.addresses.last_mut() {
            Some(last) if last.1 == offset => {}
            Some(last) if last.0 == position => last.1 = offset,
            _ => self.addresses.push((position, offset)),
        }
    }

    /// A place that the linker fills in.
    pub(crate) fn reloc(&mut self, reloc: Reloc) {
        self.relocs.push(reloc);
    }

    /// Appends constants and tables and gives the function.
    pub(crate) fn finish(&mut self, padding: u8) -> CompiledFunc {
        let tables = std::mem::take(&mut self.tables);
        for &(place, start, end) in &tables {
            self.align(4, padding);
            let base = self.position();
            self.write_u32(place, base.wrapping_sub(place + 4));
            for position in start..end {
                let label = self.table_labels[position as usize];
                let target = self.labels[label.0 as usize].position;
                self.put_slice(&target.wrapping_sub(base).to_le_bytes());
            }
        }
        self.tables = tables;
        if !self.constants.is_empty() {
            self.align(16, padding);
            let base = self.position();
            for position in 0..self.constants.len() {
                let bytes = self.constants[position].to_le_bytes();
                self.put(&bytes, 16);
            }
            for position in 0..self.constant_uses.len() {
                let (place, constant) = self.constant_uses[position];
                let tail = self.read_u32(place);
                self.write_u32(place, (base + constant * 16).wrapping_sub(place).wrapping_add(tail));
            }
        }
        CompiledFunc {
            code: self.bytes[..self.len].to_vec(),
            relocs: self.relocs.clone(),
            traps: self.traps.clone(),
            addresses: self.addresses.clone(),
            sites: Vec::new(),
            tier: CompilerKind::Baseline,
            line_offset: None,
        }
    }

    fn align(&mut self, align: u32, padding: u8) {
        while !self.position().is_multiple_of(align) {
            self.put_slice(&[padding]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_large_functions_is_not_kept() {
        let mut masm = Masm::default();
        masm.put_slice(&[0; 100]);
        masm.give_back_memory();
        assert_eq!((masm.position(), masm.bytes.capacity() > 0), (100, true));
        masm.put_slice(&vec![0; MAX_KEPT_BYTES]);
        masm.give_back_memory();
        assert_eq!((masm.position(), masm.bytes.capacity()), (0, 0));
    }
}
