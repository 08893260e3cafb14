//! The trait by which the engine asks for compilation without knowing any compiler.

use crate::allowance::Allowance;
use crate::func::CompiledFunc;
use crate::profile::Feedback;
use crate::settings::{Settings, Target};
use peregrine_wasm::{DefinedFuncIndex, Module};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// A compiler that is linked into a program: what the engine chooses from.
#[derive(Clone, Copy, Debug)]
pub struct CompilerEntry {
    /// Which compiler it is.
    pub kind: CompilerKind,
    /// Makes it.
    pub make: fn(&CompilerOptions) -> Arc<dyn Compiler>,
}

/// Which compiler makes code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CompilerKind {
    /// The one that makes fast code.
    #[default]
    Optimizing,
    /// The one that makes code fast.
    Baseline,
}

/// How a compiler works. Who runs a program does not see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompilerOptions {
    /// How many threads it uses; `None` means as many as the machine has.
    pub threads: Option<NonZeroUsize>,
    /// Whether the baseline makes all code in the way that it has for bodies which would become too much: for tests.
    pub plain: bool,
}

/// From WebAssembly to images. Implemented above the engine; the engine holds it as a trait object and works without one too (images only).
pub trait Compiler: Send + Sync + 'static {
    /// What code may be made for: `None` means this machine with all its features, a triple its baseline features.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unsupported`] if code cannot be made for the target.
    fn target(&self, triple: Option<&str>) -> Result<Target, CompileError>;

    /// The same compiler, which takes no more than `allowance` for each module, from `allowance`'s beginning on. `None` if it has no limits
    /// of this kind.
    fn within(&self, allowance: &Allowance) -> Option<Arc<dyn Compiler>> {
        let _ = allowance;
        None
    }

    /// The binary format of `bytes`: as they are if they are binary, translated if they are text.
    ///
    /// # Errors
    ///
    /// [`CompileError::Invalid`] with the place if the text has errors.
    fn to_binary<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, CompileError>;

    /// Checks the binary module `wasm`, bodies included, without compiling it.
    ///
    /// # Errors
    ///
    /// [`CompileError::Invalid`] with the offset, or [`CompileError::Limit`].
    fn validate(&self, wasm: &[u8], settings: &Settings) -> Result<(), CompileError>;

    /// Compiles the binary module `wasm` to the bytes of an image.
    ///
    /// # Errors
    ///
    /// Any [`CompileError`].
    fn compile(&self, wasm: &[u8], settings: &Settings, progress: &dyn Progress) -> Result<Vec<u8>, CompileError>;

    /// [`compile`](Self::compile), with guesses of how the functions will run. They change how fast code is, and nothing else.
    ///
    /// # Errors
    ///
    /// As there.
    fn compile_guided(
        &self,
        wasm: &[u8],
        settings: &Settings,
        guidance: &Guidance,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, CompileError> {
        let _ = guidance;
        self.compile(wasm, settings, progress)
    }

    /// Makes an image of the binary module `wasm` that has everything but the code of functions, and validates the bodies as `validation`
    /// says. `settings` ask for some [`Tiering`](crate::settings::Tiering).
    ///
    /// # Errors
    ///
    /// Any [`CompileError`].
    fn prepare(&self, wasm: &[u8], settings: &Settings, validation: Validation) -> Result<Vec<u8>, CompileError> {
        let _ = (wasm, settings, validation);
        Err(CompileError::Unsupported { message: "this compiler compiles whole modules only".into() })
    }

    /// [`prepare`](Self::prepare), together with [`lazy_functions`](Self::lazy_functions): the module is read once.
    ///
    /// # Errors
    ///
    /// As those.
    fn prepare_functions(&self, wasm: WasmBytes, settings: &Settings, validation: Validation) -> Result<Prepared, CompileError> {
        let image = self.prepare((*wasm).as_ref(), settings, validation)?;
        Ok(Prepared { image, functions: self.lazy_functions(wasm, settings, validation)? })
    }

    /// [`prepare`](Self::prepare) with all bodies validated, for a module that is read in pieces and never held as a whole. `None` if it has to be
    /// read as a whole, which will say what is wrong with it if anything is.
    ///
    /// # Errors
    ///
    /// As there.
    fn prepare_pieces(&self, source: &dyn ReadWasm, settings: &Settings) -> Result<Option<Vec<u8>>, CompileError> {
        let _ = (source, settings);
        Ok(None)
    }

    /// An image as `image`, which was made with some [`Tiering`](crate::settings::Tiering), in which `functions`, by rising index, have the
    /// code given here, whatever they had. Functions whose code refers to the address of another function stay as they were. Code of `first`
    /// comes first, in that order.
    ///
    /// # Errors
    ///
    /// [`CompileError::Limit`] if the code is too large, [`CompileError::Invalid`] if `image` is damaged.
    fn add_functions(
        &self,
        image: &[u8],
        functions: &[(DefinedFuncIndex, Arc<CompiledFunc>)],
        first: &[DefinedFuncIndex],
    ) -> Result<Vec<u8>, CompileError> {
        let _ = (image, functions, first);
        Err(CompileError::Unsupported { message: "this compiler compiles whole modules only".into() })
    }

    /// What compiles functions of the binary module `wasm`, which was prepared with the same settings before, in this process or another one.
    /// Only [`Validation::Deferred`] validates.
    ///
    /// # Errors
    ///
    /// Any [`CompileError`].
    fn lazy_functions(&self, wasm: WasmBytes, settings: &Settings, validation: Validation) -> Result<Arc<dyn LazyFunctions>, CompileError> {
        let _ = (wasm, settings, validation);
        Err(CompileError::Unsupported { message: "this compiler compiles whole modules only".into() })
    }

    /// [`lazy_functions`](Self::lazy_functions) of a module that was found valid before, without its binary: bodies are asked for when they
    /// are compiled.
    ///
    /// # Errors
    ///
    /// As there.
    fn lazy_functions_of(&self, module: ValidModule, settings: &Settings) -> Result<Arc<dyn LazyFunctions>, CompileError> {
        let _ = (module, settings);
        Err(CompileError::Unsupported { message: "this compiler compiles whole modules only".into() })
    }
}

/// A module that was found valid, as an image describes it, and a way to its bodies.
pub struct ValidModule {
    /// The description. Where data segments and custom sections are does not matter, nor whether all data segments are there.
    pub module: Module,
    /// Where the body of each defined function begins in the binary, in bytes, rising.
    pub body_starts: Box<[u32]>,
    /// Where the last one ends.
    pub bodies_end: usize,
    /// Length of the binary, in bytes.
    pub wasm_len_bytes: usize,
    /// What reads bodies.
    pub bodies: Box<dyn ReadBody>,
}

/// Reads bodies of functions out of the binary of a module, from any thread.
pub trait ReadBody: Send + Sync + 'static {
    /// The body of a function: locals and instructions, as they were when the module was found valid. It begins at the offset `start` of the
    /// binary and ends before the offset `end`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not as it was.
    fn read_body(&self, start: u32, end: u32) -> Result<Box<[u8]>, CompileError>;
}

/// Reads the binary of a module in pieces, from any thread.
pub trait ReadWasm: Sync {
    /// Length of the binary, in bytes.
    fn len_bytes(&self) -> usize;

    /// Fills `into` with the bytes from `offset` on, which are within the binary.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), CompileError>;

    /// Told of bodies that were found valid, and where they begin in the binary, in bytes: nothing else may be compiled there later.
    fn found_valid(&self, _bodies: &mut dyn Iterator<Item = (u32, &[u8])>) {}
}

/// The binary of a module, kept for as long as functions of it may be compiled.
pub type WasmBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A module that can run as soon as functions of it are compiled.
pub struct Prepared {
    /// The image, with everything but the code of functions.
    pub image: Vec<u8>,
    /// What compiles its functions.
    pub functions: Arc<dyn LazyFunctions>,
}

/// When the bodies of a module that is compiled function by function are validated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validation {
    /// All of them at once, in parallel, before anything of the module runs.
    #[default]
    Complete,
    /// Each when it is first compiled: an invalid body is found when it is called, not when the module is made.
    Deferred,
    /// None: the same bytes were found valid before, with the same settings.
    Trusted,
}

/// What is to be compiled of one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionRequest {
    /// The function.
    pub function: DefinedFuncIndex,
    /// The tier that compiles it. A function that one tier does not take is compiled by the other.
    pub tier: CompilerKind,
    /// The loop to enter it at: the code has the signature of a loop entry, see [`crate::abi`]. The optimizing tier only.
    pub loop_entry: Option<LoopEntry>,
}

/// A loop that code of the baseline is in, to go on there with other code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoopEntry {
    /// Where the `loop` operator is, in bytes from the start of the body.
    pub offset: u32,
    /// Where the values are: see [`crate::builtins::pack_homes`].
    pub homes: u32,
}

/// Compiles functions of one module, one at a time, from any thread.
pub trait LazyFunctions: Send + Sync + 'static {
    /// Does what is done once for all functions, and would otherwise be done with the first: reads the module.
    ///
    /// # Errors
    ///
    /// As [`compile`](Self::compile).
    fn prepare(&self) -> Result<(), CompileError> {
        Ok(())
    }

    /// Compiles one function.
    ///
    /// # Errors
    ///
    /// [`CompileError::Invalid`] if validation was deferred and the body is invalid, [`CompileError::Limit`] if no tier takes the function,
    /// [`CompileError::Unsupported`] if there is no entry at that loop.
    fn compile(&self, request: &FunctionRequest) -> Result<CompiledFunc, CompileError>;

    /// [`compile`](Self::compile), guided. What the code means does not depend on it.
    ///
    /// # Errors
    ///
    /// As there.
    fn compile_guided(&self, request: &FunctionRequest, guidance: &Guidance) -> Result<CompiledFunc, CompileError> {
        let _ = guidance;
        self.compile(request)
    }

    /// Said in a child process after a fork, before any function is compiled there: threads of the parent that were compiling are not there, and
    /// what they took of what compilations share nobody gives back.
    fn forget_compiling(&self) {}
}

/// What is to be learnt from code, and what was learnt for it.
#[derive(Clone, Default)]
pub struct Guidance {
    /// Whether code of the baseline counts where its indirect and reference calls go, with
    /// [`Tiering::Counted`](crate::settings::Tiering::Counted). It has [`CompiledFunc::sites`] then.
    pub record: bool,
    /// How the functions ran, if that is known.
    pub feedback: Option<Arc<dyn Feedback>>,
}

impl fmt::Debug for Guidance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guidance").field("record", &self.record).field("feedback", &self.feedback.is_some()).finish()
    }
}

/// Told how compilation goes on; called from several threads.
pub trait Progress: Sync {
    /// `done` of `total` bytes of function bodies are compiled.
    fn compiled(&self, done_bytes: u64, total_bytes: u64);
}

/// Nobody wants to know.
impl Progress for () {
    fn compiled(&self, _done_bytes: u64, _total_bytes: u64) {}
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// The module is malformed or invalid.
    Invalid {
        /// What is wrong.
        message: String,
        /// Where in the binary, in bytes; where in the text is part of `message`.
        offset: Option<usize>,
    },
    /// The module is larger or costlier than a limit allows.
    Limit {
        /// The limit, what it allows and what was found.
        message: String,
    },
    /// The settings or the target ask for what there is not.
    Unsupported {
        /// What there is not.
        message: String,
    },
    /// The binary of the module, which is read when functions are compiled, cannot be read now. It may go well the next time.
    Unreadable {
        /// What was read, and what the system said.
        message: String,
    },
    /// A fault of the compiler itself, reported instead of a panic.
    Internal {
        /// Where and what.
        message: String,
    },
}

impl CompileError {
    /// An invalid module, at an offset of the binary.
    pub fn invalid(message: impl Into<String>, offset: usize) -> Self {
        Self::Invalid { message: message.into(), offset: Some(offset) }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { message, offset: Some(offset) } => write!(f, "invalid module: {message} (at offset {offset:#x})"),
            Self::Invalid { message, offset: None } => write!(f, "invalid module: {message}"),
            Self::Limit { message } => write!(f, "limit exceeded: {message}"),
            Self::Unsupported { message } => write!(f, "unsupported: {message}"),
            Self::Unreadable { message } => write!(f, "unreadable: {message}"),
            Self::Internal { message } => write!(f, "internal compiler error: {message}"),
        }
    }
}

impl std::error::Error for CompileError {}
