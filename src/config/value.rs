//! Values of flags as Go reads them. An error is the part of the message that follows the flag.

use std::time::Duration;

use super::table::Form;
use super::url;

/// What Go says of a value that it can not read.
const PARSE_ERROR: &str = "parse error";
/// What Go says of a number that does not fit.
const OUT_OF_RANGE: &str = "value out of range";

/// Whether `text` is a value of this form.
pub(super) fn check(form: Form, text: &str) -> Result<(), String> {
    match form {
        Form::Text | Form::List => Ok(()),
        Form::OneOf(values) if values.contains(&text) => Ok(()),
        Form::OneOf(_) => Err("invalid value".to_owned()),
        Form::Bool => boolean(text).map(drop),
        Form::Count => count(text).map(drop),
        Form::Number => number(text).map(drop),
        Form::Duration => duration(text).map(drop),
        Form::Urls => url::parse_list(text).map(drop).map_err(|error| error.to_string()),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(PARSE_ERROR.to_owned()),
    }
}

pub(super) fn count(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let parsed = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow => OUT_OF_RANGE.to_owned(),
        _ => PARSE_ERROR.to_owned(),
    })
}

pub(super) fn number(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    if sign < 0 && digits.starts_with(['+', '-']) {
        return Err(PARSE_ERROR.to_owned());
    }
    let size = i128::from(count(digits)?) * sign;
    i64::try_from(size).map_err(|_| OUT_OF_RANGE.to_owned())
}

/// A sequence of numbers with units, as `1h30m` or `1.5s`; `0` needs none. Negative ones, which Go
/// reads too, make no sense for any flag.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || PARSE_ERROR.to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut whole = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (size, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit_ns = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(wrong()),
        };
        let size: f64 = size.parse().map_err(|_| wrong())?;
        let piece = Duration::try_from_secs_f64(size * unit_ns / 1e9).map_err(|_| wrong())?;
        whole = whole.checked_add(piece).ok_or_else(wrong)?;
        rest = tail;
    }
    // Go's durations end at 292 years.
    if whole.as_nanos() > i64::MAX as u128 { Err(wrong()) } else { Ok(whole) }
}
