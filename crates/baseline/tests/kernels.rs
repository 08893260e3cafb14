//! The kernels of the project compute the same in both tiers.

mod two_tiers;

use peregrine::Engine;
use two_tiers::{Which, load, run_program};

fn checksum(output: &str) -> Option<&str> {
    output.lines().find(|line| line.starts_with("checksum"))
}

#[test]
fn kernels_give_the_same_checksums_in_both_tiers() {
    let engine = Engine::default();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/kernels");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("the kernels are there") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        let wasm = std::fs::read(&path).expect("the kernel can be read");
        let [baseline, optimizing] = [Which::Baseline, Which::Optimizing].map(|which| {
            let module = load(&engine, which, &wasm).expect("the kernel compiles");
            let (output, _) = run_program(&engine, &module, "1").unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
            output
        });
        assert!(checksum(&baseline).is_some(), "{}: {baseline}", path.display());
        assert_eq!(checksum(&baseline), checksum(&optimizing), "{}", path.display());
        found += 1;
    }
    assert!(found >= 10, "{found} kernels");
}
