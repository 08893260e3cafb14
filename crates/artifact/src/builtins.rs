//! The one table of functions of the engine that compiled code calls.
//!
//! An instance's context points to an array with one code pointer for each builtin, in the order of this table. Compiled code calls
//! through it with the C convention of its target. Each function takes the context of the calling instance first. A builtin that traps
//! records the trap in the store's context; the caller is not returned to.

/// The type of a parameter or result of a builtin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltinType {
    /// A machine pointer.
    Pointer,
    /// 32 bits.
    I32,
    /// 64 bits.
    I64,
    /// An IEEE 754 number of 32 bits.
    F32,
    /// An IEEE 754 number of 64 bits.
    F64,
}

/// Calls the macro `$then` with the table. One row is
/// `name(parameter: type, ...) -> result;`, with the types of [`BuiltinType`] in lower case.
#[macro_export]
macro_rules! for_each_builtin {
    ($then:ident) => {
        $then! {
            /// Calls the function of a host context: `values` holds the parameters, and the results on return. `vmctx` is a host context.
            host_call(vmctx: pointer, values: pointer);
            /// Ends the call with a trap.
            raise(vmctx: pointer, trap: i32);
            /// Grows a memory by `delta` pages. Returns the old size in pages, or -1 as 64 bits.
            memory_grow(vmctx: pointer, memory: i32, delta: i64) -> i64;
            /// `memory.copy`. Lengths and addresses are zero-extended.
            memory_copy(vmctx: pointer, memories: i64, target: i64, source: i64, len: i64);
            /// `memory.fill`.
            memory_fill(vmctx: pointer, memory: i32, target: i64, value: i32, len: i64);
            /// `memory.init`.
            memory_init(vmctx: pointer, memory_and_data: i64, target: i64, source: i32, len: i32);
            /// `data.drop`.
            data_drop(vmctx: pointer, data: i32);
            /// Element `index` of a table of functions, in bounds but not initialized yet. Returns the reference.
            table_element_init(vmctx: pointer, table: i32, index: i64) -> pointer;
            /// `table.grow`. `value` is the reference, zero-extended. Returns the old size, or -1 as 64 bits.
            table_grow(vmctx: pointer, table: i32, delta: i64, value: i64) -> i64;
            /// `table.fill`.
            table_fill(vmctx: pointer, table: i32, target: i64, value: i64, len: i64);
            /// `table.copy`. `tables` is the target table in the low, the source table in the high 32 bits.
            table_copy(vmctx: pointer, tables: i64, target: i64, source: i64, len: i64);
            /// `table.init`. `table_and_element` is the table in the low, the segment in the high 32 bits.
            table_init(vmctx: pointer, table_and_element: i64, target: i64, source: i32, len: i32);
            /// `elem.drop`.
            element_drop(vmctx: pointer, element: i32);
            /// A reference to a function of the module.
            ref_func(vmctx: pointer, function: i32) -> pointer;
            /// The fuel counter is above zero: traps or yields, as the store says. On x86-64 it keeps all registers but the counter's.
            out_of_fuel(vmctx: pointer);
            /// The budget of a function is used up at its entry: the engine may compile it again. `function` is the index of the defined
            /// function. See [`crate::settings::Tiering::Counted`].
            hot_function(vmctx: pointer, function: i32);
            /// The budget of a function is used up at the head of a loop. `function_and_loop` is the index of the defined function in the low
            /// 32 bits and the offset of the `loop` operator in the body in the high ones; locals and operands are in their homes below
            /// `homes`; `layout` is made by `pack_homes`. Returns 0 to go on, or code to go on with: see [`crate::abi`].
            hot_loop(vmctx: pointer, function_and_loop: i64, homes: pointer, layout: i32) -> pointer;
            /// `memory.atomic.notify` at an effective address.
            memory_atomic_notify(vmctx: pointer, memory: i32, address: i64, count: i32) -> i32;
            /// `memory.atomic.wait32` at an effective address.
            memory_atomic_wait32(vmctx: pointer, memory: i32, address: i64, expected: i32, timeout_ns: i64) -> i32;
            /// `memory.atomic.wait64` at an effective address.
            memory_atomic_wait64(vmctx: pointer, memory: i32, address: i64, expected: i64, timeout_ns: i64) -> i32;
            /// `f32.ceil`, for processors without an instruction for it.
            f32_ceil(vmctx: pointer, value: f32) -> f32;
            /// `f32.floor`, likewise.
            f32_floor(vmctx: pointer, value: f32) -> f32;
            /// `f32.trunc`, likewise.
            f32_trunc(vmctx: pointer, value: f32) -> f32;
            /// `f32.nearest`, likewise.
            f32_nearest(vmctx: pointer, value: f32) -> f32;
            /// `f64.ceil`, likewise.
            f64_ceil(vmctx: pointer, value: f64) -> f64;
            /// `f64.floor`, likewise.
            f64_floor(vmctx: pointer, value: f64) -> f64;
            /// `f64.trunc`, likewise.
            f64_trunc(vmctx: pointer, value: f64) -> f64;
            /// `f64.nearest`, likewise.
            f64_nearest(vmctx: pointer, value: f64) -> f64;
            /// `a * b + c` rounded once.
            f32_fma(vmctx: pointer, a: f32, b: f32, c: f32) -> f32;
            /// `a * b + c` rounded once.
            f64_fma(vmctx: pointer, a: f64, b: f64, c: f64) -> f64;
        }
    };
}

macro_rules! define {
    ($($(#[$doc:meta])* $name:ident($($param:ident: $ty:ident),*) $(-> $result:ident)?;)*) => {
        /// One function of the engine. The number is its position in the array.
        #[expect(non_camel_case_types, reason = "the names are those of the functions")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Builtin { $($(#[$doc])* $name,)* }

        impl Builtin {
            /// Every builtin, in the order of the array.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name of the function.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Types of the parameters.
            pub const fn params(self) -> &'static [BuiltinType] {
                match self { $(Self::$name => &[$(builtin_type!($ty)),*],)* }
            }

            /// Type of the result, if there is one.
            pub const fn result(self) -> Option<BuiltinType> {
                match self { $(Self::$name => define!(@result $($result)?),)* }
            }

            /// Where in the array of code pointers it stands, in bytes.
            pub const fn offset_bytes(self) -> i32 {
                self as i32 * 8
            }
        }
    };
    (@result) => { None };
    (@result $ty:ident) => { Some(builtin_type!($ty)) };
}

macro_rules! builtin_type {
    (pointer) => {
        BuiltinType::Pointer
    };
    (i32) => {
        BuiltinType::I32
    };
    (i64) => {
        BuiltinType::I64
    };
    (f32) => {
        BuiltinType::F32
    };
    (f64) => {
        BuiltinType::F64
    };
}

for_each_builtin!(define);

/// Two indices in one argument: `low` in the low, `high` in the high 32 bits.
pub const fn pack_indices(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// Where the values of a function are when a loop of it turns out to be hot, in one argument: there are `locals` homes of locals, then those of
/// operands by depth; home number `n` is `(n + 1) << log2` bytes below the pointer to the homes.
pub const fn pack_homes(locals: u32, log2: u32) -> u32 {
    locals << 4 | log2
}

/// The `(locals, log2)` of an argument made by [`pack_homes`].
pub const fn unpack_homes(packed: u32) -> (u32, u32) {
    (packed >> 4, packed & 15)
}

/// The `(low, high)` indices of an argument made by [`pack_indices`].
pub const fn unpack_indices(packed: u64) -> (u32, u32) {
    (packed as u32, (packed >> 32) as u32)
}
