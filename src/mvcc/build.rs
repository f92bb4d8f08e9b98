//! Making the blocks of a checkpoint: from sorted keys, from layers of memory and an older base.
//!
//! It decides where blocks begin and end, what a compaction leaves out, and which blocks of the older base
//! stay as they are. It knows neither files nor what else a checkpoint holds; whoever calls it may take as
//! long as it likes, since nothing that it reads can change.

mod merge;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use merge::feed;
pub use merge::{Error, Sorted, image};

use std::ops::Range;

use rkyv::rancor::Failure;

use super::base::{Block, BlockRef, KEY_COST, Tally, VERSION_COST, is_live_record, push_record};
use super::index::{hint, shared};
use super::version::{Position, VersionRef};
use crate::keys::Revision;

/// About how large a block is: small enough to be checked in a few dozen microseconds when it is first touched,
/// large enough that a row for each costs little.
const BLOCK_BYTES: usize = 256 << 10;
/// Versions of one key that take more than this get several blocks: offsets in a block have 32 bits.
const PART_BYTES: usize = 64 << 20;

/// Where finished blocks go. They come in key order.
pub trait Sink {
    /// Why a block could not be kept.
    type Error: std::error::Error + 'static;

    /// Keeps a block and returns the number of its file and where it begins in it, in bytes.
    fn block(&mut self, bytes: &[u8]) -> Result<(u64, u64), Self::Error>;
}

/// Makes blocks of keys that come in ascending order.
///
/// Blocks are about 256 KiB, between 160 and 320 KiB where enough keys stand together, and larger where
/// one key is. A key's versions are in one block, unless they take more than 64 MiB.
pub struct Builder<'s, S> {
    sink: &'s mut S,
    compacted: Revision,
    sizes: Sizes,
    open: Open,
    rows: Vec<BlockRef>,
    /// The last key added or reused.
    last: Option<Vec<u8>>,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) block: usize,
    pub(super) part: usize,
}

/// Keys that are in no block yet, in the columns of one.
#[derive(Default)]
struct Open {
    keys: Vec<OpenKey>,
    modified: Vec<i64>,
    subs: Vec<u32>,
    /// Where each version's record begins in `heap`.
    records: Vec<usize>,
    heap: Vec<u8>,
    /// Bytes that the keys will take.
    size: usize,
}

struct OpenKey {
    /// Where the key stands in `heap`.
    start: usize,
    /// Number of its first version.
    first: usize,
    /// Bytes that it will take.
    size: usize,
    tally: Tally,
}

/// How a block is tied to its neighbours.
#[derive(Clone, Copy, Default)]
struct Ties {
    continues: bool,
    goes_on: bool,
}

impl<'s, S: Sink> Builder<'s, S> {
    /// A builder that leaves out what nobody may read after a compaction at `compacted`.
    pub fn new(sink: &'s mut S, compacted: Revision) -> Builder<'s, S> {
        Builder::with_sizes(sink, compacted, Sizes { block: BLOCK_BYTES, part: PART_BYTES })
    }

    pub(super) fn with_sizes(sink: &'s mut S, compacted: Revision, sizes: Sizes) -> Builder<'s, S> {
        let (open, rows) = (Open::default(), Vec::new());
        Builder { sink, compacted, sizes, open, rows, last: None, scratch: Vec::new() }
    }

    /// Adds a key with its versions, the oldest first. A key of which nothing stays is left out.
    ///
    /// # Errors
    /// Those of the sink.
    ///
    /// # Panics
    /// If the key is not behind the one before, or the versions do not ascend.
    pub fn add(&mut self, key: &[u8], versions: &[VersionRef<'_>]) -> Result<(), S::Error> {
        let ascend = versions.windows(2).all(|two| two[0].position() < two[1].position());
        assert!(ascend, "versions of a key ascend");
        self.step_to(key);
        let versions = kept(versions, self.compacted);
        if versions.is_empty() {
            return Ok(());
        }
        let bytes: usize = versions.iter().map(record_bytes).sum();
        if bytes > self.sizes.part && versions.len() > 1 {
            return self.add_parts(key, versions);
        }
        self.open.push(key, versions);
        while self.open.size >= 2 * self.sizes.block {
            self.emit(self.open.cut(self.sizes.block, self.sizes.block / 4), Ties::default())?;
        }
        Ok(())
    }

    /// Goes on with a block of an older image, which stays where it is.
    ///
    /// # Errors
    /// Those of the sink, which gets what was added before.
    ///
    /// # Panics
    /// If the block does not begin behind the key before.
    pub fn reuse(&mut self, block: BlockRef) -> Result<(), S::Error> {
        self.flush()?;
        if !self.rows.last().is_some_and(|row| row.keys == 0) {
            self.step_to(&block.first_key);
        }
        self.rows.push(block);
        Ok(())
    }

    /// Whether what would be the next block is so small that it should not stand alone.
    pub(super) fn is_small(&self) -> bool {
        self.open.size > 0 && self.open.size < self.sizes.block / 4
    }

    /// Makes the last block and returns the rows of all, in key order.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(mut self) -> Result<Vec<BlockRef>, S::Error> {
        self.flush()?;
        Ok(self.rows)
    }

    fn step_to(&mut self, key: &[u8]) {
        let ascends = self.last.as_deref().is_none_or(|last| last < key);
        assert!(ascends, "{:?} after {:?}: keys ascend", key.escape_ascii(), self.last);
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
    }

    fn flush(&mut self) -> Result<(), S::Error> {
        let block = self.sizes.block;
        while self.open.size > 0 {
            // What is a little too much for one block makes two halves rather than a whole one and a crumb.
            let one = self.open.size <= block + block / 4;
            let limit = if one { self.open.size } else { block.min(self.open.size / 2) };
            self.emit(self.open.cut(limit, block / 4), Ties::default())?;
        }
        Ok(())
    }

    /// Gives a key blocks of its own, several of them.
    fn add_parts(&mut self, key: &[u8], versions: &[VersionRef<'_>]) -> Result<(), S::Error> {
        self.flush()?;
        let garbage_from = Tally::of(key, versions.iter().copied()).garbage_from;
        let mut left = versions;
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = left.iter().take_while(|version| {
                bytes += record_bytes(version);
                bytes <= self.sizes.part
            });
            let (part, rest) = left.split_at(fits.count().max(1));
            let ties = Ties { continues: left.len() < versions.len(), goes_on: !rest.is_empty() };
            self.open.push(key, part);
            let tally = &mut self.open.keys[0].tally;
            *tally = if ties.goes_on { tally.part() } else { *tally };
            tally.garbage_from = garbage_from;
            self.emit(1, ties)?;
            left = rest;
        }
        Ok(())
    }

    /// Makes a block of the first `count` keys.
    fn emit(&mut self, count: usize, ties: Ties) -> Result<(), S::Error> {
        let block = self.open.block(0..count, ties);
        let mut tally = Tally::default();
        self.open.keys[..count].iter().for_each(|key| tally.merge(&key.tally));
        let first_key = self.open.key(0).to_vec();
        self.open.drain(count);
        self.scratch.clear();
        let bytes =
            rkyv::api::high::to_bytes_in::<_, Failure>(&block, std::mem::take(&mut self.scratch))
                .expect("a block is far below the 2 GiB that an archive can be");
        let (file, offset) = self.sink.block(&bytes)?;
        self.rows.push(BlockRef {
            file,
            offset,
            len: u32::try_from(bytes.len()).expect("a block is far below 4 GiB"),
            crc: crc32c::crc32c(&bytes),
            first_key,
            keys: tally.keys,
            live: tally.live,
            versions: tally.versions,
            leased: tally.leased,
            bytes: tally.bytes,
            oldest: tally.oldest,
            newest: tally.newest,
            garbage_from: tally.garbage_from,
        });
        self.scratch = bytes;
        Ok(())
    }
}

/// The versions of a key that stay after a compaction at `compacted`: what it wrote itself whole, a
/// watcher may begin there; of older ones the newest, if it is live and nothing at it follows.
fn kept<'v, 'a>(versions: &'v [VersionRef<'a>], compacted: Revision) -> &'v [VersionRef<'a>] {
    let older = versions.partition_point(|version| version.modified < compacted);
    let superseded = versions.get(older).is_some_and(|next| next.modified == compacted);
    match versions[..older].last() {
        Some(newest) if !newest.is_tombstone() && !superseded => &versions[older - 1..],
        _ => &versions[older..],
    }
}

/// What a version takes at most, without its key.
fn record_bytes(version: &VersionRef<'_>) -> usize {
    VERSION_COST + 25 + version.value.len()
}

impl Open {
    fn push(&mut self, key: &[u8], versions: &[VersionRef<'_>]) {
        let (start, first) = (self.heap.len(), self.modified.len());
        self.heap.extend_from_slice(key);
        for version in versions {
            self.modified.push(version.modified.0);
            self.subs.push(version.sub);
            self.records.push(self.heap.len());
            push_record(version, &mut self.heap);
        }
        let size = KEY_COST + versions.len() * VERSION_COST + self.heap.len() - start;
        let tally = Tally::of(key, versions.iter().copied());
        self.keys.push(OpenKey { start, first, size, tally });
        self.size += size;
    }

    fn key(&self, k: usize) -> &[u8] {
        let key = &self.keys[k];
        &self.heap[key.start..self.records[key.first]]
    }

    /// How many keys make a block of at most `limit` bytes, or one that is not below `least`.
    fn cut(&self, limit: usize, least: usize) -> usize {
        let (mut count, mut size) = (0, 0);
        for key in &self.keys {
            if count > 0 && size >= least && size + key.size > limit {
                break;
            }
            count += 1;
            size += key.size;
        }
        count
    }

    /// The numbers of the versions of the keys `keys`, and their part of the heap.
    fn bounds(&self, keys: &Range<usize>) -> (Range<usize>, Range<usize>) {
        let end = self.keys.get(keys.end);
        let versions = self.keys[keys.start].first..end.map_or(self.modified.len(), |k| k.first);
        let heap = self.keys[keys.start].start..end.map_or(self.heap.len(), |k| k.start);
        (versions, heap)
    }

    fn block(&self, keys: Range<usize>, ties: Ties) -> Block {
        let (versions, heap) = self.bounds(&keys);
        let offset = |at: usize| u32::try_from(at - heap.start).expect("far below 4 GiB");
        let skip = shared(self.key(keys.start), self.key(keys.end - 1));
        let mut live = vec![0; keys.len().div_ceil(64)];
        for (k, key) in self.keys[keys.clone()].iter().enumerate() {
            let last = self.keys.get(keys.start + k + 1).map_or(self.modified.len(), |k| k.first);
            debug_assert!(last > key.first, "a key has a version");
            live[k / 64] |= u64::from(self.is_live(last - 1)) << (k % 64);
        }
        let position = |v: u32| -> Position {
            let v = versions.start + v as usize;
            (Revision(self.modified[v]), self.subs[v])
        };
        let mut order: Vec<u32> = (0..versions.len() as u32).collect();
        order.sort_unstable_by_key(|v| position(*v));
        let firsts = self.keys[keys.clone()].iter().map(|k| (k.first - versions.start) as u32);
        Block {
            heap: self.heap[heap.clone()].to_vec(),
            order,
            live,
            subs: self.subs[versions.clone()].to_vec(),
            modified: self.modified[versions.clone()].to_vec(),
            firsts: if keys.len() == versions.len() { Vec::new() } else { firsts.collect() },
            records: self.records[versions].iter().map(|at| offset(*at)).collect(),
            keys: self.keys[keys.clone()].iter().map(|k| offset(k.start)).collect(),
            hints: keys.map(|k| hint(self.key(k), skip)).collect(),
            skip: skip as u32,
            goes_on: ties.goes_on,
            continues: ties.continues,
        }
    }

    fn is_live(&self, v: usize) -> bool {
        is_live_record(&self.heap[self.records[v]..])
    }

    fn drain(&mut self, count: usize) {
        let (versions, heap) = self.bounds(&(0..count));
        let size: usize = self.keys.drain(..count).map(|key| key.size).sum();
        self.size -= size;
        self.modified.drain(..versions.end);
        self.subs.drain(..versions.end);
        self.records.drain(..versions.end);
        self.heap.drain(..heap.end);
        for key in &mut self.keys {
            key.start -= heap.end;
            key.first -= versions.end;
        }
        self.records.iter_mut().for_each(|at| *at -= heap.end);
    }
}
