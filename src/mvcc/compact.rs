//! What leaves the store again: history below a compaction, in bounded steps, and versions of an
//! epoch that ended.
//!
//! Knows neither when to compact nor who still reads: it is told how far it may go.

use super::Store;
use super::slots::SlotId;
use super::version::{Position, Version};
use crate::keys::Revision;

/// How far garbage collection has come.
///
/// All keys with a version before `next` have, of their versions below `upto`, no more than the newest
/// one; and that only if it is live and nothing at `upto` follows it.
#[derive(Default)]
pub(super) struct Collected {
    upto: Revision,
    next: Position,
}

impl Collected {
    pub(super) fn upto(&self) -> Revision {
        self.upto
    }
}

impl Store {
    /// The revision of the last compaction; zero before any. Reads below it have no answer.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The revision up to which garbage was collected or is just being: what stood below it may be
    /// gone.
    #[must_use]
    pub fn collected(&self) -> Revision {
        self.collected.upto
    }

    /// Gives up the history below `at`. Nothing is removed yet: [`Store::collect`] does that.
    pub fn compact(&mut self, at: Revision) {
        self.compacted = self.compacted.max(at);
    }

    /// Removes versions that nobody may read any more, in about `budget` steps of a microsecond or
    /// less, and says whether there is more to do.
    ///
    /// It goes up to `upto`, but not above the last compaction. Of each key's versions up to there it
    /// keeps the newest, unless that is a tombstone; what exactly that revision wrote is kept too,
    /// tombstones as well, because a watch may begin there. Only versions written since the last
    /// collection are looked at, not all keys.
    pub fn collect(&mut self, upto: Revision, budget: usize) -> bool {
        let upto = upto.min(self.compacted);
        if upto > self.collected.upto {
            // What the old bound wrote stayed whole: some of it is garbage now.
            self.collected.next = self.collected.next.min((self.collected.upto, 0));
            self.collected.upto = upto;
            self.base.collected(upto);
        }
        let mut left = budget;
        loop {
            let next = self.active.revisions.from(self.collected.next).next();
            let Some((position, slot)) = next.filter(|(p, _)| p.0 <= self.collected.upto) else {
                return false;
            };
            if left == 0 {
                return true;
            }
            let (removed, done) = self.prune(slot, left);
            left = left.saturating_sub(removed + 1);
            if done {
                self.collected.next = (position.0, position.1 + 1);
            }
        }
    }

    /// Takes back every version above `through`, as if it had never been installed.
    ///
    /// # Panics
    /// If `through` lies below what was collected: what the dropped versions replaced is gone.
    pub fn drop_above(&mut self, through: Revision) {
        assert!(through >= self.collected.upto, "{through:?} is collected");
        assert!(through >= self.floor(), "{through:?} is in a layer that is closed");
        while self.active.pop_above(through).is_some() {}
        self.highest = self.highest.min(through);
    }

    /// Removes what is garbage of one key, at most `most` versions; how many, and whether that was all.
    pub(super) fn prune(&mut self, slot: SlotId, most: usize) -> (usize, bool) {
        let upto = self.collected.upto;
        let versions = &self.active.slots.get(slot).versions;
        let older = versions.before((upto, 0));
        // What the revision itself wrote stays whole: a watcher may begin there, and a transaction may
        // have deleted a key and put it again.
        let superseded = versions.before((upto.next(), 0)) > older;
        let newest = older.checked_sub(1).and_then(|at| versions.get(at)).map(Version::is_live);
        if superseded || newest.is_some() {
            self.active.hides_garbage(slot);
        }
        let garbage = match newest {
            None => return (0, true),
            Some(_) if superseded => older,
            Some(true) => older - 1,
            // A tombstone stays as long as the key had a value beneath, which would show again.
            Some(false) if self.active.is_below(self.active.slots.key(slot)) => older - 1,
            Some(false) => older,
        };
        let removed = garbage.min(most);
        for _ in 0..removed {
            self.active.pop_oldest(slot);
        }
        if self.active.slots.get(slot).versions.is_empty() {
            self.active.take_entry(slot);
        }
        (removed, removed == garbage)
    }
}
