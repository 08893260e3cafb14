//! Hostile modules cost this tier no more than they may: validation and code, on one thread. Unoptimized builds get more time.

use peregrine_artifact::settings::Settings;
use peregrine_baseline::Baseline;
use peregrine_compile::tier::{ModuleEnv, Tier};
use peregrine_harness::bombs::BOMBS;
use std::time::Instant;

#[test]
fn hostile_modules_are_compiled_in_linear_time() {
    let factor = if cfg!(debug_assertions) { 6.0 } else { 1.0 };
    let settings = Settings::new(Baseline::new().target(None).expect("this machine is known"));
    let (mut slow, mut refused_in) = (Vec::new(), Vec::new());
    for bomb in BOMBS {
        let wasm = (bomb.make)();
        let Ok(translation) = peregrine_frontend::translate(&wasm, &settings.features, &Default::default()) else { continue };
        let env = ModuleEnv::new(&translation, &settings);
        let mut compiler = Baseline::new().function_compiler(&env).expect("this machine is known");
        let start = Instant::now();
        let (mut code_bytes, mut refused) = (0, 0);
        for index in translation.bodies.indices() {
            match compiler.function(index) {
                Ok(function) => code_bytes += function.code.len(),
                Err(_) => refused += 1,
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{:<28} {:>9} bytes of wasm, {code_bytes:>10} of code, {seconds:.3} s, {refused} refused", bomb.name, wasm.len());
        if refused > 0 {
            refused_in.push(bomb.name);
        }
        if seconds > bomb.max_cpu_seconds * factor {
            slow.push(bomb.name);
        }
    }
    assert!(refused_in.is_empty(), "refused: {refused_in:?}");
    assert!(slow.is_empty(), "too slow: {slow:?}");
}
