//! The sorted keys of one node of the index: their slots, and enough of their bytes to search
//! without looking at most of them.
//!
//! Knows neither what a node is for nor what lies beneath an entry.

use std::ops::Range;

use super::super::slots::{SlotId, Slots};

/// Most keys of a node.
pub(super) const FANOUT: usize = 128;

/// How far a walk looks ahead: what a processor loads at the same time, and not much in vain for a walk that
/// ends soon.
const AHEAD: usize = 8;

/// Keys in ascending order.
///
/// ```text
/// keys    /registry/pods/a/x   /registry/pods/b   /registry/pods/b/y
/// skip    15 bytes that all of them share
/// hints   "a/x\0"              "b\0\0\0"          "b/y\0"     four bytes behind those, big-endian
/// ```
///
/// Real key spaces sit under long common prefixes, so hints from the beginning of the keys would all
/// be the same. A search compares the shared bytes once, with the first key, then hints; it looks at
/// other keys only where hints are equal.
pub(super) struct Names {
    len: u32,
    skip: u32,
    hints: [u32; FANOUT],
    slots: [SlotId; FANOUT],
}

/// Where a full node is cut for one more key at `at`: behind the last key when keys come in order,
/// so that nodes stay full, else in the middle.
pub(super) fn cut(at: usize) -> usize {
    if at == FANOUT { FANOUT } else { FANOUT / 2 }
}

impl Names {
    pub(super) fn new() -> Names {
        Names { len: 0, skip: 0, hints: [0; FANOUT], slots: [0; FANOUT] }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn slot(&self, at: usize) -> SlotId {
        debug_assert!(at < self.len());
        self.slots[at]
    }

    /// Has the keys from `at` to `end` on their way from memory, as many as are worth it at a time, and says up
    /// to where.
    #[inline]
    pub(super) fn warm(&self, at: usize, end: usize, slots: &Slots) -> usize {
        let end = end.min(at + AHEAD);
        slots.warm(&self.slots[at..end]);
        end
    }

    /// Where `key` is, or where it would be.
    #[inline]
    pub(super) fn find(&self, key: &[u8], slots: &Slots) -> Result<usize, usize> {
        let (len, skip) = (self.len(), self.skip as usize);
        if skip > 0 {
            let first = slots.key(self.slots[0]);
            let compared = skip.min(key.len());
            match key[..compared].cmp(&first[..compared]) {
                std::cmp::Ordering::Less => return Err(0),
                std::cmp::Ordering::Greater => return Err(len),
                // A beginning of the shared bytes stands before all that have them whole.
                std::cmp::Ordering::Equal if compared < skip => return Err(0),
                std::cmp::Ordering::Equal => {}
            }
        }
        let hint = hint(key, skip);
        let hints = &self.hints[..len];
        // Counted, not bisected: no branch and no load waits for another, so that the lines of a node
        // that is not in the cache arrive together.
        let mut low = hints.iter().map(|h| u32::from(*h < hint)).sum::<u32>() as usize;
        let mut high = low + hints[low..].iter().take_while(|h| **h == hint).count();
        while low < high {
            let middle = low.midpoint(high);
            match slots.key(self.slots[middle])[skip..].cmp(&key[skip..]) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// How many keys stand before `key`.
    pub(super) fn lower_bound(&self, key: &[u8], slots: &Slots) -> usize {
        self.find(key, slots).unwrap_or_else(|at| at)
    }

    /// Puts a key at its place, which has room.
    pub(super) fn insert(&mut self, at: usize, slot: SlotId, slots: &Slots) {
        let (len, key) = (self.len(), slots.key(slot));
        if len == 0 {
            // The longest there can be: it gets shorter with the keys that come, never longer.
            self.skip = key.len() as u32;
        } else {
            self.share(key, slots);
        }
        self.hints.copy_within(at..len, at + 1);
        self.slots.copy_within(at..len, at + 1);
        self.hints[at] = hint(key, self.skip as usize);
        self.slots[at] = slot;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, gone: Range<usize>) {
        let len = self.len();
        self.hints.copy_within(gone.end..len, gone.start);
        self.slots.copy_within(gone.end..len, gone.start);
        self.len -= gone.len() as u32;
        if self.len == 0 {
            // No key is left to compare shared bytes with.
            self.skip = 0;
        }
    }

    /// Puts another key in the place of one.
    pub(super) fn replace(&mut self, at: usize, slot: SlotId, slots: &Slots) {
        let key = slots.key(slot);
        self.share(key, slots);
        self.hints[at] = hint(key, self.skip as usize);
        self.slots[at] = slot;
    }

    /// Cuts off the keys from `at` on.
    pub(super) fn split(&mut self, at: usize, slots: &Slots) -> Names {
        let mut upper = Names::new();
        let len = self.len() - at;
        upper.slots[..len].copy_from_slice(&self.slots[at..self.len()]);
        upper.len = len as u32;
        self.len = at as u32;
        upper.tighten(slots);
        if len > 0 {
            self.tighten(slots);
        }
        upper
    }

    /// Adds keys that all stand behind these.
    pub(super) fn append(&mut self, upper: &Names, slots: &Slots) {
        let (len, more) = (self.len(), upper.len());
        self.slots[len..len + more].copy_from_slice(&upper.slots[..more]);
        self.len += upper.len;
        self.tighten(slots);
    }

    /// Shortens the shared bytes to those that `key` has too.
    fn share(&mut self, key: &[u8], slots: &Slots) {
        let first = slots.key(self.slots[0]);
        let skip = self.skip as usize;
        if !key.starts_with(&first[..skip]) {
            self.skip = shared(first, key) as u32;
            self.take_hints(slots);
        }
    }

    /// Makes the shared bytes as long as the keys allow.
    fn tighten(&mut self, slots: &Slots) {
        if self.len > 0 {
            let last = slots.key(self.slots[self.len() - 1]);
            self.skip = shared(slots.key(self.slots[0]), last) as u32;
            self.take_hints(slots);
        }
    }

    fn take_hints(&mut self, slots: &Slots) {
        for at in 0..self.len() {
            self.hints[at] = hint(slots.key(self.slots[at]), self.skip as usize);
        }
    }
}

/// How many bytes two keys have in common at their beginning.
pub(in crate::mvcc) fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Four bytes of `key` from `skip` on, filled up with zeros: smaller hint, smaller key.
#[inline]
pub(in crate::mvcc) fn hint(key: &[u8], skip: usize) -> u32 {
    let rest = &key[skip..];
    match rest.first_chunk() {
        Some(four) => u32::from_be_bytes(*four),
        None => {
            let mut four = [0; 4];
            four[..rest.len()].copy_from_slice(rest);
            u32::from_be_bytes(four)
        }
    }
}
