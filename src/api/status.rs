//! Our errors as etcd's codes and texts. Clients compare the texts letter by letter, so each stands
//! here once, under the name that etcd's documentation gives it. What causes an error is not known
//! here; errors of features that are not served yet are absent.

use std::borrow::Cow;

use crate::engine;
use crate::txn::Refusal;

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

    /// A method of the API that this member does not serve, in grpc-go's words.
    #[must_use]
    pub fn unimplemented(method: &str) -> Status {
        let message = Cow::Owned(format!("method {method} not implemented"));
        Status { code: Code::Unimplemented, message }
    }

    /// The same text with the code Unknown: how the errors of etcd's lock and election services
    /// arrive, because these services are clients of their own server and pass its errors on.
    #[must_use]
    pub fn into_unknown(self) -> Status {
        Status { code: Code::Unknown, ..self }
    }
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:ident $message:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status::fixed(Code::$code, $message);)*
        }
    };
}

statuses! {
    /// An empty key in a request, a comparison or an operation.
    EMPTY_KEY = InvalidArgument "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on an absent key; also an operation that is none.
    KEY_NOT_FOUND = InvalidArgument "etcdserver: key not found";
    /// `ignore_value` together with a value.
    VALUE_PROVIDED = InvalidArgument "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LEASE_PROVIDED = InvalidArgument "etcdserver: lease is provided";
    /// More than `--max-txn-ops` in a list of a transaction.
    TOO_MANY_OPS = InvalidArgument "etcdserver: too many operations in txn request";
    /// A key written twice on one branch of a transaction.
    DUPLICATE_KEY = InvalidArgument "etcdserver: duplicate key given in txn request";
    /// A sort order or target that does not exist.
    INVALID_SORT_OPTION = InvalidArgument "etcdserver: invalid sort option";
    /// A `client-api-version` that is no text.
    INVALID_CLIENT_API_VERSION = InvalidArgument "etcdserver: invalid client api version";
    /// More than `--max-request-bytes`.
    REQUEST_TOO_LARGE = InvalidArgument "etcdserver: request is too large";
    /// History that was given up.
    COMPACTED = OutOfRange "etcdserver: mvcc: required revision has been compacted";
    /// A revision that does not exist yet.
    FUTURE_REVISION = OutOfRange "etcdserver: mvcc: required revision is a future revision";
    /// A lease that does not exist, or no longer.
    LEASE_NOT_FOUND = NotFound "etcdserver: requested lease not found";
    /// A grant of a lease that exists.
    LEASE_EXISTS = FailedPrecondition "etcdserver: lease already exists";
    /// More seconds than a lease can have.
    LEASE_TTL_TOO_LARGE = OutOfRange "etcdserver: too large lease TTL";
    /// The quota would be exceeded, or was and the alarm is still raised.
    NO_SPACE = ResourceExhausted "etcdserver: mvcc: database space exceeded";
    /// The data is damaged, and the alarm that says so is raised.
    CORRUPT = DataLoss "etcdserver: corrupt cluster";
    /// Too much waits already. The code is etcd's own slip: it declares ResourceExhausted and
    /// sends Unknown.
    TOO_MANY_REQUESTS = Unknown "etcdserver: too many requests";
    /// The member does not serve yet, or no longer.
    NO_LEADER = Unavailable "etcdserver: no leader";
    /// The member is stopping.
    STOPPED = Unavailable "etcdserver: server stopped";
    /// Nobody knows whether it happened.
    TIMEOUT = Unavailable "etcdserver: request timed out";
    /// Name and password while nobody needs them.
    AUTH_NOT_ENABLED = FailedPrecondition "etcdserver: authentication is not enabled";
    /// A streamed range in another order than the keys'.
    STREAM_SORTED = Unimplemented "RangeStream does not support custom sort orders";
    /// A streamed range with bounds on revisions.
    STREAM_FILTERED = Unimplemented "RangeStream does not support revision filters";
    /// An election without candidates.
    ELECTION_NO_LEADER = Unknown "election: no leader";
    /// A leader's request from somebody who is not, or no longer, leader.
    ELECTION_NOT_LEADER = Unknown "election: not leader";
    /// A leader's request without its proof.
    ELECTION_LEADER_MISSING = Unknown r#""leader" field must be provided"#;
    /// The lease ran out while its owner waited for the lock.
    LOCK_SESSION_EXPIRED = Unknown "mutex: session is expired";
    /// A health check of something this server does not have.
    UNKNOWN_SERVICE = NotFound "unknown service";
    /// A call that brings one request came without it.
    NO_REQUEST = Internal "cardinality violation: received no request message from non-client-streaming RPC";
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        match refusal {
            Refusal::KeyNotFound => Status::KEY_NOT_FOUND,
            Refusal::LeaseNotFound => Status::LEASE_NOT_FOUND,
            Refusal::Compacted => Status::COMPACTED,
            Refusal::FutureRevision => Status::FUTURE_REVISION,
        }
    }
}

impl From<engine::Error> for Status {
    fn from(error: engine::Error) -> Status {
        match error {
            engine::Error::Refused(refusal) => refusal.into(),
            engine::Error::LeaseExists => Status::LEASE_EXISTS,
            engine::Error::NoSpace => Status::NO_SPACE,
            engine::Error::Corrupt => Status::CORRUPT,
            engine::Error::TooManyRequests => Status::TOO_MANY_REQUESTS,
            engine::Error::NoLeader => Status::NO_LEADER,
            engine::Error::Stopped => Status::STOPPED,
            engine::Error::Timeout => Status::TIMEOUT,
        }
    }
}
