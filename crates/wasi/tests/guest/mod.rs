//! A guest without WebAssembly: a context, a memory of its own and a scratch directory. The tests call the functions of preview 1 through
//! the one table, as the linker's glue does.

#![allow(dead_code, reason = "each test file uses a part")]

use peregrine_wasi::p1::table::Function;
use peregrine_wasi::p1::types::Rights;
use peregrine_wasi::p1::{Errno, GuestMemory};
use peregrine_wasi::{DirPerms, FilePerms, MemoryOutputPipe, WasiCtxBuilder, WasiP1Ctx};
use std::path::Path;

/// The first granted directory.
pub const DIR: u32 = 3;
/// Size of the memory.
pub const MEMORY_LEN: u32 = 512 * 1024;
/// Where results are written.
pub const OUT: u32 = 64;
/// Where lists of buffers stand.
pub const IOVS: u32 = 256;
/// Where paths stand.
pub const PATH: u32 = 1024;
/// Where second paths stand.
pub const PATH2: u32 = 16 * 1024;
/// Where bytes are read to and written from.
pub const BUF: u32 = 64 * 1024;

pub const CREAT: u32 = 1;
pub const DIRECTORY: u32 = 2;
pub const EXCL: u32 = 4;
pub const TRUNC: u32 = 8;

pub const READ: u64 = Rights::FD_READ.bits();
pub const WRITE: u64 = Rights::FD_WRITE.bits();
pub const RW: u64 = READ | WRITE;

pub struct Guest {
    pub ctx: WasiP1Ctx,
    pub memory: Vec<u8>,
    pub scratch: tempfile::TempDir,
}

/// What `path_filestat_get` and `fd_filestat_get` tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    pub dev: u64,
    pub ino: u64,
    pub filetype: u8,
    pub nlink: u64,
    pub size: u64,
    pub atim: u64,
    pub mtim: u64,
    pub ctim: u64,
}

impl Guest {
    /// A guest with everything allowed in a new scratch directory.
    pub fn new() -> Self {
        Guest::with(DirPerms::all(), FilePerms::all(), |_| ())
    }

    /// A guest with some permissions in a new scratch directory, and what else `build` grants.
    pub fn with(dir: DirPerms, file: FilePerms, build: impl FnOnce(&mut WasiCtxBuilder)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("root")).unwrap();
        let mut builder = WasiCtxBuilder::new();
        builder.preopened_dir(scratch.path().join("root"), "/", dir, file).unwrap();
        build(&mut builder);
        Guest { ctx: builder.build_p1(), memory: vec![0; MEMORY_LEN as usize], scratch }
    }

    /// A guest without grants but what `build` gives.
    pub fn bare(build: impl FnOnce(&mut WasiCtxBuilder)) -> Self {
        let mut builder = WasiCtxBuilder::new();
        build(&mut builder);
        Guest { ctx: builder.build_p1(), memory: vec![0; MEMORY_LEN as usize], scratch: tempfile::tempdir().unwrap() }
    }

    /// The host's path of something in the granted directory.
    pub fn host(&self, path: &str) -> std::path::PathBuf {
        self.scratch.path().join("root").join(path)
    }

    pub fn call(&mut self, function: Function, operands: &[u64]) -> Errno {
        self.ctx.dispatch(&mut GuestMemory::new(&mut self.memory), function, operands).expect("no exit")
    }

    /// Calls and makes an error a `Result`.
    pub fn try_call(&mut self, function: Function, operands: &[u64]) -> Result<(), Errno> {
        match self.call(function, operands) {
            Errno::Success => Ok(()),
            errno => Err(errno),
        }
    }

    pub fn put(&mut self, at: u32, bytes: &[u8]) {
        self.memory[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    pub fn bytes(&self, at: u32, len: u32) -> &[u8] {
        &self.memory[at as usize..][..len as usize]
    }

    pub fn u16(&self, at: u32) -> u16 {
        u16::from_le_bytes(self.bytes(at, 2).try_into().unwrap())
    }

    pub fn u32(&self, at: u32) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap())
    }

    pub fn u64(&self, at: u32) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }

    /// Puts a list of buffers at `IOVS`.
    pub fn put_iovs(&mut self, iovs: &[(u32, u32)]) {
        for (at, (ptr, len)) in iovs.iter().enumerate() {
            self.put(IOVS + at as u32 * 8, &ptr.to_le_bytes());
            self.put(IOVS + at as u32 * 8 + 4, &len.to_le_bytes());
        }
    }

    pub fn put_path(&mut self, path: &[u8]) -> (u64, u64) {
        self.put(PATH, path);
        (PATH.into(), path.len() as u64)
    }

    pub fn put_path2(&mut self, path: &[u8]) -> (u64, u64) {
        self.put(PATH2, path);
        (PATH2.into(), path.len() as u64)
    }

    pub fn open_with(
        &mut self,
        dir: u32,
        lookup: u32,
        path: impl AsRef<[u8]>,
        oflags: u32,
        rights: u64,
        fdflags: u32,
    ) -> Result<u32, Errno> {
        let (ptr, len) = self.put_path(path.as_ref());
        let operands = [dir.into(), lookup.into(), ptr, len, oflags.into(), rights, rights, fdflags.into(), OUT.into()];
        self.try_call(Function::path_open, &operands)?;
        Ok(self.u32(OUT))
    }

    /// Opens in the granted directory, following links.
    pub fn open(&mut self, path: impl AsRef<[u8]>, oflags: u32, rights: u64) -> Result<u32, Errno> {
        self.open_with(DIR, 1, path, oflags, rights, 0)
    }

    pub fn close(&mut self, fd: u32) -> Result<(), Errno> {
        self.try_call(Function::fd_close, &[fd.into()])
    }

    /// Creates a file with contents through the guest.
    pub fn create(&mut self, path: &str, contents: &[u8]) {
        let fd = self.open(path, CREAT | TRUNC, RW).unwrap();
        assert_eq!(self.write(fd, contents), Ok(contents.len() as u32));
        self.close(fd).unwrap();
    }

    pub fn write(&mut self, fd: u32, contents: &[u8]) -> Result<u32, Errno> {
        self.put(BUF, contents);
        self.put_iovs(&[(BUF, contents.len() as u32)]);
        self.try_call(Function::fd_write, &[fd.into(), IOVS.into(), 1, OUT.into()])?;
        Ok(self.u32(OUT))
    }

    pub fn read(&mut self, fd: u32, len: u32) -> Result<Vec<u8>, Errno> {
        self.put_iovs(&[(BUF, len)]);
        self.try_call(Function::fd_read, &[fd.into(), IOVS.into(), 1, OUT.into()])?;
        let count = self.u32(OUT);
        assert!(count <= len);
        Ok(self.bytes(BUF, count).to_vec())
    }

    fn file_stat(&self) -> FileStat {
        assert_eq!(self.bytes(OUT + 17, 7), [0; 7], "padding is zero");
        FileStat {
            dev: self.u64(OUT),
            ino: self.u64(OUT + 8),
            filetype: self.memory[OUT as usize + 16],
            nlink: self.u64(OUT + 24),
            size: self.u64(OUT + 32),
            atim: self.u64(OUT + 40),
            mtim: self.u64(OUT + 48),
            ctim: self.u64(OUT + 56),
        }
    }

    pub fn stat(&mut self, path: impl AsRef<[u8]>, lookup: u32) -> Result<FileStat, Errno> {
        self.stat_at(DIR, path, lookup)
    }

    pub fn stat_at(&mut self, dir: u32, path: impl AsRef<[u8]>, lookup: u32) -> Result<FileStat, Errno> {
        let (ptr, len) = self.put_path(path.as_ref());
        self.put(OUT, &[0xaa; 64]);
        self.try_call(Function::path_filestat_get, &[dir.into(), lookup.into(), ptr, len, OUT.into()])?;
        Ok(self.file_stat())
    }

    pub fn fd_stat(&mut self, fd: u32) -> Result<FileStat, Errno> {
        self.put(OUT, &[0xaa; 64]);
        self.try_call(Function::fd_filestat_get, &[fd.into(), OUT.into()])?;
        Ok(self.file_stat())
    }

    /// Kind, flags, rights and inheriting rights of a descriptor.
    pub fn fdstat(&mut self, fd: u32) -> Result<(u8, u16, Rights, Rights), Errno> {
        self.put(OUT, &[0xaa; 24]);
        self.try_call(Function::fd_fdstat_get, &[fd.into(), OUT.into()])?;
        assert_eq!((self.memory[OUT as usize + 1], self.u32(OUT + 4)), (0, 0), "padding is zero");
        let rights = |bits| Rights::from_bits(bits).expect("known rights");
        Ok((self.memory[OUT as usize], self.u16(OUT + 2), rights(self.u64(OUT + 8)), rights(self.u64(OUT + 16))))
    }

    /// Calls a function of one path.
    pub fn path_call(&mut self, function: Function, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        let (ptr, len) = self.put_path(path.as_ref());
        self.try_call(function, &[DIR.into(), ptr, len])
    }

    pub fn mkdir(&mut self, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.path_call(Function::path_create_directory, path)
    }

    pub fn rmdir(&mut self, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.path_call(Function::path_remove_directory, path)
    }

    pub fn unlink(&mut self, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.path_call(Function::path_unlink_file, path)
    }

    pub fn rename_at(&mut self, from: u32, old: impl AsRef<[u8]>, to: u32, new: impl AsRef<[u8]>) -> Result<(), Errno> {
        let ((old, old_len), (new, new_len)) = (self.put_path(old.as_ref()), self.put_path2(new.as_ref()));
        self.try_call(Function::path_rename, &[from.into(), old, old_len, to.into(), new, new_len])
    }

    pub fn rename(&mut self, old: impl AsRef<[u8]>, new: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.rename_at(DIR, old, DIR, new)
    }

    pub fn link_at(&mut self, from: u32, lookup: u32, old: impl AsRef<[u8]>, to: u32, new: impl AsRef<[u8]>) -> Result<(), Errno> {
        let ((old, old_len), (new, new_len)) = (self.put_path(old.as_ref()), self.put_path2(new.as_ref()));
        self.try_call(Function::path_link, &[from.into(), lookup.into(), old, old_len, to.into(), new, new_len])
    }

    pub fn link(&mut self, old: impl AsRef<[u8]>, new: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.link_at(DIR, 0, old, DIR, new)
    }

    pub fn symlink(&mut self, target: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        let ((old, old_len), (new, new_len)) = (self.put_path(target.as_ref()), self.put_path2(path.as_ref()));
        self.try_call(Function::path_symlink, &[old, old_len, DIR.into(), new, new_len])
    }

    pub fn readlink(&mut self, path: impl AsRef<[u8]>, len: u32) -> Result<Vec<u8>, Errno> {
        let (ptr, path_len) = self.put_path(path.as_ref());
        self.try_call(Function::path_readlink, &[DIR.into(), ptr, path_len, BUF.into(), len.into(), OUT.into()])?;
        Ok(self.bytes(BUF, self.u32(OUT)).to_vec())
    }

    pub fn set_times(&mut self, path: impl AsRef<[u8]>, lookup: u32, atim: u64, mtim: u64, flags: u32) -> Result<(), Errno> {
        let (ptr, len) = self.put_path(path.as_ref());
        let operands = [DIR.into(), lookup.into(), ptr, len, atim, mtim, flags.into()];
        self.try_call(Function::path_filestat_set_times, &operands)
    }
}

/// An output that holds a megabyte.
pub fn pipe() -> MemoryOutputPipe {
    MemoryOutputPipe::new(1 << 20)
}

/// Every name, kind, content and link target below a directory.
pub fn tree(at: &Path) -> Vec<(String, String)> {
    let mut entries = Vec::new();
    let mut pending = vec![at.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let what = if kind.is_dir() {
                pending.push(entry.path());
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("link {}", std::fs::read_link(entry.path()).unwrap().display())
            } else {
                let metadata = entry.metadata().unwrap();
                format!("file {:?} {:?}", std::fs::read(entry.path()).unwrap(), metadata.modified().unwrap())
            };
            entries.push((entry.path().display().to_string(), what));
        }
    }
    entries.sort();
    entries
}

/// A small generator of numbers, seeded, so that failures repeat.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize) % bound
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}
