//! How long a caller is willing to wait: the `grpc-timeout` header, in grpc-go's reading and words.

use std::time::Duration;

use http::HeaderMap;

use crate::api::status::{Code, Status};

/// What a call gets that is not answered in time.
pub(super) const EXCEEDED: Status =
    Status::fixed(Code::DeadlineExceeded, "context deadline exceeded");

/// The time that a call may take, if the caller says so.
///
/// # Errors
/// What grpc-go answers (with HTTP 400) to a header that makes no sense.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    parse(&text).map(Some).map_err(|why| {
        let message = format!("malformed grpc-timeout: {why}").into();
        Status { code: Code::Internal, message }
    })
}

fn parse(text: &str) -> Result<Duration, String> {
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if text.len() > 9 {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let unit = match text.as_bytes()[text.len() - 1] {
        b'H' => Duration::from_secs(3600),
        b'M' => Duration::from_secs(60),
        b'S' => Duration::from_secs(1),
        b'm' => Duration::from_millis(1),
        b'u' => Duration::from_micros(1),
        b'n' => Duration::from_nanos(1),
        _ => return Err(format!("transport: timeout unit is not recognized: {text:?}")),
    };
    let digits = &text[..text.len() - 1];
    let count: u32 = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
        .ok_or_else(|| format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"))?;
    Ok(unit.saturating_mul(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_go_reads_them() {
        assert_eq!(parse("1S"), Ok(Duration::from_secs(1)));
        assert_eq!(parse("250m"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("0n"), Ok(Duration::ZERO));
        assert_eq!(parse("99999999H"), Ok(Duration::from_secs(99_999_999 * 3600)));
        for (text, why) in [
            ("banana", "transport: timeout unit is not recognized: \"banana\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
        ] {
            assert_eq!(parse(text), Err(why.to_owned()));
        }
    }
}
