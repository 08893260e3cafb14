//! The operating system: pages, images, faults, stacks, instruction cache and profiling.
//!
//! This crate is where unsafe code lives, with the machine in the engine (`cargo xtask layers` lists the rooms). It knows nothing about
//! WebAssembly: it offers memory, files, threads and signals with the rules of the platform already obeyed.
//!
//! Every platform is a folder with the same file list; this file selects one. What a file means is the same everywhere:
//!
//! | file      | holds                                                                     |
//! |-----------|---------------------------------------------------------------------------|
//! | `pages`   | the page size and owned reservations of address space                     |
//! | `residence` | which pages of the process are in memory                                |
//! | `huge`    | huge pages for memory that grew large                                     |
//! | `image`   | code mapped from a file or from bytes, and copy-on-write memory content   |
//! | `room`    | room for code that is made while it runs                                  |
//! | `icache`  | making freshly written code visible to instruction fetch                  |
//! | `faults`  | hardware faults as a callback, with the earlier handlers kept in the chain |
//! | `stack`   | guarded stacks and a pool of them                                         |
//! | `unwind`  | unwind tables for the unwinder of the process                             |
//! | `gdb`     | the debugger's registry of generated code                                 |
//! | `perf`    | the profiler's perf map and jitdump                                       |
//! | `cpu`     | the features of the processor                                             |
//! | `file`    | private directories, atomic writes and files that nobody else could change |
//! | `address_space` | how much address space there is and may be used             |
//! | `threads` | how many threads are worth starting, quiet ones, and their processors     |
//! | `thread_main` | whether the function that a thread was started with has returned  |
//! | `forks`   | a gate that forks of the process wait at                                  |
//! | `program` | which build of the code runs                                              |

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;

#[cfg(target_os = "macos")]
compile_error!("peregrine-sys has no macos/ folder yet: it needs the file list of linux/ with the same public names");

#[cfg(windows)]
compile_error!("peregrine-sys has no windows/ folder yet: it needs the file list of linux/ with the same public names");

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
compile_error!("peregrine-sys does not support this operating system: it needs a folder with the file list of linux/");

#[cfg(not(target_pointer_width = "64"))]
compile_error!("peregrine-sys supports 64-bit hosts only");

pub use platform::{
    address_space, cpu, faults, file, forks, gdb, huge, icache, image, pages, perf, program, residence, room, stack, thread_main, threads,
    unwind,
};
