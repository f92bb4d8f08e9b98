//! One layer of a store: keys with the versions that were written in one stretch of the revision
//! order.
//!
//! ```text
//! Index       keys in order          slot, live?, below?  ┐
//! Revisions   versions in order      slot                 ├─ four-byte slot numbers
//! Slots       key, its versions      value, create …      ┘
//! ```
//!
//! Of the layers beneath it knows what it was told when a key came: whether that had a value there.

use std::fmt;

use super::hidden::Hidden;
use super::index::{self, Bits, Finger, Index, Place, Visit};
use super::revisions::Revisions;
use super::slots::{Entry, SlotId, Slots};
use super::version::{Counted, Position, Version, VersionRef};
use crate::keys::{KeyRange, Revision};

/// Versions of some keys, all above what lies beneath and all below what lies above.
///
/// The newest layer of a store takes writes; an older one is immutable and may be read by other
/// threads.
pub struct Layer {
    pub(super) slots: Slots,
    index: Index,
    pub(super) revisions: Revisions,
    /// Memory of versions, long keys and lists of versions.
    heap_bytes: usize,
    /// Key and value bytes of all versions.
    logical_bytes: usize,
    /// What keys of this layer hide beneath.
    hidden: Hidden,
}

/// What a key had in the layers beneath when it came to this one.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Beneath {
    /// It had a value.
    pub(super) live: bool,
    /// Key and value bytes of that.
    pub(super) bytes: usize,
}

impl Beneath {
    /// Nothing, or a tombstone, which is the same to all who read this layer.
    pub(super) const NOTHING: Beneath = Beneath { live: false, bytes: 0 };

    pub(super) fn of(newest: Option<VersionRef<'_>>) -> Beneath {
        newest.filter(|v| !v.is_tombstone()).map_or(Beneath::NOTHING, |version| Beneath {
            live: true,
            bytes: version.key.len() + version.value.len(),
        })
    }
}

const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Layer>();
};

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("keys", &self.keys())
            .field("versions", &self.versions())
            .finish_non_exhaustive()
    }
}

impl Layer {
    pub(super) fn new() -> Layer {
        Layer {
            slots: Slots::new(),
            index: Index::new(),
            revisions: Revisions::new(),
            heap_bytes: 0,
            logical_bytes: 0,
            hidden: Hidden::new(),
        }
    }

    /// How many keys it has a version of, tombstones too.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.index.sum().keys as usize
    }

    /// How many versions there are, tombstones and uncollected ones too.
    #[must_use]
    pub fn versions(&self) -> usize {
        self.revisions.len()
    }

    /// Memory that the layer takes from the allocator, by glibc's rules and without fragmentation. A version
    /// that leaves a pack counts as gone, though its bytes go with the last one of it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.heap_bytes
            + self.slots.bytes()
            + self.index.bytes()
            + self.revisions.bytes()
            + self.hidden.bytes()
    }

    /// Key and value bytes of all versions.
    #[must_use]
    pub fn logical_bytes(&self) -> usize {
        self.logical_bytes
    }

    /// Key and value bytes in the layers beneath that a collection there would free, because of what
    /// is here.
    pub(super) fn hidden_garbage_bytes(&self) -> usize {
        self.hidden.garbage_bytes()
    }

    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<SlotId> {
        self.index.find(key, &self.slots)
    }

    /// The slot of a key, or where it belongs until the next key comes or goes.
    #[inline]
    pub(super) fn place(&self, key: &[u8]) -> Result<SlotId, Place> {
        self.index.place(key, &self.slots)
    }

    /// As [`Layer::place`], of keys in order: see [`Index::place_behind`].
    #[inline]
    pub(super) fn place_behind(&self, finger: &mut Finger, key: &[u8]) -> Result<SlotId, Place> {
        self.index.place_behind(finger, key, &self.slots)
    }

    #[inline]
    pub(super) fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.find(key).map(|slot| self.slots.get(slot))
    }

    /// Whether a key of this layer had a value in the layers beneath.
    pub(super) fn is_below(&self, key: &[u8]) -> bool {
        self.index.is_below(key, &self.slots)
    }

    /// What a key of this layer had in the layers beneath.
    pub(super) fn beneath(&self, slot: SlotId) -> Beneath {
        let live = self.is_below(self.slots.key(slot));
        Beneath { live, bytes: self.hidden.get(slot) }
    }

    /// Adds the newest version of a key, which is in slot `found` if this layer has it, or belongs there.
    /// If it has not, `beneath` says what the layers beneath have.
    pub(super) fn push(
        &mut self,
        at: Position,
        key: &[u8],
        found: Result<SlotId, Place>,
        version: Version,
        beneath: Beneath,
    ) -> SlotId {
        let counted = version.counted();
        let slot = self.push_unordered(at, key, found, (version, counted), beneath);
        self.revisions.insert(at, slot);
        slot
    }

    /// As [`Layer::push`], but its place among all versions is still owed to `revisions`.
    pub(super) fn push_unordered(
        &mut self,
        at: Position,
        key: &[u8],
        found: Result<SlotId, Place>,
        (version, counted): (Version, Counted),
        beneath: Beneath,
    ) -> SlotId {
        let Counted { live, value_bytes, block_bytes } = counted;
        self.heap_bytes += block_bytes as usize;
        self.logical_bytes += key.len() + value_bytes as usize;
        match found {
            Ok(slot) => {
                let entry = self.slots.get_mut(slot);
                let newest = entry.versions.newest().map(Version::position);
                assert!(newest < Some(at), "{at:?} after {newest:?}: positions of a key ascend");
                let was_live = entry.is_live();
                self.heap_bytes -= entry.frame_bytes();
                entry.versions.push(version);
                self.heap_bytes += entry.frame_bytes();
                if was_live != live {
                    self.index.set_live(key, live, &self.slots);
                }
                slot
            }
            Err(place) => {
                let mut entry = Entry::new(key);
                entry.versions.push(version);
                self.heap_bytes += entry.frame_bytes();
                let slot = self.slots.insert(entry);
                let bits = Bits { live, below: beneath.live };
                self.index.insert(&place, slot, bits, &self.slots);
                if beneath.live {
                    self.hidden.insert(slot, beneath.bytes);
                }
                slot
            }
        }
    }

    /// Takes the newest version of all out, if it lies above `through`. A key that has none left leaves.
    pub(super) fn pop_above(&mut self, through: Revision) -> Option<Popped> {
        let (position, slot) = self.revisions.last().filter(|(at, _)| at.0 > through)?;
        self.revisions.remove(position);
        let entry = self.slots.get_mut(slot);
        let was_live = entry.is_live();
        self.heap_bytes -= entry.frame_bytes();
        let version = entry.versions.pop_newest().expect("the revision index is exact");
        self.heap_bytes += entry.frame_bytes();
        assert_eq!(version.position(), position, "the newest version of its key");
        self.uncount(slot, &version);
        let entry = self.slots.get(slot);
        if was_live != entry.is_live() {
            self.index.set_live(self.slots.key(slot), !was_live, &self.slots);
        }
        let beneath = match self.slots.get(slot).versions.newest() {
            Some(newest) => Beneath::of(Some(newest.view(self.slots.key(slot)))),
            None => self.beneath(slot),
        };
        let key = self.slots.key(slot).into();
        if self.slots.get(slot).versions.is_empty() {
            self.take_entry(slot);
        }
        Some(Popped { key, version, beneath })
    }

    /// Takes the oldest version of a key out of it and of the revision index.
    pub(super) fn pop_oldest(&mut self, slot: SlotId) -> Version {
        let entry = self.slots.get_mut(slot);
        self.heap_bytes -= entry.frame_bytes();
        let version = entry.versions.pop_oldest().expect("a version to take");
        self.heap_bytes += entry.frame_bytes();
        self.revisions.remove(version.position());
        self.uncount(slot, &version);
        version
    }

    fn uncount(&mut self, slot: SlotId, version: &Version) {
        let Counted { value_bytes, block_bytes, .. } = version.counted();
        self.heap_bytes -= block_bytes as usize;
        self.logical_bytes -= self.slots.key(slot).len() + value_bytes as usize;
    }

    /// Takes a key without a version out of the index and of its slot.
    pub(super) fn take_entry(&mut self, slot: SlotId) {
        self.index.remove(self.slots.key(slot), &self.slots);
        let entry = self.slots.take(slot);
        self.heap_bytes -= entry.frame_bytes();
        self.hidden.remove(slot);
    }

    /// Takes out of the index all keys that `goes` says of, by the number behind their range in `owners`. They keep
    /// their slots until each is [given](Layer::give), and their versions stand in the revision index.
    pub(super) fn dismiss(
        &mut self,
        goes: impl Fn(u16) -> bool,
        owners: &[(KeyRange, u16)],
    ) -> Vec<Going> {
        let mut going = Vec::new();
        for (range, to) in owners.iter().filter(|(_, to)| goes(*to)) {
            let mut take = |slot, bits| going.push(Going { slot, to: *to, bits });
            self.index.cut(&range.start, range.end.as_deref(), &self.slots, &mut take);
        }
        going
    }

    /// Takes a key that was dismissed out of its slot, with all its versions and what it had beneath.
    pub(super) fn give(&mut self, &Going { slot, bits, .. }: &Going) -> (Entry, Beneath) {
        let beneath = Beneath { live: bits.below, bytes: self.hidden.get(slot) };
        let entry = self.slots.take(slot);
        self.hidden.remove(slot);
        let (heap_bytes, logical_bytes) = entry.counted_bytes();
        self.heap_bytes -= heap_bytes;
        self.logical_bytes -= logical_bytes;
        (entry, beneath)
    }

    /// Takes a key in that another layer had, whose versions are not among these yet; their places among all
    /// versions are still owed to `revisions`.
    pub(super) fn take_in(
        &mut self,
        finger: &mut Finger,
        mut entry: Entry,
        beneath: Beneath,
    ) -> SlotId {
        let (heap_bytes, logical_bytes) = entry.counted_bytes();
        self.heap_bytes += heap_bytes;
        self.logical_bytes += logical_bytes;
        let (slot, place, beneath) = match self.place_behind(finger, entry.key()) {
            Err(place) => (self.slots.insert(entry), place, beneath),
            Ok(slot) => {
                let oldest = |entry: &Entry| entry.versions.get(0).map(Version::position);
                let own = self.slots.get(slot);
                // What is beneath is beneath the oldest version.
                let beneath = match oldest(&entry) < oldest(own) {
                    true => beneath,
                    false => self.beneath(slot),
                };
                self.index.remove(entry.key(), &self.slots);
                self.hidden.remove(slot);
                *finger = Finger::default();
                let own = self.slots.get_mut(slot);
                self.heap_bytes -= own.frame_bytes() + entry.frame_bytes();
                own.versions.merge(&mut entry.versions);
                self.heap_bytes += own.frame_bytes();
                let place = self.place(entry.key()).expect_err("just taken out");
                (slot, place, beneath)
            }
        };
        let bits = Bits { live: self.slots.get(slot).is_live(), below: beneath.live };
        self.index.insert(&place, slot, bits, &self.slots);
        if beneath.live {
            self.hidden.insert(slot, beneath.bytes);
        }
        slot
    }

    /// What a key hides beneath is garbage: every reader sees a version of this layer.
    pub(super) fn hides_garbage(&mut self, slot: SlotId) {
        self.hidden.set_garbage(slot);
    }

    /// Shows the keys of `range` in order, as long as `each` says so; with `relevant_only` not those
    /// that have no value now and hide none.
    pub(super) fn visit(
        &self,
        range: &KeyRange,
        relevant_only: bool,
        each: &mut dyn FnMut(SlotId, &Entry) -> bool,
    ) {
        if range.is_empty() {
            return;
        }
        let visit = Visit { slots: &self.slots, end: range.end.as_deref(), relevant_only };
        self.index.visit(&range.start, visit, &mut |slot| each(slot, self.slots.get(slot)));
    }

    /// As [`Layer::visit`], one key at a time.
    pub(super) fn cursor<'a>(&'a self, range: &'a KeyRange, relevant_only: bool) -> Cursor<'a> {
        // No key lies before the first one, whatever an inverted range begins with.
        let end = if range.is_empty() { Some(&[][..]) } else { range.end.as_deref() };
        let visit = Visit { slots: &self.slots, end, relevant_only };
        Cursor { slots: &self.slots, places: self.index.cursor(&range.start, visit) }
    }

    pub(super) fn first_slot(&self, range: &KeyRange) -> Option<SlotId> {
        let mut first = None;
        self.visit(range, false, &mut |slot, _| {
            first = Some(slot);
            false
        });
        first
    }

    /// What stands before the range, and before its end; `None` when it can hold nothing.
    pub(super) fn ranks(&self, range: &KeyRange) -> Option<(index::Sum, index::Sum)> {
        if range.is_empty() {
            return None;
        }
        let first = self.index.rank(&range.start, &self.slots);
        let last = match &range.end {
            Some(end) => self.index.rank(end, &self.slots),
            None => self.index.sum(),
        };
        Some((first, last))
    }

    /// The key with `rank` live keys of this layer before it, among those with a value here.
    pub(super) fn nth_live(&self, rank: u32) -> Option<&[u8]> {
        self.index.nth_live(rank).map(|slot| self.slots.key(slot))
    }
}

/// A key on its way to another store.
pub(super) struct Going {
    pub(super) slot: SlotId,
    /// The number of the store.
    pub(super) to: u16,
    bits: Bits,
}

const _: () = assert!(size_of::<Going>() == 8, "there may be very many");

/// A version that was taken out, the newest of its key.
pub(super) struct Popped {
    pub(super) key: Box<[u8]>,
    pub(super) version: Version,
    /// What the key has without it, here or beneath.
    pub(super) beneath: Beneath,
}

/// A place among the keys of a layer.
pub(super) struct Cursor<'a> {
    slots: &'a Slots,
    places: index::Cursor<'a>,
}

impl<'a> Cursor<'a> {
    /// The key here with its versions; `None` behind the last one.
    #[inline]
    pub(super) fn peek(&self) -> Option<&'a Entry> {
        self.places.peek().map(|slot| self.slots.get(slot))
    }

    /// Whether the key here had a value in the layers beneath; there must be a key.
    #[inline]
    pub(super) fn is_below(&self) -> bool {
        self.places.is_below()
    }

    /// Goes to the next key.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.places.advance();
    }
}
