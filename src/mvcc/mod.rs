//! One shard's keys with all their versions: put, delete, range, history and compaction.
//!
//! A [`Store`] keeps what it is told, at the revisions that it is told, and answers for any revision
//! since the last compaction. It knows nothing of logs, lanes or clients, of who may see what, or of
//! other shards; whoever reads says at which revision.
//!
//! ```text
//! Index       keys in order          slot, live?      ┐
//! Revisions   versions in order      slot             ├─ four-byte slot numbers
//! Slots       key, its versions      value, create …  ┘
//! ```

pub mod base;
pub mod build;
mod compact;
mod encode;
mod hash;
mod history;
mod index;
mod piece;
mod revisions;
mod slots;
#[cfg(test)]
mod tests;
mod version;

pub use hash::Digest;
pub use piece::Piece;
pub use version::{Position, VersionRef};

use std::fmt;

use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::Change;
use compact::Collected;
use index::{Index, Visit};
use revisions::Revisions;
use slots::{Entry, SlotId, Slots};
use version::Version;

/// What a key costs in the index, and what a version costs in the revision index, when nodes are
/// about as full as random keys leave them.
const INDEX_BYTES: usize = 12;
const REVISION_BYTES: usize = 17;
/// What a slot costs.
const SLOT_BYTES: usize = 40;

/// The versions of a shard's keys.
///
/// The newest state includes what was installed and is not visible yet: readers name the revision at
/// which they read. Values borrow from the store, nothing is copied.
pub struct Store {
    slots: Slots,
    index: Index,
    revisions: Revisions,
    highest: Revision,
    compacted: Revision,
    collected: Collected,
    /// Memory of versions, long keys and lists of versions.
    heap_bytes: usize,
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("keys", &self.keys())
            .field("versions", &self.versions())
            .field("highest", &self.highest)
            .field("compacted", &self.compacted)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A store without a key.
    #[must_use]
    pub fn new() -> Store {
        Store {
            slots: Slots::new(),
            index: Index::new(),
            revisions: Revisions::new(),
            highest: Revision::ZERO,
            compacted: Revision::ZERO,
            collected: Collected::default(),
            heap_bytes: 0,
        }
    }

    /// Gives `key` a value at `at` and returns its create revision and its version number, which
    /// follow from the newest version.
    ///
    /// Positions of one key must ascend, here and in all that follows.
    pub fn put(
        &mut self,
        at: Position,
        key: &[u8],
        value: &[u8],
        lease: LeaseId,
    ) -> (Revision, i64) {
        let found = self.index.find(key, &self.slots);
        let before = found.and_then(|slot| self.slots.get(slot).live());
        let (create, number) = before.map_or((at.0, 1), |v| (v.create, v.version + 1));
        self.push(at, key, found, Version::put(at, create, number, lease, value));
        (create, number)
    }

    /// Says that `key` is gone from `at` on, also when it was gone or unknown before.
    pub fn delete(&mut self, at: Position, key: &[u8]) {
        let found = self.index.find(key, &self.slots);
        self.push(at, key, found, Version::tombstone(at));
    }

    /// Adds a version as a redo record has it.
    pub fn install(&mut self, at: Position, key: &[u8], change: &Change) {
        match change {
            Change::Put { value, create, version, lease } => {
                let found = self.index.find(key, &self.slots);
                self.push(at, key, found, Version::put(at, *create, *version, *lease, value));
            }
            Change::Delete => self.delete(at, key),
        }
    }

    /// The newest version of `key`, when that gives it a value.
    #[must_use]
    pub fn newest(&self, key: &[u8]) -> Option<VersionRef<'_>> {
        self.entry(key)?.live()
    }

    /// The lease that holds `key` by its newest version.
    #[must_use]
    pub fn newest_lease(&self, key: &[u8]) -> LeaseId {
        let newest = self.entry(key).and_then(|entry| entry.versions.newest());
        newest.map_or(LeaseId::NONE, Version::lease)
    }

    /// The version of `key` that readers at `at` see, when that gives it a value.
    #[must_use]
    pub fn get_at(&self, key: &[u8], at: Revision) -> Option<VersionRef<'_>> {
        self.entry(key)?.live_at(at)
    }

    /// The version of `key` at exactly `position`, a tombstone too.
    #[must_use]
    pub fn version_at(&self, key: &[u8], position: Position) -> Option<VersionRef<'_>> {
        let entry = self.entry(key)?;
        entry.version_at(position).map(|version| version.view(entry.key()))
    }

    /// The version that the one of `key` at `position` replaced, as etcd shows it with an event: what
    /// the key was at the revision before. `None` when it had no value then, and when that revision is
    /// compacted.
    #[must_use]
    pub fn before(&self, key: &[u8], position: Position) -> Option<VersionRef<'_>> {
        let at = position.0.prev();
        if at < self.compacted { None } else { self.get_at(key, at) }
    }

    /// Shows the keys of `range` that have a value at `at`, in key order, as long as `each` says so.
    /// `None` reads the newest versions, visible or not.
    ///
    /// O(log n + keys shown), and no more than that for deleted keys that are not collected yet, except
    /// where `at` is below the highest revision installed.
    pub fn scan(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        each: &mut dyn FnMut(VersionRef<'_>) -> bool,
    ) {
        let at = at.unwrap_or(Revision::MAX);
        if let Some(key) = range.as_single() {
            if let Some(version) = self.get_at(key, at) {
                each(version);
            }
            return;
        }
        self.visit(range, at >= self.highest, &mut |_, entry| {
            entry.live_at(at).is_none_or(&mut *each)
        });
    }

    /// How many keys of `range` have a value at `at`; `None` counts the newest versions.
    ///
    /// O(log n + versions above `at`). Where those are more than the range has keys, it walks the
    /// range.
    #[must_use]
    pub fn count(&self, range: &KeyRange, at: Option<Revision>) -> usize {
        if let Some(key) = range.as_single() {
            return usize::from(match at {
                None => self.newest(key).is_some(),
                Some(at) => self.get_at(key, at).is_some(),
            });
        }
        let Some((first, last)) = self.ranks(range) else { return 0 };
        let newest = i64::from(last.live - first.live);
        let at = match at {
            Some(at) if at < self.highest => at,
            _ => return newest as usize,
        };
        let keys = (last.keys - first.keys) as usize;
        match self.change_since(range, at, keys) {
            Some(change) => (newest - change) as usize,
            None => {
                let mut count = 0;
                self.visit(range, false, &mut |_, entry| {
                    count += usize::from(entry.is_live_at(at));
                    true
                });
                count
            }
        }
    }

    /// The highest revision that was ever installed here or came with a piece, and not taken back.
    #[must_use]
    pub fn highest(&self) -> Revision {
        self.highest
    }

    /// How many keys have a value by their newest version.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.index.sum().live as usize
    }

    /// How many versions there are, tombstones and uncollected ones too.
    #[must_use]
    pub fn versions(&self) -> usize {
        self.revisions.len()
    }

    /// Memory that the store takes from the allocator, by glibc's rules and without fragmentation.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.heap_bytes + self.slots.bytes() + self.index.bytes() + self.revisions.bytes()
    }

    /// Memory that a store with just these versions would need.
    #[must_use]
    pub fn bytes_in_use(&self) -> usize {
        let keys = self.index.sum().keys as usize;
        let used = self.heap_bytes
            + keys * (SLOT_BYTES + INDEX_BYTES)
            + self.revisions.len() * REVISION_BYTES;
        used.min(self.bytes())
    }

    /// The first key of `range` that the store has any version of.
    #[must_use]
    pub fn first_key(&self, range: &KeyRange) -> Option<&[u8]> {
        self.first_slot(range).map(|slot| self.slots.key(slot))
    }

    /// The key of `range` with `rank` keys before it in the range, among those with a value by their
    /// newest version. O(log n).
    #[must_use]
    pub fn key_at(&self, range: &KeyRange, rank: usize) -> Option<&[u8]> {
        let (first, last) = self.ranks(range)?;
        let rank = u32::try_from(rank).ok()?.checked_add(first.live)?;
        if rank >= last.live {
            return None;
        }
        self.index.nth_live(rank).map(|slot| self.slots.key(slot))
    }

    /// The key of `range` that has as many before it as behind it. O(log n).
    #[must_use]
    pub fn median_key(&self, range: &KeyRange) -> Option<Vec<u8>> {
        let (first, last) = self.ranks(range)?;
        let middle = (last.live - first.live) / 2;
        self.key_at(range, middle as usize).map(<[u8]>::to_vec)
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.index.find(key, &self.slots).map(|slot| self.slots.get(slot))
    }

    /// Adds the newest version of a key, which is in slot `found` if it is known.
    fn push(
        &mut self,
        at: Position,
        key: &[u8],
        found: Option<SlotId>,
        version: Version,
    ) -> SlotId {
        let live = version.is_live();
        self.heap_bytes += version.block_bytes();
        let slot = match found {
            Some(slot) => {
                let entry = self.slots.get_mut(slot);
                let newest = entry.versions.newest().map(Version::position);
                assert!(newest < Some(at), "{at:?} after {newest:?}: positions of a key ascend");
                let was_live = entry.is_live();
                self.heap_bytes -= entry.frame_bytes();
                entry.versions.push(version);
                self.heap_bytes += entry.frame_bytes();
                if was_live != live {
                    self.index.set_live(key, live, &self.slots);
                }
                slot
            }
            None => {
                let mut entry = Entry::new(key);
                entry.versions.push(version);
                self.heap_bytes += entry.frame_bytes();
                let slot = self.slots.insert(entry);
                self.index.insert(slot, live, &self.slots);
                slot
            }
        };
        self.revisions.insert(at, slot);
        self.highest = self.highest.max(at.0);
        slot
    }

    /// Takes a key out of the index and of its slot.
    fn take_entry(&mut self, slot: SlotId) -> Entry {
        self.index.remove(self.slots.key(slot), &self.slots);
        let entry = self.slots.take(slot);
        self.heap_bytes -= entry.frame_bytes();
        entry
    }

    /// Shows the keys of `range` in order, as long as `each` says so.
    fn visit(
        &self,
        range: &KeyRange,
        live_only: bool,
        each: &mut dyn FnMut(SlotId, &Entry) -> bool,
    ) {
        if range.is_empty() {
            return;
        }
        let visit = Visit { slots: &self.slots, end: range.end.as_deref(), live_only };
        self.index.visit(&range.start, visit, &mut |slot| each(slot, self.slots.get(slot)));
    }

    fn first_slot(&self, range: &KeyRange) -> Option<SlotId> {
        let mut first = None;
        self.visit(range, false, &mut |slot, _| {
            first = Some(slot);
            false
        });
        first
    }

    /// What stands before the range, and before its end; `None` when it can hold nothing.
    fn ranks(&self, range: &KeyRange) -> Option<(index::Sum, index::Sum)> {
        if range.is_empty() {
            return None;
        }
        let first = self.index.rank(&range.start, &self.slots);
        let last = match &range.end {
            Some(end) => self.index.rank(end, &self.slots),
            None => self.index.sum(),
        };
        Some((first, last))
    }

    /// By how much the versions above `at` raised the number of live keys in `range`; `None` when they
    /// are more than `steps_max`.
    fn change_since(&self, range: &KeyRange, at: Revision, steps_max: usize) -> Option<i64> {
        let mut change = 0;
        let all = *range == KeyRange::all();
        for (step, (position, slot)) in self.revisions.between(at, Revision::MAX).enumerate() {
            if step > steps_max {
                return None;
            }
            let entry = self.slots.get(slot);
            if !all && !range.contains(entry.key()) {
                continue;
            }
            // A key that changed more than once counts at the first of its versions above.
            let above = entry.versions.before((at.next(), 0));
            if entry.versions.get(above).map(Version::position) == Some(position) {
                change += i64::from(entry.is_live()) - i64::from(entry.is_live_at(at));
            }
        }
        Some(change)
    }
}
