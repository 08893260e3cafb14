//! Choices made by bytes: the same bytes make the same program, fewer bytes a smaller one.

/// Bytes that are used up by choices. When there are no more, every choice is 0.
#[derive(Debug)]
pub(super) struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether all bytes are used up: whatever can end shall end.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// A number below `bound`, which is at most 256 and not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.byte() as usize % bound
    }

    /// True once in `times`.
    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// Eight bytes.
    pub(super) fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// A number that programs trip over more often than over others.
    pub(super) fn number(&mut self) -> u64 {
        const EDGES: [u64; 12] =
            [0, 1, 2, 7, 31, 63, 255, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x8000_0000_0000_0000, 0xffff_ffff_ffff_ffff];
        match self.below(4) {
            0 => EDGES[self.below(EDGES.len())],
            1 => u64::from(self.byte()),
            2 => (u64::from(self.byte()) << 8) | u64::from(self.byte()),
            _ => self.word(),
        }
    }
}
