//! Profiles as files.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 4 | [`VERSION`], little-endian |
//! | 16 | the first bytes of BLAKE3 of all that follows |
//! | 32 | BLAKE3 of the binary module |
//! | rest | LEB128 numbers: runs; functions; for each its distance from the one before, calls, work, sites; for each site its distance from the one before, other calls, targets; for each target its number and calls |
//!
//! A file can be damaged, cut off or made up: reading takes memory in proportion to its length, and refuses whatever writing does not make.

use super::{FunctionProfile, MAX_TARGETS, Profile, SiteProfile};
use peregrine_wasm::DefinedFuncIndex;
use std::collections::BTreeMap;
use std::fmt;

/// How every profile begins.
pub const MAGIC: [u8; 8] = *b"pgnprof\0";
/// The version of the format.
pub const VERSION: u32 = 1;
/// Bytes before the numbers.
const HEADER_BYTES: usize = 8 + 4 + 16 + 32;

/// Why bytes are no profile, or not the one that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileError {
    /// They do not begin as a profile does.
    NotAProfile,
    /// They are of another version of the format.
    Version {
        /// The one that was found.
        found: u32,
    },
    /// They are cut off or changed.
    Damaged,
    /// The profile is of another module.
    OtherModule,
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAProfile => write!(f, "expected a profile, as `peregrine profile save` writes it, found something else"),
            Self::Version { found } => {
                write!(f, "expected a profile of version {VERSION}, found version {found}; make it again with `peregrine profile save`")
            }
            Self::Damaged => write!(f, "the profile is damaged; make it again with `peregrine profile save`"),
            Self::OtherModule => {
                write!(f, "the profile is of another module, or of another build of this one; make it again with `peregrine profile save`")
            }
        }
    }
}

impl std::error::Error for ProfileError {}

impl Profile {
    /// Whether bytes begin as a profile does.
    pub fn is_profile(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// The bytes of a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 16], &self.module_hash].concat();
        write(&mut bytes, self.runs.into());
        write(&mut bytes, self.functions.len() as u64);
        let mut last = 0;
        for (index, function) in &self.functions {
            let FunctionProfile { calls, work, sites } = function;
            for number in [u64::from(index.as_u32() - last), *calls, *work, sites.len() as u64] {
                write(&mut bytes, number);
            }
            last = index.as_u32();
            let mut last = 0;
            for (offset, site) in sites {
                for number in [u64::from(offset - last), site.others, site.targets.len() as u64] {
                    write(&mut bytes, number);
                }
                last = *offset;
                for (target, calls) in &site.targets {
                    write(&mut bytes, target.as_u32().into());
                    write(&mut bytes, *calls);
                }
            }
        }
        let checksum = checksum(&bytes);
        bytes[12..28].copy_from_slice(&checksum);
        bytes
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    ///
    /// Any [`ProfileError`] but [`ProfileError::OtherModule`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProfileError> {
        if !Self::is_profile(bytes) {
            return Err(ProfileError::NotAProfile);
        }
        let version = bytes.get(8..12).ok_or(ProfileError::Damaged)?;
        let found = u32::from_le_bytes([version[0], version[1], version[2], version[3]]);
        if found != VERSION {
            return Err(ProfileError::Version { found });
        }
        if bytes.len() < HEADER_BYTES || bytes[12..28] != checksum(bytes) {
            return Err(ProfileError::Damaged);
        }
        let mut numbers = &bytes[HEADER_BYTES..];
        let profile = read_profile(&mut numbers).filter(|_| numbers.is_empty());
        let mut profile = profile.ok_or(ProfileError::Damaged)?;
        profile.module_hash.copy_from_slice(&bytes[28..HEADER_BYTES]);
        Ok(profile)
    }
}

/// What the bytes after the checksum give.
fn checksum(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(&bytes[28..]).as_bytes()[..16]);
    short
}

fn read_profile(numbers: &mut &[u8]) -> Option<Profile> {
    let runs = read_u32(numbers)?;
    let mut functions = BTreeMap::new();
    let mut last = None;
    for _ in 0..read(numbers)? {
        let index = next(last, read_u32(numbers)?)?;
        last = Some(index);
        let (calls, work) = (read(numbers)?, read(numbers)?);
        let mut function = FunctionProfile { calls, work, sites: BTreeMap::new() };
        let mut last = None;
        for _ in 0..read(numbers)? {
            let offset = next(last, read_u32(numbers)?)?;
            last = Some(offset);
            function.sites.insert(offset, read_site(numbers)?);
        }
        functions.insert(DefinedFuncIndex::from_u32(index), function);
    }
    Some(Profile { module_hash: [0; 32], runs, functions })
}

/// The position at a distance from the last one: positions rise.
fn next(last: Option<u32>, distance: u32) -> Option<u32> {
    match last {
        None => Some(distance),
        Some(last) => last.checked_add(distance).filter(|next| *next > last),
    }
}

fn read_site(numbers: &mut &[u8]) -> Option<SiteProfile> {
    let (others, count) = (read(numbers)?, read(numbers)?);
    if count > MAX_TARGETS as u64 {
        return None;
    }
    let mut targets = Vec::new();
    for _ in 0..count {
        targets.push((DefinedFuncIndex::from_u32(read_u32(numbers)?), read(numbers)?));
    }
    let site = SiteProfile::new(targets.iter().copied(), others);
    (site.targets == targets).then_some(site)
}

fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A number, written as short as it can be.
fn read(numbers: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = numbers.split_first()?;
        *numbers = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits || byte == 0 && shift > 0 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn read_u32(numbers: &mut &[u8]) -> Option<u32> {
    u32::try_from(read(numbers)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(number: u32) -> DefinedFuncIndex {
        DefinedFuncIndex::from_u32(number)
    }

    fn sample() -> Profile {
        let mut profile = Profile::new(b"a module");
        for function in [0, 1, 7, 1000, u32::MAX] {
            let site = |salt: u64| SiteProfile::new((0..function.min(9)).map(|target| (index(target * 300), salt << target)), salt / 2);
            let sites = [(0, site(0)), (1, site(1)), (500, site(77)), (u32::MAX, site(u64::MAX >> 8))];
            let profile_of = FunctionProfile { calls: u64::from(function) * 3, work: u64::MAX, sites: sites.into() };
            profile.insert(index(function), profile_of);
        }
        profile
    }

    /// With the checksum that it should have.
    fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
        let checksum = checksum(&bytes);
        bytes[12..28].copy_from_slice(&checksum);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        for profile in [sample(), Profile::new(b""), Profile::default()] {
            let bytes = profile.to_bytes();
            assert_eq!(Profile::from_bytes(&bytes), Ok(profile));
        }
    }

    #[test]
    fn damage_is_refused() {
        let bytes = sample().to_bytes();
        assert_eq!(Profile::from_bytes(b"\0asm"), Err(ProfileError::NotAProfile));
        assert_eq!(Profile::from_bytes(b""), Err(ProfileError::NotAProfile));
        for len in 8..bytes.len() {
            assert_eq!(Profile::from_bytes(&bytes[..len]), Err(ProfileError::Damaged), "{len}");
        }
        for position in 8..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            assert!(Profile::from_bytes(&changed).is_err(), "{position}");
        }
        let mut newer = bytes;
        newer[8] = 9;
        assert_eq!(Profile::from_bytes(&newer), Err(ProfileError::Version { found: 9 }));
    }

    #[test]
    fn made_up_numbers_with_a_right_checksum_are_refused_or_read_within_bounds() {
        let bytes = sample().to_bytes();
        for position in HEADER_BYTES..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[position] = value;
                if let Ok(profile) = Profile::from_bytes(&mended(changed.clone())) {
                    assert_eq!(profile.to_bytes(), mended(changed), "one way to write each");
                }
            }
        }
        // Counts far beyond what follows.
        let mut huge = bytes[..HEADER_BYTES].to_vec();
        huge.extend([1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(Profile::from_bytes(&mended(huge)), Err(ProfileError::Damaged));
        let mut more = bytes;
        more.push(0);
        assert_eq!(Profile::from_bytes(&mended(more)), Err(ProfileError::Damaged));
    }
}
