//! What this process holds, as Linux tells it.

use std::fs;

/// A snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Address space.
    pub address_bytes: f64,
    /// Memory that is resident.
    pub resident_bytes: f64,
    /// Mappings.
    pub mappings: f64,
    /// Open file descriptors.
    pub descriptors: f64,
}

impl Held {
    /// What is held now.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse().map_or(f64::NAN, |kilobytes: f64| kilobytes * 1024.0)
        };
        Self {
            address_bytes: bytes("VmSize:"),
            resident_bytes: bytes("VmRSS:"),
            mappings: fs::read_to_string("/proc/self/maps").map_or(f64::NAN, |maps| maps.lines().count() as f64),
            descriptors: fs::read_dir("/proc/self/fd").map_or(f64::NAN, |entries| entries.count() as f64),
        }
    }
}
