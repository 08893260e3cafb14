//! The binary of a module whose functions are compiled one by one: held, or in a file that is read when the first function is compiled.
//!
//! A module that the cache recognizes by its file needs its binary only for functions without code. The file is read as it was when the
//! module was made or not at all: its content has to have the hash that the cache knows it by.

use crate::cache::ContentHash;
use peregrine_artifact::compiler::{CompileError, WasmBytes};
use peregrine_sys::pages;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, OnceLock};

/// Where the binary of a module is.
pub(crate) enum Binary {
    /// In memory.
    Held(WasmBytes),
    /// In a file.
    InFile(FileBinary),
}

/// A binary in a file.
pub(crate) struct FileBinary {
    file: File,
    len_bytes: u64,
    content: ContentHash,
    read: OnceLock<Result<WasmBytes, CompileError>>,
}

impl Binary {
    /// The binary in `file`, of `len_bytes`, which is to have the hash `content`.
    pub(crate) fn in_file(file: File, len_bytes: u64, content: ContentHash) -> Self {
        Self::InFile(FileBinary { file, len_bytes, content, read: OnceLock::new() })
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or changed since the module was made.
    pub(crate) fn bytes(&self) -> Result<WasmBytes, CompileError> {
        match self {
            Self::Held(bytes) => Ok(Arc::clone(bytes)),
            Self::InFile(file) => file.read.get_or_init(|| file.read()).clone(),
        }
    }
}

impl FileBinary {
    fn read(&self) -> Result<WasmBytes, CompileError> {
        let unusable = |why: &str| CompileError::Unsupported { message: format!("the file of the module {why}; load the module again") };
        let len = usize::try_from(self.len_bytes).map_err(|_| unusable("is too long to be read"))?;
        let mut bytes = Vec::with_capacity(len.saturating_add(1));
        pages::prefer_huge_pages(bytes.spare_capacity_mut());
        let mut file = &self.file;
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(self.len_bytes).read_to_end(&mut bytes));
        read.map_err(|error| unusable(&format!("cannot be read: {error}")))?;
        if ContentHash::of(&bytes) != self.content {
            return Err(unusable("was changed in place since it was loaded"));
        }
        Ok(Arc::new(bytes))
    }
}
