//! How fast code of this tier is against that of the optimizing tier, on the kernels of the project; how long compiling takes.
//!
//! `cargo run -p peregrine-baseline --example kernels -- benches/kernels/*.wasm`. One line for each: nanoseconds for one iteration in both
//! tiers, the least of three runs of some 0.4 s, and their ratio; at the end the geometric mean.

#[path = "../tests/two_tiers/mod.rs"]
mod two_tiers;

use peregrine::Engine;
use two_tiers::{Which, load, run_program};

fn ns_per_iteration(output: &str) -> Option<f64> {
    let line = output.lines().find(|line| line.starts_with("ns_per_iteration"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A run of about this long is enough.
const SECONDS: f64 = 0.4;

fn main() -> peregrine::Result<()> {
    let engine = Engine::default();
    let (mut sum, mut count) = (0.0, 0);
    println!("{:<20} {:>14} {:>14} {:>8}", "kernel", "baseline", "optimizing", "ratio");
    for path in std::env::args().skip(1) {
        let wasm = std::fs::read(&path)?;
        let name = path.rsplit('/').next().unwrap_or(&path).trim_end_matches(".wasm").to_string();
        let modules = [load(&engine, Which::Baseline, &wasm)?, load(&engine, Which::Optimizing, &wasm)?];
        let (output, _) = run_program(&engine, &modules[1], "1")?;
        let iterations = (SECONDS * 1e9 / ns_per_iteration(&output).unwrap_or(1e9)).clamp(1.0, 1e6) as u64;
        let mut best = [f64::INFINITY; 2];
        for _ in 0..3 {
            for (module, best) in modules.iter().zip(&mut best) {
                let (output, _) = run_program(&engine, module, &iterations.to_string())?;
                *best = best.min(ns_per_iteration(&output).unwrap_or(f64::INFINITY));
            }
        }
        println!("{name:<20} {:>14.0} {:>14.0} {:>8.2}", best[0], best[1], best[0] / best[1]);
        sum += (best[0] / best[1]).ln();
        count += 1;
    }
    println!("geometric mean {:.3}", (sum / f64::from(count)).exp());
    Ok(())
}
