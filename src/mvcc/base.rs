//! The base: the newest checkpoint of the whole node, mapped and read in place.
//!
//! Sorted blocks that never change, shared by all shards of all cores; a shard looks only at keys that it
//! owns. It knows neither how files are mapped nor what lies above it. A block is checked when it is
//! first touched; a bad one is an error to whoever touched it, and a fault that stays.

mod block;
mod cursor;
mod history;
mod row;
#[cfg(test)]
mod tests;

pub use cursor::{Cursor, KeyRef};
pub use history::{History, Merge};
pub use row::{BlockRef, Corrupt, Why};

pub(super) use block::{Block, Place, VERSION_COST, push_key, push_version, split_key, tops};
pub(super) use row::Tally;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::index::{hint, shared};
use super::version::{Position, VersionRef};
use crate::keys::{KeyRange, LeaseId, Revision};
use block::View;

/// One file of blocks, whoever mapped it.
pub type Mapped = Arc<dyn Image>;

/// The bytes of a file, which must never change.
pub trait Image: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// This part will be read now, from its begin to its end. What nobody announces is read in single
    /// places, with nothing of use beside them.
    fn will_read(&self, part: Range<usize>) {
        let _ = part;
    }
}

impl Image for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// States of a block; above [`BAD`] they say what is wrong.
const UNTOUCHED: u8 = 0;
const GOOD: u8 = 1;
const BAD: u8 = 2;

/// An immutable image of all keys with their versions up to one revision.
///
/// It costs some 200 bytes of memory and the first key for each block of 256 KiB, and what the kernel keeps
/// of the mapped files. Every method is O(log blocks + log keys of a block) unless it says more, and
/// checks the blocks that it is the first to touch, some 50 µs each.
///
/// # Errors
/// [`Corrupt`] from any method that looks into a block which is not what was written.
pub struct Base {
    at: Revision,
    blocks: Vec<BlockRef>,
    names: Names,
    /// For each block its file, in `files`.
    file_of: Vec<u32>,
    files: Vec<Mapped>,
    states: Vec<AtomicU8>,
    /// Live keys before each block; one more entry for all.
    live_before: Vec<u64>,
    keys: u64,
    versions: u64,
    bytes: u64,
    file_bytes: u64,
    fault: OnceLock<Corrupt>,
    bad_reads: AtomicU64,
}

/// The first keys of all blocks, by what follows the bytes that they share.
struct Names {
    skip: usize,
    hints: Vec<u32>,
}

const _: () = {
    const fn shared_by_cores<T: Send + Sync>() {}
    shared_by_cores::<Base>();
};

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base")
            .field("at", &self.at)
            .field("blocks", &self.blocks.len())
            .field("keys", &self.keys)
            .field("versions", &self.versions)
            .finish_non_exhaustive()
    }
}

impl Base {
    /// The image at revision `at` that these blocks make, in key order. O(blocks): none is touched.
    ///
    /// # Errors
    /// [`Corrupt`] if a file is missing or too short, or if the blocks are not in order.
    pub fn open(
        at: Revision,
        blocks: Vec<BlockRef>,
        files: BTreeMap<u64, Mapped>,
    ) -> Result<Base, Corrupt> {
        let numbers: Vec<u64> = files.keys().copied().collect();
        let files: Vec<Mapped> = files.into_values().collect();
        let mut base = Base {
            at,
            names: Names::of(&blocks),
            file_of: Vec::with_capacity(blocks.len()),
            states: blocks.iter().map(|_| AtomicU8::new(UNTOUCHED)).collect(),
            live_before: Vec::with_capacity(blocks.len() + 1),
            keys: 0,
            versions: 0,
            bytes: 0,
            file_bytes: 0,
            fault: OnceLock::new(),
            bad_reads: AtomicU64::new(0),
            files,
            blocks,
        };
        let mut live = 0;
        for (number, row) in base.blocks.iter().enumerate() {
            let place = numbers.binary_search(&row.file);
            let place = place.map_err(|_| corrupt(number, row, Why::Missing))?;
            let file_bytes = base.files[place].bytes().len() as u64;
            if row.offset.checked_add(u64::from(row.len)).is_none_or(|end| end > file_bytes) {
                return Err(corrupt(number, row, Why::Truncated));
            }
            if let Some(before) = number.checked_sub(1).map(|before| &base.blocks[before]) {
                let ascends = before.first_key < row.first_key;
                let goes_on = before.first_key == row.first_key && before.keys == 0;
                if !(if before.keys == 0 { goes_on } else { ascends }) {
                    return Err(corrupt(number, row, Why::OutOfOrder));
                }
            }
            base.file_of.push(place as u32);
            base.live_before.push(live);
            live += u64::from(row.live);
            base.keys += u64::from(row.keys);
            base.versions += u64::from(row.versions);
            base.bytes += row.bytes;
            base.file_bytes += u64::from(row.len);
        }
        base.live_before.push(live);
        match base.blocks.last() {
            Some(last) if last.keys == 0 => {
                Err(corrupt(base.blocks.len() - 1, last, Why::OutOfOrder))
            }
            _ => Ok(base),
        }
    }

    /// The revision of the image: it holds what was visible at it, and no version above it.
    #[must_use]
    pub fn at(&self) -> Revision {
        self.at
    }

    /// The rows of all blocks, in key order.
    #[must_use]
    pub fn blocks(&self) -> &[BlockRef] {
        &self.blocks
    }

    /// How many keys there are, also those whose newest version is a tombstone.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// How many keys have a value by their newest version.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.live_before.last().copied().unwrap_or(0)
    }

    /// How many versions there are, tombstones too.
    #[must_use]
    pub fn versions(&self) -> u64 {
        self.versions
    }

    /// Key and value bytes of all versions; a key counts with each of its versions.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of all blocks, without the gaps between them.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The first corrupt block that anyone touched. It stays.
    #[must_use]
    pub fn fault(&self) -> Option<Corrupt> {
        self.fault.get().cloned()
    }

    /// How often anyone was refused because of a corrupt block. Who sees it grow while he reads may have
    /// been refused himself.
    #[must_use]
    pub fn bad_reads(&self) -> u64 {
        self.bad_reads.load(Ordering::Relaxed)
    }

    /// Someone who read the file itself has found block `number` damaged: it is a fault like any other, but
    /// those who find it whole in memory may go on reading it.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn condemn(&self, number: usize) {
        let _ = self.fault.set(corrupt(number, &self.blocks[number], Why::Checksum));
        self.bad_reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Checks a block again, whatever is known of it: for whoever reads the whole image in the background.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn check_block(&self, number: usize) -> Result<(), Corrupt> {
        self.check(number).map(|_| ())
    }

    /// Checks every block that could hold a key of `range` and was not touched before.
    pub fn touch(&self, range: &KeyRange) -> Result<(), Corrupt> {
        self.blocks_of(range).try_for_each(|number| self.view(number).map(|_| ()))
    }

    /// Checks the block that holds the newest version of `key`, if it was not touched before.
    pub fn touch_key(&self, key: &[u8]) -> Result<(), Corrupt> {
        self.block_of(key).map_or(Ok(()), |number| self.view(number).map(|_| ()))
    }

    /// The newest version of `key`, a tombstone too.
    pub fn newest(&self, key: &[u8]) -> Result<Option<VersionRef<'_>>, Corrupt> {
        let Some(number) = self.block_of(key) else { return Ok(None) };
        let view = self.view(number)?;
        Ok(view.find(key).ok().and_then(|k| view.newest(k)))
    }

    /// The newest version of `key` that is not above `at`, a tombstone too.
    pub fn get_at(&self, key: &[u8], at: Revision) -> Result<Option<VersionRef<'_>>, Corrupt> {
        self.parts_of(key, |view, k| view.at(k, at))
    }

    /// The version of `key` at exactly `position`, a tombstone too.
    pub fn version_at(
        &self,
        key: &[u8],
        position: Position,
    ) -> Result<Option<VersionRef<'_>>, Corrupt> {
        self.parts_of(key, |view, k| view.version_at(k, position))
    }

    /// How many keys before `key` have a value by their newest version. Touches one block at most.
    pub fn rank(&self, key: &[u8]) -> Result<u64, Corrupt> {
        let Some(number) = self.block_of(key) else { return Ok(0) };
        let before = self.live_before[number];
        if self.blocks[number].first_key == key {
            return Ok(before);
        }
        let view = self.view(number)?;
        Ok(before + view.live_before(view.lower_bound(key)))
    }

    /// The key with `rank` keys before it, among those that have a value by their newest version.
    pub fn nth_live(&self, rank: u64) -> Result<Option<&[u8]>, Corrupt> {
        if rank >= self.live() {
            return Ok(None);
        }
        let number = self.live_before.partition_point(|before| *before <= rank) - 1;
        let view = self.view(number)?;
        Ok(view.nth_live(rank - self.live_before[number]).map(|k| view.key(k)))
    }

    /// The keys of `range` in order, each with all its versions.
    #[must_use]
    pub fn cursor(&self, range: &KeyRange) -> Cursor<'_> {
        Cursor::new(self, range)
    }

    /// The versions of keys in `ranges` with revisions `from` through `through`, in order of position,
    /// tombstones too. No two of the ranges may share a key.
    #[must_use]
    pub fn history<'a>(
        &'a self,
        ranges: &[KeyRange],
        from: Revision,
        through: Revision,
    ) -> History<'a> {
        History::new(self, Merge::new(self, ranges, from, through))
    }

    /// Goes on with what is left of a walk through this base.
    #[must_use]
    pub fn resume(&self, merge: Merge) -> History<'_> {
        History::new(self, merge)
    }

    /// Shows every key whose newest version binds it to a lease, in key order. Reads only the blocks that
    /// have such keys.
    pub fn leased(&self, visit: &mut dyn FnMut(&[u8], LeaseId)) -> Result<(), Corrupt> {
        for number in 0..self.blocks.len() {
            if self.blocks[number].leased == 0 {
                continue;
            }
            let view = self.view(number)?;
            for newest in (0..view.keys()).filter_map(|k| view.newest(k)) {
                if newest.lease.is_some() {
                    visit(newest.key, newest.lease);
                }
            }
        }
        Ok(())
    }

    /// A block to look into; it is checked if nobody touched it before.
    #[inline]
    fn view(&self, number: usize) -> Result<View<'_>, Corrupt> {
        // Nothing else was written with the state, so it orders nothing: who reads the old one checks again.
        match self.states[number].load(Ordering::Relaxed) {
            GOOD => Ok(View::trusted(self.bytes_of(number), &self.blocks[number])),
            UNTOUCHED => self.check(number),
            bad => {
                self.bad_reads.fetch_add(1, Ordering::Relaxed);
                let why = Why::from_state(bad).unwrap_or(Why::Content);
                Err(corrupt(number, &self.blocks[number], why))
            }
        }
    }

    #[cold]
    fn check(&self, number: usize) -> Result<View<'_>, Corrupt> {
        let row = &self.blocks[number];
        let until = self.blocks.get(number + 1).map(|next| next.first_key.as_slice());
        self.will_read(number);
        match View::check(self.bytes_of(number), row, until, self.at) {
            Ok(view) => {
                // What was bad once stays bad: readers have been told.
                let _ = self.states[number].compare_exchange(
                    UNTOUCHED,
                    GOOD,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                Ok(view)
            }
            Err(why) => {
                self.states[number].store(why.state(), Ordering::Relaxed);
                self.bad_reads.fetch_add(1, Ordering::Relaxed);
                let corrupt = corrupt(number, row, why);
                let _ = self.fault.set(corrupt.clone());
                Err(corrupt)
            }
        }
    }

    /// Announces that all of a block will be read.
    fn will_read(&self, number: usize) {
        self.files[self.file_of[number] as usize].will_read(self.blocks[number].part());
    }

    fn bytes_of(&self, number: usize) -> &[u8] {
        let row = &self.blocks[number];
        let file = self.files[self.file_of[number] as usize].bytes();
        // `open` saw that it lies inside; a file that is shorter now has a bad block here.
        file.get(row.part()).unwrap_or_default()
    }

    /// The block that holds the newest version of `key`, if any does.
    #[inline]
    fn block_of(&self, key: &[u8]) -> Option<usize> {
        self.names.upper_bound(key, &self.blocks).checked_sub(1)
    }

    /// The blocks that could hold a key of `range`.
    fn blocks_of(&self, range: &KeyRange) -> std::ops::Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        let mut first = self.block_of(&range.start).unwrap_or(0);
        while self.continues(first) {
            first -= 1;
        }
        let end = range.end.as_deref();
        first..end.map_or(self.blocks.len(), |end| {
            self.blocks.partition_point(|row| row.first_key.as_slice() < end)
        })
    }

    /// Whether the block only goes on with the key of the one before.
    fn continues(&self, number: usize) -> bool {
        number.checked_sub(1).is_some_and(|before| self.blocks[before].keys == 0)
    }

    /// What `find` finds of `key` in the newest of the blocks that hold its versions where it finds anything.
    fn parts_of<'a>(
        &'a self,
        key: &[u8],
        find: impl Fn(View<'a>, usize) -> Option<VersionRef<'a>>,
    ) -> Result<Option<VersionRef<'a>>, Corrupt> {
        let Some(mut number) = self.block_of(key) else { return Ok(None) };
        loop {
            let view = self.view(number)?;
            let Ok(k) = view.find(key) else { return Ok(None) };
            let found = find(view, k);
            if found.is_some() || !self.continues(number) {
                return Ok(found);
            }
            number -= 1;
        }
    }
}

impl Names {
    fn of(blocks: &[BlockRef]) -> Names {
        let skip = match (blocks.first(), blocks.last()) {
            (Some(first), Some(last)) => shared(&first.first_key, &last.first_key),
            _ => 0,
        };
        // Rows out of order may have keys without the shared bytes; they are refused later.
        let hints = blocks.iter().map(|row| hint(row.first_key.get(skip..).unwrap_or(&[]), 0));
        Names { skip, hints: hints.collect() }
    }

    /// How many blocks begin with a key that is not behind `key`.
    #[inline]
    fn upper_bound(&self, key: &[u8], blocks: &[BlockRef]) -> usize {
        let Some(first) = blocks.first() else { return 0 };
        let compared = self.skip.min(key.len());
        match key[..compared].cmp(&first.first_key[..compared]) {
            std::cmp::Ordering::Less => return 0,
            std::cmp::Ordering::Greater => return blocks.len(),
            std::cmp::Ordering::Equal if compared < self.skip => return 0,
            std::cmp::Ordering::Equal => {}
        }
        let wanted = hint(key, self.skip);
        let low = self.hints.partition_point(|hint| *hint < wanted);
        let same = self.hints[low..].partition_point(|hint| *hint == wanted);
        low + blocks[low..low + same].partition_point(|row| row.first_key.as_slice() <= key)
    }
}

fn corrupt(block: usize, row: &BlockRef, why: Why) -> Corrupt {
    Corrupt { file: row.file, block, offset: row.offset, why }
}
