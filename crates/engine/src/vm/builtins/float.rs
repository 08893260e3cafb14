//! Float operations for processors without instructions for them. The context is passed for the veneer's sake and not used.

use super::Caller;

macro_rules! unary {
    ($($name:ident: $ty:ty, $method:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(_caller: Caller, value: $ty) -> $ty {
            value.$method()
        }
    )*};
}

unary! {
    f32_ceil: f32, ceil;
    f32_floor: f32, floor;
    f32_trunc: f32, trunc;
    f32_nearest: f32, round_ties_even;
    f64_ceil: f64, ceil;
    f64_floor: f64, floor;
    f64_trunc: f64, trunc;
    f64_nearest: f64, round_ties_even;
}

pub(super) unsafe extern "C" fn f32_fma(_caller: Caller, a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

pub(super) unsafe extern "C" fn f64_fma(_caller: Caller, a: f64, b: f64, c: f64) -> f64 {
    a.mul_add(b, c)
}
