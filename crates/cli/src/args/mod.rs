//! The command line, from words to values. Knows nothing of the engine.
//!
//! [`grants`] reads directories, variables and preloads; [`group`] reads `-W key=value`; [`options`] lists the keys. Only `main` and the
//! commands look at the result.

pub(crate) mod grants;
pub(crate) mod group;
pub(crate) mod options;

use crate::commands::output;
use clap::{Args, CommandFactory, Parser, Subcommand};
use grants::{DirGrant, EnvGrant, Preload};
use group::{GroupError, Use};
use options::{CodegenOptions, DebugOptions, OptimizeOptions, WasiOptions, WasmOptions};
use std::ffi::OsString;
use std::path::PathBuf;

/// A fast, safe WebAssembly runtime.
#[derive(Parser)]
#[command(name = "peregrine", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, max_term_width = 100)]
#[command(override_usage = "peregrine [OPTIONS] FILE [ARGS]...\n       peregrine COMMAND ...")]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunWords,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a module: what `peregrine FILE` does too.
    #[command(override_usage = "peregrine run [OPTIONS] FILE [ARGS]...")]
    Run(RunWords),
    /// Compile a module to an image that `run` starts at once.
    Compile(CompileWords),
    /// Check that modules are valid, without compiling them.
    Validate(ValidateWords),
    /// Show what is in a module or image.
    Inspect(InspectWords),
    /// Run scripts of the WebAssembly test suite.
    Wast(WastWords),
    /// Note what a program does, for `compile --profile`.
    Profile(ProfileWords),
    /// Look after the cache of compiled modules.
    Cache(CacheWords),
    /// Show the settings and processor features that compilation uses here.
    Settings(SettingsWords),
    /// Print the completion script for a shell.
    Completion(CompletionWords),
}

/// The groups, as they are written.
#[derive(Args, Default)]
pub(crate) struct GroupWords {
    /// How code is made and where it is kept; `-C help` lists the keys.
    #[arg(short = 'C', long = "codegen", value_name = "KEY[=VAL],...")]
    codegen: Vec<String>,
    /// What helps to find faults; `-D help` lists the keys.
    #[arg(short = 'D', long = "debug", value_name = "KEY[=VAL],...")]
    debug: Vec<String>,
    /// Optimization; `-O help` lists the keys.
    #[arg(short = 'O', long = "optimize", value_name = "KEY[=VAL],...")]
    optimize: Vec<String>,
    /// What WASI gives to the guest; `-S help` lists the keys.
    #[arg(short = 'S', long = "wasi", value_name = "KEY[=VAL],...")]
    wasi: Vec<String>,
    /// What modules may use and do; `-W help` lists the keys.
    #[arg(short = 'W', long = "wasm", value_name = "KEY[=VAL],...")]
    wasm: Vec<String>,
    /// The processor and system that code is made for, such as aarch64-unknown-linux-gnu.
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Tell a profiler about compiled code, or compile with what `profile save` noted in a file.
    #[arg(long, value_name = "perfmap|jitdump|FILE", value_parser = read_profile)]
    profile: Option<Profile>,
}

/// The groups, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) codegen: CodegenOptions,
    pub(crate) debug: DebugOptions,
    pub(crate) optimize: OptimizeOptions,
    pub(crate) wasi: WasiOptions,
    pub(crate) wasm: WasmOptions,
    pub(crate) target: Option<String>,
    pub(crate) profile: Option<Profile>,
}

impl Options {
    /// The first option that was given and is about nothing of `read`, as it is written.
    pub(crate) fn unread(&self, read: &[Use]) -> Option<String> {
        let profile = || match &self.profile {
            Some(Profile::File(_)) if !read.contains(&Use::Code) => Some("--profile FILE".to_string()),
            Some(Profile::Perfmap | Profile::Jitdump) if !read.contains(&Use::Tiers) => Some("--profile perfmap|jitdump".to_string()),
            _ => None,
        };
        let target = || self.target.as_ref().filter(|_| !read.contains(&Use::Code)).map(|_| "--target".to_string());
        // What makes or reads code without a cache does as it is told.
        let mut codegen = self.codegen.clone();
        codegen.cache = codegen.cache.filter(|on| *on || !read.contains(&Use::Code));
        group::unread(&codegen, read)
            .or_else(|| group::unread(&self.debug, read))
            .or_else(|| group::unread(&self.optimize, read))
            .or_else(|| group::unread(&self.wasi, read))
            .or_else(|| group::unread(&self.wasm, read))
            .or_else(profile)
            .or_else(target)
    }
}

/// A profiler's way of learning about compiled code, or a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// A map of symbols for `perf`, in /tmp.
    Perfmap,
    /// A dump of code for `perf inject --jit`.
    Jitdump,
    /// What `profile save` wrote.
    File(PathBuf),
}

fn read_profile(text: &str) -> Result<Profile, String> {
    match text {
        "perfmap" => Ok(Profile::Perfmap),
        "jitdump" => Ok(Profile::Jitdump),
        file if std::path::Path::new(file).exists() => Ok(Profile::File(file.into())),
        _ => Err("expected perfmap, jitdump, or a file that `peregrine profile save` wrote, and there is no such file".into()),
    }
}

impl GroupWords {
    /// Reads all groups.
    ///
    /// # Errors
    ///
    /// [`GroupError`] of the first that cannot be read.
    pub(crate) fn read(&self) -> Result<Options, GroupError> {
        Ok(Options {
            codegen: group::read(&self.codegen)?,
            debug: group::read(&self.debug)?,
            optimize: group::read(&self.optimize)?,
            wasi: group::read(&self.wasi)?,
            wasm: group::read(&self.wasm)?,
            target: self.target.clone(),
            profile: self.profile.clone(),
        })
    }

    /// Reads all groups for a command that reads what is about `read`, or ends the process as usage errors do: after the list of keys
    /// with 0, after a mistake with 2.
    pub(crate) fn read_or_exit(&self, command: &str, read: &[Use]) -> Options {
        match self.read() {
            Ok(options) => match options.unread(read) {
                Some(unread) => usage_error(&format!("`{unread}` has no meaning for `peregrine {command}`; leave it out")),
                None => options,
            },
            Err(GroupError::Help(text)) => exit_after_help(&text),
            Err(GroupError::Wrong(text)) => usage_error(&text),
        }
    }
}

/// Prints a list of keys and ends the process.
fn exit_after_help(text: &str) -> ! {
    std::process::exit(i32::from(output::print(text).is_err()))
}

/// Ends the process with 2 after a mistake on the command line.
pub(crate) fn usage_error(text: &str) -> ! {
    CommandLine::command().error(clap::error::ErrorKind::InvalidValue, text).exit()
}

/// `run`, and the bare form.
#[derive(Args, Default)]
pub(crate) struct RunWords {
    #[command(flatten)]
    pub(crate) groups: GroupWords,
    #[command(flatten)]
    pub(crate) guest: GuestWords,
    /// The module (.wasm, .wat or `-` for standard input) or image, and the guest's arguments.
    #[arg(value_name = "FILE [ARGS]", required = true, trailing_var_arg = true)]
    pub(crate) words: Vec<OsString>,
}

/// What a guest is given, and what is called.
#[derive(Args, Default)]
pub(crate) struct GuestWords {
    /// Give the guest a directory, by its own name or by another; `::ro` makes it read-only.
    #[arg(long = "dir", value_name = "HOST[::GUEST[::ro]]", value_parser = grants::read_dir)]
    pub(crate) dirs: Vec<DirGrant>,
    /// Give the guest a directory that it cannot change.
    #[arg(long = "dir-ro", value_name = "HOST[::GUEST]", value_parser = grants::read_dir_ro)]
    pub(crate) read_only_dirs: Vec<DirGrant>,
    /// Set an environment variable of the guest, or pass one on.
    #[arg(long = "env", value_name = "NAME[=VAL]", value_parser = grants::read_env)]
    pub(crate) envs: Vec<EnvGrant>,
    /// What the guest sees as its own name. Default: the name of the file.
    #[arg(long, value_name = "NAME")]
    pub(crate) argv0: Option<String>,
    /// Call this exported function with ARGS and print its results, instead of running the program.
    #[arg(long, value_name = "FUNCTION")]
    pub(crate) invoke: Option<String>,
    /// Instantiate this module first, under this name, for the program to import from.
    #[arg(long = "preload", value_name = "NAME=FILE", value_parser = grants::read_preload)]
    pub(crate) preloads: Vec<Preload>,
    /// Accepted and not needed: images are recognised by their first bytes.
    #[arg(long)]
    pub(crate) allow_precompiled: bool,
}

/// `profile`.
#[derive(Args)]
pub(crate) struct ProfileWords {
    #[command(subcommand)]
    pub(crate) action: ProfileAction,
}

/// What to do with a profile.
#[derive(Subcommand)]
pub(crate) enum ProfileAction {
    /// Run a module and note what its functions do.
    Save(Box<ProfileSaveWords>),
    /// Show what a profile says.
    Show(ProfileShowWords),
}

/// `profile save`.
#[derive(Args)]
pub(crate) struct ProfileSaveWords {
    #[command(flatten)]
    pub(crate) groups: GroupWords,
    #[command(flatten)]
    pub(crate) guest: GuestWords,
    /// Where the profile goes. Default: the name of the module with `.profile`.
    #[arg(short, long, value_name = "PROFILE")]
    pub(crate) output: Option<PathBuf>,
    /// Add to the profile that is there already.
    #[arg(long)]
    pub(crate) merge: bool,
    /// The module.
    #[arg(value_name = "FILE")]
    pub(crate) file: OsString,
    /// The guest's arguments.
    #[arg(value_name = "ARGS", last = true)]
    pub(crate) args: Vec<OsString>,
}

/// `profile show`.
#[derive(Args)]
pub(crate) struct ProfileShowWords {
    /// Show all functions, however many there are.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The profile.
    #[arg(value_name = "PROFILE")]
    pub(crate) profile: PathBuf,
    /// The module that it is of, for names.
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// `compile`.
#[derive(Args)]
pub(crate) struct CompileWords {
    #[command(flatten)]
    pub(crate) groups: GroupWords,
    /// Where the image goes. Default: the name of the module with `.pgn`.
    #[arg(short, long, value_name = "IMAGE")]
    pub(crate) output: Option<PathBuf>,
    /// The module.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `validate`.
#[derive(Args)]
pub(crate) struct ValidateWords {
    #[command(flatten)]
    pub(crate) groups: GroupWords,
    /// The modules.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// `inspect`.
#[derive(Args)]
pub(crate) struct InspectWords {
    #[command(flatten)]
    pub(crate) groups: GroupWords,
    /// Show the code of one function, by name or index, beside its text.
    #[arg(long, value_name = "NAME|INDEX")]
    pub(crate) function: Option<String>,
    /// Show all functions, however many there are.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The module or image.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `wast`.
#[derive(Args)]
pub(crate) struct WastWords {
    #[command(flatten)]
    pub(crate) groups: GroupWords,
    /// Accept any trap and any link error where the script expects one, whatever it is called.
    #[arg(long)]
    pub(crate) ignore_error_messages: bool,
    /// The scripts.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// `cache`.
#[derive(Args)]
pub(crate) struct CacheWords {
    #[command(flatten)]
    pub(crate) groups: GroupWords,
    #[command(subcommand)]
    pub(crate) action: CacheAction,
}

/// What to do with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum CacheAction {
    /// Print where it is.
    Path,
    /// Print how many bytes it has.
    Size,
    /// Remove everything in it.
    Clear,
}

/// `settings`.
#[derive(Args)]
pub(crate) struct SettingsWords {
    #[command(flatten)]
    pub(crate) groups: GroupWords,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `completion`.
#[derive(Args)]
pub(crate) struct CompletionWords {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

/// Names of subcommands: a first word that is one of them is not a file.
const COMMANDS: &[&str] = &["run", "compile", "validate", "inspect", "wast", "profile", "cache", "settings", "completion", "help"];

/// Reads the words of the process; a mistake ends it.
pub(crate) fn read() -> Command {
    let words: Vec<OsString> = std::env::args_os().collect();
    match read_quick(&words) {
        Some(command) => command,
        None => {
            let line = match CommandLine::try_parse_from(&words) {
                Ok(line) => line,
                Err(error) => help_of_groups(&words).unwrap_or_else(|| error.exit()),
            };
            line.command.unwrap_or(Command::Run(line.run))
        }
    }
}

/// `[run] FILE ARGS...` without a flag before the file needs no table of flags: all that follows the file is the guest's.
fn read_quick(words: &[OsString]) -> Option<Command> {
    let mut rest = words.get(1..)?;
    let first = rest.first()?;
    if first == "run" {
        rest = &rest[1..];
    } else if COMMANDS.iter().any(|name| first == name) {
        return None;
    }
    let is_flag = |word: &OsString| word.as_encoded_bytes().starts_with(b"-") && word != "-";
    match rest.first() {
        Some(file) if !is_flag(file) => Some(Command::Run(RunWords { words: rest.to_vec(), ..RunWords::default() })),
        _ => None,
    }
}

/// `-W help` needs no file: prints the list if that is all that was wrong.
fn help_of_groups(words: &[OsString]) -> Option<CommandLine> {
    let mut with_file = words.to_vec();
    with_file.push(OsString::from("-"));
    let line = CommandLine::try_parse_from(&with_file).ok()?;
    let groups = match &line.command {
        None => &line.run.groups,
        Some(Command::Run(words)) => &words.groups,
        Some(Command::Compile(words)) => &words.groups,
        Some(Command::Validate(words)) => &words.groups,
        Some(Command::Inspect(words)) => &words.groups,
        Some(Command::Wast(words)) => &words.groups,
        Some(Command::Cache(words)) => &words.groups,
        Some(Command::Settings(words)) => &words.groups,
        Some(Command::Profile(words)) => match &words.action {
            ProfileAction::Save(words) => &words.groups,
            ProfileAction::Show(_) => return None,
        },
        Some(Command::Completion(_)) => return None,
    };
    if let Err(GroupError::Help(text)) = groups.read() {
        exit_after_help(&text);
    }
    None
}

/// Tables of all groups, for tests and documentation.
#[cfg(test)]
fn tables() -> [&'static [group::Key]; 5] {
    use group::Group;
    [CodegenOptions::KEYS, DebugOptions::KEYS, OptimizeOptions::KEYS, WasiOptions::KEYS, WasmOptions::KEYS]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(line.split(' '))
    }

    fn run_words(line: &str) -> RunWords {
        let line = parse(line).unwrap_or_else(|error| panic!("{error}"));
        match line.command {
            None => line.run,
            Some(Command::Run(words)) => words,
            Some(_) => panic!("another command"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
        let commands: Vec<_> = CommandLine::command().get_subcommands().map(|command| command.get_name().to_string()).collect();
        // The quick way knows one more, which is made when words are parsed.
        let known: Vec<_> = COMMANDS.iter().filter(|name| **name != "help").collect();
        assert_eq!(known, commands.iter().collect::<Vec<_>>());
    }

    #[test]
    fn keys_are_unique_and_explained() {
        for table in tables() {
            for (at, key) in table.iter().enumerate() {
                assert!(key.help.ends_with('.') && !key.name.contains('_'), "{}", key.name);
                assert!(table[..at].iter().all(|other| other.name != key.name), "{}", key.name);
            }
        }
    }

    #[test]
    fn bare_and_run_are_the_same() {
        for line in ["peregrine --dir /tmp::/d --env A=b a.wasm -x --dir no", "peregrine run --dir /tmp::/d --env A=b a.wasm -x --dir no"] {
            let words = run_words(line);
            assert_eq!(words.words, ["a.wasm", "-x", "--dir", "no"]);
            assert_eq!(words.guest.dirs.len(), 1);
            assert_eq!(words.guest.envs.len(), 1);
        }
    }

    #[test]
    fn the_quick_way_gives_what_the_long_way_gives() {
        for line in ["peregrine a.wasm", "peregrine run a.wasm -W x", "peregrine a.wasm run --help", "peregrine run run", "peregrine - x"] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let Some(Command::Run(quick)) = read_quick(&words) else { panic!("{line}") };
            assert_eq!(quick.words, run_words(line).words, "{line}");
        }
        for line in ["peregrine", "peregrine run", "peregrine -W fuel=1 a.wasm", "peregrine compile a.wasm", "peregrine run --dir . a.wasm"]
        {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert!(read_quick(&words).is_none(), "{line}");
        }
    }

    #[test]
    fn groups_are_read() {
        let words =
            run_words("peregrine -W fuel=10,simd=n -Wtimeout=1s -S tcplisten=127.0.0.1:1,tcplisten=127.0.0.1:2 -O opt-level=s a.wasm");
        let options = words.groups.read().unwrap();
        assert_eq!(options.wasm.fuel, Some(10));
        assert_eq!(options.wasm.simd, Some(false));
        assert_eq!(options.wasi.tcplisten.unwrap().0.len(), 2);
        assert_eq!(options.optimize.opt_level, Some(options::OptLevel::SpeedAndSize));
        assert!(matches!(run_words("peregrine -W simb=n a.wasm").groups.read(), Err(GroupError::Wrong(_))));
        assert!(parse("peregrine").is_err());
        assert!(parse("peregrine --no-such a.wasm").is_err());
    }
}
