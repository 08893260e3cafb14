//! The operating system: pages, images, faults, stacks, instruction cache and profiling.
