//! From what Cranelift compiled to a [`CompiledFunc`].

use crate::fuel;
use crate::lines::LoopPlaces;
use crate::places::Places;
use crate::translate::FUNCTION_NAMESPACE;
use cranelift_codegen::CompiledCode;
use cranelift_codegen::binemit::Reloc as ClifReloc;
use cranelift_codegen::ir::function::FunctionParameters;
use cranelift_codegen::ir::{ExternalName, SourceLoc, TrapCode};
use cranelift_codegen::{FinalizedMachReloc, FinalizedRelocTarget};
use peregrine_artifact::compiler::{CompileError, CompilerKind};
use peregrine_artifact::func::{CompiledFunc, Reloc, RelocKind, RelocTarget};
use peregrine_artifact::settings::Tiering;
use peregrine_wasm::{FuncIndex, Trap};

/// The code, relocations and tables of a compiled function. `tiering` says how functions reach each other, `places` what source locations
/// stand for, `loops` which of them are in loops.
///
/// # Errors
///
/// [`CompileError::Internal`] if the code refers to what no image holds.
pub(crate) fn emit(
    compiled: &CompiledCode,
    params: &FunctionParameters,
    tiering: Tiering,
    places: &Places,
    loops: &LoopPlaces,
) -> Result<CompiledFunc, CompileError> {
    let buffer = &compiled.buffer;
    let mut code = buffer.data().to_vec();
    fuel::shorten(&mut code, compiled);
    let mut relocs = buffer.relocs().iter().map(|found| reloc(found, params)).collect::<Result<Vec<_>, _>>()?;
    if tiering != Tiering::Whole {
        // Only a call of the function by itself is direct: it is known where it goes.
        relocs.retain(|reloc| !is_resolved(reloc, &mut code));
    }
    let mut traps = buffer.traps().iter().map(|found| Ok((found.offset, trap(found.code)?))).collect::<Result<Vec<_>, CompileError>>()?;
    traps.sort_by_key(|entry| entry.0);
    traps.dedup_by_key(|entry| entry.0);
    Ok(CompiledFunc {
        code,
        relocs,
        traps,
        addresses: addresses(compiled, places),
        sites: Vec::new(),
        tier: CompilerKind::Optimizing,
        line_offset: loops.best_start(compiled),
    })
}

/// Fills in a direct call, which is one of the function itself: true if `reloc` is one.
fn is_resolved(reloc: &Reloc, code: &mut [u8]) -> bool {
    if !matches!(reloc.target, RelocTarget::Function(_)) {
        return false;
    }
    let place = reloc.offset as usize;
    let distance = (reloc.addend - i64::from(reloc.offset)) as i32;
    code[place..place + 4].copy_from_slice(&distance.to_le_bytes());
    true
}

fn addresses(compiled: &CompiledCode, places: &Places) -> Vec<(u32, u32)> {
    let mut starts: Vec<(u32, SourceLoc)> = Vec::new();
    for range in compiled.buffer.get_srclocs_sorted() {
        if range.loc.is_default() || fuel::is_counting(range.loc) || range.start == range.end {
            continue;
        }
        match starts.last_mut() {
            Some(last) if last.1 == range.loc => {}
            Some(last) if last.0 == range.start => last.1 = range.loc,
            _ => starts.push((range.start, range.loc)),
        }
    }
    let mut addresses = Vec::with_capacity(starts.len());
    for (offset, location) in starts {
        places.write(offset, location, &mut addresses);
    }
    addresses
}

fn internal(message: String) -> CompileError {
    CompileError::Internal { message }
}

fn reloc(found: &FinalizedMachReloc, params: &FunctionParameters) -> Result<Reloc, CompileError> {
    let kind = match found.kind {
        ClifReloc::X86CallPCRel4 | ClifReloc::X86PCRel4 | ClifReloc::X86GOTPCRel4 => RelocKind::X64Rel32,
        ClifReloc::Arm64Call => RelocKind::Aarch64Call26,
        ClifReloc::RiscvCallPlt => RelocKind::Riscv64CallPair,
        ClifReloc::S390xPLTRel32Dbl | ClifReloc::S390xPCRel32Dbl => RelocKind::S390xRel32Halfwords,
        other => return Err(internal(format!("a relocation of kind {other:?}"))),
    };
    let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = found.target else {
        return Err(internal(format!("a relocation to {:?}", found.target)));
    };
    let name = &params.user_named_funcs()[name];
    if name.namespace != FUNCTION_NAMESPACE {
        return Err(internal(format!("a relocation to {name}")));
    }
    let index = FuncIndex::from_u32(name.index);
    let target = match found.kind {
        // A load of the address from where the linker puts it.
        ClifReloc::X86GOTPCRel4 => RelocTarget::Slot(index),
        _ => RelocTarget::Function(index),
    };
    Ok(Reloc { offset: found.offset, kind, target, addend: found.addend })
}

/// The reason that a code of Cranelift stands for.
fn trap(code: TrapCode) -> Result<Trap, CompileError> {
    Ok(match code {
        TrapCode::STACK_OVERFLOW => Trap::StackOverflow,
        TrapCode::HEAP_OUT_OF_BOUNDS => Trap::MemoryOutOfBounds,
        TrapCode::INTEGER_OVERFLOW => Trap::IntegerOverflow,
        TrapCode::INTEGER_DIVISION_BY_ZERO => Trap::IntegerDivisionByZero,
        TrapCode::BAD_CONVERSION_TO_INTEGER => Trap::BadConversionToInteger,
        code => Trap::from_code(code.as_raw().get()).ok_or_else(|| internal(format!("the trap code {code}")))?,
    })
}
