//! The command line of a task: flags, options with a value, nothing positional.

use crate::failure::{Failure, Result};
use std::path::PathBuf;

/// What was given after the name of the task. Each task takes what it knows, then calls [`Arguments::finish`].
#[derive(Debug)]
pub struct Arguments {
    rest: Vec<String>,
}

impl Arguments {
    /// Takes the words after the task; `--name=value` is the same as `--name value`.
    pub fn new(words: impl Iterator<Item = String>) -> Self {
        let mut rest = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => rest.extend([name.to_owned(), value.to_owned()]),
                _ => rest.push(word),
            }
        }
        Self { rest }
    }

    /// Takes a flag; true when it was given.
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.rest.len();
        self.rest.retain(|word| word != name);
        self.rest.len() < before
    }

    /// Takes an option with its value; the last one given wins.
    ///
    /// # Errors
    /// When the value is missing.
    pub fn value(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.values(name)?.pop())
    }

    /// Takes an option that may be repeated.
    ///
    /// # Errors
    /// When a value is missing.
    pub fn values(&mut self, name: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        while let Some(at) = self.rest.iter().position(|word| word == name) {
            if at + 1 >= self.rest.len() {
                return Err(Failure::new(format!("{name} needs a value")));
            }
            found.push(self.rest.remove(at + 1));
            self.rest.remove(at);
        }
        Ok(found)
    }

    /// Takes an option whose value is a path.
    ///
    /// # Errors
    /// When the value is missing.
    pub fn path(&mut self, name: &str) -> Result<Option<PathBuf>> {
        Ok(self.value(name)?.map(PathBuf::from))
    }

    /// Takes an option whose value is a whole number.
    ///
    /// # Errors
    /// When the value is missing or is not a number.
    pub fn number(&mut self, name: &str) -> Result<Option<u32>> {
        match self.value(name)? {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Failure::new(format!("{name} needs a number, found `{text}`"))),
            },
        }
    }

    /// Everything must have been taken by now.
    ///
    /// # Errors
    /// Names the first word that no one took.
    pub fn finish(self) -> Result<()> {
        match self.rest.first() {
            None => Ok(()),
            Some(word) => Err(Failure::new(format!("unknown option `{word}`; `cargo xtask help` lists them"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Arguments {
        Arguments::new(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn options_and_flags_are_taken_in_any_order() {
        let mut given = of(&["--runs=3", "--quick", "--only", "a", "--only", "b"]);
        assert_eq!(given.values("--only").unwrap(), ["a", "b"]);
        assert!(given.flag("--quick"));
        assert_eq!(given.number("--runs").unwrap(), Some(3));
        assert_eq!(given.value("--json").unwrap(), None);
        given.finish().unwrap();
    }

    #[test]
    fn what_is_left_or_missing_is_named() {
        assert!(of(&["--what"]).finish().unwrap_err().to_string().contains("--what"));
        assert!(of(&["--runs"]).number("--runs").is_err());
        assert!(of(&["--runs", "x"]).number("--runs").unwrap_err().to_string().contains("`x`"));
    }
}
