//! What a connection core may ask of the engine, and what comes back. Requests have passed the
//! checks of `api::check`: they are well-formed, and whatever is wrong with them now depends on state.

use bytes::{Bytes, BytesMut};
use cored_proto::etcdserverpb as pb;

use crate::keys::{LeaseId, Revision};
use crate::txn::Refusal;

/// Names a request on its connection core; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// What a client may ask, streams aside.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Read keys, linearizable (with one voter a serializable read is no cheaper).
    Range(pb::RangeRequest),
    /// Write a key.
    Put(pb::PutRequest),
    /// Delete the keys of a range in one revision.
    DeleteRange(pb::DeleteRangeRequest),
    /// Compare, then, else.
    Txn(pb::TxnRequest),
    /// Give up history up to `revision`.
    Compact {
        /// The oldest revision that stays readable.
        revision: i64,
        /// Whether to answer only when the garbage is gone.
        physical: bool,
    },
    /// Make a lease; the id is chosen by the caller and never 0.
    LeaseGrant {
        /// Its number.
        id: LeaseId,
        /// Seconds to live, already raised to the minimum.
        ttl_s: i64,
    },
    /// End a lease and delete its keys in one revision.
    LeaseRevoke {
        /// Which.
        id: LeaseId,
    },
    /// Give a lease its whole time again.
    LeaseKeepAlive {
        /// Which.
        id: LeaseId,
    },
    /// Ask how long a lease has.
    LeaseTimeToLive {
        /// Which.
        id: LeaseId,
        /// Whether its keys are wanted too.
        keys: bool,
    },
    /// Ask which leases there are.
    LeaseLeases,
    /// The digest of etcd's HashKV at a revision; 0 is the current one.
    HashKv {
        /// At which revision.
        revision: i64,
    },
    /// The digest of everything there is.
    Hash,
    /// Tell the alarms, raise one or end one; the action is one that etcd knows.
    Alarm(pb::AlarmRequest),
    /// Have a durable checkpoint that covers everything acknowledged before.
    Checkpoint,
    /// What `Maintenance.Status` reports of the engine.
    Status,
    /// Only the confirmed current revision: what makes anything else linearizable.
    ReadIndex,
}

/// A successful answer.
#[derive(Debug)]
pub struct Answer {
    /// `header.revision`: the revision at which the answer is exact.
    pub revision: Revision,
    /// The rest.
    pub reply: Reply,
}

/// What was asked for. Messages come with their own headers unset, except for the operations inside
/// a transaction, whose headers carry only their revision.
#[derive(Debug)]
pub enum Reply {
    /// To [`Request::Range`].
    Range(RangeReply),
    /// To [`Request::Put`].
    Put(pb::PutResponse),
    /// To [`Request::DeleteRange`].
    DeleteRange(pb::DeleteRangeResponse),
    /// To [`Request::Txn`].
    Txn(pb::TxnResponse),
    /// To [`Request::Compact`], [`Request::LeaseRevoke`], [`Request::Checkpoint`],
    /// [`Request::ReadIndex`].
    Done,
    /// To [`Request::LeaseGrant`] and [`Request::LeaseKeepAlive`] (0: there is no such lease).
    Ttl(i64),
    /// To [`Request::LeaseTimeToLive`].
    TimeToLive {
        /// Seconds left; -1 for no such lease.
        ttl_s: i64,
        /// Seconds asked for at the grant; 0 for no such lease.
        granted_s: i64,
        /// The keys it holds, in order, if they were asked for.
        keys: Vec<Bytes>,
    },
    /// To [`Request::LeaseLeases`], in the order of their numbers.
    Leases(Vec<LeaseId>),
    /// To [`Request::HashKv`] and [`Request::Hash`].
    Hash {
        /// The digest.
        hash: u32,
        /// History below is gone; -1 before any compaction.
        compact_revision: i64,
        /// The revision that was digested.
        hash_revision: i64,
    },
    /// To [`Request::Alarm`]: those asked for, or the one that was raised or ended.
    Alarms(Vec<pb::AlarmMember>),
    /// To [`Request::Status`].
    Status(StatusReply),
}

/// The answer to a range, values already encoded.
#[derive(Debug, Default)]
pub struct RangeReply {
    /// The `kvs` fields of a `RangeResponse` in protobuf encoding (tag 2, length, `KeyValue`), one
    /// after the other: to be copied behind the header, never parsed on the way.
    pub kvs: BytesMut,
    /// Whether the limit cut the answer.
    pub more: bool,
    /// How many keys the range holds.
    pub count: i64,
}

/// What the engine knows of its own state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatusReply {
    /// Bytes allocated for keys, values and their versions.
    pub db_bytes: i64,
    /// Of those, bytes that hold something that can still be read.
    pub db_in_use_bytes: i64,
    /// The Raft term of lane 0.
    pub raft_term: u64,
    /// Entries appended, all lanes together.
    pub raft_index: u64,
    /// Entries applied, all lanes together.
    pub raft_applied_index: u64,
    /// Whether this member serves.
    pub serves: bool,
    /// The alarms that are raised, by kind and member.
    pub alarms: Vec<pb::AlarmMember>,
}

/// Why a request is not answered. Nothing has changed, except where [`Error::Timeout`] says that it
/// is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// State forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A grant names a lease that exists.
    #[error("lease already exists")]
    LeaseExists,
    /// The store is full: the alarm `NOSPACE` is raised.
    #[error("database space exceeded")]
    NoSpace,
    /// The store is damaged: the alarm `CORRUPT` is raised.
    #[error("corrupt cluster")]
    Corrupt,
    /// Too many requests wait already.
    #[error("too many requests")]
    TooManyRequests,
    /// The member does not serve yet, or no longer.
    #[error("no leader")]
    NoLeader,
    /// The member is stopping.
    #[error("server stopped")]
    Stopped,
    /// Nobody knows yet whether it happened.
    #[error("request timed out")]
    Timeout,
}
