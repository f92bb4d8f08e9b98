//! Where keys and their versions live: numbered slots, so that the key index and the revision index
//! can share a key by a four-byte number.
//!
//! This file knows no order between keys and nothing of revisions beyond "each key's versions ascend".

use std::collections::VecDeque;

use super::version::{Position, Version, VersionRef, block_bytes};
use crate::keys::Revision;

/// Number of a slot. Valid until its entry is taken out; numbers are used again.
pub(super) type SlotId = u32;

/// Entries a chunk: growing never moves what is there, and a chunk is some 48 KiB.
const CHUNK_ENTRIES: usize = 1024;
/// Ends the list of free slots.
const NONE_FREE: SlotId = SlotId::MAX;
/// Keys up to this length need no allocation of their own.
const INLINE_BYTES: usize = 22;

const _: () = assert!(size_of::<Slot>() == 48, "the cost of a key without its version");

/// All entries of a store.
pub(super) struct Slots {
    chunks: Vec<Vec<Slot>>,
    free: SlotId,
}

enum Slot {
    Free { next: SlotId },
    Used(Entry),
}

/// A key and its versions. At least one version, except while it is being made.
pub(super) struct Entry {
    name: Name,
    pub(super) versions: Versions,
}

enum Name {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Heap(Box<[u8]>),
}

/// The versions of one key. Most reads want the newest, and find it without a look at the others.
pub(super) struct Versions {
    newest: Version,
    /// All others, ascending; not there when there are none.
    #[expect(clippy::box_collection, reason = "a list in place takes 24 bytes more of every key")]
    older: Option<Box<VecDeque<Version>>>,
}

impl Slots {
    pub(super) fn new() -> Slots {
        Slots { chunks: Vec::new(), free: NONE_FREE }
    }

    /// Above the numbers of all slots.
    pub(super) fn end(&self) -> usize {
        self.chunks.len() * CHUNK_ENTRIES
    }

    pub(super) fn insert(&mut self, entry: Entry) -> SlotId {
        if self.free != NONE_FREE {
            let id = self.free;
            let slot = self.slot_mut(id);
            let Slot::Free { next } = *slot else { panic!("slot {id} is free and used") };
            *slot = Slot::Used(entry);
            self.free = next;
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_ENTRIES) {
            self.chunks.push(Vec::with_capacity(CHUNK_ENTRIES));
        }
        let before = (self.chunks.len() - 1) * CHUNK_ENTRIES;
        let chunk = self.chunks.last_mut().expect("just made");
        chunk.push(Slot::Used(entry));
        SlotId::try_from(before + chunk.len() - 1).expect("fewer than 2^32 keys in a shard")
    }

    pub(super) fn take(&mut self, id: SlotId) -> Entry {
        let next = self.free;
        match std::mem::replace(self.slot_mut(id), Slot::Free { next }) {
            Slot::Used(entry) => {
                self.free = id;
                entry
            }
            Slot::Free { .. } => panic!("slot {id} taken twice"),
        }
    }

    #[inline]
    pub(super) fn get(&self, id: SlotId) -> &Entry {
        match &self.chunks[id as usize / CHUNK_ENTRIES][id as usize % CHUNK_ENTRIES] {
            Slot::Used(entry) => entry,
            Slot::Free { .. } => panic!("slot {id} is free"),
        }
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> &mut Entry {
        match self.slot_mut(id) {
            Slot::Used(entry) => entry,
            Slot::Free { .. } => panic!("slot {id} is free"),
        }
    }

    #[inline]
    pub(super) fn key(&self, id: SlotId) -> &[u8] {
        self.get(id).key()
    }

    /// Looks at these keys and their newest versions for whoever will read them one by one. No look waits for
    /// another, so they are loaded at the same time; else each key waits for memory twice.
    #[inline]
    pub(super) fn warm(&self, ids: &[SlotId]) {
        std::hint::black_box(ids.iter().filter(|id| self.get(**id).is_live()).count());
    }

    /// Memory of the slots, free ones too; without what entries allocated for themselves.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * block_bytes(CHUNK_ENTRIES * size_of::<Slot>())
    }

    fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.chunks[id as usize / CHUNK_ENTRIES][id as usize % CHUNK_ENTRIES]
    }
}

impl Entry {
    /// A key that will get its first version in a moment.
    pub(super) fn new(key: &[u8]) -> Entry {
        let name = if key.len() <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            bytes[..key.len()].copy_from_slice(key);
            Name::Inline { len: key.len() as u8, bytes }
        } else {
            Name::Heap(key.into())
        };
        Entry { name, versions: Versions { newest: Version::Absent, older: None } }
    }

    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        match &self.name {
            Name::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Name::Heap(bytes) => bytes,
        }
    }

    /// The newest version, when it gives the key a value.
    pub(super) fn live(&self) -> Option<VersionRef<'_>> {
        self.versions.newest().filter(|v| v.is_live()).map(|v| v.view(self.key()))
    }

    /// The version that readers at `at` see, when it gives the key a value.
    #[inline]
    pub(super) fn live_at(&self, at: Revision) -> Option<VersionRef<'_>> {
        self.versions.at(at).filter(|v| v.is_live()).map(|v| v.view(self.key()))
    }

    pub(super) fn is_live(&self) -> bool {
        self.versions.newest().is_some_and(Version::is_live)
    }

    /// The version at exactly `position`.
    pub(super) fn version_at(&self, position: Position) -> Option<&Version> {
        let version = self.versions.get(self.versions.before(position))?;
        (version.position() == position).then_some(version)
    }

    /// Memory beside the slot, and the key and value bytes of all versions.
    pub(super) fn counted_bytes(&self) -> (usize, usize) {
        let all = (self.frame_bytes(), self.versions.len() * self.key().len());
        self.versions.iter().map(Version::counted).fold(all, |(heap, logical), counted| {
            (heap + counted.block_bytes as usize, logical + counted.value_bytes as usize)
        })
    }

    /// Memory beside the slot and the versions: a long key, the list of older versions.
    pub(super) fn frame_bytes(&self) -> usize {
        let name = match &self.name {
            Name::Inline { .. } => 0,
            Name::Heap(bytes) => block_bytes(bytes.len()),
        };
        let older = self.versions.older.as_ref().map_or(0, |older| {
            block_bytes(size_of::<VecDeque<Version>>())
                + block_bytes(older.capacity() * size_of::<Version>())
        });
        name + older
    }
}

impl Versions {
    /// How many older ones there are.
    fn before_newest(&self) -> usize {
        self.older.as_ref().map_or(0, |older| older.len())
    }

    /// In ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Version> {
        self.older.iter().flat_map(|older| older.iter()).chain(self.newest())
    }

    pub(super) fn len(&self) -> usize {
        self.before_newest() + usize::from(!self.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self.newest, Version::Absent)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Version> {
        match &self.older {
            Some(older) if index < older.len() => older.get(index),
            _ => self.newest().filter(|_| index == self.before_newest()),
        }
    }

    #[inline]
    pub(super) fn newest(&self) -> Option<&Version> {
        (!self.is_empty()).then_some(&self.newest)
    }

    /// The newest version of a revision not above `at`.
    #[inline]
    pub(super) fn at(&self, at: Revision) -> Option<&Version> {
        let newest = self.newest()?;
        if newest.modified() <= at {
            return Some(newest);
        }
        let older = self.older.as_ref()?;
        let after = older.partition_point(|v| v.modified() <= at);
        after.checked_sub(1).and_then(|index| older.get(index))
    }

    /// How many versions stand before `position`: the index of the one at it, or of the next.
    pub(super) fn before(&self, position: Position) -> usize {
        if self.newest().is_some_and(|newest| newest.position() < position) {
            return self.len();
        }
        self.older.as_ref().map_or(0, |older| older.partition_point(|v| v.position() < position))
    }

    /// Adds the newest version.
    pub(super) fn push(&mut self, version: Version) {
        let before = std::mem::replace(&mut self.newest, version);
        if !matches!(before, Version::Absent) {
            // Most keys with several versions have two.
            let older = self.older.get_or_insert_with(|| Box::new(VecDeque::with_capacity(1)));
            older.push_back(before);
        }
    }

    /// Takes all versions of another one in.
    pub(super) fn merge(&mut self, other: &mut Versions) {
        let mut all = Vec::with_capacity(self.len() + other.len());
        for versions in [&mut *self, other] {
            all.extend(std::iter::from_fn(|| versions.pop_oldest()));
        }
        all.sort_by_key(Version::position);
        all.into_iter().for_each(|version| self.push(version));
    }

    pub(super) fn pop_newest(&mut self) -> Option<Version> {
        let before = self.pop_older(VecDeque::pop_back).unwrap_or(Version::Absent);
        let newest = std::mem::replace(&mut self.newest, before);
        (!matches!(newest, Version::Absent)).then_some(newest)
    }

    pub(super) fn pop_oldest(&mut self) -> Option<Version> {
        self.pop_older(VecDeque::pop_front).or_else(|| self.pop_newest())
    }

    /// Takes one of the older versions, if there are any.
    fn pop_older(
        &mut self,
        end: impl FnOnce(&mut VecDeque<Version>) -> Option<Version>,
    ) -> Option<Version> {
        let older = self.older.as_mut()?;
        let version = end(older);
        // Gives memory back once most of it is unused, so that a key that was busy once costs little.
        if older.is_empty() {
            self.older = None;
        } else if older.capacity() > 16 && older.len() < older.capacity() / 4 {
            older.shrink_to(older.len() * 2);
        }
        version
    }
}
