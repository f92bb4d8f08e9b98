//! A leaf of the index: some keys in order, and two bits for each.
//!
//! Knows nothing of the tree above it.

use super::super::slots::{SlotId, Slots};
use super::names::{self, FANOUT, Names};
use super::{Bits, Sum, Visit};

/// Keys in order, with what is counted of each.
pub(super) struct Leaf {
    pub(super) names: Names,
    /// Bit i says that entry i is live.
    live: u128,
    /// Bit i says that entry i has a value in the layers beneath.
    below: u128,
}

const _: () = assert!(FANOUT == u128::BITS as usize, "a bit for each entry of a leaf");

impl Leaf {
    pub(super) fn new() -> Leaf {
        Leaf { names: Names::new(), live: 0, below: 0 }
    }

    /// How many keys stand before the entry `at`.
    pub(super) fn sum(&self, at: usize) -> Sum {
        let (live, below) = (self.live & before(at), self.below & before(at));
        Sum { keys: at as u32, live: live.count_ones(), below: below.count_ones() }
    }

    /// What is counted of an entry.
    pub(super) fn bits(&self, at: usize) -> Bits {
        Bits { live: self.live >> at & 1 == 1, below: self.below >> at & 1 == 1 }
    }

    /// Bit i says that entry i has a value or hides one.
    #[inline]
    pub(super) fn relevant(&self) -> u128 {
        self.live | self.below
    }

    /// The live entry with `rank` live ones before it, of which there must be more.
    pub(super) fn nth_live(&self, rank: u32) -> usize {
        let mut bits = self.live;
        for _ in 0..rank {
            bits &= bits - 1;
        }
        bits.trailing_zeros() as usize
    }

    pub(super) fn set_live(&mut self, key: &[u8], live: bool, slots: &Slots) {
        let at = self.names.find(key, slots).expect("a key of the index");
        assert_eq!(self.live >> at & 1 == 1, !live, "a key that changes");
        self.live ^= 1 << at;
    }

    /// Joins the leaf above to this one; there is room.
    pub(super) fn append(&mut self, upper: &Leaf, slots: &Slots) {
        self.live |= upper.live << self.names.len();
        self.below |= upper.below << self.names.len();
        self.names.append(&upper.names, slots);
    }

    /// Adds a key at its place; a leaf that was full returns its upper part.
    pub(super) fn insert(
        &mut self,
        at: usize,
        slot: SlotId,
        bits: Bits,
        slots: &Slots,
    ) -> Option<Leaf> {
        if self.names.len() < FANOUT {
            self.put(at, slot, bits, slots);
            return None;
        }
        let cut = names::cut(at);
        let mut upper = Leaf { names: self.names.split(cut, slots), live: 0, below: 0 };
        if cut < FANOUT {
            upper.live = self.live >> cut;
            upper.below = self.below >> cut;
            self.live &= before(cut);
            self.below &= before(cut);
        }
        if at < cut || (at == cut && cut < FANOUT) {
            self.put(at, slot, bits, slots);
        } else {
            upper.put(at - cut, slot, bits, slots);
        }
        Some(upper)
    }

    fn put(&mut self, at: usize, slot: SlotId, bits: Bits, slots: &Slots) {
        self.live = put_bit(self.live, at, bits.live);
        self.below = put_bit(self.below, at, bits.below);
        self.names.insert(at, slot, slots);
    }

    /// Takes a key out and says what was counted of it.
    pub(super) fn remove(&mut self, key: &[u8], slots: &Slots) -> Bits {
        let at = self.names.find(key, slots).expect("a key of the index");
        let bits = self.bits(at);
        self.live = take_bit(self.live, at);
        self.below = take_bit(self.below, at);
        self.names.remove(at..at + 1);
        bits
    }

    /// Takes the keys from `start` on that stand before `end` out, shows them in order, and says what was
    /// counted of them.
    pub(super) fn cut(
        &mut self,
        start: Option<&[u8]>,
        end: Option<&[u8]>,
        slots: &Slots,
        shown: &mut dyn FnMut(SlotId, Bits),
    ) -> Sum {
        let from = start.map_or(0, |start| self.names.lower_bound(start, slots));
        let to = self.stop(end, slots).max(from);
        let mut gone = Sum::default();
        for at in from..to {
            let bits = self.bits(at);
            gone.add(bits.sum());
            shown(self.names.slot(at), bits);
        }
        for bits in [&mut self.live, &mut self.below] {
            let above = bits.checked_shr(to as u32).unwrap_or(0);
            *bits = *bits & before(from) | above.checked_shl(from as u32).unwrap_or(0);
        }
        self.names.remove(from..to);
        gone
    }

    /// Where the keys before `end` stop. One comparison clears most leaves of a long range.
    pub(super) fn stop(&self, end: Option<&[u8]>, slots: &Slots) -> usize {
        let len = self.names.len();
        match end {
            Some(end) if len > 0 && slots.key(self.names.slot(len - 1)) >= end => {
                self.names.lower_bound(end, slots)
            }
            _ => len,
        }
    }

    /// Shows the slots of the keys from `start` on, and says whether to go on behind this leaf.
    pub(super) fn visit(
        &self,
        start: Option<&[u8]>,
        visit: Visit<'_>,
        each: &mut dyn FnMut(SlotId) -> bool,
    ) -> bool {
        let len = self.names.len();
        if len == 0 {
            return true;
        }
        let from = start.map_or(0, |start| self.names.lower_bound(start, visit.slots));
        let to = self.stop(visit.end, visit.slots);
        let relevant = self.relevant();
        let mut warm = from;
        for at in from..to {
            if at == warm {
                warm = self.names.warm(at, to, visit.slots);
            }
            let shown = !visit.relevant_only || relevant >> at & 1 == 1;
            if shown && !each(self.names.slot(at)) {
                return false;
            }
        }
        to == len
    }
}

/// The bits of the entries before `at`.
fn before(at: usize) -> u128 {
    if at == FANOUT { u128::MAX } else { (1 << at) - 1 }
}

/// Makes room for a bit at `at`.
fn put_bit(bits: u128, at: usize, bit: bool) -> u128 {
    let (low, high) = (bits & before(at), bits & !before(at));
    low | high << 1 | u128::from(bit) << at
}

/// Closes the gap that a bit leaves.
fn take_bit(bits: u128, at: usize) -> u128 {
    let (low, high) = (bits & before(at), bits & !before(at + 1));
    low | high >> 1
}
