//! Tests of the whole crate with a tier that makes no real code.

mod fake_tier;

mod driver;
mod linking;
mod memory_images;
mod one_by_one;
