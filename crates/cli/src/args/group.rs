//! Groups of `key[=value]` options: one table per group, and what all groups share.
//!
//! A group is written `-W fuel=100,simd=n` or `-W fuel=100 -W simd=n`; a key alone is `key=y`; `_` may be written for `-`. `help` lists the
//! keys. The tables are in [`super::options`]; [`super`] calls them.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Something that can be written after `key=`.
pub(crate) trait Value: Sized {
    /// What the value looks like in the list of keys.
    const SHAPE: &'static str;

    /// Reads the text after `=`; `None` if there is no `=`.
    ///
    /// # Errors
    ///
    /// What was expected instead.
    fn read(text: Option<&str>) -> Result<Self, String>;

    /// What holds if the key was given before: this value alone, unless it is of a kind that collects.
    fn after(self, _earlier: Self) -> Self {
        self
    }
}

/// What an option is about. Each command says which of these it reads; others are refused there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// What modules may have, and what their code is like.
    Code,
    /// When code is made, and by which compiler.
    Strategy,
    /// How code is made while a program runs.
    Tiers,
    /// What a program is given, and what it may take.
    Program,
    /// Where compiled modules are kept.
    Cache,
    /// What is logged.
    Log,
}

/// One row of a group's table.
#[derive(Debug)]
pub(crate) struct Key {
    /// How it is written.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) about: Use,
    /// What its value looks like.
    pub(crate) shape: &'static str,
    /// What it does.
    pub(crate) help: &'static str,
}

/// Why a group cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GroupError {
    /// `help` was asked for: the list of keys.
    Help(String),
    /// There is no such key, or the value does not fit: what the user reads.
    Wrong(String),
}

/// A group of options.
pub(crate) trait Group: Default {
    /// The letter of the flag.
    const FLAG: char;
    /// What the group is about.
    const ABOUT: &'static str;
    /// The table.
    const KEYS: &'static [Key];

    /// Sets one key; `None` if there is no such key.
    fn set(&mut self, key: &str, value: Option<&str>) -> Option<Result<(), String>>;

    /// The keys that were set, in the order of the table.
    fn given(&self) -> Vec<&'static Key>;
}

/// The first key that was given and is about nothing of `read`, as it is written.
pub(crate) fn unread<G: Group>(group: &G, read: &[Use]) -> Option<String> {
    let unread = group.given().into_iter().find(|key| !read.contains(&key.about))?;
    Some(format!("-{} {}", G::FLAG, unread.name))
}

/// Reads all uses of a group's flag; later ones win.
///
/// # Errors
///
/// [`GroupError`].
pub(crate) fn read<G: Group>(uses: &[String]) -> Result<G, GroupError> {
    let mut group = G::default();
    for item in uses.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty()) {
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (item, None),
        };
        let key = key.replace('_', "-");
        if key == "help" {
            return Err(GroupError::Help(list_keys::<G>()));
        }
        match group.set(&key, value) {
            Some(Ok(())) => {}
            Some(Err(expected)) => return Err(GroupError::Wrong(wrong_value::<G>(&key, value, &expected))),
            None => return Err(GroupError::Wrong(unknown_key::<G>(&key))),
        }
    }
    Ok(group)
}

fn wrong_value<G: Group>(key: &str, value: Option<&str>, expected: &str) -> String {
    match value {
        Some(value) => format!("`-{} {key}={value}`: expected {expected}", G::FLAG),
        None => format!("`-{} {key}`: expected {expected} after `=`", G::FLAG),
    }
}

fn unknown_key<G: Group>(key: &str) -> String {
    let names = G::KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
    format!("`-{} {key}`: there is no such key; the keys are {names} (see `-{} help`)", G::FLAG, G::FLAG)
}

fn list_keys<G: Group>() -> String {
    let mut text = format!("{} (-{} KEY[=VALUE],...):\n\n", G::ABOUT, G::FLAG);
    let written = |key: &Key| format!("-{} {}={}", G::FLAG, key.name, key.shape);
    let width = G::KEYS.iter().map(|key| written(key).len()).max().unwrap_or(0);
    for key in G::KEYS {
        let _ = writeln!(text, "  {:width$}  {}", written(key), key.help);
    }
    text
}

/// Makes a struct of optional values and its table.
macro_rules! group {
    ($(#[$doc:meta])* $name:ident, $flag:literal, $about:literal; $($key:literal for $use:ident => $field:ident: $ty:ty, $help:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(crate) struct $name {
            $(#[doc = $help] pub(crate) $field: Option<$ty>,)*
        }

        impl $crate::args::group::Group for $name {
            const FLAG: char = $flag;
            const ABOUT: &'static str = $about;
            const KEYS: &'static [$crate::args::group::Key] = &[
                $($crate::args::group::Key {
                    name: $key,
                    about: $crate::args::group::Use::$use,
                    shape: <$ty as $crate::args::group::Value>::SHAPE,
                    help: $help,
                },)*
            ];

            fn set(&mut self, key: &str, value: Option<&str>) -> Option<Result<(), String>> {
                match key {
                    $($key => Some(<$ty as $crate::args::group::Value>::read(value).map(|value| {
                        self.$field = Some(match self.$field.take() {
                            Some(earlier) => $crate::args::group::Value::after(value, earlier),
                            None => value,
                        });
                    })),)*
                    _ => None,
                }
            }

            fn given(&self) -> Vec<&'static $crate::args::group::Key> {
                let given = [$(self.$field.is_some()),*];
                Self::KEYS.iter().zip(given).filter(|(_, is_given)| *is_given).map(|(key, _)| key).collect()
            }
        }
    };
}
pub(crate) use group;

impl Value for bool {
    const SHAPE: &'static str = "y|n";

    fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            None | Some("y" | "yes" | "true" | "1") => Ok(true),
            Some("n" | "no" | "false" | "0") => Ok(false),
            Some(_) => Err("`y` or `n`".to_string()),
        }
    }
}

impl Value for u64 {
    const SHAPE: &'static str = "N";

    fn read(text: Option<&str>) -> Result<Self, String> {
        text.and_then(read_integer).ok_or_else(|| "a number".to_string())
    }
}

/// A number of bytes: `4096`, `64K`, `512M`, `2G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl Value for Bytes {
    const SHAPE: &'static str = "SIZE";

    fn read(text: Option<&str>) -> Result<Self, String> {
        let read = |text: &str| {
            let digits_end = text.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1);
            if text.starts_with("0x") {
                return read_integer(text);
            }
            let (digits, unit) = text.split_at(digits_end);
            let shift = match unit.to_ascii_lowercase().as_str() {
                "" | "b" => 0,
                "k" | "kb" | "kib" => 10,
                "m" | "mb" | "mib" => 20,
                "g" | "gb" | "gib" => 30,
                "t" | "tb" | "tib" => 40,
                _ => return None,
            };
            read_integer(digits)?.checked_mul(1 << shift)
        };
        text.and_then(read).map(Self).ok_or_else(|| "a size in bytes, with K, M or G if you like".to_string())
    }
}

impl Value for Duration {
    const SHAPE: &'static str = "TIME";

    fn read(text: Option<&str>) -> Result<Self, String> {
        let read = |text: &str| {
            let digits_end = text.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1);
            let (digits, unit) = text.split_at(digits_end);
            let seconds = match unit {
                "" | "s" => 1.0,
                "ms" => 1e-3,
                "us" => 1e-6,
                "ns" => 1e-9,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            let count: f64 = digits.replace('_', "").parse().ok()?;
            Duration::try_from_secs_f64(count * seconds).ok()
        };
        text.and_then(read).ok_or_else(|| "a time such as `5s`, `300ms` or `2m`".to_string())
    }
}

impl Value for PathBuf {
    const SHAPE: &'static str = "PATH";

    fn read(text: Option<&str>) -> Result<Self, String> {
        text.filter(|text| !text.is_empty()).map(Self::from).ok_or_else(|| "a path".to_string())
    }
}

impl Value for SocketAddr {
    const SHAPE: &'static str = "ADDR:PORT";

    fn read(text: Option<&str>) -> Result<Self, String> {
        text.and_then(|text| text.parse().ok()).ok_or_else(|| "an address and a port such as `127.0.0.1:8080`".to_string())
    }
}

/// Addresses; each use of the key adds one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listeners(pub(crate) Vec<SocketAddr>);

impl Value for Listeners {
    const SHAPE: &'static str = SocketAddr::SHAPE;

    fn read(text: Option<&str>) -> Result<Self, String> {
        SocketAddr::read(text).map(|address| Self(vec![address]))
    }

    fn after(self, mut earlier: Self) -> Self {
        earlier.0.extend(self.0);
        earlier
    }
}

/// Decimal or `0x` hexadecimal, with `_` between digits.
fn read_integer(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    group! {
        /// For tests.
        Sample, 'X', "Sample options";
        "on" for Code => on: bool, "Switches something on.";
        "how-many" for Code => how_many: u64, "Counts.";
        "room" for Program => room: Bytes, "Space.";
        "wait" for Code => wait: Duration, "Time.";
    }

    fn sample(uses: &[&str]) -> Result<Sample, GroupError> {
        read(&uses.iter().map(|text| text.to_string()).collect::<Vec<_>>())
    }

    fn wrong(uses: &[&str]) -> String {
        match sample(uses) {
            Err(GroupError::Wrong(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_and_values_are_read_and_the_last_wins() {
        let group = sample(&["on,how_many=1_000", "room=64K,wait=1.5s", "how-many=0x10"]).unwrap();
        assert_eq!(group.on, Some(true));
        assert_eq!(group.how_many, Some(16));
        assert_eq!(group.room, Some(Bytes(65536)));
        assert_eq!(group.wait, Some(Duration::from_millis(1500)));
        assert_eq!(sample(&["on=n"]).unwrap().on, Some(false));
        assert_eq!(sample(&[]).unwrap(), Sample::default());
    }

    #[test]
    fn sizes_and_times() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("2M", 2 << 20), ("1GiB", 1 << 30), ("0x10", 16)] {
            assert_eq!(Bytes::read(Some(text)), Ok(Bytes(bytes)));
        }
        for text in ["", "M", "1Q", "-1", "99999999999T"] {
            assert!(Bytes::read(Some(text)).is_err(), "{text}");
        }
        assert_eq!(Duration::read(Some("2m")), Ok(Duration::from_secs(120)));
        assert_eq!(Duration::read(Some("7")), Ok(Duration::from_secs(7)));
        assert!(Duration::read(Some("-1s")).is_err());
        assert!(Duration::read(None).is_err());
    }

    #[test]
    fn what_is_wrong_names_what_is_right() {
        assert_eq!(wrong(&["off"]), "`-X off`: there is no such key; the keys are on, how-many, room, wait (see `-X help`)");
        assert_eq!(wrong(&["on=maybe"]), "`-X on=maybe`: expected `y` or `n`");
        assert_eq!(wrong(&["how-many"]), "`-X how-many`: expected a number after `=`");
    }

    #[test]
    fn what_nobody_reads_is_found() {
        let group = sample(&["wait=1s,room=1,on"]).unwrap();
        assert_eq!(unread(&group, &[Use::Code]), Some("-X room".to_string()));
        assert_eq!(unread(&group, &[Use::Code, Use::Program]), None);
        assert_eq!(unread(&Sample::default(), &[]), None);
    }

    #[test]
    fn help_lists_every_key() {
        let Err(GroupError::Help(text)) = sample(&["help"]) else { panic!("no help") };
        for key in Sample::KEYS {
            assert!(text.contains(key.name) && text.contains(key.help), "{text}");
        }
    }
}
