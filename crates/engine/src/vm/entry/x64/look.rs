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
    use crate::vm::address_space::AddressRoom;
    use crate::vm::{LoadOptions, LoadedModule, VmShared};
    use peregrine_artifact::compiler::Compiler;
    use peregrine_artifact::settings::Settings;
    use peregrine_compile::ImageCompiler;
    use peregrine_sys::stack::{StackPool, StackPoolConfig};
    use peregrine_wasm::Trap;
    use std::sync::Arc;

    /// Functions with loops in loops, as many values alive as `values`, and calls in them or before them.
    fn text(values: usize) -> String {
        let each = |what: fn(usize) -> String| (0..values).map(what).collect::<String>();
        let (locals, changes) = (
            each(|number| format!("(local $v{number} i64)")),
            each(|number| {
                format!("(local.set $v{number} (i64.rotl (i64.add (local.get $v{number}) (i64.const {number})) (local.get $v0)))")
            }),
        );
        let sum = each(|number| format!("(local.set $sum (i64.xor (local.get $sum) (local.get $v{number})))"));
        let function = |name: &str, call: &str| {
            format!(
                "(func ${name} (param $turns i32) (result i64) (local $sum i64) {locals}
                    {call}
                    (loop $outer
                        {changes}
                        (loop $inner {changes} (br_if $inner (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
                        (br_if $outer (i64.lt_s (local.get $v0) (i64.const 1000))))
                    {sum}
                    (local.get $sum))"
            )
        };
        format!("(module {} {})", function("leaf", ""), function("calls", "(local.set $sum (call $leaf (i32.const 3)))"))
    }

    #[test]
    fn every_look_of_the_compilers_is_known() {
        let compilers =
            [ImageCompiler::new(Arc::new(peregrine_optimizing::Optimizing)), ImageCompiler::new(Arc::new(peregrine_baseline::Baseline))];
        for (number, compiler) in compilers.iter().enumerate() {
            let mut settings = Settings::new(compiler.target(None).expect("this machine is supported"));
            settings.interrupt = true;
            let shared = VmShared::new(settings, AddressRoom::measure(None, 0), StackPool::new(StackPoolConfig::default()));
            for values in [1, 4, 9, 14, 30] {
                let text = text(values);
                let wasm = compiler.to_binary(text.as_bytes()).expect("good text");
                let image = compiler.compile(&wasm, &shared.settings, &()).expect("a valid module");
                let module = LoadedModule::from_bytes(&image, &shared.types, LoadOptions::default()).expect("a good image");
                let looks: Vec<usize> = module.text().filter(|pc| module.trap_at(*pc) == Some(Trap::Interrupt)).collect();
                // Two loops in each of two functions, and the entry of the one that calls.
                assert!(looks.len() >= 5, "compiler {number}, {values} values: {} looks", looks.len());
                for pc in looks {
                    // SAFETY: the code is loaded, and so are the bytes of an instruction of it.
                    let byte = |position| unsafe { ((pc + position) as *const u8).read() };
                    let len_bytes = look_len_bytes(byte);
                    let bytes: Vec<u8> = (0..8).map(byte).collect();
                    assert!(len_bytes.is_some_and(|len| (2..=9).contains(&len)), "compiler {number}, {values} values: {bytes:02x?}");
                }
            }
        }
    }

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
