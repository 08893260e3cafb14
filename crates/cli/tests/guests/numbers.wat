;; Functions to invoke.
(module
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "mul64") (param i64 i64) (result i64) (i64.mul (local.get 0) (local.get 1)))
  (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2)))
  (func (export "swap") (param i32 f32) (result f32 i32) (local.get 1) (local.get 0))
  (func (export "nothing"))
  (func (export "is_null") (param externref) (result i32) (ref.is_null (local.get 0))))
