//! Reading of debugging sections that costs no more than was agreed: they are the guest's, and a few bytes can ask for work without end.
//!
//! All that the readers of DWARF do goes through [`Reader`], so that is where work is counted, whichever lists are read again and again, and
//! whatever strings are looked for. Two things cost without reading, and are bounded by what is looked at before: attributes without bytes
//! ([`longest_declaration`]), and the depth of nesting, which costs stack (`symbols`).

use gimli::{EndianSlice, LittleEndian, Reader, ReaderOffsetId, Result};
use std::borrow::Cow;
use std::cell::Cell;

/// Work that is left, in steps of about a nanosecond.
#[derive(Debug)]
pub(crate) struct Meter {
    left: Cell<u64>,
    /// What one step of reading costs.
    step: u64,
}

/// Steps for each byte of the sections.
const STEPS_PER_BYTE: u64 = 8;
/// Steps in any case.
const MIN_STEPS: u64 = 8 << 20;
/// Bytes of the declaration of an entry that cost one step more for each.
const DECLARATION_BYTES: u64 = 64;
/// Bytes that are searched or copied in one step.
const BYTES_PER_STEP: u64 = 16;

impl Meter {
    /// For sections of so many bytes whose longest declaration of an entry has `declaration_bytes`.
    pub(crate) fn new(section_bytes: u64, declaration_bytes: u64) -> Self {
        let left = section_bytes.saturating_mul(STEPS_PER_BYTE).saturating_add(MIN_STEPS);
        Self { left: Cell::new(left), step: 1 + declaration_bytes / DECLARATION_BYTES }
    }

    /// Whether the work was more than was agreed.
    pub(crate) fn is_spent(&self) -> bool {
        self.left.get() == 0
    }

    fn spend(&self, steps: u64, at: ReaderOffsetId) -> Result<()> {
        let left = self.left.get().saturating_sub(steps.saturating_mul(self.step));
        self.left.set(left);
        if left == 0 { Err(gimli::Error::UnexpectedEof(at)) } else { Ok(()) }
    }
}

/// An upper bound on the bytes of one declaration in `.debug_abbrev`, wherever reading it begins: the list of attributes of a declaration ends at
/// two zeros, if not before with an error.
pub(crate) fn longest_declaration(abbreviations: &[u8]) -> u64 {
    let (mut longest, mut start, mut zeros) = (0, 0, 0);
    for (position, byte) in abbreviations.iter().enumerate() {
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        if zeros >= 2 {
            longest = longest.max(position - start);
            start = position;
        }
    }
    longest.max(abbreviations.len() - start) as u64
}

/// Bytes of a section.
#[derive(Clone, Debug)]
pub(crate) struct Metered<'a> {
    bytes: EndianSlice<'a, LittleEndian>,
    meter: &'a Meter,
}

impl<'a> Metered<'a> {
    /// `bytes`, whose reading `meter` counts.
    pub(crate) fn new(bytes: &'a [u8], meter: &'a Meter) -> Self {
        Self { bytes: EndianSlice::new(bytes, LittleEndian), meter }
    }

    fn spend(&self, bytes: usize) -> Result<()> {
        self.meter.spend(1 + bytes as u64 / BYTES_PER_STEP, self.bytes.offset_id())
    }
}

impl Reader for Metered<'_> {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> usize {
        self.bytes.slice().len()
    }

    fn empty(&mut self) {
        self.bytes.empty();
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.spend(0)?;
        self.bytes.truncate(len)
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.bytes.offset_from(base.bytes)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        self.bytes.offset_id()
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        self.bytes.lookup_offset_id(id)
    }

    fn find(&self, byte: u8) -> Result<usize> {
        let found = Reader::find(&self.bytes, byte);
        self.spend(*found.as_ref().unwrap_or(&self.len()))?;
        found
    }

    fn skip(&mut self, len: usize) -> Result<()> {
        self.spend(0)?;
        self.bytes.skip(len)
    }

    fn split(&mut self, len: usize) -> Result<Self> {
        self.spend(0)?;
        Ok(Self { bytes: self.bytes.split(len)?, meter: self.meter })
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        self.spend(self.len())?;
        self.bytes.to_slice()
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        self.spend(self.len())?;
        Reader::to_string(&self.bytes)
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        self.spend(self.len())?;
        Reader::to_string_lossy(&self.bytes)
    }

    fn read_slice(&mut self, buf: &mut [u8]) -> Result<()> {
        self.spend(buf.len())?;
        Reader::read_slice(&mut self.bytes, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_declaration_is_between_two_zeros() {
        assert_eq!(longest_declaration(&[1, 17, 1, 3, 8, 0, 0, 2, 46, 0, 0, 0]), 6);
        assert_eq!(longest_declaration(&[1; 100]), 100);
        assert_eq!(longest_declaration(&[]), 0);
    }

    #[test]
    fn reading_ends_when_the_work_is_done() {
        let bytes = [1u8; 64];
        let meter = Meter::new(0, 0);
        let mut reads = 0u64;
        while Metered::new(&bytes, &meter).read_u8().is_ok() {
            reads += 1;
        }
        assert_eq!(reads, MIN_STEPS - 1);
        assert!(meter.is_spent());
        // An entry whose declaration is long may stand for as many attributes without bytes.
        let meter = Meter::new(0, MIN_STEPS * DECLARATION_BYTES);
        assert!(Metered::new(&bytes, &meter).read_u8().is_err());
    }
}
