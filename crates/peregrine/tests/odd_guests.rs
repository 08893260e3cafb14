//! Guests of shapes that no compiler makes but the specification allows compute the same in every tier: as many parameters, results, locals,
//! nested blocks and cases as there may be, frames that are larger than the guard of the stack, and many memories and tables.

mod every_way;

use every_way::engines;
use peregrine::{Caller, Func, FuncType, Instance, Linker, Module, Store, Trap, Val, ValType};
use std::fmt::Write;

/// The trap that a call ends with, or its results.
fn call(store: &mut Store<()>, instance: Instance, name: &str, params: &[Val]) -> Result<Vec<Val>, Trap> {
    let func = instance.get_func(&mut *store, name).expect("it is exported");
    let mut results = vec![Val::I32(0); func.ty(&*store).results().len()];
    match func.call(store, params, &mut results) {
        Ok(()) => Ok(results),
        Err(error) => Err(*error.downcast_ref::<Trap>().unwrap_or_else(|| panic!("{name}: {error:#}"))),
    }
}

fn ints(values: &[Val]) -> Vec<i64> {
    values.iter().map(|value| value.i64().or(value.i32().map(i64::from)).expect("an integer")).collect()
}

#[test]
fn many_cases() {
    const CASES: usize = 30_000;
    // Cases go to three blocks in turn; the last one is the default.
    let labels: String = (0..CASES).map(|case| ["0 ", "1 ", "2 "][case % 3]).collect();
    let text = format!(
        r#"(module
            (func $case (export "case") (param i32) (result i32)
                (block $d (block $c (block $b (block $a (br_table {labels} 3 (local.get 0))) (return (i32.const 10))) (return (i32.const 11)))
                    (return (i32.const 12)))
                (i32.const 13))
            (func (export "sum") (param i32) (result i32) (local i32)
                (loop $again
                    (local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 3)) (call $case (local.get 0))))
                    (br_if $again (i32.ge_s (local.tee 0 (i32.sub (local.get 0) (i32.const 997))) (i32.const -2000))))
                (local.get 1)))"#
    );
    let mut sum = None;
    for (name, engine) in engines(|_| ()) {
        let module = Module::new(&engine, &text).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        for case in [0, 1, 2, 3, 14_999, CASES as i32 - 1, CASES as i32, CASES as i32 + 1, i32::MAX, i32::MIN, -1] {
            let expected = if (0..CASES as i32).contains(&case) { 10 + case % 3 } else { 13 };
            let found = call(&mut store, instance, "case", &[Val::I32(case)]).unwrap();
            assert_eq!(ints(&found), [i64::from(expected)], "{name}: case {case}");
        }
        let found = ints(&call(&mut store, instance, "sum", &[Val::I32(40_000)]).unwrap());
        assert_eq!(*sum.get_or_insert(found.clone()), found, "{name}");
    }
}

#[test]
fn deep_nesting() {
    const DEPTH: usize = 3000;
    // Blocks, loops and conditions in turn; the innermost branch leaves as many as it is told by way of a table.
    let mut open = String::new();
    for level in 0..DEPTH {
        open += ["(block ", "(loop ", "(if (i32.const 1) (then "][level % 3];
    }
    let mut close = String::new();
    for level in (0..DEPTH).rev() {
        // What is behind the end of a block counts: so many were left by falling through.
        close += [") (local.set 1 (i32.add (local.get 1) (i32.const 1)))", ")", ")) (local.set 1 (i32.add (local.get 1) (i32.const 3)))"]
            [level % 3];
    }
    let labels: String = (0..DEPTH).filter(|depth| (DEPTH - 1 - depth) % 3 != 1).map(|depth| format!("{depth} ")).collect();
    let text = format!(
        r#"(module (func (export "run") (param i32) (result i32) (local i32 i32)
            (loop $again
                {open} (br_table {labels} 0 (local.get 0)) {close}
                (local.set 0 (i32.add (local.get 0) (i32.const 101)))
                (br_if $again (i32.lt_u (local.tee 2 (i32.add (local.get 2) (i32.const 1))) (i32.const 30))))
            (local.get 1)))"#
    );
    let mut expected = Vec::new();
    for (name, engine) in engines(|_| ()) {
        let module = Module::new(&engine, &text).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let found: Vec<_> = [0, 7, 500, 1999].map(|start| ints(&call(&mut store, instance, "run", &[Val::I32(start)]).unwrap())).into();
        if expected.is_empty() {
            expected.clone_from(&found);
        }
        assert_eq!(found, expected, "{name}");
    }
}

/// Types of parameters and results, so that registers of both classes run out at different places.
fn many_types(count: usize) -> Vec<&'static str> {
    (0..count).map(|position| ["i32", "i64", "f32", "f64", "v128", "i64", "i32"][position % 7]).collect()
}

fn many_values(count: usize) -> Vec<Val> {
    let value = |position: usize| {
        let bits = (position as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3;
        match many_types(count)[position] {
            "i32" => Val::I32(bits as i32),
            "i64" => Val::I64(bits as i64),
            "f32" => Val::F32((bits as u32 & 0x7eff_ffff) | 1),
            "f64" => Val::F64(bits & 0x7fdf_ffff_ffff_ffff),
            _ => Val::V128((u128::from(bits) << 64 | u128::from(!bits)).into()),
        }
    };
    (0..count).map(value).collect()
}

fn shown(values: &[Val]) -> Vec<String> {
    values.iter().map(|value| format!("{value:?}")).collect()
}

#[test]
fn as_many_parameters_and_results_as_there_may_be() {
    const COUNT: usize = 1000;
    let types = many_types(COUNT).join(" ");
    let reversed = many_types(COUNT).into_iter().rev().collect::<Vec<_>>().join(" ");
    let gets: String = (0..COUNT).map(|local| format!("local.get {local} ")).collect();
    let back: String = (0..COUNT).rev().map(|local| format!("local.get {local} ")).collect();
    let text = format!(
        r#"(module
            (type $same (func (param {types}) (result {types})))
            (type $turn (func (param {types}) (result {reversed})))
            (import "" "host" (func $host (type $same)))
            (table 3 funcref) (elem (i32.const 0) $same $host $turn)
            (func $same (type $same) {gets})
            (func $turn (type $turn) {back})
            (func (export "direct") (type $same) {gets} call $same)
            (func (export "twice") (type $same) {gets} call $same call $same)
            (func (export "host") (type $same) {gets} call $host)
            (func (export "indirect") (type $same) {gets} i32.const 0 call_indirect (type $same))
            (func (export "indirect host") (type $same) {gets} i32.const 1 call_indirect (type $same))
            (func (export "tail") (type $same) {gets} return_call $same)
            (func (export "tail host") (type $same) {gets} return_call $host)
            (func (export "tail indirect") (type $same) {gets} i32.const 1 return_call_indirect (type $same))
            (func (export "turn") (type $turn) {gets} return_call $turn)
            (func (export "blocks") (type $same) (local $n i32)
                {gets} (loop $again (param {types}) (result {types})
                    (local.set $n (i32.add (local.get $n) (i32.const 1)))
                    (block (param {types}) (result {types}) (br 0))
                    (br_if $again (i32.lt_u (local.get $n) (i32.const 5)))))
            (func $few (param i32) (result {types}) (local {types})
                (if (i32.eqz (local.get 0)) (then {zeros} return_call $same))
                (return_call $few (i32.sub (local.get 0) (i32.const 1))))
            (func (export "from few") (type $same) (return_call $few (i32.const 5))))"#,
        zeros = (1..=COUNT).map(|local| format!("local.get {local} ")).collect::<String>()
    );
    let values = many_values(COUNT);
    for (name, engine) in engines(|_| ()) {
        let module = Module::new(&engine, &text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let mut store = Store::new(&engine, ());
        let val_types: Vec<ValType> = values.iter().map(|value| value.ty(&store).unwrap()).collect();
        let ty = FuncType::new(&engine, val_types.clone(), val_types);
        let host = Func::new(&mut store, ty, |_, params, results| {
            results.clone_from_slice(params);
            Ok(())
        });
        let instance = Instance::new(&mut store, &module, &[host.into()]).unwrap();
        for export in
            ["direct", "twice", "host", "indirect", "indirect host", "tail", "tail host", "tail indirect", "blocks", "turn", "from few"]
        {
            for round in 0..3 {
                let mut expected = values.clone();
                match export {
                    "turn" => expected.reverse(),
                    "from few" => expected = shown_zeros(&values),
                    _ => {}
                }
                let found = call(&mut store, instance, export, &values).unwrap();
                assert!(shown(&found) == shown(&expected), "{name}: {export}, round {round}");
            }
        }
        let mut found = vec![Val::I32(0); COUNT];
        host.call(&mut store, &values, &mut found).unwrap();
        assert!(shown(&found) == shown(&values), "{name}");
    }
}

fn shown_zeros(values: &[Val]) -> Vec<Val> {
    let zero = |value: &Val| match value {
        Val::I32(_) => Val::I32(0),
        Val::I64(_) => Val::I64(0),
        Val::F32(_) => Val::F32(0),
        Val::F64(_) => Val::F64(0),
        _ => Val::V128(0.into()),
    };
    values.iter().map(zero).collect()
}

/// The stack ends by a fault in its guard. A frame that is larger than the guard must not step over it.
#[test]
fn frames_larger_than_the_guard_of_the_stack() {
    for locals in [600, 5_000, 49_900] {
        // Only the last ones are used, so only one end of the frame is touched; what is deeper calls on, or the host.
        let text = format!(
            r#"(module
                (import "" "host" (func $host))
                (memory 1)
                (func $deep (export "deep") (param i32) (result i32) (local v128 {})
                    (local.set {last} (i32x4.splat (local.get 0)))
                    (local.set 1 (i32x4.splat (local.get 0)))
                    (v128.store (i32.const 16) (local.get {last}))
                    (if (i32.gt_u (local.get 0) (i32.const 0))
                        (then (drop (call $deep (i32.sub (local.get 0) (i32.const 1))))))
                    (call $host)
                    (i32.add (i32x4.extract_lane 2 (local.get {last})) (i32x4.extract_lane 1 (local.get 1))))
                (func $sparse (export "sparse") (param i32) (result i32) (local {})
                    (if (i32.gt_u (local.get 0) (i32.const 0))
                        (then (return (i32.add (i32.const 1) (call $sparse (i32.sub (local.get 0) (i32.const 1)))))))
                    (i32.wrap_i64 (local.get {last}))))"#,
            "v128 ".repeat(locals),
            "i64 ".repeat(locals + 1),
            last = locals + 1,
        );
        for (name, engine) in engines(|config| _ = config.max_wasm_stack(96 << 10)) {
            let module = Module::new(&engine, &text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            let mut linker = Linker::new(&engine);
            linker.func_wrap("", "host", |_: Caller<'_, ()>| ()).unwrap();
            let mut store = Store::new(&engine, ());
            let instance = linker.instantiate(&mut store, &module).unwrap();
            for _ in 0..3 {
                for export in ["deep", "sparse"] {
                    for depth in [0, 1, 100_000] {
                        match call(&mut store, instance, export, &[Val::I32(depth)]) {
                            Ok(results) => {
                                let expected = if export == "deep" { 2 * depth } else { depth };
                                assert_eq!(ints(&results), [i64::from(expected)], "{name}: {locals} {export} {depth}");
                                assert!(depth < 100_000, "{name}: {locals} {export}");
                            }
                            Err(trap) => assert_eq!(trap, Trap::StackOverflow, "{name}: {locals} {export} {depth}"),
                        }
                    }
                }
            }
        }
    }
}

/// Wherever on the guest's stack a call of the host, a builtin or a first call is, the stack ends by a trap and the store goes on.
#[test]
fn the_stack_ends_at_every_boundary() {
    let text = r#"(module
        (import "" "host" (func $host (param i32) (result i32)))
        (import "" "wide" (func $wide (param i32 i64 f32 f64 i64 i64 i64 i64 f64 f64) (result i32 i64 f64 i64)))
        (memory (export "memory") 1 300)
        (table $t 2 200 funcref)
        (func $leaf (param i32) (result i32) (local.get 0))
        (elem (table $t) (i32.const 0) func $leaf $host)
        (type $unary (func (param i32) (result i32)))
        (func $act (param $what i32) (result i32)
            (block $6 (block $5 (block $4 (block $3 (block $2 (block $1 (block $0
                (br_table $0 $1 $2 $3 $4 $5 $6 (local.get $what)))
                (return (call $host (i32.const 1))))
                (call $wide (i32.const 1) (i64.const 2) (f32.const 3) (f64.const 4) (i64.const 5) (i64.const 6) (i64.const 7) (i64.const 8)
                    (f64.const 9) (f64.const 10))
                drop drop drop return)
                (return (memory.grow (i32.const 0))))
                (return (table.grow $t (ref.func $leaf) (i32.const 0))))
                (memory.fill (i32.const 0) (i32.const 1) (i32.const 60000))
                (return (i32.load (i32.const 0))))
                (return (call_indirect (type $unary) (i32.const 5) (i32.const 1))))
            (f32.store (i32.const 0) (f32.nearest (f32.load (i32.const 100))))
            (i32.const 0))
        (func $down (export "down") (param $what i32) (param $pad i32) (result i32)
            (if (i32.eqz (local.get $pad)) (then (return (call $ever (local.get $what)))))
            (i32.add (i32.const 1) (call $down (local.get $what) (i32.sub (local.get $pad) (i32.const 1)))))
        (func $ever (param $what i32) (result i32)
            (drop (call $act (local.get $what)))
            (i32.add (i32.const 1) (call $ever (local.get $what)))))"#;
    for (name, engine) in engines(|config| _ = config.max_wasm_stack(24 << 10)) {
        let module = Module::new(&engine, text).unwrap();
        let mut linker = Linker::new(&engine);
        linker.func_wrap("", "host", |_: Caller<'_, ()>, value: i32| value).unwrap();
        let wide = |_: Caller<'_, ()>, a: i32, b: i64, _: f32, d: f64, e: i64, _: i64, _: i64, _: i64, _: f64, _: f64| (a, b, d, e);
        linker.func_wrap("", "wide", wide).unwrap();
        // A new store each time, so that what is done at a first call is done at the end of the stack too.
        for (what, pad) in (0..7).flat_map(|what| (0..6).map(move |pad| (what, pad))) {
            let mut store = Store::new(&engine, ());
            let instance = linker.instantiate(&mut store, &module).unwrap();
            for round in 0..3 {
                let found = call(&mut store, instance, "down", &[Val::I32(what), Val::I32(pad)]);
                assert_eq!(found.map(|_| ()).unwrap_err(), Trap::StackOverflow, "{name}: {what} {pad} {round}");
            }
            assert!(instance.get_memory(&mut store, "memory").is_some());
        }
    }
}

#[test]
fn many_memories_and_tables() {
    const COUNT: usize = 60;
    // Of different styles: some may grow little, some grow much, some have addresses of 64 bits.
    let address = |number: usize, of: &str| if number % 4 == 2 { format!("(i64.extend_i32_u {of})") } else { of.to_owned() };
    let mut text = String::from("(module ");
    let mut turn = String::new();
    for number in 0..COUNT {
        let ty = ["1", "1 2", "i64 1 9", "2 200"][number % 4];
        let (local, eight, one) = (address(number, "(local.get 0)"), address(number, "(i32.const 8)"), address(number, "(i32.const 1)"));
        write!(
            text,
            r#"(memory $m{number} {ty}) (table $t{number} 3 externref) (table $f{number} 2 funcref)
            (func (export "poke{number}") (param i32 i32) (i32.store $m{number} {local} (local.get 1)))
            (func (export "peek{number}") (param i32) (result i32) (i32.load $m{number} {local}))
            (func $id{number} (result i32) (i32.const {number}))
            (elem (table $f{number}) (i32.const 1) func $id{number})
            (func (export "call{number}") (param i32) (result i32) (call_indirect $f{number} (result i32) (local.get 0)))"#
        )
        .unwrap();
        write!(
            turn,
            "(local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 31)) (i32.load $m{number} {eight})))
            (i32.store $m{number} {eight} (local.get 1))
            (drop (memory.grow $m{number} {one}))"
        )
        .unwrap();
    }
    write!(
        text,
        r#"(func (export "all") (param i32) (result i32) (local i32)
            (loop $again {turn} (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (local.get 1)))"#
    )
    .unwrap();
    let mut expected = None;
    for (name, engine) in engines(|_| ()) {
        let module = Module::new(&engine, &text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        for number in 0..COUNT as i32 {
            call(&mut store, instance, &format!("poke{number}"), &[Val::I32(8), Val::I32(number * 77 + 5)]).unwrap();
            let end = if number % 4 == 3 { 2 << 16 } else { 1 << 16 };
            for address in [end - 3, end, -4] {
                let found = call(&mut store, instance, &format!("peek{number}"), &[Val::I32(address)]);
                assert_eq!(found.map(|_| ()).unwrap_err(), Trap::MemoryOutOfBounds, "{name}: {number}");
            }
            assert_eq!(ints(&call(&mut store, instance, &format!("call{number}"), &[Val::I32(1)]).unwrap()), [i64::from(number)]);
            for (index, trap) in [(0, Trap::IndirectCallToNull), (2, Trap::TableOutOfBounds), (-1, Trap::TableOutOfBounds)] {
                let found = call(&mut store, instance, &format!("call{number}"), &[Val::I32(index)]);
                assert_eq!(found.map(|_| ()).unwrap_err(), trap, "{name}: {number}");
            }
        }
        for number in 0..COUNT as i32 {
            let found = ints(&call(&mut store, instance, &format!("peek{number}"), &[Val::I32(8)]).unwrap());
            assert_eq!(found, [i64::from(number * 77 + 5)], "{name}: {number}");
        }
        let found = ints(&call(&mut store, instance, "all", &[Val::I32(12)]).unwrap());
        assert_eq!(*expected.get_or_insert(found.clone()), found, "{name}");
    }
}
