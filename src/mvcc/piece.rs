//! Keys on their way from one shard to another, with all their versions, in bounded pieces.
//!
//! Knows neither the shards nor how pieces travel; nobody reads the keys meanwhile.

use std::fmt;

use super::Store;
use super::layer::Beneath;
use super::slots::Entry;
use crate::keys::KeyRange;

/// Keys that left one store and are in no other yet.
///
/// A key with a long history may take several pieces, oldest versions first; each must be imported in
/// the order in which it was exported.
pub struct Piece {
    parts: Vec<Part>,
    bytes: usize,
}

struct Part {
    entry: Entry,
    /// What the key has in the base, which is where it was: all shards of a node share it.
    beneath: Beneath,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece")
            .field("keys", &self.parts.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Piece {
    /// Whether nothing is in it: the range had no more keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Memory of the versions in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

const _: () = {
    const fn travels<T: Send>() {}
    travels::<Piece>();
};

impl Store {
    /// Takes keys of `range` out, from its first on, with all their versions: some `max_bytes` of
    /// them and one version more at most. Call it again until the range has no
    /// [first key](Store::first_key). O(log n) a version.
    pub fn export(&mut self, range: &KeyRange, max_bytes: usize) -> Piece {
        let mut piece = Piece { parts: Vec::new(), bytes: 0 };
        while piece.bytes <= max_bytes
            && let Some(slot) = self.active.first_slot(range)
        {
            let mut moved = Entry::new(self.active.slots.key(slot));
            let beneath = self.active.beneath(slot);
            while piece.bytes <= max_bytes && !self.active.slots.get(slot).versions.is_empty() {
                let version = self.active.pop_oldest(slot);
                piece.bytes += version.counted().block_bytes as usize;
                moved.versions.push(version);
            }
            if self.active.slots.get(slot).versions.is_empty() {
                self.active.take_entry(slot);
            }
            piece.bytes += moved.frame_bytes();
            piece.parts.push(Part { entry: moved, beneath });
        }
        piece
    }

    /// Takes over what another store exported. What is garbage by this store's collection is
    /// removed at once.
    pub fn import(&mut self, piece: Piece) {
        for Part { mut entry, beneath } in piece.parts {
            let mut slot = self.active.place(entry.key());
            while let Some(version) = entry.versions.pop_oldest() {
                let at = version.position();
                slot = Ok(self.active.push(at, entry.key(), slot, version, beneath));
                self.highest = self.highest.max(at.0);
            }
            self.prune(slot.expect("a part has a version"), usize::MAX);
        }
    }
}
