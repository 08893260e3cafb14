//! The optimizing tier: translation to Cranelift IR and passes over it.
#![forbid(unsafe_code)]
