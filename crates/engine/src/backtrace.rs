//! Backtraces of guests: the calls that were under way, newest first.

use crate::context::AsContext;
use crate::symbols;
use crate::vm::RawFrame;
use crate::{Engine, Module, vm};
use peregrine_wasm::Index;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::OnceLock;

/// The calls of guests that were under way at some moment, newest first. At most 256 are kept.
///
/// Errors of calls carry one:
///
/// ```
/// use peregrine::{Engine, Instance, Module, Store, Trap, WasmBacktrace};
///
/// let engine = Engine::default();
/// let module = Module::new(
///     &engine,
///     r#"(module $app (func $fail unreachable) (func $run (export "run") (call $fail)))"#,
/// )?;
/// let mut store = Store::new(&engine, ());
/// let run = Instance::new(&mut store, &module, &[])?.get_typed_func::<(), ()>(&mut store, "run")?;
/// let error = run.call(&mut store, ()).unwrap_err();
/// assert_eq!(error.downcast_ref::<Trap>(), Some(&Trap::UnreachableCodeReached));
/// let backtrace = error.downcast_ref::<WasmBacktrace>().unwrap();
/// assert_eq!(backtrace.frames().iter().map(|frame| frame.func_name().unwrap()).collect::<Vec<_>>(), ["fail", "run"]);
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Debug)]
pub struct WasmBacktrace {
    frames: Vec<FrameInfo>,
}

/// One call in a [`WasmBacktrace`].
#[derive(Debug)]
pub struct FrameInfo {
    module: Module,
    func_index: u32,
    func_name: Option<String>,
    /// Offset in the binary, and where the body begins there.
    module_offset: Option<usize>,
    func_start: usize,
    symbols: OnceLock<Vec<FrameSymbol>>,
}

/// A place in the source of a guest, from its DWARF sections. A call has several where the compiler inlined functions, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSymbol {
    pub(crate) name: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
}

impl WasmBacktrace {
    pub(crate) fn new(engine: &Engine, frames: Vec<RawFrame>) -> Self {
        let mut last: Option<Module> = None;
        let most = engine.config().backtrace_max_frames.map_or(usize::MAX, NonZeroUsize::get);
        let frames = frames.into_iter().take(most).map(|frame| {
            // Usually all frames are of one module.
            let module = match &last {
                Some(module) if std::sync::Arc::ptr_eq(module.loaded(), &frame.module) => module.clone(),
                _ => Module::of_loaded(engine, frame.module.clone()),
            };
            last = Some(module.clone());
            FrameInfo::new(module, &frame)
        });
        Self { frames: frames.collect() }
    }

    /// The calls that are under way in a store; empty if [`Config::wasm_backtrace`](crate::Config::wasm_backtrace) is off. For host
    /// functions.
    pub fn capture(store: impl AsContext) -> Self {
        let context = store.as_context();
        if context.engine().config().wasm_backtrace { Self::force_capture(context) } else { Self { frames: Vec::new() } }
    }

    /// The calls that are under way in a store, whatever the configuration.
    pub fn force_capture(store: impl AsContext) -> Self {
        let store = &store.as_context().0.opaque;
        Self::new(store.engine(), vm::backtrace(&store.vm))
    }

    /// The calls, newest first.
    pub fn frames(&self) -> &[FrameInfo] {
        &self.frames
    }

    /// Looks up the source places of all frames, a module's together: its DWARF sections are read once.
    fn resolve(&self) {
        let mut waiting: Vec<&FrameInfo> = self.frames.iter().filter(|frame| frame.symbols.get().is_none()).collect();
        while let Some(module) = waiting.first().map(|frame| frame.module.clone()) {
            let (now, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|frame| Module::same(&frame.module, &module));
            let places: Vec<_> = now.iter().map(|frame| frame.module_offset).collect();
            for (frame, symbols) in now.iter().zip(symbols::resolve(module.loaded(), &places)) {
                let _ = frame.symbols.set(symbols);
            }
            waiting = later;
        }
    }
}

impl FrameInfo {
    fn new(module: Module, frame: &RawFrame) -> Self {
        let loaded = module.loaded();
        let func_name = loaded.function_name(frame.function).map(str::to_owned);
        let functions = loaded.image_layout().map_or(&[][..], |layout| layout.functions(loaded.image_bytes()));
        let defined = loaded.module().defined_func_index(frame.function);
        let func_start = defined.and_then(|index| functions.get(index.as_usize())).map_or(0, |function| function.body_start.get() as usize);
        Self {
            func_index: frame.function.as_u32(),
            func_name,
            module_offset: frame.wasm_offset.map(|offset| offset as usize),
            func_start,
            symbols: OnceLock::new(),
            module,
        }
    }

    /// The index of the function in its module, imports included.
    pub fn func_index(&self) -> u32 {
        self.func_index
    }

    /// The module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// The name of the function, from the name section.
    pub fn func_name(&self) -> Option<&str> {
        self.func_name.as_deref()
    }

    /// Where in the binary, in bytes, if it is known.
    pub fn module_offset(&self) -> Option<usize> {
        self.module_offset
    }

    /// Where in the body of the function, in bytes, if it is known.
    pub fn func_offset(&self) -> Option<usize> {
        self.module_offset?.checked_sub(self.func_start)
    }

    /// Where the body of the function begins in the binary.
    pub(crate) fn func_start(&self) -> usize {
        self.func_start
    }

    /// Source places, innermost first; none if the module has no DWARF sections for the code, or
    /// [`Config::wasm_backtrace_details`](crate::Config::wasm_backtrace_details) is off. Looked up when first asked for.
    pub fn symbols(&self) -> &[FrameSymbol] {
        self.symbols.get_or_init(|| symbols::resolve(self.module.loaded(), &[self.module_offset]).pop().unwrap_or_default())
    }
}

impl FrameSymbol {
    /// The name of the function in the source.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The source file.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The line, from 1.
    pub fn line(&self) -> Option<u32> {
        self.line
    }

    /// The column, from 1.
    pub fn column(&self) -> Option<u32> {
        self.column
    }
}

/// The text that errors show:
///
/// ```text
/// error while executing at wasm backtrace:
///     0:  0x2a3 - app!allocate
///                     at src/heap.c:12:3
///     1:  0x1f0 - app!main
/// ```
impl fmt::Display for WasmBacktrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("error while executing at wasm backtrace:")?;
        self.resolve();
        for (position, frame) in self.frames.iter().enumerate() {
            write!(f, "\n  {position:>3}: ")?;
            match frame.module_offset {
                Some(offset) => write!(f, "{:>8}", format!("{offset:#x}"))?,
                None => write!(f, "{:>8}", "?")?,
            }
            write!(f, " - {}!", Escaped(frame.module.name().unwrap_or("<unknown>")))?;
            let symbols = frame.symbols();
            let fallback = || match frame.func_name() {
                Some(name) => symbols::demangle(name),
                None => format!("<wasm function {}>", frame.func_index),
            };
            if symbols.is_empty() {
                write!(f, "{}", Escaped(&fallback()))?;
            }
            for (depth, symbol) in symbols.iter().enumerate() {
                if depth > 0 {
                    write!(f, "\n              - ")?;
                }
                let name = symbol.name().map_or_else(fallback, symbols::demangle);
                write!(f, "{}", Escaped(&name))?;
                if let Some(file) = symbol.file() {
                    write!(f, "\n                    at {}", Escaped(file))?;
                    for number in [symbol.line, symbol.column].into_iter().map_while(|number| number) {
                        write!(f, ":{number}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl std::error::Error for WasmBacktrace {}

/// Text that a guest chose, safe to show: control characters, which terminals obey, are written as escapes.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Beside C0 and C1, those that change the direction of writing.
        let hidden = |character: char| {
            character.is_control() || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        for part in self.0.split_inclusive(hidden) {
            match part.chars().next_back().filter(|last| hidden(*last)) {
                Some(last) => write!(f, "{}{}", &part[..part.len() - last.len_utf8()], last.escape_default())?,
                None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}
