//! Rust source as the checks see it: the same text with comments and literals blanked, so that a word in a string or in a
//! comment is not mistaken for code. Used by `layers` and `tidy`.

/// The text with the contents of comments, strings and character literals replaced by spaces. Line breaks stay, so a line
/// has the same number in both.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment_end(bytes, at),
            b'r' | b'b' | b'c' if !is_word(bytes, at.wrapping_sub(1)) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'"' => string_end(bytes, at),
            b'\'' => match character_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).unwrap_or_default()
}

/// The numbers, from one, of the lines in which this word stands alone.
pub fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    lines_where(code, |line| {
        line.match_indices(word).any(|(at, _)| !is_word(line.as_bytes(), at.wrapping_sub(1)) && !is_word(line.as_bytes(), at + word.len()))
    })
}

/// The numbers, from one, of the lines that the condition holds for.
pub fn lines_where(code: &str, condition: impl Fn(&str) -> bool) -> Vec<usize> {
    code.lines().enumerate().filter(|(_, line)| condition(line)).map(|(at, _)| at + 1).collect()
}

fn is_word(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"` and `cr"…"` when one starts here.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + usize::from(matches!(bytes[start], b'b' | b'c'));
    let raw = bytes.get(at) == Some(&b'r');
    at += usize::from(raw);
    let hashes = bytes[at.min(bytes.len())..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(at + hashes) != Some(&b'"') || (!raw && hashes > 0) {
        return None;
    }
    at += hashes;
    if !raw {
        return Some(string_end(bytes, at));
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let length = bytes[at + 1..].windows(close.len()).position(|window| window == close)?;
    Some(at + 1 + length + close.len())
}

/// The end of a character literal, or nothing when the quote starts a lifetime.
fn character_end(bytes: &[u8], start: usize) -> Option<usize> {
    if bytes.get(start + 1) == Some(&b'\\') {
        let length = bytes[start + 3..].iter().take(12).position(|byte| *byte == b'\'')?;
        return Some(start + 3 + length + 1);
    }
    let length = bytes[start + 1..].iter().take(5).position(|byte| *byte == b'\'')?;
    let text = std::str::from_utf8(&bytes[start + 1..start + 1 + length]).ok()?;
    (text.chars().count() == 1).then_some(start + length + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expect: &[usize]) {
        assert_eq!(lines_with_word(&code_only(source), "unsafe"), expect, "{source}");
    }

    #[test]
    fn only_code_is_seen() {
        check("unsafe { x }", &[1]);
        check("// unsafe\nlet a = \"unsafe\"; /* unsafe /* unsafe */ unsafe */ unsafe fn f() {}", &[2]);
        check("let a = r#\"unsafe \" unsafe\"#;\nlet b = b\"unsafe\";\nlet c = '\"'; unsafe {}", &[3]);
        check("#![forbid(unsafe_code)]", &[]);
        check("let a = \"\\\"\"; unsafe {}", &[1]);
        check("fn f<'a>(x: &'a str) -> &'a str { unsafe { x } }", &[1]);
        check("let q = '\\''; let r = '\\u{41}'; unsafe {}", &[1]);
        check("let bar = br\"unsafe\"; let r = 1; let s = r; unsafe {}", &[1]);
        check("'é' unsafe", &[1]);
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = "a\n/* b\nc */ unsafe\n";
        assert_eq!(code_only(source).lines().count(), source.lines().count());
        check(source, &[3]);
    }
}
