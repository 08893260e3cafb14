//! Where arguments and results are: Cranelift's `Tail` convention on x86-64, and the C convention for builtins.
//!
//! Arguments and results that have no register are on the stack, 8 bytes each (16, aligned, for vectors), the whole area a multiple of
//! 16 bytes. The callee of a `Tail` function pops its arguments. If results are on the stack, a pointer to their place is passed before
//! all arguments.

use super::registers::{R8, R9, R10, RAX, RCX, RDI, RDX, RSI, xmm};
use crate::registers::Reg;
use crate::values::Ty;

/// Where one argument or result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// In a register.
    Reg(Reg),
    /// So many bytes from the start of the area for arguments or results.
    Stack(u32),
}

const ARGUMENTS: [Reg; 6] = [RDI, RSI, RDX, RCX, R8, R9];
const RESULTS: [Reg; 8] = [RAX, RCX, RDX, RSI, RDI, R8, R9, R10];
/// Registers of the C convention for arguments, the context first.
pub(crate) const C_ARGUMENTS: [Reg; 6] = ARGUMENTS;

/// Gives locations one by one.
#[derive(Clone, Debug)]
pub(crate) struct Locations {
    integers: &'static [Reg],
    next_integer: usize,
    next_vector: u8,
    next_stack: u32,
}

impl Locations {
    /// Of the results of a function.
    pub(crate) fn results() -> Self {
        Self { integers: &RESULTS, next_integer: 0, next_vector: 0, next_stack: 0 }
    }

    /// Of the arguments of a function. Also where the pointer to the place of results is, if there is one, and where the context is.
    pub(crate) fn arguments(with_result_area: bool) -> (Self, Option<Reg>, Reg) {
        let first = usize::from(with_result_area);
        let locations = Self { integers: &ARGUMENTS, next_integer: first + 1, next_vector: 0, next_stack: 0 };
        (locations, with_result_area.then_some(ARGUMENTS[0]), ARGUMENTS[first])
    }

    /// The location of the next one.
    pub(crate) fn next(&mut self, ty: Ty) -> Location {
        if ty.is_vector_class() {
            if self.next_vector < 8 {
                self.next_vector += 1;
                return Location::Reg(xmm(self.next_vector - 1));
            }
        } else if let Some(&reg) = self.integers.get(self.next_integer) {
            self.next_integer += 1;
            return Location::Reg(reg);
        }
        let size = if ty == Ty::V128 { 16 } else { 8 };
        let offset = self.next_stack.next_multiple_of(size);
        self.next_stack = offset + size;
        Location::Stack(offset)
    }

    /// Bytes of the area on the stack.
    pub(crate) fn stack_bytes(&self) -> u32 {
        self.next_stack.next_multiple_of(16)
    }

    /// Bytes of the area on the stack for values of `types`, if these are all there are.
    pub(crate) fn area_bytes(mut self, types: impl Iterator<Item = Ty>) -> u32 {
        for ty in types {
            self.next(ty);
        }
        self.stack_bytes()
    }
}
