//! One shard's keys with all their versions: put, delete, range, history and compaction.
//!
//! A [`Store`] keeps what it is told, at the revisions that it is told, and answers for any revision
//! since the last compaction. It knows nothing of logs, lanes or clients, of who may see what, or of
//! other shards; whoever reads says at which revision.
//!
//! ```text
//! active   in memory, takes writes              revisions above R          ┐
//! frozen   in memory, immutable                 up to R, above the base's  ├─ newest first
//! base     a mapped checkpoint, immutable       up to its own              ┘
//! ```
//!
//! A store has a frozen layer only while a checkpoint at R is built from it. The newest layer that
//! has a version of a key at or below a revision has the answer for it. The base is the whole node's:
//! a store looks only at the keys that it owns.

mod layer;

pub mod base;
pub mod build;
mod compact;
mod count;
mod deal;
mod encode;
mod freeze;
mod hash;
mod hidden;
mod history;
mod index;
mod merge;
mod owned;
mod piece;
mod replay;
mod revisions;
mod slots;
#[cfg(test)]
mod tests;
mod thin;
mod version;

pub use freeze::Replaced;
pub use hash::{Digest, HashWalk, REVISION_KEY_BYTES, TOMBSTONE, push_record, revision_key};
pub use layer::Layer;
pub use piece::Piece;
pub use replay::Batch;
pub use version::{Position, VersionRef};

use std::fmt;

use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::Change;
use compact::Collected;
use freeze::Frozen;
use index::Place;
use layer::Beneath;
use merge::Merge;
use owned::OwnedBase;
use slots::SlotId;
use version::Version;

/// The versions of a shard's keys.
///
/// The newest state includes what was installed and is not visible yet: readers name the revision at
/// which they read. Values borrow from the store, nothing is copied.
pub struct Store {
    active: Layer,
    frozen: Option<Frozen>,
    base: OwnedBase,
    highest: Revision,
    compacted: Revision,
    collected: Collected,
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
            active: Layer::new(),
            frozen: None,
            base: OwnedBase::default(),
            highest: Revision::ZERO,
            compacted: Revision::ZERO,
            collected: Collected::default(),
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
        let found = self.active.place(key);
        let (before, beneath) = match found {
            Ok(slot) => (self.active.slots.get(slot).live(), Beneath::NOTHING),
            Err(_) => {
                let beneath = self.beneath(key).filter(|v| !v.is_tombstone());
                (beneath, Beneath::of(beneath))
            }
        };
        let (create, number) = before.map_or((at.0, 1), |v| (v.create, v.version + 1));
        self.push(at, key, found, Version::put(at, create, number, lease, value), beneath);
        (create, number)
    }

    /// Says that `key` is gone from `at` on, also when it was gone or unknown before.
    pub fn delete(&mut self, at: Position, key: &[u8]) {
        let found = self.active.place(key);
        let beneath = if found.is_ok() { None } else { self.beneath(key) };
        let beneath = Beneath::of(beneath);
        self.push(at, key, found, Version::tombstone(at), beneath);
    }

    /// Adds a version as a redo record has it.
    pub fn install(&mut self, at: Position, key: &[u8], change: &Change) {
        match change {
            Change::Put { value, create, version, lease } => {
                self.install_put(at, key, value, *create, *version, *lease);
            }
            Change::Delete => self.delete(at, key),
        }
    }

    /// Gives `key` a value as a redo record has it.
    pub fn install_put(
        &mut self,
        at: Position,
        key: &[u8],
        value: &[u8],
        create: Revision,
        version: i64,
        lease: LeaseId,
    ) {
        let found = self.active.place(key);
        // Replay must not read the base for each record: the record itself says whether the key had
        // a value before.
        let beneath = match found {
            Err(_) if version > 1 => self.beneath_unread(key),
            _ => Beneath::NOTHING,
        };
        let version = Version::put(at, create, version, lease, value);
        self.push(at, key, found, version, beneath);
    }

    /// The newest version of `key`, when that gives it a value.
    #[must_use]
    pub fn newest(&self, key: &[u8]) -> Option<VersionRef<'_>> {
        match self.active.entry(key) {
            Some(entry) => entry.live(),
            None => self.beneath(key).filter(|v| !v.is_tombstone()),
        }
    }

    /// The version of `key` that readers at `at` see, when that gives it a value.
    #[must_use]
    pub fn get_at(&self, key: &[u8], at: Revision) -> Option<VersionRef<'_>> {
        if let Some(entry) = self.active.entry(key)
            && let Some(version) = entry.versions.at(at)
        {
            return version.is_live().then(|| version.view(entry.key()));
        }
        self.beneath_at(key, at).filter(|v| !v.is_tombstone())
    }

    /// The version of `key` at exactly `position`, a tombstone too.
    #[must_use]
    pub fn version_at(&self, key: &[u8], position: Position) -> Option<VersionRef<'_>> {
        if position.0 <= self.base.at() {
            return self.base.version_at(key, position);
        }
        let layer = if position.0 > self.floor() { &self.active } else { &**self.frozen()? };
        let entry = layer.entry(key)?;
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
        let relevant_only = at >= self.highest;
        if self.is_single() {
            self.active.visit(range, relevant_only, &mut |_, entry| {
                entry.live_at(at).is_none_or(&mut *each)
            });
            return;
        }
        let mut keys = Merge::new(self, range, relevant_only);
        while let Some(version) = keys.next(at) {
            if !version.is_none_or(&mut *each) {
                return;
            }
        }
    }

    /// The highest revision that was ever installed here or came with a piece, and not taken back.
    #[must_use]
    pub fn highest(&self) -> Revision {
        self.highest
    }

    /// How many versions are in memory, tombstones and uncollected ones too.
    #[must_use]
    pub fn versions(&self) -> usize {
        self.active.versions() + self.frozen().map_or(0, |layer| layer.versions())
    }

    /// Memory that the store takes from the allocator, by glibc's rules and without fragmentation, and
    /// its share of the base's files. O(1).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.active.bytes()
            + self.frozen().map_or(0, |layer| layer.bytes())
            + self.base.file_bytes()
    }

    /// Key and value bytes of the versions that are left when garbage collection and the checkpoints
    /// to come have done their work. O(1).
    ///
    /// Exact for what is in memory and hides nothing; what is garbage in the base counts by averages
    /// until the next checkpoint.
    #[must_use]
    pub fn bytes_in_use(&self) -> usize {
        let layers = self.frozen().map(|layer| &**layer).into_iter().chain([&self.active]);
        let (used, hidden) = layers.fold((self.base.bytes_in_use(), 0), |(used, hidden), l| {
            (used + l.logical_bytes(), hidden + l.hidden_garbage_bytes())
        });
        used.saturating_sub(hidden)
    }

    /// The first key of `range` that the active layer has any version of: what [`Store::export`] has
    /// still to take out.
    #[must_use]
    pub fn first_key(&self, range: &KeyRange) -> Option<&[u8]> {
        self.active.first_slot(range).map(|slot| self.active.slots.key(slot))
    }

    fn push(
        &mut self,
        at: Position,
        key: &[u8],
        found: Result<SlotId, Place>,
        version: Version,
        beneath: Beneath,
    ) {
        assert!(at.0 > self.floor(), "{at:?} belongs to a layer that is closed");
        self.active.push(at, key, found, version, beneath);
        self.highest = self.highest.max(at.0);
    }

    /// Whether the active layer is the only one.
    fn is_single(&self) -> bool {
        self.frozen.is_none() && !self.base.is_some()
    }

    /// All versions of the active layer lie above.
    fn floor(&self) -> Revision {
        self.frozen.as_ref().map_or(self.base.at(), |frozen| frozen.at)
    }

    /// The newest version of `key` beneath the active layer, a tombstone too.
    fn beneath(&self, key: &[u8]) -> Option<VersionRef<'_>> {
        if self.is_single() { None } else { self.beneath_at(key, Revision::MAX) }
    }

    /// The newest version of `key` beneath the active layer that is not above `at`, a tombstone too.
    fn beneath_at(&self, key: &[u8], at: Revision) -> Option<VersionRef<'_>> {
        if let Some(frozen) = self.frozen()
            && let Some(entry) = frozen.entry(key)
            && let Some(version) = entry.versions.at(at)
        {
            return Some(version.view(entry.key()));
        }
        self.base.get_at(key, at)
    }

    /// What lies beneath the active layer of a key that has a value there, without a look at the base.
    fn beneath_unread(&self, key: &[u8]) -> Beneath {
        match self.frozen().and_then(|frozen| frozen.entry(key)) {
            Some(entry) => Beneath::of(entry.live()),
            None => self.base.average(),
        }
    }
}
