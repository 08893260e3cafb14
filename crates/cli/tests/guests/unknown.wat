;; Imports what nobody has; calls it only in `late`.
(module
  (import "env" "missing" (func $missing (param i32) (result i64)))
  (func (export "_start"))
  (func (export "late") (result i64) (call $missing (i32.const 1))))
