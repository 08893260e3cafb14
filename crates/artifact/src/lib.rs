//! What compiled code and the engine agree on: layouts, builtins, settings, tables and the image format.
#![forbid(unsafe_code)]
