//! The address table of one function: from code to the place in the binary.
//!
//! A stream of entries by rising offset in the code; each holds up to the next. An entry is the distance from the last offset in
//! the code, then the signed distance from the last offset in the binary. Offsets in the binary count from the start of the body.

//!
//! An entry whose offset in the binary is [`LOOP_ENTRY_CALL`] is none: a frame there is passed over in backtraces.

use super::{read_unsigned, unzigzag, write_unsigned, zigzag};

/// In place of an offset in the body: the code from here on calls the loop entry that `hot_loop` gave. The frame of the loop entry, or of
/// what that called in tail position, stands for the frame of the caller.
pub const LOOP_ENTRY_CALL: u32 = u32::MAX;

/// Appends the stream for `addresses` (offset in the code, rising, and offset in the body) to `stream`.
pub fn encode(addresses: &[(u32, u32)], stream: &mut Vec<u8>) {
    let (mut last_code, mut last_wasm) = (0u32, 0u32);
    for &(code, wasm) in addresses {
        write_unsigned(stream, code - last_code);
        write_unsigned(stream, zigzag(wasm.wrapping_sub(last_wasm) as i32));
        (last_code, last_wasm) = (code, wasm);
    }
}

/// The offset in the body that the code at `offset` comes from, if it is known.
pub fn lookup(stream: &[u8], offset: u32) -> Option<u32> {
    entries(stream).take_while(|entry| entry.0 <= offset).last().map(|entry| entry.1)
}

/// All entries of a stream; ends early if it is malformed.
pub fn entries(mut stream: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    let (mut code, mut wasm) = (0u32, 0u32);
    std::iter::from_fn(move || {
        code = code.checked_add(read_unsigned(&mut stream)?)?;
        wasm = wasm.wrapping_add_signed(unzigzag(read_unsigned(&mut stream)?));
        Some((code, wasm))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_up_to_the_next() {
        let addresses = [(4, 100), (9, 90), (1000, 70_000)];
        let mut stream = Vec::new();
        encode(&addresses, &mut stream);
        assert_eq!(entries(&stream).collect::<Vec<_>>(), addresses);
        assert_eq!(lookup(&stream, 3), None);
        assert_eq!(lookup(&stream, 8), Some(100));
        assert_eq!(lookup(&stream, 999), Some(90));
        assert_eq!(lookup(&stream, u32::MAX), Some(70_000));
    }
}
