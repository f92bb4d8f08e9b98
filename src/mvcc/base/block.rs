//! One block of the base: sorted keys with all their versions, as columns of one archive.
//!
//! Knows how a block is laid out, searched and checked; not where it lies nor what stands beside it.

use std::ops::Range;

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

/// What a key with one version costs in a block of live keys, beside its key and its value.
pub(in crate::mvcc) const KEY_COST: usize = 8;
pub(in crate::mvcc) const VERSION_COST: usize = 8 + 4 + 4 + 4;

/// K keys in order and their V versions, each key's together and oldest first.
///
/// ```text
/// skip       bytes that all keys share at their beginning
/// hints      K × u32   four bytes of each key behind those, big-endian in value
/// keys       K × u32   where the key stands in `heap`
/// firsts     K × u32   number of its first version; empty when every key has one version
/// modified   V × i64   revision
/// subs       V × u32   place in the revision
/// records    V × u32   where the version's record stands in `heap`
/// order      V × u32   numbers of the versions in order of (revision, sub)
/// live       ⌈K/64⌉ × u64   bit k: key k has a value by its newest version
/// heap       key, records of its versions, next key, …
/// ```
///
/// A record is a byte of flags (1 tombstone · 2 first of its life: create is modified, version is 1 ·
/// 4 leased), create and version as i64 unless one of the first two is set, the lease as i64 if there
/// is one, and the value up to what follows. So a key with one version costs 29 bytes and a bit beside
/// key and value, and finding it touches the hints, one line of some columns, and the heap.
///
/// A key with more versions than fit one block has blocks of its own: `goes_on` in all but the last of
/// them, `continues` in all but the first.
#[derive(Archive, Serialize)]
pub(in crate::mvcc) struct Block {
    pub(in crate::mvcc) heap: Vec<u8>,
    pub(in crate::mvcc) order: Vec<u32>,
    pub(in crate::mvcc) live: Vec<u64>,
    pub(in crate::mvcc) subs: Vec<u32>,
    pub(in crate::mvcc) modified: Vec<i64>,
    pub(in crate::mvcc) firsts: Vec<u32>,
    pub(in crate::mvcc) records: Vec<u32>,
    pub(in crate::mvcc) keys: Vec<u32>,
    pub(in crate::mvcc) hints: Vec<u32>,
    pub(in crate::mvcc) skip: u32,
    pub(in crate::mvcc) goes_on: bool,
    pub(in crate::mvcc) continues: bool,
}

/// Adds a version's record to a heap.
pub(in crate::mvcc) fn push_record(version: &VersionRef<'_>, heap: &mut Vec<u8>) {
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

/// Whether the record that `heap` begins with gives its key a value.
pub(in crate::mvcc) fn is_live_record(heap: &[u8]) -> bool {
    heap.first().is_some_and(|flags| flags & TOMBSTONE == 0)
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
        self.block.modified.len()
    }

    /// Key number `k`.
    #[inline]
    pub(super) fn key(&self, k: usize) -> &'a [u8] {
        let end = number(&self.block.records, self.first(k));
        number(&self.block.keys, k)
            .zip(end)
            .and_then(|(start, end)| self.block.heap.get(start..end))
            .unwrap_or_default()
    }

    /// Where `key` is, or where it would be.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let skip = (self.block.skip.to_native() as usize).min(self.first_key.len());
        if skip > 0 {
            let compared = skip.min(key.len());
            match key[..compared].cmp(&self.first_key[..compared]) {
                std::cmp::Ordering::Less => return Err(0),
                std::cmp::Ordering::Greater => return Err(self.keys()),
                // A beginning of the shared bytes stands before all that have them whole.
                std::cmp::Ordering::Equal if compared < skip => return Err(0),
                std::cmp::Ordering::Equal => {}
            }
        }
        let wanted = hint(key, skip);
        let hints = self.block.hints.as_slice();
        let mut low = hints.partition_point(|h| h.to_native() < wanted);
        let mut high = low;
        if hints.get(low).is_some_and(|h| h.to_native() == wanted) {
            high = low + hints[low..].partition_point(|h| h.to_native() == wanted);
        }
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
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
        let end = if v + 1 < self.first(k + 1) {
            number(&self.block.records, v + 1)?
        } else if k + 1 < self.keys() {
            number(&self.block.keys, k + 1)?
        } else {
            self.block.heap.len()
        };
        let record = self.block.heap.get(number(&self.block.records, v)?..end)?;
        let (&flags, rest) = record.split_first()?;
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
        Some(VersionRef { key: self.key(k), value, create, modified, sub, version, lease })
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
        let modified = self.block.modified.get(versions.clone())?;
        let above = modified.partition_point(|modified| modified.to_native() <= at.0);
        self.version(k, versions.start + above.checked_sub(1)?)
    }

    /// The version of key number `k` at exactly `position`.
    pub(super) fn version_at(&self, k: usize, position: Position) -> Option<VersionRef<'a>> {
        let mut versions = self.versions_of(k);
        while versions.start < versions.end {
            let middle = versions.start.midpoint(versions.end);
            match self.position(middle)?.cmp(&position) {
                std::cmp::Ordering::Less => versions.start = middle + 1,
                std::cmp::Ordering::Equal => return self.version(k, middle),
                std::cmp::Ordering::Greater => versions.end = middle,
            }
        }
        None
    }

    #[inline]
    pub(super) fn position(&self, v: usize) -> Option<Position> {
        let modified = self.block.modified.get(v)?.to_native();
        Some((Revision(modified), self.block.subs.get(v)?.to_native()))
    }

    /// The number of the version with `place` others of the block before it in the order of revisions.
    pub(super) fn ordered(&self, place: usize) -> Option<usize> {
        number(&self.block.order, place)
    }

    /// How many versions of the block are older than revision `from`.
    pub(super) fn older(&self, from: Revision) -> usize {
        let modified = |v: u32| self.block.modified.get(v as usize).map(|m| m.to_native());
        self.block.order.partition_point(|v| modified(v.to_native()) < Some(from.0))
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
            && block.keys.len() == keys
            && (block.firsts.len() == keys || block.firsts.is_empty() && versions == keys)
            && block.subs.len() == versions
            && block.records.len() == versions
            && block.order.len() == versions
            && block.live.len() == keys.div_ceil(64)
            && (keys == 1 || !block.goes_on && !block.continues)
            && number(&block.keys, 0)? == 0
            && self.first(0) == 0;
        let (first, last) = (self.key(0), self.last_key());
        let skip = block.skip.to_native() as usize;
        if !sized || skip != shared(first, last) || self.first_key != first {
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
            let next = if k + 1 < keys { number(&block.keys, k + 1)? } else { block.heap.len() };
            let whole = self.check_records(k, next)?;
            let live = block.live.get(k / 64)?.to_native() >> (k % 64) & 1 == 1;
            if live != (whole.live == 1) {
                return None;
            }
            tally.merge(&if block.goes_on { whole.part() } else { whole });
        }
        let spare = block.live.last()?.to_native().checked_shr((keys - 1) as u32 % 64 + 1);
        (spare.unwrap_or(0) == 0 && self.order_ascends()?).then_some(tally)
    }

    /// The tally of key number `k`, whose records end before `next`.
    fn check_records(&self, k: usize, next: usize) -> Option<Tally> {
        let numbers = self.versions_of(k);
        let mut end = number(&self.block.keys, k)?;
        let mut newest: Option<Position> = None;
        for v in numbers.clone() {
            let (start, position) = (number(&self.block.records, v)?, self.position(v)?);
            let version = self.version(k, v)?;
            let flags = *self.block.heap.get(start)?;
            let known = flags & !(TOMBSTONE | FIRST | LEASED) == 0;
            let lives = !version.is_tombstone() && version.version > 0 && version.create.0 > 0;
            let sound = if flags & TOMBSTONE == 0 { lives } else { flags == TOMBSTONE };
            let empty = flags & TOMBSTONE == 0 || version.value.is_empty();
            let leased = flags & LEASED == 0 || version.lease.is_some();
            if start < end || newest >= Some(position) || position.0.0 <= 0 {
                return None;
            }
            if !(known && sound && empty && leased) {
                return None;
            }
            (end, newest) = (start + 1, Some(position));
        }
        let versions = numbers.map_while(|v| self.version(k, v));
        (end <= next).then(|| Tally::of(self.key(k), versions))
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

/// An entry of a column of offsets or numbers.
#[inline]
fn number(column: &[rkyv::primitive::ArchivedU32], at: usize) -> Option<usize> {
    column.get(at).map(|n| n.to_native() as usize)
}
