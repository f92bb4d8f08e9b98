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

impl Store {
    /// The revision of the last compaction; zero before any. Reads below it have no answer.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.compacted
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
        }
        let mut left = budget;
        loop {
            let next = self.revisions.from(self.collected.next).next();
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
        while let Some((position, slot)) = self.revisions.last()
            && position.0 > through
        {
            self.revisions.remove(position);
            let entry = self.slots.get_mut(slot);
            let was_live = entry.is_live();
            self.heap_bytes -= entry.frame_bytes();
            let version = entry.versions.pop_newest().expect("the revision index is exact");
            self.heap_bytes += entry.frame_bytes();
            assert_eq!(version.position(), position, "the newest version of its key");
            self.heap_bytes -= version.block_bytes();
            let live = entry.is_live();
            if was_live != live {
                self.index.set_live(self.slots.key(slot), live, &self.slots);
            }
            if self.slots.get(slot).versions.is_empty() {
                self.take_entry(slot);
            }
        }
        self.highest = self.highest.min(through);
    }

    /// Removes what is garbage of one key, at most `most` versions; how many, and whether that was all.
    pub(super) fn prune(&mut self, slot: SlotId, most: usize) -> (usize, bool) {
        let upto = self.collected.upto;
        let versions = &self.slots.get(slot).versions;
        let older = versions.before((upto, 0));
        // What the revision itself wrote stays whole: a watcher may begin there, and a transaction may
        // have deleted a key and put it again.
        let superseded = versions.before((upto.next(), 0)) > older;
        let newest = older.checked_sub(1).and_then(|at| versions.get(at));
        let garbage = match newest {
            None => return (0, true),
            Some(newest) if newest.is_live() && !superseded => older - 1,
            Some(_) => older,
        };
        let removed = garbage.min(most);
        for _ in 0..removed {
            let version = self.pop_oldest(slot);
            self.heap_bytes -= version.block_bytes();
        }
        if self.slots.get(slot).versions.is_empty() {
            self.take_entry(slot);
        }
        (removed, removed == garbage)
    }

    /// Takes the oldest version of a key out of it and of the revision index. It still counts as heap.
    pub(super) fn pop_oldest(&mut self, slot: SlotId) -> Version {
        let entry = self.slots.get_mut(slot);
        self.heap_bytes -= entry.frame_bytes();
        let version = entry.versions.pop_oldest().expect("a version to take");
        self.heap_bytes += entry.frame_bytes();
        self.revisions.remove(version.position());
        version
    }
}
