//! Images that were found undamaged are not read again, and damage is found all the same.

mod settled;

use peregrine::{Cache, Config, Engine, Error, Module, Result};
use settled::{settle, while_unsettled};
use std::fs;
use std::path::{Path, PathBuf};

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn load(engine: &Engine, path: &Path) -> Result<Module> {
    // SAFETY: the tests made the file; while a module of it lives, nobody changes it.
    unsafe { Module::deserialize_file(engine, path) }
}

fn stamps(dir: &Path) -> usize {
    let names = fs::read_dir(dir).expect("the cache's directory").flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().ends_with(".checked")).count()
}

#[test]
fn a_stamp_is_for_one_state_of_one_file() -> Result<()> {
    let scratch = Scratch(std::env::temp_dir().join(format!("peregrine-verified-{}", std::process::id())));
    let cache_dir = scratch.0.join("cache");
    fs::create_dir_all(&scratch.0)?;
    let mut config = Config::new();
    config.cache(Some(Cache::new(&cache_dir)?));
    let engine = Engine::new(&config)?;
    let path = scratch.0.join("module.pgn");
    let image = engine.precompile_module(br#"(module (func (export "f") (result i32) i32.const 7))"#)?;
    fs::write(&path, &image)?;

    let stamped = while_unsettled(&path, || {
        for entry in fs::read_dir(&cache_dir).into_iter().flatten().flatten() {
            fs::remove_file(entry.path())?;
        }
        load(&engine, &path)?;
        Ok::<_, Error>(stamps(&cache_dir))
    })?;
    assert_eq!(stamped, 0, "a file that changed just now is not stamped");
    settle(&path);
    load(&engine, &path)?;
    assert_eq!(stamps(&cache_dir), 1);
    load(&engine, &path)?;

    // Any change makes the stamp worthless, even one that keeps length and time of change.
    let modified = fs::metadata(&path)?.modified()?;
    let mut damaged = image.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    fs::write(&path, &damaged)?;
    fs::File::options().write(true).open(&path)?.set_modified(modified)?;
    let error = load(&engine, &path).map(|_| ()).expect_err("damage is found");
    assert!(format!("{error:#}").contains("checksum"), "{error:#}");

    // A damaged stamp is no stamp.
    fs::write(&path, &image)?;
    for entry in fs::read_dir(&cache_dir)?.flatten() {
        fs::write(entry.path(), b"nonsense")?;
    }
    load(&engine, &path)?;
    Ok(())
}
