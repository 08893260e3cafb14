//! What profilers are told about loaded code.

use crate::config::ProfilingStrategy;
use crate::gdb_elf;
use crate::vm::{BlobKind, LoadedModule};
use peregrine_artifact::compiler::CompilerKind;
use peregrine_artifact::image::Section;
use peregrine_sys::perf::{JitDump, PerfMap, Symbol};
use peregrine_wasm::FuncIndex;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What names of functions say of their tier.
const BASELINE: &str = "baseline";
const OPTIMIZED: &str = "optimized";

/// Writes what a profiler reads.
pub(crate) enum Profiler {
    Map(PerfMap),
    Dump(Arc<JitDump>),
}

impl Profiler {
    /// A profiler of the kind that `strategy` says, which is not `None`.
    pub(crate) fn new(strategy: ProfilingStrategy) -> io::Result<Self> {
        match strategy {
            ProfilingStrategy::JitDump => shared_dump().map(Self::Dump),
            _ => PerfMap::open().map(Self::Map),
        }
    }

    /// Tells about the functions of a module that come from its image, each with its tier.
    pub(crate) fn loaded(&self, module: &LoadedModule) -> io::Result<()> {
        let text = module.section(Section::Text);
        let functions = module.image_layout().map_or(&[][..], |layout| layout.functions(module.image_bytes()));
        let imported = module.module().imported_functions;
        let named: Vec<(String, usize, &[u8])> = functions
            .iter()
            .enumerate()
            .filter(|(_, function)| function.code_len.get() > 0)
            .map(|(position, function)| {
                let tier = match function.tier() {
                    Some(CompilerKind::Baseline) => BASELINE,
                    Some(CompilerKind::Optimizing) | None => OPTIMIZED,
                };
                let name = format!("{} [{tier}]", gdb_elf::name(module, FuncIndex::from_u32(imported + position as u32)));
                let start = function.code_start.get() as usize;
                (name, module.text().start + start, &text[start..][..function.code_len.get() as usize])
            })
            .collect();
        let mut symbols = named.iter().map(|(name, address, code)| Symbol { name, address: *address, code });
        match self {
            Self::Map(map) => map.append(symbols),
            Self::Dump(dump) => symbols.try_for_each(|symbol| dump.append(&symbol, &[])),
        }
    }
}

impl Profiler {
    /// Tells about code that was made while its module runs. Its tier is part of the name.
    pub(crate) fn compiled(&self, module: &LoadedModule, address: usize) -> io::Result<()> {
        let Some((tiered, blob)) = module.tiered().and_then(|tiered| Some((tiered, tiered.find(address)?))) else { return Ok(()) };
        let tier = match blob.kind {
            BlobKind::Baseline => BASELINE,
            BlobKind::Optimized => OPTIMIZED,
            BlobKind::LoopEntry => "optimized, from a loop on",
        };
        let name = format!("{} [{tier}]", gdb_elf::name(module, module.module().func_index(blob.function)));
        let symbol = Symbol { name: &name, address: blob.start, code: tiered.code_of(blob) };
        match self {
            Self::Map(map) => map.append([symbol]),
            Self::Dump(dump) => dump.append(&symbol, &[]),
        }
    }
}

/// The dump of the process: engines share it, since the file's name is fixed.
fn shared_dump() -> io::Result<Arc<JitDump>> {
    static DUMP: Mutex<Weak<JitDump>> = Mutex::new(Weak::new());
    let mut dump = DUMP.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = dump.upgrade() {
        return Ok(open);
    }
    let created = Arc::new(JitDump::create()?);
    *dump = Arc::downgrade(&created);
    Ok(created)
}
