//! The one table of preview 1: every function with its name, operands and result.
//!
//! [`for_each_p1_function!`](crate::for_each_p1_function) hands the table to a macro; the linker's glue, [`FUNCTIONS`] and
//! [`WasiP1Ctx::dispatch`] are all made from it.

use super::memory::GuestMemory;
use super::types::Errno;
use super::{Exit, WasiP1Ctx};

/// Hands every function of `wasi_snapshot_preview1` to the macro `$callback`, as a list of
/// `fn name(operand: type, ...) -> result;` where a type is `i32` or `i64`, and the result is `errno` (an `i32`) or `exit` (the function
/// does not return to the guest).
///
/// Methods of [`WasiP1Ctx`] take `u32` for `i32` and `u64` for `i64`, in the same order, after the memory. Tokens after the callback's
/// name are put before the list.
#[macro_export]
macro_rules! for_each_p1_function {
    ($($callback:ident)::+ $(, $($extra:tt)*)?) => {
        $($callback)::+! {
            $($($extra)*)?
            fn args_get(argv: i32, argv_buf: i32) -> errno;
            fn args_sizes_get(argc: i32, argv_buf_size: i32) -> errno;
            fn environ_get(environ: i32, environ_buf: i32) -> errno;
            fn environ_sizes_get(count: i32, environ_buf_size: i32) -> errno;
            fn clock_res_get(id: i32, resolution: i32) -> errno;
            fn clock_time_get(id: i32, precision: i64, time: i32) -> errno;
            fn fd_advise(fd: i32, offset: i64, len: i64, advice: i32) -> errno;
            fn fd_allocate(fd: i32, offset: i64, len: i64) -> errno;
            fn fd_close(fd: i32) -> errno;
            fn fd_datasync(fd: i32) -> errno;
            fn fd_fdstat_get(fd: i32, stat: i32) -> errno;
            fn fd_fdstat_set_flags(fd: i32, flags: i32) -> errno;
            fn fd_fdstat_set_rights(fd: i32, fs_rights_base: i64, fs_rights_inheriting: i64) -> errno;
            fn fd_filestat_get(fd: i32, stat: i32) -> errno;
            fn fd_filestat_set_size(fd: i32, size: i64) -> errno;
            fn fd_filestat_set_times(fd: i32, atim: i64, mtim: i64, fst_flags: i32) -> errno;
            fn fd_pread(fd: i32, iovs: i32, iovs_len: i32, offset: i64, nread: i32) -> errno;
            fn fd_prestat_get(fd: i32, prestat: i32) -> errno;
            fn fd_prestat_dir_name(fd: i32, path: i32, path_len: i32) -> errno;
            fn fd_pwrite(fd: i32, iovs: i32, iovs_len: i32, offset: i64, nwritten: i32) -> errno;
            fn fd_read(fd: i32, iovs: i32, iovs_len: i32, nread: i32) -> errno;
            fn fd_readdir(fd: i32, buf: i32, buf_len: i32, cookie: i64, bufused: i32) -> errno;
            fn fd_renumber(fd: i32, to: i32) -> errno;
            fn fd_seek(fd: i32, offset: i64, whence: i32, newoffset: i32) -> errno;
            fn fd_sync(fd: i32) -> errno;
            fn fd_tell(fd: i32, offset: i32) -> errno;
            fn fd_write(fd: i32, iovs: i32, iovs_len: i32, nwritten: i32) -> errno;
            fn path_create_directory(fd: i32, path: i32, path_len: i32) -> errno;
            fn path_filestat_get(fd: i32, flags: i32, path: i32, path_len: i32, stat: i32) -> errno;
            fn path_filestat_set_times(
                fd: i32, flags: i32, path: i32, path_len: i32, atim: i64, mtim: i64, fst_flags: i32
            ) -> errno;
            fn path_link(
                old_fd: i32, old_flags: i32, old_path: i32, old_path_len: i32, new_fd: i32, new_path: i32, new_path_len: i32
            ) -> errno;
            fn path_open(
                fd: i32, dirflags: i32, path: i32, path_len: i32, oflags: i32,
                fs_rights_base: i64, fs_rights_inheriting: i64, fdflags: i32, opened_fd: i32
            ) -> errno;
            fn path_readlink(fd: i32, path: i32, path_len: i32, buf: i32, buf_len: i32, bufused: i32) -> errno;
            fn path_remove_directory(fd: i32, path: i32, path_len: i32) -> errno;
            fn path_rename(
                fd: i32, old_path: i32, old_path_len: i32, new_fd: i32, new_path: i32, new_path_len: i32
            ) -> errno;
            fn path_symlink(old_path: i32, old_path_len: i32, fd: i32, new_path: i32, new_path_len: i32) -> errno;
            fn path_unlink_file(fd: i32, path: i32, path_len: i32) -> errno;
            fn poll_oneoff(subscriptions: i32, events: i32, nsubscriptions: i32, nevents: i32) -> errno;
            fn proc_exit(rval: i32) -> exit;
            fn proc_raise(sig: i32) -> errno;
            fn sched_yield() -> errno;
            fn random_get(buf: i32, buf_len: i32) -> errno;
            fn sock_accept(fd: i32, flags: i32, opened_fd: i32) -> errno;
            fn sock_recv(fd: i32, ri_data: i32, ri_data_len: i32, ri_flags: i32, nread: i32, ro_flags: i32) -> errno;
            fn sock_send(fd: i32, si_data: i32, si_data_len: i32, si_flags: i32, nwritten: i32) -> errno;
            fn sock_shutdown(fd: i32, how: i32) -> errno;
        }
    };
}

/// Type of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandType {
    /// 32 bits.
    I32,
    /// 64 bits.
    I64,
}

/// What a function gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultType {
    /// An error number, as an `i32`.
    Errno,
    /// Nothing: the guest ends.
    Exit,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct FunctionDescription {
    /// Which function.
    pub function: Function,
    /// Name under which a guest imports it.
    pub name: &'static str,
    /// Operands, by name and type.
    pub operands: &'static [(&'static str, OperandType)],
    /// Result.
    pub result: ResultType,
}

/// Takes operands from 64-bit slots. The functions are named for the types in the table.
mod operand {
    pub(super) fn i32(slot: Option<&u64>) -> u32 {
        slot.map_or(0, |&slot| slot as u32)
    }

    pub(super) fn i64(slot: Option<&u64>) -> u64 {
        slot.copied().unwrap_or(0)
    }
}

macro_rules! operand_type {
    (i32) => {
        OperandType::I32
    };
    (i64) => {
        OperandType::I64
    };
}

macro_rules! result_type {
    (errno) => {
        ResultType::Errno
    };
    (exit) => {
        ResultType::Exit
    };
}

macro_rules! finish {
    (errno, $call:expr) => {
        Ok(match $call {
            Ok(()) => Errno::Success,
            Err(errno) => errno,
        })
    };
    (exit, $call:expr) => {
        Err($call)
    };
}

macro_rules! describe {
    ($(fn $name:ident($($operand:ident: $type:ident),*) -> $result:ident;)*) => {
        /// A function of `wasi_snapshot_preview1`.
        #[allow(non_camel_case_types, reason = "the variants are the names of the specification")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Function {
            $(#[doc = concat!("`", stringify!($name), "`")] $name,)*
        }

        /// Every function, in the order of the specification.
        pub const FUNCTIONS: &[FunctionDescription] = &[
            $(FunctionDescription {
                function: Function::$name,
                name: stringify!($name),
                operands: &[$((stringify!($operand), operand_type!($type))),*],
                result: result_type!($result),
            },)*
        ];

        impl WasiP1Ctx {
            /// Calls a function by its place in the table, with operands in 64-bit slots (an `i32` in the low half). Operands that are
            /// missing count as zero, those too many are ignored.
            ///
            /// # Errors
            /// [`Exit`] if the guest ends itself.
            pub fn dispatch(&mut self, memory: &mut GuestMemory<'_>, function: Function, operands: &[u64]) -> Result<Errno, Exit> {
                let mut slots = operands.iter();
                match function {
                    $(Function::$name => {
                        $(let $operand = operand::$type(slots.next());)*
                        finish!($result, self.$name(memory, $($operand),*))
                    })*
                }
            }
        }
    };
}

for_each_p1_function!(describe);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_all_46_functions() {
        assert_eq!(FUNCTIONS.len(), 46);
        for (at, row) in FUNCTIONS.iter().enumerate() {
            assert_eq!(row.function as usize, at);
            assert_eq!(row.result == ResultType::Exit, row.name == "proc_exit");
        }
    }
}
