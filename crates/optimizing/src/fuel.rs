//! What Cranelift makes of the fuel counter's register, in one instruction instead of three.
//!
//! Adding to the counter is a move from its register, an addition, and a move back; looking at it is a move and a comparison. Lowering keeps
//! the register apart from those that it allocates, so that it cannot do better. [`mark`] gives those instructions a place of their own
//! before lowering, by which [`shorten`] finds them in the code: it writes one instruction over each sequence, made as long by prefixes that mean
//! nothing. Nothing else reads the registers that are no longer written. On x86-64 only; elsewhere the counter has no register.

use cranelift_codegen::CompiledCode;
use cranelift_codegen::ir::{Function, Inst, Opcode, SourceLoc, Value, ValueDef};
use std::collections::HashMap;

/// The place of instructions that count: not in any body, and none of an inlined one.
const PLACE: u32 = (1 << 31) - 1;

/// A prefix without a meaning in 64-bit code.
const PADDING: u8 = 0x2e;

/// Whether a place is that of instructions that count.
pub(crate) fn is_counting(place: SourceLoc) -> bool {
    place.bits() == PLACE
}

/// Marks what reads and writes the register of the counter, where what is read and added has no other use.
pub(crate) fn mark(func: &mut Function) {
    let mut uses: HashMap<Value, u32> = HashMap::new();
    let mut found: Vec<(Inst, Value)> = Vec::new();
    for inst in func.layout.blocks().flat_map(|block| func.layout.block_insts(block)) {
        for value in func.dfg.inst_values(inst) {
            *uses.entry(func.dfg.resolve_aliases(value)).or_default() += 1;
        }
        match func.dfg.insts[inst].opcode() {
            Opcode::GetPinnedReg => found.push((inst, func.dfg.first_result(inst))),
            Opcode::SetPinnedReg => {
                let value = func.dfg.resolve_aliases(func.dfg.inst_args(inst)[0]);
                found.push((inst, value));
                if let ValueDef::Result(sum, 0) = func.dfg.value_def(value)
                    && func.dfg.insts[sum].opcode() == Opcode::Iadd
                {
                    found.push((sum, value));
                }
            }
            _ => {}
        }
    }
    for (inst, value) in found {
        if uses.get(&value).is_some_and(|uses| *uses == 1) {
            func.set_srcloc(inst, SourceLoc::new(PLACE));
        }
    }
}

/// Rewrites what [`mark`] marked, in code for x86-64. Its length stays.
pub(crate) fn shorten(code: &mut [u8], compiled: &CompiledCode) {
    for range in compiled.buffer.get_srclocs_sorted().iter().filter(|range| is_counting(range.loc)) {
        let mut at = range.start as usize;
        while at < range.end as usize {
            let Some((len, better)) = at_start(&code[at..]) else { break };
            let (padding, instruction) = code[at..at + len].split_at_mut(len - better.len());
            padding.fill(PADDING);
            instruction.copy_from_slice(&better);
            at += len;
        }
    }
}

/// The register of the counter.
const COUNTER: u8 = 15;

/// What is at the start of `code`, if it is one of the sequences: its length and the instruction that does the same.
fn at_start(code: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (moved, copy) = move_between(code)?;
    if copy.source != COUNTER {
        return None;
    }
    let rest = &code[moved..];
    if let Some((compared, register)) = self_test(rest) {
        // test r15, r15
        return (register == copy.target).then(|| (moved + compared, vec![0x4d, 0x85, 0xff]));
    }
    let (added, sum) = addition(rest)?;
    let (back, copied) = move_between(&rest[added..])?;
    let fits = sum.source == copy.target && copied.source == sum.target && copied.target == COUNTER;
    // add r15, imm32
    let better = [&[0x49, 0x81, 0xc7], &sum.constant.to_le_bytes()[..]].concat();
    fits.then_some((moved + added + back, better))
}

struct Move {
    source: u8,
    target: u8,
}

struct Sum {
    source: u8,
    target: u8,
    constant: i32,
}

/// The prefix for 64 bits, and the bits that it adds to the registers `reg` and `rm`.
fn wide(prefix: u8) -> Option<(u8, u8)> {
    (prefix & 0xfa == 0x48).then_some(((prefix & 4) << 1, (prefix & 1) << 3))
}

/// `mov target, source`, and its length.
fn move_between(code: &[u8]) -> Option<(usize, Move)> {
    let &[prefix, 0x89, registers @ 0xc0..=0xff] = code.first_chunk()? else { return None };
    let (reg, rm) = wide(prefix)?;
    Some((3, Move { source: registers >> 3 & 7 | reg, target: registers & 7 | rm }))
}

/// `test register, register`, and its length.
fn self_test(code: &[u8]) -> Option<(usize, u8)> {
    let &[prefix, 0x85, registers @ 0xc0..=0xff] = code.first_chunk()? else { return None };
    let (reg, rm) = wide(prefix)?;
    let (left, right) = (registers & 7 | rm, registers >> 3 & 7 | reg);
    (left == right).then_some((3, left))
}

/// `add register, constant` or `lea target, [source + constant]`, and its length.
fn addition(code: &[u8]) -> Option<(usize, Sum)> {
    let &[prefix, opcode, operands] = code.first_chunk()?;
    let (reg, rm) = wide(prefix)?;
    let (high, low) = (operands >> 3 & 7 | reg, operands & 7 | rm);
    let short = || code.get(3).map(|byte| i32::from(*byte as i8));
    let long = || Some(i32::from_le_bytes(*code.get(3..)?.first_chunk()?));
    let (len, source, target, constant) = match (opcode, operands >> 6, operands >> 3 & 7) {
        (0x83, 3, 0) => (4, low, low, short()?),
        (0x81, 3, 0) => (7, low, low, long()?),
        // Not where another byte says what the base is.
        (0x8d, 1, _) if operands & 7 != 4 => (4, low, high, short()?),
        (0x8d, 2, _) if operands & 7 != 4 => (7, low, high, long()?),
        _ => return None,
    };
    Some((len, Sum { source, target, constant }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_recognized() {
        // mov rax, r15; add rax, 0x17; mov r15, rax
        let long = [0x4c, 0x89, 0xf8, 0x48, 0x81, 0xc0, 0x17, 0, 0, 0, 0x49, 0x89, 0xc7];
        assert_eq!(at_start(&long), Some((13, vec![0x49, 0x81, 0xc7, 0x17, 0, 0, 0])));
        // mov r9, r15; lea r10, [r9-1]; mov r15, r10
        let short = [0x4d, 0x89, 0xf9, 0x4d, 0x8d, 0x51, 0xff, 0x4d, 0x89, 0xd7];
        assert_eq!(at_start(&short), Some((10, vec![0x49, 0x81, 0xc7, 0xff, 0xff, 0xff, 0xff])));
        // mov r9, r15; test r9, r9
        assert_eq!(at_start(&[0x4d, 0x89, 0xf9, 0x4d, 0x85, 0xc9, 0x0f]), Some((6, vec![0x4d, 0x85, 0xff])));
    }

    #[test]
    fn others_stay() {
        // mov rax, r14; test rax, rax
        assert_eq!(at_start(&[0x4c, 0x89, 0xf0, 0x48, 0x85, 0xc0]), None);
        // mov rax, r15; test rcx, rcx
        assert_eq!(at_start(&[0x4c, 0x89, 0xf8, 0x48, 0x85, 0xc9]), None);
        // mov rax, r15; add rax, 1; mov r14, rax
        assert_eq!(at_start(&[0x4c, 0x89, 0xf8, 0x48, 0x83, 0xc0, 1, 0x49, 0x89, 0xc6]), None);
        // mov rax, r15; add rcx, 1; mov r15, rcx
        assert_eq!(at_start(&[0x4c, 0x89, 0xf8, 0x48, 0x83, 0xc1, 1, 0x49, 0x89, 0xcf]), None);
        // mov rax, r15; and no more.
        assert_eq!(at_start(&[0x4c, 0x89, 0xf8]), None);
        assert_eq!(at_start(&[0x4c, 0x89]), None);
    }
}
