//! The key index: slots in the order of their keys, with the number of keys and of live keys before
//! any place in it.
//!
//! A B+-tree over four-byte slot numbers. It holds no key bytes but short hints of them
//! ([`names`]): the keys themselves lie in [`Slots`], which every call is handed. It knows no
//! versions, revisions or other layers; what it counts of a key are two bits that it is told.

mod cursor;
mod cut;
mod leaf;
mod names;
#[cfg(test)]
mod tests;

pub(super) use cursor::Cursor;
use leaf::Leaf;
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
    /// Those that have a value in the layers beneath.
    pub(super) below: u32,
}

/// What is counted of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bits {
    /// It has a value now.
    pub(super) live: bool,
    /// It has a value in the layers beneath. Never said of a key that has none: walks rely on it.
    pub(super) below: bool,
}

enum Node {
    Leaf(Box<Leaf>),
    Inner(Box<Inner>),
}

/// Children in order, each with its first key and what it holds; at least one.
struct Inner {
    names: Names,
    sums: Vec<Sum>,
    children: Vec<Node>,
}

/// A node grows in height only when it is full, and its neighbours are hardly ever nearly empty: 2^32 keys
/// take about six steps.
const HEIGHT_MAX: usize = 12;

/// Where a key belongs that is not in the index: the child in each node from the root on, then the place
/// in the leaf. Good until the index changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    steps: [u8; HEIGHT_MAX],
}

const _: () = assert!(FANOUT <= u8::MAX as usize, "a step is a byte");

/// The way to a key that was found, for keys that follow it.
pub(super) struct Finger {
    place: Place,
    /// Per level the first key behind the node there, if there is any.
    ends: [Option<SlotId>; HEIGHT_MAX],
    /// Of the leaf.
    level: usize,
    /// How many nodes there were.
    nodes: usize,
}

impl Default for Finger {
    fn default() -> Finger {
        Finger {
            place: Place { steps: [0; HEIGHT_MAX] },
            ends: [None; HEIGHT_MAX],
            level: 0,
            nodes: 0,
        }
    }
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
    /// Passes over keys that have no value and hide none beneath.
    pub(super) relevant_only: bool,
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

    /// The slot of a key, or where the key belongs.
    #[inline]
    pub(super) fn place(&self, key: &[u8], slots: &Slots) -> Result<SlotId, Place> {
        self.place_behind(&mut Finger::default(), key, slots)
    }

    /// As [`Index::place`], of a key that is not before the key that was last found with `finger`: what is
    /// near that needs no search from the root. Between the two, keys may come and none may go.
    #[inline]
    pub(super) fn place_behind(
        &self,
        finger: &mut Finger,
        key: &[u8],
        slots: &Slots,
    ) -> Result<SlotId, Place> {
        let Finger { place, ends, level, nodes } = finger;
        // Whenever a node splits there are more of them, and what follows it stands elsewhere.
        let mut known = if *nodes == self.nodes { *level } else { 0 };
        *nodes = self.nodes;
        while known > 0 && ends[known].is_some_and(|end| slots.key(end) <= key) {
            known -= 1;
        }
        let mut node = &self.root;
        for at in 0..HEIGHT_MAX {
            match node {
                Node::Leaf(leaf) => {
                    *level = at;
                    return leaf.names.find(key, slots).map(|at| leaf.names.slot(at)).map_err(
                        |step| {
                            place.steps[at] = step as u8;
                            *place
                        },
                    );
                }
                Node::Inner(inner) => {
                    if at >= known {
                        let child = inner.child(key, slots);
                        place.steps[at] = child as u8;
                        let next = child + 1;
                        ends[at + 1] = match next < inner.names.len() {
                            true => Some(inner.names.slot(next)),
                            false => ends[at],
                        };
                    }
                    node = &inner.children[usize::from(place.steps[at])];
                }
            }
        }
        unreachable!("no index of 2^32 keys is that high")
    }

    /// Adds a key by its slot, where [`Index::place`] has just said that it belongs.
    pub(super) fn insert(&mut self, place: &Place, slot: SlotId, bits: Bits, slots: &Slots) {
        let mut change = Change { slots, nodes: &mut self.nodes };
        if let Some(upper) = self.root.insert(&place.steps, slot, bits, &mut change) {
            let lower = std::mem::replace(&mut self.root, Node::Leaf(Box::new(Leaf::new())));
            let mut inner = Inner::new();
            inner.put(0, lower, slots);
            inner.put(1, upper, slots);
            self.root = Node::Inner(Box::new(inner));
            self.nodes += 1;
        }
        self.sum.add(bits.sum());
    }

    /// Takes out a key that is in the index, and returns what was counted of it. Its slot may be given
    /// up after this, not before.
    pub(super) fn remove(&mut self, key: &[u8], slots: &Slots) -> Bits {
        let mut change = Change { slots, nodes: &mut self.nodes };
        let bits = self.root.remove(key, &mut change);
        self.sum.take(bits.sum());
        self.lower_root();
        bits
    }

    /// A root with one child or none gives way to that, or to a leaf.
    fn lower_root(&mut self) {
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

    /// Whether a key of the index has a value in the layers beneath.
    pub(super) fn is_below(&self, key: &[u8], slots: &Slots) -> bool {
        if self.sum.below == 0 {
            return false;
        }
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    return leaf
                        .bits(leaf.names.find(key, slots).expect("a key of the index"))
                        .below;
                }
                Node::Inner(inner) => node = &inner.children[inner.child(key, slots)],
            }
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
                    sum.add(leaf.sum(leaf.names.lower_bound(key, slots)));
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
                    return Some(leaf.names.slot(leaf.nth_live(left)));
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
        self.below += other.below;
    }

    /// Whether no key has a value or hides one.
    fn is_irrelevant(self) -> bool {
        self.live == 0 && self.below == 0
    }

    fn take(&mut self, other: Sum) {
        self.keys -= other.keys;
        self.live -= other.live;
        self.below -= other.below;
    }
}

impl Bits {
    fn sum(self) -> Sum {
        Sum { keys: 1, live: u32::from(self.live), below: u32::from(self.below) }
    }
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
            Node::Leaf(leaf) => leaf.sum(leaf.names.len()),
            Node::Inner(inner) => {
                let mut sum = Sum::default();
                inner.sums.iter().for_each(|s| sum.add(*s));
                sum
            }
        }
    }

    /// Adds a key, which is so many steps from here; a node that was full returns its upper part.
    fn insert(
        &mut self,
        steps: &[u8],
        slot: SlotId,
        bits: Bits,
        change: &mut Change<'_>,
    ) -> Option<Node> {
        let (at, rest) = (usize::from(steps[0]), &steps[1..]);
        match self {
            Node::Leaf(leaf) => {
                let upper = leaf.insert(at, slot, bits, change.slots)?;
                *change.nodes += 1;
                Some(Node::Leaf(Box::new(upper)))
            }
            Node::Inner(inner) => {
                let upper = inner.insert(at, rest, slot, bits, change)?;
                *change.nodes += 1;
                Some(Node::Inner(Box::new(upper)))
            }
        }
    }

    /// Takes a key out and says what was counted of it.
    fn remove(&mut self, key: &[u8], change: &mut Change<'_>) -> Bits {
        match self {
            Node::Leaf(leaf) => leaf.remove(key, change.slots),
            Node::Inner(inner) => inner.remove(key, change),
        }
    }

    fn set_live(&mut self, key: &[u8], live: bool, slots: &Slots) {
        match self {
            Node::Leaf(leaf) => {
                leaf.set_live(key, live, slots);
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
                lower.append(&upper, slots);
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
                    if visit.relevant_only && inner.sums[child].is_irrelevant() {
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
        child: usize,
        steps: &[u8],
        slot: SlotId,
        bits: Bits,
        change: &mut Change<'_>,
    ) -> Option<Inner> {
        let slots = change.slots;
        let split = self.children[child].insert(steps, slot, bits, change);
        self.refresh_first(child, slots);
        let Some(new) = split else {
            self.sums[child].add(bits.sum());
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

    fn remove(&mut self, key: &[u8], change: &mut Change<'_>) -> Bits {
        let slots = change.slots;
        let child = self.child(key, slots);
        let bits = self.children[child].remove(key, change);
        self.sums[child].take(bits.sum());
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
        bits
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
        self.names.remove(at..at + 1);
        (self.children.remove(at), self.sums.remove(at))
    }

    fn refresh_first(&mut self, child: usize, slots: &Slots) {
        let first = self.children[child].first();
        if self.names.slot(child) != first {
            self.names.replace(child, first, slots);
        }
    }
}
