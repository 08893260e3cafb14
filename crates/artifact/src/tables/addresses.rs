//! The address table of one function: from code to the place in the binary.
//!
//! A stream of entries by rising offset in the code; each holds up to the next. An entry is the distance from the last offset in
//! the code, then the signed distance from the last offset in the binary. Offsets in the binary count from the start of the body.
//!
//! An entry whose offset in the binary is [`LOOP_ENTRY_CALL`] is none: a frame there is passed over in backtraces.
//!
//! Code of a function that was compiled into its caller has several entries at one place, oldest call first:
//!
//! ```text
//! code 40 -> 17                 the call, in the body of the function whose code this is
//! code 40 -> INLINED | 3        defined function 3 is called there
//! code 40 -> 5                  where in its body
//! ```
//!
//! Without the first of them, the call was the last act of the caller, which has no frame any more.

use super::{read_unsigned, unzigzag, write_unsigned, zigzag};
use peregrine_wasm::DefinedFuncIndex;

/// In place of an offset in the body: the code from here on calls the loop entry that `hot_loop` gave. The frame of the loop entry, or of
/// what that called in tail position, stands for the frame of the caller.
pub const LOOP_ENTRY_CALL: u32 = u32::MAX;

/// In place of an offset in the body, with the index of a defined function: the entry that follows it, at the same place in the code, is an offset
/// in the body of that function.
pub const INLINED: u32 = 1 << 31;

/// One call that code belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function; `None` is the one whose code it is.
    pub function: Option<DefinedFuncIndex>,
    /// Where in its body.
    pub offset: u32,
}

/// The calls that the code at `offset` belongs to, newest first: more than one where functions were compiled into their callers, none where a
/// loop entry is called. Code before the first entry counts as what follows it.
pub fn frames(stream: &[u8], offset: u32) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let (mut at, mut function) = (None, None);
    for (code, wasm) in entries(stream) {
        if at != Some(code) {
            if code > offset && at.is_some() {
                break;
            }
            frames.clear();
            (at, function) = (Some(code), None);
        }
        match wasm {
            LOOP_ENTRY_CALL => {}
            _ if wasm & INLINED != 0 => function = Some(DefinedFuncIndex::from_u32(wasm & !INLINED)),
            _ => frames.push(Frame { function: function.take(), offset: wasm }),
        }
    }
    frames.reverse();
    frames
}

/// The offset in the body of the function itself that the code at `offset` comes from, if it is known.
pub fn lookup(stream: &[u8], offset: u32) -> Option<u32> {
    let mut last = (None, None);
    for (code, wasm) in entries(stream).take_while(|entry| entry.0 <= offset) {
        if last.0 != Some(code) {
            last = (Some(code), (wasm == LOOP_ENTRY_CALL || wasm & INLINED == 0).then_some(wasm));
        }
    }
    last.1
}

/// Appends the stream for `addresses` (offset in the code, rising, and offset in the body) to `stream`.
pub fn encode(addresses: &[(u32, u32)], stream: &mut Vec<u8>) {
    let (mut last_code, mut last_wasm) = (0u32, 0u32);
    for &(code, wasm) in addresses {
        write_unsigned(stream, code - last_code);
        write_unsigned(stream, zigzag(wasm.wrapping_sub(last_wasm) as i32));
        (last_code, last_wasm) = (code, wasm);
    }
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
        let own = |offset| vec![Frame { function: None, offset }];
        assert_eq!([3, 8, 999].map(|offset| lookup(&stream, offset)), [None, Some(100), Some(90)]);
        assert_eq!(frames(&stream, 3), own(100));
        assert_eq!(frames(&stream, 8), own(100));
        assert_eq!(frames(&stream, 999), own(90));
        assert_eq!(frames(&stream, u32::MAX), own(70_000));
        assert_eq!(frames(&[], 0), []);
    }

    #[test]
    fn inlined_code_has_a_frame_for_each_call() {
        let addresses =
            [(0, 1), (8, 20), (8, INLINED | 3), (8, 5), (8, INLINED), (8, 6), (12, 20), (16, LOOP_ENTRY_CALL), (20, INLINED | 7), (20, 9)];
        let mut stream = Vec::new();
        encode(&addresses, &mut stream);
        assert_eq!(entries(&stream).collect::<Vec<_>>(), addresses);
        let frame = |function: Option<u32>, offset| Frame { function: function.map(DefinedFuncIndex::from_u32), offset };
        let own = [7, 8, 12, 16, 20].map(|offset| lookup(&stream, offset));
        assert_eq!(own, [Some(1), Some(20), Some(20), Some(LOOP_ENTRY_CALL), None]);
        assert_eq!(frames(&stream, 7), [frame(None, 1)]);
        assert_eq!(frames(&stream, 8), [frame(Some(0), 6), frame(Some(3), 5), frame(None, 20)]);
        assert_eq!(frames(&stream, 15), [frame(None, 20)]);
        assert_eq!(frames(&stream, 16), []);
        assert_eq!(frames(&stream, 20), [frame(Some(7), 9)]);
    }
}
