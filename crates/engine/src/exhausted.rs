//! What the system ran out of when it refused memory: usually not memory, but mappings, whose number is limited for a process.

use crate::error::Error;
use std::io;

/// The part of the mappings, in percent, beyond which they are what is missing. A module or an instance asks for several at once.
const ALMOST_ALL_PERCENT: usize = 99;

/// `error` with what can be done about it, if the system refused memory because there are too many mappings.
#[cold]
pub(crate) fn explain(error: Error) -> Error {
    let is_memory = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory)
    };
    if !error.chain().any(is_memory) {
        return error;
    }
    match mappings() {
        Some((count, max)) if count >= max / 100 * ALMOST_ALL_PERCENT => error.context(format!(
            "the process has {count} memory mappings and the system allows {max}; drop modules, instances or stores that are not needed, or \
             raise `vm.max_map_count`"
        )),
        _ => error,
    }
}

/// How many mappings the process has, and how many it may have. `None` where the system does not tell.
fn mappings() -> Option<(usize, usize)> {
    let max = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    Some((maps.lines().count(), max.trim().parse().ok()?))
}
