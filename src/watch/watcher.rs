//! One watcher of one stream, and the stream: what they want and how far they are. The moves between
//! the phases are the [hub](super::hub)'s.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, StreamId};
use crate::keys::{KeyRange, Revision};

/// What a client asked of a watcher beside its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wants {
    pub(super) puts: bool,
    pub(super) deletes: bool,
    pub(super) previous: bool,
    pub(super) fragments: bool,
    pub(super) progress: bool,
}

impl Wants {
    pub(super) fn accepts(self, event: &Event) -> bool {
        if event.delete { self.deletes } else { self.puts }
    }
}

/// How a watcher gets its events now.
#[derive(Debug)]
pub(super) enum Phase {
    /// It will read history when its turn comes.
    Queued,
    /// Its stream has too much to send: it waits until the client has read some of it.
    Stalled,
    /// It reads history; when that is complete up to `until`, it can register.
    Reading { until: Revision },
    /// It registers with the shards, which may send events before all of them have answered.
    Registering { held: Vec<Event>, held_bytes: usize },
    /// The shards send it every event.
    Live,
    /// A shard says that what it needs is compacted, and this core is yet to hear up to where.
    Compacted,
}

/// One watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stream: StreamId,
    /// The client's name for it.
    pub(super) id: i64,
    pub(super) range: KeyRange,
    pub(super) wants: Wants,
    /// Nothing before this revision is still to be sent. While live it may lag: what is between is
    /// then known to hold nothing for this watcher.
    pub(super) next: Revision,
    pub(super) phase: Phase,
    /// No event was sent since the last look at its progress.
    pub(super) quiet: bool,
    /// Scratch of one release: indexes of the events it gets.
    pub(super) batch: Vec<u32>,
}

impl Watcher {
    /// The first revision still to be sent, if the shards send it everything from there on.
    pub(super) fn live_from(&self) -> Option<Revision> {
        matches!(self.phase, Phase::Live).then_some(self.next)
    }

    /// Whether all events up to `w` have been sent, once those at hand are.
    pub(super) fn is_synced(&self, w: Revision) -> bool {
        self.live_from().is_some_and(|next| w >= next.prev())
    }
}

/// One client's stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Indexes of its watchers.
    pub(super) watchers: BTreeMap<i64, usize>,
    pub(super) next_id: i64,
    /// Bytes of responses that the client's connection has not taken yet.
    pub(super) waiting_bytes: usize,
    pub(super) stalled: BTreeSet<usize>,
    pub(super) progress_due_ms: u64,
}
