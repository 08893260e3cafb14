//! `clock_res_get` and `clock_time_get`.

use super::WasiP1Ctx;
use super::memory::GuestMemory;
use super::types::{self, Errno};

impl WasiP1Ctx {
    /// Writes the resolution of a clock, in nanoseconds.
    pub fn clock_res_get(&mut self, memory: &mut GuestMemory<'_>, id: u32, resolution: u32) -> Result<(), Errno> {
        memory.store_u64(resolution, self.ctx.clocks.resolution_ns(types::clock(id)?))
    }

    /// Writes the time of a clock, in nanoseconds. The precision is always the best there is.
    #[inline]
    pub fn clock_time_get(&mut self, memory: &mut GuestMemory<'_>, id: u32, _precision: u64, time: u32) -> Result<(), Errno> {
        memory.store_u64(time, self.ctx.clocks.now_ns(types::clock(id)?))
    }
}
