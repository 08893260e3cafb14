//! The host module `spectest` that scripts import from, as the reference interpreter defines it.

use peregrine::{
    Global, GlobalType, Linker, Memory, MemoryType, Mutability, Ref, RefType, Result, SharedMemory, Store, Table, TableType, Val, ValType,
};

/// Defines `spectest` in `linker`, with its memory, tables and globals in `store`.
pub(super) fn define(linker: &mut Linker<()>, store: &mut Store<()>, print: bool) -> Result<()> {
    let say = move |text: std::fmt::Arguments<'_>| {
        if print {
            println!("{text}");
        }
    };
    linker.func_wrap("spectest", "print", || {})?;
    linker.func_wrap("spectest", "print_i32", move |value: i32| say(format_args!("{value} : i32")))?;
    linker.func_wrap("spectest", "print_i64", move |value: i64| say(format_args!("{value} : i64")))?;
    linker.func_wrap("spectest", "print_f32", move |value: f32| say(format_args!("{value} : f32")))?;
    linker.func_wrap("spectest", "print_f64", move |value: f64| say(format_args!("{value} : f64")))?;
    linker.func_wrap("spectest", "print_i32_f32", move |a: i32, b: f32| say(format_args!("{a} : i32\n{b} : f32")))?;
    linker.func_wrap("spectest", "print_f64_f64", move |a: f64, b: f64| say(format_args!("{a} : f64\n{b} : f64")))?;

    let globals = [
        ("global_i32", ValType::I32, Val::I32(666)),
        ("global_i64", ValType::I64, Val::I64(666)),
        ("global_f32", ValType::F32, Val::F32(666.6f32.to_bits())),
        ("global_f64", ValType::F64, Val::F64(666.6f64.to_bits())),
    ];
    for (name, ty, value) in globals {
        let global = Global::new(&mut *store, GlobalType::new(ty, Mutability::Const), value)?;
        linker.define(&mut *store, "spectest", name, global)?;
    }

    let table = Table::new(&mut *store, TableType::new(RefType::FUNCREF, 10, Some(20)), Ref::Func(None))?;
    linker.define(&mut *store, "spectest", "table", table)?;
    let table64 = Table::new(&mut *store, TableType::new64(RefType::FUNCREF, 10, Some(20)), Ref::Func(None))?;
    linker.define(&mut *store, "spectest", "table64", table64)?;
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2)))?;
    linker.define(&mut *store, "spectest", "memory", memory)?;
    // There is none without the threads proposal.
    if let Ok(memory) = SharedMemory::new(store.engine(), MemoryType::shared(1, 2)) {
        linker.define(&mut *store, "spectest", "shared_memory", memory)?;
    }
    Ok(())
}
