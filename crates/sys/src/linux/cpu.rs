//! The features of the processor, by the names that compilers use for them.
//!
//! The caller (the engine, when it compiles for this machine or checks an image) compares names; what a feature means for code is
//! the compilers' knowledge.

use std::sync::LazyLock;

static FEATURES: LazyLock<Vec<&'static str>> = LazyLock::new(detect);

/// The features of this processor that the system lets programs use, each once, in a fixed order.
///
/// On x86_64 from: `sse3 ssse3 sse41 sse42 popcnt cmpxchg16b lzcnt bmi1 bmi2 fma f16c avx avx2 avx512f avx512dq avx512bw avx512vl
/// avx512cd avx512bitalg avx512vbmi avx512vnni avx_vnni avx512vpopcntdq adx aes pclmulqdq sha movbe`.
/// On aarch64 from: `lse lse2 paca pacg fp16 dotprod crc bti rcpc sve aes sha2 i8mm`.
pub fn features() -> &'static [&'static str] {
    &FEATURES
}

/// Whether the processor has the feature of this name; false for a name that is not in the list of [`features`].
pub fn has_feature(name: &str) -> bool {
    FEATURES.contains(&name)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;

    let all = [
        ("sse3", has!("sse3")),
        ("ssse3", has!("ssse3")),
        ("sse41", has!("sse4.1")),
        ("sse42", has!("sse4.2")),
        ("popcnt", has!("popcnt")),
        ("cmpxchg16b", has!("cmpxchg16b")),
        ("lzcnt", has!("lzcnt")),
        ("bmi1", has!("bmi1")),
        ("bmi2", has!("bmi2")),
        ("fma", has!("fma")),
        ("f16c", has!("f16c")),
        ("avx", has!("avx")),
        ("avx2", has!("avx2")),
        ("avx512f", has!("avx512f")),
        ("avx512dq", has!("avx512dq")),
        ("avx512bw", has!("avx512bw")),
        ("avx512vl", has!("avx512vl")),
        ("avx512cd", has!("avx512cd")),
        ("avx512bitalg", has!("avx512bitalg")),
        ("avx512vbmi", has!("avx512vbmi")),
        ("avx512vnni", has!("avx512vnni")),
        ("avx_vnni", has!("avxvnni")),
        ("avx512vpopcntdq", has!("avx512vpopcntdq")),
        ("adx", has!("adx")),
        ("aes", has!("aes")),
        ("pclmulqdq", has!("pclmulqdq")),
        ("sha", has!("sha")),
        ("movbe", has!("movbe")),
    ];
    all.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;

    let all = [
        ("lse", has!("lse")),
        ("lse2", has!("lse2")),
        ("paca", has!("paca")),
        ("pacg", has!("pacg")),
        ("fp16", has!("fp16")),
        ("dotprod", has!("dotprod")),
        ("crc", has!("crc")),
        ("bti", has!("bti")),
        ("rcpc", has!("rcpc")),
        ("sve", has!("sve")),
        ("aes", has!("aes")),
        ("sha2", has!("sha2")),
        ("i8mm", has!("i8mm")),
    ];
    all.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_agree_with_the_kernel() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags: Vec<&str> = info
            .lines()
            .find(|line| line.starts_with("flags") || line.starts_with("Features"))
            .and_then(|line| line.split_once(':'))
            .map(|(_, flags)| flags.split_whitespace().collect())
            .unwrap_or_default();
        let same_name = ["ssse3", "popcnt", "bmi1", "bmi2", "fma", "avx", "avx2", "avx512f", "avx512vl", "sha2", "i8mm"];
        for name in same_name.iter().filter(|name| features().contains(name)) {
            assert!(flags.contains(name), "{name} is not in {flags:?}");
        }
        assert!(!has_feature("no such feature"));
        assert!(features().iter().all(|name| has_feature(name)));
    }
}
