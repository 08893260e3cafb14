//! Standard streams: inherited descriptors, files of the embedder, and streams in memory.

use super::error::Error;
use super::file::File;
use rustix::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A stream that the embedder implements, for a guest to read. It is always taken to be ready.
pub trait InputStream: Send {
    /// Reads into `buffer`; the count of bytes, zero at the end.
    ///
    /// # Errors
    /// Whatever the guest shall see.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error>;
}

/// A stream that the embedder implements, for a guest to write. It is always taken to be ready.
pub trait OutputStream: Send {
    /// Writes from `buffer`; the count of bytes taken.
    ///
    /// # Errors
    /// Whatever the guest shall see.
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Error>;
}

/// Where a guest's standard input comes from.
#[derive(Default)]
pub enum Input {
    /// Nothing: at its end from the start.
    #[default]
    Empty,
    /// The standard input of this process.
    Inherit,
    /// A descriptor of the embedder's.
    Descriptor(OwnedFd),
    /// A stream that the embedder implements.
    Custom(Box<dyn InputStream>),
}

/// Where a guest's standard output or error goes.
#[derive(Default)]
pub enum Output {
    /// Nowhere.
    #[default]
    Discard,
    /// The same stream of this process.
    Inherit,
    /// A descriptor of the embedder's.
    Descriptor(OwnedFd),
    /// A stream that the embedder implements.
    Custom(Box<dyn OutputStream>),
}

/// A standard stream, ready for a guest.
pub enum Stream {
    /// A descriptor.
    File(File),
    /// To read from the embedder.
    Input(Box<dyn InputStream>),
    /// To write to the embedder.
    Output(Box<dyn OutputStream>),
}

impl Input {
    /// Opens the stream.
    ///
    /// # Errors
    /// What the system reports of a descriptor, as when this process has none.
    pub(crate) fn open(self) -> Result<Stream, Error> {
        Ok(match self {
            Input::Empty => Stream::Input(Box::new(MemoryInputPipe::new(""))),
            Input::Inherit => Stream::File(File::inherited(rustix::stdio::stdin())?),
            Input::Descriptor(fd) => Stream::File(File::stream(fd)?),
            Input::Custom(stream) => Stream::Input(stream),
        })
    }
}

impl Output {
    /// Opens the stream; `inherited` is that of this process.
    ///
    /// # Errors
    /// What the system reports of a descriptor, as when this process has none.
    pub(crate) fn open(self, inherited: rustix::fd::BorrowedFd<'static>) -> Result<Stream, Error> {
        Ok(match self {
            Output::Discard => Stream::Output(Box::new(Sink)),
            Output::Inherit => Stream::File(File::inherited(inherited)?),
            Output::Descriptor(fd) => Stream::File(File::stream(fd)?),
            Output::Custom(stream) => Stream::Output(stream),
        })
    }
}

/// Takes and forgets everything.
struct Sink;

impl OutputStream for Sink {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Error> {
        Ok(buffer.len())
    }
}

/// Bytes in memory for a guest to read. Clones share one position.
#[derive(Clone, Debug)]
pub struct MemoryInputPipe {
    state: Arc<Mutex<(Vec<u8>, usize)>>,
}

impl MemoryInputPipe {
    /// A stream of `bytes`.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        MemoryInputPipe { state: Arc::new(Mutex::new((bytes.as_ref().to_vec(), 0))) }
    }
}

impl InputStream for MemoryInputPipe {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut state = lock(&self.state);
        let (bytes, position) = &mut *state;
        let rest = &bytes[*position..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        *position += count;
        Ok(count)
    }
}

/// Bytes in memory that a guest wrote, up to a capacity. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct MemoryOutputPipe {
    capacity_bytes: usize,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl MemoryOutputPipe {
    /// A stream that takes `capacity_bytes` and then refuses with `NoSpace`.
    pub fn new(capacity_bytes: usize) -> Self {
        MemoryOutputPipe { capacity_bytes, bytes: Arc::default() }
    }

    /// What was written so far.
    pub fn contents(&self) -> Vec<u8> {
        lock(&self.bytes).clone()
    }
}

impl OutputStream for MemoryOutputPipe {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Error> {
        let mut bytes = lock(&self.bytes);
        let count = buffer.len().min(self.capacity_bytes.saturating_sub(bytes.len()));
        if count == 0 && !buffer.is_empty() {
            return Err(Error::NoSpace);
        }
        bytes.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// The lock guards plain bytes, which no panic leaves half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<MemoryInputPipe> for Input {
    fn from(pipe: MemoryInputPipe) -> Self {
        Input::Custom(Box::new(pipe))
    }
}

impl From<MemoryOutputPipe> for Output {
    fn from(pipe: MemoryOutputPipe) -> Self {
        Output::Custom(Box::new(pipe))
    }
}

macro_rules! from_descriptor {
    ($($owner:ty),*) => { $(
        impl From<$owner> for Input {
            fn from(owner: $owner) -> Self {
                Input::Descriptor(owner.into())
            }
        }

        impl From<$owner> for Output {
            fn from(owner: $owner) -> Self {
                Output::Descriptor(owner.into())
            }
        }
    )* };
}

from_descriptor!(OwnedFd, std::fs::File);
