//! Bodies of a few bytes that become as much code as they can: within the bounds that the engine reserves room by, and in time that is
//! linear in them. Nothing valid is refused.

use peregrine_artifact::code_bounds::CodeBounds;
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};

/// How often operators are repeated: so often that what every function may have does not hide what they become.
const TIMES: usize = 4000;

/// A body, in text, of operators that are repeated.
struct Dense {
    name: &'static str,
    /// Everything but the function.
    module: String,
    /// Parameters, results and locals.
    head: String,
    before: String,
    repeated: String,
    after: String,
}

/// `count` of `kinds` in turn.
fn types(kinds: &[&str], count: usize) -> String {
    (0..count).map(|position| format!("{} ", kinds[position % kinds.len()])).collect()
}

fn dense(name: &'static str, repeated: impl Into<String>) -> Dense {
    Dense { name, module: String::new(), head: String::new(), before: String::new(), repeated: repeated.into(), after: String::new() }
}

/// Calls, and returns under a condition, of as many values.
fn wide(name: &'static str, kinds: &[&str], count: usize) -> [Dense; 4] {
    let list = types(kinds, count);
    let module = format!(
        "(type $wide (func (param {list}) (result {list}))) (table $wides 10 (ref null $wide))
         (func $make (result {list}) unreachable) (func $callee (type $wide) unreachable)"
    );
    let head = format!("(result {list})");
    let with = |repeated: &str, before: &str, after: &str| Dense {
        name,
        module: module.clone(),
        head: head.clone(),
        before: before.into(),
        repeated: repeated.into(),
        after: after.into(),
    };
    [
        with("call $callee ", "call $make ", ""),
        with("i32.const 0 call_indirect $wides (type $wide) ", "call $make ", ""),
        with("i32.const 0 br_if 0 ", "i32.const 0 call $make ", "br 0"),
        // The values move down from one label to the next.
        with(
            "i32.const 1 br_if 1 i32.const 0 br_if 0 ",
            &format!("i32.const 7 block (result {list}) i32.const 0 call $make "),
            "br 0 end br 0",
        ),
    ]
}

fn all() -> Vec<Dense> {
    let mut all = Vec::new();
    all.extend(wide("mixed, 1000", &["i32", "v128"], 1000));
    all.extend(wide("vectors in between, 1000", &["v128", "v128", "i32"], 1000));
    all.extend(wide("blocks of 15", &[["i64"; 15].as_slice(), &["v128"]].concat(), 250));
    all.extend(wide("numbers, 1000", &["i64", "f64"], 1000));
    all.extend(wide("mixed, 60", &["i32", "v128"], 60));
    all.extend(wide("on both sides, 29", &["i64", "f64"], 29));
    all.extend(wide("integers, 20", &["i64"], 20));
    all.extend(wide("integers, 21", &["i32"], 21));
    all.extend(wide("registers, 14", &["i64", "f64"], 14));
    all.extend(wide("some, 7", &["i64", "f64"], 7));
    all.extend(wide("one", &["i64"], 1));
    let locals = "(local f64 f64 f64 f64 f64 f64 f64 f64 i64 i64 i64 i64 i64 i64 i64 i64)";
    let uses: String = (0..16).map(|local| format!("local.get {local} local.set {local} ")).collect();
    let in_loops = |repeated: &str| format!("loop loop loop {uses} end end end {repeated}");
    let with_locals = |name, repeated: &str| Dense { head: locals.into(), before: in_loops(""), ..dense(name, repeated) };
    all.push(with_locals("loops", "loop end "));
    all.push(with_locals("loops around calls", "loop call 0 end "));
    all.push(with_locals("branches after calls", "block call 0 local.get 8 i32.wrap_i64 br_if 0 end "));
    all.push(with_locals("calls after branches", "block local.get 8 i32.wrap_i64 br_if 0 end call 0 "));
    let held: String = (0..14).map(|number| format!("f64.const {number} local.get 0 f64.add ")).collect();
    all.push(Dense {
        module: "(table $t 10 funcref) (elem declare func 0)".into(),
        head: "(local f64 i32)".into(),
        before: held.clone(),
        after: "unreachable".into(),
        ..dense("elements of tables", "local.get 1 table.get $t drop ")
    });
    // Three bytes, whose rare path keeps every register.
    all.push(Dense {
        module: "(table $t 10 funcref)".into(),
        head: "(local f64 i32)".into(),
        before: held.clone() + &"local.get 1 i32.const 1 i32.add ".repeat(6) + "local.get 1 ",
        after: "unreachable".into(),
        ..dense("elements, tested", "table.get $t ref.is_null ")
    });
    all.push(Dense {
        module: "(table $t 10 funcref)".into(),
        head: "(local f64 i32)".into(),
        before: held.clone(),
        after: "unreachable".into(),
        ..dense("indirect calls", "local.get 1 call_indirect $t ")
    });
    let edges: String = (0..100).map(|depth| format!("{depth} ")).collect();
    for count in [2, 5, 15] {
        let list = "i64 ".repeat(count);
        all.push(Dense {
            before: (0..100).map(|_| format!("i64.const 1 block (result {list}) ")).collect::<String>() + &"i64.const 1 ".repeat(count),
            // Each table is in a block of its own, so that there is another one after it.
            repeated: format!("block (param {list}) (result {list}) i32.const 1 br_table {edges} 0 end "),
            after: "unreachable end ".repeat(100) + "unreachable",
            ..dense("tables of branches", "")
        });
    }
    let memory = "(memory $m 1 1) (memory $n 1 1) (memory $w i64 1) (data $d \"abc\")";
    let unary = [
        "i32.trunc_f32_s i64.extend_i32_u i64.clz f64.convert_i64_u f32.demote_f64",
        "i64.trunc_f32_u f64.convert_i64_u f32.demote_f64",
        "i64.trunc_sat_f32_u f32.convert_i64_u",
        "i64.trunc_sat_f32_s f32.convert_i64_s",
        "i32.trunc_sat_f32_u f32.convert_i32_u",
        "f32.ceil f32.floor f32.trunc f32.nearest f32.sqrt f32.abs f32.neg",
        "i32.trunc_f32_s i32.popcnt i32.ctz i32.clz f32.convert_i32_s",
    ];
    all.extend(unary.map(|operators| Dense {
        head: "(local f32)".into(),
        before: "local.get 0 ".into(),
        after: "drop".into(),
        ..dense("conversions", format!("{operators} "))
    }));
    let on_i32 = [
        "i32.load $m",
        "i32.load $n offset=1000000",
        "i32.load8_s $m offset=70000",
        "i32.atomic.load $m",
        "i32.atomic.load8_u $n offset=3",
        "memory.grow $m",
        "memory.grow $n",
        "i64.extend_i32_u memory.grow $w i32.wrap_i64",
        "i64.extend_i32_u i32.load $w",
        "i32.const 7 i32.atomic.rmw.and $m",
        "i32.const 7 i32.atomic.rmw8.xor_u $n offset=99999",
        "i32.const 1 i32.const 2 i32.atomic.rmw16.cmpxchg_u $n",
        "i32.const 3 i32.div_s",
        "i32.const 3 i32.rem_s",
        "local.get 0 i32.div_s",
        "local.get 0 i32.rem_s",
        "local.get 0 i32.rotl",
        "local.get 0 i32.shl",
        "local.get 0 i32.lt_u",
        "global.get 0 i32.add",
        "f64.convert_i32_u i32.trunc_f64_u",
        "local.get 0 local.get 0 memory.copy $m $n local.get 0",
        "local.get 0 local.get 0 memory.fill $n local.get 0",
        "local.get 0 local.get 0 memory.init $m $d local.get 0",
        "i32x4.splat i32x4.extract_lane 1",
        "local.get 0 local.get 0 select",
        "i64.extend_i32_s local.tee 1 local.get 1 local.get 1 local.get 1 i64.add128 drop i32.wrap_i64",
        "if local.get 0 local.set 0 end local.get 0",
        "local.tee 0 global.set 0 global.get 0",
    ];
    all.extend(on_i32.into_iter().map(|operators| Dense {
        module: format!("{memory} (global (mut i32) (i32.const 1))"),
        head: "(local i32 i64)".into(),
        before: "local.get 0 ".into(),
        after: "drop".into(),
        ..dense("integers", format!("{operators} "))
    }));
    let vectors = [
        "i8x16.popcnt",
        "i8x16.abs",
        "i8x16.neg",
        "i64x2.abs",
        "i32.const 3 i8x16.shl",
        "i32.const 3 i8x16.shr_s",
        "i32.const 3 i64x2.shr_s",
        "local.get 1 i8x16.shl",
        "local.get 1 i8x16.shr_u",
        "local.get 1 i64x2.shr_s",
        "local.get 0 i64x2.mul",
        "local.get 0 i32x4.mul",
        "local.get 0 i16x8.q15mulr_sat_s",
        "local.get 0 i8x16.swizzle",
        "local.get 0 i64x2.lt_s",
        "local.get 0 i64x2.ge_s",
        "local.get 0 i32x4.ge_u",
        "local.get 0 f32x4.min",
        "local.get 0 f64x2.max",
        "f32x4.convert_i32x4_u",
        "f64x2.convert_low_i32x4_u",
        "i32x4.trunc_sat_f32x4_s",
        "i32x4.trunc_sat_f32x4_u",
        "i32x4.trunc_sat_f64x2_s_zero",
        "i32x4.trunc_sat_f64x2_u_zero",
        "f32x4.nearest",
        "f64x2.floor",
        "local.get 0 i8x16.shuffle 0 17 2 19 4 21 6 23 8 25 10 27 12 29 14 31",
        "local.get 0 local.get 0 v128.bitselect",
        "i8x16.all_true i8x16.splat",
        "i8x16.bitmask i8x16.splat",
        "v128.any_true i64.extend_i32_u i64x2.splat",
        "local.get 0 i16x8.extmul_high_i8x16_s",
        "i16x8.extadd_pairwise_i8x16_s",
        "i32x4.extadd_pairwise_i16x8_u",
        "local.get 0 i32x4.dot_i16x8_s",
        "local.get 0 local.get 0 f32x4.relaxed_madd",
        "local.get 0 local.get 0 i32x4.relaxed_dot_i8x16_i7x16_add_s",
        "local.get 0 i8x16.avgr_u",
        "f32x4.demote_f64x2_zero",
        "f64x2.promote_low_f32x4",
        "i64x2.extend_high_i32x4_u",
        "f32x4.abs",
        "f64x2.neg",
        "v128.not",
        "local.set 0 local.get 1 local.get 0 v128.load8_lane $m 3",
        "local.set 0 local.get 1 local.get 0 v128.load16_lane $n 3",
        "local.set 0 local.get 1 local.get 0 v128.store8_lane $m 9 local.get 0",
        "drop local.get 1 v128.load32x2_s $m",
        "drop local.get 1 v128.load8_splat $n",
    ];
    all.extend(vectors.into_iter().map(|operators| Dense {
        module: memory.into(),
        head: "(local v128 i32)".into(),
        before: "local.get 0 ".into(),
        after: "drop".into(),
        ..dense("vectors", format!("{operators} "))
    }));
    all
}

fn text(dense: &Dense, times: usize) -> String {
    let Dense { module, head, before, repeated, after, .. } = dense;
    format!("(module (func) {module} (func {head} {before} {} {after}))", repeated.repeat(times))
}

fn settings() -> Vec<(&'static str, Settings)> {
    let of = |triple| {
        let mut settings = Settings::new(Baseline::new().target(triple).expect("this processor, or all of its kind"));
        settings.tiering = Tiering::Counted;
        settings.features.function_references = true;
        settings.features.memory64 = true;
        settings.features.wide_arithmetic = true;
        settings.features.threads = true;
        settings
    };
    let mut everything = of(Some("x86_64-unknown-linux-gnu"));
    (everything.fuel, everything.interrupt, everything.nan_canonicalization) = (true, true, true);
    let mut kept = of(None);
    kept.keeps_locals = true;
    let mut uncounted = of(None);
    uncounted.tiering = Tiering::Slots;
    vec![("usual", of(None)), ("everything", everything), ("kept locals", kept), ("uncounted", uncounted)]
}

#[test]
fn code_stays_within_its_bounds() {
    let (mut densest, mut refused) = (Vec::new(), Vec::new());
    for dense in all() {
        let wasm = wat::parse_str(text(&dense, TIMES)).unwrap_or_else(|error| panic!("{}: {}: {error}", dense.name, dense.repeated));
        for (name, settings) in settings() {
            let translation = peregrine_frontend::translate(&wasm, &settings.features, &Default::default())
                .unwrap_or_else(|error| panic!("{}: {}: {error}", dense.name, dense.repeated));
            let env = ModuleEnv::new(&translation, &settings);
            let mut compiler = Baseline::new().function_compiler(&env).expect("this machine is known");
            let bounds = CodeBounds::of(&translation.module);
            for index in translation.bodies.indices() {
                let body_bytes = translation.body_bytes(index).len() as u64;
                translation
                    .validate_body(index, &mut Default::default())
                    .unwrap_or_else(|error| panic!("{}: {}: {error}", dense.name, dense.repeated));
                let code_bytes = match compiler.function(index) {
                    Ok(func) => func.code.len() as u64,
                    Err(error) => {
                        refused.push(format!("{}, {}, {name}: {error}", dense.name, dense.repeated));
                        continue;
                    }
                };
                let most = bounds.function(body_bytes);
                densest.push((code_bytes * 100 / most, code_bytes / body_bytes, name, dense.name, dense.repeated.clone()));
                if code_bytes > most {
                    refused.push(format!("{}: {}, {name}: {code_bytes} of {most}", dense.name, dense.repeated));
                }
            }
        }
    }
    densest.sort();
    for (percent, factor, settings, name, repeated) in densest.iter().rev().take(25) {
        println!("{percent:>3} % of the bound, {factor:>4} for each byte: {name}, {settings}: {}", &repeated[..repeated.len().min(60)]);
    }
    assert!(refused.is_empty(), "{refused:#?}");
}
