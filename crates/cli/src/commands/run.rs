//! `peregrine run FILE ARGS...`: a program from its file to its exit code.

use super::deadline::Deadline;
use super::failure::Outcome;
use super::setup::{self, Input, addressable};
use super::{imports, invoke, output, progress};
use crate::args::group::Use;
use crate::args::options::WasmOptions;
use crate::args::{Options, RunWords};
use peregrine::{
    Budget, Context, Engine, Error, Instance, Linker, Module, Profile, Result, Store, StoreLimits, StoreLimitsBuilder, Strategy, Val,
    WasmCoreDump,
};
use peregrine_wasi::p1::{self, WasiP1Ctx};
use peregrine_wasi::{DirPerms, FilePerms, WasiCtxBuilder};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// How many exported functions are named at most.
const MAX_NAMED: usize = 20;
/// The first descriptor that a service manager hands over.
const FIRST_LISTEN_FD: i32 = 3;

/// What belongs to one guest.
struct Host {
    wasi: Option<WasiP1Ctx>,
    limits: StoreLimits,
}

/// Runs the program.
///
/// # Errors
///
/// A trap, or whatever prevents the program from running. An exit of the guest is the exit code.
pub(crate) fn execute(words: RunWords) -> Outcome {
    execute_noting(words, None)
}

/// What is done with a module that counted what it does.
pub(super) type Note<'a> = dyn Fn(&Module) -> Result<()> + 'a;

/// [`execute`]; with `note`, the program counts what it does, and that is given to it at the end, whatever the end is.
///
/// # Errors
///
/// As there.
pub(super) fn execute_noting(words: RunWords, note: Option<&Note<'_>>) -> Outcome {
    let options = match note {
        None => words.groups.read_or_exit("run", &[Use::Code, Use::Strategy, Use::Tiers, Use::Program, Use::Cache, Use::Log]),
        Some(_) => words.groups.read_or_exit("profile save", &[Use::Code, Use::Strategy, Use::Tiers, Use::Program, Use::Log]),
    };
    let (file, args) = split_words(&words)?;
    let input = Input::open(Path::new(&file))?;
    if let (Input::Image(_), Some(_)) = (&input, note) {
        return Err(Error::msg(format!("`{file}` is an image, whose code does not count; give the module that it was made from")));
    }
    let engine = match note {
        // The cache also remembers which images are undamaged.
        None => setup::engine_with_cache(&options)?,
        Some(_) => setup::counting_engine(&options)?,
    };
    let profile = setup::profile(&options)?;
    let module = load(&engine, &options, input, &file, profile.as_ref())?;
    if let Some(profile) = &profile {
        module.add_profile(profile)?;
    }
    let mut store = new_store(&engine, &words, &options, &file, &args)?;
    // Before anything runs: what is preloaded has start functions too.
    let deadline = Deadline::start(&mut store, &options.wasm, &file)?;
    let linker = new_linker(&engine, &mut store, &words, &options, &module)?;
    let outcome = run(&linker, &mut store, &module, &words, &args);
    deadline.guest_ended();
    if let (Err(error), Some(path)) = (&outcome, &options.debug.coredump) {
        write_core_dump(error, path, &mut store, &file)?;
    }
    match note {
        None => module.keep_compiled(),
        Some(note) => note(&module)?,
    }
    let code = match outcome {
        Ok(()) => 0,
        Err(error) => match error.downcast_ref::<p1::I32Exit>() {
            Some(exit) => exit.process_exit_code(),
            None => return Err(error.context(format!("`{file}` failed"))),
        },
    };
    if options.profile.is_some() {
        // Profilers are told the last when the engine goes.
        drop((linker, store, module, engine));
    }
    // What the guest held is the system's to take back, which is quicker than giving it back piece by piece.
    std::process::exit(code)
}

/// Writes the core dump of a guest that trapped.
///
/// # Errors
///
/// If the file cannot be written.
fn write_core_dump(error: &Error, path: &Path, store: &mut Store<Host>, name: &str) -> Result<()> {
    let Some(dump) = error.downcast_ref::<WasmCoreDump>() else { return Ok(()) };
    let path = PathBuf::from(path.to_string_lossy().replace("%p", &std::process::id().to_string()));
    std::fs::write(&path, dump.serialize(store, name)).with_context(|| format!("cannot write the core dump `{}`", path.display()))?;
    eprintln!("core dump written to `{}`", path.display());
    Ok(())
}

/// Whether WASI preview 1 has a function of this name.
pub(super) fn is_wasi_function(name: &str) -> bool {
    p1::table::FUNCTIONS.iter().any(|function| function.name == name)
}

fn split_words(words: &RunWords) -> Result<(String, Vec<String>)> {
    let mut texts = words.words.iter().map(|word| {
        word.to_str().map(str::to_string).ok_or_else(|| Error::msg(format!("the argument `{}` is not UTF-8", word.to_string_lossy())))
    });
    let file = texts.next().unwrap_or_else(|| Err(Error::msg("no file is given")))?;
    Ok((file, texts.collect::<Result<_>>()?))
}

/// The module of `input`. Where all of it is compiled now, `profile` is asked now.
#[expect(unsafe_code, reason = "an image is a program, and the user names it to be run")]
fn load(engine: &Engine, options: &Options, input: Input, name: &str, profile: Option<&Profile>) -> Result<Module> {
    let at_once = profile.filter(|_| engine.config().get_strategy() == Some(Strategy::Ahead));
    match (input, at_once) {
        // SAFETY: 1. the user trusts the file as any program that is named on a command line. 2. Who rewrites a program while it runs, instead
        // of replacing it as `compile` does, is the one who is harmed.
        (Input::Image(file), _) => unsafe { Module::deserialize_open_file(engine, file) },
        (input, Some(profile)) => {
            setup::may_compile(options, name)?;
            Module::new_with_profile(engine, input.into_bytes(Path::new(name))?, profile)
        }
        (Input::Binary(file), None) => {
            setup::may_compile(options, name)?;
            progress::compile_file(engine, file)
        }
        (Input::Module(bytes), None) => {
            setup::may_compile(options, name)?;
            progress::compile(engine, setup::to_binary(bytes, Path::new(name))?)
        }
    }
    .with_context(|| format!("cannot load `{name}`"))
}

fn new_store(engine: &Engine, words: &RunWords, options: &Options, file: &str, args: &[String]) -> Result<Store<Host>> {
    let wasi = match options.wasi.cli {
        Some(false) => None,
        _ => Some(wasi_context(words, options, file, args)?),
    };
    let limits = limits(&options.wasm, &engine.config().get_budget());
    let mut store = Store::new(engine, Host { wasi, limits });
    store.limiter(|host| &mut host.limits);
    if let Some(fuel) = options.wasm.fuel {
        store.set_fuel(fuel)?;
    }
    Ok(store)
}

fn limits(wasm: &WasmOptions, budget: &Budget) -> StoreLimits {
    // The counts of a limiter replace those of the budget.
    let mut limits = StoreLimitsBuilder::new().instances(budget.instances).tables(budget.tables).memories(budget.memories);
    if let Some(size) = wasm.max_memory_size {
        limits = limits.memory_size(addressable(size.0));
    }
    if let Some(elements) = wasm.max_table_elements {
        limits = limits.table_elements(addressable(elements));
    }
    if let Some(instances) = wasm.max_instances {
        limits = limits.instances(addressable(instances));
    }
    if let Some(tables) = wasm.max_tables {
        limits = limits.tables(addressable(tables));
    }
    if let Some(memories) = wasm.max_memories {
        limits = limits.memories(addressable(memories));
    }
    if let Some(trap) = wasm.trap_on_grow_failure {
        limits = limits.trap_on_grow_failure(trap);
    }
    limits.build()
}

fn wasi_context(words: &RunWords, options: &Options, file: &str, args: &[String]) -> Result<WasiP1Ctx> {
    let mut wasi = WasiCtxBuilder::new();
    wasi.inherit_stdio();
    let own_name = Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or(file);
    wasi.arg(words.guest.argv0.as_deref().unwrap_or(own_name)).args(args);
    if options.wasi.inherit_env == Some(true) {
        wasi.inherit_env();
    }
    for env in &words.guest.envs {
        match (&env.value, std::env::var(&env.name)) {
            (Some(value), _) => {
                wasi.env(&env.name, value);
            }
            (None, Ok(value)) => {
                wasi.env(&env.name, value);
            }
            (None, Err(_)) => return Err(Error::msg(format!("--env {}: there is no such variable to pass on", env.name))),
        }
    }
    for dir in words.guest.dirs.iter().chain(&words.guest.read_only_dirs) {
        let (dir_perms, file_perms) = match dir.read_only {
            true => (DirPerms::READ, FilePerms::READ),
            false => (DirPerms::all(), FilePerms::all()),
        };
        wasi.preopened_dir(&dir.host, &dir.guest, dir_perms, file_perms)?;
    }
    grant_sockets(&mut wasi, options)?;
    if let Some(count) = options.wasi.max_open_files {
        wasi.max_open_fds(u32::try_from(count).with_context(|| format!("-S max-open-files={count}: at most {} are possible", u32::MAX))?);
    }
    Ok(wasi.build_p1())
}

fn grant_sockets(wasi: &mut WasiCtxBuilder, options: &Options) -> Result<()> {
    if options.wasi.listenfd == Some(true) {
        for listener in inherited_listeners()? {
            wasi.preopened_socket(listener)?;
        }
    }
    for address in options.wasi.tcplisten.iter().flat_map(|listeners| &listeners.0) {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        wasi.preopened_socket(listener)?;
    }
    Ok(())
}

/// The sockets that a service manager hands over, by the protocol of `sd_listen_fds(3)`.
fn inherited_listeners() -> Result<Vec<TcpListener>> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let own = rustix::process::getpid();
    let Some(count) = variable("LISTEN_FDS") else { return Ok(Vec::new()) };
    if variable("LISTEN_PID").is_some_and(|pid| pid != own.as_raw_nonzero().get()) {
        return Ok(Vec::new());
    }
    // A number is turned into a descriptor by way of our own process, which owns what it gives.
    let process = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty())?;
    let listener = |fd: i32| {
        let owned = rustix::process::pidfd_getfd(&process, fd, rustix::process::PidfdGetfdFlags::empty())
            .with_context(|| format!("LISTEN_FDS names the descriptor {fd}, which cannot be taken over"))?;
        let listener = TcpListener::from(owned);
        listener.local_addr().with_context(|| format!("LISTEN_FDS names the descriptor {fd}, which is no internet socket"))?;
        Ok(listener)
    };
    (FIRST_LISTEN_FD..FIRST_LISTEN_FD.saturating_add(count.max(0))).map(listener).collect()
}

fn new_linker(engine: &Engine, store: &mut Store<Host>, words: &RunWords, options: &Options, module: &Module) -> Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    if store.data().wasi.is_some() {
        p1::add_to_linker_sync(&mut linker, |host: &mut Host| host.wasi.as_mut().expect("the functions are added only with a context"))?;
    }
    for preload in &words.guest.preloads {
        let name = preload.file.display().to_string();
        let input = Input::open(&preload.file)?;
        let library = load(engine, options, input, &name, None)?;
        define_unknown(&mut linker, store, options, &library)?;
        if let Some(error) = imports::unknown(&linker, store, &library) {
            return Err(error.context(format!("cannot preload `{name}`")));
        }
        linker.module(&mut *store, &preload.name, &library).with_context(|| format!("cannot preload `{name}`"))?;
    }
    define_unknown(&mut linker, store, options, module)?;
    Ok(linker)
}

fn define_unknown(linker: &mut Linker<Host>, store: &mut Store<Host>, options: &Options, module: &Module) -> Result<()> {
    if options.wasm.unknown_imports_default == Some(true) {
        linker.define_unknown_imports_as_default_values(&mut *store, module)?;
    }
    if options.wasm.unknown_imports_trap == Some(true) {
        linker.define_unknown_imports_as_traps(module)?;
    }
    Ok(())
}

fn run(linker: &Linker<Host>, store: &mut Store<Host>, module: &Module, words: &RunWords, args: &[String]) -> Result<()> {
    let instance = match linker.instantiate(&mut *store, module) {
        Ok(instance) => instance,
        Err(error) => return Err(imports::unknown(linker, store, module).unwrap_or(error)),
    };
    match &words.guest.invoke {
        Some(name) => {
            initialize(&instance, store)?;
            call(&instance, store, module, name, args)
        }
        None => match instance.get_func(&mut *store, "_start") {
            Some(start) => start.call(&mut *store, &[], &mut []),
            None => {
                initialize(&instance, store)?;
                note_what_can_be_called(module);
                Ok(())
            }
        },
    }
}

/// Reactors are initialized before anything else of theirs is called.
fn initialize(instance: &Instance, store: &mut Store<Host>) -> Result<()> {
    match instance.get_func(&mut *store, "_initialize") {
        Some(initialize) => initialize.call(&mut *store, &[], &mut []),
        None => Ok(()),
    }
}

fn call(instance: &Instance, store: &mut Store<Host>, module: &Module, name: &str, args: &[String]) -> Result<()> {
    let Some(func) = instance.get_func(&mut *store, name) else {
        let help = exported_functions(module).map_or("it exports none".to_string(), |functions| format!("it exports {functions}"));
        return Err(Error::msg(format!("the module exports no function `{name}`; {help}")));
    };
    let ty = func.ty(&*store);
    let params = invoke::arguments(name, &ty, args)?;
    let mut results = vec![Val::I32(0); ty.results().len()];
    func.call(&mut *store, &params, &mut results)?;
    output::print(invoke::lines(&results))
}

fn note_what_can_be_called(module: &Module) {
    if let Some(functions) = exported_functions(module) {
        eprintln!("note: the module has no `_start`; `--invoke` calls one of its functions: {functions}");
    }
}

/// The first of the functions that a module exports, with their types, and how many more there are; `None` if there are none.
fn exported_functions(module: &Module) -> Option<String> {
    let function = |export: peregrine::ExportType<'_>| export.ty().func().map(|ty| format!("`{}` {ty}", export.name()));
    let functions: Vec<String> = module.exports().filter_map(function).collect();
    let named = &functions[..functions.len().min(MAX_NAMED)];
    match functions.len() - named.len() {
        _ if functions.is_empty() => None,
        0 => Some(named.join(", ")),
        more => Some(format!("{} and {more} more", named.join(", "))),
    }
}
