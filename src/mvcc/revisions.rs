//! The revision index: every version's place in the global order, and the slot of its key.
//!
//! Knows positions and slot numbers; not keys, values or what is visible.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::slots::SlotId;
use super::version::Position;
use crate::keys::Revision;

/// Most entries a chunk, 16 bytes each. Removing from the middle moves at most 2 KiB.
const CHUNK_MAX: usize = 128;
/// A chunk with fewer is joined to a neighbour, if the two fit [`CHUNK_JOINED_MAX`].
const CHUNK_MIN: usize = 32;
/// Leaves room, so that a joined chunk does not split at the next insert.
const CHUNK_JOINED_MAX: usize = 96;

/// Positions in ascending order, in sorted chunks.
///
/// Nearly all inserts come at or near the end, so chunks are full and an entry costs 17 bytes, where
/// a `BTreeMap` of positions would take twice that. Insert, remove and seek are O(log n).
pub(super) struct Revisions {
    /// Each chunk under a position that is not above its first and above all of the chunk before.
    chunks: BTreeMap<Position, Vec<Entry>>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    revision: Revision,
    sub: u32,
    slot: SlotId,
}

const _: () = assert!(size_of::<Entry>() == 16);

impl Entry {
    fn position(&self) -> Position {
        (self.revision, self.sub)
    }
}

impl Revisions {
    pub(super) fn new() -> Revisions {
        Revisions { chunks: BTreeMap::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a version. Each position is held once.
    pub(super) fn insert(&mut self, position: Position, slot: SlotId) {
        self.len += 1;
        let entry = Entry { revision: position.0, sub: position.1, slot };
        // Nearly always; a search over the names costs more than all the rest.
        if let Some(mut last) = self.chunks.last_entry()
            && last.get().len() < CHUNK_MAX
            && last.get().last().is_some_and(|newest| newest.position() < position)
        {
            last.get_mut().push(entry);
            return;
        }
        let Some((_, chunk)) = self.chunks.range_mut(..=position).next_back() else {
            return self.insert_first(entry);
        };
        let at = chunk.partition_point(|e| e.position() < position);
        assert!(
            chunk.get(at).is_none_or(|e| e.position() != position),
            "position {position:?} was given out twice"
        );
        if chunk.len() < CHUNK_MAX {
            chunk.insert(at, entry);
        } else if at == chunk.len() {
            self.new_chunk(vec![entry]);
        } else {
            let mut upper = chunk.split_off(CHUNK_MAX / 2);
            if at <= chunk.len() {
                chunk.insert(at, entry);
            } else {
                upper.insert(at - chunk.len(), entry);
            }
            self.new_chunk(upper);
        }
    }

    /// Takes a version out.
    pub(super) fn remove(&mut self, position: Position) {
        let (&name, chunk) =
            self.chunks.range_mut(..=position).next_back().expect("a held position");
        let at = chunk.partition_point(|e| e.position() < position);
        assert_eq!(chunk.get(at).map(Entry::position), Some(position), "a held position");
        chunk.remove(at);
        self.len -= 1;
        let left = chunk.len();
        if left < CHUNK_MIN {
            self.join(name, left);
        }
    }

    /// Takes out what `stays` does not say of, asked in order.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(Position, SlotId) -> bool) {
        self.chunks.retain(|_, chunk| {
            chunk.retain(|entry| stays(entry.position(), entry.slot));
            !chunk.is_empty()
        });
        self.len = self.chunks.values().map(Vec::len).sum();
    }

    /// Adds many versions, in any order: if they are few O(log n) for each, else O(n) for all together.
    pub(super) fn extend(&mut self, mut came: Vec<(Position, SlotId)>) {
        came.sort_unstable_by_key(|(position, _)| *position);
        let mut came = came.into_iter().peekable();
        if came.len() > self.len / 16 {
            let all = std::mem::replace(self, Revisions::new());
            for entry in all.chunks.into_values().flatten() {
                while let Some((position, slot)) = came.next_if(|(at, _)| *at < entry.position()) {
                    self.insert(position, slot);
                }
                self.insert(entry.position(), entry.slot);
            }
        }
        came.for_each(|(position, slot)| self.insert(position, slot));
    }

    pub(super) fn last(&self) -> Option<(Position, SlotId)> {
        let (_, chunk) = self.chunks.last_key_value()?;
        chunk.last().map(|e| (e.position(), e.slot))
    }

    /// Memory of the index: chunks are full where writes come in order.
    pub(super) fn bytes(&self) -> usize {
        // A name and a `Vec` in the map, whose nodes are two thirds full or better.
        let per_chunk = CHUNK_MAX * size_of::<Entry>() + 16 + 60;
        self.chunks.len() * per_chunk
    }

    /// How many versions there are from `from` through `through`, counted by chunks: too many by
    /// those of the two chunks at the ends, and no further than `enough`.
    pub(super) fn about(&self, from: Position, through: Revision, enough: usize) -> usize {
        let name = self.chunks.range(..=from).next_back().map_or(from, |(name, _)| *name);
        let mut count = 0;
        for (name, chunk) in self.chunks.range(name..) {
            if name.0 > through || count >= enough {
                break;
            }
            count += chunk.len();
        }
        count
    }

    /// The versions from `from` on, ascending.
    pub(super) fn from(&self, from: Position) -> impl Iterator<Item = (Position, SlotId)> {
        let name = self.chunks.range(..=from).next_back().map_or(from, |(name, _)| *name);
        let mut skip = true;
        self.chunks.range(name..).flat_map(move |(_, chunk)| {
            let first = if skip { chunk.partition_point(|e| e.position() < from) } else { 0 };
            // Only the chunk that `from` falls into can begin below it.
            skip = false;
            chunk[first..].iter().map(|e| (e.position(), e.slot))
        })
    }

    /// The versions of the revisions above `above` up to `through`, ascending.
    pub(super) fn between(
        &self,
        above: Revision,
        through: Revision,
    ) -> impl Iterator<Item = (Position, SlotId)> {
        self.from((Revision(above.0.saturating_add(1)), 0))
            .take_while(move |(position, _)| position.0 > above && position.0 <= through)
    }

    fn insert_first(&mut self, entry: Entry) {
        // Below every chunk: the first one takes it under a new name, if it has room.
        match self.chunks.first_key_value() {
            Some((_, chunk)) if chunk.len() < CHUNK_MAX => {
                let (_, mut chunk) = self.chunks.pop_first().expect("just seen");
                chunk.insert(0, entry);
                self.chunks.insert(entry.position(), chunk);
            }
            _ => self.new_chunk(vec![entry]),
        }
    }

    fn new_chunk(&mut self, entries: Vec<Entry>) {
        let name = entries.first().expect("a chunk has entries").position();
        self.chunks.insert(name, entries);
    }

    /// Joins a chunk that became small to a neighbour, or drops it when it is empty.
    fn join(&mut self, name: Position, len: usize) {
        if len == 0 {
            self.chunks.remove(&name);
            return;
        }
        let room = CHUNK_JOINED_MAX - len;
        let above = self.chunks.range((Bound::Excluded(name), Bound::Unbounded)).next();
        if let Some((&above, chunk)) = above
            && chunk.len() <= room
        {
            let upper = self.chunks.remove(&above).expect("just seen");
            self.chunks.get_mut(&name).expect("the small chunk").extend(upper);
            return;
        }
        let below = self.chunks.range(..name).next_back();
        if let Some((&below, chunk)) = below
            && chunk.len() <= room
        {
            let upper = self.chunks.remove(&name).expect("the small chunk");
            self.chunks.get_mut(&below).expect("just seen").extend(upper);
        } else {
            self.chunks.get_mut(&name).expect("the small chunk").shrink_to(CHUNK_MIN);
        }
    }
}
