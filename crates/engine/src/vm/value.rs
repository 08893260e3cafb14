//! Values as compiled code passes them to and from the host.

use std::ffi::c_void;

/// One value without its type: 16 bytes, the value's little-endian bytes first. Arrays of it carry the parameters and results of calls.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub struct ValRaw {
    low: u64,
    high: u64,
}

impl ValRaw {
    /// An `i32`.
    #[inline]
    pub const fn i32(value: i32) -> Self {
        Self::u64(value as u32 as u64)
    }

    /// An `i64`.
    #[inline]
    pub const fn i64(value: i64) -> Self {
        Self::u64(value as u64)
    }

    /// An `i32`, unsigned.
    #[inline]
    pub const fn u32(value: u32) -> Self {
        Self::u64(value as u64)
    }

    /// An `i64`, unsigned.
    #[inline]
    pub const fn u64(value: u64) -> Self {
        Self { low: value.to_le(), high: 0 }
    }

    /// An `f32`, given as bits.
    #[inline]
    pub const fn f32(bits: u32) -> Self {
        Self::u32(bits)
    }

    /// An `f64`, given as bits.
    #[inline]
    pub const fn f64(bits: u64) -> Self {
        Self::u64(bits)
    }

    /// A `v128`, given as the number whose little-endian bytes are its lanes.
    #[inline]
    pub const fn v128(bits: u128) -> Self {
        Self { low: (bits as u64).to_le(), high: ((bits >> 64) as u64).to_le() }
    }

    /// A function reference, as [`crate::Func::to_raw`] gives it. Null is null.
    #[inline]
    pub fn funcref(pointer: *mut c_void) -> Self {
        Self::u64(pointer as u64)
    }

    /// A host reference, as `to_raw` of a rooted reference gives it. Null is 0.
    #[inline]
    pub const fn externref(handle: u32) -> Self {
        Self::u32(handle)
    }

    /// A reference to a collected value. There is only null, 0.
    #[inline]
    pub const fn anyref(handle: u32) -> Self {
        Self::u32(handle)
    }

    /// An exception. There is only null, 0.
    #[inline]
    pub const fn exnref(handle: u32) -> Self {
        Self::u32(handle)
    }

    /// The value as an `i32`.
    #[inline]
    pub const fn get_i32(&self) -> i32 {
        self.get_u64() as i32
    }

    /// The value as an `i64`.
    #[inline]
    pub const fn get_i64(&self) -> i64 {
        self.get_u64() as i64
    }

    /// The value as an unsigned `i32`.
    #[inline]
    pub const fn get_u32(&self) -> u32 {
        self.get_u64() as u32
    }

    /// The value as an unsigned `i64`.
    #[inline]
    pub const fn get_u64(&self) -> u64 {
        u64::from_le(self.low)
    }

    /// The bits of the value as an `f32`.
    #[inline]
    pub const fn get_f32(&self) -> u32 {
        self.get_u32()
    }

    /// The bits of the value as an `f64`.
    #[inline]
    pub const fn get_f64(&self) -> u64 {
        self.get_u64()
    }

    /// The value as a `v128`.
    #[inline]
    pub const fn get_v128(&self) -> u128 {
        u64::from_le(self.low) as u128 | (u64::from_le(self.high) as u128) << 64
    }

    /// The value as a function reference.
    #[inline]
    pub fn get_funcref(&self) -> *mut c_void {
        self.get_u64() as *mut c_void
    }

    /// The value as a reference to a collected value.
    #[inline]
    pub const fn get_anyref(&self) -> u32 {
        self.get_u32()
    }

    /// The value as an exception.
    #[inline]
    pub const fn get_exnref(&self) -> u32 {
        self.get_u32()
    }

    /// The value as a host reference.
    #[inline]
    pub const fn get_externref(&self) -> u32 {
        self.get_u32()
    }
}

const _: () = assert!(size_of::<ValRaw>() == peregrine_artifact::abi::VALUE_SIZE_BYTES);

impl std::fmt::Debug for ValRaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ValRaw({:#x})", self.get_v128())
    }
}
