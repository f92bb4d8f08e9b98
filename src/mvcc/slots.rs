//! Where keys and their versions live: numbered slots, so that the key index and the revision index
//! can share a key by a four-byte number.
//!
//! This file knows no order between keys and nothing of revisions beyond "each key's versions ascend".

use std::collections::VecDeque;

use super::version::{Position, Version, VersionRef, block_bytes};
use crate::keys::Revision;

/// Number of a slot. Valid until its entry is taken out; numbers are used again.
pub(super) type SlotId = u32;

/// Entries a chunk: growing never moves what is there, and a chunk is some 40 KiB.
const CHUNK_ENTRIES: usize = 1024;
/// Ends the list of free slots.
const NONE_FREE: SlotId = SlotId::MAX;
/// Keys up to this length need no allocation of their own.
const INLINE_BYTES: usize = 22;

const _: () = assert!(size_of::<Slot>() == 40, "the cost of a key without its version");

/// All entries of a store.
pub(super) struct Slots {
    chunks: Vec<Vec<Slot>>,
    free: SlotId,
}

enum Slot {
    Free { next: SlotId },
    Used(Entry),
}

/// A key and its versions, oldest first. At least one version, except while it is being made.
pub(super) struct Entry {
    name: Name,
    pub(super) versions: Versions,
}

enum Name {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Heap(Box<[u8]>),
}

/// The versions of one key in ascending order: one, which may be absent, or
/// in its place a list of several.
pub(super) struct Versions(Version);

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
        Entry { name, versions: Versions(Version::Absent) }
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

    /// Memory beside the slot and the versions: a long key, the list of several versions.
    pub(super) fn frame_bytes(&self) -> usize {
        let name = match &self.name {
            Name::Inline { .. } => 0,
            Name::Heap(bytes) => block_bytes(bytes.len()),
        };
        let list = self.versions.list().map_or(0, |versions| {
            block_bytes(size_of::<VecDeque<Version>>())
                + block_bytes(versions.capacity() * size_of::<Version>())
        });
        name + list
    }
}

impl Versions {
    fn list(&self) -> Option<&VecDeque<Version>> {
        match &self.0 {
            Version::List(versions) => Some(versions),
            _ => None,
        }
    }

    fn list_mut(&mut self) -> Option<&mut VecDeque<Version>> {
        match &mut self.0 {
            Version::List(versions) => Some(versions),
            _ => None,
        }
    }

    /// The version, where there is no list.
    fn only(&self) -> Option<&Version> {
        (!matches!(self.0, Version::Absent)).then_some(&self.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Version> {
        let list = self.list();
        let only = if list.is_none() { self.only() } else { None };
        only.into_iter().chain(list.into_iter().flatten())
    }

    pub(super) fn len(&self) -> usize {
        self.list().map_or_else(|| usize::from(self.only().is_some()), VecDeque::len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, index: usize) -> Option<&Version> {
        match self.list() {
            None => self.only().filter(|_| index == 0),
            Some(versions) => versions.get(index),
        }
    }

    #[inline]
    pub(super) fn newest(&self) -> Option<&Version> {
        match self.list() {
            None => self.only(),
            Some(versions) => versions.back(),
        }
    }

    /// The newest version of a revision not above `at`.
    #[inline]
    pub(super) fn at(&self, at: Revision) -> Option<&Version> {
        let newest = self.newest()?;
        if newest.modified() <= at {
            return Some(newest);
        }
        let versions = self.list()?;
        let after = versions.partition_point(|v| v.modified() <= at);
        after.checked_sub(1).and_then(|index| versions.get(index))
    }

    /// How many versions stand before `position`: the index of the one at it, or of the next.
    pub(super) fn before(&self, position: Position) -> usize {
        match self.list() {
            None => usize::from(self.only().is_some_and(|only| only.position() < position)),
            Some(versions) => versions.partition_point(|v| v.position() < position),
        }
    }

    /// Adds the newest version.
    pub(super) fn push(&mut self, version: Version) {
        if let Some(versions) = self.list_mut() {
            versions.push_back(version);
        } else if matches!(self.0, Version::Absent) {
            self.0 = version;
        } else {
            let only = std::mem::replace(&mut self.0, Version::Absent);
            self.0 = Version::List(Box::new(VecDeque::from([only, version])));
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
        self.pop(VecDeque::pop_back)
    }

    pub(super) fn pop_oldest(&mut self) -> Option<Version> {
        self.pop(VecDeque::pop_front)
    }

    fn pop(
        &mut self,
        end: impl FnOnce(&mut VecDeque<Version>) -> Option<Version>,
    ) -> Option<Version> {
        let Some(versions) = self.list_mut() else {
            let version = std::mem::replace(&mut self.0, Version::Absent);
            return (!matches!(version, Version::Absent)).then_some(version);
        };
        let version = end(versions);
        // Gives memory back once most of it is unused, so that a key that was busy once costs little.
        if versions.len() <= 1 {
            self.0 = versions.pop_back().unwrap_or(Version::Absent);
        } else if versions.capacity() > 16 && versions.len() < versions.capacity() / 4 {
            versions.shrink_to(versions.len() * 2);
        }
        version
    }
}
