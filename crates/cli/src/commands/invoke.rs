//! Values of `--invoke`: arguments from words, results to lines.

use peregrine::{Error, FuncType, Result, Val, ValType};
use std::fmt::Write;

/// The arguments for a function of type `ty`.
///
/// # Errors
///
/// If there are too many or too few words, or one does not fit its type.
pub(super) fn arguments(name: &str, ty: &FuncType, words: &[String]) -> Result<Vec<Val>> {
    if ty.params().len() != words.len() {
        return Err(Error::msg(format!("`{name}` is {ty}: expected {} arguments, found {}", ty.params().len(), words.len())));
    }
    let read = |(ty, word): (ValType, &String)| {
        read_value(&ty, word).ok_or_else(|| Error::msg(format!("the argument `{word}` of `{name}` does not fit its type {ty}")))
    };
    ty.params().zip(words).map(read).collect()
}

fn read_value(ty: &ValType, word: &str) -> Option<Val> {
    Some(match ty {
        ValType::I32 => {
            let value = read_integer(word)?;
            Val::I32(i32::try_from(value).ok().or_else(|| u32::try_from(value).ok().map(u32::cast_signed))?)
        }
        ValType::I64 => {
            let value = read_integer(word)?;
            Val::I64(i64::try_from(value).ok().or_else(|| u64::try_from(value).ok().map(u64::cast_signed))?)
        }
        ValType::F32 => Val::F32(word.parse::<f32>().ok()?.to_bits()),
        ValType::F64 => Val::F64(word.parse::<f64>().ok()?.to_bits()),
        ValType::V128 => Val::V128(read_unsigned(word)?.into()),
        ValType::Ref(ty) if word == "null" && ty.is_nullable() && ty.heap_type().is_func() => Val::FuncRef(None),
        ValType::Ref(ty) if word == "null" && ty.is_nullable() && ty.heap_type().is_extern() => Val::ExternRef(None),
        ValType::Ref(_) => return None,
    })
}

/// Decimal or `0x` hexadecimal, with a sign.
fn read_integer(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    Some(sign * i128::try_from(read_unsigned(digits)?).ok()?)
}

fn read_unsigned(digits: &str) -> Option<u128> {
    let digits = digits.replace('_', "");
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => u128::from_str_radix(digits, 16).ok(),
        None if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.parse().ok(),
        None => None,
    }
}

/// One line for each result.
pub(super) fn lines(results: &[Val]) -> String {
    let mut text = String::new();
    for value in results {
        let _ = match value {
            Val::I32(value) => writeln!(text, "{value}"),
            Val::I64(value) => writeln!(text, "{value}"),
            Val::F32(bits) => writeln!(text, "{}", f32::from_bits(*bits)),
            Val::F64(bits) => writeln!(text, "{}", f64::from_bits(*bits)),
            Val::V128(value) => writeln!(text, "{:#034x}", value.as_u128()),
            Val::FuncRef(None) | Val::ExternRef(None) => writeln!(text, "null"),
            Val::FuncRef(Some(_)) => writeln!(text, "funcref"),
            Val::ExternRef(Some(_)) => writeln!(text, "externref"),
            #[allow(unreachable_patterns, reason = "the API may have more kinds of references")]
            _ => writeln!(text, "reference"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ty: ValType, word: &str) -> Option<String> {
        read_value(&ty, word).map(|value| lines(&[value]).trim_end().to_string())
    }

    #[test]
    fn integers_are_signed_unsigned_or_hexadecimal() {
        for (word, value) in
            [("7", "7"), ("-1", "-1"), ("4294967295", "-1"), ("0xffffffff", "-1"), ("-0x80000000", "-2147483648"), ("+3", "3")]
        {
            assert_eq!(read(ValType::I32, word).as_deref(), Some(value), "{word}");
        }
        for word in ["4294967296", "-2147483649", "", "-", "x", "1.5", "--1", "0x"] {
            assert_eq!(read(ValType::I32, word), None, "{word}");
        }
        assert_eq!(read(ValType::I64, "18446744073709551615").as_deref(), Some("-1"));
        assert_eq!(read(ValType::I64, "-9223372036854775808").as_deref(), Some("-9223372036854775808"));
        assert_eq!(read(ValType::I64, "18446744073709551616"), None);
    }

    #[test]
    fn floats_and_references() {
        assert_eq!(read(ValType::F64, "1e3").as_deref(), Some("1000"));
        assert_eq!(read(ValType::F32, "-0.5").as_deref(), Some("-0.5"));
        assert_eq!(read(ValType::F64, "inf").as_deref(), Some("inf"));
        assert_eq!(read(ValType::FUNCREF, "null").as_deref(), Some("null"));
        assert_eq!(read(ValType::EXTERNREF, "7"), None);
    }
}
