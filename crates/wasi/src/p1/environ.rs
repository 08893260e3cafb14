//! `environ_get` and `environ_sizes_get`.

use super::WasiP1Ctx;
use super::args::{store_sizes, store_strings};
use super::memory::GuestMemory;
use super::types::Errno;

impl WasiP1Ctx {
    /// Writes pointers to the variables at `environ` and the variables, as `name=value` with a NUL, at `environ_buf`.
    pub fn environ_get(&mut self, memory: &mut GuestMemory<'_>, environ: u32, environ_buf: u32) -> Result<(), Errno> {
        store_strings(memory, &self.ctx.env, environ, environ_buf)
    }

    /// Writes the count of variables and the bytes that they need.
    pub fn environ_sizes_get(&mut self, memory: &mut GuestMemory<'_>, count: u32, environ_buf_size: u32) -> Result<(), Errno> {
        store_sizes(memory, &self.ctx.env, count, environ_buf_size)
    }
}
