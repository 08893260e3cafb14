//! A quick look at a body before it is compiled: how often locals, memory and the context are used.
//!
//! Reads opcodes and skips their immediates, nothing else. What is inside of a loop counts more. The outcome only makes code faster or
//! slower: on an opcode that is not known here the look ends, and what was seen so far is used.

/// The factor by which a loop multiplies, as a power of two.
const LOOP_LOG2: u32 = 3;
/// No more loops than these multiply.
const MAX_LOOPS: u32 = 6;

/// What a body does how often.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Uses of each local.
    pub locals: Vec<u32>,
    /// Locals beyond the parameters that are written before anything can read them, as bits.
    written_first: Vec<u64>,
    seen: Vec<u64>,
    /// Uses of the context other than calls.
    pub context: u32,
    /// Accesses to memory 0.
    pub memory: u32,
    /// Calls of any kind.
    pub calls: u32,
    /// Whether wasm functions are called.
    pub calls_functions: bool,
    /// Whether there are vector instructions.
    pub vectors: bool,
    /// For each open block whether it is a loop.
    blocks: Vec<bool>,
}

struct Bytes<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Bytes<'_> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.position).copied();
        self.position += 1;
        byte
    }

    #[inline]
    fn leb(&mut self) -> Option<u32> {
        let first = self.byte()?;
        if first < 0x80 {
            return Some(first.into());
        }
        let mut value = u32::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte < 0x80 {
                return Some(value);
            }
        }
    }

    /// The memory of an access.
    #[inline]
    fn memarg(&mut self) -> Option<u32> {
        let align = self.leb()?;
        let memory = if align & 0x40 != 0 { self.leb()? } else { 0 };
        self.leb()?;
        Some(memory)
    }
}

impl Scan {
    /// Whether a local has to be zero at first, as something may read that.
    pub(crate) fn needs_zero(&self, local: usize) -> bool {
        self.locals[local] > 0 && self.written_first[local / 64] >> (local % 64) & 1 == 0
    }

    /// Looks at `operators`, the body of a function with so many locals, after their declarations.
    pub(crate) fn run(&mut self, operators: &[u8], locals: usize) {
        self.locals.clear();
        self.locals.resize(locals, 0);
        for bits in [&mut self.written_first, &mut self.seen] {
            bits.clear();
            bits.resize(locals.div_ceil(64), 0);
        }
        (self.context, self.memory, self.calls, self.calls_functions, self.vectors) = (0, 0, 0, false, false);
        self.blocks.clear();
        let mut bytes = Bytes { bytes: operators, position: 0 };
        let mut loops = 0;
        while self.operator(&mut bytes, &mut loops).is_some() {}
    }

    #[inline]
    fn operator(&mut self, bytes: &mut Bytes<'_>, loops: &mut u32) -> Option<()> {
        let opcode = bytes.byte()?;
        let weight = 1u32 << (LOOP_LOG2 * (*loops).min(MAX_LOOPS));
        match opcode {
            0x20..=0x22 => {
                let index = bytes.leb()?;
                let count = self.locals.get_mut(index as usize)?;
                *count = count.saturating_add(weight);
                let (word, bit) = (index as usize / 64, 1 << (index % 64));
                if self.seen[word] & bit == 0 {
                    self.seen[word] |= bit;
                    if opcode != 0x20 && self.blocks.is_empty() {
                        self.written_first[word] |= bit;
                    }
                }
            }
            0x28..=0x3e => {
                if bytes.memarg()? == 0 {
                    self.memory = self.memory.saturating_add(weight);
                }
            }
            0x02..=0x04 => {
                bytes.leb()?;
                self.blocks.push(opcode == 0x03);
                *loops += u32::from(opcode == 0x03);
            }
            0x0b => {
                if self.blocks.pop().unwrap_or(false) {
                    *loops -= 1;
                }
            }
            0x00 | 0x01 | 0x05 | 0x0f | 0x1a | 0x1b | 0x45..=0xc4 | 0xd1 | 0xd4 => {}
            0x0c | 0x0d | 0x41 | 0x42 | 0xd0 => {
                bytes.leb()?;
            }
            0x0e => {
                for _ in 0..u64::from(bytes.leb()?) + 1 {
                    bytes.leb()?;
                }
            }
            0x10 | 0x12 | 0x14 | 0x15 => {
                bytes.leb()?;
                self.call(weight);
                self.calls_functions = true;
            }
            0x11 | 0x13 => {
                bytes.leb()?;
                bytes.leb()?;
                self.context = self.context.saturating_add(weight);
                self.call(weight);
                self.calls_functions = true;
            }
            0x1c => {
                for _ in 0..bytes.leb()? {
                    bytes.leb()?;
                }
            }
            0x23 | 0x24 | 0x3f => {
                bytes.leb()?;
                self.context = self.context.saturating_add(weight);
            }
            0x25 | 0x26 | 0x40 | 0xd2 => {
                bytes.leb()?;
                self.call(weight);
            }
            0x43 => bytes.position += 4,
            0x44 => bytes.position += 8,
            0xfc => self.bulk(bytes, weight)?,
            0xfd => self.vector(bytes, weight)?,
            _ => return None,
        }
        Some(())
    }

    fn call(&mut self, weight: u32) {
        self.calls = self.calls.saturating_add(weight);
    }

    fn bulk(&mut self, bytes: &mut Bytes<'_>, weight: u32) -> Option<()> {
        let immediates = match bytes.leb()? {
            0..=7 | 19..=22 => return Some(()),
            8 | 10 | 12 | 14 => 2,
            9 | 11 | 13 | 15..=17 => 1,
            _ => return None,
        };
        self.call(weight);
        for _ in 0..immediates {
            bytes.leb()?;
        }
        Some(())
    }

    fn vector(&mut self, bytes: &mut Bytes<'_>, weight: u32) -> Option<()> {
        self.vectors = true;
        let opcode = bytes.leb()?;
        match opcode {
            0..=11 | 84..=93 => {
                if bytes.memarg()? == 0 {
                    self.memory = self.memory.saturating_add(weight);
                }
                if (84..=91).contains(&opcode) {
                    bytes.position += 1;
                }
            }
            12 | 13 => bytes.position += 16,
            21..=34 => bytes.position += 1,
            _ => {}
        }
        Some(())
    }
}
