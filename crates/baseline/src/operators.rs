//! What operators do, as the walk over them tells it to the processor's folder.

/// Operators on two integers that change no flags that anybody sees, and do not trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntegerOp {
    Add,
    Sub,
    And,
    Or,
    Xor,
}

/// Operators on pairs of integers that stand for one of twice the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WideOp {
    Add,
    Sub,
}

/// Shifts and rotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShiftOp {
    Left,
    RightSigned,
    RightUnsigned,
    RotateLeft,
    RotateRight,
}

/// Comparisons of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntegerCompare {
    Equal,
    NotEqual,
    LessSigned,
    LessUnsigned,
    GreaterSigned,
    GreaterUnsigned,
    LessOrEqualSigned,
    LessOrEqualUnsigned,
    GreaterOrEqualSigned,
    GreaterOrEqualUnsigned,
}

/// Operators on two floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatOp {
    Add,
    Sub,
    Mul,
    Div,
}

/// Ways to round a float to an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Ceil,
    Floor,
    Trunc,
    /// To the nearest one, of two as near ones to the even one.
    Nearest,
}

/// Comparisons of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatCompare {
    Equal,
    NotEqual,
    Less,
    Greater,
    LessOrEqual,
    GreaterOrEqual,
}

/// How a load makes a value of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// All bytes of the type.
    Whole,
    /// 1 byte.
    U8,
    /// 1 byte, sign-extended.
    S8,
    /// 2 bytes.
    U16,
    /// 2 bytes, sign-extended.
    S16,
    /// 4 bytes.
    U32,
    /// 4 bytes, sign-extended.
    S32,
}
