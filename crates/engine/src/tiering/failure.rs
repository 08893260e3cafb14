//! Why a function could not be compiled at its first call, and whether trying again could help. The state of a module remembers what stays.

use crate::error::Error;
use crate::vm::InstallError;
use peregrine_artifact::compiler::CompileError;

/// Why a function cannot be compiled.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Compile(CompileError),
    /// There is code, and no place for it.
    Install(String),
    /// There is code, and the system gave no place for it, which may go better the next time.
    System(String),
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Compile(error) => Error::new(error),
            Self::Install(message) | Self::System(message) => Error::msg(message),
        }
    }

    /// What becomes of code that cannot be installed for the reason `error`.
    pub(super) fn of_install(message: String, error: &InstallError) -> Self {
        match error {
            InstallError::Io(error) if error.raw_os_error().is_some() => Self::System(message),
            _ => Self::Install(message),
        }
    }

    /// Whether it would be the same the next time.
    pub(super) fn stays(&self) -> bool {
        !matches!(self, Self::System(_) | Self::Compile(CompileError::Internal { .. } | CompileError::Unreadable { .. }))
    }

    /// Whether better code of a function that has some, which cannot be had for this reason, may be had later.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::System(_) | Self::Compile(CompileError::Unreadable { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_may_be_had_later() {
        let install = |error| Failure::of_install(String::from("function 1 cannot be compiled"), &InstallError::Io(error));
        let no_memory = install(std::io::Error::from_raw_os_error(12));
        assert!(no_memory.may_pass() && !no_memory.stays());
        let full = install(std::io::ErrorKind::StorageFull.into());
        assert!(!full.may_pass() && full.stays());
        let unreadable = Failure::Compile(CompileError::Unreadable { message: "the file is gone".into() });
        assert!(unreadable.may_pass() && !unreadable.stays());
        // A fault of the optimizing compiler is one the next time too; the baseline is asked again.
        let fault = Failure::Compile(CompileError::Internal { message: "a fault".into() });
        assert!(!fault.may_pass() && !fault.stays());
    }
}
