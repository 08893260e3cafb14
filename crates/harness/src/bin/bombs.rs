//! `bombs [--factor N] [--only NAME]`: compiles each hostile module in a process of its own, prints what it cost beside what it may cost, and ends
//! with 1 if one cost more.
//!
//! The limits are for an optimized build; `--factor` multiplies those of time for others.
#![forbid(unsafe_code)]

use peregrine::{Config, Engine};
use peregrine_harness::bombs::{BOMBS, Bomb, max_memory_bytes};
use rustix::time::{ClockId, clock_gettime};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What one compilation cost.
struct Cost {
    cpu_seconds: f64,
    peak_bytes: u64,
    /// `compiled`, or the error.
    outcome: String,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (mut factor, mut only, mut inside) = (1.0, None, None);
    while let Some(word) = words.next() {
        match (word.as_str(), words.next()) {
            ("--factor", Some(value)) => factor = value.parse().expect("--factor takes a number"),
            ("--only", Some(value)) => only = Some(value),
            ("--inside", Some(value)) => inside = Some(value),
            _ => {
                eprintln!("usage: bombs [--factor N] [--only NAME]");
                return ExitCode::from(2);
            }
        }
    }
    match inside {
        Some(name) => compile_here(&name),
        None => compile_all(factor, only.as_deref()),
    }
}

/// In the child: compiles one and tells the cost of the whole process, making the module included.
fn compile_here(name: &str) -> ExitCode {
    let Some(bomb) = BOMBS.iter().find(|bomb| bomb.name == name) else { return ExitCode::from(2) };
    let wasm = (bomb.make)();
    let engine = Engine::new(&Config::new()).expect("the default configuration works");
    let before = cpu_seconds();
    let outcome = match engine.precompile_module(&wasm) {
        Ok(image) => format!("compiled to {} bytes", image.len()),
        Err(error) => format!("refused: {error:#}"),
    };
    let used = cpu_seconds() - before;
    println!("{used} {} {}", peak_bytes(), outcome.replace('\n', " "));
    ExitCode::SUCCESS
}

fn compile_all(factor: f64, only: Option<&str>) -> ExitCode {
    let mut wrong = 0;
    println!("{:<28} {:>9} {:>8} {:>8} {:>9} {:>9}  outcome", "module", "bytes", "cpu s", "limit", "peak MB", "limit");
    for bomb in BOMBS.iter().filter(|bomb| only.is_none_or(|name| name == bomb.name)) {
        let wasm_len_bytes = (bomb.make)().len();
        let max_bytes = max_memory_bytes(&(bomb.make)());
        let max_cpu_seconds = bomb.max_cpu_seconds * factor;
        let (line, fits) = match measure(bomb, max_cpu_seconds) {
            Ok(cost) => {
                let fits = cost.cpu_seconds <= max_cpu_seconds && cost.peak_bytes <= max_bytes;
                (
                    format!(
                        "{:>8.2} {max_cpu_seconds:>8.1} {:>9} {:>9}  {}",
                        cost.cpu_seconds,
                        cost.peak_bytes >> 20,
                        max_bytes >> 20,
                        cost.outcome
                    ),
                    fits,
                )
            }
            Err(problem) => (format!("{:>8} {max_cpu_seconds:>8.1} {:>9} {:>9}  {problem}", "-", "-", max_bytes >> 20), false),
        };
        println!("{:<28} {wasm_len_bytes:>9} {line}{}", bomb.name, if fits { "" } else { "  VIOLATION" });
        wrong += usize::from(!fits);
    }
    println!("{wrong} of {} cost more than they may", BOMBS.len());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a child for one module, and ends it when it takes far too long.
fn measure(bomb: &Bomb, max_cpu_seconds: f64) -> Result<Cost, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new(own)
        .args(["--inside", bomb.name])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let patience = Duration::from_secs_f64(max_cpu_seconds * 5.0 + 20.0);
    let start = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if start.elapsed() > patience => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("ended after {} s", patience.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("the process died: {status}"));
    }
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let mut parts = text.splitn(3, ' ');
    let cpu_seconds = parts.next().and_then(|part| part.parse().ok());
    let peak_bytes = parts.next().and_then(|part| part.parse().ok());
    match (cpu_seconds, peak_bytes, parts.next()) {
        (Some(cpu_seconds), Some(peak_bytes), Some(outcome)) => {
            Ok(Cost { cpu_seconds, peak_bytes, outcome: outcome.chars().take(100).collect() })
        }
        _ => Err(format!("the process said `{text}`")),
    }
}

/// Processor time of all threads of this process.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The most memory that this process has had resident; 0 where the system does not tell.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
