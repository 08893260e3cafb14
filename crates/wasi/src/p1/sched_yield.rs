//! `sched_yield`.

use super::WasiP1Ctx;
use super::memory::GuestMemory;
use super::types::Errno;

impl WasiP1Ctx {
    /// Lets other threads run.
    pub fn sched_yield(&mut self, _memory: &mut GuestMemory<'_>) -> Result<(), Errno> {
        rustix::thread::sched_yield();
        Ok(())
    }
}
