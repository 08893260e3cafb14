//! A fast, safe, embeddable WebAssembly runtime.
