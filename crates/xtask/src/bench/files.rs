//! File throughput beside native code: the same C source, compiled for this machine and for WASI.
//!
//! The file is in the page cache, so this is the cost of the calls and copies, not of the disk. Only the loop is timed.

use super::Bench;
use super::measure::{Sample, in_turns};
use super::report::Section;
use crate::engines::{Engine, Grant};
use crate::failure::{Context, Failure, Result};
use crate::process::Job;
use crate::{sources, workspace};
use std::io::Write;
use std::path::Path;

const NATIVE: &str = "native";

/// Measures reading and writing.
pub fn run(bench: &Bench) -> Result<Vec<Section>> {
    let megabytes = if bench.quick { 64 } else { 256 };
    let folder = workspace::build_folder("scratch/files")?;
    let mut section = Section::new("files", &format!("File of {megabytes} MB"), "ms");
    section.base = NATIVE.to_owned();
    section.note = "native is the same C source compiled for this machine; the file is in the page cache.".to_owned();
    let input = folder.join("read.bin");
    write_input(&input, megabytes).context(input.display())?;
    let count = megabytes.to_string();
    let cases: [(&str, &str, Vec<&str>); 3] = [
        ("read, 4 KiB blocks", "file_read", vec!["read.bin", "4096"]),
        ("read, 64 KiB blocks", "file_read", vec!["read.bin", "65536"]),
        ("write, 4 KiB blocks", "file_write", vec!["written.bin", &count, "4096"]),
    ];
    for (row, guest, args) in cases {
        measure_case(bench, &mut section, &folder, row, guest, &args)?;
    }
    std::fs::remove_dir_all(&folder).context(folder.display())?;
    Ok(vec![section])
}

fn measure_case(bench: &Bench, section: &mut Section, folder: &Path, row: &str, guest: &str, args: &[&str]) -> Result<()> {
    let native = sources::build_native(guest);
    let module = workspace::root()?.join(sources::GUESTS).join(guest).with_extension("wasm");
    let engines: Vec<&Engine> = bench.engines.iter().collect();
    let mut natives = Vec::new();
    let results = in_turns(&engines, bench.runs(7, 3), |engine| {
        // Native takes its turn together with the first engine.
        if engine.kind == engines[0].kind
            && let Ok(native) = &native
        {
            let args = [&[folder.join(args[0]).display().to_string()], &own(&args[1..])[..]].concat();
            natives.push(timed(Job::new(native).args(args))?);
        }
        let grants: [Grant<'_>; 1] = [(folder, "/data")];
        let args = [&[format!("/data/{}", args[0])], &own(&args[1..])[..]].concat();
        Ok([timed(engine.run(&engine.prepare(&module)?, &grants)?.args(args))?])
    });
    for (engine, figures) in engines.iter().zip(results) {
        section.add_result(row, engine.kind.name(), figures.map(|[millis]| millis));
    }
    if let Err(failure) = native {
        section.failures.push(failure.to_string());
    }
    if let Some(sample) = Sample::of(natives) {
        section.add(row, NATIVE, sample);
    }
    Ok(())
}

/// Writes the file that is read. Data, because holes are cheaper to read; piece by piece, because the memory of this process
/// is the least that any child is counted with.
fn write_input(path: &Path, megabytes: usize) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let block = vec![b'p'; 1 << 20];
    (0..megabytes).try_for_each(|_| file.write_all(&block))
}

fn own(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Runs once; gives the milliseconds that the program says its loop took.
fn timed(job: Job) -> Result<f64> {
    let finished = job.run_well()?;
    let nanos: f64 = finished.field("ns").ok_or_else(|| Failure::new("printed no time"))?.parse().context("ns")?;
    Ok(nanos / 1e6)
}
