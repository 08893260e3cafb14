//! How much address space a process may have: what the processor and the system give, and what `ulimit -v` leaves of it.

use std::fmt;
use std::num::NonZeroUsize;

use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};

use super::pages::page_size;

/// Address space as measured at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// What programs can address, in bytes: a power of two.
    pub size_bytes: u64,
    /// What this process may map, in bytes (`RLIMIT_AS`, set by `ulimit -v`), if that is limited.
    pub limit_bytes: Option<u64>,
}

impl AddressSpace {
    /// Measures.
    pub fn measure() -> Self {
        // The highest half that has an address in it tells the size. 2^47 is what x86-64 has, and 2^48 what most others do: more is given to
        // those only who ask for it.
        let size_log2 = (31..=46).rev().find(|half| has_address(1 << half)).map_or(31, |half| half + 1);
        Self { size_bytes: 1 << size_log2, limit_bytes: getrlimit(Resource::As).current }
    }

    /// Whether `ulimit -v` limits the process at this moment, however high.
    pub fn is_limited() -> bool {
        getrlimit(Resource::As).current.is_some()
    }

    /// What the process may map in all, in bytes.
    pub fn available_bytes(&self) -> u64 {
        self.limit_bytes.unwrap_or(u64::MAX).min(self.size_bytes)
    }
}

/// Says what limits the process and how to change that.
impl fmt::Display for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit_bytes {
            Some(limit) if limit < self.size_bytes => write!(f, "`ulimit -v` (RLIMIT_AS) is {} KiB", limit >> 10),
            _ => write!(f, "processes of this machine have {} GiB of address space", self.size_bytes >> 30),
        }
    }
}

/// Whether programs can have something at `address`.
fn has_address(address: u64) -> bool {
    let Some(address) = usize::try_from(address).ok().and_then(NonZeroUsize::new) else { return false };
    let hint = std::ptr::without_provenance_mut::<std::ffi::c_void>(address.get());
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: where something is mapped already, it is not replaced.
    match unsafe { rustix::mm::mmap_anonymous(hint, page_size(), ProtFlags::empty(), flags) } {
        Ok(mapped) => {
            // SAFETY: the page was just mapped, and nobody else knows it.
            let _ = unsafe { rustix::mm::munmap(mapped, page_size()) };
            mapped == hint
        }
        Err(error) => error == rustix::io::Errno::EXIST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_room() {
        let space = AddressSpace::measure();
        assert!((1 << 38..=1 << 48).contains(&space.size_bytes), "{space:?}");
        assert!(space.available_bytes() <= space.size_bytes);
        let limited = AddressSpace { limit_bytes: Some(4_000_000 << 10), ..space };
        assert_eq!((limited.available_bytes(), limited.to_string().as_str()), (4_000_000 << 10, "`ulimit -v` (RLIMIT_AS) is 4000000 KiB"));
    }
}
