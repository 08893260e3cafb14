//! The operators that random programs compute with, by the type of their result.

use wasm_encoder::Instruction::{self, *};
use wasm_encoder::ValType;

/// Types of values in random programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ty {
    I32,
    I64,
    F32,
    F64,
    V128,
}

use Ty::{F32, F64, I32, I64, V128};

impl Ty {
    pub(super) const ALL: [Self; 5] = [I32, I64, F32, F64, V128];

    pub(super) fn val_type(self) -> ValType {
        match self {
            I32 => ValType::I32,
            I64 => ValType::I64,
            F32 => ValType::F32,
            F64 => ValType::F64,
            V128 => ValType::V128,
        }
    }
}

/// What the result of an operator may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nan {
    Never,
    F32,
    F64,
    F32x4,
    F64x2,
}

/// Operators of one shape.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) params: &'static [Ty],
    pub(super) nan: Nan,
    pub(super) operators: &'static [Instruction<'static>],
}

const fn shape(params: &'static [Ty], nan: Nan, operators: &'static [Instruction<'static>]) -> Shape {
    Shape { params, nan, operators }
}

/// Operators that give `ty` and do not trap.
pub(super) fn shapes(ty: Ty) -> &'static [Shape] {
    match ty {
        I32 => GIVE_I32,
        I64 => GIVE_I64,
        F32 => GIVE_F32,
        F64 => GIVE_F64,
        V128 => GIVE_V128,
    }
}

/// Operators that trap for some operands; two operands of the type of the result, or one of a float.
pub(super) fn trapping(ty: Ty) -> &'static [Shape] {
    match ty {
        I32 => TRAP_I32,
        I64 => TRAP_I64,
        _ => &[],
    }
}

const TRAP_I32: &[Shape] = &[
    shape(&[I32, I32], Nan::Never, &[I32DivS, I32DivU, I32RemS, I32RemU]),
    shape(&[F32], Nan::Never, &[I32TruncF32S, I32TruncF32U]),
    shape(&[F64], Nan::Never, &[I32TruncF64S, I32TruncF64U]),
];

const TRAP_I64: &[Shape] = &[
    shape(&[I64, I64], Nan::Never, &[I64DivS, I64DivU, I64RemS, I64RemU]),
    shape(&[F32], Nan::Never, &[I64TruncF32S, I64TruncF32U]),
    shape(&[F64], Nan::Never, &[I64TruncF64S, I64TruncF64U]),
];

const GIVE_I32: &[Shape] = &[
    shape(&[I32, I32], Nan::Never, &[I32Add, I32Sub, I32Mul, I32And, I32Or, I32Xor, I32Shl, I32ShrS, I32ShrU, I32Rotl, I32Rotr]),
    shape(&[I32, I32], Nan::Never, &[I32Eq, I32Ne, I32LtS, I32LtU, I32GtS, I32GtU, I32LeS, I32LeU, I32GeS, I32GeU]),
    shape(&[I32], Nan::Never, &[I32Eqz, I32Clz, I32Ctz, I32Popcnt, I32Extend8S, I32Extend16S]),
    shape(&[I64, I64], Nan::Never, &[I64Eq, I64Ne, I64LtS, I64LtU, I64GtS, I64GtU, I64LeS, I64LeU, I64GeS, I64GeU]),
    shape(&[I64], Nan::Never, &[I32WrapI64, I64Eqz]),
    shape(&[F32, F32], Nan::Never, &[F32Eq, F32Ne, F32Lt, F32Gt, F32Le, F32Ge]),
    shape(&[F64, F64], Nan::Never, &[F64Eq, F64Ne, F64Lt, F64Gt, F64Le, F64Ge]),
    shape(&[F32], Nan::Never, &[I32ReinterpretF32, I32TruncSatF32S, I32TruncSatF32U]),
    shape(&[F64], Nan::Never, &[I32TruncSatF64S, I32TruncSatF64U]),
    shape(
        &[V128],
        Nan::Never,
        &[
            V128AnyTrue,
            I8x16AllTrue,
            I16x8AllTrue,
            I32x4AllTrue,
            I64x2AllTrue,
            I8x16Bitmask,
            I16x8Bitmask,
            I32x4Bitmask,
            I64x2Bitmask,
            I8x16ExtractLaneS(3),
            I8x16ExtractLaneU(15),
            I16x8ExtractLaneS(0),
            I16x8ExtractLaneU(7),
            I32x4ExtractLane(1),
        ],
    ),
];

const GIVE_I64: &[Shape] = &[
    shape(&[I64, I64], Nan::Never, &[I64Add, I64Sub, I64Mul, I64And, I64Or, I64Xor, I64Shl, I64ShrS, I64ShrU, I64Rotl, I64Rotr]),
    shape(&[I64], Nan::Never, &[I64Clz, I64Ctz, I64Popcnt, I64Extend8S, I64Extend16S, I64Extend32S]),
    shape(&[I32], Nan::Never, &[I64ExtendI32S, I64ExtendI32U]),
    shape(&[F32], Nan::Never, &[I64TruncSatF32S, I64TruncSatF32U]),
    shape(&[F64], Nan::Never, &[I64ReinterpretF64, I64TruncSatF64S, I64TruncSatF64U]),
    shape(&[V128], Nan::Never, &[I64x2ExtractLane(0), I64x2ExtractLane(1)]),
];

const GIVE_F32: &[Shape] = &[
    shape(&[F32, F32], Nan::F32, &[F32Add, F32Sub, F32Mul, F32Div, F32Min, F32Max]),
    shape(&[F32], Nan::F32, &[F32Sqrt, F32Ceil, F32Floor, F32Trunc, F32Nearest]),
    shape(&[F32], Nan::Never, &[F32Abs, F32Neg]),
    shape(&[F32, F32], Nan::Never, &[F32Copysign]),
    shape(&[I32], Nan::Never, &[F32ConvertI32S, F32ConvertI32U, F32ReinterpretI32]),
    shape(&[I64], Nan::Never, &[F32ConvertI64S, F32ConvertI64U]),
    shape(&[F64], Nan::F32, &[F32DemoteF64]),
    shape(&[V128], Nan::Never, &[F32x4ExtractLane(0), F32x4ExtractLane(2)]),
];

const GIVE_F64: &[Shape] = &[
    shape(&[F64, F64], Nan::F64, &[F64Add, F64Sub, F64Mul, F64Div, F64Min, F64Max]),
    shape(&[F64], Nan::F64, &[F64Sqrt, F64Ceil, F64Floor, F64Trunc, F64Nearest]),
    shape(&[F64], Nan::Never, &[F64Abs, F64Neg]),
    shape(&[F64, F64], Nan::Never, &[F64Copysign]),
    shape(&[I32], Nan::Never, &[F64ConvertI32S, F64ConvertI32U]),
    shape(&[I64], Nan::Never, &[F64ConvertI64S, F64ConvertI64U, F64ReinterpretI64]),
    shape(&[F32], Nan::F64, &[F64PromoteF32]),
    shape(&[V128], Nan::Never, &[F64x2ExtractLane(0), F64x2ExtractLane(1)]),
];

const GIVE_V128: &[Shape] = &[
    shape(
        &[V128, V128],
        Nan::Never,
        &[
            I8x16Add,
            I8x16Sub,
            I8x16AddSatS,
            I8x16SubSatU,
            I8x16MinS,
            I8x16MaxU,
            I8x16Eq,
            I8x16LtS,
            I8x16GtU,
            I8x16Swizzle,
            I8x16NarrowI16x8S,
            I16x8Add,
            I16x8Sub,
            I16x8Mul,
            I16x8Eq,
            I16x8GtS,
            I16x8LeU,
            I16x8ExtMulLowI8x16S,
            I16x8Q15MulrSatS,
            I16x8NarrowI32x4U,
            I32x4Add,
            I32x4Sub,
            I32x4Mul,
            I32x4DotI16x8S,
            I32x4Eq,
            I32x4LtU,
            I32x4MaxS,
            I64x2Add,
            I64x2Sub,
            I64x2Mul,
            I64x2Eq,
            I64x2GtS,
            I64x2ExtMulHighI32x4U,
            V128And,
            V128AndNot,
            V128Or,
            V128Xor,
            F32x4Lt,
            F64x2Ge,
            F32x4PMin,
            F64x2PMax,
            I8x16Shuffle([0, 17, 2, 19, 4, 21, 6, 23, 31, 8, 29, 10, 11, 12, 13, 30]),
            I8x16Shuffle([3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12]),
        ],
    ),
    shape(
        &[V128],
        Nan::Never,
        &[
            V128Not,
            I8x16Abs,
            I8x16Neg,
            I8x16Popcnt,
            I16x8Abs,
            I16x8ExtAddPairwiseI8x16U,
            I16x8ExtendHighI8x16S,
            I32x4Neg,
            I32x4ExtendLowI16x8U,
            I32x4TruncSatF32x4S,
            I32x4TruncSatF64x2UZero,
            I64x2Abs,
            I64x2ExtendLowI32x4S,
            F32x4Abs,
            F64x2Neg,
            F32x4ConvertI32x4U,
            F64x2ConvertLowI32x4S,
        ],
    ),
    shape(&[V128, I32], Nan::Never, &[I8x16Shl, I8x16ShrS, I16x8ShrU, I32x4Shl, I64x2ShrS, I8x16ReplaceLane(5), I32x4ReplaceLane(3)]),
    shape(&[V128, V128, V128], Nan::Never, &[V128Bitselect]),
    shape(&[V128, I64], Nan::Never, &[I64x2ReplaceLane(1)]),
    shape(&[V128, F32], Nan::Never, &[F32x4ReplaceLane(2)]),
    shape(&[V128, F64], Nan::Never, &[F64x2ReplaceLane(0)]),
    shape(&[I32], Nan::Never, &[I8x16Splat, I16x8Splat, I32x4Splat]),
    shape(&[I64], Nan::Never, &[I64x2Splat]),
    shape(&[F32], Nan::Never, &[F32x4Splat]),
    shape(&[F64], Nan::Never, &[F64x2Splat]),
    shape(&[V128, V128], Nan::F32x4, &[F32x4Add, F32x4Sub, F32x4Mul, F32x4Div, F32x4Min, F32x4Max]),
    shape(&[V128, V128], Nan::F64x2, &[F64x2Add, F64x2Sub, F64x2Mul, F64x2Div, F64x2Min, F64x2Max]),
    shape(&[V128], Nan::F32x4, &[F32x4Sqrt, F32x4Ceil, F32x4Nearest, F32x4DemoteF64x2Zero]),
    shape(&[V128], Nan::F64x2, &[F64x2Sqrt, F64x2Floor, F64x2Trunc, F64x2PromoteLowF32x4]),
];
