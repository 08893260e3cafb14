//! Constant expressions: from instructions to the shortest list of operations. Core specification, section 3.4.12.
//!
//! Folding happens while the instructions are read, by looking at the end of the list only, so that it takes linear time and the list is
//! never longer than the expression. Since the list is in postfix order, two constants at its end are the two operands of the
//! operation that comes next.

use crate::errors::{self, limit, unsupported};
use crate::types;
use peregrine_artifact::compiler::CompileError;
use peregrine_wasm::{ConstExpr, ConstOp, FuncIndex, Global, GlobalIndex, IndexVec, ModuleLimits};
use wasmparser::Operator;

/// Reads and folds constant expressions of one module. Keeps its memory from one to the next.
#[derive(Default)]
pub(crate) struct ConstExprFolder {
    ops: Vec<ConstOp>,
}

impl ConstExprFolder {
    /// Folds the valid expression `expr`. `globals` are those it may read; the ones that never change and are known are replaced by their
    /// values. Calls `escapes` for every function that the expression refers to.
    pub(crate) fn fold(
        &mut self,
        expr: &wasmparser::ConstExpr<'_>,
        globals: &IndexVec<GlobalIndex, Global>,
        limits: &ModuleLimits,
        mut escapes: impl FnMut(FuncIndex),
    ) -> Result<ConstExpr, CompileError> {
        if let Some(value) = single_i32(expr) {
            return Ok(ConstExpr::One(ConstOp::I32Const(value)));
        }
        self.ops.clear();
        let mut reader = expr.get_operators_reader();
        loop {
            let (operator, offset) = reader.read_with_offset().map_err(errors::from_parser)?;
            let op = match operator {
                Operator::End => break,
                Operator::I32Const { value } => ConstOp::I32Const(value),
                Operator::I64Const { value } => ConstOp::I64Const(value),
                Operator::F32Const { value } => ConstOp::F32Const(value.bits()),
                Operator::F64Const { value } => ConstOp::F64Const(value.bits()),
                Operator::V128Const { value } => ConstOp::V128Const(u128::from_le_bytes(*value.bytes())),
                Operator::GlobalGet { global_index } => known_value(globals, GlobalIndex::from_u32(global_index)),
                Operator::RefNull { hty } if types::heap_type(hty)?.is_func() => ConstOp::RefNullFunc,
                Operator::RefNull { .. } => ConstOp::RefNullExtern,
                Operator::RefFunc { function_index } => ConstOp::RefFunc(FuncIndex::from_u32(function_index)),
                Operator::I32Add => ConstOp::I32Add,
                Operator::I32Sub => ConstOp::I32Sub,
                Operator::I32Mul => ConstOp::I32Mul,
                Operator::I64Add => ConstOp::I64Add,
                Operator::I64Sub => ConstOp::I64Sub,
                Operator::I64Mul => ConstOp::I64Mul,
                _ => {
                    let detail = format_args!("an instruction in a constant expression (at offset {offset:#x})");
                    return Err(unsupported("garbage collection", detail));
                }
            };
            if let ConstOp::RefFunc(index) = op {
                escapes(index);
            }
            push(&mut self.ops, op);
        }
        match self.ops[..] {
            [op] => Ok(ConstExpr::One(op)),
            ref ops if ops.len() > limits.max_const_ops => {
                let start = expr.get_binary_reader().original_position();
                let what = format_args!("operations of the constant expression at offset {start:#x}");
                Err(limit(what, "max_const_ops", limits.max_const_ops, ops.len()))
            }
            ref ops => Ok(ConstExpr::Many(ops.into())),
        }
    }
}

/// The value of a valid expression that is one `i32.const`: what most are, of which some modules have tens of thousands.
fn single_i32(expr: &wasmparser::ConstExpr<'_>) -> Option<i32> {
    const I32_CONST: u8 = 0x41;
    const END: u8 = 0x0b;
    let mut reader = expr.get_binary_reader();
    if reader.read_u8().ok()? != I32_CONST {
        return None;
    }
    let value = reader.read_var_i32().ok()?;
    (reader.read_u8().ok()? == END && reader.eof()).then_some(value)
}

/// What reading a global gives: its value, if that is known and never changes.
fn known_value(globals: &IndexVec<GlobalIndex, Global>, index: GlobalIndex) -> ConstOp {
    match globals.get(index) {
        Some(Global { ty, init: Some(ConstExpr::One(value)) }) if !ty.mutable => *value,
        _ => ConstOp::GlobalGet(index),
    }
}

/// Appends `op`, folded with what is before it.
fn push(ops: &mut Vec<ConstOp>, op: ConstOp) {
    use ConstOp::*;
    // `x - c` is `x + -c`, so that chains of both fold.
    let op = match (op, ops.last_mut()) {
        (I32Sub, Some(I32Const(value))) => {
            *value = value.wrapping_neg();
            I32Add
        }
        (I64Sub, Some(I64Const(value))) => {
            *value = value.wrapping_neg();
            I64Add
        }
        _ => op,
    };
    let kept = match (op, ops.as_mut_slice()) {
        (I32Add, [.., I32Const(a), I32Const(b)]) => {
            *a = a.wrapping_add(*b);
            ops.len() - 1
        }
        (I32Mul, [.., I32Const(a), I32Const(b)]) => {
            *a = a.wrapping_mul(*b);
            ops.len() - 1
        }
        (I64Add, [.., I64Const(a), I64Const(b)]) => {
            *a = a.wrapping_add(*b);
            ops.len() - 1
        }
        (I64Mul, [.., I64Const(a), I64Const(b)]) => {
            *a = a.wrapping_mul(*b);
            ops.len() - 1
        }
        // `x + a + b` is `x + (a + b)`.
        (I32Add, [.., I32Const(a), I32Add, I32Const(b)]) => {
            *a = a.wrapping_add(*b);
            ops.len() - 1
        }
        (I64Add, [.., I64Const(a), I64Add, I64Const(b)]) => {
            *a = a.wrapping_add(*b);
            ops.len() - 1
        }
        _ => {
            ops.push(op);
            return;
        }
    };
    ops.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConstOp::*;

    #[track_caller]
    fn check(input: &[ConstOp], expect: &[ConstOp]) {
        let mut ops = Vec::new();
        input.iter().for_each(|op| push(&mut ops, *op));
        assert_eq!(ops, expect);
    }

    const G: ConstOp = GlobalGet(GlobalIndex::from_u32(0));

    #[test]
    fn constants_fold_whatever_the_nesting() {
        check(&[I32Const(2), I32Const(3), I32Add], &[I32Const(5)]);
        check(&[I32Const(2), I32Const(3), I32Sub], &[I32Const(-1)]);
        check(&[I32Const(1), I32Const(2), I32Const(3), I32Mul, I32Sub], &[I32Const(-5)]);
        check(&[I64Const(i64::MAX), I64Const(1), I64Add], &[I64Const(i64::MIN)]);
        check(&[I64Const(7), I64Const(6), I64Mul, I64Const(2), I64Sub], &[I64Const(40)]);
        check(&[I32Const(0), I32Const(i32::MIN), I32Sub], &[I32Const(i32::MIN)]);
    }

    #[test]
    fn chains_on_a_global_fold() {
        check(&[G, I32Const(1), I32Add, I32Const(2), I32Add, I32Const(5), I32Sub], &[G, I32Const(-2), I32Add]);
        check(&[I32Const(1), G, I32Add, I32Const(2), I32Add], &[I32Const(1), G, I32Add, I32Const(2), I32Add]);
        check(&[G, I32Const(1), I32Add, I32Const(2), I32Mul], &[G, I32Const(1), I32Add, I32Const(2), I32Mul]);
        check(&[G, I64Const(1), I64Add, I64Const(2), I64Add], &[G, I64Const(3), I64Add]);
    }
}
