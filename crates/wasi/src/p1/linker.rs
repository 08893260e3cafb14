//! Binds the functions of preview 1 to an engine's linker. All of it is made from the table in [`super::table`].
//!
//! ```text
//! guest -> host function (Caller, operands) -> view of the exported memory + WasiP1Ctx -> method -> errno, or I32Exit
//! ```

use super::{GuestMemory, WasiP1Ctx};
use peregrine_engine::{Caller, Error, Extern, Linker, Result};
use std::fmt;

/// The module that guests import preview 1 from.
const MODULE: &str = "wasi_snapshot_preview1";
/// The export that all pointers refer to.
const MEMORY: &str = "memory";
/// Random bytes that are made until it is looked whether the guest is to stop: some milliseconds.
const RANDOM_SLICE_LEN_BYTES: u32 = 1 << 20;

/// The guest ended itself with this exit code: the error of the call that it was in, neither a trap nor a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct I32Exit(pub i32);

impl I32Exit {
    /// The exit code as the system takes it: what does not fit 0 to 255 is 1.
    pub fn process_exit_code(&self) -> i32 {
        if (0..256).contains(&self.0) { self.0 } else { 1 }
    }
}

impl fmt::Display for I32Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exited with code {}", self.0)
    }
}

impl std::error::Error for I32Exit {}

/// The Rust type of an operand in the table.
macro_rules! operand {
    (i32) => {
        u32
    };
    (i64) => {
        u64
    };
}

/// One host function: its body, by the kind of its result.
macro_rules! call {
    // What cannot be cut short, and takes long of large buffers.
    (errno, $caller:ident, $access:ident, random_get($buf:ident, $buf_len:ident)) => {
        random_get(&mut $caller, $access, $buf, $buf_len)
    };
    (errno, $caller:ident, $access:ident, $name:ident($($operand:ident),*)) => {{
        let (mut memory, host) = view(&mut $caller)?;
        Ok(match $access(host).$name(&mut memory, $($operand),*) {
            Ok(()) => 0,
            Err(errno) => errno as i32,
        })
    }};
    (exit, $caller:ident, $access:ident, $name:ident($($operand:ident),*)) => {{
        // A guest may end without a memory.
        let exit = $access($caller.data_mut()).$name(&mut GuestMemory::new(&mut []), $($operand),*);
        Err(Error::from(I32Exit(exit.code.cast_signed())))
    }};
}

macro_rules! define {
    ($linker:ident, $access:ident; $(fn $name:ident($($operand:ident: $type:ident),*) -> $result:ident;)*) => {
        $($linker.func_wrap(MODULE, stringify!($name), move |mut caller: Caller<'_, T>, $($operand: operand!($type)),*| -> Result<i32_or_unit!($result)> {
            call!($result, caller, $access, $name($($operand),*))
        })?;)*
    };
}

/// The WebAssembly result of a function: an error number, or nothing.
macro_rules! i32_or_unit {
    (errno) => {
        i32
    };
    (exit) => {
        ()
    };
}

/// Defines all 46 functions of `wasi_snapshot_preview1` in `linker`. `access` finds the context in the store's data, as `|host| host` does if
/// it is the data.
///
/// One call reads or writes 8 MiB at most, so that a guest that is to stop is soon asked, but for `sock_recv` that waits for all it has
/// room for; `random_get` of more than 1 MiB looks itself whether that is so, and ends with
/// [`Trap::Interrupt`](peregrine_engine::Trap::Interrupt) then. What waits, for a pipe or a clock, is not interrupted.
///
/// # Errors
///
/// If one of them is defined already.
pub fn add_to_linker_sync<T: 'static>(
    linker: &mut Linker<T>,
    access: impl Fn(&mut T) -> &mut WasiP1Ctx + Copy + Send + Sync + 'static,
) -> Result<()> {
    crate::for_each_p1_function!(define, linker, access;);
    Ok(())
}

/// Fills a buffer in slices, with a look between them at whether the guest is to stop.
fn random_get<T: 'static>(caller: &mut Caller<'_, T>, access: impl Fn(&mut T) -> &mut WasiP1Ctx, buf: u32, buf_len: u32) -> Result<i32> {
    if let Err(errno) = view(caller)?.0.check(buf, buf_len) {
        return Ok(errno as i32);
    }
    let mut done = 0;
    loop {
        let len = (buf_len - done).min(RANDOM_SLICE_LEN_BYTES);
        let (mut memory, host) = view(caller)?;
        // Within bounds, so it does not overflow.
        if let Err(errno) = access(host).random_get(&mut memory, buf + done, len) {
            return Ok(errno as i32);
        }
        done += len;
        if done == buf_len {
            return Ok(0);
        }
        caller.check_interruption()?;
    }
}

/// The memory of the calling guest, as it is now, and the store's data.
#[inline]
fn view<'a, T: 'static>(caller: &'a mut Caller<'_, T>) -> Result<(GuestMemory<'a>, &'a mut T)> {
    let Some(Extern::Memory(memory)) = caller.get_export(MEMORY) else {
        return Err(Error::msg("a guest that calls WASI must export its memory as `memory`"));
    };
    let (bytes, host) = memory.data_and_store_mut(caller);
    Ok((GuestMemory::new(bytes), host))
}
