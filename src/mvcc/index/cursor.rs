//! Walks the keys of an index one by one, for whoever merges several.
//!
//! Knows one index; what a reader does between two keys is its own affair.

use super::super::slots::SlotId;
use super::{Index, Inner, Leaf, Node, Visit};

/// A place among the keys of an index.
pub(in crate::mvcc) struct Cursor<'a> {
    visit: Visit<'a>,
    /// The nodes above the leaf, each with the child that the walk is in.
    above: Vec<(&'a Inner, usize)>,
    leaf: &'a Leaf,
    at: usize,
    /// Where the keys of the range stop in the leaf.
    to: usize,
    /// Up to where they were looked at.
    warm: usize,
}

impl Index {
    /// Stands at the first key from `start` on that `visit` lets through.
    pub(in crate::mvcc) fn cursor<'a>(&'a self, start: &[u8], visit: Visit<'a>) -> Cursor<'a> {
        let mut above = Vec::new();
        let mut node = &self.root;
        let leaf = loop {
            match node {
                Node::Leaf(leaf) => break leaf,
                Node::Inner(inner) => {
                    let child = inner.child(start, visit.slots);
                    above.push((&**inner, child));
                    node = &inner.children[child];
                }
            }
        };
        let at = if leaf.names.len() == 0 { 0 } else { leaf.names.lower_bound(start, visit.slots) };
        let to = leaf.stop(visit.end, visit.slots);
        let mut cursor = Cursor { visit, above, leaf, at, to, warm: 0 };
        cursor.settle();
        cursor
    }
}

impl<'a> Cursor<'a> {
    /// The key here; `None` behind the last one.
    #[inline]
    pub(in crate::mvcc) fn peek(&self) -> Option<SlotId> {
        (self.at < self.to).then(|| self.leaf.names.slot(self.at))
    }

    /// Whether the key here has a value in the layers beneath; there must be a key.
    #[inline]
    pub(in crate::mvcc) fn is_below(&self) -> bool {
        self.leaf.bits(self.at).below
    }

    /// Goes to the next key.
    #[inline]
    pub(in crate::mvcc) fn advance(&mut self) {
        self.at += 1;
        self.settle();
    }

    /// Goes on to a key that is to be shown, from here.
    #[inline]
    fn settle(&mut self) {
        loop {
            if self.visit.relevant_only && self.at < self.to {
                let relevant = self.leaf.relevant() >> self.at;
                let skip = (relevant.trailing_zeros() as usize).min(self.to - self.at);
                self.at += skip;
            }
            if self.warm <= self.at && self.at < self.to {
                self.warm = self.leaf.names.warm(self.at, self.to, self.visit.slots);
            }
            // A leaf that the range ends in is the last.
            if self.at < self.to || self.to < self.leaf.names.len() || !self.next_leaf() {
                return;
            }
        }
    }

    /// Goes to the first entry of the next leaf that can hold something to show.
    fn next_leaf(&mut self) -> bool {
        while let Some((inner, child)) = self.above.pop() {
            let shown = |at: &usize| !self.visit.relevant_only || !inner.sums[*at].is_irrelevant();
            let Some(next) = (child + 1..inner.children.len()).find(shown) else { continue };
            self.above.push((inner, next));
            self.leaf = self.first_leaf(&inner.children[next]);
            (self.at, self.warm) = (0, 0);
            self.to = self.leaf.stop(self.visit.end, self.visit.slots);
            return true;
        }
        self.to = self.at;
        false
    }

    fn first_leaf(&mut self, mut node: &'a Node) -> &'a Leaf {
        loop {
            match node {
                Node::Leaf(leaf) => return leaf,
                Node::Inner(inner) => {
                    self.above.push((&**inner, 0));
                    node = &inner.children[0];
                }
            }
        }
    }
}
