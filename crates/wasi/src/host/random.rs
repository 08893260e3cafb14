//! Random bytes: the host's generator, or a source that the embedder gives.

use super::error::Error;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Bytes asked of the system at once, so that a long request stays interruptible by signals.
const SLICE_LEN_BYTES: usize = 1 << 20;

/// A source of bytes in place of the host's generator.
pub trait RandomSource: Send {
    /// Fills `buffer` whole.
    fn fill(&mut self, buffer: &mut [u8]);
}

/// The random numbers of one context.
#[derive(Default)]
pub enum Random {
    /// The host's cryptographic generator.
    #[default]
    Host,
    /// The embedder's.
    Custom(Box<dyn RandomSource>),
}

impl Random {
    /// Fills `buffer` whole, in place.
    ///
    /// # Errors
    /// What the system's generator reports.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        match self {
            Random::Host => {
                for slice in buffer.chunks_mut(SLICE_LEN_BYTES) {
                    let mut done = 0;
                    while done < slice.len() {
                        match getrandom(&mut slice[done..], GetRandomFlags::empty()) {
                            Ok(count) => done += count,
                            Err(Errno::INTR) => {}
                            Err(errno) => return Err(errno.into()),
                        }
                    }
                }
            }
            Random::Custom(source) => source.fill(buffer),
        }
        Ok(())
    }
}
