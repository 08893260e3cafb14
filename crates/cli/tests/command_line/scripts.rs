//! `peregrine wast`.

use crate::peregrine::peregrine;

const RIGHT: &str = r#"
(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
  (func (export "trap") unreachable))
(assert_return (invoke "add" (i32.const 1) (i32.const 2)) (i32.const 3))
(assert_trap (invoke "trap") "unreachable")
(assert_invalid (module (func (result i32))) "type mismatch")
(assert_malformed (module quote "(func (") "unexpected token")
(register "m")
(assert_unlinkable (module (import "m" "none" (func))) "unknown import")
"#;

const WRONG: &str = r#"
(module (func (export "one") (result i32) i32.const 1) (func (export "trap") unreachable))
(assert_return (invoke "one") (i32.const 2))
  (assert_trap (invoke "trap") "integer overflow")
(assert_return (invoke "one") (i32.const 1))
"#;

#[test]
fn right_scripts_pass() {
    peregrine(["wast", "right.wast"]).file("right.wast", RIGHT).finish().code(0);
    peregrine(["wast", "-W", "fuel=100000", "-O", "opt-level=0", "right.wast"]).file("right.wast", RIGHT).finish().code(0);
}

#[test]
fn each_failure_has_its_place() {
    let finished = peregrine(["wast", "wrong.wast"]).file("wrong.wast", WRONG).finish().code(1);
    let finished = finished.complains("wrong.wast:3:2: result 0: expected i32 2 (0x2), found i32 1 (0x1)");
    finished.complains("wrong.wast:4:4: expected the trap `integer overflow`").complains("2 of 4 directives failed");
    let finished = peregrine(["wast", "--ignore-error-messages", "wrong.wast"]).file("wrong.wast", WRONG).finish().code(1);
    finished.complains("wrong.wast:3:2").complains("1 of 4 directives failed");
}

#[test]
fn scripts_that_cannot_be_read_fail() {
    peregrine(["wast", "none.wast"]).finish().code(1).complains("none.wast");
    peregrine(["wast", "bad.wast"]).file("bad.wast", "(module)\n(assert_nothing)").finish().code(1).complains("bad.wast:2:2");
}

#[test]
fn scripts_have_a_time_and_no_limiter() {
    let spins = "(module (func (export \"spin\") (loop (br 0))))\n(invoke \"spin\")";
    peregrine(["wast", "-W", "timeout=200ms", "spin.wast"])
        .file("spin.wast", spins)
        .finish()
        .code(1)
        .complains("spin.wast:2:2")
        .complains("interrupt");
    peregrine(["wast", "-W", "max-memory-size=1M", "right.wast"])
        .file("right.wast", RIGHT)
        .finish()
        .code(2)
        .complains("`-W max-memory-size` has no meaning for `peregrine wast`");
}
