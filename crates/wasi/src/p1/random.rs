//! `random_get`.

use super::WasiP1Ctx;
use super::memory::GuestMemory;
use super::types::Errno;

impl WasiP1Ctx {
    /// Fills `buf` with random bytes, in place.
    pub fn random_get(&mut self, memory: &mut GuestMemory<'_>, buf: u32, buf_len: u32) -> Result<(), Errno> {
        Ok(self.ctx.random.fill(memory.slice_mut(buf, buf_len)?)?)
    }
}
