//! `fuzz`: runs random modules in every tier and in wasmi, for some minutes or for a number of modules, and ends with 1 if anything differed.
//!
//! ```text
//! fuzz -seeds-> workers, one process each -stages, tallies, differences-> fuzz -smaller cases-> a process each -> FOLDER/seed-N.*
//! ```
//!
//! A seed stands for one module and one configuration, so each run can be repeated. Workers are processes, so that what crashes or hangs
//! is a finding like others, but for the reference interpreter, whose faults are counted as skipped. `cargo xtask fuzz` builds and starts this.
#![forbid(unsafe_code)]

use peregrine_harness::cases::{Case, text};
use peregrine_harness::tiers::{Tally, Tiers};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const USAGE: &str = "usage: fuzz [--minutes N | --modules N] [--seed N] [--workers N] [--output FOLDER] | fuzz --replay FILE";

/// How long one engine may take for one module, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one finding is made smaller.
const REDUCING: Duration = Duration::from_secs(60);
/// After so many findings there is enough to do.
const MAX_FINDINGS: usize = 10;

struct Options {
    until: Until,
    seed: u64,
    workers: usize,
    output: PathBuf,
}

#[derive(Clone, Copy)]
enum Until {
    Time(Duration),
    Modules(u64),
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let mut options = Options {
        until: Until::Time(Duration::from_secs(60)),
        seed: 0,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        output: PathBuf::from("build/fuzz"),
    };
    while let Some(word) = words.next() {
        if word == "--worker" {
            return work();
        }
        let Some(value) = words.next() else { return usage() };
        let number = value.parse::<u64>();
        match (word.as_str(), number) {
            ("--minutes", Ok(minutes)) => options.until = Until::Time(Duration::from_secs(60 * minutes)),
            ("--modules", Ok(modules)) => options.until = Until::Modules(modules),
            ("--seed", Ok(seed)) => options.seed = seed,
            ("--workers", Ok(workers)) => options.workers = workers.max(1) as usize,
            ("--output", _) => options.output = PathBuf::from(value),
            ("--replay", _) => return replay(Path::new(&value)),
            _ => return usage(),
        }
    }
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// What panics say is kept for the report, and not printed: the reference's are none of our business.
fn collect_panics() -> Arc<Mutex<String>> {
    let message = Arc::new(Mutex::new(String::new()));
    let hook = Arc::clone(&message);
    std::panic::set_hook(Box::new(move |panic| *hook.lock().unwrap_or_else(|poison| poison.into_inner()) = panic.to_string()));
    message
}

/// In a worker: one line for each seed or file that comes in.
fn work() -> ExitCode {
    let panics = collect_panics();
    let mut tiers = Tiers::default();
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { break };
        let case = match line.parse() {
            Ok(seed) => Ok(Case::of_seed(seed)),
            Err(_) => read_case(Path::new(&line)),
        };
        let watch = |stage: &str| say(&format!("stage {stage}"));
        let outcome = case.and_then(|case| tiers.check(&case, &mut { watch }));
        match outcome {
            Ok(tally) => say(&format!("done {}", line_of(&tally))),
            Err(difference) => {
                let panic = std::mem::take(&mut *panics.lock().unwrap_or_else(|poison| poison.into_inner()));
                say(&format!("differs {} {}", difference.replace('\n', "\\n"), panic.replace('\n', "\\n")));
            }
        }
    }
    ExitCode::SUCCESS
}

/// Writes a line to whoever started the worker. Nobody is left to be told of a failure.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn line_of(tally: &Tally) -> String {
    let Tally { modules, with_reference, calls, traps, loop_entries, guided, kept, kept_optimized, locals, .. } = tally;
    let mut line = format!("{modules} {with_reference} {calls} {traps} {loop_entries} {guided} {kept} {kept_optimized} {locals}");
    for (reason, count) in &tally.skipped {
        line.push_str(&format!(";{count} {reason}"));
    }
    line
}

fn tally_of(line: &str) -> Option<Tally> {
    let mut parts = line.split(';');
    let numbers: Vec<u64> = parts.next()?.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [modules, with_reference, calls, traps, loop_entries, guided, kept, kept_optimized, locals] = numbers[..] else { return None };
    let skipped = parts
        .map(|part| part.split_once(' ').and_then(|(count, reason)| Some((reason.to_owned(), count.parse().ok()?))))
        .collect::<Option<_>>()?;
    Some(Tally { modules, with_reference, calls, traps, loop_entries, guided, kept, kept_optimized, locals, skipped })
}

fn read_case(path: &Path) -> Result<Case, String> {
    let file = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Case::from_file(&file).map_err(|error| format!("{}: {error}", path.display()))
}

/// What a worker said of one case.
enum Answer {
    Same(Tally),
    Differs(String),
    /// It died or did not answer, in this stage.
    Lost {
        stage: String,
        how: String,
    },
}

/// A worker process, made anew when it died.
struct Worker {
    process: Option<(Child, ChildStdin, Receiver<String>)>,
}

impl Worker {
    fn ask(&mut self, question: &str) -> Result<Answer, String> {
        if self.process.is_none() {
            self.process = Some(start().map_err(|error| format!("cannot start a worker: {error}"))?);
        }
        let Some((child, stdin, lines)) = &mut self.process else { return Err("no worker".into()) };
        let mut stage = String::from("start");
        // If it is gone, reading says so.
        let _ = writeln!(stdin, "{question}");
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => match line.split_once(' ') {
                    Some(("stage", next)) => stage = next.to_owned(),
                    Some(("done", tally)) => return tally_of(tally).map(Answer::Same).ok_or_else(|| format!("a worker said `{line}`")),
                    Some(("differs", text)) => return Ok(Answer::Differs(text.replace("\\n", "\n"))),
                    _ => return Err(format!("a worker said `{line}`")),
                },
                Err(end) => {
                    let _ = child.kill();
                    let status = child.wait().map_err(|error| error.to_string())?;
                    let how = match end {
                        RecvTimeoutError::Timeout => format!("no answer after {} s", PATIENCE.as_secs()),
                        RecvTimeoutError::Disconnected => format!("the process died: {status}"),
                    };
                    self.process = None;
                    return Ok(Answer::Lost { stage, how });
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some((mut child, stdin, _)) = self.process.take() {
            drop(stdin);
            let _ = child.wait();
        }
    }
}

fn start() -> std::io::Result<(Child, ChildStdin, Receiver<String>)> {
    let mut child = Command::new(std::env::current_exe()?).arg("--worker").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdin = child.stdin.take().expect("it is piped");
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let (sender, lines) = channel();
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
    Ok((child, stdin, lines))
}

impl Answer {
    /// What went wrong, if the fault is ours.
    fn problem(self, tally: &mut Tally) -> Option<String> {
        match self {
            Self::Same(more) => {
                *tally += more;
                None
            }
            Self::Differs(text) => Some(text),
            Self::Lost { stage, how } if stage == "reference" => {
                *tally.skipped.entry(format!("wasmi: {how}")).or_default() += 1;
                None
            }
            Self::Lost { stage, how } => Some(format!("{stage}: {how}")),
        }
    }
}

/// What all workers found so far.
#[derive(Default)]
struct Found {
    tally: Tally,
    seeds: u64,
    findings: Vec<u64>,
}

/// Runs seeds until it is enough; how many of them differed.
fn run(options: &Options) -> Result<usize, String> {
    std::fs::create_dir_all(&options.output).map_err(|error| format!("{}: {error}", options.output.display()))?;
    let (start, next, found) = (Instant::now(), AtomicU64::new(options.seed), Mutex::new(Found::default()));
    let is_enough = || {
        let found = found.lock().unwrap_or_else(|poison| poison.into_inner());
        found.findings.len() >= MAX_FINDINGS
            || match options.until {
                Until::Time(time) => start.elapsed() >= time,
                Until::Modules(modules) => found.tally.modules >= modules || found.seeds >= modules.saturating_mul(20),
            }
    };
    let one = || -> Result<(), String> {
        let mut worker = Worker { process: None };
        while !is_enough() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let mut tally = Tally::default();
            let mut answer = worker.ask(&seed.to_string())?;
            if matches!(&answer, Answer::Lost { .. }) {
                // What is slow because the machine is busy is not slow twice; what crashes does so again.
                answer = worker.ask(&seed.to_string())?;
            }
            let problem = answer.problem(&mut tally);
            if let Some(problem) = &problem {
                println!("seed {seed} differs: {problem}");
                reduce(&options.output, seed, problem)?;
            }
            let mut found = found.lock().unwrap_or_else(|poison| poison.into_inner());
            found.tally += tally;
            found.seeds += 1;
            found.findings.extend(problem.map(|_| seed));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.workers).map(|_| scope.spawn(one)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| String::from("a thread panicked"))?)
    })?;
    let found = found.into_inner().unwrap_or_else(|poison| poison.into_inner());
    print(options, &found, start.elapsed());
    if found.tally.modules == 0 || found.tally.loop_entries == 0 {
        return Err("nothing was compared".into());
    }
    Ok(found.findings.len())
}

fn print(options: &Options, found: &Found, time: Duration) {
    let Tally { modules, with_reference, calls, traps, loop_entries, guided, kept, kept_optimized, locals, skipped } = &found.tally;
    println!("seeds {}..{} in {:.0} s", options.seed, options.seed + found.seeds, time.as_secs_f64());
    println!("{modules} modules ran in every tier, {with_reference} of them in wasmi as well");
    println!("{calls} calls were compared, {traps} of them trapped; optimized code was entered at loops {loop_entries} times");
    println!("{guided} times a module was compiled by a profile of its indirect calls, true or made up");
    println!("{kept} times a module began with code that was kept of an earlier run, {kept_optimized} of them with optimized code");
    println!("{locals} locals in core dumps were compared");
    for (reason, count) in skipped {
        println!("skipped {count}: {reason}");
    }
    match found.findings.len() {
        0 => println!("none diverged"),
        count => println!("{count} DIVERGED: seeds {:?}, see {}", found.findings, options.output.display()),
    }
}

/// Makes a case smaller as long as it fails, and writes what is left: the case, the module as bytes and as text, and what differs.
fn reduce(folder: &Path, seed: u64, problem: &str) -> Result<(), String> {
    let (mut case, mut problem) = (Case::of_seed(seed), problem.to_owned());
    let path = |extension: &str| folder.join(format!("seed-{seed}.{extension}"));
    let write = |extension: &str, bytes: &[u8]| {
        let path = path(extension);
        std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (start, mut worker) = (Instant::now(), Worker { process: None });
    'smaller: while start.elapsed() < REDUCING {
        for smaller in case.smaller() {
            if start.elapsed() >= REDUCING {
                break 'smaller;
            }
            write("try", &smaller.to_file())?;
            let found = worker.ask(&path("try").to_string_lossy())?.problem(&mut Tally::default());
            if let Some(found) = found {
                (case, problem) = (smaller, found);
                continue 'smaller;
            }
        }
        break;
    }
    let _ = std::fs::remove_file(path("try"));
    write("case", &case.to_file())?;
    write("txt", problem.as_bytes())?;
    if let Some(wasm) = case.module() {
        write("wasm", &wasm)?;
        write("wat", text(&wasm).as_bytes())?;
    }
    Ok(())
}

/// Runs one case that was written before, in this process.
fn replay(path: &Path) -> ExitCode {
    let outcome = read_case(path).and_then(|case| Tiers::default().check(&case, &mut |stage| println!("{stage}")));
    match outcome {
        Ok(tally) => {
            println!("the same everywhere: {tally:?}");
            ExitCode::SUCCESS
        }
        Err(difference) => {
            println!("{difference}");
            ExitCode::FAILURE
        }
    }
}
