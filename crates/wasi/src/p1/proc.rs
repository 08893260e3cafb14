//! `proc_exit` and `proc_raise`.

use super::memory::GuestMemory;
use super::types::{Errno, SIGNAL_MAX};
use super::{Exit, WasiP1Ctx};

impl WasiP1Ctx {
    /// Ends the guest. The caller unwinds it; nothing is closed until the context is dropped.
    pub fn proc_exit(&mut self, _memory: &mut GuestMemory<'_>, rval: u32) -> Exit {
        Exit { code: rval }
    }

    /// Signals do not exist here: `none` succeeds, any other signal is not supported.
    pub fn proc_raise(&mut self, _memory: &mut GuestMemory<'_>, sig: u32) -> Result<(), Errno> {
        match sig {
            0 => Ok(()),
            1..=SIGNAL_MAX => Err(Errno::Notsup),
            _ => Err(Errno::Inval),
        }
    }
}
