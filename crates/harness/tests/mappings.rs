//! A process that has no memory mappings left: modules and instances are refused with an error that says so, and when there are some again
//! everything works. In a process of its own.

use peregrine::{Config, Engine, Instance, Module, Store, Strategy};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ptr::null_mut;

#[test]
fn running_out_of_mappings_is_an_error_that_says_so() {
    let max = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("the system tells");
    let max: usize = max.trim().parse().expect("a number");
    if max > 1 << 20 {
        // There is no limit of the process alone for mappings, so nothing can be tested here.
        eprintln!("NOT TESTED: vm.max_map_count is {max}, too many mappings to use up; expected at most {}", 1 << 20);
        return;
    }
    let engines = [Strategy::Tiered, Strategy::Ahead].map(|strategy| Engine::new(Config::new().strategy(strategy)).expect("it works"));
    let text =
        r#"(module (memory 1) (table 10 funcref) (data (i32.const 0) "x") (func (export "run") (result i32) (i32.load8_u (i32.const 0))))"#;
    let modules = engines.each_ref().map(|engine| Module::new(engine, text).expect("there are mappings"));
    let run = |module: &Module| {
        let mut store = Store::new(module.engine(), ());
        let instance = Instance::new(&mut store, module, &[])?;
        instance.get_typed_func::<(), i32>(&mut store, "run")?.call(&mut store, ())
    };

    // Neighbours of different protection are mappings of their own.
    let mut held = Vec::with_capacity(max);
    for number in 0.. {
        let protection = if number % 2 == 0 { ProtFlags::READ } else { ProtFlags::WRITE };
        // SAFETY: a new mapping somewhere.
        match unsafe { mmap_anonymous(null_mut(), 4096, protection, MapFlags::PRIVATE) } {
            Ok(page) => held.push(page as usize),
            Err(_) => break,
        }
    }
    let mut errors = Vec::new();
    for (engine, module) in engines.iter().zip(&modules) {
        errors.extend(Module::new(engine, text.replace("\"x\"", "\"y\"")).err());
        errors.extend(run(module).err());
    }
    for page in &held {
        // SAFETY: nobody uses it.
        unsafe { munmap(*page as *mut _, 4096) }.expect("it is mapped");
    }
    assert!(!errors.is_empty());
    for error in &errors {
        assert!(format!("{error:#}").contains("vm.max_map_count"), "{error:?}");
    }
    for module in &modules {
        assert_eq!(run(module).expect("there are mappings again"), i32::from(b'x'));
    }
}
