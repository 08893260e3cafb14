//! The part of a module that changes while it runs: entry slots, budgets, and the code of functions that are compiled one by one.
//!
//! Behind the image follow slots, budgets and cells (see [`EntryArea`]), then the room for code, at whose start is a follower for each function: code
//! that goes to where the function's slot points. What holds a code pointer for long (function references, imports) holds that of the
//! follower, so that better code reaches it too. A slot is changed by one store; the code before stays valid as long as the module.
//!
//! What is compiled when is decided in [`crate::tiering`].

use super::blobs::{Blob, BlobKind, Blobs};
use super::cells::{CallCells, Taken};
use crate::vm::entry::lazy::LazyThunks;
use crate::vm::entry::veneer;
use peregrine_artifact::abi;
use peregrine_artifact::code_bounds::CodeBounds;
use peregrine_artifact::func::{CompiledFunc, LINE_BYTES, RelocTarget};
use peregrine_artifact::image::{
    BUDGET_CALLS_OFFSET, BUDGET_SIZE_BYTES, CELL_SIZE_BYTES, EntryArea, ImageLayout, PAGE_ALIGN_BYTES, SLOT_SIZE_BYTES,
};
use peregrine_sys::forks;
use peregrine_sys::image::{Beside, CodeMapping};
use peregrine_sys::pages::page_size;
use peregrine_sys::room::{CODE_ALIGN_BYTES, CodeRoom, RoomKind};
use peregrine_wasm::{DefinedFuncIndex, FuncIndex, Index, Module};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Room for code in any module.
const MIN_ROOM_BYTES: u64 = 1 << 20;
/// Room for code for each byte of the binary's code, at least: both tiers, and entries at loops. Programs need an eighth of it.
const ROOM_PER_BYTE: u64 = 24;
/// Room for optimized code beside the most that code of the baseline may become, for each byte of the binary's code.
const OPTIMIZED_ROOM_PER_BYTE: u64 = 16;
/// Pages for each function where every piece of code takes whole ones, so that even the quarter that optimized code leaves has room for a piece of
/// each.
const PAGES_PER_FUNCTION: u64 = 4;
/// The share of the room that optimized code may fill where there is less than the most that code may become.
const OPTIMIZED_ROOM_PERCENT: u64 = 75;
/// One cell for so many bytes of the binary's code: compiled programs have an indirect call in some hundreds.
const CODE_BYTES_PER_CELL: u64 = 128;
/// Cells of any module: 16 MiB.
const MAX_CELLS: u64 = 1 << 19;
/// Less than what code can express as a distance.
const MAX_REACH_BYTES: u64 = (2 << 30) - (1 << 20);

/// How far budgets are apart.
const BUDGET_I32S: usize = (BUDGET_SIZE_BYTES / 4) as usize;

/// Slots, budgets and later code of one module.
pub(crate) struct TieredCode {
    imported_functions: u32,
    functions: u32,
    slots: NonNull<AtomicU64>,
    budgets: NonNull<AtomicI32>,
    cells: CallCells,
    room: Mutex<CodeRoom>,
    /// The addresses of the room.
    range: Range<usize>,
    followers: Followers,
    blobs: Blobs,
    optimized_share: OptimizedShare,
    /// Bytes of the room that may be used when optimized code is added, if the budget allows less than there is.
    most_used_bytes: Option<usize>,
    /// Bytes of the room that optimized code has. Written while the room is locked.
    optimized_bytes: AtomicUsize,
    /// Whether the system refused to take code that had its place already: from then on code is written while the room is locked, so that the
    /// place is the next one's if that happens again.
    was_refused: AtomicBool,
    /// The addresses of code in the image.
    image_text: Range<usize>,
}

// SAFETY: slots and budgets are atomics in memory that the module's mapping keeps, which outlives this.
unsafe impl Send for TieredCode {}
// SAFETY: as above.
unsafe impl Sync for TieredCode {}

/// Code that goes where slots point.
struct Followers {
    /// The address of the one for the first defined function.
    start: usize,
    /// What all of them are.
    code: [u8; veneer::FOLLOWER_BYTES],
    /// Which pages of them are there.
    pages: Box<[AtomicBool]>,
}

/// Why code is not installed.
#[derive(Debug)]
pub(crate) enum InstallError {
    /// The room is full, or the system refused.
    Io(io::Error),
    /// The compiler made code that cannot be linked here.
    Code(&'static str),
}

impl std::fmt::Display for InstallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "no room for code: {error}"),
            Self::Code(what) => write!(f, "the compiler made code with {what}"),
        }
    }
}

/// How much of the room optimized code may fill, so that functions that were never called find some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OptimizedShare {
    /// So many bytes: what is left is enough for whatever the functions may become in the baseline.
    Bytes(usize),
    /// Some, until so many bytes of the room are used for anything.
    UntilUsed(usize),
}

/// How much code may be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodeLimits {
    pub(super) optimized_share: OptimizedShare,
    /// Bytes of code in the room with which the budget of the module is used up. The baseline is not held to it: functions have to be compiled when
    /// they are called.
    pub(super) most_bytes: usize,
}

/// What the address space beside an image depends on.
pub(super) struct Needs {
    pub(super) image_len_bytes: usize,
    /// Functions, imported ones included.
    pub(super) functions: usize,
    /// Bytes of the binary that bodies are in.
    pub(super) code_bytes: u64,
    /// What those may become.
    pub(super) bounds: CodeBounds,
    /// How many calls count in code of the image.
    pub(super) image_sites: usize,
    /// Whether each piece of code in the room takes whole pages.
    pub(super) takes_pages: bool,
    /// Whether address space is short: the room is for what programs become, not for what code may become at most.
    pub(super) is_short: bool,
}

/// What is to be beside an image whose functions are compiled one by one, if that is possible: everything has to be within reach of code. And how
/// much of the room optimized code may fill.
pub(super) fn beside(needs: &Needs) -> Option<(Beside, OptimizedShare)> {
    let functions = u32::try_from(needs.functions).ok()?;
    let code_bytes = needs.code_bytes;
    // Code in the image goes by its own, whatever others are left.
    let cells = (code_bytes / CODE_BYTES_PER_CELL).clamp(1, MAX_CELLS).max(needs.image_sites as u64 + 1);
    let cells_u32 = u32::try_from(cells).ok()?;
    let area = EntryArea::new(needs.image_len_bytes as u64, functions, cells_u32);
    let functions = u64::from(functions);
    let pages = if needs.takes_pages { functions * PAGES_PER_FUNCTION * page_size() as u64 } else { 0 };
    let followers = functions * SLOT_SIZE_BYTES;
    let usual = MIN_ROOM_BYTES + code_bytes.saturating_mul(ROOM_PER_BYTE) + followers + pages;
    let most_baseline = needs.bounds.module(functions, code_bytes).saturating_add(followers + pages);
    let most = (MIN_ROOM_BYTES + code_bytes.saturating_mul(OPTIMIZED_ROOM_PER_BYTE)).saturating_add(most_baseline);
    let reach = MAX_REACH_BYTES.checked_sub(area.code_start)?;
    let room = if needs.is_short { usual } else { most.max(usual) }.min(reach);
    // With less than half of what is usual, modules would run into the end of it.
    let enough = room >= MIN_ROOM_BYTES + code_bytes * ROOM_PER_BYTE / 2;
    let optimized = match room >= most {
        true => OptimizedShare::Bytes((room - most_baseline) as usize),
        false => OptimizedShare::UntilUsed((room / 100 * OPTIMIZED_ROOM_PERCENT) as usize),
    };
    let beside = Beside {
        align_bytes: PAGE_ALIGN_BYTES as usize,
        slots_len_bytes: (area.cells_start + cells * CELL_SIZE_BYTES - area.slots_start) as usize,
        room_len_bytes: room.next_multiple_of(PAGE_ALIGN_BYTES) as usize,
    };
    enough.then_some((beside, optimized))
}

impl TieredCode {
    /// Makes slots of a module that was mapped with what [`beside`] told, the share of optimized code included: of functions with code in
    /// the image to that, of all others to code that has them compiled.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(super) fn new(
        mapping: &CodeMapping,
        layout: &ImageLayout,
        module: &Module,
        text: Range<usize>,
        kind: RoomKind,
        limits: CodeLimits,
    ) -> io::Result<Self> {
        let base = mapping.ptr() as usize;
        let entries = layout.functions(mapping.bytes());
        let functions = layout.function_count() as u32;
        let imported_functions = functions - entries.len() as u32;
        let area = EntryArea::new(mapping.bytes().len() as u64, functions, 0);
        debug_assert_eq!(area.slots_start, mapping.slots_offset() as u64);
        let thunks = LazyThunks::ensure(functions as usize, false)?;
        let with_area: Vec<bool> = module.types.values().map(|ty| abi::has_result_area(&ty.results)).collect();
        let thunks_with_area = match with_area.contains(&true) {
            true => LazyThunks::ensure(functions as usize, true)?,
            false => thunks,
        };
        let slots = mapping.slots_ptr().cast::<AtomicU64>();
        for function in 0..functions {
            let entry = function.checked_sub(imported_functions).map(|defined| entries[defined as usize]);
            let code = match entry.filter(|entry| entry.code_len.get() > 0) {
                Some(entry) => text.start + entry.code_start.get() as usize,
                None if with_area[module.functions[FuncIndex::from_u32(function)].ty.as_usize()] => thunks_with_area.address(function),
                None => thunks.address(function),
            };
            // SAFETY: there is a slot for each function, and nobody else knows them yet.
            unsafe { slots.add(function as usize).write(AtomicU64::new(code as u64)) };
        }
        let budgets = mapping.slots_ptr().wrapping_add((area.budgets_start - area.slots_start) as usize).cast::<AtomicI32>();
        let cells_offset = (area.cells_start - area.slots_start) as usize;
        // Everything up to the room is there.
        let cells_end = (mapping.room_offset() - mapping.slots_offset()).max(cells_offset);
        let cells =
            CallCells::new(mapping.slots_ptr().wrapping_add(cells_offset), cells_end - cells_offset, layout.sites(mapping.bytes()).len());
        let (Some(slots), Some(budgets)) = (NonNull::new(slots), NonNull::new(budgets)) else {
            return Err(io::Error::other("slots are mapped at address zero"));
        };
        let mut room = mapping.room(kind);
        let range = base + mapping.room_offset()..base + mapping.room_offset() + room.left_bytes();
        let followers_len = entries.len() * veneer::FOLLOWER_BYTES;
        let start = {
            // A child finds the list of the files with code free.
            let _inside = forks::enter();
            room.put_aside(followers_len)?
        };
        let distance = (base as i64 + area.slot(FuncIndex::from_u32(imported_functions)) as i64) - start as i64;
        let code = veneer::follower(distance).ok_or_else(|| io::Error::other("slots are out of reach"))?;
        let pages = (0..followers_len.div_ceil(page_size())).map(|_| AtomicBool::new(false)).collect();
        let followers = Followers { start, code, pages };
        let most_used_bytes = Some(room.used_bytes().saturating_add(limits.most_bytes)).filter(|most| *most < range.len());
        let room = Mutex::new(room);
        Ok(Self {
            imported_functions,
            functions,
            slots,
            budgets,
            cells,
            room,
            range,
            followers,
            blobs: Blobs::new(),
            optimized_share: limits.optimized_share,
            most_used_bytes,
            optimized_bytes: AtomicUsize::new(0),
            was_refused: AtomicBool::new(false),
            image_text: text,
        })
    }

    /// The addresses of later code.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The slot of a defined function.
    fn slot(&self, function: DefinedFuncIndex) -> &AtomicU64 {
        let position = self.imported_functions as usize + function.as_usize();
        assert!(position < self.functions as usize, "a function of the module");
        // SAFETY: there is a slot for each function.
        unsafe { self.slots.add(position).as_ref() }
    }

    fn budget(&self, function: DefinedFuncIndex) -> &AtomicI32 {
        assert!(self.imported_functions as usize + function.as_usize() < self.functions as usize, "a function of the module");
        // SAFETY: there is a budget for each defined function.
        unsafe { self.budgets.add(function.as_usize() * BUDGET_I32S).as_ref() }
    }

    /// What a function may do until it is reported, and how often it was entered in the baseline. Counted without order or atomicity.
    pub(crate) fn budget_and_calls(&self, function: DefinedFuncIndex) -> (i32, u32) {
        let budget = self.budget(function);
        // SAFETY: the count follows the budget.
        let calls = unsafe { NonNull::from(budget).add((BUDGET_CALLS_OFFSET / 4) as usize).as_ref() };
        (budget.load(Ordering::Relaxed), calls.load(Ordering::Relaxed) as u32)
    }

    /// The calls that code of the baseline counts.
    pub(crate) fn call_cells(&self) -> &CallCells {
        &self.cells
    }

    /// Sets the work that a function may do before it is reported. Compiled code counts it down without any order; what it counts at the
    /// same moment may be lost.
    pub(crate) fn set_budget(&self, function: DefinedFuncIndex, budget: i32) {
        self.budget(function).store(budget, Ordering::Relaxed);
    }

    /// Where the slot of a function points.
    pub(crate) fn entry(&self, function: DefinedFuncIndex) -> usize {
        // Paired with the store in `set_entry`: whoever sees the address sees the code.
        self.slot(function).load(Ordering::Acquire) as usize
    }

    /// Lets calls of a function go to code that [`add`](Self::add) gave for it.
    ///
    /// # Panics
    ///
    /// If the code is not that of a function as a whole, or of another one.
    pub(super) fn set_entry(&self, function: DefinedFuncIndex, code: usize) {
        let blob = self.blobs.find(code).filter(|blob| blob.start == code);
        assert!(blob.is_some_and(|blob| blob.function == function && blob.kind != BlobKind::LoopEntry), "code of the function");
        self.slot(function).store(code as u64, Ordering::Release);
    }

    /// Code for holders of pointers: optimized code if there is some, otherwise what follows the slot.
    pub(crate) fn lasting_entry(&self, function: DefinedFuncIndex) -> usize {
        let entry = self.entry(function);
        let is_last = self.image_text.contains(&entry) || self.find(entry).is_some_and(|blob| blob.kind == BlobKind::Optimized);
        if is_last { entry } else { self.follower(function) }
    }

    /// The address that [`follower`](Self::follower) gave for a function, if it may have given it to anybody.
    pub(crate) fn follower_if_there(&self, function: DefinedFuncIndex) -> Option<usize> {
        let offset = function.as_usize() * veneer::FOLLOWER_BYTES;
        // Paired with the store in `follower`.
        let is_there = self.followers.pages[offset / page_size()].load(Ordering::Acquire);
        is_there.then_some(self.followers.start + offset)
    }

    /// Code that goes on to better code: it goes to where the slot points at the time of each call.
    pub(crate) fn follower(&self, function: DefinedFuncIndex) -> usize {
        let offset = function.as_usize() * veneer::FOLLOWER_BYTES;
        let page = offset / page_size();
        // Paired with the store below.
        if !self.followers.pages[page].load(Ordering::Acquire) {
            // On the embedder's thread: a forked child wants the room, too.
            let _inside = forks::enter();
            let mut room = self.room();
            let code = self.followers.code.repeat(page_size() / veneer::FOLLOWER_BYTES);
            if !self.followers.pages[page].load(Ordering::Relaxed) {
                if let Err(error) = room.fill_page(page, &code) {
                    tracing::debug!(%error, "no page for code that follows slots");
                    // What the slot points to now is right as well, if not the best for ever.
                    return self.entry(function);
                }
                self.followers.pages[page].store(true, Ordering::Release);
            }
        }
        self.followers.start + offset
    }

    /// Links code of a function into the room, and describes it. Returns its address.
    ///
    /// # Errors
    ///
    /// If there is no room, the code refers to what cannot be expressed, or the system refused. Of the room nothing is used up then, but for
    /// what was being added when the system refused for the first time: its description is in the list that is read without locks.
    pub(crate) fn add(&self, function: DefinedFuncIndex, kind: BlobKind, compiled: &CompiledFunc) -> Result<usize, InstallError> {
        let mut code = compiled.code.clone();
        let len = u32::try_from(code.len()).ok().filter(|len| *len > 0).ok_or(InstallError::Code("no bytes, or too many"))?;
        // Whatever takes long is done before the room is locked, or afterwards: guests wait for it.
        let mut blob = Blob::new(0, len, function, kind, &compiled.traps, &compiled.addresses);
        let (align, offset) = match (kind, compiled.line_offset) {
            (BlobKind::Baseline, _) => (CODE_ALIGN_BYTES, 0),
            (_, None) => (LINE_BYTES, 0),
            (_, Some(offset)) => (LINE_BYTES, offset.bytes()),
        };
        let mut room = self.room();
        let used = room.used_bytes();
        let start = room.next_address_after(align, offset).map_err(InstallError::Io)?;
        let cells = self.cells.take(compiled.sites.len());
        let linked = self.link(compiled, &mut code, start, cells).and_then(|()| {
            let place = match self.was_refused.load(Ordering::Relaxed) {
                true => room.append(&code).map(|()| None),
                false => room.reserve(code.len()).map(Some),
            };
            place.map_err(InstallError::Io)
        });
        let place = match linked {
            Ok(place) => place,
            Err(error) => {
                // The room is locked: nobody took any since.
                self.cells.take_back(cells, compiled.sites.len());
                room.release();
                return Err(error);
            }
        };
        if kind != BlobKind::Baseline {
            // Only told to whoever asks whether there is room.
            self.optimized_bytes.fetch_add(room.used_bytes() - used, Ordering::Relaxed);
        }
        blob.start = start;
        // SAFETY: the room is locked. Nobody has an address in there before the code is, so it is not looked up before.
        unsafe { self.blobs.push(blob) };
        self.cells.give(function, cells, &compiled.sites);
        drop(room);
        if let Some(Err(error)) = place.map(|place| place.fill(&code)) {
            self.was_refused.store(true, Ordering::Relaxed);
            return Err(InstallError::Io(error));
        }
        Ok(start)
    }

    /// Writes into `code`, which is to be at `start`, the distances of what it refers to.
    fn link(&self, compiled: &CompiledFunc, code: &mut [u8], start: usize, cells: Taken) -> Result<(), InstallError> {
        for reloc in &compiled.relocs {
            let target = match reloc.target {
                RelocTarget::Slot(index) if index.as_u32() < self.functions => {
                    self.slots.as_ptr() as usize + index.as_usize() * SLOT_SIZE_BYTES as usize
                }
                RelocTarget::Budget(index) if index.as_u32() < self.functions - self.imported_functions => {
                    self.budgets.as_ptr() as usize + index.as_usize() * BUDGET_SIZE_BYTES as usize
                }
                RelocTarget::Cell(site) if (site as usize) < compiled.sites.len() => cells.address(site as usize),
                RelocTarget::Function(_) => return Err(InstallError::Code("a direct call of a function")),
                _ => return Err(InstallError::Code("a reference to a function that the module does not have")),
            };
            let place = code.get_mut(reloc.offset as usize..).ok_or(InstallError::Code("a reference outside of it"))?;
            let delta = (target as i64).wrapping_add(reloc.addend).wrapping_sub(start as i64 + i64::from(reloc.offset));
            veneer::relocate(reloc.kind, place, delta).ok_or(InstallError::Code("a reference that is out of reach"))?;
        }
        Ok(())
    }

    /// What is known of the code at `pc`. Signal-safe.
    pub(crate) fn find(&self, pc: usize) -> Option<&Blob> {
        self.blobs.find(pc)
    }

    /// The bytes of code that was added.
    pub(crate) fn code_of(&self, blob: &Blob) -> &[u8] {
        debug_assert!(self.range.contains(&blob.start));
        // SAFETY: the code of a description is in the room, readable, and never changes.
        unsafe { std::slice::from_raw_parts(blob.start as *const u8, blob.len as usize) }
    }

    /// Whether so many bytes of optimized code are within the budget of the module.
    pub(crate) fn is_within_budget(&self, len_bytes: usize) -> bool {
        self.most_used_bytes.is_none_or(|most| self.room_bytes().0.saturating_add(len_bytes) <= most)
    }

    /// Whether so many bytes of optimized code are within the budget of the module, and leave enough room for functions that were never called.
    pub(crate) fn has_room_for_optimized(&self, len_bytes: usize) -> bool {
        self.is_within_budget(len_bytes)
            && match self.optimized_share {
                OptimizedShare::Bytes(most) => self.optimized_bytes.load(Ordering::Relaxed).saturating_add(len_bytes) <= most,
                OptimizedShare::UntilUsed(most) => self.room_bytes().0.saturating_add(len_bytes) <= most,
            }
    }

    /// Bytes of the room that are used, and all bytes of it.
    pub(crate) fn room_bytes(&self) -> (usize, usize) {
        let _inside = forks::enter();
        (self.room().used_bytes(), self.range.len())
    }

    fn room(&self) -> MutexGuard<'_, CodeRoom> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much room there is for each byte of code, and whether that is enough for whatever it may become; nothing if it is compiled as a whole.
    fn room(code_megabytes: u64) -> Option<(u64, bool)> {
        let code_bytes = code_megabytes << 20;
        let bounds = CodeBounds::of(&Module::default());
        let needs =
            Needs { image_len_bytes: 1 << 20, functions: 1000, code_bytes, bounds, image_sites: 0, takes_pages: false, is_short: false };
        let (beside, share) = beside(&needs)?;
        Some((beside.room_len_bytes as u64 / code_bytes, matches!(share, OptimizedShare::Bytes(_))))
    }

    #[test]
    fn there_is_room_for_all_that_code_may_become_then_for_what_programs_need_and_then_none() {
        assert_eq!(room(1).map(|room| room.1), Some(true));
        assert_eq!(room(14).map(|room| room.1), Some(true));
        let (per_byte, is_all) = room(100).expect("it has room");
        assert!((18..22).contains(&per_byte) && !is_all, "{per_byte}");
        let (per_byte, is_all) = room(165).expect("it has room");
        assert!((12..13).contains(&per_byte) && !is_all, "{per_byte}");
        assert_eq!(room(175), None);
    }
}
