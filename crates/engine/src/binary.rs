//! The binary of a module whose functions are compiled one by one: held, or in a file that is read when the first function is compiled.
//!
//! A module that the cache recognizes by its file needs its binary only for functions without code, and so does one whose bodies were validated
//! piece by piece. Of one that was found valid, only their bodies are read, as long as the file is in the state that it was recognized or
//! validated in once they are read: changes before that would show too. The whole file is read as it was when the module was made or not at
//! all: its content has to have the hash that it was known or read by.
//!
//! Times do not tell of writes through a mapping. So bodies are read alone only from files that nobody else may write to, and a body that was
//! validated on its way has to have the hash that it had then.

use crate::file_pieces::{Content, ValidBodies};
use crate::verified::Identity;
use peregrine_artifact::compiler::{CompileError, ReadBody, WasmBytes};
use peregrine_sys::{file, pages};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes that the size of a body takes at most. Core specification, section 5.2.2.
const MAX_SIZE_BYTES: usize = 5;
/// Bytes of a body that are read with its size.
const FIRST_BYTES: usize = 4 << 10;
/// What a body ends with. Core specification, section 5.4.9.
const END: u8 = 0x0b;

/// How many files are open for modules at most, in the process. The files of others are read when they are loaded.
const MAX_OPEN: usize = 64;
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Counts a file that is open for a module.
struct OpenFile;

impl OpenFile {
    fn new() -> Option<Self> {
        let one_more = |open: usize| (open < MAX_OPEN).then_some(open + 1);
        OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads a file from its start, whatever its own position is.
struct FromStart<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Where the binary of a module is.
#[derive(Clone)]
pub(crate) enum Binary {
    /// In memory.
    Held(WasmBytes),
    /// In a file.
    InFile(Arc<FileBinary>),
}

/// A binary in a file, and the state that the file was in when it was recognized or read.
pub(crate) struct FileBinary {
    file: File,
    identity: Identity,
    content: Content,
    /// Whether nobody else may write to it.
    is_own: bool,
    /// The bodies that were validated while it was read in pieces. Not there if the cache says that all are valid.
    valid: OnceLock<ValidBodies>,
    whole: OnceLock<WasmBytes>,
    _open: OpenFile,
    bodies_read: AtomicU64,
}

/// Bodies in a file.
struct FileBodies(Arc<FileBinary>);

/// Bodies in memory.
struct HeldBodies(WasmBytes);

impl Binary {
    /// The binary in `file` in the state `identity`, whose content is to be `content`. `None` if too many files are open for modules.
    pub(crate) fn in_file(file: File, identity: Identity, content: Content) -> Option<Self> {
        let _open = OpenFile::new()?;
        let (is_own, bodies_read) = (file::is_own(&file), AtomicU64::new(0));
        let (valid, whole) = (OnceLock::new(), OnceLock::new());
        Some(Self::InFile(Arc::new(FileBinary { file, identity, content, is_own, valid, whole, bodies_read, _open })))
    }

    /// No other bodies than these are read from the file from now on.
    pub(crate) fn set_valid(&self, bodies: ValidBodies) {
        if let Self::InFile(file) = self {
            // They are set once, before any is read.
            let _ = file.valid.set(bodies);
        }
    }

    /// What reads bodies of functions one by one, without the rest.
    pub(crate) fn bodies(&self) -> Box<dyn ReadBody> {
        match self {
            Self::Held(bytes) => Box::new(HeldBodies(Arc::clone(bytes))),
            Self::InFile(file) => Box::new(FileBodies(Arc::clone(file))),
        }
    }

    /// How many bodies were read from a file one by one, and how often the whole file was.
    pub(crate) fn reads(&self) -> (u64, u64) {
        match self {
            Self::Held(_) => (0, 0),
            Self::InFile(file) => (file.bodies_read.load(Ordering::Relaxed), u64::from(file.whole.get().is_some())),
        }
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or changed since the module was made.
    pub(crate) fn bytes(&self) -> Result<WasmBytes, CompileError> {
        match self {
            Self::Held(bytes) => Ok(Arc::clone(bytes)),
            Self::InFile(file) => file.bytes(),
        }
    }
}

impl FileBinary {
    fn bytes(&self) -> Result<WasmBytes, CompileError> {
        if let Some(whole) = self.whole.get() {
            return Ok(Arc::clone(whole));
        }
        // What fails may go well the next time.
        let read = self.read()?;
        Ok(Arc::clone(self.whole.get_or_init(|| read)))
    }

    fn read(&self) -> Result<WasmBytes, CompileError> {
        let len_bytes = self.identity.len_bytes();
        let len = usize::try_from(len_bytes).map_err(|_| unusable("is too long to be read"))?;
        let mut bytes = Vec::with_capacity(len.saturating_add(1));
        pages::prefer_huge_pages(bytes.spare_capacity_mut());
        // Others may read from the same open file.
        let read = FromStart { file: &self.file, offset: 0 }.take(len_bytes).read_to_end(&mut bytes);
        read.map_err(|error| CompileError::Unreadable { message: format!("the file of the module cannot be read: {error}") })?;
        if !self.content.is_of(&bytes) {
            return Err(changed());
        }
        Ok(Arc::new(bytes))
    }
}

#[cold]
fn unusable(why: &str) -> CompileError {
    CompileError::Unsupported { message: format!("the file of the module {why}; load the module again") }
}

#[cold]
fn changed() -> CompileError {
    unusable("was changed in place since it was loaded")
}

impl FileBinary {
    /// Whether a body is one that was validated.
    fn is_valid(&self, start: u32, body: &[u8]) -> bool {
        self.valid.get().is_none_or(|valid| valid.has(start, body))
    }

    /// Whether the file is as it was. A write to it after it was recognized shows.
    fn is_unchanged(&self) -> bool {
        Identity::of(&self.file).is_some_and(|now| now.is_same(&self.identity))
    }

    /// A body, if the file is as it was.
    fn read_unchanged(&self, start: u32, end: u32) -> Option<Box<[u8]>> {
        // The size stands before the body. Most bodies come along with it.
        let before = start.checked_sub(MAX_SIZE_BYTES as u32)?;
        let mut read = vec![0; MAX_SIZE_BYTES + (end.saturating_sub(start) as usize).min(FIRST_BYTES)];
        self.file.read_exact_at(&mut read, before.into()).ok()?;
        let len = body_len(read.first_chunk()?).filter(|len| *len > 0 && *len <= end.saturating_sub(start))? as usize;
        let already = read.len().min(MAX_SIZE_BYTES + len);
        let mut body = Vec::with_capacity(len);
        body.extend_from_slice(&read[MAX_SIZE_BYTES..already]);
        if body.len() < len {
            let rest = body.len();
            body.resize(len, 0);
            self.file.read_exact_at(&mut body[rest..], u64::from(start) + rest as u64).ok()?;
        }
        (body.last() == Some(&END) && self.is_valid(start, &body) && self.is_unchanged()).then(|| body.into_boxed_slice())
    }
}

impl ReadBody for FileBodies {
    fn read_body(&self, start: u32, end: u32) -> Result<Box<[u8]>, CompileError> {
        let Self(file) = self;
        if file.is_own
            && file.whole.get().is_none()
            && let Some(body) = file.read_unchanged(start, end)
        {
            file.bodies_read.fetch_add(1, Ordering::Relaxed);
            return Ok(body);
        }
        // What changed may be no more than its name. Only the whole content shows that.
        let body = body_in((*file.bytes()?).as_ref(), start, end)?;
        if file.is_valid(start, &body) { Ok(body) } else { Err(changed()) }
    }
}

impl ReadBody for HeldBodies {
    fn read_body(&self, start: u32, end: u32) -> Result<Box<[u8]>, CompileError> {
        body_in((*self.0).as_ref(), start, end)
    }
}

/// A body in a binary that is as it was.
fn body_in(wasm: &[u8], start: u32, end: u32) -> Result<Box<[u8]>, CompileError> {
    let start_at = start as usize;
    let size = start_at.checked_sub(MAX_SIZE_BYTES).and_then(|before| wasm.get(before..start_at)?.first_chunk());
    let len = size.and_then(body_len).filter(|len| *len > 0 && *len <= end.saturating_sub(start));
    let body = len.and_then(|len| wasm.get(start_at..start_at + len as usize)).filter(|body| body.last() == Some(&END));
    body.map(Into::into).ok_or_else(|| CompileError::Internal { message: format!("there is no body at offset {start:#x}") })
}

/// The size that ends with the last of these bytes, in LEB128. The byte before it has no sign that more come: it ends another body, or the
/// number of bodies.
fn body_len(bytes: &[u8; MAX_SIZE_BYTES]) -> Option<u32> {
    let (last, others) = bytes.split_last()?;
    if last & 0x80 != 0 {
        return None;
    }
    let more = others.iter().rev().take_while(|byte| **byte & 0x80 != 0);
    let len = more.fold(u64::from(*last), |len, byte| len << 7 | u64::from(byte & 0x7f));
    u32::try_from(len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_their_end() {
        assert_eq!(body_len(&[0x80, 0x80, 0x80, 0x0b, 0x05]), Some(5));
        assert_eq!(body_len(&[0x80, 0x80, 0x0b, 0x85, 0x01]), Some(0x85));
        assert_eq!(body_len(&[0x85, 0x80, 0x80, 0x80, 0x00]), Some(5));
        assert_eq!(body_len(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Some(u32::MAX));
        assert_eq!(body_len(&[0xff, 0xff, 0xff, 0xff, 0x7f]), None);
        assert_eq!(body_len(&[0x0b, 0x0b, 0x0b, 0x0b, 0x80]), None);
    }
}
