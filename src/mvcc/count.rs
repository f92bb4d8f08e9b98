//! How many keys have a value, and which one stands where among them, over all layers.
//!
//! A layer counts by how much it raises the number: its keys with a value, less those that had one
//! beneath already. Knows no order of versions but "at this revision".

use std::sync::Arc;

use super::Store;
use super::layer::Layer;
use super::version::Version;
use crate::keys::{KeyRange, Revision};

impl Store {
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
        let at = at.unwrap_or(Revision::MAX);
        // Below zero only where a damaged block counts less than what hides it.
        usize::try_from(self.live_at(range, at)).unwrap_or(0)
    }

    /// How many keys have a value by their newest version.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.count(&KeyRange::all(), None)
    }

    /// The key of `range` with `rank` keys before it in the range, among those with a value by their
    /// newest version. O(log² n).
    #[must_use]
    pub fn key_at(&self, range: &KeyRange, rank: usize) -> Option<&[u8]> {
        let rank = i64::try_from(rank).ok()?;
        let before = |key: &[u8]| {
            let part = KeyRange { start: range.start.clone(), end: Some(key.to_vec()) };
            self.live_at(&part, Revision::MAX)
        };
        // The key has its value in one of the layers. There it is the last one with no more than
        // `rank` keys before it, and no such key of another layer lies behind it.
        let layers = [Some(&self.active), self.frozen().map(Arc::as_ref)];
        let found = layers.into_iter().flatten().filter_map(|layer| {
            let (first, last) = layer.ranks(range)?;
            let (first, last) = (u64::from(first.live), u64::from(last.live));
            last_where(first..last, |nth| layer.nth_live(nth as u32), |key| before(key) <= rank)
        });
        let in_base = self.base.ranks(range).into_iter().filter_map(|ranks| {
            last_where(ranks, |nth| self.base.nth_live(nth), |key| before(key) <= rank)
        });
        let found = found.chain(in_base);
        let found = found.max()?;
        let version = self.newest(found)?;
        (before(found) == rank).then_some(version.key)
    }

    /// The key of `range` that has as many before it as behind it. O(log² n).
    #[must_use]
    pub fn median_key(&self, range: &KeyRange) -> Option<Vec<u8>> {
        let count = self.count(range, None);
        self.key_at(range, count / 2).map(<[u8]>::to_vec)
    }

    fn live_at(&self, range: &KeyRange, at: Revision) -> i64 {
        if at >= self.floor() {
            return self.active.raised_at(range, at) + self.live_beneath(range);
        }
        match self.frozen() {
            Some(frozen) if at >= self.base.at() => {
                frozen.raised_at(range, at) + self.base.live(range)
            }
            _ => self.base.live_at(range, at),
        }
    }

    /// How many keys of `range` have a value in the layers beneath the active one.
    fn live_beneath(&self, range: &KeyRange) -> i64 {
        let raised = self.frozen().map_or(0, |frozen| frozen.raised_at(range, Revision::MAX));
        raised + self.base.live(range)
    }
}

/// The last of the keys, which stand in order, that fits; those that fit stand before the others.
fn last_where<'a>(
    among: std::ops::Range<u64>,
    key: impl Fn(u64) -> Option<&'a [u8]>,
    fits: impl Fn(&[u8]) -> bool,
) -> Option<&'a [u8]> {
    let (mut low, mut high) = (among.start, among.end);
    let mut found = None;
    while low < high {
        let middle = low.midpoint(high);
        match key(middle).filter(|key| fits(key)) {
            Some(key) => {
                found = Some(key);
                low = middle + 1;
            }
            None => high = middle,
        }
    }
    found
}

impl Layer {
    /// By how much this layer raises the number of keys of `range` that have a value at `at`, which
    /// does not lie below what it begins with.
    pub(super) fn raised_at(&self, range: &KeyRange, at: Revision) -> i64 {
        let Some((first, last)) = self.ranks(range) else { return 0 };
        let below = i64::from(last.below - first.below);
        let newest = i64::from(last.live - first.live) - below;
        if self.revisions.last().is_none_or(|(position, _)| position.0 <= at) {
            return newest;
        }
        let keys = (last.keys - first.keys) as usize;
        match self.change_since(range, at, keys) {
            Some(change) => newest - change,
            None => {
                let mut live = 0;
                self.visit(range, false, &mut |_, entry| {
                    live += i64::from(self.is_live_at(entry.versions.at(at), entry.key()));
                    true
                });
                live - below
            }
        }
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
                let before = above.checked_sub(1).and_then(|at| entry.versions.get(at));
                let before = self.is_live_at(before, entry.key());
                change += i64::from(entry.is_live()) - i64::from(before);
            }
        }
        Some(change)
    }

    /// Whether `key` has a value by `version`; before its first one here it has what lies beneath.
    fn is_live_at(&self, version: Option<&Version>, key: &[u8]) -> bool {
        version.map_or_else(|| self.is_below(key), Version::is_live)
    }
}
