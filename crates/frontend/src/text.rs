//! The text format, and telling it from the binary format.

use peregrine_artifact::compiler::CompileError;
use std::borrow::Cow;
use wat::Detect;

/// The binary format of `bytes`: as they are if they begin as the binary format does, translated if they are text.
///
/// # Errors
///
/// [`CompileError::Invalid`]: with line and column if the text has errors, with what was found if the bytes are neither.
pub fn to_binary(bytes: &[u8]) -> Result<Cow<'_, [u8]>, CompileError> {
    match Detect::from_bytes(bytes) {
        Detect::WasmBinary => Ok(Cow::Borrowed(bytes)),
        // Bytes of the text format that are no UTF-8 and text without a parenthesis are `Unknown`.
        Detect::WasmText => match wat::parse_bytes(bytes) {
            Ok(binary) => Ok(Cow::Owned(binary.into_owned())),
            Err(error) => Err(CompileError::Invalid { message: error.to_string(), offset: None }),
        },
        Detect::Unknown => Err(CompileError::Invalid { message: unknown_input(bytes), offset: None }),
    }
}

/// What to say of bytes that are no WebAssembly.
fn unknown_input(bytes: &[u8]) -> String {
    let expected = "expected the binary format, which begins with `\\0asm`, or the text format, which begins with `(`";
    let looks_like = match bytes {
        [] => return format!("the input is empty: {expected}"),
        [0x7f, b'P', b'G', b'N', ..] => return "the input is a compiled image, not a WebAssembly module".into(),
        [0, b'a' | b'\0', ..] if b"\0asm".starts_with(bytes) => {
            return "the input is a truncated WebAssembly binary: 8 bytes are the least".into();
        }
        [0x7f, b'E', b'L', b'F', ..] => Some("a native ELF program"),
        [b'M', b'Z', ..] => Some("a native Windows program"),
        [b'#', b'!', ..] => Some("a script"),
        [0x1f, 0x8b, ..] => Some("a gzip archive"),
        [b'P', b'K', 3, 4, ..] => Some("a zip archive"),
        [b'B', b'C', 0xc0, 0xde, ..] => Some("LLVM bitcode, not linked yet"),
        [b'!', b'<', b'a', b'r', ..] => Some("an archive of object files"),
        _ => None,
    };
    if let Some(name) = looks_like {
        return format!("the input is no WebAssembly but looks like {name}: {expected}");
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("the input is text, but no WebAssembly, at line {}, column 1: {expected}", first_line_with_content(text)),
        Err(_) => format!("the input is no WebAssembly: {expected}, found the bytes {:02x?}", &bytes[..bytes.len().min(4)]),
    }
}

fn first_line_with_content(text: &str) -> usize {
    text.lines().position(|line| !line.trim().is_empty()).unwrap_or(0) + 1
}
