//! From a validated module to an image: stubs, batches, linking.
#![forbid(unsafe_code)]

pub mod tier;
