//! The trap table of one function.
//!
//! A stream of entries by rising offset. Each is the distance from the last offset, shifted left by one; the low bit says whether a byte
//! with the code of the reason follows. Without it, the reason is the usual one: [`Trap::MemoryOutOfBounds`].

use super::{read_unsigned, write_unsigned};
use peregrine_wasm::Trap;

/// Appends the stream for `traps` (offsets in the function, rising) to `stream`.
pub fn encode(traps: &[(u32, Trap)], stream: &mut Vec<u8>) {
    let mut last = 0;
    for &(offset, trap) in traps {
        let usual = trap == Trap::MemoryOutOfBounds;
        // Two instructions are never 2^31 bytes apart: a function is limited to far less.
        write_unsigned(stream, (offset - last) << 1 | u32::from(!usual));
        if !usual {
            stream.push(trap.code());
        }
        last = offset;
    }
}

/// The reason why the instruction at `offset` traps, if it is in the stream.
pub fn lookup(stream: &[u8], offset: u32) -> Option<Trap> {
    entries(stream).take_while(|entry| entry.0 <= offset).find(|entry| entry.0 == offset).map(|entry| entry.1)
}

/// All entries of a stream; ends early if it is malformed.
pub fn entries(mut stream: &[u8]) -> impl Iterator<Item = (u32, Trap)> {
    let mut offset = 0u32;
    std::iter::from_fn(move || {
        let head = read_unsigned(&mut stream)?;
        offset = offset.checked_add(head >> 1)?;
        if head & 1 == 0 {
            return Some((offset, Trap::MemoryOutOfBounds));
        }
        let (&code, rest) = stream.split_first()?;
        stream = rest;
        Some((offset, Trap::from_code(code)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_and_nothing_else() {
        let traps = [(0, Trap::MemoryOutOfBounds), (7, Trap::IntegerDivisionByZero), (300, Trap::MemoryOutOfBounds)];
        let mut stream = Vec::new();
        encode(&traps, &mut stream);
        assert_eq!(entries(&stream).collect::<Vec<_>>(), traps);
        for (offset, trap) in traps {
            assert_eq!(lookup(&stream, offset), Some(trap));
            assert_eq!(lookup(&stream, offset + 1), None);
        }
    }

    #[test]
    fn malformed_streams_end() {
        assert_eq!(entries(&[0x80]).count(), 0);
        assert_eq!(entries(&[0x01]).count(), 0);
        assert_eq!(entries(&[0x01, 0]).count(), 0);
        assert_eq!(entries(&[0xff; 64]).count(), 0);
    }
}
