//! The values of `--dir`, `--dir-ro`, `--env` and `--preload`.

use std::path::PathBuf;

/// A directory that the guest may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirGrant {
    /// Where it is.
    pub(crate) host: PathBuf,
    /// What the guest calls it.
    pub(crate) guest: String,
    /// Whether nothing in it may be changed.
    pub(crate) read_only: bool,
}

/// Reads `HOST[::GUEST][::ro]`.
pub(crate) fn read_dir(text: &str) -> Result<DirGrant, String> {
    let mut parts: Vec<&str> = text.split("::").collect();
    let read_only = parts.len() == 3 && parts[2] == "ro";
    if parts.len() == 3 {
        if !matches!(parts[2], "ro" | "rw") {
            return Err(format!("expected `ro` or `rw` after the second `::`, found `{}`", parts[2]));
        }
        parts.pop();
    }
    let (host, guest) = match parts[..] {
        [host] => (host, host),
        [host, guest] => (host, guest),
        _ => return Err("expected HOST, HOST::GUEST or HOST::GUEST::ro".to_string()),
    };
    if host.is_empty() || guest.is_empty() {
        return Err("a directory without a name".to_string());
    }
    Ok(DirGrant { host: PathBuf::from(host), guest: guest.to_string(), read_only })
}

/// Reads `HOST[::GUEST]` of a directory that is read-only.
pub(crate) fn read_dir_ro(text: &str) -> Result<DirGrant, String> {
    match read_dir(text)? {
        _ if text.ends_with("::rw") => Err("`--dir-ro` grants reading, and `::rw` asks for writing: use `--dir`".to_string()),
        grant => Ok(DirGrant { read_only: true, ..grant }),
    }
}

/// An environment variable for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnvGrant {
    /// Its name.
    pub(crate) name: String,
    /// Its value; `None` takes the one that `peregrine` itself has.
    pub(crate) value: Option<String>,
}

/// Reads `NAME[=VALUE]`.
pub(crate) fn read_env(text: &str) -> Result<EnvGrant, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_string())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("a variable without a name".to_string());
    }
    Ok(EnvGrant { name: name.to_string(), value })
}

/// A module that is instantiated first, for others to import from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preload {
    /// The module name in imports.
    pub(crate) name: String,
    /// The file.
    pub(crate) file: PathBuf,
}

/// Reads `NAME=FILE`.
pub(crate) fn read_preload(text: &str) -> Result<Preload, String> {
    match text.split_once('=') {
        Some((name, file)) if !file.is_empty() => Ok(Preload { name: name.to_string(), file: PathBuf::from(file) }),
        _ => Err("expected NAME=FILE".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories() {
        let check = |text: &str, host: &str, guest: &str, read_only| {
            assert_eq!(read_dir(text), Ok(DirGrant { host: host.into(), guest: guest.into(), read_only }));
        };
        check(".", ".", ".", false);
        check("/tmp::/data", "/tmp", "/data", false);
        check("/tmp::/data::ro", "/tmp", "/data", true);
        check("/tmp::/data::rw", "/tmp", "/data", false);
        check("a:b", "a:b", "a:b", false);
        assert!(read_dir("/tmp::/data::x").is_err());
        assert!(read_dir("::x").is_err());
        assert!(read_dir("").is_err());
        assert!(read_dir_ro("x::y").is_ok_and(|grant| grant.read_only));
    }

    #[test]
    fn variables_and_preloads() {
        assert_eq!(read_env("A=b=c"), Ok(EnvGrant { name: "A".into(), value: Some("b=c".into()) }));
        assert_eq!(read_env("A"), Ok(EnvGrant { name: "A".into(), value: None }));
        assert!(read_env("=x").is_err());
        assert_eq!(read_preload("env=lib.wasm"), Ok(Preload { name: "env".into(), file: "lib.wasm".into() }));
        assert!(read_preload("lib.wasm").is_err());
    }
}
