//! What a WebAssembly module is: index spaces, types, traps, features, limits and names.
#![forbid(unsafe_code)]
