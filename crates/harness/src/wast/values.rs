//! Values of scripts: arguments into the API's values, results against the patterns of assertions.

use peregrine::{ExternRef, Result, Store, Val};
use std::fmt::Write;
use wast::core::{AbstractHeapType, HeapType, NanPattern, V128Pattern, WastArgCore, WastRetCore};
use wast::token::{F32, F64};

const F32_CANONICAL: u32 = 0x7fc0_0000;
const F64_CANONICAL: u64 = 0x7ff8_0000_0000_0000;

/// The value of an argument. A reference to a host value holds its number.
pub(super) fn argument(store: &mut Store<()>, arg: &WastArgCore<'_>) -> Result<Val> {
    Ok(match arg {
        WastArgCore::I32(value) => Val::I32(*value),
        WastArgCore::I64(value) => Val::I64(*value),
        WastArgCore::F32(value) => Val::F32(value.bits),
        WastArgCore::F64(value) => Val::F64(value.bits),
        WastArgCore::V128(value) => Val::V128(u128::from_le_bytes(value.to_le_bytes()).into()),
        WastArgCore::RefNull(HeapType::Abstract { ty: AbstractHeapType::Func | AbstractHeapType::NoFunc, .. }) => Val::FuncRef(None),
        WastArgCore::RefNull(HeapType::Abstract { ty: AbstractHeapType::Extern | AbstractHeapType::NoExtern, .. }) => Val::ExternRef(None),
        WastArgCore::RefExtern(number) => Val::ExternRef(Some(ExternRef::new(&mut *store, *number)?)),
        WastArgCore::RefNull(_) | WastArgCore::RefHost(_) => {
            return Err(peregrine::Error::msg(format!("unsupported: the argument {arg:?} needs the collector")));
        }
    })
}

/// Whether `found` fits `expected`.
pub(super) fn fits(store: &Store<()>, found: &Val, expected: &WastRetCore<'_>) -> Result<bool> {
    Ok(match (found, expected) {
        (_, WastRetCore::Either(choices)) => {
            for choice in choices {
                if fits(store, found, choice)? {
                    return Ok(true);
                }
            }
            false
        }
        (Val::I32(found), WastRetCore::I32(expected)) => found == expected,
        (Val::I64(found), WastRetCore::I64(expected)) => found == expected,
        (Val::F32(found), WastRetCore::F32(expected)) => f32_fits(*found, expected),
        (Val::F64(found), WastRetCore::F64(expected)) => f64_fits(*found, expected),
        (Val::V128(found), WastRetCore::V128(expected)) => v128_fits(found.as_u128(), expected),
        (Val::FuncRef(None) | Val::ExternRef(None), WastRetCore::RefNull(None)) => true,
        (Val::FuncRef(None), WastRetCore::RefNull(Some(ty))) => {
            matches!(ty, HeapType::Abstract { ty: AbstractHeapType::Func | AbstractHeapType::NoFunc, .. } | HeapType::Concrete(_))
        }
        (Val::ExternRef(None), WastRetCore::RefNull(Some(ty))) => {
            matches!(ty, HeapType::Abstract { ty: AbstractHeapType::Extern | AbstractHeapType::NoExtern, .. })
        }
        (Val::FuncRef(Some(_)), WastRetCore::RefFunc(_)) => true,
        (Val::ExternRef(Some(_)), WastRetCore::RefExtern(None)) => true,
        (Val::ExternRef(Some(found)), WastRetCore::RefExtern(Some(expected))) => extern_number(store, found)? == Some(*expected),
        _ => false,
    })
}

/// A value as it is shown in a failure: floats and vectors with their bits.
pub(super) fn show(store: &Store<()>, value: &Val) -> String {
    match value {
        Val::I32(value) => format!("i32 {value} ({value:#x})"),
        Val::I64(value) => format!("i64 {value} ({value:#x})"),
        Val::F32(bits) => format!("f32 {} ({bits:#010x})", f32::from_bits(*bits)),
        Val::F64(bits) => format!("f64 {} ({bits:#018x})", f64::from_bits(*bits)),
        Val::V128(value) => {
            let mut text = String::from("v128 i8x16");
            for byte in value.as_u128().to_le_bytes() {
                let _ = write!(text, " {byte:#04x}");
            }
            text
        }
        Val::FuncRef(None) => "ref.null func".to_string(),
        Val::FuncRef(Some(_)) => "ref.func".to_string(),
        Val::ExternRef(None) => "ref.null extern".to_string(),
        Val::ExternRef(Some(found)) => match extern_number(store, found) {
            Ok(Some(number)) => format!("ref.extern {number}"),
            _ => "ref.extern".to_string(),
        },
        #[allow(unreachable_patterns, reason = "the API may have kinds of references that scripts here cannot name")]
        _ => "a reference".to_string(),
    }
}

/// A pattern as it is shown in a failure.
pub(super) fn show_pattern(expected: &WastRetCore<'_>) -> String {
    match expected {
        WastRetCore::I32(value) => format!("i32 {value} ({value:#x})"),
        WastRetCore::I64(value) => format!("i64 {value} ({value:#x})"),
        WastRetCore::F32(pattern) => format!("f32 {}", show_f32(pattern)),
        WastRetCore::F64(pattern) => format!("f64 {}", show_f64(pattern)),
        WastRetCore::V128(V128Pattern::F32x4(lanes)) => format!("v128 f32x4 {}", lanes.each_ref().map(show_f32).join(" ")),
        WastRetCore::V128(V128Pattern::F64x2(lanes)) => format!("v128 f64x2 {}", lanes.each_ref().map(show_f64).join(" ")),
        WastRetCore::V128(pattern) => format!("v128 {pattern:x?}"),
        WastRetCore::Either(choices) => format!("either {}", choices.iter().map(show_pattern).collect::<Vec<_>>().join(" | ")),
        other => format!("{other:?}"),
    }
}

fn show_f32(pattern: &NanPattern<F32>) -> String {
    match pattern {
        NanPattern::CanonicalNan => "nan:canonical".to_string(),
        NanPattern::ArithmeticNan => "nan:arithmetic".to_string(),
        NanPattern::Value(value) => format!("{} ({:#010x})", f32::from_bits(value.bits), value.bits),
    }
}

fn show_f64(pattern: &NanPattern<F64>) -> String {
    match pattern {
        NanPattern::CanonicalNan => "nan:canonical".to_string(),
        NanPattern::ArithmeticNan => "nan:arithmetic".to_string(),
        NanPattern::Value(value) => format!("{} ({:#018x})", f64::from_bits(value.bits), value.bits),
    }
}

fn f32_fits(found: u32, expected: &NanPattern<F32>) -> bool {
    match expected {
        // The sign of a NaN is never promised.
        NanPattern::CanonicalNan => found & 0x7fff_ffff == F32_CANONICAL,
        NanPattern::ArithmeticNan => found & F32_CANONICAL == F32_CANONICAL,
        NanPattern::Value(value) => found == value.bits,
    }
}

fn f64_fits(found: u64, expected: &NanPattern<F64>) -> bool {
    match expected {
        NanPattern::CanonicalNan => found & (u64::MAX >> 1) == F64_CANONICAL,
        NanPattern::ArithmeticNan => found & F64_CANONICAL == F64_CANONICAL,
        NanPattern::Value(value) => found == value.bits,
    }
}

fn v128_fits(found: u128, expected: &V128Pattern) -> bool {
    let bytes = found.to_le_bytes();
    let lane = |width: usize, index: usize| {
        let mut lane = [0; 8];
        lane[..width].copy_from_slice(&bytes[index * width..][..width]);
        u64::from_le_bytes(lane)
    };
    match expected {
        V128Pattern::I8x16(lanes) => lanes.iter().enumerate().all(|(i, value)| lane(1, i) as i8 == *value),
        V128Pattern::I16x8(lanes) => lanes.iter().enumerate().all(|(i, value)| lane(2, i) as i16 == *value),
        V128Pattern::I32x4(lanes) => lanes.iter().enumerate().all(|(i, value)| lane(4, i) as i32 == *value),
        V128Pattern::I64x2(lanes) => lanes.iter().enumerate().all(|(i, value)| lane(8, i) as i64 == *value),
        V128Pattern::F32x4(lanes) => lanes.iter().enumerate().all(|(i, pattern)| f32_fits(lane(4, i) as u32, pattern)),
        V128Pattern::F64x2(lanes) => lanes.iter().enumerate().all(|(i, pattern)| f64_fits(lane(8, i), pattern)),
    }
}

/// The number that a reference made by a script holds; `None` if something else made it.
fn extern_number(store: &Store<()>, reference: &peregrine::Rooted<ExternRef>) -> Result<Option<u32>> {
    let data = reference.data(store)?;
    Ok(data.and_then(|data| data.downcast_ref::<u32>()).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_patterns() {
        for (bits, canonical, arithmetic) in [
            (0x7fc0_0000, true, true),
            (0xffc0_0000, true, true),
            (0x7fc0_0001, false, true),
            (0x7f80_0001, false, false),
            (0x7f80_0000, false, false),
            (0, false, false),
        ] {
            assert_eq!(f32_fits(bits, &NanPattern::CanonicalNan), canonical, "{bits:#x}");
            assert_eq!(f32_fits(bits, &NanPattern::ArithmeticNan), arithmetic, "{bits:#x}");
        }
        assert!(f64_fits(0xfff8_0000_0000_0000, &NanPattern::CanonicalNan));
        assert!(!f64_fits(0x7ff8_0000_0000_0001, &NanPattern::CanonicalNan));
        assert!(f64_fits(0x7ff8_0000_0000_0001, &NanPattern::ArithmeticNan));
        assert!(!f64_fits(0x7ff0_0000_0000_0001, &NanPattern::ArithmeticNan));
    }

    #[test]
    fn lanes_count_from_the_low_end() {
        let found = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
        assert!(v128_fits(found, &V128Pattern::I8x16([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])));
        assert!(v128_fits(found, &V128Pattern::I32x4([0x0302_0100, 0x0706_0504, 0x0b0a_0908, 0x0f0e_0d0c])));
        assert!(!v128_fits(found, &V128Pattern::I64x2([0, 0x0f0e_0d0c_0b0a_0908])));
    }
}
