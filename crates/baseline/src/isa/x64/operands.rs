//! What instructions of x86-64 are made of, besides registers: places in memory, and the families of operations. [`super::assembler`] encodes them.

use crate::operators::{IntegerCompare, IntegerOp, ShiftOp};
use crate::registers::Reg;

/// A place in memory: `base + index << scale + disp`, or a constant of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mem {
    pub(super) base: u8,
    pub(super) index: u8,
    pub(super) scale: u8,
    pub(super) disp: i32,
}

/// The index of a place without one.
pub(super) const NO_INDEX: u8 = 0xff;
/// The base of a place that is a constant of the function.
pub(super) const CONSTANT: u8 = 0xfe;

impl Mem {
    /// `base + disp`.
    pub(crate) const fn new(base: Reg, disp: i32) -> Self {
        Self { base: base.0, index: NO_INDEX, scale: 0, disp }
    }

    /// `base + (index << scale) + disp`.
    pub(crate) const fn indexed(base: Reg, index: Reg, scale: u8, disp: i32) -> Self {
        Self { base: base.0, index: index.0, scale, disp }
    }

    /// A constant of the function, by its number.
    pub(crate) const fn constant(number: u32) -> Self {
        Self { base: CONSTANT, index: NO_INDEX, scale: 0, disp: number as i32 }
    }

    /// So many bytes further on.
    pub(crate) const fn plus(self, bytes: i32) -> Self {
        Self { disp: self.disp + bytes, ..self }
    }
}

/// A register or a place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rm {
    /// A register.
    Reg(Reg),
    /// A place in memory.
    Mem(Mem),
}

impl From<Reg> for Rm {
    fn from(reg: Reg) -> Self {
        Self::Reg(reg)
    }
}

impl From<Mem> for Rm {
    fn from(mem: Mem) -> Self {
        Self::Mem(mem)
    }
}

/// Whether integers have 64 bits, not 32.
pub(crate) type Wide = bool;

/// The operations that `81 /n` and its relatives have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Alu {
    Add = 0,
    Or = 1,
    Adc = 2,
    Sbb = 3,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// The operations that `c1 /n` and its relatives have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

impl From<IntegerOp> for Alu {
    fn from(op: IntegerOp) -> Self {
        match op {
            IntegerOp::Add => Self::Add,
            IntegerOp::Sub => Self::Sub,
            IntegerOp::And => Self::And,
            IntegerOp::Or => Self::Or,
            IntegerOp::Xor => Self::Xor,
        }
    }
}

impl From<ShiftOp> for Shift {
    fn from(op: ShiftOp) -> Self {
        match op {
            ShiftOp::Left => Self::Shl,
            ShiftOp::RightSigned => Self::Sar,
            ShiftOp::RightUnsigned => Self::Shr,
            ShiftOp::RotateLeft => Self::Rol,
            ShiftOp::RotateRight => Self::Ror,
        }
    }
}

impl From<IntegerCompare> for Cc {
    fn from(compare: IntegerCompare) -> Self {
        match compare {
            IntegerCompare::Equal => Self::E,
            IntegerCompare::NotEqual => Self::Ne,
            IntegerCompare::LessSigned => Self::L,
            IntegerCompare::LessUnsigned => Self::B,
            IntegerCompare::GreaterSigned => Self::G,
            IntegerCompare::GreaterUnsigned => Self::A,
            IntegerCompare::LessOrEqualSigned => Self::Le,
            IntegerCompare::LessOrEqualUnsigned => Self::Be,
            IntegerCompare::GreaterOrEqualSigned => Self::Ge,
            IntegerCompare::GreaterOrEqualUnsigned => Self::Ae,
        }
    }
}

/// Conditions of flags, by their number in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cc {
    O = 0,
    No = 1,
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    S = 8,
    Ns = 9,
    P = 10,
    Np = 11,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

impl Cc {
    /// The condition that holds when this one does not.
    pub(crate) const fn inverted(self) -> Self {
        match self {
            Self::O => Self::No,
            Self::No => Self::O,
            Self::B => Self::Ae,
            Self::Ae => Self::B,
            Self::E => Self::Ne,
            Self::Ne => Self::E,
            Self::Be => Self::A,
            Self::A => Self::Be,
            Self::S => Self::Ns,
            Self::Ns => Self::S,
            Self::P => Self::Np,
            Self::Np => Self::P,
            Self::L => Self::Ge,
            Self::Ge => Self::L,
            Self::Le => Self::G,
            Self::G => Self::Le,
        }
    }
}

/// Which bytes an instruction with SSE operands begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sse {
    /// 0, 0x66, 0xf2 or 0xf3.
    pub prefix: u8,
    /// 1: `0f`, 2: `0f 38`, 3: `0f 3a`.
    pub map: u8,
    /// The opcode.
    pub opcode: u8,
}

impl Sse {
    /// `prefix 0f opcode`; a prefix of 0 is none.
    pub(crate) const fn new(prefix: u8, opcode: u8) -> Self {
        Self { prefix, map: 1, opcode }
    }

    /// `66 0f 38 opcode`.
    pub(crate) const fn map38(opcode: u8) -> Self {
        Self { prefix: 0x66, map: 2, opcode }
    }

    /// `66 0f 3a opcode`.
    pub(crate) const fn map3a(opcode: u8) -> Self {
        Self { prefix: 0x66, map: 3, opcode }
    }
}
