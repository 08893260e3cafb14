//! Puts compiled functions and stubs one after the other, fills in the addresses they need of each other, and makes their tables.
//!
//! Text is `functions by rising index | stubs`. Functions begin at multiples of 16 bytes (constants beside the code need it), larger ones of 32.

use crate::budget::{Budget, exceeded};
use crate::relocate;
use peregrine_artifact::abi::StubKind;
use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::func::{CompiledFunc, Reloc};
use peregrine_artifact::image::{FunctionEntry, StubEntry};
use peregrine_artifact::settings::Target;
use peregrine_artifact::tables;
use peregrine_wasm::{DefinedFuncIndex, Index, IndexVec, TypeIndex};

/// Code whose tables are encoded: what is left to do in order is to copy bytes.
pub(crate) struct Piece {
    code: Vec<u8>,
    relocs: Vec<Reloc>,
    /// The trap stream, then the address stream.
    tables: Vec<u8>,
    traps_len: u32,
}

impl Piece {
    /// Checks what a tier made and encodes its tables.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if the code is too large, [`CompileError::Internal`] if the tier broke its contract.
    pub(crate) fn new(compiled: CompiledFunc, budget: &Budget) -> Result<Self, CompileError> {
        let CompiledFunc { code, relocs, traps, addresses } = compiled;
        if code.len() > budget.max_function_code_bytes {
            return Err(exceeded("bytes of code", "max_function_code_bytes", budget.max_function_code_bytes, code.len()));
        }
        let in_code = |offset: u32, len: usize| (offset as usize).checked_add(len).is_some_and(|end| end <= code.len());
        let sound = !code.is_empty()
            && relocs.iter().all(|reloc| in_code(reloc.offset, relocate::size_bytes(reloc.kind)))
            && traps.is_sorted_by(|a, b| a.0 < b.0)
            && addresses.is_sorted_by(|a, b| a.0 <= b.0)
            && traps.last().is_none_or(|last| in_code(last.0, 1));
        if !sound {
            return Err(CompileError::Internal { message: "a tier made code with unsorted tables or places outside of it".into() });
        }
        let mut streams = Vec::new();
        tables::traps::encode(&traps, &mut streams);
        let traps_len = streams.len() as u32;
        tables::addresses::encode(&addresses, &mut streams);
        Ok(Self { code, relocs, tables: streams, traps_len })
    }
}

/// Everything linked.
pub(crate) struct Linked {
    pub(crate) text: Vec<u8>,
    pub(crate) tables: Vec<u8>,
    pub(crate) functions: Vec<FunctionEntry>,
    /// One for each type; those of types that are the same as an earlier one are not filled in.
    pub(crate) stubs: IndexVec<TypeIndex, StubEntry>,
}

/// Links functions by rising index, then stubs.
pub(crate) struct Linker<'a> {
    budget: &'a Budget,
    imported_functions: u32,
    /// What to put between functions: an instruction that traps.
    padding: u8,
    linked: Linked,
    /// Places that need the address of a function that comes later.
    pending: Vec<Pending>,
}

/// A place in the text that needs an address.
struct Pending {
    place: u32,
    reloc: Reloc,
}

impl<'a> Linker<'a> {
    /// Begins an empty text.
    pub(crate) fn new(target: &Target, imported_functions: u32, functions: usize, types: usize, budget: &'a Budget) -> Self {
        // `int3` on x86-64; zeros are no instruction on all others.
        let padding = if target.triple.starts_with("x86_64") { 0xcc } else { 0 };
        let stubs = (0..types).map(|_| StubEntry::default()).collect();
        let linked = Linked { text: Vec::new(), tables: Vec::new(), functions: Vec::with_capacity(functions), stubs };
        Self { budget, imported_functions, padding, linked, pending: Vec::new() }
    }

    /// The function that comes next.
    pub(crate) fn next_function(&self) -> DefinedFuncIndex {
        DefinedFuncIndex::from_usize(self.linked.functions.len())
    }

    /// Appends the next function, whose body is at `body_start` in the binary.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if the module is too large.
    pub(crate) fn function(&mut self, piece: &Piece, body_start: usize) -> Result<(), CompileError> {
        let (code_start, code_len) = self.append_code(piece)?;
        let tables_start = self.linked.tables.len();
        if tables_start + piece.tables.len() > u32::MAX as usize {
            let message = "bytes of tables of the module: an image holds 4294967295 at most, found more".into();
            return Err(CompileError::Limit { message });
        }
        self.linked.tables.extend_from_slice(&piece.tables);
        self.linked.functions.push(FunctionEntry {
            code_start: code_start.into(),
            code_len: code_len.into(),
            tables_start: (tables_start as u32).into(),
            traps_len: piece.traps_len.into(),
            addresses_len: (piece.tables.len() as u32 - piece.traps_len).into(),
            body_start: (body_start as u32).into(),
        });
        // Only now is the function's own address known, for calls of itself.
        self.relocate(piece, code_start)
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
        self.relocate(piece, start)
    }

    /// Fills in what is left. `canonical` gives the type whose stubs a type uses.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if functions are too far apart for the instructions between them.
    pub(crate) fn finish(mut self, canonical: impl Fn(TypeIndex) -> TypeIndex) -> Result<Linked, CompileError> {
        for Pending { place, reloc } in std::mem::take(&mut self.pending) {
            self.apply(place, &reloc)?;
        }
        for index in self.linked.stubs.indices() {
            self.linked.stubs[index] = self.linked.stubs[canonical(index)];
        }
        Ok(self.linked)
    }

    /// Appends code at the next aligned place; start and length.
    fn append_code(&mut self, piece: &Piece) -> Result<(u32, u32), CompileError> {
        let text = &mut self.linked.text;
        let align = if piece.code.len() > 64 { 32 } else { 16 };
        let start = text.len().next_multiple_of(align);
        let end = start + piece.code.len();
        let max_text_bytes = self.budget.max_text_bytes.min(u32::MAX as usize);
        if end > max_text_bytes {
            return Err(exceeded("bytes of code of the module", "max_text_bytes", max_text_bytes, end));
        }
        text.resize(start, self.padding);
        text.extend_from_slice(&piece.code);
        Ok((start as u32, piece.code.len() as u32))
    }

    /// Fills in the addresses that are known, keeps the other places for later.
    fn relocate(&mut self, piece: &Piece, code_start: u32) -> Result<(), CompileError> {
        for reloc in &piece.relocs {
            let place = code_start + reloc.offset;
            if self.position(reloc)? < self.linked.functions.len() {
                self.apply(place, reloc)?;
            } else {
                self.pending.push(Pending { place, reloc: *reloc });
            }
        }
        Ok(())
    }

    /// Where the target of `reloc` is among the defined functions.
    fn position(&self, reloc: &Reloc) -> Result<usize, CompileError> {
        let position = reloc.target.as_u32().checked_sub(self.imported_functions);
        let message = || "a tier asked for the address of an imported function".into();
        position.map(|position| position as usize).ok_or_else(|| CompileError::Internal { message: message() })
    }

    /// Writes the address that `reloc` asks for at `place` of the text.
    fn apply(&mut self, place: u32, reloc: &Reloc) -> Result<(), CompileError> {
        let function = self.linked.functions.get(self.position(reloc)?).ok_or_else(|| CompileError::Internal {
            message: format!("a tier asked for the address of function {}, which there is not", reloc.target.as_u32()),
        })?;
        let target = i64::from(function.code_start.get());
        let delta = (target - i64::from(place)).wrapping_add(reloc.addend);
        relocate::apply(reloc.kind, &mut self.linked.text[place as usize..], delta).map_err(|relocate::OutOfRange| CompileError::Limit {
            message: format!(
                "the code is too large: function {} is {delta} bytes from one of its callers, which is out of the reach of {:?}",
                reloc.target.as_u32(),
                reloc.kind
            ),
        })
    }
}
