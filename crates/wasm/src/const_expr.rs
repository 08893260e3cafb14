//! Constant expressions, folded as far as they can be before anything is instantiated.
//! Core specification, section 3.4.12 (extended constants included).

use crate::{FuncIndex, GlobalIndex};
use serde::{Deserialize, Serialize};

/// One constant expression as a list of stack operations. Whatever does not read a global is folded by the frontend, so that
/// the usual expression is one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConstExpr {
    /// The usual case: one operation, no list.
    One(ConstOp),
    /// Operations in postfix order, at least two.
    Many(Box<[ConstOp]>),
}

/// One operation of a constant expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConstOp {
    /// Pushes an `i32`.
    I32Const(i32),
    /// Pushes an `i64`.
    I64Const(i64),
    /// Pushes an `f32`, given as bits.
    F32Const(u32),
    /// Pushes an `f64`, given as bits.
    F64Const(u64),
    /// Pushes a `v128`, given as the number whose little-endian bytes are its lanes.
    V128Const(u128),
    /// Pushes the value of a global.
    GlobalGet(GlobalIndex),
    /// Pushes a null function reference.
    RefNullFunc,
    /// Pushes a null host or collected reference.
    RefNullExtern,
    /// Pushes a reference to a function.
    RefFunc(FuncIndex),
    /// Pops two `i32`, pushes their sum.
    I32Add,
    /// Pops two `i32`, pushes their difference.
    I32Sub,
    /// Pops two `i32`, pushes their product.
    I32Mul,
    /// Pops two `i64`, pushes their sum.
    I64Add,
    /// Pops two `i64`, pushes their difference.
    I64Sub,
    /// Pops two `i64`, pushes their product.
    I64Mul,
}

impl ConstExpr {
    /// The operations in postfix order.
    pub fn ops(&self) -> &[ConstOp] {
        match self {
            Self::One(op) => std::slice::from_ref(op),
            Self::Many(ops) => ops,
        }
    }

    /// The unsigned value, if the expression is a constant `i32` or `i64`: what the offset of a segment means.
    pub fn as_offset(&self) -> Option<u64> {
        match self {
            Self::One(ConstOp::I32Const(value)) => Some(u64::from(*value as u32)),
            Self::One(ConstOp::I64Const(value)) => Some(*value as u64),
            _ => None,
        }
    }
}
