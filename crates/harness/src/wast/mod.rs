//! Runs .wast scripts: text in, a list of failed directives out.
//!
//! Each script gets a fresh store with the `spectest` module. A failed directive is recorded with its place and the script goes on;
//! a panic inside a directive is caught and is a failure too. Called by `peregrine wast` and by the tests of the specification suite.
//!
//! ```text
//! text -wast crate-> directives -Runner-> peregrine API -> Outcome { directives, failures }
//! ```

mod messages;
mod runner;
mod spectest;
mod values;

use peregrine::{Engine, Store};
use std::fmt;

/// What is done to a store before a script runs in it.
pub type PrepareStore<'a> = dyn Fn(&mut Store<()>) + Sync + 'a;

/// How scripts are run.
#[derive(Clone, Copy, Default)]
pub struct WastOptions<'a> {
    /// Any trap, any link error and any refusal fits an assertion, whatever message the script expects.
    pub ignore_error_messages: bool,
    /// `spectest.print*` write to standard output; otherwise they are silent.
    pub print: bool,
    /// Called with the store of each script before anything runs in it: fuel, deadlines.
    pub prepare_store: Option<&'a PrepareStore<'a>>,
    /// Makes modules of their binaries, in place of [`Module::new`](peregrine::Module::new).
    pub make_module: Option<&'a MakeModule<'a>>,
}

/// See [`WastOptions::make_module`].
pub type MakeModule<'a> = dyn Fn(&peregrine::Engine, &[u8]) -> peregrine::Result<peregrine::Module> + 'a;

/// What became of one script.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many directives were run.
    pub directives: usize,
    /// The directives that failed, in the order of the script.
    pub failures: Vec<Failure>,
}

impl Outcome {
    /// Whether every directive did what it asserts.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// One directive that did not do what it asserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The name of the script as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Runs the script `text`, called `file` in messages. A script that cannot be parsed has one failure and no directives.
pub fn run(engine: &Engine, file: &str, text: &str, options: &WastOptions<'_>) -> Outcome {
    let mut lexer = wast::lexer::Lexer::new(text);
    lexer.allow_confusing_unicode(true);
    let unparsable = |error: wast::Error| {
        let (line, column) = error.span().linecol_in(text);
        let message = format!("the script cannot be parsed: {}", error.message());
        Outcome { directives: 0, failures: vec![Failure { file: file.to_string(), line: line + 1, column: column + 1, message }] }
    };
    let buffer = match wast::parser::ParseBuffer::new_with_lexer(lexer) {
        Ok(buffer) => buffer,
        Err(error) => return unparsable(error),
    };
    let script = match wast::parser::parse::<wast::Wast<'_>>(&buffer) {
        Ok(script) => script,
        Err(error) => return unparsable(error),
    };
    match runner::Runner::new(engine, options) {
        Ok(runner) => runner.run(file, text, script.directives),
        Err(error) => {
            let message = format!("the store for the script cannot be made: {error:#}");
            Outcome { directives: 0, failures: vec![Failure { file: file.to_string(), line: 1, column: 1, message }] }
        }
    }
}
