//! Writes the addresses of functions into code, for every processor.
//!
//! All kinds are relative to the place. `delta` is the address of the target plus the addend minus the address of the place.

use peregrine_artifact::func::RelocKind;

/// The distance is beyond what the instruction can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

/// How many bytes at the place a kind touches.
pub(crate) fn size_bytes(kind: RelocKind) -> usize {
    match kind {
        RelocKind::X64Rel32 | RelocKind::Aarch64Call26 | RelocKind::S390xRel32Halfwords => 4,
        RelocKind::Riscv64CallPair => 8,
    }
}

/// Writes `delta` at the start of `place`, which has at least [`size_bytes`] bytes.
pub(crate) fn apply(kind: RelocKind, place: &mut [u8], delta: i64) -> Result<(), OutOfRange> {
    match kind {
        RelocKind::X64Rel32 => {
            let rel32 = i32::try_from(delta).map_err(|_| OutOfRange)?;
            place[..4].copy_from_slice(&rel32.to_le_bytes());
        }
        // `b` and `bl`: a signed word offset in the low 26 bits.
        RelocKind::Aarch64Call26 => {
            let words = aligned(delta, 4)?;
            if !(-(1 << 25)..1 << 25).contains(&words) {
                return Err(OutOfRange);
            }
            edit_u32(place, |instruction| instruction & 0xfc00_0000 | words as u32 & 0x03ff_ffff);
        }
        // `auipc` takes the upper 20 bits, rounded, since `jalr` adds the lower 12 with their sign.
        RelocKind::Riscv64CallPair => {
            let upper = (delta + 0x800) >> 12;
            if !(-(1 << 19)..1 << 19).contains(&upper) {
                return Err(OutOfRange);
            }
            let lower = delta - (upper << 12);
            edit_u32(place, |auipc| auipc & 0xfff | (upper as u32) << 12);
            edit_u32(&mut place[4..], |jalr| jalr & 0x000f_ffff | (lower as u32) << 20);
        }
        RelocKind::S390xRel32Halfwords => {
            let halfwords = i32::try_from(aligned(delta, 2)?).map_err(|_| OutOfRange)?;
            place[..4].copy_from_slice(&halfwords.to_be_bytes());
        }
    }
    Ok(())
}

/// Bytes of the code that [`aarch64_veneer`] makes.
pub(crate) const VENEER_BYTES: usize = 12;

/// How far a call reaches in either direction, for the kinds that reach less than a whole text.
pub(crate) fn reach_bytes(kind: RelocKind) -> Option<u32> {
    match kind {
        RelocKind::Aarch64Call26 => Some(1 << 27),
        RelocKind::X64Rel32 | RelocKind::Riscv64CallPair | RelocKind::S390xRel32Halfwords => None,
    }
}

/// Code that jumps from `place` of the text to `target`, up to 4 GiB away: `adrp x16`, `add x16`, `br x16`. The calling conventions leave
/// `x16` to linkers.
pub(crate) fn aarch64_veneer(place: u32, target: i64) -> [u8; VENEER_BYTES] {
    let pages = (target >> 12) - (i64::from(place) >> 12);
    let adrp = 0x9000_0010 | (pages as u32 & 3) << 29 | ((pages >> 2) as u32 & 0x7_ffff) << 5;
    let add = 0x9100_0210 | (target as u32 & 0xfff) << 10;
    let mut code = [0; VENEER_BYTES];
    for (bytes, instruction) in code.chunks_exact_mut(4).zip([adrp, add, 0xd61f_0200u32]) {
        bytes.copy_from_slice(&instruction.to_le_bytes());
    }
    code
}

fn aligned(delta: i64, unit: i64) -> Result<i64, OutOfRange> {
    if delta % unit == 0 { Ok(delta / unit) } else { Err(OutOfRange) }
}

fn edit_u32(place: &mut [u8], edit: impl FnOnce(u32) -> u32) {
    let bytes = &mut place[..4];
    let old = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    bytes.copy_from_slice(&edit(old).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: RelocKind, before: &[u8], delta: i64, expect: Option<&[u8]>) {
        let mut place = before.to_vec();
        let result = apply(kind, &mut place, delta);
        assert_eq!(result.is_ok().then_some(&place[..]), expect, "{kind:?} {delta}");
    }

    #[test]
    fn x64() {
        check(RelocKind::X64Rel32, &[0; 5], -5, Some(&[0xfb, 0xff, 0xff, 0xff, 0]));
        check(RelocKind::X64Rel32, &[0; 4], i32::MAX.into(), Some(&i32::MAX.to_le_bytes()));
        check(RelocKind::X64Rel32, &[0; 4], 1 << 31, None);
        check(RelocKind::X64Rel32, &[0; 4], -(1 << 31) - 1, None);
    }

    #[test]
    fn aarch64() {
        let bl = 0x9400_0000u32.to_le_bytes();
        check(RelocKind::Aarch64Call26, &bl, 8, Some(&0x9400_0002u32.to_le_bytes()));
        check(RelocKind::Aarch64Call26, &bl, -4, Some(&0x97ff_ffffu32.to_le_bytes()));
        check(RelocKind::Aarch64Call26, &bl, -(1 << 27), Some(&0x9600_0000u32.to_le_bytes()));
        check(RelocKind::Aarch64Call26, &bl, 1 << 27, None);
        check(RelocKind::Aarch64Call26, &bl, 2, None);
    }

    #[test]
    fn riscv64() {
        // auipc ra, 0; jalr ra, 0(ra)
        let pair = [0x0000_0097u32.to_le_bytes(), 0x0000_80e7u32.to_le_bytes()].concat();
        let with = |auipc: u32, jalr: u32| [auipc.to_le_bytes(), jalr.to_le_bytes()].concat();
        check(RelocKind::Riscv64CallPair, &pair, 0x7ff, Some(&with(0x0000_0097, 0x7ff0_80e7)));
        check(RelocKind::Riscv64CallPair, &pair, 0x800, Some(&with(0x0000_1097, 0x8000_80e7)));
        check(RelocKind::Riscv64CallPair, &pair, -1, Some(&with(0x0000_0097, 0xfff0_80e7)));
        check(RelocKind::Riscv64CallPair, &pair, -0x801, Some(&with(0xffff_f097, 0x7ff0_80e7)));
        check(RelocKind::Riscv64CallPair, &pair, 1 << 31, None);
    }

    #[test]
    fn s390x() {
        check(RelocKind::S390xRel32Halfwords, &[0; 4], 0x202, Some(&[0, 0, 1, 1]));
        check(RelocKind::S390xRel32Halfwords, &[0; 4], -2, Some(&[0xff; 4]));
        check(RelocKind::S390xRel32Halfwords, &[0; 4], 1, None);
        check(RelocKind::S390xRel32Halfwords, &[0; 4], 1 << 32, None);
    }
}
