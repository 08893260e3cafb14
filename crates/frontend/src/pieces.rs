//! Modules that are read in pieces: everything but the bodies is kept as long as it is needed, the bodies pass through.
//!
//! ```text
//! ReadWasm -Sections::read-> all sections but the bodies -translate_pieces-> BodyChunk, BodyChunk, …  and the Translation
//! ```
//!
//! Most of a module is bodies, and most bodies are never compiled; memory for all of them costs more than looking at them does. Whatever is
//! unusual or wrong with a module makes these functions give up, so that it is read as a whole and refused as any other. Called by the
//! driver of the compilers.

use crate::translation::validate_function;
use peregrine_artifact::compiler::{CompileError, ReadWasm};
use std::ops::Range;
use wasmparser::{BinaryReader, FuncToValidate, FuncValidatorAllocations, FunctionBody, ValidatorResources, WasmFeatures};

/// Bytes that are read at a time: they stay in a processor's cache until they are validated.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// Magic and version of a core module. Core specification, section 5.5.16.
const HEADER: [u8; 8] = *b"\0asm\x01\0\0\0";
/// The number of the code section.
const CODE: u8 = 10;
/// Sections of modules that are read in pieces. Each costs calls of the system, however small it is.
const MAX_SECTIONS: usize = 1000;
/// Bytes that a section's number, its size, and the number of bodies take at most.
const MAX_START_BYTES: usize = 11;

/// A binary without its bodies: their bytes are zero, and take no memory.
pub struct Sections {
    pub(crate) wasm: Vec<u8>,
    /// The contents of the code section.
    pub(crate) code: Range<usize>,
}

impl Sections {
    /// Reads all sections but the bodies. `None` if there is no code section, or sections are not as they should be.
    ///
    /// # Errors
    ///
    /// If `source` cannot be read.
    pub fn read(source: &dyn ReadWasm) -> Result<Option<Self>, CompileError> {
        let len = source.len_bytes();
        // Zeroed memory is asked for without a way to say that there is none.
        if Vec::<u8>::new().try_reserve_exact(len).is_err() {
            return Ok(None);
        }
        let mut wasm = vec![0; len];
        let fill = |wasm: &mut [u8], range: Range<usize>| source.read_at(range.start, &mut wasm[range]);
        if len < HEADER.len() {
            return Ok(None);
        }
        fill(&mut wasm, 0..HEADER.len())?;
        if wasm[..HEADER.len()] != HEADER {
            return Ok(None);
        }
        let (mut at, mut code, mut sections) = (HEADER.len(), None, 0);
        while at < len {
            sections += 1;
            if sections > MAX_SECTIONS {
                return Ok(None);
            }
            let start_len = MAX_START_BYTES.min(len - at);
            fill(&mut wasm, at..at + start_len)?;
            let start = &wasm[at..at + start_len];
            let (number, Some((size, size_len))) = (start[0], leb(&start[1..])) else { return Ok(None) };
            let contents = at + 1 + size_len;
            let Some(end) = contents.checked_add(size as usize).filter(|end| *end <= len) else { return Ok(None) };
            if number == CODE {
                if code.replace(contents..end).is_some() {
                    return Ok(None);
                }
            } else {
                fill(&mut wasm, contents..end)?;
            }
            at = end;
        }
        Ok(code.map(|code| Self { wasm, code }))
    }

    /// Length of the binary, in bytes.
    pub fn wasm_len_bytes(&self) -> usize {
        self.wasm.len()
    }
}

/// Some bodies that come one after the other.
pub struct BodyChunk {
    pub(crate) bytes: Vec<u8>,
    /// Where `bytes` begin in the binary.
    pub(crate) start: u64,
    /// Index of the function, index of its type, and where its body is in `bytes`.
    pub(crate) bodies: Vec<(u32, u32, Range<usize>)>,
    pub(crate) resources: ValidatorResources,
    pub(crate) features: WasmFeatures,
}

impl BodyChunk {
    /// Validates the bodies. `allocations` is scratch memory, one for each thread.
    ///
    /// # Errors
    ///
    /// [`CompileError::Invalid`] with the offset in the binary.
    pub fn validate(&self, allocations: &mut FuncValidatorAllocations) -> Result<(), CompileError> {
        self.bodies.iter().try_for_each(|(index, ty, range)| {
            let (resources, features) = (self.resources.clone(), self.features);
            let function = FuncToValidate { resources, index: *index, ty: *ty, features };
            let start = self.start + range.start as u64;
            let body = FunctionBody::new(BinaryReader::new_features(&self.bytes[range.clone()], start, features));
            validate_function(function, &body, allocations)
        })
    }

    /// The bodies, and where they begin in the binary. Offsets in binaries have 32 bits.
    pub fn bodies(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.bodies.iter().map(|(_, _, range)| ((self.start + range.start as u64) as u32, &self.bytes[range.clone()]))
    }

    /// The memory, for another chunk.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

/// Told of bodies as they are read. What it returns is memory for the next ones, of any length.
pub type Sink<'s> = dyn FnMut(BodyChunk) -> Result<Vec<u8>, CompileError> + 's;

/// A number in LEB128 and how many bytes it has, if it is whole and has 32 bits. Core specification, section 5.2.2.
pub(crate) fn leb(bytes: &[u8]) -> Option<(u32, usize)> {
    let mut number = 0u64;
    for (position, byte) in bytes.iter().take(5).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(number).ok()?, position + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{to_binary, translate, translate_pieces};
    use peregrine_wasm::{Features, ModuleLimits};
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct InMemory(Vec<u8>);

    impl ReadWasm for InMemory {
        fn len_bytes(&self) -> usize {
            self.0.len()
        }

        fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), CompileError> {
            into.copy_from_slice(&self.0[offset..offset + into.len()]);
            Ok(())
        }
    }

    /// Counts bytes that are read.
    struct Counted<'c>(InMemory, &'c AtomicUsize);

    impl ReadWasm for Counted<'_> {
        fn len_bytes(&self) -> usize {
            self.0.len_bytes()
        }

        fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), CompileError> {
            self.1.fetch_add(into.len(), Ordering::Relaxed);
            self.0.read_at(offset, into)
        }
    }

    /// A number in LEB128, in as many bytes as there may be.
    fn padded_leb(number: usize) -> [u8; 5] {
        std::array::from_fn(|position| (number >> (7 * position)) as u8 & 0x7f | if position < 4 { 0x80 } else { 0 })
    }

    /// Whether a module is read in pieces and valid; all that is found out is compared.
    fn check(wasm: &[u8]) -> bool {
        let (features, limits) = (Features::default(), ModuleLimits::default());
        let Some(sections) = Sections::read(&InMemory(wasm.to_vec())).unwrap() else { return false };
        let mut allocations = FuncValidatorAllocations::default();
        let mut is_valid = true;
        let mut sink = |chunk: BodyChunk| {
            is_valid &= chunk.validate(&mut allocations).is_ok();
            Ok(chunk.into_buffer())
        };
        let source = InMemory(wasm.to_vec());
        let in_pieces = translate_pieces(&sections, &source, &features, &limits, &mut sink);
        let whole = translate(wasm, &features, &limits);
        let whole = whole.and_then(|whole| {
            whole.bodies.indices().try_for_each(|index| whole.validate_body(index, &mut FuncValidatorAllocations::default()))?;
            Ok(whole)
        });
        let Ok(Some(in_pieces)) = in_pieces else {
            assert!(whole.is_err_and(|error| !matches!(error, CompileError::Internal { .. })), "only what is wrong is given up");
            return false;
        };
        assert_eq!(is_valid, whole.is_ok());
        let Ok(whole) = whole else { return false };
        assert_eq!(in_pieces.module, whole.module);
        assert_eq!(in_pieces.bodies, whole.bodies);
        assert_eq!(in_pieces.sizes, whole.sizes);
        assert_eq!(in_pieces.function_names, whole.function_names);
        assert_eq!(in_pieces.code_section_offset, whole.code_section_offset);
        true
    }

    #[test]
    fn what_is_read_in_pieces_is_what_is_read_as_a_whole() {
        let function =
            |number: usize| format!("(func $f{number} (param i32) (local i64) {})", "(drop (i32.const 70000))".repeat(number * 37 % 900));
        // One body is longer than a piece.
        let large = "(local.set 0 (i32.add (local.get 0) (i32.const 1)))".repeat(60_000);
        let text = format!(
            "(module (memory 1 2) (memory 1) (data (i32.const 5) \"data\") {} (func (param i32) {large} (drop (memory.grow 1 (i32.const 1)))) {}
                (global (mut i32) (i32.const 0)) (table 4 funcref) (elem (i32.const 0) $f1 $f2) (export \"f\" (func $f3)) (start $s) (func $s))",
            (0..400).map(function).collect::<String>(),
            (400..450).map(function).collect::<String>(),
        );
        let wasm = to_binary(text.as_bytes()).unwrap().into_owned();
        assert!(wasm.len() > 3 * CHUNK_BYTES);
        assert!(check(&wasm));
        assert!(check(&to_binary(b"(module (func))").unwrap()));
        assert!(!check(&to_binary(b"(module (memory 1))").unwrap()), "without bodies there is nothing to gain");
    }

    #[test]
    fn what_would_cost_too_much_is_given_up() {
        let wasm = to_binary(b"(module (func))").unwrap().into_owned();
        // Custom sections without a name.
        let with = |sections: usize| [&wasm[..8], &[0, 1, 0].repeat(sections), &wasm[8..]].concat();
        assert!(check(&with(MAX_SECTIONS - 3)) && !check(&with(MAX_SECTIONS)));
        // A body that begins with what is no size, or with one that is too large, is not read on for.
        let len = 40 * CHUNK_BYTES;
        for start in [&[0xff_u8; 8][..], &[0xff, 0xff, 0xff, 0x07], &[0x80, 0x80, 0x80, 0x05]] {
            let head = b"\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a";
            let mut wasm = [&HEADER[..], head, &padded_leb(len + 1), b"\x01", start].concat();
            let code_start = wasm.len() - start.len();
            wasm.resize(code_start + len, 0);
            let read_bytes = AtomicUsize::new(0);
            let source = Counted(InMemory(wasm), &read_bytes);
            let sections = Sections::read(&source).unwrap().unwrap();
            let mut sink = |_: BodyChunk| panic!("there is no body");
            let read = translate_pieces(&sections, &source, &Features::default(), &ModuleLimits::default(), &mut sink);
            assert!(matches!(read, Ok(None)));
            assert!(read_bytes.into_inner() < 2 * CHUNK_BYTES, "{start:x?}");
        }
    }

    #[test]
    fn what_is_damaged_is_given_up_or_found_invalid() {
        let text = "(module (type (func (param i32))) (memory 1) (func (type 0) (drop (local.get 0))) (func (call 0 (i32.const 3)))
            (data (i32.const 5) \"data\") (export \"f\" (func 1)))";
        let wasm = to_binary(text.as_bytes()).unwrap().into_owned();
        assert!(check(&wasm));
        let mut valid = 0;
        for at in 0..wasm.len() {
            check(&wasm[..at]);
            for byte in 0..=u8::MAX {
                let mut wasm = wasm.clone();
                wasm[at] = byte;
                valid += usize::from(check(&wasm));
            }
        }
        assert!(valid > 300, "{valid}");
    }
}
