//! Modules that are read in pieces: the thread that asks reads bodies, others validate them, and so does it where they cannot keep up.
//!
//! Pieces are few at any time, and their memory is used again, so that it stays in caches. Called by the driver.

use peregrine_artifact::allowance::Allowance;
use peregrine_artifact::compiler::{CompileError, ReadWasm};
use peregrine_frontend::{BodyChunk, FuncValidatorAllocations, Sections, Translation, translate_pieces};
use peregrine_wasm::{Features, ModuleLimits};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{TrySendError, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Pieces that wait for each thread.
const AHEAD: usize = 2;

/// Reads and validates the bodies of a module on so many threads. `None` if it has to be read as a whole, which will say what is wrong.
///
/// # Errors
///
/// As [`translate_pieces`], and [`CompileError::Limit`] if there is no time left.
pub(crate) fn validate<'a>(
    sections: &'a Sections,
    source: &dyn ReadWasm,
    features: &Features,
    limits: &ModuleLimits,
    allowance: &Allowance,
    threads: usize,
) -> Result<Option<Translation<'a>>, CompileError> {
    let others = threads.saturating_sub(1);
    let (send, receive) = sync_channel::<BodyChunk>(AHEAD * others);
    let (give_back, buffers) = channel();
    let receive = Mutex::new(receive);
    let failed = AtomicBool::new(false);
    let check = |chunk: &BodyChunk, allocations: &mut FuncValidatorAllocations| {
        let valid = catch_unwind(AssertUnwindSafe(|| chunk.validate(allocations)));
        if matches!(valid, Ok(Ok(()))) {
            source.found_valid(&mut chunk.bodies());
        } else {
            // What it is will be found again.
            failed.store(true, Ordering::Relaxed);
        }
    };
    let translation = std::thread::scope(|scope| {
        let mut running = 0;
        for _ in 0..others {
            let (receive, check, give_back) = (&receive, &check, give_back.clone());
            let work = move || {
                let mut allocations = FuncValidatorAllocations::default();
                loop {
                    let next = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(chunk) = next else { return };
                    check(&chunk, &mut allocations);
                    // Nobody may want it any more.
                    let _ = give_back.send(chunk.into_buffer());
                }
            };
            running += usize::from(std::thread::Builder::new().name("peregrine-compile".into()).spawn_scoped(scope, work).is_ok());
        }
        let mut allocations = FuncValidatorAllocations::default();
        let mut sink = |chunk: BodyChunk| {
            allowance.check_time()?;
            if failed.load(Ordering::Relaxed) {
                return Err(CompileError::invalid("a body is not valid", 0));
            }
            let mine = match running {
                0 => chunk,
                _ => match send.try_send(chunk) {
                    Ok(()) => return Ok(buffers.try_recv().unwrap_or_default()),
                    Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) => chunk,
                },
            };
            check(&mine, &mut allocations);
            Ok(mine.into_buffer())
        };
        let translation = translate_pieces(sections, source, features, limits, &mut sink);
        drop(send);
        translation
    });
    match translation {
        Err(CompileError::Invalid { .. }) => Ok(None),
        _ if failed.into_inner() => Ok(None),
        translation => translation,
    }
}
