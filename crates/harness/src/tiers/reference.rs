//! Runs scripts in wasmi.

use super::run::{Call, End, Host, Run, Step, Stopped, TABLE_ELEMENTS};
use crate::differential::{Bits, bits_of_reference, stop_of_reference};

/// What wasmi does when it makes an instance and executes `calls`.
pub(super) fn run_reference(engine: &wasmi::Engine, module: &wasmi::Module, calls: &[Call]) -> Result<Run, String> {
    use wasmi::{ExternType, Val, ValType};
    let mut store = wasmi::Store::new(engine, Host::default());
    let mut linker = wasmi::Linker::new(engine);
    let log = |mut caller: wasmi::Caller<'_, Host>, value: i64| caller.data_mut().log(value);
    linker.func_wrap("host", "log", log).map_err(|error| format!("{error:#}"))?;
    let mut run = Run::default();
    let stopped =
        |error: &wasmi::Error| -> Result<Stopped, String> { Ok(Stopped { stop: Some(stop_of_reference(error)?), ..Stopped::default() }) };
    let instance = match linker.instantiate_and_start(&mut store, module) {
        Ok(instance) => instance,
        Err(error) => {
            run.steps.push(Step { outcome: Err(stopped(&error)?), ..Step::default() });
            return Ok(run);
        }
    };
    run.steps.push(Step { host: store.data().clone(), ..Step::default() });
    for call in calls {
        let func = instance.get_func(&store, &call.name).ok_or("the reference has no such export")?;
        let ty = func.ty(&store);
        let value = |bits: &Bits, ty: &ValType| match (*bits, ty) {
            (Bits::I32(bits), _) => Val::I32(bits.cast_signed()),
            (Bits::I64(bits), _) => Val::I64(bits.cast_signed()),
            (Bits::F32(bits), _) => Val::F32(wasmi::F32::from_bits(bits)),
            (Bits::F64(bits), _) => Val::F64(wasmi::F64::from_bits(bits)),
            (Bits::V128(bits), _) => Val::V128(bits.into()),
            (Bits::Reference { .. }, ValType::ExternRef) => Val::ExternRef(wasmi::Ref::Null),
            (Bits::Reference { .. }, _) => Val::FuncRef(wasmi::Ref::Null),
        };
        let params: Vec<Val> = call.params.iter().zip(ty.params()).map(|(bits, ty)| value(bits, ty)).collect();
        let mut results = vec![Val::I32(0); ty.results().len()];
        let outcome = match func.call(&mut store, &params, &mut results) {
            Ok(()) => Ok(results.iter().map(bits_of_reference).collect()),
            Err(error) => Err(stopped(&error)?),
        };
        run.steps.push(Step { outcome, host: store.data().clone(), ..Step::default() });
        if run.steps.last().is_some_and(Step::is_exhausted) {
            return Ok(run);
        }
    }
    let mut end = End::default();
    for export in module.exports() {
        let name = export.name().to_owned();
        match export.ty() {
            ExternType::Global(_) => {
                let global = instance.get_global(&store, &name).ok_or("the reference has no such global")?;
                end.globals.push((name, bits_of_reference(&global.get(&store))));
            }
            ExternType::Memory(_) => {
                let memory = instance.get_memory(&store, &name).ok_or("the reference has no such memory")?;
                end.memories.push((name, memory.data(&store).to_vec()));
            }
            ExternType::Table(_) => {
                let table = instance.get_table(&store, &name).ok_or("the reference has no such table")?;
                let size = table.size(&store);
                let is_null = |element: Option<Val>| match element {
                    Some(Val::FuncRef(reference)) => reference.is_null(),
                    Some(Val::ExternRef(reference)) => reference.is_null(),
                    _ => false,
                };
                let nulls = (0..size.min(TABLE_ELEMENTS)).map(|index| is_null(table.get(&store, index))).collect();
                end.tables.push((name, size, nulls));
            }
            _ => {}
        }
    }
    end.sort();
    run.end = Some(end);
    Ok(run)
}
