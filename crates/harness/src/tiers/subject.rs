//! Runs scripts in an engine of ours.

use super::run::{Call, End, Host, Referent, Run, Step, Stopped, TABLE_ELEMENTS, mix};
use super::{ENOUGH, START_FUEL};
use crate::differential::{Bits, bits_of_subject, stop_of_subject, value_of};
use peregrine::{
    Caller, Engine, ExternRef, ExternType, Func, Instance, Linker, Module, Ref, Rooted, SharedMemory, Store, Val, WasmBacktrace,
    WasmCoreDump,
};
use std::collections::HashMap;

/// What an engine of ours does when it makes an instance and executes `calls`.
pub(super) fn run_subject(engine: &Engine, module: &Module, calls: &[Call]) -> Result<Run, String> {
    let mut store = Store::new(engine, Host::default());
    store.set_epoch_deadline(1 << 40);
    // Start functions need not end either.
    let counts = store.set_fuel(START_FUEL).is_ok();
    let mut linker = Linker::new(engine);
    let log = |mut caller: Caller<'_, Host>, value: i64| {
        if caller.data().calls.is_multiple_of(8) {
            let frames = text_of(&WasmBacktrace::force_capture(&caller));
            let host = caller.data_mut();
            host.backtraces = frames.bytes().fold(host.backtraces, |sum, byte| mix(sum, u64::from(byte)));
        }
        caller.data_mut().log(value)
    };
    linker.func_wrap("host", "log", log).map_err(|error| format!("{error:#}"))?;
    let object = |mut caller: Caller<'_, Host>, number: u32| ExternRef::new(&mut caller, number).map(Some);
    linker.func_wrap("host", "object", object).map_err(|error| format!("{error:#}"))?;
    let number = |mut caller: Caller<'_, Host>, object: Option<Rooted<ExternRef>>| -> peregrine::Result<i64> {
        let number = match object {
            Some(object) => object.data(&caller)?.and_then(|data| data.downcast_ref::<u32>()).map_or(-2, |number| i64::from(*number)),
            None => -1,
        };
        Ok(caller.data_mut().log(number))
    };
    linker.func_wrap("host", "number", number).map_err(|error| format!("{error:#}"))?;
    let mut run = Run::default();
    let instance = match linker.instantiate(&mut store, module) {
        Ok(instance) => instance,
        Err(error) => {
            run.steps.push(Step { outcome: Err(stopped(&error)?), ..Step::default() });
            return Ok(run);
        }
    };
    let mut functions = Functions::default();
    for export in module.exports().filter(|export| export.ty().func().is_some()) {
        let func = instance.get_func(&mut store, export.name()).ok_or("an export has gone")?;
        functions.number(&store, func);
    }
    let fuel_left = |store: &Store<Host>| if counts { store.get_fuel().ok() } else { None };
    run.steps.push(Step { fuel: fuel_left(&store), host: store.data().clone(), ..Step::default() });
    for call in calls {
        let func = instance.get_func(&mut store, &call.name).ok_or("an export has gone")?;
        let ty = func.ty(&store);
        let params: Vec<Val> = call.params.iter().zip(ty.params()).map(|(bits, ty)| value_of(*bits, &ty)).collect();
        let mut results = vec![Val::I32(0); ty.results().len()];
        if counts {
            store.set_fuel(call.fuel).map_err(|error| format!("{error:#}"))?;
        }
        let (outcome, referents) = match func.call(&mut store, &params, &mut results) {
            Ok(()) => (
                Ok(results.iter().map(bits_of_subject).collect()),
                results.iter().filter_map(|value| functions.of_value(&store, value)).collect(),
            ),
            Err(error) => (Err(stopped(&error)?), Vec::new()),
        };
        run.steps.push(Step { outcome, referents, fuel: fuel_left(&store), host: store.data().clone() });
        if run.steps.last().is_some_and(Step::is_exhausted) {
            return Ok(run);
        }
    }
    run.end = Some(end(&mut store, module, instance, &mut functions)?);
    Ok(run)
}

/// What is left when all calls are over.
fn end(store: &mut Store<Host>, module: &Module, instance: Instance, functions: &mut Functions) -> Result<End, String> {
    let mut end = End::default();
    for export in module.exports() {
        let name = export.name().to_owned();
        match export.ty() {
            ExternType::Global(_) => {
                let global = instance.get_global(&mut *store, &name).ok_or("a global has gone")?;
                let value = global.get(&mut *store);
                if let Some(referent) = functions.of_value(store, &value) {
                    end.referents.push((name.clone(), vec![referent]));
                }
                end.globals.push((name, bits_of_subject(&value)));
            }
            ExternType::Memory(ty) if !ty.is_shared() => {
                let memory = instance.get_memory(&mut *store, &name).ok_or("a memory has gone")?;
                end.memories.push((name, memory.data(&*store).to_vec()));
            }
            ExternType::Memory(_) => {
                let memory = instance.get_shared_memory(&mut *store, &name).ok_or("a memory has gone")?;
                end.memories.push((name, shared_bytes(store, &memory).map_err(|error| format!("a shared memory: {error:#}"))?));
            }
            ExternType::Table(_) => {
                let table = instance.get_table(&mut *store, &name).ok_or("a table has gone")?;
                let size = table.size(&*store);
                let elements: Vec<Option<Ref>> = (0..size.min(TABLE_ELEMENTS)).map(|index| table.get(&mut *store, index)).collect();
                let referents: Vec<Referent> =
                    elements.iter().map(|element| element.map_or(Referent::Other, |element| functions.of(store, element))).collect();
                end.tables.push((name.clone(), size, referents.iter().map(|referent| *referent == Referent::Null).collect()));
                end.referents.push((name, referents));
            }
            _ => {}
        }
    }
    end.sort();
    Ok(end)
}

/// The bytes of a memory that threads may share. A guest copies them to a memory of its own, where the host may read them as others.
fn shared_bytes(store: &mut Store<Host>, memory: &SharedMemory) -> peregrine::Result<Vec<u8>> {
    let ty = memory.ty();
    let (address, page) = (if ty.is_64() { "i64" } else { "i32" }, ty.page_size());
    let (size, max) = (memory.size(), ty.maximum().unwrap_or(0));
    let text = format!(
        "(module (import \"a\" \"b\" (memory $shared {address} {size} {max} shared (pagesize {page})))
            (memory $own (export \"own\") {address} {size} (pagesize {page}))
            (func (export \"copy\") (memory.copy $own $shared ({address}.const 0) ({address}.const 0) ({address}.const {}))))",
        size * page
    );
    let module = Module::new(store.engine(), text)?;
    // What is left of it is known by now.
    let _ = store.set_fuel(ENOUGH);
    let instance = Instance::new(&mut *store, &module, &[memory.clone().into()])?;
    instance.get_typed_func::<(), ()>(&mut *store, "copy")?.call(&mut *store, ())?;
    let own = instance.get_memory(&mut *store, "own").ok_or_else(|| peregrine::Error::msg("an export has gone"))?;
    Ok(own.data(&*store).to_vec())
}

/// The functions that were met, in their order.
#[derive(Default)]
struct Functions(HashMap<usize, usize>);

impl Functions {
    fn number(&mut self, store: &Store<Host>, func: Func) -> usize {
        let next = self.0.len();
        *self.0.entry(func.to_raw(store) as usize).or_insert(next)
    }

    fn of(&mut self, store: &Store<Host>, reference: Ref) -> Referent {
        match reference {
            Ref::Func(Some(func)) => Referent::Function(self.number(store, func)),
            Ref::Extern(Some(object)) => {
                let number = object.data(store).ok().flatten().and_then(|data| data.downcast_ref::<u32>());
                number.map_or(Referent::Other, |number| Referent::Object(*number))
            }
            Ref::Func(None) | Ref::Extern(None) => Referent::Null,
            _ => Referent::Other,
        }
    }

    /// What a value is a reference to, if it is one.
    fn of_value(&mut self, store: &Store<Host>, value: &Val) -> Option<Referent> {
        match *value {
            Val::FuncRef(func) => Some(self.of(store, Ref::Func(func))),
            Val::ExternRef(object) => Some(self.of(store, Ref::Extern(object))),
            _ => None,
        }
    }
}

/// Where calls are, without what is looked up elsewhere.
fn text_of(backtrace: &WasmBacktrace) -> String {
    backtrace.frames().iter().map(|frame| format!(" {}@{:?}", frame.func_index(), frame.module_offset())).collect()
}

fn stopped(error: &peregrine::Error) -> Result<Stopped, String> {
    let Some(trap) = error.downcast_ref::<peregrine::Trap>() else { return Err(format!("an error that is no trap: {error:#}")) };
    // Segments that do not fit are traps that no guest is to blame for.
    let frames = error.downcast_ref::<WasmBacktrace>().map_or_else(|| " outside of guests".into(), text_of);
    Ok(Stopped { stop: stop_of_subject(error).ok(), text: format!("{trap:?}{frames}"), locals: locals(error) })
}

/// The locals of the calls that were under way, if there is a core dump.
fn locals(error: &peregrine::Error) -> Vec<Vec<Option<Bits>>> {
    let Some(dump) = error.downcast_ref::<WasmCoreDump>() else { return Vec::new() };
    let bits = |value: &Option<Val>| value.as_ref().map(bits_of_subject);
    (0..dump.frames().len()).map(|frame| dump.locals(frame).iter().map(bits).collect()).collect()
}
