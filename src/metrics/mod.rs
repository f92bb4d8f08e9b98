//! Counters and histograms: one [`Core`] for each core, written by that core alone and summed up
//! when somebody scrapes. Names, labels and buckets are etcd's where etcd has the series
//! (the function [`page()`]), ours begin with `cored_`. Nothing here knows who counts or who asks.

mod clients;
mod histogram;
pub mod page;
mod process;
mod text;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use cored_proto::METHODS;

pub use clients::Clients;
pub use histogram::{Buckets, Histogram};
pub use page::{Facts, page};
pub use process::Process;

/// A number that one core writes and any thread may read.
///
/// Adding is a load and a store, not an atomic addition: with one writer nothing is lost, and it
/// costs what a plain addition costs.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to a counter.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    /// Sets a gauge, or a counter that is kept elsewhere.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Takes something off a gauge.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(n), Relaxed);
    }

    /// Raises a maximum, in nanoseconds.
    pub fn raise(&self, to: Duration) {
        let ns = u64::try_from(to.as_nanos()).unwrap_or(u64::MAX);
        if ns > self.0.load(Relaxed) {
            self.0.store(ns, Relaxed);
        }
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What `/livez` and `/readyz` look at, as (page, check), by etcd's names.
pub const CHECKS: [(&str, &str); 5] = [
    ("livez", "serializable_read"),
    ("readyz", "data_corruption"),
    ("readyz", "linearizable_read"),
    ("readyz", "non_learner"),
    ("readyz", "serializable_read"),
];

/// How often a check was made, by how it ended.
#[derive(Debug, Default)]
pub struct Checked {
    /// What was looked at was well.
    pub success: Number,
    /// It was not.
    pub error: Number,
}

/// How many gRPC status codes there are.
pub const CODES: usize = 17;

/// The calls of one method.
#[derive(Debug)]
pub struct Calls {
    /// Begun.
    pub started: Number,
    /// Ended, by status code.
    pub handled: [Number; CODES],
    /// Messages of the client.
    pub received: Number,
    /// Messages to the client.
    pub sent: Number,
    /// How long they took; only with `--metrics extensive`.
    pub took: Histogram,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls {
            started: Number::default(),
            handled: Default::default(),
            received: Number::default(),
            sent: Number::default(),
            took: Histogram::new(&histogram::GRPC),
        }
    }
}

/// What one core counts. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Core {
    /// Calls by method, in the order of [`METHODS`].
    pub calls: Box<[Calls]>,
    /// Bytes that came from clients.
    pub client_received_bytes: Number,
    /// Bytes that went to clients.
    pub client_sent_bytes: Number,
    /// Puts asked for, those inside transactions left out.
    pub puts: Number,
    /// Range deletes.
    pub deletes: Number,
    /// Range reads.
    pub ranges: Number,
    /// Transactions.
    pub txns: Number,
    /// Leases granted.
    pub leases_granted: Number,
    /// Leases revoked by clients.
    pub leases_revoked: Number,
    /// Leases kept alive.
    pub leases_renewed: Number,
    /// Leases whose time ran out.
    pub leases_expired: Number,
    /// Open watch streams.
    pub watch_streams: Number,
    /// Requests by the version of the client.
    pub clients: Clients,
    /// `/health`.
    pub health: Checked,
    /// Parts of `/livez` and `/readyz`, in the order of [`CHECKS`].
    pub checks: [Checked; CHECKS.len()],
    /// Keys that have a value.
    pub keys: Number,
    /// The revision of the last compaction that is effective here; 0 before any.
    pub compacted: Number,
    /// Versions that compaction has removed.
    pub collected: Number,
    /// Bytes allocated for this core's part of the store.
    pub db_bytes: Number,
    /// Of those, bytes in use.
    pub db_in_use_bytes: Number,
    /// Entries committed in this core's lanes.
    pub raft_committed: Number,
    /// Entries applied in this core's lanes.
    pub raft_applied: Number,
    /// Requests that this member could not see through, whatever was asked.
    pub proposals_failed: Number,
    /// Durable group writes of the log, etcd's buckets.
    pub wal_fsync: Histogram,
    /// The same with buckets from a microsecond on.
    pub wal_fsync_fine: Histogram,
    /// Bytes written to the log.
    pub wal_bytes: Number,
    /// Groups written to the log.
    pub wal_groups: Number,
    /// Times a group waited for a segment.
    pub wal_segment_waits: Number,
    /// Turns of the drive loop.
    pub turns: Number,
    /// Turns longer than a millisecond.
    pub slow_turns: Number,
    /// The longest turn, in nanoseconds.
    pub turn_longest: Number,
    /// Times the core had to be woken from outside.
    pub kicks: Number,
}

impl Default for Core {
    fn default() -> Core {
        Core {
            calls: METHODS.iter().map(|_| Calls::default()).collect(),
            client_received_bytes: Number::default(),
            client_sent_bytes: Number::default(),
            puts: Number::default(),
            deletes: Number::default(),
            ranges: Number::default(),
            txns: Number::default(),
            leases_granted: Number::default(),
            leases_revoked: Number::default(),
            leases_renewed: Number::default(),
            leases_expired: Number::default(),
            watch_streams: Number::default(),
            clients: Clients::default(),
            health: Checked::default(),
            checks: Default::default(),
            keys: Number::default(),
            compacted: Number::default(),
            collected: Number::default(),
            db_bytes: Number::default(),
            db_in_use_bytes: Number::default(),
            raft_committed: Number::default(),
            raft_applied: Number::default(),
            proposals_failed: Number::default(),
            wal_fsync: Histogram::new(&histogram::DISK),
            wal_fsync_fine: Histogram::new(&histogram::FINE),
            wal_bytes: Number::default(),
            wal_groups: Number::default(),
            wal_segment_waits: Number::default(),
            turns: Number::default(),
            slow_turns: Number::default(),
            turn_longest: Number::default(),
            kicks: Number::default(),
        }
    }
}

#[cfg(test)]
mod tests;
