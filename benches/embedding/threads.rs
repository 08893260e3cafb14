//! How many times more of some work two threads do than one, for `main.rs`.
//!
//! What a processor does by itself changes from one moment to the next, where a machine is shared: now and then two of them are one core of the
//! host. So only neighbouring times are compared, in many short turns. In each turn, the two threads also do a loop that needs nothing but the processor,
//! right before the work and right after it, without a rest between; and where one of these shows less than two processors, the turn says nothing
//! about the work.

use std::hint::black_box;
use std::ops::RangeInclusive;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Turns that are taken.
const TURNS: usize = 120;
/// How many times more of the loop two threads do in a turn that counts. What is beyond was disturbed while one worked alone.
const TWO_PROCESSORS: RangeInclusive<f64> = 1.95..=2.1;
/// Turns that must count, or all of them do.
const ENOUGH: usize = 10;

/// What was found.
pub struct Found {
    /// How many times more of the work two threads did than one: the median of the turns that count.
    pub ratio: f64,
    /// The same of the loop, of all turns.
    pub machine: f64,
}

/// When some work began, and when it ended.
type Span = (Instant, Instant);

/// What one thread took in a turn: the loop and the work while the other one waited; and the loop, the work and the loop beside the other.
struct Taken {
    alone: [Span; 2],
    beside: [Span; 3],
}

/// How many times more of `work` two threads do than one.
pub fn by_one_thread(work: &(dyn Fn() + Sync)) -> Found {
    let meeting = Meeting { alone: Barrier::new(2), together: AtomicUsize::new(0) };
    let turns = |thread: usize| (0..TURNS).map(|turn| meeting.take(thread, turn, work)).collect::<Vec<_>>();
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| turns(1));
        (turns(0), second.join().expect("the work does not panic"))
    });
    let ratios: Vec<[f64; 3]> =
        first.iter().zip(&second).map(|(a, b)| [(0, 0), (1, 1), (0, 2)].map(|places| ratio(a, b, places))).collect();
    let is_whole = |[before, _, after]: &&[f64; 3]| TWO_PROCESSORS.contains(before) && TWO_PROCESSORS.contains(after);
    let whole: Vec<f64> = ratios.iter().filter(is_whole).map(|[_, work, _]| *work).collect();
    let counted = if whole.len() < ENOUGH { ratios.iter().map(|[_, work, _]| *work).collect() } else { whole };
    Found { ratio: median(counted), machine: median(ratios.iter().flat_map(|[before, _, after]| [*before, *after]).collect()) }
}

/// Where the two threads meet.
struct Meeting {
    alone: Barrier,
    together: AtomicUsize,
}

impl Meeting {
    /// The part of one thread, 0 or 1, in a turn: it works while the other one waits, and then at the same time.
    fn take(&self, thread: usize, turn: usize, work: &dyn Fn()) -> Taken {
        let by_itself = || [timed(&processor), timed(work)];
        self.alone.wait();
        let first = (thread == 0).then(by_itself);
        self.alone.wait();
        let alone = first.unwrap_or_else(by_itself);
        let mut meetings = 3 * turn..;
        let mut beside = |work: &dyn Fn()| {
            self.meet(meetings.next().expect("there are more"));
            timed(work)
        };
        Taken { alone, beside: [beside(&processor), beside(work), beside(&processor)] }
    }

    /// Waits for the other thread, awake.
    fn meet(&self, number: usize) {
        self.together.fetch_add(1, Ordering::AcqRel);
        while self.together.load(Ordering::Acquire) < 2 * (number + 1) {
            std::hint::spin_loop();
        }
    }
}

fn timed(work: &dyn Fn()) -> Span {
    let start = Instant::now();
    work();
    (start, Instant::now())
}

/// By how much two threads together were faster than the same one after the other: what was taken at two places, alone and beside.
fn ratio(a: &Taken, b: &Taken, (alone, beside): (usize, usize)) -> f64 {
    let length = |span: &Span| span.1 - span.0;
    let one_by_one = length(&a.alone[alone]) + length(&b.alone[alone]);
    let (a, b) = (&a.beside[beside], &b.beside[beside]);
    one_by_one.as_secs_f64() / (a.1.max(b.1) - a.0.min(b.0)).as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Some milliseconds of work for as many units of a processor as can work at once, so that it shows whether two of them share a core.
fn processor() {
    let mut cells = [0u64; 64];
    for round in 0..2_000_000u64 {
        let place = (round % 32) as usize;
        cells[place] = black_box(round);
        cells[place + 32] = black_box(cells[(place + 7) % 32]) ^ round;
    }
    black_box(cells);
}
