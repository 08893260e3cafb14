//! A file that is read in pieces, and what tells later that all of it, or one body, is as it was read.
//!
//! Called by [`crate::module_file`], and by [`crate::binary`] where a file is not in the state any more that it was read in.

use crate::cache::{ContentHash, ContentHasher};
use peregrine_artifact::compiler::{CompileError, ReadWasm};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// Bytes that are hashed at a time where nothing else is done with them.
const HASHED_BYTES: usize = 256 << 10;

/// The content of a file, by hash.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Of its bytes.
    Whole(ContentHash),
    /// Of pieces of it, which cover all of it.
    Pieces(Box<[Range<usize>]>, ContentHash),
}

impl Content {
    /// Whether `bytes` are that content.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Whole(hash) => ContentHash::of(bytes) == *hash,
            Self::Pieces(pieces, hash) => {
                let mut hasher = ContentHasher::default();
                let all_there = pieces.iter().all(|piece| {
                    bytes.get(piece.clone()).is_some_and(|bytes| {
                        hasher.add(bytes);
                        true
                    })
                });
                all_there && hasher.finish() == *hash
            }
        }
    }
}

/// Bodies that were found valid, by hash. Who changes a file does not know the keys, so cannot look for another body of the same hash.
#[derive(Debug)]
pub(crate) struct ValidBodies {
    keys: RandomState,
    /// Where each begins, rising, and its hash.
    hashes: Box<[(u32, u64)]>,
}

impl ValidBodies {
    /// Whether `body` was found valid at the offset `start`.
    pub(crate) fn has(&self, start: u32, body: &[u8]) -> bool {
        let found = self.hashes.binary_search_by_key(&start, |(start, _)| *start);
        found.is_ok_and(|position| self.hashes[position].1 == hash_of(&self.keys, start, body))
    }
}

/// The hash of a body that begins at `start`.
fn hash_of(keys: &RandomState, start: u32, body: &[u8]) -> u64 {
    let mut hasher = keys.build_hasher();
    hasher.write_u32(start);
    hasher.write(body);
    hasher.finish()
}

/// A file of which pieces are read.
pub(crate) struct FilePieces<'a> {
    file: &'a File,
    len_bytes: usize,
    /// What was read so far, if that is noted.
    seen: Option<Mutex<(ContentHasher, Vec<Range<usize>>)>>,
    keys: RandomState,
    /// As in [`ValidBodies`], in any order.
    valid: Mutex<Vec<(u32, u64)>>,
}

impl<'a> FilePieces<'a> {
    /// The first `len_bytes` of `file`. With `noted`, [`Self::content`] tells what was read.
    pub(crate) fn new(file: &'a File, len_bytes: usize, noted: bool) -> Self {
        Self { file, len_bytes, seen: noted.then(Mutex::default), keys: RandomState::new(), valid: Mutex::default() }
    }

    /// The bodies that were found valid so far.
    pub(crate) fn valid_bodies(&self) -> ValidBodies {
        let mut hashes = std::mem::take(&mut *self.valid.lock().unwrap_or_else(PoisonError::into_inner));
        hashes.sort_unstable();
        ValidBodies { keys: self.keys.clone(), hashes: hashes.into() }
    }

    /// What was read, if that was noted and is all of the file.
    pub(crate) fn content(self) -> Option<Content> {
        let (hasher, pieces) = self.seen?.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut sorted = pieces.clone();
        sorted.sort_by_key(|piece| piece.start);
        let covered = sorted.iter().fold(0, |covered, piece| if piece.start <= covered { covered.max(piece.end) } else { covered });
        (covered == self.len_bytes).then(|| Content::Pieces(pieces.into(), hasher.finish()))
    }

    /// Reads all of the file for its hash.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn hash(&self) -> std::io::Result<ContentHash> {
        let mut hasher = ContentHasher::default();
        let mut buffer = vec![0; HASHED_BYTES.min(self.len_bytes)];
        for start in (0..self.len_bytes).step_by(HASHED_BYTES) {
            let piece = &mut buffer[..HASHED_BYTES.min(self.len_bytes - start)];
            self.file.read_exact_at(piece, start as u64)?;
            hasher.add(piece);
        }
        Ok(hasher.finish())
    }
}

impl ReadWasm for FilePieces<'_> {
    fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), CompileError> {
        let read = self.file.read_exact_at(into, offset as u64);
        read.map_err(|error| CompileError::Unreadable { message: format!("the file cannot be read: {error}") })?;
        if let Some(seen) = &self.seen {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0.add(into);
            seen.1.push(offset..offset + into.len());
        }
        Ok(())
    }

    fn found_valid(&self, bodies: &mut dyn Iterator<Item = (u32, &[u8])>) {
        let hashes: Vec<_> = bodies.map(|(start, body)| (start, hash_of(&self.keys, start, body))).collect();
        self.valid.lock().unwrap_or_else(PoisonError::into_inner).extend(hashes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_body_is_known_where_it_was_found_valid() {
        let file = File::open("/dev/null").unwrap();
        let pieces = FilePieces::new(&file, 0, false);
        pieces.found_valid(&mut [(70, &b"other"[..]), (90, b"last")].into_iter());
        pieces.found_valid(&mut [(20, &b"first"[..])].into_iter());
        let bodies = pieces.valid_bodies();
        assert!(bodies.has(20, b"first") && bodies.has(70, b"other") && bodies.has(90, b"last"));
        assert!(!bodies.has(70, b"first") && !bodies.has(20, b"firsT") && !bodies.has(21, b"first") && !bodies.has(20, b"firs"));
    }

    #[test]
    fn pieces_tell_whether_all_is_as_it_was() {
        let bytes: Vec<u8> = (0..1000u32).map(|number| (number * 7 % 251) as u8).collect();
        let path = std::env::temp_dir().join(format!("peregrine-pieces-{}", std::process::id()));
        File::create(&path).and_then(|mut file| file.write_all(&bytes)).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let read = |pieces: &[Range<usize>]| {
            let source = FilePieces::new(&file, bytes.len(), true);
            for piece in pieces {
                let mut into = vec![0; piece.len()];
                source.read_at(piece.start, &mut into).unwrap();
                assert_eq!(into, bytes[piece.clone()]);
            }
            assert_eq!(source.hash().unwrap(), ContentHash::of(&bytes));
            source.content()
        };
        assert!(read(&[0..400, 500..1000]).is_none() && read(&[]).is_none());
        // In any order, and some twice.
        let content = read(&[0..8, 700..1000, 0..300, 250..700]).unwrap();
        assert!(content.is_of(&bytes));
        for at in [0, 249, 250, 299, 300, 999] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(!content.is_of(&other), "{at}");
        }
        assert!(!content.is_of(&bytes[..999]));
        assert!(Content::Whole(ContentHash::of(&bytes)).is_of(&bytes) && !Content::Whole(ContentHash::of(&bytes)).is_of(&bytes[1..]));
        assert!(FilePieces::new(&file, 1001, false).hash().is_err());
    }
}
