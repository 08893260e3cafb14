//! `peregrine profile save|show`: what a program does, noted in a file, and shown.

use super::failure::Outcome;
use super::{compile, output, run, setup};
use crate::args::{ProfileAction, ProfileSaveWords, ProfileShowWords, ProfileWords, RunWords};
use peregrine::{Config, Context, DefinedFuncIndex, Engine, Error, Module, Profile, Result, SiteProfile, Strategy};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

/// So many functions are shown unless all are asked for.
const SHOWN_FUNCTIONS: usize = 25;
/// So many calls of each.
const SHOWN_SITES: usize = 8;

/// Saves or shows a profile.
///
/// # Errors
///
/// If the program fails, or a file is not what it should be.
pub(crate) fn execute(words: ProfileWords) -> Outcome {
    match words.action {
        ProfileAction::Save(words) => save(*words),
        ProfileAction::Show(words) => show(&words),
    }
}

/// Reads a profile.
///
/// # Errors
///
/// If the file cannot be read, or is no profile.
pub(super) fn read(path: &Path) -> Result<Profile> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the profile `{}`", path.display()))?;
    Profile::from_bytes(&bytes).with_context(|| format!("cannot use the profile `{}`", path.display()))
}

fn save(words: ProfileSaveWords) -> Outcome {
    let ProfileSaveWords { groups, guest, output, merge, file, args } = words;
    let output = output.unwrap_or_else(|| compile::default_output(Path::new(&file), "profile"));
    // A mistake is told before the program runs.
    let earlier = match merge.then(|| read(&output)) {
        Some(Err(error)) if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound) => None,
        earlier => earlier.transpose()?,
    };
    let words = std::iter::once(file.clone()).chain(args).collect();
    let note = |module: &Module| {
        let mut profile = module.profile().ok_or_else(|| Error::msg(format!("`{}` did not count what it does", file.to_string_lossy())))?;
        if let Some(earlier) = &earlier {
            profile.merge(earlier).with_context(|| format!("cannot add to the profile `{}`", output.display()))?;
        }
        compile::write_whole(&output, &profile.to_bytes()).with_context(|| format!("cannot write `{}`", output.display()))
    };
    run::execute_noting(RunWords { groups, guest, words }, Some(&note))
}

/// Names of the functions of the module, if it is at hand.
struct Names(Option<Vec<(u32, Option<String>)>>);

impl Names {
    /// Reads those of the module in `file`, which `profile` has to be of.
    fn read(file: &Path, profile: &Profile) -> Result<Self> {
        let wasm = setup::module_bytes(file)?;
        if !profile.is_of(&wasm) {
            return Err(Error::new(peregrine::ProfileError::OtherModule).context(format!("`{}` is not what was run", file.display())));
        }
        // Nothing is compiled for it.
        let engine = Engine::new(Config::new().strategy(Strategy::Tiered).deferred_validation(true))?;
        let module = Module::new(&engine, wasm)?;
        Ok(Self(Some(module.functions().map(|function| (function.index.as_u32(), function.name)).collect())))
    }

    /// The index among all functions, if it is known, and the name, if there is one.
    fn of(&self, function: DefinedFuncIndex) -> (Option<u32>, Option<&str>) {
        let known = self.0.as_ref().and_then(|names| names.get(function.as_u32() as usize));
        known.map_or((None, None), |(index, name)| (Some(*index), name.as_deref()))
    }

    fn text(&self, function: DefinedFuncIndex) -> String {
        match self.of(function) {
            (Some(index), Some(name)) => format!("{index} `{name}`"),
            (Some(index), None) => index.to_string(),
            (None, _) => format!("defined {}", function.as_u32()),
        }
    }

    fn json(&self, function: DefinedFuncIndex) -> Value {
        let (index, name) = self.of(function);
        json!({ "defined": function.as_u32(), "index": index, "name": name })
    }
}

fn show(words: &ProfileShowWords) -> Outcome {
    let profile = read(&words.profile)?;
    let names = match &words.file {
        Some(file) => Names::read(file, &profile)?,
        None => Names(None),
    };
    let text = if words.json { format!("{:#}\n", to_json(&profile, &names)) } else { to_text(&profile, &names, words.all) };
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn to_json(profile: &Profile, names: &Names) -> Value {
    let site = |offset: u32, site: &SiteProfile| {
        let targets = site.targets().iter().map(|(target, calls)| json!({ "function": names.json(*target), "calls": calls }));
        json!({ "offset": offset, "calls": site.total(), "targets": targets.collect::<Vec<_>>(), "others": site.others() })
    };
    let functions = profile.functions().map(|(index, function)| {
        let sites: Vec<_> = function.sites.iter().map(|(offset, found)| site(*offset, found)).collect();
        json!({ "function": names.json(index), "calls": function.calls, "work": function.work, "sites": sites })
    });
    let module: String = profile.module_hash().iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "module": module, "runs": profile.runs(), "functions": functions.collect::<Vec<_>>() })
}

fn to_text(profile: &Profile, names: &Names, all: bool) -> String {
    let mut functions: Vec<_> = profile.functions().collect();
    functions.sort_by_key(|(index, function)| (std::cmp::Reverse(function.work), *index));
    let total = functions.iter().fold(0u64, |sum, (_, function)| sum.saturating_add(function.work));
    let mut text = String::new();
    let plural = if profile.runs() == 1 { "" } else { "s" };
    let _ = writeln!(text, "{} run{plural}, {} functions, {total} bytes of bodies run through", profile.runs(), functions.len());
    let _ = writeln!(text, "  share        calls  function");
    let shown = if all { functions.len() } else { SHOWN_FUNCTIONS };
    for (index, function) in functions.iter().take(shown) {
        let _ = writeln!(text, "{:>6}%  {:>11}  {}", percent(function.work, total), function.calls, names.text(*index));
        let mut sites: Vec<_> = function.sites.iter().filter(|(_, site)| site.total() > 0).collect();
        sites.sort_by_key(|(offset, site)| (std::cmp::Reverse(site.total()), **offset));
        for (offset, site) in sites.iter().take(if all { sites.len() } else { SHOWN_SITES }) {
            let targets =
                site.targets().iter().map(|(target, calls)| format!("{} {}%", names.text(*target), percent(*calls, site.total())));
            let others = (site.others() > 0).then(|| format!("others {}%", percent(site.others(), site.total())));
            let targets: Vec<_> = targets.chain(others).collect();
            let _ = writeln!(text, "         {:>11}  +{offset:#x} calls {}", site.total(), targets.join(", "));
        }
    }
    if functions.len() > shown {
        let _ = writeln!(text, "  and {} more; --all shows them", functions.len() - shown);
    }
    text
}

/// A share in tenths of percents.
fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}", part as f64 * 100.0 / whole.max(1) as f64)
}
