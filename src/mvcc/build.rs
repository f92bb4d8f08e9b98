//! Making the blocks of a checkpoint: from sorted keys, from layers of memory and an older base.
//!
//! It decides where blocks begin and end, what a compaction leaves out, and which blocks of the older base
//! stay as they are. It knows neither files nor what else a checkpoint holds; whoever calls it may take as
//! long as it likes, since nothing that it reads can change.

mod memory;
mod merge;
#[cfg(test)]
mod tests;

pub use memory::Memory;
#[cfg(test)]
pub(super) use merge::feed;
pub use merge::{Error, Sorted, image};

use rkyv::rancor::Failure;

use super::base::{
    Block, BlockRef, Place, Tally, VERSION_COST, push_key, push_version, split_key, tops,
};
use super::index::{hint, shared};
use super::version::VersionRef;
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
    versions: Vec<Place>,
    heap: Vec<u8>,
    /// Bytes that the keys will take.
    size: usize,
}

struct OpenKey {
    /// Number of its first version.
    first: usize,
    /// Bytes that it will take.
    size: usize,
    /// Whether the newest version gives it a value.
    live: bool,
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
        let bytes: usize = versions.iter().map(bytes_at_most).sum();
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
        if self.rows.last().is_none_or(|row| row.keys != 0) {
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
                bytes += bytes_at_most(version);
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
        let block = self.open.block(count, ties);
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
fn bytes_at_most(version: &VersionRef<'_>) -> usize {
    VERSION_COST + version.value.len()
}

impl Open {
    fn push(&mut self, key: &[u8], versions: &[VersionRef<'_>]) {
        let (start, first) = (self.heap.len(), self.versions.len());
        for (number, version) in versions.iter().enumerate() {
            let at = u32::try_from(self.heap.len()).expect("the keys of two blocks");
            self.versions.push(Place { modified: version.modified.0, sub: version.sub, at });
            if number == 0 {
                push_key(key, &mut self.heap);
            }
            push_version(version, &mut self.heap);
        }
        // The hint, then for each version its place and its number in the order.
        let size = 4 + versions.len() * (size_of::<Place>() + 4) + self.heap.len() - start;
        let tally = Tally::of(key, versions.iter().copied());
        self.keys.push(OpenKey { first, size, live: tally.live == 1, tally });
        self.size += size;
    }

    fn key(&self, k: usize) -> &[u8] {
        let start = self.versions[self.keys[k].first].at as usize;
        split_key(&self.heap[start..]).expect("an entry begins with its key").0
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

    /// How many versions the first `count` keys have, and how much of the heap they take.
    fn ends(&self, count: usize) -> (usize, usize) {
        match self.keys.get(count) {
            Some(next) => (next.first, self.versions[next.first].at as usize),
            None => (self.versions.len(), self.heap.len()),
        }
    }

    /// A block of the first `count` keys.
    fn block(&self, count: usize, ties: Ties) -> Block {
        let (versions, heap) = self.ends(count);
        let (keys, places) = (&self.keys[..count], &self.versions[..versions]);
        let skip = shared(self.key(0), self.key(count - 1));
        let hints: Vec<u32> = (0..count).map(|k| hint(self.key(k), skip)).collect();
        let mut live = vec![0; count.div_ceil(64)];
        for (k, key) in keys.iter().enumerate() {
            live[k / 64] |= u64::from(key.live) << (k % 64);
        }
        let mut order: Vec<u32> = (0..versions as u32).collect();
        order.sort_unstable_by_key(|v| (places[*v as usize].modified, places[*v as usize].sub));
        let alone = count == versions;
        Block {
            heap: self.heap[..heap].to_vec(),
            order,
            live,
            firsts: if alone { Vec::new() } else { keys.iter().map(|k| k.first as u32).collect() },
            places: places.to_vec(),
            tops: tops(&hints),
            hints,
            skip: skip as u32,
            goes_on: ties.goes_on,
            continues: ties.continues,
        }
    }

    fn drain(&mut self, count: usize) {
        let (versions, heap) = self.ends(count);
        self.size -= self.keys.drain(..count).map(|key| key.size).sum::<usize>();
        self.versions.drain(..versions);
        self.heap.drain(..heap);
        self.keys.iter_mut().for_each(|key| key.first -= versions);
        self.versions.iter_mut().for_each(|version| version.at -= heap as u32);
    }
}
