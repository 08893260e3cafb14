//! Whether an error is the one that a script expects.
//!
//! Scripts name errors by the words of the reference interpreter. Traps and link errors are compared, by prefix as the interpreter does
//! or by the table below where Peregrine says more or says it otherwise. What the validator says of malformed and invalid modules is
//! its own wording, so of those only the refusal counts.

/// Expected words, and what Peregrine says in their place.
const SAME_MEANING: &[(&str, &[&str])] = &[
    ("out of bounds memory access", &["out of bounds memory access"]),
    ("out of bounds table access", &["out of bounds table access"]),
    ("undefined element", &["undefined element", "out of bounds table access"]),
    ("uninitialized element", &["uninitialized element"]),
    ("uninitialized", &["uninitialized element"]),
    ("indirect call type mismatch", &["indirect call type mismatch"]),
    ("unreachable", &["unreachable"]),
    ("call stack exhausted", &["call stack exhausted"]),
    ("null function reference", &["null reference"]),
    ("null reference", &["null reference"]),
    ("null func reference", &["null reference"]),
    // Since 2.0 segments are checked one by one while they are written; before that it was a link error.
    ("data segment does not fit", &["out of bounds memory access"]),
    ("elements segment does not fit", &["out of bounds table access"]),
    ("out of bounds", &["out of bounds"]),
    ("incompatible import type", &["incompatible import type"]),
    ("unknown import", &["unknown import"]),
];

/// Whether `found`, with its causes, is the trap or link error that a script calls `expected`.
pub(super) fn matches(expected: &str, found: &str) -> bool {
    if found.contains(expected) {
        return true;
    }
    // The first row counts: the more particular ones come before the general.
    let row = SAME_MEANING.iter().find(|(words, _)| expected.starts_with(words));
    row.is_some_and(|(_, said)| said.iter().any(|text| found.contains(text)))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn the_same_words_and_the_same_meaning_match() {
        assert!(matches("integer overflow", "wasm trap: integer overflow"));
        assert!(matches("undefined element 7", "undefined element: out of bounds table access"));
        assert!(matches("uninitialized element 2", "uninitialized element"));
        assert!(matches("elements segment does not fit", "undefined element: out of bounds table access"));
    }

    #[test]
    fn another_error_does_not_match() {
        assert!(!matches("integer overflow", "integer divide by zero"));
        assert!(!matches("unknown import", "incompatible import type for `a::b`"));
        assert!(!matches("out of bounds memory access", "undefined element: out of bounds table access"));
    }
}
