//! How compiled functions, stubs and the engine call each other.
//!
//! | what | convention | signature |
//! |---|---|---|
//! | wasm function | Cranelift's `Tail` | `(vmctx, params...) -> results` |
//! | [`StubKind::Enter`] | C | `(vmctx, code, values)`: calls `code` with `vmctx` and parameters from `values`; the results go there |
//! | [`StubKind::Exit`] | Cranelift's `Tail` | `(host context, params...) -> results`: calls the builtin `host_call(host context, array)` |
//! | loop entry | Cranelift's `Tail` | `(vmctx, homes) -> results of the function`: see below |
//! | builtin | C | `(vmctx, ...)`, at most six integer or pointer arguments; see [`crate::builtins`] |
//!
//! The array of an exit stub has the parameters, and then the results. The engine has veneers of its own for frequent types, which take the
//! place of stubs: calls of the host with few values have all of them in registers. In code that counts fuel, on x86-64, r15 holds
//! [`fuel_consumed`](crate::vmctx::VmStoreContext::fuel_consumed) throughout, and the builtin `out_of_fuel` keeps all other registers.
//!
//! # Loop entries
//!
//! Code of the baseline with [`Tiering::Counted`](crate::settings::Tiering::Counted) asks the builtin `hot_loop` at the head of a loop
//! for code to go on with, before it looks there for an interruption or for fuel. What it gets it calls as a *loop entry*, which goes on
//! at that head, just before it would look for these, and returns the results of the function. A loop entry of a function with results
//! that have no register has the pointer to their place, as any function has. Fuel up to that point is already counted.
//!
//! `homes` is a multiple of 16. Home number `n` begins `(n + 1) << log2` bytes below it, with the `(locals, log2)` of
//! [`unpack_homes`](crate::builtins::unpack_homes):
//!
//! | number | holds |
//! |---|---|
//! | `0` to `locals - 1` | the locals by index: the parameters first, then all declared ones, used or not |
//! | `locals + d` | the operand at depth `d` of the function's operand stack, counted from its bottom |
//!
//! [Where there are many locals](has_homes_by_rank), only those that the body names have homes. The parameters of the loop are the topmost
//! operands. Every operand counts as one, also those that are below enclosing blocks. `log2` is 3, or 4 if the function may have vectors;
//! `v128` values are aligned to 16 bytes. A value's little-endian bytes come first: 4 for `i32`, `f32` and references that are handles, 8
//! for `i64`, `f64` and references to functions, 16 for `v128`. The bytes after them mean nothing. A local that nothing reads before it is
//! written from here on may have any bytes, also if it is a reference. The homes belong to the caller's frame, which does not read them
//! again: they stay as long as the call, and may be written.
//!
//! A value in an array of values takes [`VALUE_SIZE_BYTES`]: the value's little-endian bytes first (on every processor), then
//! bytes of no meaning. A function reference is a machine pointer (0 is null); any other reference is a 32-bit handle (0 is null).
//!
//! # Kept locals
//!
//! With [`Settings::keeps_locals`](crate::settings::Settings::keeps_locals), functions of at most [`MOST_KEPT_LOCALS`] locals have their values in
//! the frame, parameters first, from the end of the prologue on. Each has [`KEPT_LOCAL_BYTES`], the value's little-endian bytes first.
//!
//! | tier | where |
//! |---|---|
//! | baseline | the context [`KEPT_CONTEXT_OFFSET`] from the frame pointer; [`KEPT_MARK_OFFSET`] from it the head; the locals below |
//! | optimizing | in the frame, at a multiple of 16: the head, the frame pointer, the index of the function, the context; then the locals |
//!
//! The head is the count of locals as a `u32`, then [`KEPT_MARK`]; an index and a context are `u64`. Local `n` of the baseline begins
//! `(n + 1) * KEPT_LOCAL_BYTES` below the head. The frame of a function that others were compiled into has such a block for each. All that
//! belong to calls under way have the same context; blocks of calls that are over may be there too, with the contexts of those. The block
//! of the function whose frame it is, if it keeps locals, is always written. Code of the baseline keeps the context also where a function
//! has too many locals to keep.
//!
//! Every function keeps a frame pointer: at it the caller's frame pointer, above it the return address.

use peregrine_wasm::ValType;
use serde::{Deserialize, Serialize};

/// Bytes of one slot in an array of values.
pub const VALUE_SIZE_BYTES: usize = 16;

/// Functions with longer bodies look for interruptions at their entry also if they have no loops and call nothing: a caller may do little but
/// call such functions. And a body in which so many bytes may have passed since the last look has one at its next call, for as many calls of
/// such functions, of the host, or of functions that are compiled then, may be in them.
pub const LONG_BODY_BYTES: usize = 1024;

/// Up to so many distinct function types, a module has stubs for all of them; beyond, for those of functions that the host meets.
pub const MOST_TYPES_WITH_ALL_STUBS: usize = 2_000;

/// Bulk operations on at most so many bytes or elements count fuel for each, and nobody looks whether there was enough: code may do them without
/// the engine, which looks before longer ones.
pub const UNCHECKED_BULK_LEN: u64 = 64;

/// Functions with more locals keep none: the places of so many take 128 KiB of the guest's stack in every call.
pub const MOST_KEPT_LOCALS: usize = 8192;
/// Functions with more locals have homes for those only that their bodies name, unless they keep them.
pub const MOST_HOMES_BY_INDEX: usize = 64;

/// Whether a function of so many locals, parameters included, has homes for those only that a `local.get`, `local.set` or `local.tee` names
/// anywhere in the body, reached or not: the first home is that of the lowest one. A function may declare tens of thousands and name
/// a few.
pub const fn has_homes_by_rank(locals: usize, keeps_locals: bool) -> bool {
    locals > MOST_HOMES_BY_INDEX && !(keeps_locals && locals <= MOST_KEPT_LOCALS)
}

/// Bytes of each local that is kept.
pub const KEPT_LOCAL_BYTES: usize = 16;
/// Tells that locals are kept.
pub const KEPT_MARK: u32 = 0x6b65_7074;
/// Where the baseline has the mark, from the frame pointer.
pub const KEPT_MARK_OFFSET: i32 = -64;
/// Where the baseline has the context, from the frame pointer.
pub const KEPT_CONTEXT_OFFSET: i32 = -8;
/// What is before the locals that optimized code keeps, in bytes.
pub const KEPT_HEADER_BYTES: usize = 32;

/// So many results of each class have registers.
const RESULT_REGISTERS: usize = 8;

/// Whether results are in an area on the caller's stack, since not all of them have registers. The address of the area is the first argument
/// then, before the context. On x86-64, with `Tail`.
pub fn has_result_area(results: &[ValType]) -> bool {
    let in_vector_registers = |ty: &&ValType| matches!(ty, ValType::F32 | ValType::F64 | ValType::V128);
    let vectors = results.iter().filter(in_vector_registers).count();
    vectors > RESULT_REGISTERS || results.len() - vectors > RESULT_REGISTERS
}

/// The kinds of functions that no wasm function body stands for. There is one of each kind for every function type of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StubKind {
    /// From the host to a wasm function of the type.
    Enter,
    /// From wasm to a host function of the type.
    Exit,
}
