//! One block of the base: sorted keys with all their versions, as columns of one archive.
//!
//! Knows how a block is laid out, searched and checked; not where it lies nor what stands beside it.

use std::cmp::Ordering;
use std::ops::Range;

use rkyv::primitive::ArchivedU32;
use rkyv::rancor::Failure;
use rkyv::{Archive, Serialize};

use super::super::index::{hint, shared};
use super::super::version::{Position, VersionRef};
use super::row::{BlockRef, Tally, Why};
use crate::keys::{LeaseId, Revision};

/// Bits of the byte that a version's record begins with.
const TOMBSTONE: u8 = 1;
const FIRST: u8 = 2;
const LEASED: u8 = 4;

/// What a version costs in a block beside its value, at most: its place, its number in the order, flags, numbers.
pub(in crate::mvcc) const VERSION_COST: usize = 16 + 4 + 1 + 24;

/// Hints under one entry of `tops`: two lines of a cache.
const GROUP: usize = 32;

/// K keys in order and their V versions, each key's together and oldest first.
///
/// ```text
/// heap       each version's entry, one after the other
/// order      V × u32        numbers of the versions in order of (revision, sub)
/// live       ⌈K/64⌉ × u64   bit k: key k has a value by its newest version
/// firsts     K × u32        number of the key's first version; empty when every key has one version
/// places     V × (revision i64, sub u32, where the entry begins in heap u32)
/// hints      K × u32        four bytes of the key behind those that all share, big-endian in value
/// tops       ⌊K/32⌋ × u32   the last hint of each 32
/// skip       u32            bytes that all keys share at their beginning
/// goes_on    bool           the newest versions of the only key are in the next block
/// continues  bool           older versions of the only key are in the block before
/// ```
///
/// The entry of a key's first version begins with the length of the key, u32, and the key. Then every
/// entry has a byte of flags (1 tombstone · 2 first of its life: create is modified, version is 1 · 4
/// leased), create and version as i64 unless one of the first two is set, the lease as i64 if there is
/// one, and the value up to the end of the entry.
///
/// So a key with one version costs 29 bytes and a bit beside key and value. A look-up waits for memory five
/// times: for the root of the archive, tops, hints, the place, and the entry.
#[derive(Archive, Serialize)]
pub(in crate::mvcc) struct Block {
    pub(in crate::mvcc) heap: Vec<u8>,
    pub(in crate::mvcc) order: Vec<u32>,
    pub(in crate::mvcc) live: Vec<u64>,
    pub(in crate::mvcc) firsts: Vec<u32>,
    pub(in crate::mvcc) places: Vec<Place>,
    pub(in crate::mvcc) hints: Vec<u32>,
    pub(in crate::mvcc) tops: Vec<u32>,
    pub(in crate::mvcc) skip: u32,
    pub(in crate::mvcc) goes_on: bool,
    pub(in crate::mvcc) continues: bool,
}

/// Where a version stands in the order of all writes, and in the heap.
#[derive(Archive, Serialize, Clone, Copy)]
pub(in crate::mvcc) struct Place {
    pub(in crate::mvcc) modified: i64,
    pub(in crate::mvcc) sub: u32,
    /// Where the entry begins in the heap.
    pub(in crate::mvcc) at: u32,
}

const _: () = assert!(size_of::<ArchivedPlace>() == 16, "the layout that is documented");
const _: () = assert!(size_of::<ArchivedBlock>() == 62, "the layout that is documented");

/// The last hint of each group.
pub(in crate::mvcc) fn tops(hints: &[u32]) -> Vec<u32> {
    hints.chunks_exact(GROUP).map(|group| group[GROUP - 1]).collect()
}

/// Begins the entry of a key's first version.
pub(in crate::mvcc) fn push_key(key: &[u8], heap: &mut Vec<u8>) {
    let len = u32::try_from(key.len()).expect("a key fits a request");
    heap.extend_from_slice(&len.to_le_bytes());
    heap.extend_from_slice(key);
}

/// Adds a version's entry, or the rest of it behind the key.
pub(in crate::mvcc) fn push_version(version: &VersionRef<'_>, heap: &mut Vec<u8>) {
    let tombstone = version.is_tombstone();
    let first = version.version == 1 && version.create == version.modified;
    let leased = version.lease.is_some() && !tombstone;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    heap.push(flag(tombstone, TOMBSTONE) | flag(first, FIRST) | flag(leased, LEASED));
    if !first && !tombstone {
        heap.extend_from_slice(&version.create.0.to_le_bytes());
        heap.extend_from_slice(&version.version.to_le_bytes());
    }
    if leased {
        heap.extend_from_slice(&version.lease.0.to_le_bytes());
    }
    heap.extend_from_slice(version.value);
}

/// A block that was checked, in place.
///
/// Nothing here panics, whatever the bytes are: where a checked block cannot point outside, a changed
/// one shows an empty key or no version.
#[derive(Clone, Copy)]
pub(in crate::mvcc) struct View<'a> {
    block: &'a ArchivedBlock,
    /// The first key of the row, whose beginning all keys share. Its memory is warm, the block's not.
    first_key: &'a [u8],
}

impl<'a> View<'a> {
    /// A block that [`View::check`] found whole before.
    pub(super) fn trusted(bytes: &'a [u8], row: &'a BlockRef) -> View<'a> {
        // SAFETY: the caller has checked these very bytes with `View::check`, which begins with rkyv's own
        // validation of the archive, and a mapped checkpoint is never written to.
        let block = unsafe { rkyv::access_unchecked::<ArchivedBlock>(bytes) };
        View { block, first_key: &row.first_key }
    }

    /// Checks everything there is to check: the checksum, the archive, that all offsets are in bounds and
    /// all orders ascend, and that the block holds what its row says. `until` is the first key that must
    /// not be in it, `at` the highest revision that may.
    pub(super) fn check(
        bytes: &'a [u8],
        row: &'a BlockRef,
        until: Option<&[u8]>,
        at: Revision,
    ) -> Result<View<'a>, Why> {
        if crc32c::crc32c(bytes) != row.crc {
            return Err(Why::Checksum);
        }
        let block =
            rkyv::access::<ArchivedBlock, Failure>(bytes).map_err(|Failure| Why::Archive)?;
        let view = View { block, first_key: &row.first_key };
        let tally = view.tally().ok_or(Why::Content)?;
        let inside = until.is_none_or(|until| block.goes_on || view.last_key() < until);
        if !inside || tally.newest > at || !tally.agrees(row, block.goes_on || block.continues) {
            return Err(Why::Row);
        }
        Ok(view)
    }

    pub(in crate::mvcc) fn keys(&self) -> usize {
        self.block.hints.len()
    }

    pub(super) fn versions(&self) -> usize {
        self.block.places.len()
    }

    /// Key number `k`.
    #[inline]
    pub(super) fn key(&self, k: usize) -> &'a [u8] {
        self.entry(self.first(k)).and_then(split_key).unwrap_or_default().0
    }

    /// How key number `k` stands to `key`. It is read only where its hint does not tell. If `key` is known to be
    /// one of the keys of the base from number `k` on, `is_ahead`, equal hints tell as well, unless the next key
    /// has the same.
    #[inline]
    pub(super) fn compare(&self, k: usize, key: &[u8], is_ahead: bool) -> Ordering {
        let skip = match self.compare_shared(key) {
            Ok(skip) => skip,
            Err(all) => return all,
        };
        let hints = self.block.hints.as_slice();
        let (wanted, of) = (hint(key, skip), |k: usize| hints.get(k).map(|h| h.to_native()));
        match of(k).cmp(&Some(wanted)) {
            Ordering::Equal if is_ahead && of(k + 1).is_some_and(|next| next != wanted) => {
                Ordering::Equal
            }
            Ordering::Equal => self.key(k).cmp(key),
            unequal => unequal,
        }
    }

    /// How many bytes all keys share with `key`, or how they all stand to it.
    #[inline]
    fn compare_shared(&self, key: &[u8]) -> Result<usize, Ordering> {
        let skip = (self.block.skip.to_native() as usize).min(self.first_key.len());
        let compared = skip.min(key.len());
        match self.first_key[..compared].cmp(&key[..compared]) {
            // A beginning of the shared bytes stands before all that have them whole.
            Ordering::Equal if compared < skip => Err(Ordering::Greater),
            Ordering::Equal => Ok(skip),
            unequal => Err(unequal),
        }
    }

    /// Where `key` is, or where it would be.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let skip = match self.compare_shared(key) {
            Ok(skip) => skip,
            Err(Ordering::Less) => return Err(self.keys()),
            Err(_) => return Err(0),
        };
        let wanted = hint(key, skip);
        // Counted, not bisected: no load waits for another, so that cold lines arrive together.
        let below = |hints: &[ArchivedU32]| {
            hints.iter().map(|h| u32::from(h.to_native() < wanted)).sum::<u32>() as usize
        };
        let hints = self.block.hints.as_slice();
        let group = (GROUP * below(self.block.tops.as_slice())).min(hints.len());
        let mut low = group + below(&hints[group..hints.len().min(group + GROUP)]);
        let same = |at: usize| hints.get(at).is_some_and(|h| h.to_native() == wanted);
        let mut high = low + usize::from(same(low));
        if high > low && same(high) {
            high += hints[high..].partition_point(|h| h.to_native() == wanted);
        }
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// How many keys stand before `key`.
    pub(super) fn lower_bound(&self, key: &[u8]) -> usize {
        self.find(key).unwrap_or_else(|at| at)
    }

    /// The numbers of the versions of key number `k`.
    #[inline]
    pub(super) fn versions_of(&self, k: usize) -> Range<usize> {
        self.first(k)..self.first(k + 1)
    }

    /// The number of the key that has version number `v`.
    pub(super) fn key_of(&self, v: usize) -> usize {
        if self.block.firsts.is_empty() {
            return v;
        }
        self.block.firsts.partition_point(|first| first.to_native() as usize <= v).saturating_sub(1)
    }

    /// Version number `v`, one of those of key number `k`.
    #[inline]
    pub(super) fn version(&self, k: usize, v: usize) -> Option<VersionRef<'a>> {
        let (modified, sub) = self.position(v)?;
        let entry = self.entry(v)?;
        let first = self.first(k);
        let (key, rest) = split_key(if v == first { entry } else { self.entry(first)? })?;
        let rest = if v == first { rest } else { entry };
        let (&flags, rest) = rest.split_first()?;
        let (create, version, rest) = match flags & (FIRST | TOMBSTONE) {
            0 => {
                let (create, rest) = rest.split_first_chunk()?;
                let (version, rest) = rest.split_first_chunk()?;
                (Revision(i64::from_le_bytes(*create)), i64::from_le_bytes(*version), rest)
            }
            FIRST => (modified, 1, rest),
            _ => (Revision::ZERO, 0, rest),
        };
        let (lease, value) = match flags & LEASED {
            0 => (LeaseId::NONE, rest),
            _ => {
                let (lease, value) = rest.split_first_chunk()?;
                (LeaseId(i64::from_le_bytes(*lease)), value)
            }
        };
        Some(VersionRef { key, value, create, modified, sub, version, lease })
    }

    /// The newest version of key number `k`.
    #[inline]
    pub(super) fn newest(&self, k: usize) -> Option<VersionRef<'a>> {
        self.version(k, self.first(k + 1).checked_sub(1)?)
    }

    /// The newest version of key number `k` that is not above `at`.
    #[inline]
    pub(super) fn at(&self, k: usize, at: Revision) -> Option<VersionRef<'a>> {
        let versions = self.versions_of(k);
        let places = self.block.places.get(versions.clone())?;
        let newest = places.last().is_some_and(|place| place.modified.to_native() <= at.0);
        let above = match newest {
            true => places.len(),
            false => places.partition_point(|place| place.modified.to_native() <= at.0),
        };
        self.version(k, versions.start + above.checked_sub(1)?)
    }

    /// The version of key number `k` at exactly `position`.
    pub(super) fn version_at(&self, k: usize, position: Position) -> Option<VersionRef<'a>> {
        let mut versions = self.versions_of(k);
        while versions.start < versions.end {
            let middle = versions.start.midpoint(versions.end);
            match self.position(middle)?.cmp(&position) {
                Ordering::Less => versions.start = middle + 1,
                Ordering::Equal => return self.version(k, middle),
                Ordering::Greater => versions.end = middle,
            }
        }
        None
    }

    #[inline]
    pub(super) fn position(&self, v: usize) -> Option<Position> {
        let place = self.block.places.get(v)?;
        Some((Revision(place.modified.to_native()), place.sub.to_native()))
    }

    /// The number of the version with `place` others of the block before it in the order of revisions.
    pub(super) fn ordered(&self, place: usize) -> Option<usize> {
        number(&self.block.order, place)
    }

    /// How many versions of the block are older than revision `from`.
    pub(super) fn older(&self, from: Revision) -> usize {
        let older = |v: usize| self.position(v).is_some_and(|position| position.0 < from);
        self.block.order.partition_point(|v| older(v.to_native() as usize))
    }

    /// How many of the first `k` keys are live.
    pub(super) fn live_before(&self, k: usize) -> u64 {
        let words = self.block.live.as_slice();
        let whole: u32 = words.iter().take(k / 64).map(|word| word.to_native().count_ones()).sum();
        let part = words.get(k / 64).map_or(0, |word| word.to_native() & ((1 << (k % 64)) - 1));
        u64::from(whole + part.count_ones())
    }

    /// The number of the live key with `rank` live keys before it.
    pub(super) fn nth_live(&self, mut rank: u64) -> Option<usize> {
        for (at, word) in self.block.live.iter().enumerate() {
            let mut word = word.to_native();
            let here = u64::from(word.count_ones());
            if rank < here {
                for _ in 0..rank {
                    word &= word - 1;
                }
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
            rank -= here;
        }
        None
    }

    /// The entry of version number `v`.
    #[inline]
    fn entry(&self, v: usize) -> Option<&'a [u8]> {
        let start = self.block.places.get(v)?.at.to_native() as usize;
        let next = self.block.places.get(v + 1);
        let end = next.map_or(self.block.heap.len(), |next| next.at.to_native() as usize);
        self.block.heap.get(start..end)
    }

    fn last_key(&self) -> &'a [u8] {
        self.key(self.keys().saturating_sub(1))
    }

    /// The number of the first version of key number `k`; of all versions for the key behind the last.
    #[inline]
    fn first(&self, k: usize) -> usize {
        if self.block.firsts.is_empty() {
            return k;
        }
        number(&self.block.firsts, k).unwrap_or(self.versions())
    }

    /// What the block holds; `None` when an order or a bound is wrong.
    fn tally(&self) -> Option<Tally> {
        let (block, keys, versions) = (self.block, self.keys(), self.versions());
        let sized = keys > 0
            && (block.firsts.len() == keys || block.firsts.is_empty() && versions == keys)
            && block.order.len() == versions
            && block.live.len() == keys.div_ceil(64)
            && (keys == 1 || !block.goes_on && !block.continues)
            && block.places.first()?.at.to_native() == 0
            && self.first(0) == 0;
        let hints = block.hints.as_slice();
        let tops = hints.chunks_exact(GROUP).map(|group| group[GROUP - 1]);
        if !sized || !tops.eq(block.tops.iter().copied()) {
            return None;
        }
        let (first, last) = (self.key(0), self.last_key());
        let skip = block.skip.to_native() as usize;
        if skip != shared(first, last) || self.first_key != first {
            return None;
        }
        let mut tally = Tally::default();
        let mut before: Option<&[u8]> = None;
        for k in 0..keys {
            let (key, numbers) = (self.key(k), self.versions_of(k));
            let ascends =
                before.is_none_or(|before| before < key) && key.starts_with(&first[..skip]);
            if !ascends
                || numbers.is_empty()
                || number(&block.hints, k)? != hint(key, skip) as usize
            {
                return None;
            }
            before = Some(key);
            let whole = self.check_versions(k)?;
            let live = block.live.get(k / 64)?.to_native() >> (k % 64) & 1 == 1;
            if live != (whole.live == 1) {
                return None;
            }
            tally.merge(&if block.goes_on { whole.part() } else { whole });
        }
        let spare = block.live.last()?.to_native().checked_shr((keys - 1) as u32 % 64 + 1);
        (spare.unwrap_or(0) == 0 && self.order_ascends()?).then_some(tally)
    }

    /// The tally of key number `k`.
    fn check_versions(&self, k: usize) -> Option<Tally> {
        let (first, numbers) = (self.first(k), self.versions_of(k));
        let mut before: Option<Position> = None;
        for v in numbers.clone() {
            let (position, version, entry) =
                (self.position(v)?, self.version(k, v)?, self.entry(v)?);
            let rest = if v == first { split_key(entry)?.1 } else { entry };
            let flags = *rest.first()?;
            let sound = match flags & TOMBSTONE {
                0 => version.version > 0 && version.create.0 > 0,
                _ => flags == TOMBSTONE && version.value.is_empty(),
            };
            let known = flags & !(TOMBSTONE | FIRST | LEASED) == 0;
            let leased = flags & LEASED == 0 || version.lease.is_some();
            if !(sound && known && leased) || position.0.0 <= 0 || before >= Some(position) {
                return None;
            }
            before = Some(position);
        }
        Some(Tally::of(self.key(k), numbers.map_while(|v| self.version(k, v))))
    }

    fn order_ascends(&self) -> Option<bool> {
        // Strictly ascending positions are of different versions, so the order names each once.
        let mut before: Option<Position> = None;
        for place in 0..self.versions() {
            let position = self.position(self.ordered(place)?)?;
            if before >= Some(position) {
                return Some(false);
            }
            before = Some(position);
        }
        Some(true)
    }
}

/// The key that an entry of a first version begins with, and what follows it.
#[inline]
pub(in crate::mvcc) fn split_key(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = entry.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

/// An entry of a column of numbers.
#[inline]
fn number(column: &[ArchivedU32], at: usize) -> Option<usize> {
    column.get(at).map(|n| n.to_native() as usize)
}
