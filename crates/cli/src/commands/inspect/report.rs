//! The overview: header, sections, imports, exports and functions.

use super::Subject;
use peregrine::{Context, Result};
use peregrine_artifact::compiler::CompilerKind;
use peregrine_artifact::image::{FORMAT_VERSION, ImageLayout, Section};
use peregrine_artifact::settings::Settings;
use peregrine_wasm::{EntityIndex, EntityType, FuncIndex, Index, Module};
use serde_json::{Value, json};
use std::fmt::Write;

/// How many functions are listed unless all are asked for: the largest ones.
const FUNCTIONS_LISTED: usize = 40;

/// Sections of an image with their names.
const IMAGE_SECTIONS: &[(Section, &str)] = &[
    (Section::Settings, "settings"),
    (Section::Meta, "meta"),
    (Section::Functions, "functions"),
    (Section::Stubs, "stubs"),
    (Section::Tables, "tables"),
    (Section::Relocs, "relocations"),
    (Section::Names, "names"),
    (Section::Data, "data"),
    (Section::Custom, "custom"),
    (Section::Debug, "debug"),
    (Section::MemoryImage, "memory image"),
    (Section::Text, "text"),
];

/// A part of a file.
struct SectionRow {
    name: String,
    start: u64,
    len_bytes: u64,
}

/// Something that crosses the module's border.
struct BorderRow {
    name: String,
    ty: String,
}

/// One defined function.
struct FunctionRow {
    index: u32,
    name: Option<String>,
    ty: String,
    code_len_bytes: u32,
    /// What made its code.
    tier: &'static str,
    body_start: u32,
}

/// Everything that is shown.
pub(super) struct Report {
    file: String,
    kind: &'static str,
    file_len_bytes: u64,
    module_name: Option<String>,
    target: String,
    settings: Settings,
    settings_hash: String,
    wasm_len_bytes: u64,
    sections: Vec<SectionRow>,
    imports: Vec<BorderRow>,
    exports: Vec<BorderRow>,
    functions: Vec<FunctionRow>,
}

impl Report {
    /// Collects the facts.
    ///
    /// # Errors
    ///
    /// If the image or the module is damaged.
    pub(super) fn gather(subject: &Subject) -> Result<Self> {
        let bytes = &subject.image;
        let layout = ImageLayout::check(bytes).with_context(|| format!("cannot read `{}`", subject.name))?;
        let meta = layout.meta(bytes)?;
        let settings = layout.settings(bytes)?;
        let module = &meta.module;
        let sections = match &subject.wasm {
            Some(wasm) => module_sections(wasm)?,
            None => image_sections(&layout),
        };
        let imports = module
            .imports
            .iter()
            .map(|import| BorderRow { name: format!("{}::{}", import.module, import.name), ty: describe(module, import.entity) });
        let exports = module.exports.iter().map(|export| BorderRow { name: export.name.to_string(), ty: describe(module, export.entity) });
        let functions = layout.functions(bytes).iter().enumerate().map(|(position, entry)| {
            let index = FuncIndex::from_usize(module.imported_functions as usize + position);
            FunctionRow {
                index: index.as_u32(),
                name: layout.function_name(bytes, index).map(str::to_string),
                ty: module.func_type(index).to_string(),
                code_len_bytes: entry.code_len.get(),
                tier: tier_name(entry.tier()),
                body_start: entry.body_start.get(),
            }
        });
        Ok(Self {
            file: subject.name.clone(),
            kind: if subject.wasm.is_some() { "module" } else { "image" },
            file_len_bytes: subject.wasm.as_ref().unwrap_or(bytes).len() as u64,
            module_name: module.name.as_deref().map(str::to_string),
            target: settings.target.triple.clone(),
            settings,
            settings_hash: layout.settings_hash().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
            wasm_len_bytes: meta.wasm_len_bytes,
            sections,
            imports: imports.collect(),
            exports: exports.collect(),
            functions: functions.collect(),
        })
    }

    /// For people.
    pub(super) fn text(&self, all: bool) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "{}: {}, {} bytes", self.file, self.kind, self.file_len_bytes);
        if let Some(name) = &self.module_name {
            let _ = writeln!(text, "  name      {name}");
        }
        let _ = writeln!(text, "  target    {}", self.target);
        if self.kind == "image" {
            let _ = writeln!(text, "  format    version {FORMAT_VERSION}");
            let _ = writeln!(text, "  settings  {}", self.settings_hash);
            let _ = writeln!(text, "  made from {} bytes of WebAssembly", self.wasm_len_bytes);
        }
        let _ = writeln!(text, "\nsections ({})", self.sections.len());
        for section in &self.sections {
            let _ = writeln!(text, "  {:#010x} {:>12}  {}", section.start, section.len_bytes, section.name);
        }
        for (title, rows) in [("imports", &self.imports), ("exports", &self.exports)] {
            let _ = writeln!(text, "\n{title} ({})", rows.len());
            let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).min(48);
            for row in rows {
                let _ = writeln!(text, "  {:width$}  {}", row.name, row.ty);
            }
        }
        self.function_lines(all, &mut text);
        text
    }

    fn function_lines(&self, all: bool, text: &mut String) {
        let code_len_bytes: u64 = self.functions.iter().map(|function| u64::from(function.code_len_bytes)).sum();
        let _ = writeln!(text, "\nfunctions ({}, {code_len_bytes} bytes of code)", self.functions.len());
        let mut rows: Vec<&FunctionRow> = self.functions.iter().collect();
        let hidden = if all { 0 } else { rows.len().saturating_sub(FUNCTIONS_LISTED) };
        if hidden > 0 {
            rows.sort_by_key(|row| std::cmp::Reverse(row.code_len_bytes));
            rows.truncate(FUNCTIONS_LISTED);
        }
        for row in rows {
            let name = row.name.as_deref().unwrap_or("?");
            let _ = writeln!(text, "  {:>6} {:>9} {:10}  {name}  {}", row.index, row.code_len_bytes, row.tier, row.ty);
        }
        if hidden > 0 {
            let _ = writeln!(text, "  … and {hidden} smaller ones; `--all` lists them");
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        let border = |rows: &[BorderRow]| rows.iter().map(|row| json!({ "name": row.name, "type": row.ty })).collect::<Vec<_>>();
        let sections = self.sections.iter().map(|row| json!({ "name": row.name, "start": row.start, "bytes": row.len_bytes }));
        let functions = self.functions.iter().map(|row| {
            json!({
                "index": row.index,
                "name": row.name,
                "type": row.ty,
                "code_bytes": row.code_len_bytes,
                "tier": row.tier,
                "body_start": row.body_start,
            })
        });
        let value = json!({
            "file": self.file,
            "kind": self.kind,
            "bytes": self.file_len_bytes,
            "name": self.module_name,
            "wasm_bytes": self.wasm_len_bytes,
            "settings_hash": self.settings_hash,
            "settings": serde_json::to_value(&self.settings).unwrap_or(Value::Null),
            "sections": sections.collect::<Vec<_>>(),
            "imports": border(&self.imports),
            "exports": border(&self.exports),
            "functions": functions.collect::<Vec<_>>(),
        });
        format!("{value:#}\n")
    }
}

/// What users call a compiler.
pub(super) fn tier_name(tier: Option<CompilerKind>) -> &'static str {
    match tier {
        None => "none",
        Some(CompilerKind::Baseline) => "baseline",
        Some(CompilerKind::Optimizing) => "optimizing",
    }
}

fn image_sections(layout: &ImageLayout) -> Vec<SectionRow> {
    let row = |(section, name): &(Section, &str)| {
        let range = layout.range(*section);
        SectionRow { name: (*name).to_string(), start: range.start as u64, len_bytes: range.len() as u64 }
    };
    IMAGE_SECTIONS.iter().map(row).collect()
}

fn module_sections(wasm: &[u8]) -> Result<Vec<SectionRow>> {
    let mut rows = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        let Some((id, range)) = payload.as_section() else { continue };
        let name = match &payload {
            wasmparser::Payload::CustomSection(section) => format!("custom `{}`", section.name()),
            _ => section_name(id).to_string(),
        };
        rows.push(SectionRow { name, start: range.start, len_bytes: range.end - range.start });
    }
    Ok(rows)
}

fn section_name(id: u8) -> &'static str {
    const NAMES: &[&str] = &[
        "custom",
        "type",
        "import",
        "function",
        "table",
        "memory",
        "global",
        "export",
        "start",
        "element",
        "code",
        "data",
        "data count",
        "tag",
    ];
    NAMES.get(usize::from(id)).copied().unwrap_or("unknown")
}

/// The type of an import or export as the text format has it.
fn describe(module: &Module, entity: EntityIndex) -> String {
    match module.entity_type(entity) {
        EntityType::Function(ty) => module.types[ty].to_string(),
        EntityType::Global(ty) => ty.to_string(),
        EntityType::Table(ty) => ty.to_string(),
        EntityType::Memory(ty) => ty.to_string(),
        EntityType::Tag(ty) => format!("(tag {})", module.types[ty.func]),
    }
}
