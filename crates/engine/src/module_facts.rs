//! What a module says about itself beyond its imports and exports: its functions, what an instance needs, and other ways to load it.

use crate::error::{Context, Result, bail};
use crate::module_file::read_within;
use crate::{Engine, Module};
use peregrine_wasm::FuncIndex;
use std::path::Path;

/// The number of a module in a compilation. Every compilation is of one module, number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StaticModuleIndex(u32);

impl StaticModuleIndex {
    /// Module number `number`.
    pub const fn from_u32(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

/// A function of a module. See [`Module::functions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFunction {
    /// The module that it belongs to.
    pub module: StaticModuleIndex,
    /// Its index, imports included.
    pub index: FuncIndex,
    /// Its name, from the name section.
    pub name: Option<String>,
    /// Where its code begins in [`Module::text`], in bytes.
    pub offset: usize,
    /// The length of its code in bytes, 0 if it has none there.
    pub len: usize,
}

/// What an instance needs of a store. See [`Module::resources_required`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcesRequired {
    /// Memories that it makes.
    pub num_memories: u32,
    /// The largest of their sizes at first, in pages.
    pub max_initial_memory_size: Option<u64>,
    /// Tables that it makes.
    pub num_tables: u32,
    /// The largest of their sizes at first, in elements.
    pub max_initial_table_size: Option<u64>,
}

impl Module {
    /// The functions that the module defines, by rising index. Where functions are compiled one by one, as by default, they have no code in
    /// [`text`](Self::text): their lengths are 0. Serialized and loaded again, or compiled as a whole, they do.
    ///
    /// ```
    /// use peregrine::{Engine, Module};
    ///
    /// let module = Module::new(&Engine::default(), r#"(module (import "" "" (func)) (func $first) (func))"#)?;
    /// let functions: Vec<_> = module.functions().map(|function| (function.index.as_u32(), function.name)).collect();
    /// assert_eq!(functions, [(1, Some("first".to_owned())), (2, None)]);
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn functions(&self) -> impl ExactSizeIterator<Item = ModuleFunction> + '_ {
        let loaded = self.loaded();
        let imported = loaded.module().imported_functions;
        let functions = loaded.image_layout().map_or(&[][..], |layout| layout.functions(loaded.image_bytes()));
        functions.iter().enumerate().map(move |(position, function)| {
            let index = FuncIndex::from_u32(imported + position as u32);
            ModuleFunction {
                module: StaticModuleIndex(0),
                index,
                name: loaded.function_name(index).map(str::to_owned),
                offset: function.code_start.get() as usize,
                len: function.code_len.get() as usize,
            }
        })
    }

    /// What each instance needs of a store, beyond what it imports.
    ///
    /// ```
    /// use peregrine::{Engine, Module};
    ///
    /// let module = Module::new(&Engine::default(), "(module (memory 3) (table 5 funcref) (table 7 funcref))")?;
    /// let required = module.resources_required();
    /// assert_eq!((required.num_memories, required.max_initial_memory_size), (1, Some(3)));
    /// assert_eq!((required.num_tables, required.max_initial_table_size), (2, Some(7)));
    /// # Ok::<(), peregrine::Error>(())
    /// ```
    pub fn resources_required(&self) -> ResourcesRequired {
        let module = self.loaded().module();
        let memories: Vec<u64> = module.memories.iter().skip(module.imported_memories as usize).map(|(_, ty)| ty.min_pages).collect();
        let tables: Vec<u64> = module.tables.iter().skip(module.imported_tables as usize).map(|(_, table)| table.ty.min).collect();
        ResourcesRequired {
            num_memories: memories.len() as u32,
            max_initial_memory_size: memories.iter().copied().max(),
            num_tables: tables.len() as u32,
            max_initial_table_size: tables.iter().copied().max(),
        }
    }

    /// Accepted for compatibility and without meaning: what instances share of a module is made ready when it is loaded.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn initialize_copy_on_write_image(&self) -> Result<()> {
        Ok(())
    }
}

/// Compiles a module from bytes or a file, step by step. [`Module::new`] does the same at once.
///
/// ```
/// use peregrine::{CodeBuilder, Engine};
///
/// let engine = Engine::default();
/// let module = CodeBuilder::new(&engine).wasm_binary_or_text(b"(module $calc)", None)?.compile_module()?;
/// assert_eq!(module.name(), Some("calc"));
/// # Ok::<(), peregrine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CodeBuilder<'a> {
    engine: &'a Engine,
    wasm: Option<std::borrow::Cow<'a, [u8]>>,
}

/// What bytes to be compiled look like. See [`CodeBuilder::hint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeHint {
    /// A module.
    Module,
    /// A component, which this crate does not run.
    Component,
}

impl<'a> CodeBuilder<'a> {
    /// Nothing to compile yet.
    pub fn new(engine: &'a Engine) -> Self {
        Self { engine, wasm: None }
    }

    fn set(&mut self, wasm: std::borrow::Cow<'a, [u8]>) -> Result<&mut Self> {
        if self.wasm.is_some() {
            bail!("a module was given already");
        }
        self.wasm = Some(wasm);
        Ok(self)
    }

    /// The content of a file, unless it is larger than the engine's budget allows.
    fn read(&self, file: &Path) -> Result<Vec<u8>> {
        let read = || read_within(&self.engine.config().budget, std::fs::File::open(file)?);
        read().with_context(|| format!("failed to read `{}`", file.display()))
    }

    /// A module in the binary format, unless it is larger than the engine's budget allows.
    fn to_binary<'b>(&self, bytes: &'b [u8]) -> Result<std::borrow::Cow<'b, [u8]>> {
        self.engine.config().budget.check_bytes(bytes)?;
        Ok(self.engine.compiler()?.to_binary(bytes)?)
    }

    /// Gives a module in the binary format. `wasm_path`, where it comes from, is not used.
    ///
    /// # Errors
    ///
    /// If a module was given already.
    pub fn wasm_binary(&mut self, wasm_bytes: impl Into<std::borrow::Cow<'a, [u8]>>, wasm_path: Option<&'a Path>) -> Result<&mut Self> {
        let _ = wasm_path;
        self.set(wasm_bytes.into())
    }

    /// Gives a module in the binary or the text format. `wasm_path`, where it comes from, is named by errors.
    ///
    /// # Errors
    ///
    /// If a module was given already, the text is malformed, or there is more than [`Budget::module_bytes`](crate::Budget::module_bytes).
    pub fn wasm_binary_or_text(&mut self, wasm_bytes: &'a [u8], wasm_path: Option<&'a Path>) -> Result<&mut Self> {
        let binary = self.to_binary(wasm_bytes);
        let binary = match wasm_path {
            Some(path) => binary.with_context(|| format!("failed to parse `{}`", path.display()))?,
            None => binary?,
        };
        self.set(binary)
    }

    /// Gives the content of a file, a module in the binary format.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is larger than [`Budget::module_bytes`](crate::Budget::module_bytes), or a module was given already.
    pub fn wasm_binary_file(&mut self, file: &'a Path) -> Result<&mut Self> {
        let bytes = self.read(file)?;
        self.set(bytes.into())
    }

    /// Gives the content of a file, a module in the binary or the text format.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is larger than [`Budget::module_bytes`](crate::Budget::module_bytes), the text is malformed, or a module was given
    /// already.
    pub fn wasm_binary_or_text_file(&mut self, file: &'a Path) -> Result<&mut Self> {
        let bytes = self.read(file)?;
        let binary = self.to_binary(&bytes).with_context(|| format!("failed to parse `{}`", file.display()))?.into_owned();
        self.set(binary.into())
    }

    /// What the bytes look like, by their header.
    pub fn hint(&self) -> Option<CodeHint> {
        match self.wasm.as_deref()?.get(..8)? {
            [b'\0', b'a', b's', b'm', 1, 0, 0, 0] => Some(CodeHint::Module),
            [b'\0', b'a', b's', b'm', _, _, 1, 0] => Some(CodeHint::Component),
            _ => None,
        }
    }

    fn given(&self) -> Result<&[u8]> {
        self.wasm.as_deref().context("no module was given to compile")
    }

    /// Compiles to the bytes of an image, as [`Engine::precompile_module`].
    ///
    /// # Errors
    ///
    /// As there, and if no module was given.
    pub fn compile_module_serialized(&self) -> Result<Vec<u8>> {
        self.engine.precompile_module(self.given()?)
    }

    /// Compiles and loads, as [`Module::new`].
    ///
    /// # Errors
    ///
    /// As there, and if no module was given.
    pub fn compile_module(&self) -> Result<Module> {
        Module::from_binary(self.engine, self.given()?)
    }
}
