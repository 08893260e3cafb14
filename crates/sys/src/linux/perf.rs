//! The profiler's perf map and jitdump.
//!
//! Both tell Linux `perf` the names of generated code: the map by a line of text per symbol, which `perf report` reads while the process
//! lives or after it; the dump with the code itself, which `perf inject --jit` turns into object files with disassembly and lines
//! (record with `-k mono`). The engine decides which to write and makes the names.
//!
//! Formats: `tools/perf/Documentation/jit-interface.txt` and `jitdump-specification.txt` in the Linux sources.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::file::check_owner;
use super::pages::{Reservation, page_size};

/// A piece of generated code, as the profiler should show it.
#[derive(Debug, Clone, Copy)]
pub struct Symbol<'a> {
    /// The name; line breaks become spaces, and it ends at a zero byte.
    pub name: &'a str,
    /// Where the code lies in this process.
    pub address: usize,
    /// The code.
    pub code: &'a [u8],
}

/// The place in a source file of the code from an address on.
#[derive(Debug, Clone, Copy)]
pub struct SourceLine<'a> {
    /// The first address of the code, in this process.
    pub address: usize,
    /// The source file; it ends at a zero byte.
    pub file: &'a str,
    /// The line, from 1.
    pub line: u32,
}

/// The open perf map of this process.
#[derive(Debug)]
pub struct PerfMap {
    file: Mutex<File>,
    path: PathBuf,
}

impl PerfMap {
    /// Opens `/tmp/perf-PID.map`, where `perf` looks for it, for appending, and creates it where needed.
    ///
    /// # Errors
    /// `PermissionDenied` where the file belongs to somebody else, otherwise what the system said.
    pub fn open() -> io::Result<Self> {
        Self::open_in(Path::new("/tmp"))
    }

    /// As [`open`](PerfMap::open), in another directory.
    ///
    /// # Errors
    /// As [`open`](PerfMap::open).
    pub fn open_in(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("perf-{}.map", std::process::id()));
        let flags = OFlags::WRONLY | OFlags::APPEND;
        let file = match create_new(&path, flags) {
            // Another part of the process may write to it too.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_existing(&path, flags),
            result => result,
        }?;
        Ok(Self { file: Mutex::new(file.into()), path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends symbols.
    ///
    /// # Errors
    /// What the system said.
    pub fn append<'a>(&self, symbols: impl IntoIterator<Item = Symbol<'a>>) -> io::Result<()> {
        let mut lines = String::new();
        for symbol in symbols {
            let name = shown_name(symbol.name);
            lines.push_str(&format!("{:x} {:x} {name}\n", symbol.address, symbol.code.len()));
        }
        // One write, so that the lines of other writers do not get in between.
        lock(&self.file).write_all(lines.as_bytes())
    }
}

const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER_LEN_BYTES: u32 = 40;
const RECORD_HEADER_LEN_BYTES: u32 = 16;

const JIT_CODE_LOAD: u32 = 0;
const JIT_CODE_DEBUG_INFO: u32 = 2;
const JIT_CODE_CLOSE: u32 = 3;

/// The ELF machine of this process.
const ELF_MACHINE: u32 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

/// The jitdump of this process, closed when dropped.
#[derive(Debug)]
pub struct JitDump {
    state: Mutex<JitDumpState>,
    path: PathBuf,
    /// The executable map of the file that makes `perf record` note it.
    _marker: Reservation,
}

#[derive(Debug)]
struct JitDumpState {
    file: File,
    next_index: u64,
}

/// The dumps that are open in this process, so that a leftover of another process is told apart.
static OPEN_DUMPS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

impl JitDump {
    /// Creates `jit-PID.dump` in the working directory.
    ///
    /// # Errors
    /// As [`create_in`](JitDump::create_in).
    pub fn create() -> io::Result<Self> {
        Self::create_in(&std::env::current_dir()?)
    }

    /// Creates `jit-PID.dump` in a directory; `perf` wants this name. A leftover of an earlier process is replaced.
    ///
    /// # Errors
    /// `AlreadyExists` where this process has one open there, `PermissionDenied` where a leftover is somebody else's or files of the
    /// directory may not be mapped executable, otherwise what the system said.
    pub fn create_in(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("jit-{}.dump", std::process::id()));
        let mut open_dumps = lock(&OPEN_DUMPS);
        if open_dumps.contains(&path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is in use by this process", path.display())));
        }
        let fd = match create_new(&path, OFlags::RDWR) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                drop(open_existing(&path, OFlags::RDWR)?);
                std::fs::remove_file(&path)?;
                create_new(&path, OFlags::RDWR)
            }
            result => result,
        }?;
        let mut file = File::from(fd);
        let mut header = Vec::with_capacity(HEADER_LEN_BYTES as usize);
        for word in [MAGIC, VERSION, HEADER_LEN_BYTES, ELF_MACHINE, 0, std::process::id()] {
            header.extend_from_slice(&word.to_ne_bytes());
        }
        let flags = 0u64;
        for word in [timestamp_ns(), flags] {
            header.extend_from_slice(&word.to_ne_bytes());
        }
        file.write_all(&header)?;
        let marker = Reservation::new(page_size())?;
        marker.map_file_read_execute(0, &file, 0, page_size())?;
        open_dumps.push(path.clone());
        drop(open_dumps);
        Ok(Self { state: Mutex::new(JitDumpState { file, next_index: 0 }), path, _marker: marker })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a piece of code and where it comes from; `lines` may be empty and is in the order of addresses otherwise.
    ///
    /// # Errors
    /// `InvalidInput` where a record would exceed 4 GiB, otherwise what the system said.
    pub fn append(&self, symbol: &Symbol<'_>, lines: &[SourceLine<'_>]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let mut records = Vec::new();
        let time_ns = timestamp_ns();
        if !lines.is_empty() {
            let mut body = Vec::new();
            body.extend_from_slice(&(symbol.address as u64).to_ne_bytes());
            body.extend_from_slice(&(lines.len() as u64).to_ne_bytes());
            for line in lines {
                body.extend_from_slice(&(line.address as u64).to_ne_bytes());
                body.extend_from_slice(&line.line.to_ne_bytes());
                let discriminator = 0u32;
                body.extend_from_slice(&discriminator.to_ne_bytes());
                body.extend_from_slice(until_zero(line.file).as_bytes());
                body.push(0);
            }
            push_record(&mut records, JIT_CODE_DEBUG_INFO, time_ns, &[&body])?;
        }
        let mut body = Vec::new();
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        body.extend_from_slice(&std::process::id().to_ne_bytes());
        body.extend_from_slice(&thread.to_ne_bytes());
        let address = symbol.address as u64;
        for word in [address, address, symbol.code.len() as u64, state.next_index] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        body.extend_from_slice(shown_name(symbol.name).as_bytes());
        body.push(0);
        push_record(&mut records, JIT_CODE_LOAD, time_ns, &[&body, symbol.code])?;
        state.next_index += 1;
        state.file.write_all(&records)
    }
}

impl Drop for JitDump {
    fn drop(&mut self) {
        let mut record = Vec::new();
        if push_record(&mut record, JIT_CODE_CLOSE, timestamp_ns(), &[]).is_ok() {
            // Without the record the dump ends here all the same.
            let _ = lock(&self.state).file.write_all(&record);
        }
        lock(&OPEN_DUMPS).retain(|path| *path != self.path);
    }
}

fn push_record(records: &mut Vec<u8>, id: u32, time_ns: u64, parts: &[&[u8]]) -> io::Result<()> {
    let body_len_bytes: usize = parts.iter().map(|part| part.len()).sum();
    let total_len_bytes = u32::try_from(body_len_bytes).ok().and_then(|len_bytes| len_bytes.checked_add(RECORD_HEADER_LEN_BYTES));
    let Some(total_len_bytes) = total_len_bytes else {
        let message = format!("{body_len_bytes} bytes do not fit in a jitdump record");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    records.extend_from_slice(&id.to_ne_bytes());
    records.extend_from_slice(&total_len_bytes.to_ne_bytes());
    records.extend_from_slice(&time_ns.to_ne_bytes());
    parts.iter().for_each(|part| records.extend_from_slice(part));
    Ok(())
}

/// The clock of `perf record -k mono`.
fn timestamp_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn shown_name(name: &str) -> String {
    until_zero(name).replace(['\n', '\r'], " ")
}

fn until_zero(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}

fn create_new(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?)
}

/// Opens a regular file of this user that has no other name.
fn open_existing(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
        return Err(io::Error::from(Errno::PERM));
    }
    check_owner(&stat, path)?;
    Ok(fd)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("peregrine-sys-perf-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const SYMBOL: Symbol<'_> = Symbol { name: "wasm\nfunction", address: 0xabc0, code: &[0x90, 0x90, 0xc3] };

    #[test]
    fn the_map_has_a_line_for_each_symbol() {
        let scratch = Scratch::new("map");
        let map = PerfMap::open_in(&scratch.0).unwrap();
        map.append([SYMBOL, Symbol { name: "two\0hidden", ..SYMBOL }]).unwrap();
        PerfMap::open_in(&scratch.0).unwrap().append([Symbol { name: "three", ..SYMBOL }]).unwrap();
        let text = std::fs::read_to_string(map.path()).unwrap();
        assert_eq!(text, "abc0 3 wasm function\nabc0 3 two\nabc0 3 three\n");
        assert_eq!(map.path(), scratch.0.join(format!("perf-{}.map", std::process::id())));
    }

    #[test]
    fn links_are_not_followed() {
        let scratch = Scratch::new("links");
        let victim = scratch.0.join("victim");
        std::fs::write(&victim, b"precious").unwrap();
        type Opens = fn(&Path) -> bool;
        let opens: [(&str, Opens); 2] =
            [("perf-PID.map", |dir| PerfMap::open_in(dir).is_ok()), ("jit-PID.dump", |dir| JitDump::create_in(dir).is_ok())];
        for (name, opens) in opens {
            let path = scratch.0.join(name.replace("PID", &std::process::id().to_string()));
            std::os::unix::fs::symlink(&victim, &path).unwrap();
            assert!(!opens(&scratch.0), "{name} through a symbolic link");
            std::fs::remove_file(&path).unwrap();
            std::fs::hard_link(&victim, &path).unwrap();
            assert!(!opens(&scratch.0), "{name} with two names");
            std::fs::remove_file(&path).unwrap();
            assert!(opens(&scratch.0), "{name}");
        }
        assert_eq!(std::fs::read(victim).unwrap(), b"precious");
    }

    fn word(bytes: &[u8], offset: usize) -> u32 {
        u32::from_ne_bytes(*bytes[offset..].first_chunk().unwrap())
    }

    fn long(bytes: &[u8], offset: usize) -> u64 {
        u64::from_ne_bytes(*bytes[offset..].first_chunk().unwrap())
    }

    #[test]
    fn the_dump_has_its_records_and_is_mapped() {
        let scratch = Scratch::new("dump");
        std::fs::write(scratch.0.join(format!("jit-{}.dump", std::process::id())), b"left over").unwrap();
        let dump = JitDump::create_in(&scratch.0).unwrap();
        assert_eq!(JitDump::create_in(&scratch.0).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let path = dump.path().to_path_buf();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mapped = maps.lines().find(|line| line.ends_with(path.to_str().unwrap())).unwrap();
        assert!(mapped.contains(" r-xp "), "{mapped}");
        dump.append(&SYMBOL, &[SourceLine { address: 0xabc1, file: "a.c", line: 12 }]).unwrap();
        dump.append(&SYMBOL, &[]).unwrap();
        drop(dump);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((word(&bytes, 0), word(&bytes, 4), word(&bytes, 8)), (MAGIC, 1, 40));
        assert_eq!(word(&bytes, 20), std::process::id());
        let mut records = Vec::new();
        let mut offset = 40;
        while offset < bytes.len() {
            let len_bytes = word(&bytes, offset + 4) as usize;
            records.push((word(&bytes, offset), &bytes[offset + 16..offset + len_bytes]));
            offset += len_bytes;
        }
        assert_eq!(records.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 0, 0, 3]);
        let (debug, load) = (records[0].1, records[2].1);
        assert_eq!((long(debug, 0), long(debug, 8), long(debug, 16), word(debug, 24)), (0xabc0, 1, 0xabc1, 12));
        assert_eq!(&debug[32..], b"a.c\0");
        assert_eq!(word(load, 0), std::process::id());
        assert_eq!((long(load, 8), long(load, 16), long(load, 24), long(load, 32)), (0xabc0, 0xabc0, 3, 1));
        assert_eq!(&load[40..], b"wasm function\0\x90\x90\xc3");
        assert!(records[3].1.is_empty());
        JitDump::create_in(&scratch.0).unwrap();
    }
}
