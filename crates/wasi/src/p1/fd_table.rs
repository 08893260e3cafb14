//! The guest's descriptors: what is open under which number, and what may be done with it.
//!
//! Rights are kept and enforced, with one leniency that the field's programs count on: a descriptor that is opened gets every right that
//! applies to it and that its directory passes on; of what the guest asks, only reading and writing decide. `fd_fdstat_set_rights` takes
//! rights away for good.

use super::types::{Errno, FdFlags, Rights};
use crate::host::dir::Dir;
use crate::host::file::{File, FileKind, Metadata};
use crate::host::socket::{Role, Socket};
use crate::host::stdio::{InputStream, OutputStream, Stream};

/// What a descriptor stands for.
pub(crate) enum Object {
    File(File),
    Dir(Dir),
    Socket(Socket),
    Input(Box<dyn InputStream>),
    Output(Box<dyn OutputStream>),
}

/// One open descriptor.
pub(crate) struct Entry {
    pub(crate) object: Object,
    pub(crate) base: Rights,
    pub(crate) inheriting: Rights,
    /// The guest's name for a granted directory.
    pub(crate) preopen: Option<Box<str>>,
}

impl Entry {
    /// A descriptor with every right that applies to it.
    pub(crate) fn new(object: Object) -> Self {
        let (base, inheriting) = match &object {
            Object::File(file) => {
                let rights = if file.is_seekable() { Rights::FILE } else { Rights::FILE - Rights::NEEDS_POSITION };
                (rights, rights)
            }
            Object::Dir(_) => (Rights::DIRECTORY, Rights::DIRECTORY | Rights::FILE),
            Object::Socket(socket) => match socket.role() {
                Role::Connection => (Rights::CONNECTION, Rights::CONNECTION),
                Role::Listener => (Rights::LISTENER, Rights::CONNECTION),
            },
            Object::Input(_) => (Rights::FD_READ | Rights::POLL_FD_READWRITE | Rights::FD_FILESTAT_GET, Rights::empty()),
            Object::Output(_) => (Rights::FD_WRITE | Rights::POLL_FD_READWRITE | Rights::FD_FILESTAT_GET, Rights::empty()),
        };
        Entry { object, base, inheriting, preopen: None }
    }

    /// A standard stream, of which only `right` (to read or to write) is granted; nothing that changes a file it may lead to.
    pub(crate) fn stream(stream: Stream, right: Rights) -> Self {
        let object = match stream {
            Stream::File(file) => Object::File(file),
            Stream::Input(stream) => Object::Input(stream),
            Stream::Output(stream) => Object::Output(stream),
        };
        let mut entry = Entry::new(object);
        let refused = Rights::FD_READ | Rights::NEEDS_WRITE | Rights::FD_FILESTAT_SET_TIMES;
        entry.base = (entry.base - refused) | right;
        entry.inheriting = Rights::empty();
        entry
    }

    /// A granted directory.
    pub(crate) fn preopen(dir: Dir, name: String) -> Self {
        Entry { preopen: Some(name.into_boxed_str()), ..Entry::new(Object::Dir(dir)) }
    }

    /// Whether the descriptor has all of `rights`.
    #[inline]
    pub(crate) fn require(&self, rights: Rights) -> Result<(), Errno> {
        if self.base.contains(rights) { Ok(()) } else { Err(self.lacking(rights)) }
    }

    /// Why `rights` are not there. What is not open for reading or writing is a bad descriptor, as POSIX has it, and so is a directory
    /// where a file is meant; what was taken away is not capable.
    #[cold]
    fn lacking(&self, rights: Rights) -> Errno {
        match &self.object {
            _ if rights.intersects(Rights::FD_READ | Rights::FD_WRITE) => Errno::Badf,
            Object::Dir(_) if !Rights::DIRECTORY.contains(rights) => Errno::Badf,
            Object::File(_) if !Rights::FILE.contains(rights) => Errno::Notdir,
            Object::File(file) if !file.is_seekable() && Rights::NEEDS_POSITION.intersects(rights) => Errno::Spipe,
            Object::Socket(_) | Object::Input(_) | Object::Output(_) if rights.intersects(Rights::NEEDS_POSITION) => Errno::Spipe,
            Object::Socket(_) | Object::Input(_) | Object::Output(_) if Rights::DIRECTORY.contains(rights) => Errno::Notdir,
            _ => Errno::Notcapable,
        }
    }

    /// What it is.
    #[inline]
    pub(crate) fn kind(&self) -> FileKind {
        match &self.object {
            Object::File(file) => file.kind(),
            Object::Dir(_) => FileKind::Directory,
            Object::Socket(_) => FileKind::StreamSocket,
            Object::Input(_) | Object::Output(_) => FileKind::Unknown,
        }
    }

    /// Its status flags.
    #[inline]
    pub(crate) fn flags(&self) -> FdFlags {
        match &self.object {
            Object::File(file) => file.status().into(),
            Object::Socket(socket) if socket.nonblock() => FdFlags::NONBLOCK,
            _ => FdFlags::empty(),
        }
    }

    /// What the system knows of it; of streams in memory, nothing.
    pub(crate) fn metadata(&self) -> Result<Metadata, Errno> {
        match &self.object {
            Object::File(file) => Ok(file.metadata()?),
            Object::Dir(dir) => Ok(dir.metadata()?),
            Object::Socket(socket) => Ok(socket.metadata()?),
            Object::Input(_) | Object::Output(_) => Ok(Metadata {
                device: 0,
                inode: 0,
                kind: FileKind::Unknown,
                links: 0,
                size: 0,
                accessed_ns: 0,
                modified_ns: 0,
                changed_ns: 0,
            }),
        }
    }
}

/// All descriptors of a guest. A number that is free is reused, lowest first.
pub(crate) struct FdTable {
    slots: Vec<Option<Entry>>,
    /// No slot below it is free.
    free_from: usize,
    open: usize,
    max_open: usize,
}

impl FdTable {
    /// No descriptors, and room for `max_open`.
    pub(crate) fn new(max_open: u32) -> Self {
        FdTable { slots: Vec::with_capacity(8), free_from: 0, open: 0, max_open: max_open.min(1 << 30) as usize }
    }

    /// Adds what the embedder granted, which the limit never refuses.
    pub(crate) fn grant(&mut self, entry: Entry) {
        self.max_open = self.max_open.max(self.open + 1);
        self.place(entry);
    }

    /// Whether one more can be opened. To be asked before the system opens something.
    ///
    /// # Errors
    /// `Mfile` at the limit.
    pub(crate) fn room(&self) -> Result<(), Errno> {
        if self.open < self.max_open { Ok(()) } else { Err(Errno::Mfile) }
    }

    /// Opens the lowest free descriptor.
    ///
    /// # Errors
    /// `Mfile` at the limit; `entry` is closed then.
    pub(crate) fn insert(&mut self, entry: Entry) -> Result<u32, Errno> {
        self.room()?;
        Ok(self.place(entry))
    }

    fn place(&mut self, entry: Entry) -> u32 {
        while self.slots.get(self.free_from).is_some_and(Option::is_some) {
            self.free_from += 1;
        }
        match self.slots.get_mut(self.free_from) {
            Some(slot) => *slot = Some(entry),
            None => self.slots.push(Some(entry)),
        }
        self.open += 1;
        // The limit is far below 2^32.
        self.free_from as u32
    }

    /// What is open under a number.
    #[inline]
    pub(crate) fn get(&self, fd: u32) -> Result<&Entry, Errno> {
        match self.slots.get(fd as usize) {
            Some(Some(entry)) => Ok(entry),
            _ => Err(Errno::Badf),
        }
    }

    /// What is open under a number, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, fd: u32) -> Result<&mut Entry, Errno> {
        match self.slots.get_mut(fd as usize) {
            Some(Some(entry)) => Ok(entry),
            _ => Err(Errno::Badf),
        }
    }

    /// The file under a number, if it has `rights`.
    pub(crate) fn file(&self, fd: u32, rights: Rights) -> Result<&File, Errno> {
        let entry = self.get(fd)?;
        entry.require(rights)?;
        match &entry.object {
            Object::File(file) => Ok(file),
            Object::Socket(_) | Object::Input(_) | Object::Output(_) => Err(Errno::Spipe),
            Object::Dir(_) => Err(Errno::Badf),
        }
    }

    /// The directory under a number, if it has `rights`.
    #[inline]
    pub(crate) fn dir(&self, fd: u32, rights: Rights) -> Result<&Dir, Errno> {
        let entry = self.get(fd)?;
        match &entry.object {
            Object::Dir(dir) => entry.require(rights).map(|()| dir),
            _ => Err(Errno::Notdir),
        }
    }

    /// The socket under a number, if it has `rights`.
    pub(crate) fn socket(&self, fd: u32, rights: Rights) -> Result<&Socket, Errno> {
        let entry = self.get(fd)?;
        match &entry.object {
            Object::Socket(socket) => entry.require(rights).map(|()| socket),
            _ => Err(Errno::Notsock),
        }
    }

    /// Closes a number.
    pub(crate) fn close(&mut self, fd: u32) -> Result<(), Errno> {
        let slot = self.slots.get_mut(fd as usize).ok_or(Errno::Badf)?;
        if slot.take().is_none() {
            return Err(Errno::Badf);
        }
        self.open -= 1;
        self.free_from = self.free_from.min(fd as usize);
        Ok(())
    }

    /// Moves what is open under `from` to `to`, which is closed by it. Both must be open; on an error nothing has changed.
    pub(crate) fn renumber(&mut self, from: u32, to: u32) -> Result<(), Errno> {
        self.get(to)?;
        self.get(from)?;
        if from != to {
            let entry = self.slots[from as usize].take();
            self.slots[to as usize] = entry;
            self.open -= 1;
            self.free_from = self.free_from.min(from as usize);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::stdio::Input;

    fn entry() -> Entry {
        Entry::stream(Input::Empty.open().unwrap_or_else(|error| panic!("{error}")), Rights::FD_READ)
    }

    #[test]
    fn the_lowest_free_number_is_reused() {
        let mut table = FdTable::new(4);
        assert_eq!((0..4).map(|_| table.insert(entry())).collect::<Vec<_>>(), [Ok(0), Ok(1), Ok(2), Ok(3)]);
        assert_eq!(table.insert(entry()), Err(Errno::Mfile));
        assert_eq!(table.close(2), Ok(()));
        assert_eq!(table.close(1), Ok(()));
        assert_eq!(table.close(1), Err(Errno::Badf));
        assert_eq!(table.insert(entry()), Ok(1));
        assert_eq!(table.insert(entry()), Ok(2));
        assert_eq!(table.renumber(0, 0), Ok(()));
        assert_eq!(table.renumber(3, 0), Ok(()));
        assert_eq!(table.renumber(3, 0), Err(Errno::Badf));
        assert_eq!(table.renumber(0, 3), Err(Errno::Badf));
        assert_eq!(table.renumber(0, u32::MAX), Err(Errno::Badf));
        assert_eq!(table.insert(entry()), Ok(3));
        assert_eq!(table.insert(entry()), Err(Errno::Mfile));
    }
}
