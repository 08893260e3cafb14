;; One export for each kind of trap.
(module
  (memory 1)
  (table 2 funcref)
  (elem (i32.const 1) $divide)
  (type $none (func))
  (func $divide (export "divide") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "indirect") (param i32) (call_indirect (type $none) (local.get 0)))
  (func (export "convert") (param f32) (result i32) (i32.trunc_f32_s (local.get 0)))
  (func $recurse (export "recurse") (call $recurse) (call $recurse)))
