//! The command under test: this project's, or any other that is given as a template.

use crate::arguments::Arguments;
use crate::engines::{Engine, Grant, Kind};
use crate::failure::{Failure, Result};
use crate::process::Job;
use std::fmt;
use std::path::Path;

/// How a module is run.
pub enum Runner {
    /// By an engine whose command line is known.
    Engine(Engine),
    /// By a template: words, of which `{dirs}`, `{wasm}` and `{args}` are replaced.
    Template(Vec<String>),
}

impl Runner {
    /// Takes `--runner`, or finds the command of this project.
    ///
    /// # Errors
    /// When there is neither, or when the template has no `{wasm}`.
    pub fn find(arguments: &mut Arguments) -> Result<Self> {
        if let Some(template) = arguments.value("--runner")? {
            return Self::template(&template);
        }
        match Engine::find(Kind::Peregrine, arguments)? {
            Some(engine) => Ok(Self::Engine(engine)),
            None => {
                Err(Failure::new("no `peregrine` found; build it with `cargo build -p peregrine-cli`, or give --peregrine or --runner"))
            }
        }
    }

    fn template(text: &str) -> Result<Self> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() || !words.iter().any(|word| word == "{wasm}") {
            return Err(Failure::new(format!("--runner needs a command with the word {{wasm}}, found `{text}`")));
        }
        Ok(Self::Template(words))
    }

    /// The command that runs this module. `env` are variables for the guest.
    ///
    /// # Errors
    /// When the template has no place for the folders or variables that the program needs.
    pub fn job(&self, module: &Path, grants: &[Grant<'_>], env: &[(&str, &str)], args: &[&str]) -> Result<Job> {
        let mut options = Vec::new();
        for (host, guest) in grants {
            options.extend(["--dir".to_owned(), format!("{}::{guest}", host.display())]);
        }
        for (name, value) in env {
            options.extend(["--env".to_owned(), format!("{name}={value}")]);
        }
        match self {
            Self::Engine(engine) => Ok(Job::new(&engine.path).arg("run").args(options).arg(module).args(args)),
            Self::Template(words) => {
                if !options.is_empty() && !words.iter().any(|word| word == "{dirs}") {
                    return Err(Failure::new("this program needs folders; put the word {dirs} into --runner"));
                }
                let mut job = Job::new(&words[0]);
                for word in &words[1..] {
                    job = match word.as_str() {
                        "{dirs}" => job.args(&options),
                        "{wasm}" => job.arg(module),
                        "{args}" => job.args(args),
                        other => job.arg(other),
                    };
                }
                Ok(job)
            }
        }
    }
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(engine) => write!(f, "{} {}", engine.kind.name(), engine.version),
            Self::Template(words) => write!(f, "`{}`", words.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled() {
        let runner = Runner::template("engine run {dirs} {wasm} {args}").unwrap();
        let job = runner.job(Path::new("a.wasm"), &[(Path::new("here"), "/")], &[("A", "b")], &["x", "y"]).unwrap();
        assert_eq!(job.to_string(), "`engine run --dir here::/ --env A=b a.wasm x y`");
    }

    #[test]
    fn a_template_without_a_place_is_an_error() {
        assert!(Runner::template("engine run").is_err());
        let runner = Runner::template("engine {wasm} {args}").unwrap();
        assert!(runner.job(Path::new("a.wasm"), &[], &[], &[]).is_ok());
        assert!(runner.job(Path::new("a.wasm"), &[(Path::new("here"), "/")], &[], &[]).is_err());
    }
}
