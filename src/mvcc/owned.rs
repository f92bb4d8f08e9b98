//! The base as one store sees it: the keys that it owns, and no others.
//!
//! A corrupt block reads as if it had no keys; the base itself remembers the fault, and whoever answers
//! looks there. Knows no other layer.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::base::{self, Base, BlockRef, Corrupt, History, KeyRef, Merge};
use super::layer::Beneath;
use super::{Position, VersionRef};
use crate::keys::{KeyRange, LeaseId, Revision};

/// Changed keys that are counted one by one, whatever the size of the range.
const CHANGES_MIN: usize = 1024;

/// What a store knows of the base.
pub(super) struct OwnedBase {
    base: Option<Arc<Base>>,
    /// In key order; no two share a key.
    owned: Vec<KeyRange>,
    sizes: Sizes,
}

/// What the blocks that begin with an owned key hold. A block that several stores share counts in one.
#[derive(Clone, Copy, Default)]
struct Sizes {
    file_bytes: u64,
    bytes_in_use: u64,
    /// Of all blocks, whoever owns them.
    average_bytes: u64,
}

impl Default for OwnedBase {
    fn default() -> OwnedBase {
        OwnedBase { base: None, owned: vec![KeyRange::all()], sizes: Sizes::default() }
    }
}

impl OwnedBase {
    /// Returns the base before.
    pub(super) fn set(&mut self, base: Arc<Base>, collected: Revision) -> Option<Arc<Base>> {
        let before = self.base.replace(base);
        self.measure(collected);
        before
    }

    pub(super) fn own(&mut self, ranges: Vec<KeyRange>, collected: Revision) {
        self.owned = ranges;
        self.owned.retain(|range| !range.is_empty());
        self.owned.sort_unstable();
        self.measure(collected);
    }

    /// Garbage up to `upto` is not in use any more, though it stays until the next checkpoint.
    /// O(blocks).
    pub(super) fn collected(&mut self, upto: Revision) {
        self.measure(upto);
    }

    pub(super) fn get(&self) -> Option<&Arc<Base>> {
        self.base.as_ref()
    }

    pub(super) fn is_some(&self) -> bool {
        self.base.is_some()
    }

    /// All versions of the base lie at or below; zero without one.
    pub(super) fn at(&self) -> Revision {
        self.base.as_ref().map_or(Revision::ZERO, |base| base.at())
    }

    /// Bytes of its blocks, whether they hold garbage or not.
    pub(super) fn file_bytes(&self) -> usize {
        self.sizes.file_bytes as usize
    }

    /// Key and value bytes, less about what is garbage.
    pub(super) fn bytes_in_use(&self) -> usize {
        self.sizes.bytes_in_use as usize
    }

    /// What a key with a value hides, if it is like all others.
    pub(super) fn average(&self) -> Beneath {
        let bytes = self.sizes.average_bytes as usize;
        Beneath { live: self.base.is_some(), bytes }
    }

    pub(super) fn touch(&self, range: &KeyRange) -> Result<(), Corrupt> {
        let Some(base) = &self.base else { return Ok(()) };
        self.parts(range).iter().try_for_each(|part| base.touch(part))
    }

    /// The newest version of `key` that is not above `at`, a tombstone too.
    pub(super) fn get_at(&self, key: &[u8], at: Revision) -> Option<VersionRef<'_>> {
        let base = self.of(key)?;
        let found = if at >= base.at() { base.newest(key) } else { base.get_at(key, at) };
        found.unwrap_or_default()
    }

    pub(super) fn version_at(&self, key: &[u8], position: Position) -> Option<VersionRef<'_>> {
        self.of(key)?.version_at(key, position).unwrap_or_default()
    }

    /// How many keys of `range` have a value by their newest version. O(log n).
    pub(super) fn live(&self, range: &KeyRange) -> i64 {
        self.ranks(range).iter().map(|ranks| (ranks.end - ranks.start) as i64).sum()
    }

    /// The ranks of the keys of `range` that have a value, among all keys of the node.
    pub(super) fn ranks(&self, range: &KeyRange) -> Vec<Range<u64>> {
        let Some(base) = &self.base else { return Vec::new() };
        let ranks = |part: KeyRange| {
            let start = base.rank(&part.start).ok()?;
            let end = part.end.map_or(Some(base.live()), |end| base.rank(&end).ok())?;
            Some(start..end.max(start))
        };
        self.parts(range).into_iter().filter_map(ranks).collect()
    }

    pub(super) fn nth_live(&self, rank: u64) -> Option<&[u8]> {
        self.base.as_ref()?.nth_live(rank).unwrap_or_default()
    }

    /// How many keys of `range` have a value at `at`. O(log n + versions above `at`), or it walks the
    /// range where those are more.
    pub(super) fn live_at(&self, range: &KeyRange, at: Revision) -> i64 {
        let Some(base) = &self.base else { return 0 };
        let newest = self.live(range);
        let is_live = |version: Option<VersionRef<'_>>| version.is_some_and(|v| !v.is_tombstone());
        let changes_max = CHANGES_MIN.max(newest as usize);
        let mut changed = BTreeSet::new();
        let above = base.history(&self.parts(range), at.next(), Revision::MAX);
        for (step, version) in above.flatten().enumerate() {
            if step > changes_max {
                let mut live = 0;
                let mut keys = self.keys(range);
                while let Some(key) = keys.peek() {
                    live += i64::from(is_live(key.at(at)));
                    keys.advance();
                }
                return live;
            }
            changed.insert(version.key);
        }
        let change = |key: &&[u8]| {
            let (now, before) = (base.newest(key), base.get_at(key, at));
            i64::from(is_live(now.unwrap_or_default()))
                - i64::from(is_live(before.unwrap_or_default()))
        };
        newest - changed.iter().map(change).sum::<i64>()
    }

    /// Versions in order of position, as long as `each` says so; whether to go on with the next layer.
    pub(super) fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        through: Revision,
        each: &mut dyn FnMut(VersionRef<'_>) -> bool,
    ) -> bool {
        let Some(base) = &self.base else { return true };
        base.history(&self.parts(range), from, through.min(base.at())).flatten().all(each)
    }

    /// A walk through all owned versions in order of position, or what is left of one through this base.
    pub(super) fn walk(
        &self,
        left: Option<Merge>,
        from: Revision,
        through: Revision,
    ) -> Option<History<'_>> {
        let base = self.base.as_ref()?;
        let begin = || base.history(&self.parts(&KeyRange::all()), from, through.min(base.at()));
        Some(left.map_or_else(begin, |left| base.resume(left)))
    }

    /// The keys of `range` in order.
    pub(super) fn keys(&self, range: &KeyRange) -> Keys<'_> {
        let mut parts = self.parts(range).into_iter();
        let cursor = self.base.as_ref().zip(parts.next()).map(|(base, part)| base.cursor(&part));
        Keys { owned: self, whole: true, cursor, parts }
    }

    /// The base, if it may be asked for `key`.
    fn of(&self, key: &[u8]) -> Option<&Base> {
        let base = self.base.as_deref()?;
        let behind = self.owned.partition_point(|range| range.start.as_slice() <= key);
        self.owned[..behind].last().filter(|range| range.contains(key)).map(|_| base)
    }

    /// Shows every owned key whose newest version binds it to a lease.
    pub(super) fn leased(&self, visit: &mut dyn FnMut(&[u8], LeaseId)) -> Result<(), Corrupt> {
        let Some(base) = &self.base else { return Ok(()) };
        base.leased(&mut |key, lease| {
            if self.of(key).is_some() {
                visit(key, lease);
            }
        })
    }

    /// The owned parts of `range`, in key order.
    fn parts(&self, range: &KeyRange) -> Vec<KeyRange> {
        if self.base.is_none() {
            return Vec::new();
        }
        self.owned.iter().filter_map(|owned| owned.intersect(range)).collect()
    }

    fn measure(&mut self, collected: Revision) {
        let Some(base) = &self.base else { return };
        let mut sizes = Sizes {
            average_bytes: base.logical_bytes() / base.versions().max(1),
            ..Sizes::default()
        };
        for range in &self.owned {
            let blocks = base.blocks();
            let first = blocks.partition_point(|row| row.first_key < range.start);
            let own = |row: &&BlockRef| {
                range.end.as_deref().is_none_or(|end| row.first_key.as_slice() < end)
            };
            for row in blocks[first..].iter().take_while(own) {
                sizes.file_bytes += u64::from(row.len);
                sizes.bytes_in_use += row.bytes - garbage_bytes(row, collected);
            }
        }
        self.sizes = sizes;
    }
}

/// About how many key and value bytes of a block a compaction at `compacted` removes.
///
/// What stays in the end is one version of each key with a value. Versions are taken to be of one size
/// and to have become garbage evenly over the time from the first to the last of them.
fn garbage_bytes(row: &BlockRef, compacted: Revision) -> u64 {
    if row.garbage_from > compacted || row.versions == 0 {
        return 0;
    }
    let garbage = row.bytes / u64::from(row.versions) * u64::from(row.versions - row.live);
    let time = |from: Revision, to: Revision| (to.0.saturating_sub(from.0)).max(1) as u128;
    let whole = time(row.garbage_from, row.newest.next());
    let passed = time(row.garbage_from, compacted.next()).min(whole);
    (u128::from(garbage) * passed / whole) as u64
}

/// A walk over the owned keys of a range. A corrupt block is passed over.
pub(super) struct Keys<'a> {
    owned: &'a OwnedBase,
    /// Nothing was passed over so far.
    whole: bool,
    cursor: Option<base::Cursor<'a>>,
    parts: std::vec::IntoIter<KeyRange>,
}

impl<'a> Keys<'a> {
    /// The next key; `None` behind the last.
    pub(super) fn peek(&mut self) -> Option<KeyRef<'a>> {
        self.ask(|cursor, _| cursor.peek())
    }

    /// How the next key stands to `key`: see [`base::Cursor::compare`].
    #[inline]
    pub(super) fn compare(&mut self, key: &[u8], is_ahead: bool) -> Option<Ordering> {
        // What a corrupt block had is not ahead any more.
        self.ask(|cursor, whole| cursor.compare(key, is_ahead && whole))
    }

    /// Steps over the key that [`Keys::peek`] shows.
    pub(super) fn advance(&mut self) {
        self.cursor.iter_mut().for_each(base::Cursor::advance);
    }

    /// As [`Keys::advance`], over a key that was not read.
    #[inline]
    pub(super) fn pass(&mut self) {
        self.cursor.iter_mut().for_each(base::Cursor::pass);
    }

    /// What the cursor at the next key says, which is also told whether nothing was passed over.
    #[inline]
    fn ask<T>(
        &mut self,
        ask: impl Fn(&mut base::Cursor<'a>, bool) -> Result<Option<T>, Corrupt>,
    ) -> Option<T> {
        loop {
            let cursor = self.cursor.as_mut()?;
            match ask(cursor, self.whole) {
                Ok(Some(answer)) => return Some(answer),
                Ok(None) => {
                    let next = self.owned.base.as_ref().zip(self.parts.next());
                    self.cursor = next.map(|(base, part)| base.cursor(&part));
                }
                Err(_) => {
                    self.whole = false;
                    cursor.advance();
                }
            }
        }
    }
}
