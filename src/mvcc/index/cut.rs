//! Takes all keys of a range out at once: what lies between the nodes that the range begins and ends in
//! goes whole.

use super::super::slots::{SlotId, Slots};
use super::{Bits, Change, Index, Inner, Node, SMALL, Sum};

/// From a key on, or from the beginning; up to one, or up to the end.
type Bounds<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

impl Index {
    /// Takes the keys from `start` on that stand before `end` out, and shows them in order. Their slots may be
    /// given up after this, not before. O(log n) and what is shown.
    pub(in crate::mvcc) fn cut(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        slots: &Slots,
        shown: &mut dyn FnMut(SlotId, Bits),
    ) {
        let mut change = Change { slots, nodes: &mut self.nodes };
        let sum = self.root.cut((Some(start), end), &mut change, shown);
        self.sum.take(sum);
        self.lower_root();
    }
}

impl Node {
    /// What was counted of the keys that are gone.
    fn cut(
        &mut self,
        (start, end): Bounds<'_>,
        change: &mut Change<'_>,
        shown: &mut dyn FnMut(SlotId, Bits),
    ) -> Sum {
        match self {
            Node::Leaf(leaf) => leaf.cut(start, end, change.slots, shown),
            Node::Inner(inner) => inner.cut((start, end), change, shown),
        }
    }
}

impl Inner {
    fn cut(
        &mut self,
        (start, end): Bounds<'_>,
        change: &mut Change<'_>,
        shown: &mut dyn FnMut(SlotId, Bits),
    ) -> Sum {
        let slots = change.slots;
        let first = start.map_or(0, |start| self.child(start, slots));
        let last = end.map_or(self.children.len() - 1, |end| self.child(end, slots));
        let mut gone = Sum::default();
        for child in first..=last {
            let bounds = (start.filter(|_| child == first), end.filter(|_| child == last));
            let sum = self.children[child].cut(bounds, change, shown);
            self.sums[child].take(sum);
            gone.add(sum);
        }
        for child in (first..=last).rev() {
            if self.children[child].len() == 0 {
                self.take(child);
                *change.nodes -= 1;
            } else {
                self.refresh_first(child, slots);
            }
        }
        if self.children.get(first).is_some_and(|child| child.len() < SMALL) {
            self.join(first, change);
        }
        gone
    }
}
