//! The key index: slots in the order of their keys, with the number of keys and of live keys before
//! any place in it.
//!
//! A B+-tree over four-byte slot numbers. It holds no key bytes but short hints of them
//! ([`names`]): the keys themselves lie in [`Slots`], which every call is handed. It knows no
//! versions and no revisions; that a key is live is a bit that it is told.

mod names;
#[cfg(test)]
mod tests;

use names::{FANOUT, Names};
pub(super) use names::{hint, shared};

use super::slots::{SlotId, Slots};

/// A node with fewer entries is joined to a neighbour, if the two fit [`JOINED_MAX`].
const SMALL: usize = 32;
/// Leaves room, so that a joined node does not split at the next insert.
const JOINED_MAX: usize = 96;

/// Keys in order. Find, insert, remove and rank are O(log n); a key costs 8 bytes in a full leaf
/// and some 12 in leaves filled at random.
pub(super) struct Index {
    root: Node,
    sum: Sum,
    nodes: usize,
}

/// How many keys a part of the index holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sum {
    /// All of them.
    pub(super) keys: u32,
    /// Those with a value now.
    pub(super) live: u32,
}

enum Node {
    Leaf(Box<Leaf>),
    Inner(Box<Inner>),
}

struct Leaf {
    names: Names,
    /// Bit i says that entry i is live.
    live: u128,
}

const _: () = assert!(FANOUT == u128::BITS as usize, "a bit for each entry of a leaf");

/// Children in order, each with its first key and what it holds; at least one.
struct Inner {
    names: Names,
    sums: Vec<Sum>,
    children: Vec<Node>,
}

/// What a change needs besides the key.
struct Change<'a> {
    slots: &'a Slots,
    /// Nodes of the tree, kept up to date.
    nodes: &'a mut usize,
}

/// What [`Index::visit`] goes through.
#[derive(Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) slots: &'a Slots,
    /// The first key outside.
    pub(super) end: Option<&'a [u8]>,
    /// Passes over keys without a value.
    pub(super) live_only: bool,
}

impl Index {
    pub(super) fn new() -> Index {
        Index { root: Node::Leaf(Box::new(Leaf::new())), sum: Sum::default(), nodes: 1 }
    }

    /// How many keys there are.
    pub(super) fn sum(&self) -> Sum {
        self.sum
    }

    /// Memory of the tree; its few inner nodes count as leaves.
    pub(super) fn bytes(&self) -> usize {
        self.nodes * (size_of::<Leaf>() + 16)
    }

    #[inline]
    pub(super) fn find(&self, key: &[u8], slots: &Slots) -> Option<SlotId> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    return leaf.names.find(key, slots).ok().map(|at| leaf.names.slot(at));
                }
                Node::Inner(inner) => node = &inner.children[inner.child(key, slots)],
            }
        }
    }

    /// Adds a key that is not in the index, by its slot.
    pub(super) fn insert(&mut self, slot: SlotId, live: bool, slots: &Slots) {
        let mut change = Change { slots, nodes: &mut self.nodes };
        if let Some(upper) = self.root.insert(slots.key(slot), slot, live, &mut change) {
            let lower = std::mem::replace(&mut self.root, Node::Leaf(Box::new(Leaf::new())));
            let mut inner = Inner::new();
            inner.put(0, lower, slots);
            inner.put(1, upper, slots);
            self.root = Node::Inner(Box::new(inner));
            self.nodes += 1;
        }
        self.sum.keys += 1;
        self.sum.live += u32::from(live);
    }

    /// Takes out a key that is in the index. Its slot may be given up after this, not before.
    pub(super) fn remove(&mut self, key: &[u8], slots: &Slots) {
        let mut change = Change { slots, nodes: &mut self.nodes };
        let live = self.root.remove(key, &mut change);
        self.sum.keys -= 1;
        self.sum.live -= u32::from(live);
        while let Node::Inner(inner) = &mut self.root
            && inner.children.len() <= 1
        {
            self.root = match inner.children.pop() {
                Some(only) => {
                    self.nodes -= 1;
                    only
                }
                None => Node::Leaf(Box::new(Leaf::new())),
            };
        }
    }

    /// Says that a key of the index came to life, or died.
    pub(super) fn set_live(&mut self, key: &[u8], live: bool, slots: &Slots) {
        self.root.set_live(key, live, slots);
        self.sum.live = if live { self.sum.live + 1 } else { self.sum.live - 1 };
    }

    /// How many keys stand before `key`, which need not be in the index.
    pub(super) fn rank(&self, key: &[u8], slots: &Slots) -> Sum {
        let mut sum = Sum::default();
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let at = leaf.names.lower_bound(key, slots);
                    sum.keys += at as u32;
                    sum.live += (leaf.live & below(at)).count_ones();
                    return sum;
                }
                Node::Inner(inner) => {
                    let child = inner.child(key, slots);
                    inner.sums[..child].iter().for_each(|s| sum.add(*s));
                    node = &inner.children[child];
                }
            }
        }
    }

    /// The live key with `rank` live keys before it.
    pub(super) fn nth_live(&self, rank: u32) -> Option<SlotId> {
        if rank >= self.sum.live {
            return None;
        }
        let mut left = rank;
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let mut bits = leaf.live;
                    for _ in 0..left {
                        bits &= bits - 1;
                    }
                    return Some(leaf.names.slot(bits.trailing_zeros() as usize));
                }
                Node::Inner(inner) => {
                    let mut child = 0;
                    while left >= inner.sums[child].live {
                        left -= inner.sums[child].live;
                        child += 1;
                    }
                    node = &inner.children[child];
                }
            }
        }
    }

    /// Shows the slots of the keys from `start` on, in order, as long as `each` says so.
    pub(super) fn visit(
        &self,
        start: &[u8],
        visit: Visit<'_>,
        each: &mut dyn FnMut(SlotId) -> bool,
    ) {
        self.root.visit(Some(start), visit, each);
    }
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.keys += other.keys;
        self.live += other.live;
    }
}

/// The bits of the entries before `at`.
fn below(at: usize) -> u128 {
    if at == FANOUT { u128::MAX } else { (1 << at) - 1 }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.names.len(),
            Node::Inner(inner) => inner.names.len(),
        }
    }

    fn first(&self) -> SlotId {
        match self {
            Node::Leaf(leaf) => leaf.names.slot(0),
            Node::Inner(inner) => inner.names.slot(0),
        }
    }

    fn sum(&self) -> Sum {
        match self {
            Node::Leaf(leaf) => Sum { keys: leaf.names.len() as u32, live: leaf.live.count_ones() },
            Node::Inner(inner) => {
                let mut sum = Sum::default();
                inner.sums.iter().for_each(|s| sum.add(*s));
                sum
            }
        }
    }

    /// Adds a key; a node that was full returns its upper part.
    fn insert(
        &mut self,
        key: &[u8],
        slot: SlotId,
        live: bool,
        change: &mut Change<'_>,
    ) -> Option<Node> {
        match self {
            Node::Leaf(leaf) => {
                let upper = leaf.insert(key, slot, live, change.slots)?;
                *change.nodes += 1;
                Some(Node::Leaf(Box::new(upper)))
            }
            Node::Inner(inner) => {
                let upper = inner.insert(key, slot, live, change)?;
                *change.nodes += 1;
                Some(Node::Inner(Box::new(upper)))
            }
        }
    }

    /// Takes a key out and says whether it was live.
    fn remove(&mut self, key: &[u8], change: &mut Change<'_>) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.remove(key, change.slots),
            Node::Inner(inner) => inner.remove(key, change),
        }
    }

    fn set_live(&mut self, key: &[u8], live: bool, slots: &Slots) {
        match self {
            Node::Leaf(leaf) => {
                let at = leaf.names.find(key, slots).expect("a key of the index");
                assert_eq!(leaf.live >> at & 1 == 1, !live, "a key that changes");
                leaf.live ^= 1 << at;
            }
            Node::Inner(inner) => {
                let child = inner.child(key, slots);
                inner.children[child].set_live(key, live, slots);
                let sum = &mut inner.sums[child];
                sum.live = if live { sum.live + 1 } else { sum.live - 1 };
            }
        }
    }

    /// Joins the neighbour above to this node, which is of the same height.
    fn append(&mut self, upper: Node, slots: &Slots) {
        match (self, upper) {
            (Node::Leaf(lower), Node::Leaf(upper)) => {
                lower.live |= upper.live << lower.names.len();
                lower.names.append(&upper.names, slots);
            }
            (Node::Inner(lower), Node::Inner(upper)) => {
                lower.names.append(&upper.names, slots);
                lower.sums.extend(upper.sums);
                lower.children.extend(upper.children);
            }
            _ => panic!("all leaves are equally deep"),
        }
    }

    /// Whether to go on behind this node.
    fn visit(
        &self,
        start: Option<&[u8]>,
        visit: Visit<'_>,
        each: &mut dyn FnMut(SlotId) -> bool,
    ) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.visit(start, visit, each),
            Node::Inner(inner) => {
                let first = start.map_or(0, |start| inner.child(start, visit.slots));
                for child in first..inner.children.len() {
                    if visit.live_only && inner.sums[child].live == 0 {
                        continue;
                    }
                    let start = start.filter(|_| child == first);
                    if !inner.children[child].visit(start, visit, each) {
                        return false;
                    }
                }
                true
            }
        }
    }
}

impl Leaf {
    fn new() -> Leaf {
        Leaf { names: Names::new(), live: 0 }
    }

    fn insert(&mut self, key: &[u8], slot: SlotId, live: bool, slots: &Slots) -> Option<Leaf> {
        let at = self.names.find(key, slots).expect_err("a key that is not in the index");
        if self.names.len() < FANOUT {
            self.put(at, slot, live, slots);
            return None;
        }
        let cut = names::cut(at);
        let mut upper = Leaf { names: self.names.split(cut, slots), live: 0 };
        if cut < FANOUT {
            upper.live = self.live >> cut;
            self.live &= below(cut);
        }
        if at < cut || (at == cut && cut < FANOUT) {
            self.put(at, slot, live, slots);
        } else {
            upper.put(at - cut, slot, live, slots);
        }
        Some(upper)
    }

    fn put(&mut self, at: usize, slot: SlotId, live: bool, slots: &Slots) {
        let (low, high) = (self.live & below(at), self.live & !below(at));
        self.live = low | high << 1 | u128::from(live) << at;
        self.names.insert(at, slot, slots);
    }

    fn remove(&mut self, key: &[u8], slots: &Slots) -> bool {
        let at = self.names.find(key, slots).expect("a key of the index");
        let live = self.live >> at & 1 == 1;
        let (low, high) = (self.live & below(at), self.live & !below(at + 1));
        self.live = low | high >> 1;
        self.names.remove(at);
        live
    }

    fn visit(
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
        // One comparison clears most leaves of a long range.
        let to = match visit.end {
            Some(end) if visit.slots.key(self.names.slot(len - 1)) >= end => {
                self.names.lower_bound(end, visit.slots)
            }
            _ => len,
        };
        for at in from..to {
            let shown = !visit.live_only || self.live >> at & 1 == 1;
            if shown && !each(self.names.slot(at)) {
                return false;
            }
        }
        to == len
    }
}

impl Inner {
    fn new() -> Inner {
        let (sums, children) = (Vec::with_capacity(FANOUT), Vec::with_capacity(FANOUT));
        Inner { names: Names::new(), sums, children }
    }

    /// The child that `key` is in, if it is anywhere.
    #[inline]
    fn child(&self, key: &[u8], slots: &Slots) -> usize {
        match self.names.find(key, slots) {
            Ok(at) => at,
            Err(after) => after.saturating_sub(1),
        }
    }

    fn insert(
        &mut self,
        key: &[u8],
        slot: SlotId,
        live: bool,
        change: &mut Change<'_>,
    ) -> Option<Inner> {
        let slots = change.slots;
        let child = self.child(key, slots);
        let split = self.children[child].insert(key, slot, live, change);
        self.refresh_first(child, slots);
        let Some(new) = split else {
            self.sums[child].add(Sum { keys: 1, live: u32::from(live) });
            return None;
        };
        self.sums[child] = self.children[child].sum();
        let at = child + 1;
        if self.names.len() < FANOUT {
            self.put(at, new, slots);
            return None;
        }
        let cut = names::cut(at);
        let mut upper = Inner::new();
        upper.names = self.names.split(cut, slots);
        upper.sums.extend(self.sums.drain(cut..));
        upper.children.extend(self.children.drain(cut..));
        if at < cut || (at == cut && cut < FANOUT) {
            self.put(at, new, slots);
        } else {
            upper.put(at - cut, new, slots);
        }
        Some(upper)
    }

    fn remove(&mut self, key: &[u8], change: &mut Change<'_>) -> bool {
        let slots = change.slots;
        let child = self.child(key, slots);
        let live = self.children[child].remove(key, change);
        let sum = &mut self.sums[child];
        sum.keys -= 1;
        sum.live -= u32::from(live);
        match self.children[child].len() {
            0 => {
                self.take(child);
                *change.nodes -= 1;
            }
            len => {
                self.refresh_first(child, slots);
                if len < SMALL {
                    self.join(child, change);
                }
            }
        }
        live
    }

    /// Joins a child that became small to a neighbour that has room; else it stays as it is.
    fn join(&mut self, child: usize, change: &mut Change<'_>) {
        let room = JOINED_MAX - self.children[child].len();
        let fits = |at: usize| self.children.get(at).is_some_and(|node| node.len() <= room);
        let lower = if fits(child + 1) {
            child
        } else if child > 0 && fits(child - 1) {
            child - 1
        } else {
            return;
        };
        let (upper, sum) = self.take(lower + 1);
        self.children[lower].append(upper, change.slots);
        self.sums[lower].add(sum);
        *change.nodes -= 1;
    }

    fn put(&mut self, at: usize, node: Node, slots: &Slots) {
        self.names.insert(at, node.first(), slots);
        self.sums.insert(at, node.sum());
        self.children.insert(at, node);
    }

    fn take(&mut self, at: usize) -> (Node, Sum) {
        self.names.remove(at);
        (self.children.remove(at), self.sums.remove(at))
    }

    fn refresh_first(&mut self, child: usize, slots: &Slots) {
        let first = self.children[child].first();
        if self.names.slot(child) != first {
            self.names.replace(child, first, slots);
        }
    }
}
