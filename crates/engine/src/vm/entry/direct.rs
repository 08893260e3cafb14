//! Calls whose values are all in registers: what typed calls with few parameters take when nothing unusual is under way in the store.
//!
//! Neither an array of values nor an Enter stub is involved: [`super::veneer::direct`] goes to the guest's stack and calls the
//! function. Its frame on the host's stack is that of `enter`, so faults, backtraces and unwinding know nothing of the difference. Such a
//! call is the outermost one of its thread and its store, and cannot be suspended; every other call goes by `super::call`.

use super::veneer::direct::enter_direct;
use super::{RETURNED, thread};
use crate::vm::references;
use crate::vm::store::VmStore;
use crate::vm::value::ValRaw;
use peregrine_artifact::vmctx::VmFuncRef;
use peregrine_sys::thread_main;
use std::ptr::NonNull;

/// How many parameters that are no floating point numbers have registers, the context left out.
pub(crate) const INT_REGISTERS: usize = 5;
/// How many floating point parameters get registers here; the convention has more.
pub(crate) const FLOAT_REGISTERS: usize = 4;

/// The kind of register that a value is passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterClass {
    /// Integers and references.
    Int,
    /// Floating point numbers.
    Float,
    /// Vectors, which are not passed directly.
    Vector,
}

/// How many values of each class there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Integers and references.
    pub ints: usize,
    /// Floating point numbers.
    pub floats: usize,
    /// Vectors.
    pub vectors: usize,
}

impl Shape {
    /// No values.
    pub const NONE: Self = Self { ints: 0, floats: 0, vectors: 0 };

    /// One value more.
    pub const fn with(self, class: RegisterClass) -> Self {
        let Self { ints, floats, vectors } = self;
        match class {
            RegisterClass::Int => Self { ints: ints + 1, ..self },
            RegisterClass::Float => Self { floats: floats + 1, ..self },
            RegisterClass::Vector => Self { vectors: vectors + 1, ..self },
        }
    }

    /// Whether a function with parameters of this shape and results of the shape `results` can be called directly.
    pub(crate) const fn is_direct(self, results: Self) -> bool {
        let has_registers = self.ints <= INT_REGISTERS && self.floats <= FLOAT_REGISTERS && self.vectors == 0;
        has_registers && results.ints + results.floats <= 1 && results.vectors == 0
    }
}

/// Parameters in the order of their registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    pub(super) ints: [u64; INT_REGISTERS],
    pub(super) floats: [u64; FLOAT_REGISTERS],
    shape: (usize, usize),
}

impl Registers {
    /// Adds the next parameter. What has no register is left out: [`Shape::is_direct`] says so before.
    #[inline(always)]
    pub(crate) fn push(&mut self, class: RegisterClass, value: ValRaw) {
        let (place, count) = match class {
            RegisterClass::Int => (self.ints.get_mut(self.shape.0), &mut self.shape.0),
            RegisterClass::Float => (self.floats.get_mut(self.shape.1), &mut self.shape.1),
            RegisterClass::Vector => return,
        };
        *count += 1;
        if let Some(place) = place {
            *place = value.get_u64();
        }
    }
}

/// Parameters of a call of a host function, as they arrived in registers, to be taken in the order of its type.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    ints: [u64; INT_REGISTERS],
    floats: [u64; FLOAT_REGISTERS],
    taken: (usize, usize),
}

impl Arrived {
    /// What all the registers hold.
    #[inline(always)]
    pub(crate) fn new(ints: [u64; INT_REGISTERS], floats: [f64; FLOAT_REGISTERS]) -> Self {
        Self { ints, floats: floats.map(f64::to_bits), taken: (0, 0) }
    }

    /// The next parameter, which is of this class. What has no register reads as 0: [`Shape::is_direct`] says so before.
    #[inline(always)]
    pub(crate) fn take(&mut self, class: RegisterClass) -> ValRaw {
        let (place, count) = match class {
            RegisterClass::Int => (self.ints.get(self.taken.0), &mut self.taken.0),
            RegisterClass::Float => (self.floats.get(self.taken.1), &mut self.taken.1),
            RegisterClass::Vector => return ValRaw::u64(0),
        };
        *count += 1;
        ValRaw::u64(place.copied().unwrap_or(0))
    }
}

/// What a direct call returns: the registers of results. The function's type says which of them means anything.
#[derive(Clone, Copy, Debug)]
pub struct Returned {
    /// The result, if it is an integer or a reference.
    pub(super) int: u64,
    /// The result, if it is a floating point number.
    pub(super) float: u64,
}

impl Returned {
    /// The result of a class.
    #[inline(always)]
    pub(crate) fn value(self, class: RegisterClass) -> ValRaw {
        ValRaw::u64(if class == RegisterClass::Float { self.float } else { self.int })
    }
}

/// Whether a direct call can be made now: nothing unusual is under way in the store, no guest is on its way to here on this thread, the thread is
/// prepared, and the store knows `host` already.
///
/// # Safety
///
/// 1. `store` is valid, and no mutable reference into it is held.
#[inline(always)]
pub(in crate::vm) unsafe fn is_possible(store: NonNull<VmStore>, host: *const ()) -> bool {
    // SAFETY: as the caller says (1).
    let store = unsafe { &*store.as_ptr() };
    store.is_usual() && store.knows_host(host) && store.context.exit_fp == 0 && thread::current().is_null() && !thread_main::has_ended()
}

/// Calls a wasm function directly. `None` if the call did not end well: then [`super::why_ended`] tells why.
///
/// # Safety
///
/// 1. As for [`super::call`], with `registers` for the values: they hold as many parameters of each class as the function has.
/// 2. [`is_possible`] has just said so, of this `host`.
#[inline(always)]
pub(in crate::vm) unsafe fn call(
    store: NonNull<VmStore>,
    host: *mut (),
    func_ref: NonNull<VmFuncRef>,
    registers: &Registers,
    shape: Shape,
) -> Option<Returned> {
    // SAFETY: the reference is live (1).
    let (code, vmctx) = unsafe { (references::code(func_ref), (*func_ref.as_ptr()).vmctx) };
    thread::set_current(store.as_ptr());
    // SAFETY: the parameters are as the function expects (1); the guest's stack is there, and nobody is on it; the host is lent as the store is (2).
    let (ended, returned) = unsafe { enter_direct(store.as_ptr().cast(), host, vmctx, code, registers, shape) };
    thread::set_idle();
    (ended == RETURNED).then_some(returned)
}
