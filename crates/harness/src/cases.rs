//! Cases of the fuzzer: bytes, what kind of module is made of them, and what it is compiled with. A seed stands for one case.
//!
//! [`crate::tiers`] runs cases; the program `fuzz` makes them by the thousand, and smaller ones of those that fail ([`Case::smaller`]).

use crate::modules::{self, Random, seed_bytes};
use crate::programs;

/// How bytes become a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// wasm-smith, with what the reference interpreter has too.
    Common,
    /// wasm-smith, with all that Peregrine has.
    Wide,
    /// A program with loops ([`programs::looping`]).
    Loops,
    /// A program with loops, references, atomics and much else ([`programs::rich`]).
    Rich,
}

/// What code is compiled with, apart from the tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// The defaults.
    Plain,
    /// Executed instructions are counted, and do not always suffice.
    Fuel,
    /// Loops look at the deadline, memories are checked, functions are not inlined.
    Checked,
    /// The optimizing tier does not optimize.
    Unoptimized,
    /// NaNs are made canonical by the compilers.
    CanonicalNans,
    /// For processors without any extension.
    OldProcessor,
    /// Locals are kept for core dumps, which every trap has.
    KeptLocals,
    /// Relaxed vector operators do what they do on every processor.
    Deterministic,
    /// Memories do not move when they grow.
    FixedMemories,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// How `bytes` become a module.
    pub kind: Kind,
    /// What it is compiled with.
    pub variant: Variant,
    /// What it is made of.
    pub bytes: Vec<u8>,
}

const KINDS: [(Kind, &str); 4] = [(Kind::Common, "common"), (Kind::Wide, "wide"), (Kind::Loops, "loops"), (Kind::Rich, "rich")];
const VARIANTS: [(Variant, &str); 9] = [
    (Variant::Plain, "plain"),
    (Variant::Fuel, "fuel"),
    (Variant::Checked, "checked"),
    (Variant::Unoptimized, "unoptimized"),
    (Variant::CanonicalNans, "canonical-nans"),
    (Variant::OldProcessor, "old-processor"),
    (Variant::KeptLocals, "kept-locals"),
    (Variant::Deterministic, "deterministic"),
    (Variant::FixedMemories, "fixed-memories"),
];

/// A module in the text format, as far as it can be printed.
pub fn text(wasm: &[u8]) -> String {
    wasmprinter::print_bytes(wasm).unwrap_or_else(|error| format!("(the module cannot be printed: {error})"))
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

impl Case {
    /// The case of a seed, the same on every machine.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let kind = [Kind::Common, Kind::Wide, Kind::Loops, Kind::Rich, Kind::Rich][random.below(5)];
        let variant = VARIANTS[random.below(VARIANTS.len())].0;
        let len_bytes = match kind {
            Kind::Common | Kind::Wide => 2000 + random.below(10_000),
            Kind::Loops | Kind::Rich => 200 + random.below(4000),
        };
        Self { kind, variant, bytes: seed_bytes(seed, len_bytes) }
    }

    /// A case of any kind and variant, as `choice` says.
    pub fn of_choice(choice: u8, bytes: Vec<u8>) -> Self {
        let choice = usize::from(choice);
        Self { kind: KINDS[choice % KINDS.len()].0, variant: VARIANTS[choice / KINDS.len() % VARIANTS.len()].0, bytes }
    }

    /// The module; `None` if the bytes make none that can be run.
    pub fn module(&self) -> Option<Vec<u8>> {
        match self.kind {
            Kind::Common => modules::terminating(&self.bytes),
            Kind::Wide => {
                let wasm = modules::wide(&self.bytes, self.variant != Variant::Fuel)?;
                // Waiting ends when another thread says so, or after up to 292 years.
                let waits = |text: String| text.contains(".atomic.wait");
                wasmprinter::print_bytes(&wasm).is_ok_and(|text| !waits(text)).then_some(wasm)
            }
            Kind::Rich => Some(programs::rich(&self.bytes, self.variant != Variant::CanonicalNans)),
            Kind::Loops => Some(programs::looping(&self.bytes, self.variant != Variant::CanonicalNans)),
        }
    }

    /// Whether other engines do the same to the bit.
    pub fn has_reference(&self) -> bool {
        matches!(self.kind, Kind::Common | Kind::Loops) && self.variant != Variant::CanonicalNans
    }

    /// Cases that may fail in the same way and are smaller: without the end, and with stretches of zeros.
    pub fn smaller(&self) -> Vec<Self> {
        let with = |bytes: Vec<u8>| Self { bytes, ..self.clone() };
        let len = self.bytes.len();
        let mut cases: Vec<Self> = [2, 4, 8, 16, 32]
            .iter()
            .map(|part| len - (len / part).max(1).min(len))
            .filter(|shorter| *shorter < len)
            .map(|shorter| with(self.bytes[..shorter].to_vec()))
            .collect();
        for part in [2, 4, 8, 16, 32] {
            let stretch = (len / part).max(1);
            for start in (0..len).step_by(stretch) {
                let stretch = start..(start + stretch).min(len);
                if self.bytes[stretch.clone()].iter().any(|byte| *byte != 0) {
                    let mut bytes = self.bytes.clone();
                    bytes[stretch].fill(0);
                    cases.push(with(bytes));
                }
            }
        }
        cases
    }

    /// The case as a file: a line that names kind and variant, then the bytes.
    pub fn to_file(&self) -> Vec<u8> {
        let variant = VARIANTS.iter().find(|(variant, _)| *variant == self.variant).map_or("", |(_, name)| name);
        let mut file = format!("fuzz {} {variant}\n", self.kind.name()).into_bytes();
        file.extend_from_slice(&self.bytes);
        file
    }

    /// What [`to_file`](Self::to_file) made.
    ///
    /// # Errors
    ///
    /// If it did not.
    pub fn from_file(file: &[u8]) -> Result<Self, String> {
        let wrong = || String::from("the first line does not read `fuzz KIND VARIANT`");
        let end = file.iter().position(|byte| *byte == b'\n').ok_or_else(wrong)?;
        let line = String::from_utf8_lossy(&file[..end]).into_owned();
        let ["fuzz", kind, variant] = line.split(' ').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let kind = KINDS.iter().find(|(_, name)| *name == kind).ok_or_else(|| format!("there is no kind `{kind}`"))?.0;
        let variant = VARIANTS.iter().find(|(_, name)| *name == variant).ok_or_else(|| format!("there is no variant `{variant}`"))?.0;
        Ok(Self { kind, variant, bytes: file[end + 1..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_give_back_their_cases() {
        for seed in 0..40 {
            let case = Case::of_seed(seed);
            assert_eq!(Case::from_file(&case.to_file()), Ok(case));
        }
        for wrong in ["", "fuzz loops plain", "fuzz loops\n", "fuzz x plain\n", "fuzz loops x\n"] {
            assert!(Case::from_file(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn smaller_cases_come_to_an_end() {
        let mut case = Case::of_seed(3);
        for _ in 0..10_000 {
            match case.smaller().into_iter().next() {
                Some(smaller) => case = smaller,
                None => break,
            }
        }
        assert!(case.bytes.iter().all(|byte| *byte == 0), "{case:?}");
    }
}
