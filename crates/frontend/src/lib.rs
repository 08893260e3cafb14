//! From bytes to validated descriptions of modules.
//!
//! ```text
//! bytes --to_binary--> binary --translate--> Translation (Module + where the bodies are) --validate_body--> ready to compile
//! ```
//!
//! Every section but the bodies is validated by [`translate`], in one walk. Bodies are validated one by one, on any thread, right before
//! they are compiled. Of a module that was found valid before, [`LaterBodies`] gives the bodies one
//! by one instead. A module in a file can be [read in pieces](translate_pieces). Nothing here panics on any input, does I/O by itself or makes code.
#![forbid(unsafe_code)]

mod translation;

mod later;

mod payloads;
mod pieces;

mod bodies;
mod const_expr;
mod custom;
mod errors;
mod features;
mod growth;
mod metering;
mod text;
mod types;

pub use features::wasm_features;
pub use later::LaterBodies;
pub use payloads::{translate, translate_pieces};
pub use pieces::{BodyChunk, Sections, Sink};
pub use text::to_binary;
pub use translation::{BranchHints, Translation};
pub use wasmparser::FuncValidatorAllocations;
