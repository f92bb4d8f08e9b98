//! The image of a node: what its layers of memory hold, merged with the base beneath them.
//!
//! Reads a base only where something changes. Knows no shards but as layers that share no key.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::super::base::{Base, BlockRef, Corrupt};
use super::super::layer::Layer;
use super::super::version::VersionRef;
use super::{Builder, Sink};
use crate::keys::{KeyRange, Revision};

/// Keys that are read from a layer at once.
const BATCH_KEYS: usize = 256;

/// Something that holds keys in order, each with its versions.
pub trait Sorted {
    /// Adds all versions of up to `most` keys to `out`, those of the first keys not before `from`: keys in
    /// order, the versions of each ascending. Adds nothing when there are no more keys.
    fn read<'a>(&'a self, from: &[u8], most: usize, out: &mut Vec<VersionRef<'a>>);
}

impl Sorted for Layer {
    fn read<'a>(&'a self, from: &[u8], most: usize, out: &mut Vec<VersionRef<'a>>) {
        let mut slots = Vec::with_capacity(most);
        self.visit(&KeyRange { start: from.to_vec(), end: None }, false, &mut |slot, _| {
            slots.push(slot);
            slots.len() < most
        });
        for slot in slots {
            let entry = self.slots.get(slot);
            let versions = (0..).map_while(|at| entry.versions.get(at));
            out.extend(versions.map(|version| version.view(entry.key())));
        }
    }
}

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error<E: std::error::Error + 'static> {
    /// A block could not be kept.
    #[error("cannot keep a block")]
    Sink(#[source] E),
    /// A block of the older base that has to be read is not what was written.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// Makes the blocks of everything that `layers` and `base` hold, less what nobody may read after a
/// compaction at `compacted`, and returns their rows in key order.
///
/// The layers share no key with each other; what a layer has of a key is newer than what the base has.
/// Blocks of the base that no key of a layer falls into and that the compaction changes nothing in are
/// neither read nor written, except to join a small one to its neighbour.
///
/// # Errors
/// Those of the sink, and [`Error::Corrupt`] when a block that must be rewritten is damaged. What the sink
/// got is worth nothing then.
pub fn image<S: Sink, L: Sorted + ?Sized>(
    sink: &mut S,
    base: Option<&Base>,
    layers: &[&L],
    compacted: Revision,
) -> Result<Vec<BlockRef>, Error<S::Error>> {
    feed(Builder::new(sink, compacted), base, layers, compacted)
}

pub(in crate::mvcc) fn feed<S: Sink, L: Sorted + ?Sized>(
    mut builder: Builder<'_, S>,
    base: Option<&Base>,
    layers: &[&L],
    compacted: Revision,
) -> Result<Vec<BlockRef>, Error<S::Error>> {
    let mut merge = Merge::new(layers);
    if let Some(base) = base {
        let mut next = 0;
        while next < base.blocks().len() {
            let left = &base.blocks()[next..];
            // The blocks of a key that has several are one thing.
            let whole = left.iter().take_while(|row| row.keys == 0).count() + 1;
            let (blocks, rest) = left.split_at(whole);
            let until = rest.first().map(|next| next.first_key.as_slice());
            let changes = merge.key().is_some_and(|key| until.is_none_or(|until| key < until))
                || blocks.iter().any(|row| row.garbage_from <= compacted);
            if changes || builder.is_small() {
                // Also what was whole once: bytes that rotted since must not get a fresh checksum.
                (next..next + whole).try_for_each(|number| base.check_block(number))?;
                let start = blocks[0].first_key.clone();
                let range = KeyRange { start, end: until.map(<[u8]>::to_vec) };
                rewrite(&mut builder, base, &range, &mut merge)?;
            } else {
                for block in blocks {
                    builder.reuse(block.clone()).map_err(Error::Sink)?;
                }
            }
            next += whole;
        }
    }
    let mut versions = Vec::new();
    while let Some(key) = merge.next(&mut versions) {
        builder.add(key, &versions).map_err(Error::Sink)?;
        versions.clear();
    }
    builder.finish().map_err(Error::Sink)
}

/// Adds what the base has in `range` and what the layers have before its end.
fn rewrite<'a, S: Sink, L: Sorted + ?Sized>(
    builder: &mut Builder<'_, S>,
    base: &'a Base,
    range: &KeyRange,
    merge: &mut Merge<'a, L>,
) -> Result<(), Error<S::Error>> {
    let mut cursor = base.cursor(range);
    let mut versions: Vec<VersionRef<'a>> = Vec::new();
    loop {
        let below = cursor.peek()?.map(|below| (below.key(), below));
        let above = merge.key().filter(|key| range.end.as_deref().is_none_or(|end| *key < end));
        let key = match (below, above) {
            (None, None) => return Ok(()),
            (Some((below, _)), Some(above)) => below.min(above),
            (Some((below, _)), None) => below,
            (None, Some(above)) => above,
        };
        if let Some((_, below)) = below.filter(|(below, _)| *below == key) {
            versions.extend(below.versions());
            cursor.advance();
        }
        if above == Some(key) {
            merge.next(&mut versions);
        }
        builder.add(key, &versions).map_err(Error::Sink)?;
        versions.clear();
    }
}

/// The keys of all layers in order.
struct Merge<'a, L: ?Sized> {
    sources: Vec<Source<'a, L>>,
    /// Each source's next key.
    next: BinaryHeap<Reverse<(&'a [u8], usize)>>,
}

struct Source<'a, L: ?Sized> {
    layer: &'a L,
    batch: Vec<VersionRef<'a>>,
    /// The first version in the batch that was not taken.
    at: usize,
}

impl<'a, L: Sorted + ?Sized> Merge<'a, L> {
    fn new(layers: &[&'a L]) -> Merge<'a, L> {
        let mut merge = Merge { sources: Vec::new(), next: BinaryHeap::new() };
        for (number, layer) in layers.iter().enumerate() {
            let mut source = Source { layer: *layer, batch: Vec::new(), at: 0 };
            source.layer.read(&[], BATCH_KEYS, &mut source.batch);
            merge.next.extend(source.key().map(|key| Reverse((key, number))));
            merge.sources.push(source);
        }
        merge
    }

    fn key(&self) -> Option<&'a [u8]> {
        self.next.peek().map(|Reverse((key, _))| *key)
    }

    /// Takes the next key and adds its versions.
    fn next(&mut self, versions: &mut Vec<VersionRef<'a>>) -> Option<&'a [u8]> {
        let Reverse((key, number)) = self.next.pop()?;
        let source = &mut self.sources[number];
        source.take(key, versions);
        self.next.extend(source.key().map(|key| Reverse((key, number))));
        Some(key)
    }
}

impl<'a, L: Sorted + ?Sized> Source<'a, L> {
    fn key(&self) -> Option<&'a [u8]> {
        self.batch.get(self.at).map(|version| version.key)
    }

    fn take(&mut self, key: &[u8], versions: &mut Vec<VersionRef<'a>>) {
        let own = self.batch[self.at..].iter().take_while(|version| version.key == key);
        let own = own.count();
        versions.extend_from_slice(&self.batch[self.at..self.at + own]);
        self.at += own;
        if self.at == self.batch.len() {
            // The first key behind this one is it with a zero byte more.
            let from = [key, &[0]].concat();
            self.batch.clear();
            self.at = 0;
            self.layer.read(&from, BATCH_KEYS, &mut self.batch);
        }
    }
}
