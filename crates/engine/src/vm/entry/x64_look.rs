//! How long the instruction is that compiled code looks at the interrupt page with: an interrupted guest goes on after it.
//!
//! The compilers load a byte, or compare with a word; which registers they take decides the length.

/// The length in bytes of an instruction that reads memory as compilers look at the interrupt page, given its bytes by position. `None` if
/// it is another one. Asks for bytes of the instruction alone.
pub(in crate::vm) fn look_len_bytes(byte: impl Fn(usize) -> u8) -> Option<usize> {
    let prefix = usize::from(byte(0) & 0xf0 == 0x40);
    let opcode_end = match byte(prefix) {
        // movzx, movsx
        0x0f if matches!(byte(prefix + 1), 0xb6 | 0xbe) => prefix + 2,
        // cmp r, m; mov r, m
        0x3a | 0x3b | 0x8a | 0x8b => prefix + 1,
        _ => return None,
    };
    let (mode, base) = (byte(opcode_end) >> 6, byte(opcode_end) & 7);
    let base_end = opcode_end + 1 + usize::from(base == 4);
    // A base that stands for none.
    let is_absolute = mode == 0 && (base == 5 || base == 4 && byte(opcode_end + 1) & 7 == 5);
    match mode {
        0 => Some(base_end + if is_absolute { 4 } else { 0 }),
        1 => Some(base_end + 1),
        2 => Some(base_end + 4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::look_len_bytes;

    #[test]
    fn lengths_are_those_of_the_processor() {
        for (code, expect) in [
            // movzx eax, byte [rax]; [r8]; [rsp]; [r12]; [rbp + 0]; [r13 + 0]; with a wide target
            (&[0x0f, 0xb6, 0x00][..], Some(3)),
            (&[0x41, 0x0f, 0xb6, 0x00], Some(4)),
            (&[0x0f, 0xb6, 0x04, 0x24], Some(4)),
            (&[0x41, 0x0f, 0xb6, 0x04, 0x24], Some(5)),
            (&[0x0f, 0xb6, 0x45, 0x00], Some(4)),
            (&[0x41, 0x0f, 0xb6, 0x45, 0x00], Some(5)),
            (&[0x48, 0x0f, 0xb6, 0x08], Some(4)),
            // cmp r11d, [r11]; [rip + 4]; [rax + 0x100]
            (&[0x45, 0x3b, 0x1b], Some(3)),
            (&[0x44, 0x3b, 0x1d, 4, 0, 0, 0], Some(7)),
            (&[0x3b, 0x80, 0, 1, 0, 0], Some(6)),
            // add eax, [rax]; mov eax, ecx
            (&[0x03, 0x00], None),
            (&[0x8b, 0xc1], None),
        ] {
            assert_eq!(look_len_bytes(|position| code[position]), expect, "{code:x?}");
        }
    }
}
