//! WASI by explicit capabilities: a host layer that knows no WebAssembly, and preview 1 over it.
