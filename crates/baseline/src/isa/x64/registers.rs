//! The registers of x86-64 and what each is for.
//!
//! | registers | use |
//! |---|---|
//! | `rax rcx rdx rsi rdi` | temporary values |
//! | `rbx r12 r13 r14 r15` | locals that live through calls, the context, the base of memory 0 |
//! |       `r15` | the fuel counter instead, where fuel is counted |
//! | `r8 r9 r10` | locals, or temporary values where there are few of those |
//! | `r11` | scratch: never holds anything from one instruction of the body to the next |
//! | `xmm0` to `xmm3` | temporary values |
//! | `xmm4` to `xmm13` | locals, or temporary values |
//! | `xmm14 xmm15` | scratch |

use crate::registers::{Reg, RegSet};

pub(crate) const RAX: Reg = Reg(0);
pub(crate) const RCX: Reg = Reg(1);
pub(crate) const RDX: Reg = Reg(2);
pub(crate) const RBX: Reg = Reg(3);
pub(crate) const RSP: Reg = Reg(4);
pub(crate) const RBP: Reg = Reg(5);
pub(crate) const RSI: Reg = Reg(6);
pub(crate) const RDI: Reg = Reg(7);
pub(crate) const R8: Reg = Reg(8);
pub(crate) const R9: Reg = Reg(9);
pub(crate) const R10: Reg = Reg(10);
pub(crate) const R11: Reg = Reg(11);
pub(crate) const R12: Reg = Reg(12);
pub(crate) const R13: Reg = Reg(13);
pub(crate) const R14: Reg = Reg(14);
pub(crate) const R15: Reg = Reg(15);

/// The vector register of a number.
pub(crate) const fn xmm(number: u8) -> Reg {
    Reg(16 + number)
}

/// Scratch for integers and addresses.
pub(crate) const SCRATCH: Reg = R11;
/// Scratch for floats and vectors.
pub(crate) const VECTOR_SCRATCH: Reg = xmm(15);
/// More scratch for floats and vectors.
pub(crate) const VECTOR_SCRATCH_2: Reg = xmm(14);

/// Registers for integers and pointers.
pub(crate) const INTEGER: RegSet = RegSet(0xffff);
/// Registers for floats and vectors.
pub(crate) const VECTOR: RegSet = RegSet(0xffff_0000);

/// Registers that only ever hold temporary values.
pub(crate) const ALWAYS_TEMPORARY: RegSet = RegSet(0x000f_0000).with(RAX).with(RCX).with(RDX).with(RSI).with(RDI);
/// Registers that a callee preserves, which locals may have. Saved in the frame in this order.
pub(crate) const PRESERVED_FOR_LOCALS: [Reg; 5] = [RBX, R12, R13, R14, R15];
/// The fuel counter, in code that counts fuel. The last of the above, so that it is easily left out.
pub(crate) const FUEL: Reg = R15;
/// Registers for integers that a call destroys, which locals may have.
pub(crate) const DESTROYED_FOR_LOCALS: [Reg; 3] = [R8, R9, R10];
/// Registers for floats, which locals may have. Calls destroy all of them.
pub(crate) const VECTORS_FOR_LOCALS: [Reg; 10] = [xmm(8), xmm(9), xmm(10), xmm(11), xmm(12), xmm(13), xmm(7), xmm(6), xmm(5), xmm(4)];
/// Registers that keep their values when a function is called.
pub(crate) const PRESERVED: RegSet = RegSet::of(&PRESERVED_FOR_LOCALS);
/// Taken first for temporary values: those that no instruction insists on.
pub(crate) const PREFERRED: RegSet = RegSet(0x00fe_0000).with(RSI).with(RDI);

/// Where the one result of a block is at its end.
pub(crate) const JOIN: Reg = RAX;
/// Where the one result of a block is at its end, if it is a float or vector.
pub(crate) const VECTOR_JOIN: Reg = xmm(0);
