//! What is called and what came of it, and whether two engines did the same.
//!
//! Made by [`super::subject`] and [`super::reference`], compared for [`super`].

use super::Tally;
use crate::differential::{Bits, Stop};

/// Elements of tables that are looked at.
pub(super) const TABLE_ELEMENTS: u64 = 256;

pub(super) struct Call {
    pub(super) name: String,
    pub(super) params: Vec<Bits>,
    pub(super) fuel: u64,
}

/// Calls, those of one instance together.
pub(super) type Script = Vec<Vec<Call>>;

/// What one instance did.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) steps: Vec<Step>,
    /// Nothing if it ran out of what engines have differently much of.
    pub(super) end: Option<End>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) outcome: Result<Vec<Bits>, Stopped>,
    /// What those of the results are to that are references; known of our own engines.
    pub(super) referents: Vec<Referent>,
    /// What is left; known of our own engines.
    pub(super) fuel: Option<u64>,
    pub(super) host: Host,
}

#[derive(Debug, Default)]
pub(super) struct Stopped {
    /// The trap as engines agree on it; nothing for those that only ours have.
    pub(super) stop: Option<Stop>,
    /// The trap, and where it was: of our own engines.
    pub(super) text: String,
    /// For each call that was under way its locals, those that are known, from the core dump of engines that make one.
    pub(super) locals: Vec<Vec<Option<Bits>>>,
}

/// What a reference is to. Functions have the same number wherever a reference to them is seen in a run: those that are exported come first,
/// then others as they are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Referent {
    Null,
    Function(usize),
    /// An object of the host's, by what the host made it of.
    Object(u32),
    Other,
}

/// What the host saw of a guest, as sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Host {
    pub(super) calls: u64,
    values: u64,
    /// Of our own engines.
    pub(super) backtraces: u64,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct End {
    pub(super) globals: Vec<(String, Bits)>,
    pub(super) memories: Vec<(String, Vec<u8>)>,
    /// Sizes, and which of the first elements are null.
    pub(super) tables: Vec<(String, u64, Vec<bool>)>,
    /// What references in globals and tables are to; known of our own engines.
    pub(super) referents: Vec<(String, Vec<Referent>)>,
}

/// Adds a value to a sum.
pub(super) fn mix(sum: u64, value: u64) -> u64 {
    (sum.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95)
}

impl Host {
    pub(super) fn log(&mut self, value: i64) -> i64 {
        self.calls += 1;
        self.values = mix(self.values, value.cast_unsigned());
        (self.values >> 7).cast_signed()
    }
}

impl Default for Step {
    fn default() -> Self {
        Self { outcome: Ok(Vec::new()), referents: Vec::new(), fuel: None, host: Host::default() }
    }
}

impl Step {
    pub(super) fn is_exhausted(&self) -> bool {
        self.outcome.as_ref().is_err_and(|stopped| stopped.stop == Some(Stop::Resources))
    }

    fn is_stopped_by_fuel(&self) -> bool {
        self.outcome.as_ref().is_err_and(|stopped| stopped.stop.is_none())
    }

    /// Whether it is what another engine of ours did too, but for locals in core dumps.
    fn is_same(&self, other: &Self) -> bool {
        let outcome = match (&self.outcome, &other.outcome) {
            (Ok(results), Ok(others)) => results == others,
            (Err(stopped), Err(other)) => (stopped.stop, &stopped.text) == (other.stop, &other.text),
            _ => false,
        };
        outcome && self.referents == other.referents && self.fuel == other.fuel && self.host == other.host
    }

    /// Whether it is what the reference did too.
    fn is_same_as_reference(&self, reference: &Self) -> bool {
        let stop = |step: &Self| step.outcome.as_ref().err().and_then(|stopped| stopped.stop);
        stop(self) == stop(reference)
            && self.outcome.as_ref().ok() == reference.outcome.as_ref().ok()
            && (self.host.calls, self.host.values) == (reference.host.calls, reference.host.values)
    }

    fn locals(&self) -> &[Vec<Option<Bits>>] {
        self.outcome.as_ref().map_or_else(|stopped| &stopped.locals[..], |_| &[])
    }

    /// Compares the locals of core dumps, as far as both have them, and learns those that only `found` has. How many were compared.
    fn judge_locals(&mut self, found: &Self) -> Result<u64, String> {
        let Err(stopped) = &mut self.outcome else { return Ok(0) };
        let mut compared = 0;
        if stopped.locals.len() != found.locals().len() {
            return Err(format!("the core dump has {} calls, expected {}", found.locals().len(), stopped.locals.len()));
        }
        for (frame, (expected, found)) in stopped.locals.iter_mut().zip(found.locals()).enumerate() {
            if expected.len() != found.len() {
                return Err(format!("the core dump, call {frame}: {} locals, expected {}", found.len(), expected.len()));
            }
            for (local, (expected, found)) in expected.iter_mut().zip(found).enumerate() {
                match (*expected, *found) {
                    (Some(known), Some(found)) if is_same_local(known, found) => compared += 1,
                    (Some(known), Some(found)) => {
                        return Err(format!("the core dump, call {frame}, local {local}: expected {known:x?}, found {found:x?}"));
                    }
                    (None, Some(_)) => *expected = *found,
                    (_, None) => {}
                }
            }
        }
        Ok(compared)
    }
}

/// Whether a local holds the same. Programs are made such that no NaN is seen before it is made canonical, but for locals that it is in until then.
fn is_same_local(a: Bits, b: Bits) -> bool {
    let single = |a: u32, b: u32| a == b || f32::from_bits(a).is_nan() && f32::from_bits(b).is_nan();
    let double = |a: u64, b: u64| a == b || f64::from_bits(a).is_nan() && f64::from_bits(b).is_nan();
    match (a, b) {
        (Bits::F32(a), Bits::F32(b)) => single(a, b),
        (Bits::F64(a), Bits::F64(b)) => double(a, b),
        (Bits::V128(a), Bits::V128(b)) => {
            let singles = (0..4).all(|lane| single((a >> (32 * lane)) as u32, (b >> (32 * lane)) as u32));
            let doubles = (0..2).all(|lane| double((a >> (64 * lane)) as u64, (b >> (64 * lane)) as u64));
            singles || doubles
        }
        _ => a == b,
    }
}

impl End {
    /// Engines list exports in different orders; here they go by name.
    pub(super) fn sort(&mut self) {
        self.globals.sort_by(|a, b| a.0.cmp(&b.0));
        self.memories.sort_by(|a, b| a.0.cmp(&b.0));
        self.tables.sort_by(|a, b| a.0.cmp(&b.0));
    }
}

/// Compares the runs of the first engine with those of another of ours, or with those of the reference. Learns what the first one did not know.
pub(super) fn judge(script: &Script, expected: &mut [Run], found: &[Run], is_reference: bool, tally: &mut Tally) -> Result<(), String> {
    for ((calls, expected), found) in script.iter().zip(expected).zip(found) {
        for (number, (expected, found)) in expected.steps.iter_mut().zip(&found.steps).enumerate() {
            let place = || match number.checked_sub(1) {
                None => String::from("making the instance"),
                Some(call) => format!("call {number} of an instance, `{}` with {:x?}", calls[call].name, calls[call].params),
            };
            if expected.is_exhausted() || found.is_exhausted() {
                tally.skip("the stack or a resource was used up");
                break;
            }
            if is_reference && expected.is_stopped_by_fuel() {
                tally.skip("out of fuel, which wasmi was not given");
                break;
            }
            let same = if is_reference { expected.is_same_as_reference(found) } else { expected.is_same(found) };
            if !same {
                return Err(format!("{}:\n  expected {expected:x?}\n  found    {found:x?}", place()));
            }
            if !is_reference {
                tally.locals += expected.judge_locals(found).map_err(|difference| format!("{}: {difference}", place()))?;
            }
            tally.calls += u64::from(number > 0);
            tally.traps += u64::from(number > 0 && found.outcome.is_err());
        }
        let all = |run: &Run| run.steps.iter().all(|step| !(step.is_exhausted() || is_reference && step.is_stopped_by_fuel()));
        if let (Some(before), Some(after), true) = (&expected.end, &found.end, all(expected) && all(found)) {
            judge_end(before, after, is_reference).map_err(|difference| format!("after the calls of an instance, {difference}"))?;
        }
    }
    Ok(())
}

fn judge_end(expected: &End, found: &End, is_reference: bool) -> Result<(), String> {
    for ((name, expected), (_, found)) in expected.globals.iter().zip(&found.globals) {
        if expected != found {
            return Err(format!("the global `{name}`: expected {expected:x?}, found {found:x?}"));
        }
    }
    for ((name, expected), (_, found)) in expected.memories.iter().zip(&found.memories) {
        if let Some(at) = expected.iter().zip(found).position(|(expected, found)| expected != found) {
            return Err(format!("the memory `{name}` at {at:#x}: expected {:#04x}, found {:#04x}", expected[at], found[at]));
        }
        if expected.len() != found.len() {
            return Err(format!("the memory `{name}`: expected {} bytes, found {}", expected.len(), found.len()));
        }
    }
    if expected.tables != found.tables {
        return Err(format!("the tables: expected {:?}, found {:?}", expected.tables, found.tables));
    }
    if !is_reference && expected.referents != found.referents {
        return Err(format!("what references are to: expected {:?}, found {:?}", expected.referents, found.referents));
    }
    if (expected.globals.len(), expected.memories.len()) != (found.globals.len(), found.memories.len()) {
        return Err("the exports differ".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(locals: Vec<Vec<Option<Bits>>>) -> Step {
        Step { outcome: Err(Stopped { locals, ..Stopped::default() }), ..Step::default() }
    }

    #[test]
    fn locals_are_compared_where_both_have_them_and_learnt_otherwise() {
        let (one, two) = (Some(Bits::I32(1)), Some(Bits::I32(2)));
        let mut expected = stopped(vec![vec![one, None], vec![None]]);
        assert_eq!(expected.judge_locals(&stopped(vec![vec![None, two], vec![one]])), Ok(0));
        assert_eq!(expected.judge_locals(&stopped(vec![vec![one, two], vec![None]])), Ok(2));
        let difference = expected.judge_locals(&stopped(vec![vec![one, two], vec![two]])).unwrap_err();
        assert!(difference.contains("call 1, local 0: expected I32(1), found I32(2)"), "{difference}");
        assert!(expected.judge_locals(&stopped(vec![vec![one, two]])).is_err());
        assert!(expected.judge_locals(&stopped(vec![vec![one], vec![None]])).is_err());
    }

    #[test]
    fn locals_differ_unless_it_is_in_the_kind_of_nan() {
        let nans = (Bits::F32(0x7fc0_0000), Bits::F32(0xffc0_0001));
        assert!(is_same_local(nans.0, nans.1) && !is_same_local(nans.0, Bits::F32(0)) && !is_same_local(Bits::F32(0), Bits::F32(1)));
        let vectors = (Bits::V128(7 << 96 | 0x7fc0_0000), Bits::V128(7 << 96 | 0xffc0_0001), Bits::V128(8 << 96 | 0xffc0_0001));
        assert!(is_same_local(vectors.0, vectors.1) && !is_same_local(vectors.0, vectors.2));
        assert!(!is_same_local(Bits::I32(0x7fc0_0000), Bits::I32(0xffc0_0001)));
    }

    #[test]
    fn references_differ_by_what_they_are_to() {
        let end = |number| End { referents: vec![("table".into(), vec![Referent::Null, Referent::Function(number)])], ..End::default() };
        assert!(judge_end(&end(1), &end(1), false).is_ok() && judge_end(&end(1), &end(2), false).is_err());
        assert!(judge_end(&end(1), &End::default(), true).is_ok());
    }
}
