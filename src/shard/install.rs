//! A redo record becomes versions, lease bindings and events: the same for what this shard evaluated
//! itself, what another shard logged, and what is replayed.

use crate::keys::{CoreId, LeaseId, Revision};
use crate::lane::redo::{Change, SeenChange, Write};
use crate::mvcc::Position;
use crate::watch::{Event, Matched, WatcherId};

use super::Shard;

/// Events on their way to the connection cores that watch them, in the order of the changes.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Per core what its watchers must hear.
    pub events: Vec<(CoreId, Matched)>,
    matching: Vec<(WatcherId, bool)>,
}

impl Shard {
    /// Installs the changes of a revision that this shard did not evaluate. Each comes with its
    /// place inside the revision.
    pub fn install(&mut self, at: Revision, writes: &[(u32, Write)], outgoing: &mut Outgoing) {
        for (sub, write) in writes {
            self.store.install((at, *sub), &write.key, &write.change);
            let lease = match write.change {
                Change::Put { lease, .. } => lease,
                Change::Delete => LeaseId::NONE,
            };
            self.changed((at, *sub), &write.key, lease, outgoing);
        }
    }

    /// Installs one change while history is replayed: nobody watches yet.
    pub fn replay(&mut self, at: Position, key: &[u8], change: SeenChange<'_>) {
        match change {
            SeenChange::Put { value, create, version, lease } => {
                self.store.install_put(at, key, value, create, version, lease);
            }
            SeenChange::Delete => self.store.delete(at, key),
        }
        self.attached.bind(key, change.lease());
    }

    /// What must follow every change of a key: its lease binding, and its event.
    pub(super) fn changed(
        &mut self,
        at: Position,
        key: &[u8],
        lease: LeaseId,
        outgoing: &mut Outgoing,
    ) {
        self.attached.bind(key, lease);
        if !self.registry.is_empty() {
            self.announce(at, key, outgoing);
        }
    }

    fn announce(&mut self, at: Position, key: &[u8], outgoing: &mut Outgoing) {
        let Outgoing { events, matching } = outgoing;
        matching.clear();
        self.registry.matching(key, matching);
        if matching.is_empty() {
            return;
        }
        let wants_previous = matching.iter().any(|(_, previous)| *previous);
        let event = self.event(at, key, wants_previous);
        matching.sort_unstable_by_key(|(watcher, _)| *watcher);
        for of_core in matching.chunk_by(|a, b| a.0.core == b.0.core) {
            let watchers = of_core.iter().map(|(watcher, _)| watcher.number).collect();
            events.push((of_core[0].0.core, Matched { event: event.clone(), watchers }));
        }
    }

    /// The event of the change at `at`.
    pub(super) fn event(&self, at: Position, key: &[u8], previous: bool) -> Event {
        let before = if previous { self.store.before(key, at) } else { None };
        // A transaction can write a key and then delete the range around it: each is an event.
        let version = self.store.version_at(key, at).expect("installed a moment ago");
        if version.is_tombstone() {
            Event::delete(key, at.0, at.1, before.as_ref())
        } else {
            Event::put(&version, before.as_ref())
        }
    }
}
