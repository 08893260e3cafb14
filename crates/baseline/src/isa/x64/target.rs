//! Names and features of x86-64 processors.

use peregrine_artifact::compiler::CompileError;
use peregrine_artifact::settings::{Settings, Target};

/// What is put between functions: an instruction that traps.
pub(crate) const PADDING: u8 = 0xcc;

/// What later than SSE4.1 the processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    pub popcnt: bool,
    pub lzcnt: bool,
    pub bmi1: bool,
    pub bmi2: bool,
    /// Fused multiplication and addition, as the optimizing tier decides it.
    pub fma: bool,
    /// A dot product of four bytes, likewise.
    pub dot_of_four: bool,
}

/// What code may rely on: exactly what the settings list.
///
/// # Errors
///
/// [`CompileError::Unsupported`] for another architecture or a processor without SSE4.1.
pub(crate) fn features(settings: &Settings) -> Result<Features, CompileError> {
    let target = &settings.target;
    if !target.triple.starts_with("x86_64") {
        let message = format!("the target `{}`; the baseline tier has code for x86_64", target.triple);
        return Err(CompileError::Unsupported { message });
    }
    let has = |name: &str| target.cpu_features.iter().any(|feature| feature == name);
    if let Some(missing) = ["has_sse3", "has_ssse3", "has_sse41"].into_iter().find(|name| !has(name)) {
        let message = format!("a processor without `{missing}`, which the baseline tier needs");
        return Err(CompileError::Unsupported { message });
    }
    let all = |names: [&str; 2]| names.into_iter().all(has);
    Ok(Features {
        popcnt: has("has_popcnt"),
        lzcnt: has("has_lzcnt"),
        bmi1: has("has_bmi1"),
        bmi2: has("has_bmi2"),
        fma: all(["has_avx", "has_fma"]),
        dot_of_four: all(["has_avx", "has_avx_vnni"]) || all(["has_avx512vl", "has_avx512vnni"]),
    })
}

/// A target for a triple with what this tier needs, or this machine with all of its features.
///
/// # Errors
///
/// [`CompileError::Unsupported`].
pub(crate) fn target(triple: Option<&str>) -> Result<Target, CompileError> {
    let (triple, mut features) = match triple {
        Some(triple) if triple.starts_with("x86_64") && triple.contains("linux") => (triple, vec!["has_sse3", "has_ssse3", "has_sse41"]),
        Some(triple) => {
            let message = format!("the target `{triple}`; the baseline tier has code for x86_64 on linux");
            return Err(CompileError::Unsupported { message });
        }
        None => ("x86_64-unknown-linux-gnu", native_features()?),
    };
    features.sort_unstable();
    Ok(Target { triple: triple.to_string(), cpu_features: features.into_iter().map(String::from).collect() })
}

#[cfg(target_arch = "x86_64")]
fn native_features() -> Result<Vec<&'static str>, CompileError> {
    macro_rules! detected {
        ($($feature:tt $name:literal)*) => { [$((std::is_x86_feature_detected!($feature), $name)),*] };
    }
    let features = detected!(
        "sse3" "has_sse3" "ssse3" "has_ssse3" "cmpxchg16b" "has_cmpxchg16b" "sse4.1" "has_sse41" "sse4.2" "has_sse42"
        "popcnt" "has_popcnt" "avx" "has_avx" "avx2" "has_avx2" "fma" "has_fma" "bmi1" "has_bmi1" "bmi2" "has_bmi2"
        "lzcnt" "has_lzcnt" "avx512bitalg" "has_avx512bitalg" "avx512dq" "has_avx512dq" "avx512f" "has_avx512f"
        "avx512vl" "has_avx512vl" "avx512vbmi" "has_avx512vbmi" "avx512vnni" "has_avx512vnni" "avxvnni" "has_avx_vnni"
    );
    Ok(features.into_iter().filter(|feature| feature.0).map(|feature| feature.1).collect())
}

#[cfg(not(target_arch = "x86_64"))]
fn native_features() -> Result<Vec<&'static str>, CompileError> {
    let message = String::from("this machine; the baseline tier has code for x86_64");
    Err(CompileError::Unsupported { message })
}
