;; Ends with the type of descriptor 3 as its exit code, or 100 and the error number.
(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $error i32)
    (local.set $error (call $fdstat (i32.const 3) (i32.const 64)))
    (if (local.get $error) (then (call $proc_exit (i32.add (i32.const 100) (local.get $error)))))
    (call $proc_exit (i32.load8_u (i32.const 64)))))
