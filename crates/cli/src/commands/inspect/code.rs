//! One function: its machine code beside the instructions that it comes from.

use super::Subject;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use peregrine::{Context, Error, Result};
use peregrine_artifact::image::{FunctionEntry, ImageLayout, Section};
use peregrine_artifact::tables;
use peregrine_wasm::{FuncIndex, Index, Module};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes in one line where instructions are not decoded.
const BYTES_PER_LINE: usize = 16;

/// A run of machine code that comes from one place.
struct Piece {
    /// Offset in the binary, if it is known.
    wasm_offset: Option<u32>,
    /// The WebAssembly instruction there, if the module is at hand, after those before it that no code comes from.
    wat: Vec<(u32, String)>,
    /// Offset in the text and disassembly, one each line.
    lines: Vec<(u32, String)>,
}

/// The text (or JSON) for the function called `wanted`, or with that index.
///
/// # Errors
///
/// If there is no such function, or it is imported.
pub(super) fn show(subject: &Subject, wanted: &str, as_json: bool) -> Result<String> {
    let bytes = &subject.image;
    let layout = ImageLayout::check(bytes).with_context(|| format!("cannot read `{}`", subject.name))?;
    let meta = layout.meta(bytes)?;
    let triple = layout.settings(bytes)?.target.triple;
    let index = find(&layout, bytes, &meta.module, wanted)?;
    let defined = meta
        .module
        .defined_func_index(index)
        .ok_or_else(|| Error::msg(format!("the function `{wanted}` is imported: it has no code here")))?;
    let entry = layout.functions(bytes)[defined.as_usize()];
    let wat = match &subject.wasm {
        Some(wasm) => wat_lines(wasm, entry.body_start.get())?,
        None => BTreeMap::new(),
    };
    let pieces = pieces(&layout, bytes, &entry, &triple, &wat)?;
    let name = layout.function_name(bytes, index).unwrap_or("?");
    if as_json {
        return Ok(to_json(index, name, &triple, &pieces));
    }
    let mut text = String::new();
    let ty = meta.module.func_type(index);
    let tier = super::report::tier_name(entry.tier());
    let _ = writeln!(text, "function {} {name} {ty}, {} bytes of code for {triple}, tier {tier}", index.as_u32(), entry.code_len);
    if subject.wasm.is_none() {
        let _ = writeln!(text, "note: an image does not contain the module; inspect the module to see its instructions too");
    }
    if !decodes(&triple) {
        let _ = writeln!(text, "note: only x86_64 code is decoded; these are its bytes");
    }
    for piece in &pieces {
        text.push('\n');
        for (offset, line) in &piece.wat {
            let _ = writeln!(text, "{offset:#08x}  {line}");
        }
        if let (Some(offset), true) = (piece.wasm_offset, piece.wat.is_empty()) {
            let _ = writeln!(text, "{offset:#08x}");
        }
        for (offset, line) in &piece.lines {
            let _ = writeln!(text, "    {offset:>8x}: {line}");
        }
    }
    Ok(text)
}

fn to_json(index: FuncIndex, name: &str, triple: &str, pieces: &[Piece]) -> String {
    let piece = |piece: &Piece| {
        let code = piece.lines.iter().map(|(offset, line)| json!({ "offset": offset, "text": line })).collect::<Vec<_>>();
        let wat = piece.wat.iter().map(|(offset, line)| json!({ "offset": offset, "text": line })).collect::<Vec<_>>();
        json!({ "wasm_offset": piece.wasm_offset, "wat": wat, "code": code })
    };
    let pieces = pieces.iter().map(piece).collect::<Vec<_>>();
    format!("{:#}\n", json!({ "index": index.as_u32(), "name": name, "target": triple, "pieces": pieces }))
}

/// By name, by export, or by index.
fn find(layout: &ImageLayout, bytes: &[u8], module: &Module, wanted: &str) -> Result<FuncIndex> {
    let count = module.functions.len();
    if let Ok(index) = wanted.parse::<usize>() {
        if index < count {
            return Ok(FuncIndex::from_usize(index));
        }
        return Err(Error::msg(format!("there is no function {index}: the module has {count}")));
    }
    let plain = wanted.strip_prefix('$').unwrap_or(wanted);
    let named = (0..count).map(FuncIndex::from_usize).find(|index| layout.function_name(bytes, *index) == Some(plain));
    let exported = || match module.export(plain)?.entity {
        peregrine_wasm::EntityIndex::Function(index) => Some(index),
        _ => None,
    };
    named
        .or_else(exported)
        .ok_or_else(|| Error::msg(format!("there is no function `{wanted}`; give a name, an export or an index below {count}")))
}

/// Instructions of the body at `body_start`, by their offset in the binary.
fn wat_lines(wasm: &[u8], body_start: u32) -> Result<BTreeMap<u32, String>> {
    let body_end = body_end(wasm, body_start)?;
    let config = wasmprinter::Config::new();
    let mut storage = String::new();
    let lines = config.offsets_and_lines(wasm, &mut storage)?;
    let inside = lines.filter_map(|(offset, line)| {
        let offset = u32::try_from(offset?).ok()?;
        // The printer closes the function where its `end` is.
        let line = if offset + 1 == body_end { "end" } else { line.trim_end() };
        (body_start..body_end).contains(&offset).then(|| (offset, line.to_string()))
    });
    let lines: Vec<(u32, String)> = inside.collect();
    let indent =
        lines.iter().filter(|(offset, _)| offset + 1 != body_end).map(|(_, line)| line.len() - line.trim_start().len()).min().unwrap_or(0);
    Ok(lines
        .into_iter()
        .map(|(offset, line)| (offset, line.get(indent..).filter(|_| offset + 1 != body_end).unwrap_or(&line).to_string()))
        .collect())
}

fn body_end(wasm: &[u8], body_start: u32) -> Result<u32> {
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let wasmparser::Payload::CodeSectionEntry(body) = payload? {
            let range = body.range();
            if range.start == u64::from(body_start) {
                return Ok(range.end as u32);
            }
        }
    }
    Ok(body_start)
}

fn pieces(layout: &ImageLayout, bytes: &[u8], entry: &FunctionEntry, triple: &str, wat: &BTreeMap<u32, String>) -> Result<Vec<Piece>> {
    let start = entry.code_start.get();
    let text = layout.section(bytes, Section::Text);
    let code = text.get(start as usize..).and_then(|rest| rest.get(..entry.code_len.get() as usize));
    let code = code.ok_or_else(|| Error::msg("the image is damaged: a function lies outside of the text"))?;
    let tables = layout.section(bytes, Section::Tables);
    let stream_start = entry.tables_start.get() as usize + entry.traps_len.get() as usize;
    let stream = tables.get(stream_start..).and_then(|rest| rest.get(..entry.addresses_len.get() as usize)).unwrap_or(&[]);
    let addresses: Vec<(u32, u32)> = tables::addresses::entries(stream).collect();

    let mut pieces: Vec<Piece> = Vec::new();
    let mut shown = entry.body_start.get();
    for (offset, line) in disassemble(code, start, triple) {
        let after = addresses.partition_point(|entry| entry.0 <= offset - start);
        let wasm_offset = after.checked_sub(1).map(|at| entry.body_start.get().wrapping_add(addresses[at].1));
        match pieces.last_mut() {
            Some(piece) if piece.wasm_offset == wasm_offset => piece.lines.push((offset, line)),
            _ => {
                let wat = wasm_offset.map_or(Vec::new(), |offset| lines_up_to(wat, &mut shown, offset));
                pieces.push(Piece { wasm_offset, wat, lines: vec![(offset, line)] });
            }
        }
    }
    Ok(pieces)
}

/// The instructions from `shown`, which moves on, up to `offset`; or the one at `offset` again if code goes back to it.
fn lines_up_to(wat: &BTreeMap<u32, String>, shown: &mut u32, offset: u32) -> Vec<(u32, String)> {
    let first = (*shown).min(offset);
    *shown = (*shown).max(offset.saturating_add(1));
    wat.range(first..=offset).map(|(offset, line)| (*offset, line.clone())).collect()
}

fn decodes(triple: &str) -> bool {
    triple.starts_with("x86_64")
}

/// Lines of code with their offsets in the text.
fn disassemble(code: &[u8], start: u32, triple: &str) -> Vec<(u32, String)> {
    if !decodes(triple) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        return code.chunks(BYTES_PER_LINE).zip((start..).step_by(BYTES_PER_LINE)).map(|(bytes, offset)| (offset, hex(bytes))).collect();
    }
    let mut formatter = IntelFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.options_mut().set_hex_prefix("0x");
    formatter.options_mut().set_hex_suffix("");
    formatter.options_mut().set_branch_leading_zeros(false);
    let decoder = Decoder::with_ip(64, code, u64::from(start), DecoderOptions::NONE);
    let line = |instruction: iced_x86::Instruction| {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        (instruction.ip() as u32, line)
    };
    decoder.into_iter().map(line).collect()
}
