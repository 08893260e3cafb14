//! The only walk over the sections of a module. Core specification, section 5.5.
//!
//! Each section is validated as a whole first, then read into the description. So reading meets valid input only, and an error there is
//! about what this project does not have.

use crate::const_expr::ConstExprFolder;
use crate::errors::{self, limit, unsupported};
use crate::features::wasm_features;
use crate::growth::{self, Growth};
use crate::pieces::{BodyChunk, CHUNK_BYTES, Sections, Sink, leb};
use crate::translation::Translation;
use crate::{custom, types};
use peregrine_artifact::allowance::ModuleSizes;
use peregrine_artifact::compiler::{CompileError, ReadWasm};
use peregrine_wasm::{
    ConstExpr, ConstOp, DataMode, DataSegment, ElementItems, ElementMode, ElementSegment, EntityIndex, Export, Features, FuncIndex,
    FunctionDecl, Global, GlobalIndex, Import, Index, IndexVec, MemoryIndex, Module, ModuleLimits, RefType, Table, TableIndex, TagIndex,
    TypeIndex,
};
use std::ops::Range;
use wasmparser::{BinaryReader, Chunk, ExternalKind, Parser, Payload, TypeRef, ValidPayload, Validator};

/// Bytes that the size of a body takes at most. Core specification, section 5.2.2.
const MAX_SIZE_BYTES: usize = 5;

/// Reads the binary module `wasm` and validates every section but the bodies.
///
/// # Errors
///
/// [`CompileError::Invalid`] with the offset if the module is malformed or uses what `features` leave off, [`CompileError::Limit`]
/// if it is beyond `limits`, [`CompileError::Unsupported`] if it needs a proposal that is not implemented or is a component.
pub fn translate<'a>(wasm: &'a [u8], features: &Features, limits: &ModuleLimits) -> Result<Translation<'a>, CompileError> {
    // Offsets in images are 32 bits wide.
    let max_module_bytes = limits.max_module_bytes.min(u32::MAX as usize);
    if wasm.len() > max_module_bytes {
        return Err(limit("bytes of the module", "max_module_bytes", max_module_bytes, wasm.len()));
    }
    // Magic, then the layer in the upper half of the version field: 1 for components.
    if wasm.starts_with(b"\0asm") && wasm.get(6..8) == Some(&[1, 0]) {
        return Err(unsupported("component model", "the binary is a component; only core modules run"));
    }
    Walk::new(wasm, features, limits).run()
}

/// [`translate`] for a module of which `sections` has everything but the bodies, which are read from `source` and handed on to `sink`, to be
/// validated. `None` if it has to be read as a whole, which will say what is wrong with it if anything is.
///
/// # Errors
///
/// [`CompileError::Limit`] as there; what `source` and `sink` say. Anything that is invalid may be an error, or `None`.
pub fn translate_pieces<'a>(
    sections: &'a Sections,
    source: &dyn ReadWasm,
    features: &Features,
    limits: &ModuleLimits,
    sink: &mut Sink<'_>,
) -> Result<Option<Translation<'a>>, CompileError> {
    if sections.wasm.len() > limits.max_module_bytes.min(u32::MAX as usize) {
        return Ok(None);
    }
    Walk::new(&sections.wasm, features, limits).run_in_pieces(sections, source, sink)
}

/// The state of one walk.
struct Walk<'a, 'l> {
    translation: Translation<'a>,
    limits: &'l ModuleLimits,
    folder: ConstExprFolder,
    escapes: Escapes,
}

/// Which functions can be reached other than by direct calls.
#[derive(Default)]
struct Escapes {
    functions: Vec<bool>,
}

impl Escapes {
    fn add(&mut self, index: FuncIndex) {
        let position = index.as_usize();
        if self.functions.len() <= position {
            self.functions.resize(position + 1, false);
        }
        self.functions[position] = true;
    }

    /// Numbers the functions by rising index.
    fn number(&self, module: &mut Module) {
        let mut next = 0;
        for (position, _) in self.functions.iter().enumerate().filter(|(_, escapes)| **escapes) {
            if let Some(function) = module.functions.get_mut(FuncIndex::from_usize(position)) {
                function.func_ref = Some(next);
                next += 1;
            }
        }
        module.escaping_functions = next;
    }
}

impl<'a, 'l> Walk<'a, 'l> {
    fn new(wasm: &'a [u8], features: &Features, limits: &'l ModuleLimits) -> Self {
        let translation = Translation {
            module: Module::default(),
            wasm,
            bodies: IndexVec::new(),
            function_names: Vec::new(),
            debug_sections: Vec::new(),
            code_section_offset: 0,
            sizes: ModuleSizes::default(),
            branch_hints: Vec::new(),
            features: wasm_features(features),
            resources: None,
            later: None,
        };
        Self { translation, limits, folder: ConstExprFolder::default(), escapes: Escapes::default() }
    }

    fn run(mut self) -> Result<Translation<'a>, CompileError> {
        let features = self.translation.features;
        let mut validator = Validator::new_with_features(features);
        let mut parser = Parser::new(0);
        parser.set_features(features);
        for payload in parser.parse_all(self.translation.wasm) {
            let payload = payload.map_err(errors::from_parser)?;
            let valid = validator.payload(&payload).map_err(errors::from_parser)?;
            if let ValidPayload::Func(function, _) = valid {
                self.translation.resources.get_or_insert(function.resources);
            }
            self.payload(payload)?;
        }
        // `ref.func` in bodies is valid only for functions that occur outside of bodies, so no body needs to be read for this.
        self.escapes.number(&mut self.translation.module);
        self.translation.module.grown_memories = growth::grown_memories(&self.translation);
        custom::finish(&mut self.translation);
        Ok(self.translation)
    }

    fn run_in_pieces(
        mut self,
        sections: &Sections,
        source: &dyn ReadWasm,
        sink: &mut Sink<'_>,
    ) -> Result<Option<Translation<'a>>, CompileError> {
        let features = self.translation.features;
        let mut validator = Validator::new_with_features(features);
        let mut parser = Parser::new(0);
        parser.set_features(features);
        let mut growth = None;
        let mut at = 0;
        loop {
            let rest = self.translation.wasm.get(at..).unwrap_or_default();
            let Chunk::Parsed { consumed, payload } = parser.parse(rest, true).map_err(errors::from_parser)? else { return Ok(None) };
            at += consumed;
            validator.payload(&payload).map_err(errors::from_parser)?;
            let is_end = matches!(payload, Payload::End(_));
            let code = if let Payload::CodeSectionStart { count, size, .. } = payload { Some((count, size as usize)) } else { None };
            self.payload(payload)?;
            if let Some((count, size)) = code {
                let bodies = at..at + size;
                // Where the bytes are known the parser may have looked at them.
                if bodies.end != sections.code.end || !self.translation.branch_hints.is_empty() {
                    return Ok(None);
                }
                let growth = growth.insert(Growth::of(&self.translation.module));
                if !self.bodies_in_pieces(bodies, count, &mut validator, growth, source, sink)? {
                    return Ok(None);
                }
                parser.skip_section();
                at += size;
            }
            if is_end {
                break;
            }
        }
        self.escapes.number(&mut self.translation.module);
        let Some(growth) = growth else { return Ok(None) };
        self.translation.module.grown_memories = growth.grown();
        custom::finish(&mut self.translation);
        Ok(Some(self.translation))
    }

    /// Reads `count` bodies, which are all of the bytes of the binary in `range`. Whether they are as they should be.
    fn bodies_in_pieces(
        &mut self,
        range: Range<usize>,
        count: u32,
        validator: &mut Validator,
        growth: &mut Growth,
        source: &dyn ReadWasm,
        sink: &mut Sink<'_>,
    ) -> Result<bool, CompileError> {
        let features = self.translation.features;
        let (mut read_to, mut left) = (range.start, count);
        let (mut bytes, mut carried) = (Vec::new(), Vec::new());
        // How much the body that was begun lacks: all of it is read at once, so that no byte is moved more than once.
        let mut lacking = 0;
        while left > 0 {
            // The beginning of a body that did not fit, and what comes next.
            let start = read_to - carried.len();
            let next_len = CHUNK_BYTES.max(lacking).min(range.end - read_to);
            let len = carried.len() + next_len;
            if bytes.len() < len {
                bytes.resize(len, 0);
            }
            bytes[..carried.len()].copy_from_slice(&carried);
            source.read_at(read_to, &mut bytes[carried.len()..len])?;
            read_to += next_len;
            let (mut bodies, mut resources, mut at) = (Vec::new(), None, 0);
            while left > 0
                && let Some((size, size_len)) = leb(&bytes[at..len])
                && size as usize <= len - at - size_len
            {
                let place = at + size_len..at + size_len + size as usize;
                let reader = BinaryReader::new_features(&bytes[place.clone()], (start + place.start) as u64, features);
                let body = wasmparser::FunctionBody::new(reader);
                let function = validator.code_section_entry(&body).map_err(errors::from_parser)?;
                self.body(&body)?;
                growth.look(&bytes[place.clone()]);
                at = place.end;
                left -= 1;
                bodies.push((function.index, function.ty, place));
                resources.get_or_insert(function.resources);
            }
            carried.clear();
            carried.extend_from_slice(&bytes[at..len]);
            // What can never be a body is not read on for. So each turn but the first has a body, for which the sink looks at the time.
            lacking = match leb(&carried) {
                _ if left == 0 => 0,
                Some((size, size_len)) => {
                    let size = size as usize;
                    if size > self.limits.max_function_bytes || size > range.end - (start + at + size_len) {
                        return Ok(false);
                    }
                    size_len + size - carried.len()
                }
                None if carried.len() >= MAX_SIZE_BYTES => return Ok(false),
                None => 0,
            };
            match resources {
                Some(resources) => {
                    let chunk = BodyChunk { bytes: std::mem::take(&mut bytes), start: start as u64, bodies, resources, features };
                    bytes = sink(chunk)?;
                }
                // The end of the section comes before that of a body.
                None if read_to == range.end => return Ok(false),
                None => {}
            }
        }
        Ok(carried.is_empty() && read_to == range.end)
    }

    /// Reads one validated section.
    fn payload(&mut self, payload: Payload<'a>) -> Result<(), CompileError> {
        match payload {
            Payload::Version { .. } | Payload::DataCountSection { .. } | Payload::End(_) => Ok(()),
            Payload::TypeSection(section) => self.types(section),
            Payload::ImportSection(section) => self.imports(section),
            Payload::FunctionSection(section) => self.functions(section),
            Payload::TableSection(section) => self.tables(section),
            Payload::MemorySection(section) => self.memories(section),
            Payload::TagSection(section) => self.tags(section),
            Payload::GlobalSection(section) => self.globals(section),
            Payload::ExportSection(section) => self.exports(section),
            Payload::StartSection { func, .. } => {
                let index = FuncIndex::from_u32(func);
                self.escapes.add(index);
                self.translation.module.start = Some(index);
                Ok(())
            }
            Payload::ElementSection(section) => self.elements(section),
            Payload::CodeSectionStart { unchecked_range, .. } => {
                self.translation.code_section_offset = unchecked_range.start as usize;
                self.translation.bodies = IndexVec::with_capacity(self.translation.module.defined_functions());
                Ok(())
            }
            Payload::CodeSectionEntry(body) => self.body(&body),
            Payload::DataSection(section) => self.data(section),
            Payload::CustomSection(section) => {
                custom::read(&section, &mut self.translation);
                Ok(())
            }
            // The validator has refused unknown sections, and components were refused before.
            _ => Err(CompileError::Internal { message: "a section that the validator accepts is not known".into() }),
        }
    }

    fn types(&mut self, section: wasmparser::TypeSectionReader<'a>) -> Result<(), CompileError> {
        for group in section {
            for ty in group.map_err(errors::from_parser)?.types() {
                self.translation.module.types.push(types::sub_type(ty)?);
            }
        }
        Ok(())
    }

    fn imports(&mut self, section: wasmparser::ImportSectionReader<'a>) -> Result<(), CompileError> {
        let module = &mut self.translation.module;
        for import in section.into_imports() {
            let import = import.map_err(errors::from_parser)?;
            let entity = match import.ty {
                TypeRef::Func(ty) => {
                    module.imported_functions += 1;
                    EntityIndex::Function(module.functions.push(FunctionDecl { ty: TypeIndex::from_u32(ty), func_ref: None }))
                }
                TypeRef::FuncExact(_) => return Err(unsupported("custom descriptors", "an import of an exact function type")),
                TypeRef::Table(ty) => {
                    module.imported_tables += 1;
                    EntityIndex::Table(module.tables.push(Table { ty: types::table_type(&ty)?, init: None }))
                }
                TypeRef::Memory(ty) => {
                    module.imported_memories += 1;
                    EntityIndex::Memory(module.memories.push(types::memory_type(&ty)))
                }
                TypeRef::Global(ty) => {
                    module.imported_globals += 1;
                    EntityIndex::Global(module.globals.push(Global { ty: types::global_type(&ty)?, init: None }))
                }
                TypeRef::Tag(ty) => {
                    module.imported_tags += 1;
                    EntityIndex::Tag(module.tags.push(types::tag_type(&ty)))
                }
            };
            module.imports.push(Import { module: import.module.into(), name: import.name.into(), entity });
        }
        Ok(())
    }

    fn functions(&mut self, section: wasmparser::FunctionSectionReader<'a>) -> Result<(), CompileError> {
        for ty in section {
            let ty = TypeIndex::from_u32(ty.map_err(errors::from_parser)?);
            self.translation.module.functions.push(FunctionDecl { ty, func_ref: None });
        }
        Ok(())
    }

    fn tables(&mut self, section: wasmparser::TableSectionReader<'a>) -> Result<(), CompileError> {
        for table in section {
            let table = table.map_err(errors::from_parser)?;
            let init = match &table.init {
                wasmparser::TableInit::RefNull => None,
                wasmparser::TableInit::Expr(expr) => Some(self.const_expr(expr)?),
            };
            self.translation.module.tables.push(Table { ty: types::table_type(&table.ty)?, init });
        }
        Ok(())
    }

    fn memories(&mut self, section: wasmparser::MemorySectionReader<'a>) -> Result<(), CompileError> {
        for ty in section {
            self.translation.module.memories.push(types::memory_type(&ty.map_err(errors::from_parser)?));
        }
        Ok(())
    }

    fn tags(&mut self, section: wasmparser::TagSectionReader<'a>) -> Result<(), CompileError> {
        for ty in section {
            self.translation.module.tags.push(types::tag_type(&ty.map_err(errors::from_parser)?));
        }
        Ok(())
    }

    fn globals(&mut self, section: wasmparser::GlobalSectionReader<'a>) -> Result<(), CompileError> {
        for global in section {
            let global = global.map_err(errors::from_parser)?;
            let init = Some(self.const_expr(&global.init_expr)?);
            self.translation.module.globals.push(Global { ty: types::global_type(&global.ty)?, init });
        }
        Ok(())
    }

    fn exports(&mut self, section: wasmparser::ExportSectionReader<'a>) -> Result<(), CompileError> {
        for export in section {
            let export = export.map_err(errors::from_parser)?;
            let entity = match export.kind {
                ExternalKind::Func => {
                    let index = FuncIndex::from_u32(export.index);
                    self.escapes.add(index);
                    EntityIndex::Function(index)
                }
                ExternalKind::FuncExact => return Err(unsupported("custom descriptors", "an export of an exact function type")),
                ExternalKind::Table => EntityIndex::Table(TableIndex::from_u32(export.index)),
                ExternalKind::Memory => {
                    let index = MemoryIndex::from_u32(export.index);
                    let module = &mut self.translation.module;
                    if module.defined_memory_index(index).is_some() && !module.exported_memories.contains(&index) {
                        module.exported_memories.push(index);
                    }
                    EntityIndex::Memory(index)
                }
                ExternalKind::Global => EntityIndex::Global(GlobalIndex::from_u32(export.index)),
                ExternalKind::Tag => EntityIndex::Tag(TagIndex::from_u32(export.index)),
            };
            self.translation.module.exports.push(Export { name: export.name.into(), entity });
        }
        Ok(())
    }

    fn elements(&mut self, section: wasmparser::ElementSectionReader<'a>) -> Result<(), CompileError> {
        for segment in section {
            let segment = segment.map_err(errors::from_parser)?;
            let mode = match &segment.kind {
                wasmparser::ElementKind::Passive => ElementMode::Passive,
                wasmparser::ElementKind::Declared => ElementMode::Declared,
                wasmparser::ElementKind::Active { table_index, offset_expr } => {
                    ElementMode::Active { table: TableIndex::from_u32(table_index.unwrap_or(0)), offset: self.const_expr(offset_expr)? }
                }
            };
            let (element, items) = match segment.items {
                wasmparser::ElementItems::Functions(functions) => {
                    let mut items = Vec::with_capacity(functions.count() as usize);
                    for index in functions {
                        let index = FuncIndex::from_u32(index.map_err(errors::from_parser)?);
                        self.escapes.add(index);
                        items.push(index);
                    }
                    // The shorthand of plain function indices has the type of the table that it fills.
                    (RefType::FUNCREF, ElementItems::Functions(items.into()))
                }
                wasmparser::ElementItems::Expressions(ty, exprs) => {
                    let mut items = Vec::with_capacity(exprs.count() as usize);
                    for expr in exprs {
                        items.push(self.const_expr(&expr.map_err(errors::from_parser)?)?);
                    }
                    (types::ref_type(ty)?, element_items(items))
                }
            };
            self.translation.module.elements.push(ElementSegment { element, mode, items });
        }
        Ok(())
    }

    fn body(&mut self, body: &wasmparser::FunctionBody<'_>) -> Result<(), CompileError> {
        let range = body.range();
        let range = range.start as usize..range.end as usize;
        if range.len() > self.limits.max_function_bytes {
            let index = self.translation.module.func_index(self.translation.bodies.next_index()).as_u32();
            let what = format_args!("bytes of the body of function {index}, at offset {:#x}", range.start);
            return Err(limit(what, "max_function_bytes", self.limits.max_function_bytes, range.len()));
        }
        self.translation.bodies.push(range);
        let Translation { module, bodies, sizes, .. } = &mut self.translation;
        sizes.functions = bodies.len();
        sizes.declared_locals = sizes.declared_locals.saturating_add(declared_locals(body));
        let len_bytes = body.as_bytes().len() as u64;
        if len_bytes > sizes.largest_body.1 {
            sizes.largest_body = (module.imported_functions + bodies.len() as u32 - 1, len_bytes);
        }
        Ok(())
    }

    fn data(&mut self, section: wasmparser::DataSectionReader<'a>) -> Result<(), CompileError> {
        // The section is valid, so there are as many.
        self.translation.module.data = IndexVec::with_capacity(section.count() as usize);
        for segment in section {
            let segment = segment.map_err(errors::from_parser)?;
            let mode = match &segment.kind {
                wasmparser::DataKind::Passive => DataMode::Passive,
                wasmparser::DataKind::Active { memory_index, offset_expr } => {
                    DataMode::Active { memory: MemoryIndex::from_u32(*memory_index), offset: self.const_expr(offset_expr)? }
                }
            };
            // The bytes are the last of the segment.
            let len_bytes = segment.data.len() as u64;
            let start = segment.range.end - len_bytes;
            self.translation.module.data.push(DataSegment { mode, start, len_bytes });
        }
        Ok(())
    }

    fn const_expr(&mut self, expr: &wasmparser::ConstExpr<'a>) -> Result<ConstExpr, CompileError> {
        let Self { translation, limits, folder, escapes } = self;
        folder.fold(expr, &translation.module.globals, limits, |index| escapes.add(index))
    }
}

/// How many locals a body declares, as far as that can be read.
fn declared_locals(body: &wasmparser::FunctionBody<'_>) -> u64 {
    if body.as_bytes().first() == Some(&0) {
        return 0;
    }
    let Ok(locals) = body.get_locals_reader() else { return 0 };
    locals.into_iter().map_while(Result::ok).map(|(count, _)| u64::from(count)).sum()
}

/// The items of a segment of expressions: in the short form if all of them are references to functions.
fn element_items(items: Vec<ConstExpr>) -> ElementItems {
    let functions = items.iter().map(|item| match item {
        ConstExpr::One(ConstOp::RefFunc(index)) => Some(*index),
        _ => None,
    });
    match functions.collect::<Option<Box<[FuncIndex]>>>() {
        Some(functions) => ElementItems::Functions(functions),
        None => ElementItems::Expressions(items.into()),
    }
}
