//! Tools that know no module beforehand: they look at types, and call with values made up at run time.

use peregrine::*;

const WAT: &str = r#"
(module $tool
    (import "env" "scale" (func (param f64 i32) (result f64)))
    (import "env" "limit" (global i32))
    (import "env" "shared" (memory 1 4))
    (import "env" "callbacks" (table 2 10 funcref))
    (func (export "add") (param i32 i64 f32 f64) (result f64 i32)
        (f64.add (f64.convert_i64_s (local.get 1)) (local.get 3)) (local.get 0))
    (func (export "identity") (param externref funcref v128) (result externref funcref v128)
        (local.get 0) (local.get 1) (local.get 2))
    (global (export "counter") (mut i64) (i64.const 9))
    (table (export "own") 3 externref)
    (memory (export "big") i64 1 100))
"#;

fn describe(ty: &ExternType) -> String {
    match ty {
        ExternType::Func(ty) => {
            let list = |types: Vec<ValType>| types.iter().map(|ty| format!("{ty}")).collect::<Vec<_>>().join(",");
            format!("func({})->({})", list(ty.params().collect()), list(ty.results().collect()))
        }
        ExternType::Global(ty) => format!("global {} {}", ty.content(), if ty.mutability() == Mutability::Var { "var" } else { "const" }),
        ExternType::Table(ty) => format!("table {:?} {}..{:?}", ty.element().is_nullable(), ty.minimum(), ty.maximum()),
        ExternType::Memory(ty) => format!("memory {}..{:?} {}", ty.minimum(), ty.maximum(), if ty.is_64() { "64" } else { "32" }),
        ExternType::Tag(_) => "tag".to_string(),
    }
}

#[test]
fn imports_and_exports_are_described() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, WAT)?;
    assert_eq!(module.name(), Some("tool"));
    let imports: Vec<_> =
        module.imports().map(|import| format!("{}.{} {}", import.module(), import.name(), describe(&import.ty()))).collect();
    assert_eq!(
        imports,
        [
            "env.scale func(f64,i32)->(f64)",
            "env.limit global i32 const",
            "env.shared memory 1..Some(4) 32",
            "env.callbacks table true 2..Some(10)"
        ]
    );
    let exports: Vec<_> = module.exports().map(|export| format!("{} {}", export.name(), describe(&export.ty()))).collect();
    assert_eq!(exports[0], "add func(i32,i64,f32,f64)->(f64,i32)");
    assert_eq!(exports[2], "counter global i64 var");
    assert_eq!(exports[4], "big memory 1..Some(100) 64");
    assert!(module.get_export("add").unwrap().func().is_some());
    assert!(module.get_export("none").is_none());
    let index = module.get_export_index("counter").unwrap();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut store, &module)?;
    let instance = linker.instantiate(&mut store, &module)?;
    let Some(Extern::Global(counter)) = instance.get_module_export(&mut store, &index) else { panic!("a global") };
    assert_eq!(counter.get(&mut store).unwrap_i64(), 9);
    let names: Vec<_> = instance.exports(&mut store).map(|export| export.name().to_string()).collect();
    assert_eq!(names, ["add", "identity", "counter", "own", "big"]);
    Ok(())
}

/// A value of each type, as fuzzers and command lines make them up.
fn made_up(ty: &ValType, seed: u64) -> Val {
    match ty {
        ValType::I32 => Val::I32(seed as i32),
        ValType::I64 => Val::I64(seed as i64),
        ValType::F32 => Val::F32((seed as f32).to_bits()),
        ValType::F64 => Val::F64((seed as f64).to_bits()),
        ValType::V128 => Val::V128((seed as u128).into()),
        ValType::Ref(ty) => match ty.heap_type() {
            HeapType::Func => Val::null_func_ref(),
            HeapType::Extern => Val::null_extern_ref(),
            other => Val::null_ref(other),
        },
    }
}

fn show(value: &Val) -> String {
    match value {
        Val::I32(value) => format!("i32:{value}"),
        Val::I64(value) => format!("i64:{value}"),
        Val::F32(bits) => format!("f32:{}", f32::from_bits(*bits)),
        Val::F64(bits) => format!("f64:{}", f64::from_bits(*bits)),
        Val::V128(value) => format!("v128:{}", value.as_u128()),
        Val::FuncRef(None) | Val::ExternRef(None) | Val::AnyRef(None) | Val::ExnRef(None) | Val::ContRef(None) => "null".to_string(),
        Val::FuncRef(Some(_)) => "func".to_string(),
        Val::ExternRef(Some(_)) => "extern".to_string(),
        Val::AnyRef(Some(_)) | Val::ExnRef(Some(_)) | Val::ContRef(Some(_)) => "gc".to_string(),
    }
}

#[test]
fn functions_are_called_by_their_types() -> Result<()> {
    let engine = Engine::default();
    let module = Module::new(&engine, WAT)?;
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut store, &module)?;
    let instance = linker.instantiate(&mut store, &module)?;
    let mut call = |name: &str| -> Result<Vec<String>> {
        let func = instance.get_func(&mut store, name).ok_or_else(|| format_err!("no function `{name}`"))?;
        let ty = func.ty(&store);
        let params: Vec<Val> = ty.params().enumerate().map(|(seed, ty)| made_up(&ty, seed as u64 + 2)).collect();
        let mut results: Vec<Val> = ty.results().map(|ty| Val::default_for_ty(&ty).unwrap()).collect();
        func.call(&mut store, &params, &mut results)?;
        Ok(results.iter().map(show).collect())
    };
    assert_eq!(call("add")?, ["f64:8", "i32:2"]);
    assert_eq!(call("identity")?, ["null", "null", "v128:4"]);
    assert!(call("none").is_err());

    let add = instance.get_func(&mut store, "add").unwrap();
    assert!(add.call(&mut store, &[Val::I32(1)], &mut []).is_err());
    assert!(add.typed::<(i32, i64, f32, f64), (f64, i32)>(&store).is_ok());
    assert!(add.typed::<(i32, i64, f32, f64), ()>(&store).is_err());
    let ty = FuncType::new(&engine, [ValType::I32, ValType::I64, ValType::F32, ValType::F64], [ValType::F64, ValType::I32]);
    assert!(add.matches_ty(&store, &ty) && FuncType::eq(&add.ty(&store), &ty) && Engine::same(ty.engine(), &engine));
    Ok(())
}

#[test]
fn types_have_an_order() -> Result<()> {
    let engine = Engine::default();
    let ty = FuncType::new(&engine, [ValType::I32], []);
    let concrete = HeapType::ConcreteFunc(ty);
    assert!(concrete.matches(&HeapType::Func) && HeapType::NoFunc.matches(&concrete) && !HeapType::Func.matches(&concrete));
    assert!(concrete.is_concrete() && HeapType::Extern.is_abstract() && HeapType::Func.is_top() && HeapType::NoExtern.is_bottom());
    assert!(RefType::new(false, HeapType::Func).matches(&RefType::FUNCREF));
    assert!(ValType::NULLFUNCREF.matches(&ValType::FUNCREF) && !ValType::I32.matches(&ValType::I64));
    assert!(ValType::eq(&ValType::ANYREF, &ValType::Ref(RefType::new(true, HeapType::Any))));
    assert!(HeapType::I31.matches(&HeapType::Eq) && HeapType::Exn.top().is_exn());
    let memory = MemoryTypeBuilder::new().memory64(true).min(2).max(Some(3)).build()?;
    assert_eq!((memory.minimum(), memory.maximum(), memory.is_64(), memory.page_size()), (2, Some(3), true, 65536));
    let table = TableType::new(RefType::EXTERNREF, 1, None);
    assert_eq!((table.minimum(), table.maximum()), (1, None));
    Ok(())
}
