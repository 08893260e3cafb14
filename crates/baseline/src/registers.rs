//! Machine registers as numbers, sets of them, and who holds which at a moment.
//!
//! Numbers below 16 are registers for integers and pointers, those from 16 for floats and vectors. Which registers there are and what
//! they are for is said by the processor's folder.

/// A machine register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(pub u8);

impl Reg {
    /// Whether it holds floats and vectors.
    pub(crate) const fn is_vector(self) -> bool {
        self.0 >= 16
    }

    /// The number within its kind.
    pub(crate) const fn number(self) -> u8 {
        self.0 & 15
    }

    /// The set of this register alone.
    pub(crate) const fn set(self) -> RegSet {
        RegSet(1 << self.0)
    }
}

/// A set of registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegSet(pub u32);

impl RegSet {
    /// No register.
    pub(crate) const EMPTY: Self = Self(0);

    /// The set of all of `regs`.
    pub(crate) const fn of(regs: &[Reg]) -> Self {
        let mut bits = 0;
        let mut position = 0;
        while position < regs.len() {
            bits |= 1 << regs[position].0;
            position += 1;
        }
        Self(bits)
    }

    /// Whether `reg` is in the set.
    pub(crate) const fn has(self, reg: Reg) -> bool {
        self.0 >> reg.0 & 1 != 0
    }

    /// With `reg`.
    pub(crate) const fn with(self, reg: Reg) -> Self {
        Self(self.0 | 1 << reg.0)
    }

    /// Without `reg`.
    pub(crate) const fn without(self, reg: Reg) -> Self {
        Self(self.0 & !(1 << reg.0))
    }

    /// In both.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// In either.
    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In this one only.
    pub(crate) const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The register with the lowest number.
    pub(crate) const fn first(self) -> Option<Reg> {
        if self.0 == 0 { None } else { Some(Reg(self.0.trailing_zeros() as u8)) }
    }
}

impl Iterator for RegSet {
    type Item = Reg;

    fn next(&mut self) -> Option<Reg> {
        let reg = self.first()?;
        self.0 &= self.0 - 1;
        Some(reg)
    }
}

/// Nobody on the operand stack.
pub(crate) const NO_OWNER: u32 = u32::MAX;

/// Which of the registers for temporary values are free, and which operands are in the others.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    /// Registers for temporary values. The others belong to locals or have a fixed use.
    pub temporaries: RegSet,
    /// Those of them that hold nothing.
    pub free: RegSet,
    /// For each register the position of the operand that is in it, or [`NO_OWNER`]: then the instruction being translated uses it.
    owners: [u32; 32],
}

impl Registers {
    /// All of `temporaries` are free.
    pub(crate) fn new(temporaries: RegSet) -> Self {
        Self { temporaries, free: temporaries, owners: [NO_OWNER; 32] }
    }

    /// Gives back a register that holds a temporary value; nothing if it belongs to a local.
    #[inline]
    pub(crate) fn release(&mut self, reg: Reg) {
        self.free = self.free.or(reg.set().and(self.temporaries));
    }

    /// Whether `reg` is for temporary values, so that an instruction that has it for an operand may overwrite it.
    #[inline]
    pub(crate) fn is_temporary(&self, reg: Reg) -> bool {
        self.temporaries.has(reg)
    }

    /// Says that `reg` holds the operand at `position`, or something that the instruction being translated uses.
    #[inline]
    pub(crate) fn hold(&mut self, reg: Reg, position: u32) {
        self.free = self.free.without(reg);
        self.owners[reg.0 as usize] = position;
    }

    /// The position of the operand in `reg`.
    #[inline]
    pub(crate) fn owner(&self, reg: Reg) -> u32 {
        self.owners[reg.0 as usize]
    }

    /// Among the registers of `kind` that hold operands the one whose operand is deepest: the last to be needed.
    pub(crate) fn deepest(&self, kind: RegSet) -> Option<Reg> {
        self.held().and(kind).filter(|reg| self.owner(*reg) != NO_OWNER).min_by_key(|reg| self.owner(*reg))
    }

    /// Registers for temporary values that are not free.
    #[inline]
    pub(crate) fn held(&self) -> RegSet {
        self.temporaries.minus(self.free)
    }
}
