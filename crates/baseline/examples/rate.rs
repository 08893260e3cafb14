//! How fast this tier compiles: `cargo run --release -p peregrine-baseline --example rate -- MODULE...`. On one thread, without validation and linking;
//! the best of five rounds, in megabytes of function bodies per second: as parts of a whole module, and with budgets that are counted.

use peregrine_artifact::settings::{Settings, Tiering};
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};
use std::time::Instant;

const ROUNDS: u32 = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tier = Baseline::new();
    for path in std::env::args().skip(1) {
        let wasm = std::fs::read(&path)?;
        for tiering in [Tiering::Whole, Tiering::Counted] {
            let settings = Settings { tiering, ..Settings::new(tier.target(None)?) };
            let translation = peregrine_frontend::translate(&wasm, &settings.features, &Default::default())?;
            let env = ModuleEnv::new(&translation, &settings);
            let body_bytes: usize = translation.bodies.values().map(|body| body.len()).sum();
            let (mut best, mut code_bytes) = (f64::INFINITY, 0);
            for _ in 0..ROUNDS {
                let mut compiler = tier.function_compiler(&env)?;
                let start = Instant::now();
                code_bytes = 0;
                for index in translation.bodies.indices() {
                    code_bytes += compiler.function(index)?.code.len();
                }
                best = best.min(start.elapsed().as_secs_f64());
            }
            let rate = body_bytes as f64 / best / 1e6;
            println!("{path}, {tiering:?}: {body_bytes} bytes of bodies, {code_bytes} of code, {:.1} ms, {rate:.1} MB/s", best * 1e3);
        }
    }
    Ok(())
}
