//! Our errors as etcd's codes and texts. Clients compare the texts letter by letter.

use std::borrow::Cow;

/// A gRPC status code. The numbers are gRPC's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "these are gRPC's own words")]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// The end of a call that did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// The text, exactly as clients see it.
    pub message: Cow<'static, str>,
}

impl Status {
    /// A status with a fixed text.
    #[must_use]
    pub const fn fixed(code: Code, message: &'static str) -> Status {
        Status { code, message: Cow::Borrowed(message) }
    }
}
