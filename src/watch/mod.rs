//! Watching keys. A shard's [`Registry`] says who watches what it changes; a connection core's
//! [`Hub`] keeps the watch streams of its clients and releases events in revision order. Pure
//! state: no sockets, no clock, and no idea how a shard stores its versions.
//!
//! ```text
//! shard: change ─▶ Registry::matching ─▶ Matched ──(queue of the core)──▶ Hub::matched
//! client: request ─▶ Hub::input ─▶ Action::{History, Register} ─▶ shards ─▶ Hub::{history, registered}
//! each turn: Hub::advance(W) ─▶ Action::Send, every event ≤ W once, whole revisions, in order
//! ```

mod event;
mod hub;
mod intervals;
mod registry;
mod response;
mod slots;
mod watcher;

pub use event::Event;
pub use hub::{Action, Hub, HubConfig, Now};
pub use registry::{Registry, WatcherPiece};

use cored_proto::etcdserverpb as pb;

use crate::keys::CoreId;

/// Names a client's watch stream on its connection core; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// Names one registration of a watcher with the shards, or one read of its history. A watcher that
/// registers again does so under a new number, so what was meant for the old one finds nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WatcherId {
    /// The connection core.
    pub core: CoreId,
    /// The hub's number there; never used twice.
    pub number: u64,
}

/// One event, and which watchers of one core it concerns.
#[derive(Clone, Debug)]
pub struct Matched {
    /// What happened.
    pub event: Event,
    /// Numbers of [`WatcherId`]s.
    pub watchers: Vec<u64>,
}

/// What happens on a client's watch stream.
#[derive(Clone, PartialEq, Debug)]
pub enum WatchInput {
    /// The stream begins.
    Open,
    /// A message of the client's.
    Request(pb::WatchRequest),
    /// So many bytes of responses have left the queue: they are no longer counted as waiting.
    Sent {
        /// Bytes.
        bytes: usize,
    },
    /// The stream is over; nothing more may be sent to it.
    Close,
}
