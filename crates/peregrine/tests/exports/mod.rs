//! Calling what a module exports, for tests that look at what became of its code.

use peregrine::{Instance, Module, Store};

/// Calls exports that take nothing, in a new store.
#[track_caller]
pub fn call(module: &Module, names: &[&str]) -> Vec<i32> {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[]).expect("it can be instantiated");
    let call = |name: &&str| {
        let function = instance.get_typed_func::<(), i32>(&mut store, name).expect("it is exported");
        function.call(&mut store, ()).expect("it does not trap")
    };
    names.iter().map(call).collect()
}
