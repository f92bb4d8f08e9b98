//! Keys on their way from one shard to another, with all their versions, in bounded pieces.
//!
//! Knows neither the shards nor how pieces travel; nobody reads the keys meanwhile.

use std::fmt;

use super::Store;
use super::slots::Entry;
use crate::keys::{KeyRange, LeaseId};

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
    /// Whether the key's newest version is here.
    whole: bool,
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

    /// The keys whose newest version is here and binds them to a lease.
    pub fn leases(&self) -> impl Iterator<Item = (&[u8], LeaseId)> {
        self.parts.iter().filter(|part| part.whole).filter_map(|part| {
            let lease = part.entry.versions.newest()?.lease();
            lease.is_some().then(|| (part.entry.key(), lease))
        })
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
            && let Some(slot) = self.first_slot(range)
        {
            let mut moved = Entry::new(self.slots.key(slot));
            while piece.bytes <= max_bytes && !self.slots.get(slot).versions.is_empty() {
                let version = self.pop_oldest(slot);
                self.heap_bytes -= version.block_bytes();
                piece.bytes += version.block_bytes();
                moved.versions.push(version);
            }
            let whole = self.slots.get(slot).versions.is_empty();
            if whole {
                self.take_entry(slot);
            }
            piece.bytes += moved.frame_bytes();
            piece.parts.push(Part { entry: moved, whole });
        }
        piece
    }

    /// Takes over what another store exported. What is garbage by this store's collection is
    /// removed at once.
    pub fn import(&mut self, piece: Piece) {
        for Part { mut entry, .. } in piece.parts {
            let mut slot = self.index.find(entry.key(), &self.slots);
            while let Some(version) = entry.versions.pop_oldest() {
                slot = Some(self.push(version.position(), entry.key(), slot, version));
            }
            self.prune(slot.expect("a part has a version"), usize::MAX);
        }
    }
}
