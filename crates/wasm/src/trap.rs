//! Why execution of a guest stopped: one code for every reason, shared by compilers, engine and users.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! traps {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The reason of a trap. The numbers are what compiled code and images carry; they are never reused for another meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Trap {
            $($(#[$doc])* $name = $code,)*
        }

        impl Trap {
            /// Every reason, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The reason that `code` stands for.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// As [`from_code`](Self::from_code): the reason that was turned into a number by `as u8`.
            pub const fn from_u8(code: u8) -> Option<Self> {
                Self::from_code(code)
            }

            /// The number that compiled code and images carry. Never 0.
            pub const fn code(self) -> u8 {
                self as u8
            }
        }

        impl Trap {
            /// The reason in words.
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

traps! {
    /// The guard page of the guest stack was reached.
    StackOverflow = 1, "call stack exhausted";
    /// A load, store or bulk operation outside of a linear memory.
    MemoryOutOfBounds = 2, "out of bounds memory access";
    /// An atomic access at an address that is no multiple of its size.
    HeapMisaligned = 3, "unaligned atomic";
    /// An access outside of a table.
    TableOutOfBounds = 4, "undefined element: out of bounds table access";
    /// An indirect call through a null element.
    IndirectCallToNull = 5, "uninitialized element";
    /// An indirect call of a function with another type than the call says.
    BadSignature = 6, "indirect call type mismatch";
    /// The result of a signed division does not fit, or a conversion's operand is out of range.
    IntegerOverflow = 7, "integer overflow";
    /// A division or remainder by zero.
    IntegerDivisionByZero = 8, "integer divide by zero";
    /// A float that is no number converted to an integer.
    BadConversionToInteger = 9, "invalid conversion to integer";
    /// `unreachable` was executed.
    UnreachableCodeReached = 10, "wasm `unreachable` instruction executed";
    /// The deadline or epoch given by the embedder was reached.
    Interrupt = 11, "interrupt";
    /// The fuel given by the embedder was used up.
    OutOfFuel = 12, "all fuel consumed by WebAssembly";
    /// A null reference where an instruction needs another.
    NullReference = 13, "null reference";
    /// An atomic wait on a memory that is not shared.
    AtomicWaitNonSharedMemory = 14, "atomic wait on non-shared memory";
    /// The host could not give what the guest is entitled to (out of memory, for example).
    AllocationTooLarge = 15, "allocation size too large";
    /// A function import that the embedder chose to leave undefined was called.
    UnknownImportCalled = 16, "unknown import called";
    /// A reference is not of the type that it is cast to. Never raised so far: casts belong to garbage collection, which is not implemented.
    CastFailure = 17, "cast failure";
    /// An access outside of an array. Never raised so far, as above.
    ArrayOutOfBounds = 18, "out of bounds array access";
    /// A tag that no handler takes. Never raised so far: stack switching is not implemented.
    UnhandledTag = 19, "unhandled tag";
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wasm trap: {}", self.reason())
    }
}

impl std::error::Error for Trap {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_zero_is_free() {
        for trap in Trap::ALL {
            assert_eq!(Trap::from_code(trap.code()), Some(*trap));
        }
        assert_eq!(Trap::from_code(0), None);
        assert_eq!(Trap::from_code(255), None);
    }
}
