//! Calls with Rust types: checked once, then as cheap as a call can be.

use crate::context::{AsContext, AsContextMut};
use crate::error::{Error, Result, bail, ensure};
use crate::store::StoreOpaque;
use crate::val::V128;
use crate::vm::ValRaw;
use crate::vm::boundary::Callee;
use crate::vm::entry::direct::{RegisterClass, Registers, Returned, Shape};
use crate::{ExternRef, Func, FuncType, HeapType, RefType, Rooted, ValType};
use std::fmt;
use std::marker::PhantomData;

pub(crate) const FOREIGN_PARAMETER: &str =
    "a reference among the parameters belongs to another store, and cross-`Store` values cannot be passed to guests";
const FOREIGN_RESULT: &str =
    "the function returned a reference that belongs to another store, and cross-`Store` values cannot be returned to guests";

/// A function with parameters `Params` and results `Results`, each a value, or a tuple of values. Made by [`Func::typed`] or
/// [`Instance::get_typed_func`](crate::Instance::get_typed_func).
///
/// A call allocates nothing. Parameters and results are passed in registers if there are up to five integers and references, up to four
/// floating point numbers, and one result; otherwise through an array on the stack.
///
/// ```
/// use peregrine::{Engine, Instance, Module, Store};
///
/// let engine = Engine::default();
/// let module = Module::new(
///     &engine,
///     r#"(module (func (export "divide") (param i32 i32) (result i32 i32)
///         (i32.div_u (local.get 0) (local.get 1))
///         (i32.rem_u (local.get 0) (local.get 1))))"#,
/// )?;
/// let mut store = Store::new(&engine, ());
/// let instance = Instance::new(&mut store, &module, &[])?;
/// let divide = instance.get_typed_func::<(u32, u32), (u32, u32)>(&mut store, "divide")?;
/// assert_eq!(divide.call(&mut store, (17, 5))?, (3, 2));
/// # Ok::<(), peregrine::Error>(())
/// ```
pub struct TypedFunc<Params, Results> {
    func: Func,
    callee: Callee,
    types: PhantomData<fn(Params) -> Results>,
}

impl<Params, Results> TypedFunc<Params, Results> {
    /// The function without its Rust types.
    pub fn func(&self) -> &Func {
        &self.func
    }
}

impl<Params, Results> TypedFunc<Params, Results> {
    /// The function, ready to be called.
    pub(crate) fn callee(&self) -> Callee {
        self.callee
    }
}

impl<Params: WasmParams, Results: WasmResults> TypedFunc<Params, Results> {
    pub(crate) fn new(store: &StoreOpaque, func: Func) -> Result<Self> {
        let ty = func.ty_in(store);
        check_types("parameters", Params::types(), &ty, ty.params().collect(), |rust, wasm| rust.matches(wasm))?;
        check_types("results", <Results as WasmParams>::types(), &ty, ty.results().collect(), |rust, wasm| wasm.matches(rust))?;
        let callee = Callee::new(store, func.checked(store), Params::COUNT.max(<Results as WasmParams>::COUNT));
        Ok(Self { func, callee, types: PhantomData })
    }

    /// The function `func` with Rust types that are not checked.
    ///
    /// # Panics
    ///
    /// If it belongs to another store.
    ///
    /// # Safety
    ///
    /// 1. The types of the function are those that `Params` and `Results` stand for.
    #[expect(unsafe_code, reason = "the caller promises what the types are")]
    pub unsafe fn new_unchecked(store: impl AsContext, func: Func) -> Self {
        let store = &store.as_context().0.opaque;
        let callee = Callee::new(store, func.checked(store), Params::COUNT.max(<Results as WasmParams>::COUNT));
        Self { func, callee, types: PhantomData }
    }

    /// Calls the function.
    ///
    /// # Errors
    ///
    /// The [`Trap`](crate::Trap) or the error of a host function that ended the call, with a [`WasmBacktrace`](crate::WasmBacktrace). If a
    /// reference among the parameters belongs to another store.
    ///
    /// # Panics
    ///
    /// If it belongs to another store; or with the panic of a host function.
    #[inline]
    pub fn call(&self, mut store: impl AsContextMut, params: Params) -> Result<Results> {
        let store = store.as_context_mut().0;
        ensure!(params.are_of(&store.opaque), FOREIGN_PARAMETER);
        if Params::SHAPE.is_direct(<Results as WasmParams>::SHAPE)
            && let Some(callee) = self.callee.direct(store)
        {
            let mut registers = Registers::default();
            params.into_registers(&store.opaque, &mut registers);
            return match callee.call(store, &registers, Params::SHAPE) {
                Ok(returned) => Ok(Results::from_registers(&store.opaque, returned)),
                Err(pending) => Err(store.opaque.error_of(pending)),
            };
        }
        self.call_through_array(store, params)
    }

    #[inline(never)]
    fn call_through_array<T: 'static>(&self, store: &mut crate::store::StoreInner<T>, params: Params) -> Result<Results> {
        if Params::COUNT >= <Results as WasmParams>::COUNT {
            self.call_in(store, Params::array().as_mut(), params)
        } else {
            self.call_in(store, <Results as WasmParams>::array().as_mut(), params)
        }
    }

    #[inline]
    fn call_in<T: 'static>(&self, store: &mut crate::store::StoreInner<T>, values: &mut [ValRaw], params: Params) -> Result<Results> {
        params.into_slots(&store.opaque, values);
        match self.callee.call(store, values) {
            Ok(()) => Ok(Results::from_slots(&store.opaque, values)),
            Err(pending) => Err(store.opaque.error_of(pending)),
        }
    }
}

fn check_types(
    what: &str,
    rust: impl IntoIterator<Item = ValType>,
    ty: &FuncType,
    wasm: Vec<ValType>,
    fits: impl Fn(&ValType, &ValType) -> bool,
) -> Result<()> {
    let rust: Vec<ValType> = rust.into_iter().collect();
    if rust.len() != wasm.len() {
        bail!("type mismatch with {what}: expected {} types, found {}, in the function type {ty}", rust.len(), wasm.len());
    }
    for (position, (rust, wasm)) in rust.iter().zip(&wasm).enumerate() {
        ensure!(
            fits(rust, wasm),
            "type mismatch with {what}: expected {rust}, found {wasm}, at position {position} of the function type {ty}"
        );
    }
    Ok(())
}

impl<Params, Results> Clone for TypedFunc<Params, Results> {
    fn clone(&self) -> Self {
        Self { func: self.func, callee: self.callee, types: PhantomData }
    }
}

impl<Params, Results> fmt::Debug for TypedFunc<Params, Results> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedFunc").field(&self.func).finish()
    }
}

/// A Rust type that stands for a type of value: `i32`, `u32`, `i64`, `u64`, `f32`, `f64`, [`V128`], [`Func`],
/// [`Rooted<ExternRef>`](Rooted), and `Option` of
/// the last two. Implemented here only.
pub trait WasmTy: Send + Sized + 'static {
    /// The type of value it stands for.
    fn valtype() -> ValType;
    #[doc(hidden)]
    const CLASS: RegisterClass = RegisterClass::Int;
    /// Whether it can be used in `store`: references belong to one.
    #[doc(hidden)]
    #[inline(always)]
    fn is_of(&self, store: &StoreOpaque) -> bool {
        let _ = store;
        true
    }
    #[doc(hidden)]
    fn into_slot(self, store: &StoreOpaque) -> ValRaw;
    #[doc(hidden)]
    fn from_slot(store: &StoreOpaque, raw: ValRaw) -> Self;
}

macro_rules! value_types {
    ($($rust:ty, $class:ident, $ty:expr, $value:ident, $store:ident => $to:expr, $raw:ident => $from:expr
        $(, $this:ident is of $of:ident => $check:expr)?;)*) => {$(
        impl WasmTy for $rust {
            const CLASS: RegisterClass = RegisterClass::$class;

            fn valtype() -> ValType {
                $ty
            }

            $(
                #[inline]
                fn is_of(&self, $of: &StoreOpaque) -> bool {
                    let $this = self;
                    $check
                }
            )?

            #[inline]
            fn into_slot(self, $store: &StoreOpaque) -> ValRaw {
                let $value = self;
                $to
            }

            #[inline]
            fn from_slot($store: &StoreOpaque, $raw: ValRaw) -> Self {
                $from
            }
        }
    )*};
}

value_types! {
    i32, Int, ValType::I32, value, _store => ValRaw::i32(value), raw => raw.get_i32();
    u32, Int, ValType::I32, value, _store => ValRaw::u32(value), raw => raw.get_u32();
    i64, Int, ValType::I64, value, _store => ValRaw::i64(value), raw => raw.get_i64();
    u64, Int, ValType::I64, value, _store => ValRaw::u64(value), raw => raw.get_u64();
    f32, Float, ValType::F32, value, _store => ValRaw::f32(value.to_bits()), raw => f32::from_bits(raw.get_f32());
    f64, Float, ValType::F64, value, _store => ValRaw::f64(value.to_bits()), raw => f64::from_bits(raw.get_f64());
    V128, Vector, ValType::V128, value, _store => ValRaw::v128(value.as_u128()), raw => raw.get_v128().into();
    Option<Func>, Int, ValType::FUNCREF, value, store => ValRaw::u64(value.map_or(0, |func| func.checked(store).get())),
        raw => Func::from_bits(store, raw.get_u64()),
        value is of store => value.is_none_or(|value| value.is_of(store));
    Func, Int, ValType::Ref(RefType::new(false, HeapType::Func)), value, store => ValRaw::u64(value.checked(store).get()),
        raw => <Option<Func>>::from_slot(store, raw).expect("the type has no null"),
        value is of store => value.is_of(store);
    Option<Rooted<ExternRef>>, Int, ValType::EXTERNREF, value, store => ValRaw::externref(value.map_or(0, |value| value.handle_in(store))),
        raw => Rooted::from_handle(store, raw.get_externref()),
        value is of store => value.is_none_or(|value| value.is_of(store));
    Rooted<ExternRef>, Int, ValType::Ref(RefType::new(false, HeapType::Extern)), value, store => ValRaw::externref(value.handle_in(store)),
        raw => Rooted::from_handle(store, raw.get_externref()).expect("the type has no null"),
        value is of store => value.is_of(store);
}

/// Parameters of a [`TypedFunc`]: a [`WasmTy`], or a tuple of up to 17 of them.
pub trait WasmParams: Send {
    #[doc(hidden)]
    const COUNT: usize;
    #[doc(hidden)]
    type Array: AsMut<[ValRaw]> + Send;
    #[doc(hidden)]
    fn array() -> Self::Array;
    #[doc(hidden)]
    fn types() -> impl IntoIterator<Item = ValType>;
    #[doc(hidden)]
    fn are_of(&self, store: &StoreOpaque) -> bool;
    #[doc(hidden)]
    fn into_slots(self, store: &StoreOpaque, values: &mut [ValRaw]);
    #[doc(hidden)]
    const SHAPE: Shape;
    #[doc(hidden)]
    fn into_registers(self, store: &StoreOpaque, registers: &mut Registers);
}

/// Results of a [`TypedFunc`]: a [`WasmTy`], or a tuple of up to 17 of them.
pub trait WasmResults: WasmParams {
    #[doc(hidden)]
    fn from_slots(store: &StoreOpaque, values: &[ValRaw]) -> Self;
    #[doc(hidden)]
    fn from_registers(store: &StoreOpaque, returned: Returned) -> Self;
}

/// What an asynchronous host function takes: a tuple of up to 17 [`WasmTy`]s.
pub trait WasmTyList: WasmResults + 'static {
    /// The types of the values it stands for.
    fn valtypes() -> impl Iterator<Item = ValType>;
}

impl<P: WasmResults + 'static> WasmTyList for P {
    fn valtypes() -> impl Iterator<Item = ValType> {
        <P as WasmParams>::types().into_iter()
    }
}

/// What a host function returns: a [`WasmTy`], a tuple of up to 17 of them, or a [`Result`] of either. An error ends the guest's call
/// with it.
pub trait WasmRet: 'static {
    #[doc(hidden)]
    const COUNT: usize;
    #[doc(hidden)]
    const SHAPE: Shape;
    #[doc(hidden)]
    fn types() -> impl IntoIterator<Item = ValType>;
    #[doc(hidden)]
    fn return_slots(self, store: &mut StoreOpaque, values: &mut [ValRaw]) -> Result<()>;
}

impl<A: WasmTy> WasmParams for A {
    const COUNT: usize = 1;
    type Array = [ValRaw; 1];

    fn array() -> [ValRaw; 1] {
        [ValRaw::i32(0)]
    }

    fn types() -> impl IntoIterator<Item = ValType> {
        [A::valtype()]
    }

    #[inline(always)]
    fn are_of(&self, store: &StoreOpaque) -> bool {
        self.is_of(store)
    }

    #[inline]
    fn into_slots(self, store: &StoreOpaque, values: &mut [ValRaw]) {
        values[0] = self.into_slot(store);
    }

    const SHAPE: Shape = Shape::NONE.with(A::CLASS);

    #[inline(always)]
    fn into_registers(self, store: &StoreOpaque, registers: &mut Registers) {
        registers.push(A::CLASS, self.into_slot(store));
    }
}

impl<A: WasmTy> WasmResults for A {
    #[inline]
    fn from_slots(store: &StoreOpaque, values: &[ValRaw]) -> Self {
        A::from_slot(store, values[0])
    }

    #[inline(always)]
    fn from_registers(store: &StoreOpaque, returned: Returned) -> Self {
        A::from_slot(store, returned.value(A::CLASS))
    }
}

impl<A: WasmTy> WasmRet for A {
    const COUNT: usize = 1;
    const SHAPE: Shape = Shape::NONE.with(A::CLASS);

    fn types() -> impl IntoIterator<Item = ValType> {
        [A::valtype()]
    }

    #[inline]
    fn return_slots(self, store: &mut StoreOpaque, values: &mut [ValRaw]) -> Result<()> {
        ensure!(self.is_of(store), FOREIGN_RESULT);
        values[0] = self.into_slot(store);
        Ok(())
    }
}

impl<R: WasmRet> WasmRet for Result<R, Error> {
    const COUNT: usize = R::COUNT;
    const SHAPE: Shape = R::SHAPE;

    fn types() -> impl IntoIterator<Item = ValType> {
        R::types()
    }

    #[inline]
    fn return_slots(self, store: &mut StoreOpaque, values: &mut [ValRaw]) -> Result<()> {
        self?.return_slots(store, values)
    }
}

macro_rules! tuples {
    ($($item:ident)*) => {
        #[allow(non_snake_case, unused_variables, unused_mut, unused_assignments, reason = "names stand for types and values; or there are none")]
        #[allow(clippy::unused_unit, reason = "the tuple of none")]
        const _: () = {
            impl<$($item: WasmTy),*> WasmParams for ($($item,)*) {
                const COUNT: usize = {
                    let names: &[&str] = &[$(stringify!($item)),*];
                    names.len()
                };
                type Array = [ValRaw; { let names: &[&str] = &[$(stringify!($item)),*]; names.len() }];

                fn array() -> Self::Array {
                    [ValRaw::i32(0); { let names: &[&str] = &[$(stringify!($item)),*]; names.len() }]
                }

                fn types() -> impl IntoIterator<Item = ValType> {
                    [$($item::valtype()),*]
                }

                #[inline(always)]
                fn are_of(&self, store: &StoreOpaque) -> bool {
                    let ($($item,)*) = self;
                    true $(&& $item.is_of(store))*
                }

                #[inline]
                fn into_slots(self, store: &StoreOpaque, values: &mut [ValRaw]) {
                    let ($($item,)*) = self;
                    let mut position = 0;
                    $(
                        values[position] = $item.into_slot(store);
                        position += 1;
                    )*
                }

                const SHAPE: Shape = Shape::NONE$(.with($item::CLASS))*;

                #[inline(always)]
                fn into_registers(self, store: &StoreOpaque, registers: &mut Registers) {
                    let ($($item,)*) = self;
                    $(registers.push($item::CLASS, $item.into_slot(store));)*
                }
            }

            impl<$($item: WasmTy),*> WasmResults for ($($item,)*) {
                #[inline]
                fn from_slots(store: &StoreOpaque, values: &[ValRaw]) -> Self {
                    let mut values = values.iter();
                    ($($item::from_slot(store, *values.next().expect("a slot for each result")),)*)
                }

                #[inline(always)]
                fn from_registers(store: &StoreOpaque, returned: Returned) -> Self {
                    // Called for at most one result.
                    ($($item::from_slot(store, returned.value($item::CLASS)),)*)
                }
            }

            impl<$($item: WasmTy),*> WasmRet for ($($item,)*) {
                const COUNT: usize = <Self as WasmParams>::COUNT;
                const SHAPE: Shape = <Self as WasmParams>::SHAPE;

                fn types() -> impl IntoIterator<Item = ValType> {
                    [$($item::valtype()),*]
                }

                #[inline]
                fn return_slots(self, store: &mut StoreOpaque, values: &mut [ValRaw]) -> Result<()> {
                    ensure!(self.are_of(store), FOREIGN_RESULT);
                    WasmParams::into_slots(self, store, values);
                    Ok(())
                }
            }
        };
    };
}

/// Calls the macro `$then` with no name, one name, and so on up to 17 names.
macro_rules! for_each_arity {
    ($then:ident) => {
        $then!();
        $then!(A1);
        $then!(A1 A2);
        $then!(A1 A2 A3);
        $then!(A1 A2 A3 A4);
        $then!(A1 A2 A3 A4 A5);
        $then!(A1 A2 A3 A4 A5 A6);
        $then!(A1 A2 A3 A4 A5 A6 A7);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13 A14);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13 A14 A15);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13 A14 A15 A16);
        $then!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13 A14 A15 A16 A17);
    };
}

pub(crate) use for_each_arity;
for_each_arity!(tuples);
