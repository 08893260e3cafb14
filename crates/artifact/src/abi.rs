//! How compiled functions, stubs and the engine call each other.
//!
//! | what | convention | signature |
//! |---|---|---|
//! | wasm function | Cranelift's `Tail` | `(vmctx, params...) -> results` |
//! | [`StubKind::Enter`] | C | `(vmctx, code, values)`: loads parameters from `values`, calls `code` with them and `vmctx`, stores the results to `values` |
//! | [`StubKind::Exit`] | Cranelift's `Tail` | `(host context, params...) -> results`: stores parameters to an array, calls the builtin `host_call(host context, array)`, loads the results from it |
//! | loop entry | Cranelift's `Tail` | `(vmctx, homes) -> results of the function`: goes on at the head of a loop, with the values that the baseline left in its homes |
//! | builtin | C | `(vmctx, ...)`, at most six integer or pointer arguments; see [`crate::builtins`] |
//!
//! A value in an array of values takes [`VALUE_SIZE_BYTES`]: the value's little-endian bytes first (on every processor), then
//! bytes of no meaning. A function reference is a machine pointer (0 is null); any other reference is a 32-bit handle (0 is null).
//!
//! Every function keeps a frame pointer: at it the caller's frame pointer, above it the return address.

use serde::{Deserialize, Serialize};

/// Bytes of one slot in an array of values.
pub const VALUE_SIZE_BYTES: usize = 16;

/// The kinds of functions that no wasm function body stands for. There is one of each kind for every function type of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StubKind {
    /// From the host to a wasm function of the type.
    Enter,
    /// From wasm to a host function of the type.
    Exit,
}
