//! The tokens of one JSON value that the scanner has passed already, with their places, and what
//! strings and numbers mean. Only what the scanner does not look at can still be wrong: UTF-8,
//! surrogates, the size of numbers. It knows no message.

use std::borrow::Cow;

/// A token and where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) at: usize,
    /// As it stands in the text.
    pub(super) raw: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number,
    String,
    Open,
    Close,
    OpenList,
    CloseList,
}

/// Reads a value's tokens in order; commas and colons are passed over.
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    /// The tokens of a value.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Tokens<'a>, String> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Tokens { text, at: 0 }),
            Err(error) => {
                let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let (line, column) = place(&valid, valid.len());
                Err(format!("proto: syntax error (line {line}:{column}): invalid UTF-8 in string"))
            }
        }
    }

    /// An error about the token at `at`.
    pub(super) fn error(&self, at: usize, text: &str) -> String {
        let (line, column) = place(self.text, at);
        format!("proto: (line {line}:{column}): {text}")
    }

    /// The error of a token that does not belong where it is.
    pub(super) fn unexpected(&self, token: Token<'_>) -> String {
        let (line, column) = place(self.text, token.at);
        format!("proto: syntax error (line {line}:{column}): unexpected token {}", token.raw)
    }

    pub(super) fn peek(&mut self) -> Token<'a> {
        let at = self.at;
        let token = self.next();
        self.at = at;
        token
    }

    /// The next token. The scanner has seen that there is one.
    pub(super) fn next(&mut self) -> Token<'a> {
        let bytes = self.text.as_bytes();
        while matches!(bytes[self.at], b' ' | b'\t' | b'\r' | b'\n' | b',' | b':') {
            self.at += 1;
        }
        let at = self.at;
        let rest = &bytes[at..];
        let (kind, len) = match rest[0] {
            b'{' => (Kind::Open, 1),
            b'}' => (Kind::Close, 1),
            b'[' => (Kind::OpenList, 1),
            b']' => (Kind::CloseList, 1),
            b'n' => (Kind::Null, 4),
            b't' => (Kind::Bool(true), 4),
            b'f' => (Kind::Bool(false), 5),
            b'"' => (Kind::String, string_len(rest)),
            _ => (Kind::Number, number_len(rest)),
        };
        self.at += len;
        Token { kind, at, raw: &self.text[at..at + len] }
    }

    /// Passes over a whole value.
    pub(super) fn skip(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.next().kind {
                Kind::Open | Kind::OpenList => depth += 1,
                Kind::Close | Kind::CloseList => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }
}

/// Line and column, both from 1, columns in characters.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

fn string_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn number_len(bytes: &[u8]) -> usize {
    let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    bytes.iter().position(|byte| !part(byte)).unwrap_or(bytes.len())
}

impl<'a> Token<'a> {
    /// What a string says.
    ///
    /// # Errors
    /// When half of a surrogate pair stands alone.
    pub(super) fn string(&self) -> Result<Cow<'a, str>, String> {
        let inside = &self.raw[1..self.raw.len() - 1];
        if !inside.contains('\\') {
            return Ok(Cow::Borrowed(inside));
        }
        let mut out = String::with_capacity(inside.len());
        let mut rest = inside;
        while let Some(at) = rest.find('\\') {
            out.push_str(&rest[..at]);
            let (code, after) = (rest.as_bytes()[at + 1], &rest[at + 2..]);
            rest = after;
            match code {
                b'b' => out.push('\u{8}'),
                b'f' => out.push('\u{c}'),
                b'n' => out.push('\n'),
                b'r' => out.push('\r'),
                b't' => out.push('\t'),
                b'u' => {
                    let (char, after) = escaped(rest)?;
                    out.push(char);
                    rest = after;
                }
                code => out.push(char::from(code)),
            }
        }
        out.push_str(rest);
        Ok(Cow::Owned(out))
    }

    /// A whole number in a number or in a string of one, as decimal digits with a sign.
    fn digits(&self) -> Option<String> {
        match self.kind {
            Kind::Number => whole_number(self.raw),
            Kind::String => whole_number(&self.string().ok()?),
            _ => None,
        }
    }

    pub(super) fn int64(&self) -> Option<i64> {
        self.digits()?.parse().ok()
    }

    pub(super) fn uint64(&self) -> Option<u64> {
        // Go's parser of unsigned numbers takes no sign, not even before a zero.
        self.digits()?.parse().ok()
    }

    pub(super) fn uint32(&self) -> Option<u32> {
        self.digits()?.parse().ok()
    }

    /// Only in a number: a string would be a name.
    pub(super) fn int32(&self) -> Option<i32> {
        if self.kind == Kind::Number { self.digits()?.parse().ok() } else { None }
    }
}

/// The character behind `\u`, and what follows it.
fn escaped(text: &str) -> Result<(char, &str), String> {
    let unit = |text: &str| text.get(..4).and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let first = unit(text).expect("the scanner has seen four digits");
    if let Some(char) = char::from_u32(u32::from(first)) {
        return Ok((char, &text[4..]));
    }
    let after = &text[4..];
    if after.len() < 6 {
        return Err("proto: unexpected EOF".into());
    }
    let second = after.strip_prefix("\\u").and_then(unit);
    let pair = second.and_then(|second| char::decode_utf16([first, second]).next()?.ok());
    match pair {
        Some(char) => Ok((char, &after[6..])),
        None => Err("proto: syntax error: invalid escape code in string".into()),
    }
}

/// The digits of a JSON number that is whole, with its exponent applied: `1.5e1` is `15`. `None`
/// when it is not whole, or beyond twenty digits, or no number.
fn whole_number(text: &str) -> Option<String> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (mantissa, ""),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    if whole.is_empty() || leading_zero || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let exponent: i32 = match exponent {
        None => 0,
        Some(text) if all_digits(text.strip_prefix(['+', '-']).unwrap_or(text)) => {
            text.parse().ok()?
        }
        Some(_) => return None,
    };
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let digits = shifted(whole, fraction, exponent)?;
    let digits = if digits.is_empty() { "0".to_owned() } else { digits };
    Some(if negative { format!("-{digits}") } else { digits })
}

fn shifted(whole: &str, fraction: &str, exponent: i32) -> Option<String> {
    const DIGITS_MAX: usize = 20;
    if whole.is_empty() && fraction.is_empty() {
        return Some(String::new());
    }
    let by = exponent.unsigned_abs() as usize;
    if exponent < 0 {
        let (kept, dropped) = whole.split_at_checked(whole.len().checked_sub(by)?)?;
        let whole = fraction.is_empty() && dropped.bytes().all(|byte| byte == b'0');
        return whole.then(|| kept.to_owned());
    }
    if fraction.len() > by || whole.len().saturating_add(by) > DIGITS_MAX {
        return None;
    }
    let zeros = "0".repeat(by - fraction.len());
    Some([whole, fraction, &zeros].concat().trim_start_matches('0').to_owned())
}
