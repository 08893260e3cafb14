//! Linux: the file list that every platform has.

pub mod pages;

pub mod residence;

mod moving;

pub mod address_space;

pub mod huge;

pub mod image;

pub mod room;

pub mod icache;

pub mod faults;

pub mod stack;

pub mod unwind;

pub mod gdb;

pub mod perf;

pub mod cpu;

pub mod file;

pub mod threads;

pub mod thread_main;

pub mod forks;

pub mod program;
