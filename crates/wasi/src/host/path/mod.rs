//! The one resolver of names. This file holds what is lexical and the same everywhere; the system's part is in [`system`]: `openat2`
//! beneath a directory. Path strings are never rebuilt: every name handed on is a piece of the guest's own.
//!
//! Another system brings a file with the functions of `linux.rs`, which open what a [`RelativePath`] names beneath a directory and nothing
//! outside of it, whatever links and renames there are meanwhile.

#[path = "linux.rs"]
pub(crate) mod system;

use super::error::Error;

/// Longest path taken from a guest, in bytes, without a terminator.
pub(crate) const PATH_MAX_BYTES: usize = 4095;

/// Whether a symbolic link at the end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Yes.
    Yes,
    /// No: the link itself is meant.
    No,
}

/// A path relative to a directory: not empty, not absolute, without NUL, valid UTF-8, not longer than [`PATH_MAX_BYTES`].
#[derive(Clone, Copy, Debug)]
pub struct RelativePath<'a>(&'a str);

/// The last component of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last<'a> {
    /// A name, with the slashes that followed it.
    Name(&'a str),
    /// `.`, perhaps with slashes.
    Dot,
    /// `..`, perhaps with slashes.
    DotDot,
}

impl<'a> RelativePath<'a> {
    /// Takes a path as a guest gave it.
    ///
    /// # Errors
    /// `IllegalBytes` if it is not UTF-8, `NotFound` if empty, `NameTooLong`, `Invalid` if it holds a NUL, `Escape` if absolute.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Err(Error::NotFound);
        }
        if bytes.len() > PATH_MAX_BYTES {
            return Err(Error::NameTooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Error::IllegalBytes)?;
        if bytes.contains(&0) {
            return Err(Error::Invalid);
        }
        if bytes[0] == b'/' {
            return Err(Error::Escape);
        }
        Ok(RelativePath(text))
    }

    /// The text.
    #[inline]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether the path is one name of the directory itself, so that no lookup but the last can leave it.
    #[inline]
    pub(crate) fn is_one_name(self) -> bool {
        !self.0.as_bytes().contains(&b'/') && self.0 != ".."
    }

    /// Whether the path ends with a slash and so means a directory.
    pub(crate) fn has_trailing_slash(self) -> bool {
        self.0.ends_with('/')
    }

    /// The path before the last component (if there is one), and the last component with its slashes.
    pub(crate) fn split(self) -> (Option<&'a str>, Last<'a>) {
        let bare = self.0.trim_end_matches('/');
        let start = bare.rfind('/').map_or(0, |slash| slash + 1);
        let last = match &bare[start..] {
            "." => Last::Dot,
            ".." => Last::DotDot,
            _ => Last::Name(&self.0[start..]),
        };
        let parent = if start == 0 { None } else { Some(&self.0[..start]) };
        (parent, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_without_being_rebuilt() {
        let split = |text: &'static str| RelativePath::new(text.as_bytes()).map(RelativePath::split);
        assert_eq!(split("a"), Ok((None, Last::Name("a"))));
        assert_eq!(split("a//"), Ok((None, Last::Name("a//"))));
        assert_eq!(split("a//b/"), Ok((Some("a//"), Last::Name("b/"))));
        assert_eq!(split("a/.."), Ok((Some("a/"), Last::DotDot)));
        assert_eq!(split("../"), Ok((None, Last::DotDot)));
        assert_eq!(split("./."), Ok((Some("./"), Last::Dot)));
        assert_eq!(split("/a"), Err(Error::Escape));
        assert_eq!(split(""), Err(Error::NotFound));
        assert_eq!(split("a\0b"), Err(Error::Invalid));
        assert!(RelativePath::new(&[b'a', 0xff]).is_err_and(|e| e == Error::IllegalBytes));
        assert!(RelativePath::new(&[b'a'; PATH_MAX_BYTES + 1]).is_err_and(|e| e == Error::NameTooLong));
    }
}
