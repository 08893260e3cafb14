//! Loads images: checks them, maps them, makes their text executable and registers it.

use super::blobs::BlobKind;
use super::registry;
use super::tiered::{self, CodeLimits, Needs, OptimizedShare, TieredCode};
use crate::kept::Occasion;
use crate::tiering::ModuleTiering;
use crate::vm::references::Contexts;
use crate::vm::store::is_no_room;
use crate::vm::types::{HeldTypes, TypeRegistry};
use peregrine_artifact::allowance::Allowance;
use peregrine_artifact::code_bounds::CodeBounds;
use peregrine_artifact::compiler::CompilerKind;
use peregrine_artifact::image::{ImageError, ImageLayout, ImageMeta, Section, StubEntry};
use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_artifact::tables::addresses::Frame;
use peregrine_artifact::vmctx::VmLayout;
use peregrine_sys::address_space::AddressSpace;
use peregrine_sys::forks;
use peregrine_sys::image::{Beside, CodeMapping, MemoryImage};
use peregrine_sys::room::RoomKind;
use peregrine_wasm::{
    DefinedFuncIndex, DefinedMemoryIndex, ElementItems, ElementMode, FuncIndex, Index, Module, TableIndex, Trap, TypeIndex,
};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Why an image is not loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The bytes are not a usable image.
    Image(ImageError),
    /// The system refused.
    Io(io::Error),
    /// Functions are to be compiled one by one, and the module is too large for it.
    TooLarge,
}

impl LoadError {
    /// Whether the system has no room for it.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(self, Self::Io(error) if is_no_room(error))
    }
}

/// How an image is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadOptions {
    /// To memory without a file behind it: profilers find the names of functions by their addresses.
    pub(crate) for_profiler: bool,
    /// The content is known to be undamaged: only the header is checked. Of files only.
    pub(crate) verified: bool,
    /// What making the module may cost, code that is made while it runs included.
    pub(crate) allowance: Allowance,
}

impl LoadOptions {
    /// What later code is put in.
    fn room_kind(self) -> RoomKind {
        if self.for_profiler { RoomKind::Plain } else { RoomKind::Shared }
    }
}

impl From<ImageError> for LoadError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A module ready to be instantiated. Shared by its instances; the code stays mapped while any of them lives.
pub(crate) struct LoadedModule {
    number: ModuleNumber,
    meta: ImageMeta,
    vm_layout: VmLayout,
    type_ids: HeldTypes,
    /// Position in an instance's array of function references to function.
    escaping: Box<[FuncIndex]>,
    /// Per table, for tables whose first elements come from static segments: function of each element, `NO_FUNCTION` for null.
    lazy_tables: Box<[Box<[u32]>]>,
    /// How many of the first element segments `lazy_tables` covers.
    lazy_segments: usize,
    memory_images: Vec<LoadedMemoryImage>,
    /// The code, unless this describes what the host makes.
    code: Option<Code>,
    /// What compiles functions that have no code yet, and better code for those that have.
    tiering: OnceLock<ModuleTiering>,
    /// The binary, if core dumps need it and nothing else keeps it.
    binary: OnceLock<Box<[u8]>>,
    contexts: Contexts,
    this: Weak<LoadedModule>,
}

/// The number of a [`LoadedModule`], which no other one of the process has or will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModuleNumber(u64);

impl ModuleNumber {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// An element of [`LoadedModule::lazy_table`] that is null.
pub(crate) const NO_FUNCTION: u32 = u32::MAX;

/// Elements of all tables that are prepared in any case.
const LAZY_ELEMENTS: usize = 1 << 12;
/// Elements that are prepared for each one that a segment gives: what loading costs stays in proportion to the module, however large
/// and empty its tables are.
const LAZY_ELEMENTS_PER_ITEM: usize = 8;

/// Bytes of the host's memory that any instance takes besides its context, and each import, memory and table of it.
const INSTANCE_BYTES: usize = 512;
/// See [`INSTANCE_BYTES`].
const IMPORT_BYTES: usize = 160;

struct Code {
    /// What is not in the image. Dropped before the mapping that it is in.
    tiered: Option<TieredCode>,
    mapping: CodeMapping,
    layout: ImageLayout,
    settings: Settings,
    text: Range<usize>,
    /// All addresses that code may have.
    registered: Range<usize>,
}

/// Initial content of a memory, ready to be mapped.
pub(crate) struct LoadedMemoryImage {
    /// The memory.
    pub(crate) memory: DefinedMemoryIndex,
    /// Where in the memory, in bytes.
    pub(crate) offset: usize,
    /// The content.
    pub(crate) content: MemoryImage,
}

impl LoadedModule {
    /// Loads the image in `bytes`.
    pub(crate) fn from_bytes(bytes: &[u8], types: &TypeRegistry, options: LoadOptions) -> Result<Arc<Self>, LoadError> {
        let layout = ImageLayout::check(bytes)?;
        let meta = layout.meta(bytes)?;
        let (beside, share) = beside(&layout, bytes, &meta, options.room_kind())?;
        let mapping =
            if options.for_profiler { CodeMapping::from_bytes_anonymous(bytes, beside)? } else { CodeMapping::from_bytes(bytes, beside)? };
        Self::load(mapping, layout, meta, share, types, options)
    }

    /// Loads the image that `file` holds, by mapping it.
    ///
    /// # Safety
    ///
    /// 1. Nobody changes or shortens the file while it is mapped; it is replaced by renaming only.
    pub(crate) unsafe fn from_file(file: &File, types: &TypeRegistry, options: LoadOptions) -> Result<Arc<Self>, LoadError> {
        let len = usize::try_from(file.metadata()?.len()).map_err(|_| ImageError::NotAnImage)?;
        if len == 0 {
            return Err(ImageError::NotAnImage.into());
        }
        // SAFETY: the caller keeps the file as it is (1).
        let mut mapping = unsafe { CodeMapping::from_file(file, 0, len, Beside::default())? };
        let layout = if options.verified { ImageLayout::check_header(mapping.bytes())? } else { ImageLayout::check(mapping.bytes())? };
        let meta = layout.meta(mapping.bytes())?;
        let (beside, share) = beside(&layout, mapping.bytes(), &meta, options.room_kind())?;
        if beside.room_len_bytes > 0 {
            // SAFETY: as above.
            mapping = unsafe { CodeMapping::from_file(file, 0, len, beside)? };
        }
        Self::load(mapping, layout, meta, share, types, options)
    }

    fn load(
        mut mapping: CodeMapping,
        layout: ImageLayout,
        meta: ImageMeta,
        share: OptimizedShare,
        types: &TypeRegistry,
        options: LoadOptions,
    ) -> Result<Arc<Self>, LoadError> {
        let bytes = mapping.bytes();
        let settings = layout.settings(bytes)?;
        check_code_offsets(&layout, bytes)?;
        let text = layout.range(Section::Text);
        if !text.is_empty() {
            // Text is the last section. What follows up to the slots is mapped too.
            mapping.map_executable(text.start..mapping.slots_offset())?;
        }
        let base = mapping.ptr() as usize;
        let section = layout.range(Section::MemoryImage);
        let mut memory_images = Vec::with_capacity(meta.memory_images.len());
        for image in &meta.memory_images {
            let malformed = || LoadError::Image(ImageError::Malformed { part: "memory image" });
            let start = section.start + image.section_offset as usize;
            let range = start..start + image.len_bytes as usize;
            let page = peregrine_sys::pages::page_size();
            let known_memory = (image.memory.as_usize()) < meta.module.memories.len() - meta.module.imported_memories as usize;
            if !known_memory
                || range.end > bytes.len()
                || !range.len().is_multiple_of(page)
                || !image.memory_offset.is_multiple_of(page as u64)
            {
                return Err(malformed());
            }
            let content = match mapping.memory_image(range.clone()) {
                Some(content) => content,
                None => MemoryImage::from_bytes(&bytes[range])?,
            };
            let offset = usize::try_from(image.memory_offset).map_err(|_| malformed())?;
            let index = meta.module.imported_memories + image.memory.as_u32();
            let min = meta.module.memories[peregrine_wasm::MemoryIndex::from_u32(index)].min_bytes().unwrap_or(u64::MAX);
            if offset.checked_add(content.len_bytes()).is_none_or(|end| end as u64 > min) {
                return Err(malformed());
            }
            memory_images.push(LoadedMemoryImage { memory: image.memory, offset, content });
        }
        // Memory images keep the file open as long as they need it.
        mapping.close_file();
        let text = base + text.start..base + text.end;
        let kind = options.room_kind();
        let tiered = match settings.tiering {
            Tiering::Whole => None,
            Tiering::Slots | Tiering::Counted => {
                // The binary as it came and as it is kept; what else describes the module is in the image.
                let taken_bytes = (mapping.bytes().len() as u64).saturating_add(meta.wasm_len_bytes.saturating_mul(2));
                let limits = CodeLimits { optimized_share: share, most_bytes: options.allowance.later_code_bytes(taken_bytes) };
                Some(TieredCode::new(&mapping, &layout, &meta.module, text.clone(), kind, limits)?)
            }
        };
        let end = tiered.as_ref().map_or(text.end, |tiered| tiered.range().end);
        let registered = text.start..end;
        let code = Code { tiered, mapping, layout, settings, text, registered: registered.clone() };
        let module = Self::describe(meta, memory_images, Some(code), types);
        if !registered.is_empty() {
            registry::register(registered, Arc::as_ptr(&module));
        }
        Ok(module)
    }

    /// A module without code, for what the host makes itself.
    pub(crate) fn without_code(module: Module, types: &TypeRegistry) -> Arc<Self> {
        Self::describe(ImageMeta { module, ..ImageMeta::default() }, Vec::new(), None, types)
    }

    fn describe(meta: ImageMeta, memory_images: Vec<LoadedMemoryImage>, code: Option<Code>, types: &TypeRegistry) -> Arc<Self> {
        let module = &meta.module;
        let mut escaping = vec![FuncIndex::from_u32(0); module.escaping_functions as usize];
        for (index, function) in module.functions.iter() {
            if let Some(slot) = function.func_ref.and_then(|position| escaping.get_mut(position as usize)) {
                *slot = index;
            }
        }
        let (lazy_tables, lazy_segments) = lazy_tables(module);
        let type_ids = types.register_all(module.types.values());
        let vm_layout = VmLayout::new(module);
        Arc::new_cyclic(|this| Self {
            number: ModuleNumber::next(),
            vm_layout,
            type_ids,
            escaping: escaping.into(),
            lazy_tables,
            lazy_segments,
            memory_images,
            code,
            meta,
            tiering: OnceLock::new(),
            binary: OnceLock::new(),
            contexts: Contexts::default(),
            this: this.clone(),
        })
    }

    /// Its number.
    pub(crate) fn number(&self) -> ModuleNumber {
        self.number
    }

    /// The description.
    pub(crate) fn module(&self) -> &Module {
        &self.meta.module
    }

    /// The description and how to load it.
    pub(crate) fn meta(&self) -> &ImageMeta {
        &self.meta
    }

    /// Where things are in contexts of instances.
    pub(crate) fn vm_layout(&self) -> &VmLayout {
        &self.vm_layout
    }

    /// Bytes of the host's memory that an instance takes: its context, and what is known of its imports, memories and tables.
    pub(crate) fn instance_bytes(&self) -> usize {
        let module = self.module();
        self.vm_layout.size_bytes() + INSTANCE_BYTES + IMPORT_BYTES * (module.imports.len() + module.memories.len() + module.tables.len())
    }

    /// Engine-wide identities of the module's types, in order.
    pub(crate) fn type_ids(&self) -> &[u32] {
        &self.type_ids
    }

    /// The engine-wide identity of a function's type.
    pub(crate) fn func_type_id(&self, index: FuncIndex) -> u32 {
        self.type_ids[self.module().functions[index].ty.as_usize()]
    }

    /// The function at a position in instances' arrays of function references.
    pub(crate) fn escaping_function(&self, position: usize) -> Option<FuncIndex> {
        self.escaping.get(position).copied()
    }

    /// Function numbers of a table's first elements, which are initialized on first use.
    pub(crate) fn lazy_table(&self, table: TableIndex) -> &[u32] {
        self.lazy_tables.get(table.as_usize()).map_or(&[], |functions| functions)
    }

    /// How many of the first element segments need not be run.
    pub(crate) fn lazy_segments(&self) -> usize {
        self.lazy_segments
    }

    /// Initial contents of memories.
    pub(crate) fn memory_images(&self) -> &[LoadedMemoryImage] {
        &self.memory_images
    }

    /// What the code was compiled with, if there is code.
    pub(crate) fn settings(&self) -> Option<&Settings> {
        self.code.as_ref().map(|code| &code.settings)
    }

    /// The bytes of the image; none for what the host made.
    pub(crate) fn image_bytes(&self) -> &[u8] {
        self.code.as_ref().map_or(&[], |code| code.mapping.bytes())
    }

    /// The bytes of one section of the image.
    pub(crate) fn section(&self, section: Section) -> &[u8] {
        self.code.as_ref().map_or(&[], |code| code.layout.section(code.mapping.bytes(), section))
    }

    /// Where the sections of the image are.
    pub(crate) fn image_layout(&self) -> Option<&ImageLayout> {
        self.code.as_ref().map(|code| &code.layout)
    }

    /// The addresses of the text.
    pub(crate) fn text(&self) -> Range<usize> {
        self.code.as_ref().map_or(0..0, |code| code.text.clone())
    }

    /// All addresses that code of the module may have: the text, and what is compiled later.
    pub(crate) fn code_range(&self) -> Range<usize> {
        self.code.as_ref().map_or(0..0, |code| code.registered.clone())
    }

    /// The code of a defined function, for those who keep it: it stays right when better code is made. Null if there is no code.
    pub(crate) fn function_code(&self, index: DefinedFuncIndex) -> *const u8 {
        let Some(code) = &self.code else { return std::ptr::null() };
        let entry = code.layout.functions(code.mapping.bytes())[index.as_usize()];
        match &code.tiered {
            Some(tiered) => tiered.lasting_entry(index) as *const u8,
            None => (code.text.start + entry.code_start.get() as usize) as *const u8,
        }
    }

    /// What changes while the module runs, if its functions are compiled one by one.
    pub(crate) fn tiered(&self) -> Option<&TieredCode> {
        self.code.as_ref()?.tiered.as_ref()
    }

    /// The contexts of its instances, if references in them follow better code.
    pub(in crate::vm) fn contexts(&self) -> Option<&Contexts> {
        self.tiered().map(|_| &self.contexts)
    }

    /// Lets calls of a function go to code that [`TieredCode::add`] gave for it. One store. Nothing if the functions of the module
    /// are not compiled one by one.
    pub(crate) fn set_entry(&self, function: DefinedFuncIndex, code: usize) {
        if let Some(tiered) = self.tiered() {
            tiered.set_entry(function, code);
        }
    }

    /// Lets references to a function in all instances go to code to which [`set_entry`](Self::set_entry) let calls go: without the jump through
    /// its slot. Code of the baseline does not take the place of better code, so it does not matter which of two comes last. Takes time in
    /// proportion to the instances that are alive or kept for the next.
    pub(crate) fn redirect_references(&self, function: DefinedFuncIndex, code: usize) {
        let Some(tiered) = self.tiered() else { return };
        let is_baseline = tiered.find(code).is_none_or(|blob| blob.kind == BlobKind::Baseline);
        match (is_baseline, tiered.follower_if_there(function)) {
            (false, _) => self.change_references(tiered, function, code, None),
            (true, Some(follower)) => self.change_references(tiered, function, code, Some(follower as u64)),
            // No reference goes there.
            (true, None) => {}
        }
    }

    /// [`redirect_references`](Self::redirect_references) where there are few instances, and whether that is so: for those whom somebody waits for.
    pub(crate) fn redirect_few_references(&self, function: DefinedFuncIndex, code: usize) -> bool {
        let are_few = self.contexts.are_few();
        if are_few {
            self.redirect_references(function, code);
        }
        are_few
    }

    /// [`redirect_references`](Self::redirect_references) whatever they went to before, for tests that go back to the baseline.
    pub(crate) fn force_references(&self, function: DefinedFuncIndex, code: usize) {
        if let Some(tiered) = self.tiered() {
            self.change_references(tiered, function, code, None);
        }
    }

    fn change_references(&self, tiered: &TieredCode, function: DefinedFuncIndex, code: usize, from: Option<u64>) {
        let blob = tiered.find(code).filter(|blob| blob.function == function && blob.start == code && blob.kind != BlobKind::LoopEntry);
        let func_ref = self.module().functions[self.module().func_index(function)].func_ref;
        if let (Some(_), Some(position)) = (blob, func_ref) {
            let offset = self.vm_layout.func_ref(position);
            // SAFETY: the offset is that of the function's reference, and the code was found to be that of the function.
            unsafe { self.contexts.redirect(offset, code as u64, from) };
        }
    }

    /// What compiles its functions, if they are compiled one by one.
    pub(crate) fn tiering(&self) -> Option<&ModuleTiering> {
        self.tiering.get()
    }

    /// Says what compiles its functions. Once, before the module runs.
    pub(crate) fn set_tiering(&self, tiering: ModuleTiering) {
        let first = self.tiering.set(tiering).is_ok();
        debug_assert!(first, "a module is given to the tiers once");
    }

    /// Whether functions have no code in the image.
    pub(crate) fn is_partial(&self) -> bool {
        let Some(code) = &self.code else { return false };
        code.layout.functions(code.mapping.bytes()).iter().any(|entry| entry.code_len.get() == 0)
    }

    /// Where the body of a defined function begins in the binary, in bytes.
    pub(crate) fn body_start(&self, index: DefinedFuncIndex) -> Option<u32> {
        let code = self.code.as_ref()?;
        Some(code.layout.functions(code.mapping.bytes()).get(index.as_usize())?.body_start.get())
    }

    /// About how many bytes the body of a defined function has.
    pub(crate) fn body_bytes(&self, index: DefinedFuncIndex) -> u32 {
        let start = self.body_start(index).unwrap_or(0);
        let next = self.body_start(DefinedFuncIndex::from_usize(index.as_usize() + 1));
        next.unwrap_or_else(|| u32::try_from(self.meta.bodies_end).unwrap_or(u32::MAX)).saturating_sub(start)
    }

    /// The calls of a defined function that count into cells, if its code is in the image: the position of the first among all of them, and the
    /// offsets in the body.
    pub(crate) fn image_sites(&self, index: DefinedFuncIndex) -> (usize, Box<[u32]>) {
        let Some(code) = &self.code else { return Default::default() };
        let (bytes, range) = (code.mapping.bytes(), code.layout.sites_of(code.mapping.bytes(), index));
        (range.start, code.layout.sites(bytes)[range].iter().map(|site| site.offset.get()).collect())
    }

    /// Whether a defined function has code in the image.
    pub(crate) fn has_image_code(&self, index: DefinedFuncIndex) -> bool {
        let entry = self.code.as_ref().and_then(|code| code.layout.functions(code.mapping.bytes()).get(index.as_usize()));
        entry.is_some_and(|entry| entry.code_len.get() > 0)
    }

    /// Which tier made the code of a defined function that is in the image.
    pub(crate) fn image_tier(&self, index: DefinedFuncIndex) -> Option<CompilerKind> {
        let code = self.code.as_ref()?;
        code.layout.functions(code.mapping.bytes()).get(index.as_usize())?.tier()
    }

    /// How many functions have code in the image.
    pub(crate) fn functions_with_code(&self) -> usize {
        let entries = self.code.as_ref().map_or(&[][..], |code| code.layout.functions(code.mapping.bytes()));
        entries.iter().filter(|entry| entry.code_len.get() > 0).count()
    }

    /// The stubs for a function type: code of Enter and Exit. Null where there is none: a module with very many types has only those
    /// that its own imports and exports need.
    pub(crate) fn stubs(&self, ty: TypeIndex) -> (*const u8, *const u8) {
        let stub = self.code.as_ref().and_then(|code| code.layout.stub(code.mapping.bytes(), ty));
        let (Some(code), Some(StubEntry { enter_start, enter_len, exit_start, exit_len })) = (&self.code, stub) else {
            return (std::ptr::null(), std::ptr::null());
        };
        let at = |start: u32, len: u32| if len == 0 { std::ptr::null() } else { (code.text.start + start as usize) as *const u8 };
        (at(enter_start.get(), enter_len.get()), at(exit_start.get(), exit_len.get()))
    }

    /// The Exit stub for the type with an engine-wide identity, if the module has one.
    pub(crate) fn exit_stub(&self, type_id: u32) -> Option<*const u8> {
        let position = self.type_ids.iter().position(|known| *known == type_id)?;
        Some(self.stubs(TypeIndex::from_usize(position)).1).filter(|exit| !exit.is_null())
    }

    /// The name of a function, if it has one.
    pub(crate) fn function_name(&self, index: FuncIndex) -> Option<&str> {
        let code = self.code.as_ref()?;
        code.layout.function_name(code.mapping.bytes(), index)
    }

    /// Why the instruction at `pc` traps, if it does. Signal-safe.
    pub(crate) fn trap_at(&self, pc: usize) -> Option<Trap> {
        let code = self.code.as_ref()?;
        if !code.text.contains(&pc) {
            return code.tiered.as_ref()?.find(pc)?.trap_at(pc);
        }
        let offset = u32::try_from(pc.checked_sub(code.text.start)?).ok()?;
        code.layout.trap_at(code.mapping.bytes(), offset)
    }

    /// The functions that the code at `pc` belongs to, newest call first, and where in the binary it comes from: several where functions were
    /// compiled into their callers, none in stubs and where code that goes on in a loop is called, which has a frame of its own.
    pub(crate) fn frames_at(&self, pc: usize) -> Vec<(FuncIndex, Option<u32>)> {
        let Some(code) = &self.code else { return Vec::new() };
        if !code.text.contains(&pc) {
            let Some(blob) = code.tiered.as_ref().and_then(|tiered| tiered.find(pc)) else { return Vec::new() };
            let place = |frame: Frame| {
                let function = frame.function.unwrap_or(blob.function);
                let wasm_offset = self.body_start(function).and_then(|start| start.checked_add(frame.offset));
                (self.module().func_index(function), wasm_offset)
            };
            return blob.frames_at(pc).into_iter().map(place).collect();
        }
        let frames = code.layout.frames_at(code.mapping.bytes(), (pc - code.text.start) as u32);
        frames.into_iter().map(|(function, wasm_offset)| (self.module().func_index(function), wasm_offset)).collect()
    }

    /// Whether its code keeps locals in its frames.
    pub(crate) fn keeps_locals(&self) -> bool {
        self.settings().is_some_and(|settings| settings.keeps_locals)
    }

    /// Whether the code at `pc`, of `function`, is the baseline's.
    pub(crate) fn is_baseline_at(&self, pc: usize, function: FuncIndex) -> bool {
        let Some(code) = &self.code else { return false };
        if code.text.contains(&pc) {
            let defined = self.module().defined_func_index(function);
            return defined.and_then(|index| self.image_tier(index)) == Some(CompilerKind::Baseline);
        }
        code.tiered.as_ref().and_then(|tiered| tiered.find(pc)).is_some_and(|blob| blob.kind == BlobKind::Baseline)
    }

    /// Keeps the binary, for core dumps.
    pub(crate) fn keep_binary(&self, binary: Box<[u8]>) {
        let _ = self.binary.set(binary);
    }

    /// The binary, if it was kept.
    pub(crate) fn binary(&self) -> Option<&[u8]> {
        self.binary.get().map(|binary| &**binary)
    }

    /// The shared handle of this module.
    pub(crate) fn to_arc(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        if let Some(tiering) = self.tiering() {
            tiering.keep(self, Occasion::Gone);
        }
        if let Some(code) = &self.code
            && !code.registered.is_empty()
        {
            registry::unregister(code.registered.start);
        }
    }
}

/// What has to be beside an image, and how much of the room optimized code may fill.
fn beside(layout: &ImageLayout, bytes: &[u8], meta: &ImageMeta, kind: RoomKind) -> Result<(Beside, OptimizedShare), LoadError> {
    if layout.settings(bytes)?.tiering == Tiering::Whole {
        return Ok((Beside::default(), OptimizedShare::Bytes(0)));
    }
    let takes_pages = {
        // A forked child finds the list of the files with code free.
        let _inside = forks::enter();
        kind.takes_whole_pages()
    };
    let first = layout.functions(bytes).first().map_or(meta.bodies_end, |entry| u64::from(entry.body_start.get()));
    let needs = Needs {
        image_len_bytes: bytes.len(),
        functions: layout.function_count(),
        code_bytes: meta.bodies_end.saturating_sub(first),
        bounds: CodeBounds::of(&meta.module),
        image_sites: layout.sites(bytes).len(),
        takes_pages,
        is_short: AddressSpace::is_limited(),
    };
    tiered::beside(&needs).ok_or(LoadError::TooLarge)
}

/// Checks that all code is within the text.
fn check_code_offsets(layout: &ImageLayout, bytes: &[u8]) -> Result<(), ImageError> {
    let text_len = layout.range(Section::Text).len() as u64;
    let within = |start: u32, len: u32| u64::from(start) + u64::from(len) <= text_len;
    let functions_fit = layout.functions(bytes).iter().all(|entry| within(entry.code_start.get(), entry.code_len.get()));
    let stubs_fit = layout
        .stubs(bytes)
        .iter()
        .all(|entry| within(entry.enter_start.get(), entry.enter_len.get()) && within(entry.exit_start.get(), entry.exit_len.get()));
    if functions_fit && stubs_fit { Ok(()) } else { Err(ImageError::Malformed { part: "function table" }) }
}

/// What the first element segments make of the module's own tables, as long as that can be known in advance, and how many
/// segments that covers.
fn lazy_tables(module: &Module) -> (Box<[Box<[u32]>]>, usize) {
    let mut tables: Vec<Vec<u32>> = vec![Vec::new(); module.tables.len()];
    let mut covered = 0;
    let (mut prepared, mut prepared_most) = (0, LAZY_ELEMENTS);
    for segment in module.elements.values() {
        let ElementMode::Active { table, offset } = &segment.mode else {
            covered += 1;
            continue;
        };
        let (Some(start), ElementItems::Functions(functions)) = (offset.as_offset(), &segment.items) else { break };
        let table_ty = &module.tables[*table];
        let end = start.checked_add(functions.len() as u64).filter(|end| *end <= table_ty.ty.min);
        let own = module.defined_table_index(*table).is_some() && table_ty.init.is_none();
        let Some(end) = end.filter(|_| own) else { break };
        let elements = &mut tables[table.as_usize()];
        let grown = (end as usize).saturating_sub(elements.len());
        prepared_most += functions.len().saturating_mul(LAZY_ELEMENTS_PER_ITEM);
        if grown > prepared_most - prepared {
            break;
        }
        prepared += grown;
        elements.resize(elements.len() + grown, NO_FUNCTION);
        for (element, function) in elements[start as usize..].iter_mut().zip(functions) {
            *element = function.as_u32();
        }
        covered += 1;
    }
    (tables.into_iter().map(Vec::into_boxed_slice).collect(), covered)
}
