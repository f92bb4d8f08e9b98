//! What happened in a range, in the order in which it happened.
//!
//! Knows no events and no watchers: it shows versions, tombstones among them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::layer::Layer;
use super::slots::{Entry, SlotId};
use super::version::Position;
use super::{Store, Version, VersionRef};
use crate::keys::{KeyRange, Revision};

/// Ranges of more keys are read by the revision index: merging them would cost a pass over all the
/// keys before the first version is shown.
const MERGE_KEYS_MAX: usize = 1024;
/// What finding a key's first version costs, in versions looked at by the revision index.
const KEY_COST: usize = 4;

impl Store {
    /// Shows the versions of `range` with revisions `from` through `through` in order of position,
    /// tombstones too, as long as `each` says so.
    ///
    /// It walks the revisions, or merges the versions of the range's keys when that is less to look
    /// at; one key costs O(log n + versions shown). What compaction removed is missing: below
    /// [`Store::compacted`] the history has holes.
    pub fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        through: Revision,
        each: &mut dyn FnMut(VersionRef<'_>) -> bool,
    ) {
        if from > through {
            return;
        }
        if from <= self.base.at() && !self.base.history(range, from, through, each) {
            return;
        }
        self.history_in_memory(range, from, through, each);
    }

    /// As [`Store::history`], without the base.
    pub(super) fn history_in_memory(
        &self,
        range: &KeyRange,
        from: Revision,
        through: Revision,
        each: &mut dyn FnMut(VersionRef<'_>) -> bool,
    ) {
        if let Some(frozen) = self.frozen()
            && from <= self.floor()
            && !frozen.history(range, from, through.min(self.floor()), each)
        {
            return;
        }
        self.active.history(range, from, through, each);
    }
}

impl Layer {
    /// As [`Store::history`], of this layer alone; whether to go on with the next one.
    fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        through: Revision,
        each: &mut dyn FnMut(VersionRef<'_>) -> bool,
    ) -> bool {
        if let Some(key) = range.as_single() {
            return self.entry(key).is_none_or(|entry| {
                versions(entry, from, through).all(|version| each(version.view(entry.key())))
            });
        }
        let Some((first, last)) = self.ranks(range) else { return true };
        let keys = (last.keys - first.keys) as usize;
        let merge_cost = keys * KEY_COST;
        if keys == 0 {
            return true;
        }
        if keys <= MERGE_KEYS_MAX
            && self.revisions.about((from, 0), through, merge_cost) >= merge_cost
        {
            self.merge_history(range, from, through, each)
        } else {
            self.walk_history(range, from, through, each)
        }
    }

    fn walk_history(
        &self,
        range: &KeyRange,
        from: Revision,
        through: Revision,
        each: &mut dyn FnMut(VersionRef<'_>) -> bool,
    ) -> bool {
        let all = *range == KeyRange::all();
        for (position, slot) in self.revisions.from((from, 0)) {
            if position.0 > through {
                return true;
            }
            let entry = self.slots.get(slot);
            if !all && !range.contains(entry.key()) {
                continue;
            }
            let version = entry.version_at(position).expect("the revision index is exact");
            if !each(version.view(entry.key())) {
                return false;
            }
        }
        true
    }

    fn merge_history(
        &self,
        range: &KeyRange,
        from: Revision,
        through: Revision,
        each: &mut dyn FnMut(VersionRef<'_>) -> bool,
    ) -> bool {
        let mut next: BinaryHeap<Reverse<(Position, SlotId, usize)>> = BinaryHeap::new();
        let within = |entry: &Entry, at: usize| {
            entry.versions.get(at).map(Version::position).filter(|p| p.0 <= through)
        };
        self.visit(range, false, &mut |slot, entry| {
            let at = entry.versions.before((from, 0));
            next.extend(within(entry, at).map(|position| Reverse((position, slot, at))));
            true
        });
        while let Some(Reverse((_, slot, at))) = next.pop() {
            let entry = self.slots.get(slot);
            let version = entry.versions.get(at).expect("just seen");
            if !each(version.view(entry.key())) {
                return false;
            }
            let at = at + 1;
            next.extend(within(entry, at).map(|position| Reverse((position, slot, at))));
        }
        true
    }
}

fn versions(entry: &Entry, from: Revision, through: Revision) -> impl Iterator<Item = &Version> {
    let first = entry.versions.before((from, 0));
    (first..)
        .map_while(|at| entry.versions.get(at))
        .take_while(move |version| version.modified() <= through)
}
