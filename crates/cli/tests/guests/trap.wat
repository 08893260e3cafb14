;; Traps three calls deep.
(module $trapper
  (func $inner (unreachable))
  (func $middle (call $inner))
  (func $outer (export "_start") (call $middle)))
