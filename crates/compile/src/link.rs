//! Puts compiled functions and stubs one after the other, fills in the addresses they need of each other, and makes their tables.
//!
//! Text is `functions | stubs`: functions by rising index, or in another order that the image notes, those first that were called most as far as that
//! is known ([`crate::plan`], or the cache). Functions begin where their compiler says that loops lie well, or at multiples of 32 bytes: constants
//! beside the code need half of it, and small ones that are called in turns run some percent faster than at multiples of that. On processors whose calls do not reach across a large text,
//! islands of jumps that do lie between functions, as far apart as possible.

use crate::budget::{Budget, exceeded};
use crate::relocate;
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::{CompileError, CompilerKind};
use peregrine_artifact::func::{CompiledFunc, LineOffset, Reloc, RelocKind, RelocTarget};
use peregrine_artifact::image::{EntryArea, FunctionEntry, ImageLayout, RelocEntry, Section, SiteEntry, StubEntry};
use peregrine_artifact::settings::Target;
use peregrine_artifact::tables;
use peregrine_wasm::{DefinedFuncIndex, Index, IndexVec, Module, TypeIndex};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Functions without a place of their own in a line, and stubs, begin at multiples of this many bytes.
const CODE_ALIGN_BYTES: usize = 32;

/// Code whose tables are encoded: what is left to do in order is to copy bytes.
#[derive(Default)]
pub(crate) struct Piece {
    code: Vec<u8>,
    relocs: Vec<Reloc>,
    /// The trap stream, then the address stream.
    tables: Vec<u8>,
    /// The calls that count into cells: see [`CompiledFunc::sites`].
    sites: Vec<u32>,
    traps_len: u32,
    /// See [`FunctionEntry::tier`].
    tier: u32,
    line_offset: Option<LineOffset>,
}

impl Piece {
    /// Bytes of code and tables.
    pub(crate) fn len_bytes(&self) -> usize {
        self.code.len() + self.tables.len()
    }

    /// Checks what a tier made and encodes its tables.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if the code is too large, [`CompileError::Internal`] if the tier broke its contract.
    pub(crate) fn new(compiled: CompiledFunc, budget: &Budget) -> Result<Self, CompileError> {
        check(&compiled, budget)?;
        let CompiledFunc { code, relocs, traps, addresses, sites, tier, line_offset } = compiled;
        let mut streams = Vec::new();
        tables::traps::encode(&traps, &mut streams);
        let traps_len = streams.len() as u32;
        tables::addresses::encode(&addresses, &mut streams);
        Ok(Self { code, relocs, tables: streams, sites, traps_len, tier: FunctionEntry::tier_number(tier), line_offset })
    }

    /// What is at `code` of the text of a checked image, and is no function.
    pub(crate) fn stub_of_image(layout: &ImageLayout, image: &[u8], code: Range<u32>) -> Option<Self> {
        let text = layout.section(image, Section::Text).get(code.start as usize..code.end as usize)?.to_vec();
        let all = layout.relocs(image);
        let first = all.partition_point(|reloc| reloc.place.get() < code.start);
        let after = all.partition_point(|reloc| reloc.place.get() < code.end);
        let relocs = all.get(first..after)?.iter().map(|reloc| reloc.reloc(code.start)).collect::<Option<Vec<_>>>()?;
        let inside = |reloc: &Reloc| reloc.offset as usize + relocate::size_bytes(reloc.kind) <= text.len();
        relocs.iter().all(inside).then(|| Self { code: text, relocs, ..Self::default() })
    }

    /// The code of a function in a checked image. `None` if the image is damaged.
    pub(crate) fn of_image(layout: &ImageLayout, image: &[u8], function: DefinedFuncIndex, entry: &FunctionEntry) -> Option<Self> {
        let start = entry.code_start.get();
        let mut piece = Self::stub_of_image(layout, image, start..start.checked_add(entry.code_len.get())?)?;
        let sites = layout.sites_of(image, function);
        for reloc in &mut piece.relocs {
            if let RelocTarget::Cell(site) = &mut reloc.target {
                *site = (sites.contains(&(*site as usize))).then(|| *site - sites.start as u32)?;
            }
        }
        let streams_len = entry.traps_len.get().checked_add(entry.addresses_len.get())?;
        let tables = layout.section(image, Section::Tables).get(entry.tables_start.get() as usize..)?.get(..streams_len as usize)?;
        let sites = layout.sites(image)[sites].iter().map(|site| site.offset.get()).collect();
        // Wherever it stands in a line, it was put there.
        let line_offset = (entry.tier() == Some(CompilerKind::Optimizing)).then(|| LineOffset::of(start as usize)).flatten();
        Some(Self { tables: tables.to_vec(), sites, traps_len: entry.traps_len.get(), tier: entry.tier.get(), line_offset, ..piece })
    }
}

/// Checks what a tier made.
///
/// # Errors
///
/// [`CompileError::Limit`] if the code is too large, [`CompileError::Internal`] if the tier broke its contract.
pub(crate) fn check(compiled: &CompiledFunc, budget: &Budget) -> Result<(), CompileError> {
    let CompiledFunc { code, relocs, traps, addresses, sites: _, tier: _, line_offset: _ } = compiled;
    if code.len() > budget.max_function_code_bytes {
        return Err(exceeded("bytes of code", "max_function_code_bytes", budget.max_function_code_bytes, code.len()));
    }
    let in_code = |offset: u32, len: usize| (offset as usize).checked_add(len).is_some_and(|end| end <= code.len());
    let sound = !code.is_empty()
        && relocs.iter().all(|reloc| in_code(reloc.offset, relocate::size_bytes(reloc.kind)))
        && traps.is_sorted_by(|a, b| a.0 < b.0)
        && addresses.is_sorted_by(|a, b| a.0 <= b.0)
        && traps.last().is_none_or(|last| in_code(last.0, 1));
    if sound {
        return Ok(());
    }
    Err(CompileError::Internal { message: "a tier made code with unsorted tables or places outside of it".into() })
}

/// Everything linked.
pub(crate) struct Linked {
    pub(crate) text: Vec<u8>,
    pub(crate) tables: Vec<u8>,
    /// Places that refer to what is behind the text.
    pub(crate) relocs: Vec<RelocEntry>,
    /// Calls that count into cells.
    pub(crate) sites: Vec<SiteEntry>,
    /// Functions with code by rising offset, if the places of all functions do not rise with their numbers.
    pub(crate) order: Vec<u32>,
    pub(crate) functions: Vec<FunctionEntry>,
    /// One for each type; those of types that are the same as an earlier one are not filled in.
    pub(crate) stubs: IndexVec<TypeIndex, StubEntry>,
}

/// Links functions, then stubs. Functions come by rising index, or in an order that is noted.
pub(crate) struct Linker<'a> {
    budget: &'a Budget,
    imported_functions: u32,
    defined_functions: usize,
    /// What to put between functions: an instruction that traps.
    padding: u8,
    linked: Linked,
    /// How far calls reach in either direction.
    reach_bytes: u32,
    /// Places that need the address of a function that comes later or is out of reach, by rising place.
    pending: Vec<Pending>,
    /// Which functions have their place.
    placed: Vec<bool>,
    /// Those with code, in the order of the text.
    with_code: Vec<u32>,
    /// Calls that count, by function.
    sites: BTreeMap<u32, Vec<u32>>,
    /// Places that need the address of something behind the text, which is known when the text is whole.
    behind: Vec<Pending>,
    /// Jumps in islands that wait for the address of their target.
    veneers: Vec<Pending>,
}

/// A place in the text that needs an address.
struct Pending {
    place: u32,
    reloc: Reloc,
    /// Whose code it is; anything in stubs.
    function: u32,
}

impl<'a> Linker<'a> {
    /// Begins an empty text, for a module with so many functions and types.
    pub(crate) fn new(target: &Target, module: &Module, budget: &'a Budget) -> Self {
        let is = |processor| target.triple.starts_with(processor);
        let reach_bytes = if is("aarch64") { relocate::reach_bytes(RelocKind::Aarch64Call26) } else { None };
        let functions = module.defined_functions();
        let stubs = module.types.indices().map(|_| StubEntry::default()).collect();
        Self {
            budget,
            imported_functions: module.imported_functions,
            defined_functions: functions,
            // `int3`; zeros are no instruction on all other processors.
            padding: if is("x86_64") { 0xcc } else { 0 },
            linked: Linked {
                text: Vec::new(),
                tables: Vec::new(),
                relocs: Vec::new(),
                sites: Vec::new(),
                order: Vec::new(),
                functions: vec![FunctionEntry::default(); functions],
                stubs,
            },
            reach_bytes: reach_bytes.unwrap_or(u32::MAX),
            pending: Vec::new(),
            placed: vec![false; functions],
            with_code: Vec::new(),
            sites: BTreeMap::new(),
            behind: Vec::new(),
            veneers: Vec::new(),
        }
    }

    /// Makes calls reach less far than the processor allows.
    #[cfg(test)]
    pub(crate) fn with_reach(mut self, reach_bytes: u32) -> Self {
        self.reach_bytes = reach_bytes;
        self
    }

    /// Appends a function, whose body is at `body_start` in the binary.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if the module is too large, [`CompileError::Internal`] if it has its place already.
    pub(crate) fn function(&mut self, index: DefinedFuncIndex, piece: &Piece, body_start: usize) -> Result<(), CompileError> {
        self.check_place(index)?;
        let (code_start, code_len) = self.append_code(piece)?;
        let tables_start = self.linked.tables.len();
        if tables_start + piece.tables.len() > u32::MAX as usize {
            let message = "bytes of tables of the module: an image holds 4294967295 at most, found more".into();
            return Err(CompileError::Limit { message });
        }
        self.linked.tables.extend_from_slice(&piece.tables);
        self.linked.functions[index.as_usize()] = FunctionEntry {
            code_start: code_start.into(),
            code_len: code_len.into(),
            tables_start: (tables_start as u32).into(),
            traps_len: piece.traps_len.into(),
            addresses_len: (piece.tables.len() as u32 - piece.traps_len).into(),
            body_start: (body_start as u32).into(),
            tier: piece.tier.into(),
        };
        self.placed[index.as_usize()] = true;
        self.with_code.push(index.as_u32());
        if !piece.sites.is_empty() {
            self.sites.insert(index.as_u32(), piece.sites.clone());
        }
        // Only now is the function's own address known, for calls of itself.
        self.relocate(piece, code_start, index.as_u32())
    }

    /// Notes that a function, whose body is at `body_start` in the binary, has no code in this image.
    ///
    /// # Errors
    ///
    /// [`CompileError::Internal`] if it has its place already.
    pub(crate) fn function_without_code(&mut self, index: DefinedFuncIndex, body_start: usize) -> Result<(), CompileError> {
        self.check_place(index)?;
        self.placed[index.as_usize()] = true;
        // Both fit: code and tables that are there do.
        let (code_start, tables_start) = (self.linked.text.len() as u32, self.linked.tables.len() as u32);
        let body_start = (body_start as u32).into();
        self.linked.functions[index.as_usize()] =
            FunctionEntry { code_start: code_start.into(), tables_start: tables_start.into(), body_start, ..FunctionEntry::default() };
        Ok(())
    }

    /// Whether a function has its place, with or without code.
    pub(crate) fn is_placed(&self, index: DefinedFuncIndex) -> bool {
        self.placed.get(index.as_usize()).copied().unwrap_or(false)
    }

    fn check_place(&self, index: DefinedFuncIndex) -> Result<(), CompileError> {
        if self.placed.get(index.as_usize()) == Some(&false) {
            return Ok(());
        }
        Err(CompileError::Internal { message: format!("the defined function {} is linked twice, or does not exist", index.as_u32()) })
    }

    /// Appends a stub. Stubs have no tables: they do not trap, and nothing in them comes from the binary.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if the module is too large.
    pub(crate) fn stub(&mut self, kind: StubKind, ty: TypeIndex, piece: &Piece) -> Result<(), CompileError> {
        let (start, len) = self.append_code(piece)?;
        let entry = &mut self.linked.stubs[ty];
        match kind {
            StubKind::Enter => (entry.enter_start, entry.enter_len) = (start.into(), len.into()),
            StubKind::Exit => (entry.exit_start, entry.exit_len) = (start.into(), len.into()),
        }
        self.relocate(piece, start, 0)
    }

    /// Fills in what is left. `canonical` gives the type whose stubs a type uses.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if functions are too far apart for the instructions between them.
    pub(crate) fn finish(mut self, canonical: impl Fn(TypeIndex) -> TypeIndex) -> Result<Linked, CompileError> {
        self.island()?;
        let missing = || CompileError::Internal { message: "linking ended before all functions were there".into() };
        if !self.placed.iter().all(|placed| *placed) {
            return Err(missing());
        }
        for Pending { place, reloc, .. } in std::mem::take(&mut self.veneers) {
            let target = self.target(&reloc)?.ok_or_else(missing)?;
            let veneer = relocate::aarch64_veneer(place, target);
            self.linked.text[place as usize..][..veneer.len()].copy_from_slice(&veneer);
        }
        // Text and what is behind it begin at multiples of the same page size, so the place of the text in the image does not matter.
        let area = EntryArea::new(self.linked.text.len() as u64, self.imported_functions + self.defined_functions as u32, 0);
        let mut first_sites = HashMap::new();
        for (function, offsets) in std::mem::take(&mut self.sites) {
            first_sites.insert(function, self.linked.sites.len() as u32);
            self.linked.sites.extend(offsets.iter().map(|offset| SiteEntry { function: function.into(), offset: (*offset).into() }));
        }
        for Pending { place, mut reloc, function } in std::mem::take(&mut self.behind) {
            if let RelocTarget::Cell(site) = &mut reloc.target {
                *site += first_sites.get(&function).ok_or_else(missing)?;
            }
            let target = match reloc.target {
                RelocTarget::Slot(function) => area.slot(function),
                RelocTarget::Budget(function) => area.budget(function),
                RelocTarget::Cell(site) => area.cell(site),
                RelocTarget::Function(_) => continue,
            };
            self.write(place, &reloc, (target as i64).wrapping_add(reloc.addend))?;
            let unknown = || CompileError::Internal { message: "a tier asked for an address far from anything".into() };
            self.linked.relocs.push(RelocEntry::new(place, &Reloc { offset: 0, ..reloc }).ok_or_else(unknown)?);
        }
        // Where there is no order, functions are looked up by where they begin, those without code among them.
        if !self.with_code.is_sorted() || !self.linked.functions.is_sorted_by_key(|function| function.code_start.get()) {
            self.linked.order = std::mem::take(&mut self.with_code);
        }
        for index in self.linked.stubs.indices() {
            self.linked.stubs[index] = self.linked.stubs[canonical(index)];
        }
        Ok(self.linked)
    }

    /// Appends code at the next aligned place; start and length.
    fn append_code(&mut self, piece: &Piece) -> Result<(u32, u32), CompileError> {
        self.island_if_due(piece.code.len())?;
        let start = match piece.line_offset {
            Some(offset) => self.append_at(&piece.code, |end| offset.next(end))?,
            None => self.append(&piece.code, CODE_ALIGN_BYTES)?,
        };
        Ok((start, piece.code.len() as u32))
    }

    /// Appends bytes at the next multiple of `align`; where they begin.
    fn append(&mut self, code: &[u8], align: usize) -> Result<u32, CompileError> {
        self.append_at(code, |end| end.checked_next_multiple_of(align))
    }

    /// Appends bytes at the place that comes next in the view of `place`; where they begin.
    fn append_at(&mut self, code: &[u8], place: impl FnOnce(usize) -> Option<usize>) -> Result<u32, CompileError> {
        let text = &mut self.linked.text;
        let start = place(text.len()).unwrap_or(usize::MAX);
        let end = start.saturating_add(code.len());
        let max_text_bytes = self.budget.max_text_bytes.min(u32::MAX as usize);
        if end > max_text_bytes {
            return Err(exceeded("bytes of code of the module", "max_text_bytes", max_text_bytes, end));
        }
        text.resize(start, self.padding);
        text.extend_from_slice(code);
        Ok(start as u32)
    }

    /// Fills in the addresses that are known and in reach, keeps the other places for later.
    fn relocate(&mut self, piece: &Piece, code_start: u32, function: u32) -> Result<(), CompileError> {
        for reloc in &piece.relocs {
            let place = code_start + reloc.offset;
            if self.is_behind(piece, reloc)? {
                self.behind.push(Pending { place, reloc: *reloc, function });
                continue;
            }
            match self.target_in_reach(place, reloc)? {
                Some(target) => self.write(place, reloc, target)?,
                None => self.pending.push(Pending { place, reloc: *reloc, function }),
            }
        }
        Ok(())
    }

    /// Makes an island if the next code, of `next_len` bytes, would put one out of the reach of the oldest place that waits.
    fn island_if_due(&mut self, next_len: usize) -> Result<(), CompileError> {
        let Some(oldest) = self.pending.first() else { return Ok(()) };
        let largest_island = self.pending.len() * relocate::VENEER_BYTES;
        let end = self.linked.text.len() + 64 + next_len + largest_island;
        if end - oldest.place as usize >= self.reach_bytes as usize { self.island() } else { Ok(()) }
    }

    /// Settles every place that waits: with the address, if it is known and in reach by now, or with that of a jump which is appended.
    fn island(&mut self) -> Result<(), CompileError> {
        let mut jumps = HashMap::new();
        for Pending { place, reloc, function } in std::mem::take(&mut self.pending) {
            let target = match self.target_in_reach(place, &reloc)? {
                Some(target) => target,
                None => match jumps.get(&(reloc.target, reloc.addend)) {
                    Some(jump) => *jump,
                    None => {
                        let jump = self.append(&[0; relocate::VENEER_BYTES], 4)?;
                        self.veneers.push(Pending { place: jump, reloc, function });
                        jumps.insert((reloc.target, reloc.addend), i64::from(jump));
                        i64::from(jump)
                    }
                },
            };
            self.write(place, &reloc, target)?;
        }
        Ok(())
    }

    /// Whether `reloc` of `piece` asks for a slot, a budget or a cell, which are behind the text.
    fn is_behind(&self, piece: &Piece, reloc: &Reloc) -> Result<bool, CompileError> {
        let exists = match reloc.target {
            RelocTarget::Function(_) => return Ok(false),
            RelocTarget::Cell(site) => (site as usize) < piece.sites.len(),
            RelocTarget::Slot(function) => function.as_usize() < self.imported_functions as usize + self.defined_functions,
            RelocTarget::Budget(function) => function.as_usize() < self.defined_functions,
        };
        if exists { Ok(true) } else { Err(no_target(reloc)) }
    }

    /// The address of the function that `reloc` asks for, in the text, if it is known.
    fn target(&self, reloc: &Reloc) -> Result<Option<i64>, CompileError> {
        let RelocTarget::Function(function) = reloc.target else { return Err(no_target(reloc)) };
        let position = function.as_u32().checked_sub(self.imported_functions).map(|position| position as usize);
        let Some(position) = position.filter(|position| *position < self.defined_functions) else { return Err(no_target(reloc)) };
        let function = &self.linked.functions[position];
        match self.placed[position] {
            true if function.code_len == 0 => Err(no_target(reloc)),
            true => Ok(Some(i64::from(function.code_start.get()).wrapping_add(reloc.addend))),
            false => Ok(None),
        }
    }

    /// The address that `reloc` asks for, if it is known and a call at `place` reaches it.
    fn target_in_reach(&self, place: u32, reloc: &Reloc) -> Result<Option<i64>, CompileError> {
        let reach = -i64::from(self.reach_bytes)..i64::from(self.reach_bytes);
        Ok(self.target(reloc)?.filter(|target| reach.contains(&target.wrapping_sub(i64::from(place)))))
    }

    /// Writes the address `target` at `place` in the way that `reloc` says.
    fn write(&mut self, place: u32, reloc: &Reloc, target: i64) -> Result<(), CompileError> {
        let delta = target.wrapping_sub(i64::from(place));
        relocate::apply(reloc.kind, &mut self.linked.text[place as usize..], delta).map_err(|relocate::OutOfRange| CompileError::Limit {
            message: format!(
                "the code is too large: {:?} is {delta} bytes from one of its users, which is out of the reach of {:?}",
                reloc.target, reloc.kind
            ),
        })
    }
}

#[cold]
fn no_target(reloc: &Reloc) -> CompileError {
    let message = format!("a tier asked for the address of {:?}, which the image does not have", reloc.target);
    CompileError::Internal { message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peregrine_artifact::func::LINE_BYTES;
    use peregrine_wasm::{FuncIndex, FuncType, FunctionDecl};

    /// Where the `bl` at `place` arrives, jumps followed.
    fn arrives(text: &[u8], place: usize) -> usize {
        let word = |at: usize| u32::from_le_bytes(text[at..at + 4].try_into().expect("4 bytes"));
        let bl = word(place);
        assert_eq!(bl & 0xfc00_0000, 0x9400_0000);
        let target = place.wrapping_add_signed(((bl << 6) as i32 >> 4) as isize);
        if word(target) & 0x9f00_001f != 0x9000_0010 {
            return target;
        }
        assert_eq!((word(target + 4) & 0xffc0_03ff, word(target + 8)), (0x9100_0210, 0xd61f_0200));
        let pages = ((word(target) >> 5 & 0x7_ffff) << 2 | word(target) >> 29 & 3) as i32;
        let base = (target & !0xfff).wrapping_add_signed(((pages << 11 >> 11) as isize) << 12);
        base + (word(target + 4) >> 10 & 0xfff) as usize
    }

    #[test]
    fn functions_begin_where_their_compiler_says() {
        const FUNCTIONS: u32 = 40;
        let mut module = Module::default();
        let ty = module.types.push(FuncType { params: [].into(), results: [].into() });
        module.functions = (0..FUNCTIONS).map(|_| FunctionDecl { ty, func_ref: None }).collect();
        let budget = Budget::default();
        let target = Target { triple: "x86_64-unknown-linux-gnu".into(), cpu_features: vec![] };
        let mut linker = Linker::new(&target, &module, &budget);
        let offset = |index: u32| LineOffset::all().nth(index as usize % 5);
        for index in 0..FUNCTIONS {
            let compiled = CompiledFunc { code: vec![0xc3; 1 + index as usize * 3], line_offset: offset(index), ..CompiledFunc::default() };
            linker.function(DefinedFuncIndex::from_u32(index), &Piece::new(compiled, &budget).expect("sound"), 0).expect("small");
        }
        let linked = linker.finish(|ty| ty).expect("nothing refers to anything");
        let mut end = 0;
        for (index, function) in linked.functions.iter().enumerate() {
            let start = function.code_start.get() as usize;
            match offset(index as u32) {
                Some(offset) => assert_eq!(start % LINE_BYTES, offset.bytes()),
                None => assert_eq!(start % CODE_ALIGN_BYTES, 0),
            }
            assert!(start >= end && start < end + LINE_BYTES);
            assert!(linked.text[end..start].iter().all(|byte| *byte == 0xcc));
            end = start + function.code_len.get() as usize;
        }
    }

    #[test]
    fn calls_out_of_reach_go_over_islands() {
        const FUNCTIONS: u32 = 400;
        let mut module = Module { imported_functions: 1, ..Module::default() };
        let ty = module.types.push(FuncType { params: [].into(), results: [].into() });
        module.functions = (0..=FUNCTIONS).map(|_| FunctionDecl { ty, func_ref: None }).collect();
        let budget = Budget::default();
        let target = Target { triple: "aarch64-unknown-linux-gnu".into(), cpu_features: vec![] };
        let link = |reach_bytes| {
            let mut linker = Linker::new(&target, &module, &budget).with_reach(reach_bytes);
            let callees = |index: u32| [index, (index * 7 + 3) % FUNCTIONS, FUNCTIONS - 1 - index, 0, FUNCTIONS - 1];
            for index in 0..FUNCTIONS {
                let code: Vec<u8> = (0..40 + index % 60).flat_map(|_| 0x9400_0000u32.to_le_bytes()).collect();
                let reloc = |(position, callee)| {
                    let target = RelocTarget::Function(FuncIndex::from_u32(callee + 1));
                    Reloc { offset: position as u32 * 28, kind: RelocKind::Aarch64Call26, target, addend: 0 }
                };
                let relocs = callees(index).into_iter().enumerate().map(reloc).collect();
                let compiled = CompiledFunc { code, relocs, ..CompiledFunc::default() };
                linker.function(DefinedFuncIndex::from_u32(index), &Piece::new(compiled, &budget).expect("sound"), 0).expect("small");
            }
            let linked = linker.finish(|ty| ty).expect("all calls arrive");
            let starts: Vec<usize> = linked.functions.iter().map(|function| function.code_start.get() as usize).collect();
            for index in 0..FUNCTIONS {
                for (position, callee) in callees(index).into_iter().enumerate() {
                    assert_eq!(arrives(&linked.text, starts[index as usize] + position * 28), starts[callee as usize]);
                }
            }
            linked.text.len()
        };
        let direct = link(1 << 27);
        assert!(link(40_000) > direct && link(20_000) > link(40_000));
    }
}
