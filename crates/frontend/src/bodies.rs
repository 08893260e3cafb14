//! The loop that validates a body, operator by operator.
//!
//! Every operator is judged by wasmparser's validator. What is done here is to read the operators that make up most of all code: their
//! operands are short, and telling two dozen operators apart takes less than telling all of them. Whatever is not such an operator with short
//! operands, malformed ones among them, is read by wasmparser too, so results and errors are the same either way. Called by
//! [`Translation::validate_body`](crate::Translation::validate_body).

use wasmparser::{
    BinaryReader, BlockType, FuncValidator, FunctionBody, MemArg, MemArgTarget, Result, VisitOperator, WasmFeatures, WasmModuleResources,
};

/// The type of a block that takes nothing and gives nothing.
const EMPTY_BLOCK: u8 = 0x40;
/// Flags of an access above this say more than an alignment.
const MAX_PLAIN_ALIGN: u32 = 7;

/// Validates `body`, whose module has `features`, from its locals to its end.
///
/// # Errors
///
/// What the validator or the reader says, with the offset.
pub(crate) fn validate<R: WasmModuleResources>(
    validator: &mut FuncValidator<R>,
    body: &FunctionBody<'_>,
    features: WasmFeatures,
) -> Result<()> {
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    reader.set_features(features);
    let (bytes, start) = (body.as_bytes(), body.range().start);
    while !reader.eof() {
        // Behind the end of the function there is nothing that an operator could be in.
        if validator.control_stack_height() > 0 {
            let at = frequent(validator, bytes, start, (reader.original_position() - start) as usize)?;
            reader = BinaryReader::new_features(bytes.get(at..).unwrap_or_default(), start + at as u64, features);
            if reader.eof() {
                break;
            }
        }
        reader.visit_operator(&mut validator.visitor(reader.original_position()))??;
    }
    reader.finish_expression(&validator.visitor(reader.original_position()))
}

/// Validates operators from `at` on, up to the first that is not read here. Returns where that is. Never validates the end of the function.
#[inline(never)]
fn frequent<R: WasmModuleResources>(validator: &mut FuncValidator<R>, bytes: &[u8], start: u64, mut at: usize) -> Result<usize> {
    loop {
        let mut rest = Short { bytes, at };
        let Some(opcode) = rest.byte() else { return Ok(at) };
        let is_last_end = opcode == 0x0b && validator.control_stack_height() <= 1;
        let mut operator = validator.visitor(start + at as u64);
        // An operand, or a way out for what is not short.
        macro_rules! operand {
            ($read:expr) => {
                match $read {
                    Some(operand) => operand,
                    None => return Ok(at),
                }
            };
        }
        match opcode {
            _ if is_last_end => return Ok(at),
            0x00 => operator.visit_unreachable(),
            0x02 if rest.is_empty_block() => operator.visit_block(BlockType::Empty),
            0x03 if rest.is_empty_block() => operator.visit_loop(BlockType::Empty),
            0x0b => operator.visit_end(),
            0x0c => operator.visit_br(operand!(rest.number())),
            0x0d => operator.visit_br_if(operand!(rest.number())),
            0x0f => operator.visit_return(),
            0x10 => operator.visit_call(operand!(rest.number())),
            0x1a => operator.visit_drop(),
            0x1b => operator.visit_select(),
            0x20 => operator.visit_local_get(operand!(rest.number())),
            0x21 => operator.visit_local_set(operand!(rest.number())),
            0x22 => operator.visit_local_tee(operand!(rest.number())),
            0x23 => operator.visit_global_get(operand!(rest.number())),
            0x24 => operator.visit_global_set(operand!(rest.number())),
            0x28 => operator.visit_i32_load(operand!(rest.access(2))),
            0x29 => operator.visit_i64_load(operand!(rest.access(3))),
            0x2c => operator.visit_i32_load8_s(operand!(rest.access(0))),
            0x2d => operator.visit_i32_load8_u(operand!(rest.access(0))),
            0x2f => operator.visit_i32_load16_u(operand!(rest.access(1))),
            0x36 => operator.visit_i32_store(operand!(rest.access(2))),
            0x37 => operator.visit_i64_store(operand!(rest.access(3))),
            0x3a => operator.visit_i32_store8(operand!(rest.access(0))),
            0x3b => operator.visit_i32_store16(operand!(rest.access(1))),
            // What number it is makes no difference here; a signed one is as long as an unsigned one.
            0x41 => operator.visit_i32_const(operand!(rest.number()) as i32),
            0x42 => operator.visit_i64_const(operand!(rest.number()).into()),
            0x45 => operator.visit_i32_eqz(),
            0x46 => operator.visit_i32_eq(),
            0x47 => operator.visit_i32_ne(),
            0x49 => operator.visit_i32_lt_u(),
            0x4b => operator.visit_i32_gt_u(),
            0x50 => operator.visit_i64_eqz(),
            0x6a => operator.visit_i32_add(),
            0x6b => operator.visit_i32_sub(),
            0x71 => operator.visit_i32_and(),
            0x72 => operator.visit_i32_or(),
            0x74 => operator.visit_i32_shl(),
            0x76 => operator.visit_i32_shr_u(),
            0x7c => operator.visit_i64_add(),
            0xa7 => operator.visit_i32_wrap_i64(),
            0xad => operator.visit_i64_extend_i32_u(),
            _ => return Ok(at),
        }?;
        at = rest.at;
    }
}

/// Reads operands as long as they are short.
struct Short<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Short<'_> {
    #[inline(always)]
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// A number in LEB128 of up to three bytes. Core specification, section 5.2.2.
    #[inline(always)]
    fn number(&mut self) -> Option<u32> {
        let first = u32::from(self.byte()?);
        if first < 0x80 {
            return Some(first);
        }
        let second = u32::from(self.byte()?);
        if second < 0x80 {
            return Some(first & 0x7f | second << 7);
        }
        let third = u32::from(self.byte()?);
        (third < 0x80).then_some(first & 0x7f | (second & 0x7f) << 7 | third << 14)
    }

    /// The operand of an access of 2 to the power `max_align` bytes in memory 0, with nothing but an alignment and an offset.
    #[inline(always)]
    fn access(&mut self, max_align: u8) -> Option<MemArg> {
        let align = self.number().filter(|align| *align <= MAX_PLAIN_ALIGN)? as u8;
        let offset = self.number()?.into();
        Some(MemArg { align, max_align, offset, target: MemArgTarget::Memory(0), ordering: None })
    }

    /// Takes the type of a block, if it is the empty one.
    #[inline(always)]
    fn is_empty_block(&mut self) -> bool {
        let is_empty = self.bytes.get(self.at) == Some(&EMPTY_BLOCK);
        self.at += usize::from(is_empty);
        is_empty
    }
}

#[cfg(test)]
mod tests {
    use super::validate;
    use crate::features::wasm_features;
    use peregrine_wasm::Features;
    use wasmparser::{FuncToValidate, FuncValidatorAllocations, FunctionBody, Parser, Result, ValidPayload, Validator, ValidatorResources};

    /// Every operator that is read without wasmparser, with operands of one to three bytes and more, and some that are not.
    const SAMPLE: &str = r#"(module (memory 1) (memory 1) (table 1 funcref) (global $g (mut i32) (i32.const 0)) (global $w (mut i64) (i64.const 0))
        (func $two (param i32 i32) (result i32)
            (i32.and (i32.or (i32.shl (local.get 0) (i32.const 3)) (i32.shr_u (local.get 1) (i32.const -70000)))
                (i32.sub (i32.add (local.get 0) (i32.const 64)) (i32.const 100000))))
        (func (param i32 i64) (local i32 i64)
            (block (loop
                (br_if 1 (i32.eqz (local.tee 2 (i32.load offset=200 (local.get 0)))))
                (br_if 0 (i32.eq (i32.load8_u (local.get 0)) (i32.load8_s offset=20000 align=1 (local.get 2))))
                (br_if 0 (i32.ne (i32.load16_u offset=3000000 (local.get 0)) (call $two (local.get 0) (i32.const 0x7fffffff))))
                (br_if 1 (i32.lt_u (global.get $g) (i32.load 1 (i32.const 8))))
                (br_if 1 (i32.gt_u (i32.load offset=4294967295 (local.get 0)) (select (i32.const 1) (i32.const 2) (local.get 2))))
                (i32.store (local.get 0) (i32.wrap_i64 (i64.add (i64.load (local.get 2)) (i64.const -5))))
                (i64.store offset=128 (local.get 0) (i64.extend_i32_u (i32.const 127)))
                (i32.store8 (local.get 0) (i64.eqz (local.get 3))) (i32.store16 align=1 (local.get 0) (i32.const 128))
                (local.set 3 (i64.const 0x123456789abc)) (global.set $g (local.get 2)) (global.set $w (local.get 3))
                (drop (block (result i32) (if (result i32) (local.get 0) (then (i32.const 1)) (else (unreachable)))))
                (br 0)))
            (return))
        (func (result i32) (loop (br 0)) (unreachable) (drop) (i32.add) (local.get 1) ))"#;

    /// Validates a body by wasmparser alone.
    fn plainly(resources: &ValidatorResources, function: &FuncToValidate<()>, body: &FunctionBody<'_>) -> Result<()> {
        let mut validator = with(resources, function).into_validator(FuncValidatorAllocations::default());
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader)?;
        reader.set_features(function.features);
        while !reader.eof() {
            reader.visit_operator(&mut validator.visitor(reader.original_position()))??;
        }
        reader.finish_expression(&validator.visitor(reader.original_position()))
    }

    fn with(resources: &ValidatorResources, function: &FuncToValidate<()>) -> FuncToValidate<ValidatorResources> {
        FuncToValidate { resources: resources.clone(), index: function.index, ty: function.ty, features: function.features }
    }

    /// Both ways have one result for a body; says whether it is valid.
    fn check(resources: &ValidatorResources, function: &FuncToValidate<()>, bytes: &[u8], start: u64) -> bool {
        let body = FunctionBody::new(wasmparser::BinaryReader::new_features(bytes, start, function.features));
        let mut validator = with(resources, function).into_validator(FuncValidatorAllocations::default());
        let results = [validate(&mut validator, &body, function.features), plainly(resources, function, &body)];
        let [ours, plain] = results.map(|result| result.map_err(|error| (error.message().to_owned(), error.offset())));
        assert_eq!(ours, plain, "{bytes:02x?}");
        ours.is_ok()
    }

    #[test]
    fn every_body_has_the_result_that_wasmparser_alone_gives() {
        let wasm = wat::parse_str(SAMPLE).unwrap();
        let (mut valid, mut total) = (0, 0);
        for features in [Features { memory64: true, ..Features::default() }, Features { multi_memory: false, ..Features::default() }] {
            let mut validator = Validator::new_with_features(wasm_features(&Features { multi_memory: true, ..features }));
            for payload in Parser::new(0).parse_all(&wasm) {
                let ValidPayload::Func(function, body) = validator.payload(&payload.unwrap()).unwrap() else { continue };
                let FuncToValidate { resources, index, ty, .. } = function;
                let function = FuncToValidate { resources: (), index, ty, features: wasm_features(&features) };
                let (good, start) = (body.as_bytes().to_vec(), body.range().start);
                for len in 0..=good.len() {
                    total += 1;
                    valid += usize::from(check(&resources, &function, &good[..len], start));
                }
                for at in 0..good.len() {
                    for byte in 0..=u8::MAX {
                        let mut bytes = good.clone();
                        bytes[at] = byte;
                        total += 1;
                        valid += usize::from(check(&resources, &function, &bytes, start));
                        // What follows is shifted: operands become operators.
                        bytes.insert(at, byte ^ 0x80);
                        check(&resources, &function, &bytes, start);
                    }
                }
            }
        }
        assert!(valid > 1000 && total > 10 * valid / 9, "{valid} of {total} are valid");
    }
}
