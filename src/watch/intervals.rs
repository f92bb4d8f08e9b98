//! A map from key ranges to values that finds all ranges around a key: a height-balanced tree in the
//! order of the ranges, each subtree of which knows how far right it reaches. Clients choose the
//! ranges, so the bounds hold for the worst of them. Knows nothing of watchers.

use crate::keys::KeyRange;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node<V> {
    range: KeyRange,
    value: V,
    left: u32,
    right: u32,
    height: u8,
    /// The node of this subtree whose range ends last.
    reach: u32,
}

/// The map. Nodes live in one vector and refer to each other by index.
#[derive(Debug)]
pub(super) struct Intervals<V> {
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    root: u32,
}

impl<V> Default for Intervals<V> {
    fn default() -> Intervals<V> {
        Intervals { nodes: Vec::new(), free: Vec::new(), root: NONE }
    }
}

impl<V: Default> Intervals<V> {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.root == NONE
    }

    /// The value of `range`, if it is in the map. O(log n).
    pub(super) fn get_mut(&mut self, range: &KeyRange) -> Option<&mut V> {
        let at = self.find(range)?;
        Some(&mut self.nodes[at as usize].value)
    }

    /// The value of `range`, put there if need be. O(log n).
    pub(super) fn entry(&mut self, range: &KeyRange) -> &mut V {
        let at = self.find(range).unwrap_or_else(|| {
            let node = self.add_node(range.clone());
            self.root = self.insert(self.root, node);
            node
        });
        &mut self.nodes[at as usize].value
    }

    /// Takes `range` out. O(log n).
    pub(super) fn remove(&mut self, range: &KeyRange) -> Option<V> {
        let at = self.find(range)?;
        self.root = self.take(self.root, range);
        let node = &mut self.nodes[at as usize];
        node.range = KeyRange::all();
        self.free.push(at);
        Some(std::mem::take(&mut node.value))
    }

    /// Visits the values of all ranges that hold `key`, in the order of the ranges.
    /// O(log n · (1 + found)).
    pub(super) fn holding(&self, key: &[u8], visit: &mut impl FnMut(&V)) {
        self.visit_holding(self.root, key, visit);
    }

    /// Visits all ranges that overlap `range`, in order.
    pub(super) fn overlapping(&self, range: &KeyRange, visit: &mut impl FnMut(&KeyRange, &V)) {
        self.visit_overlapping(self.root, range, visit);
    }

    fn visit_holding(&self, at: u32, key: &[u8], visit: &mut impl FnMut(&V)) {
        let Some(node) = self.node(at) else { return };
        if !self.reaches_beyond(node, key) {
            return;
        }
        self.visit_holding(node.left, key, visit);
        if node.range.start.as_slice() <= key {
            if node.range.contains(key) {
                visit(&node.value);
            }
            self.visit_holding(node.right, key, visit);
        }
    }

    fn visit_overlapping(&self, at: u32, range: &KeyRange, visit: &mut impl FnMut(&KeyRange, &V)) {
        let Some(node) = self.node(at) else { return };
        if !self.reaches_beyond(node, &range.start) {
            return;
        }
        self.visit_overlapping(node.left, range, visit);
        if range.end.as_ref().is_none_or(|end| node.range.start < *end) {
            if node.range.overlaps(range) {
                visit(&node.range, &node.value);
            }
            self.visit_overlapping(node.right, range, visit);
        }
    }

    /// Whether some range of the subtree ends behind `key`.
    fn reaches_beyond(&self, node: &Node<V>, key: &[u8]) -> bool {
        let end = &self.nodes[node.reach as usize].range.end;
        end.as_ref().is_none_or(|end| end.as_slice() > key)
    }

    fn node(&self, at: u32) -> Option<&Node<V>> {
        self.nodes.get(at as usize)
    }

    fn find(&self, range: &KeyRange) -> Option<u32> {
        let mut at = self.root;
        while let Some(node) = self.node(at) {
            at = match range.cmp(&node.range) {
                std::cmp::Ordering::Less => node.left,
                std::cmp::Ordering::Equal => return Some(at),
                std::cmp::Ordering::Greater => node.right,
            };
        }
        None
    }

    fn add_node(&mut self, range: KeyRange) -> u32 {
        let fresh =
            Node { range, value: V::default(), left: NONE, right: NONE, height: 1, reach: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = fresh;
                at
            }
            None => {
                self.nodes.push(fresh);
                u32::try_from(self.nodes.len() - 1).expect("fewer ranges than 2^32")
            }
        };
        self.nodes[at as usize].reach = at;
        at
    }

    /// Puts `node` into the subtree at `at`; returns the subtree's new root.
    fn insert(&mut self, at: u32, node: u32) -> u32 {
        if at == NONE {
            return node;
        }
        if self.nodes[node as usize].range < self.nodes[at as usize].range {
            let left = self.insert(self.nodes[at as usize].left, node);
            self.nodes[at as usize].left = left;
        } else {
            let right = self.insert(self.nodes[at as usize].right, node);
            self.nodes[at as usize].right = right;
        }
        self.balanced(at)
    }

    /// Takes the node of `range` out of the subtree at `at`; returns the subtree's new root.
    fn take(&mut self, at: u32, range: &KeyRange) -> u32 {
        let Node { left, right, .. } = self.nodes[at as usize];
        match range.cmp(&self.nodes[at as usize].range) {
            std::cmp::Ordering::Less => self.nodes[at as usize].left = self.take(left, range),
            std::cmp::Ordering::Greater => {
                self.nodes[at as usize].right = self.take(right, range);
            }
            std::cmp::Ordering::Equal if right == NONE => return left,
            std::cmp::Ordering::Equal => {
                let (first, rest) = self.take_first(right);
                self.nodes[first as usize].left = left;
                self.nodes[first as usize].right = rest;
                return self.balanced(first);
            }
        }
        self.balanced(at)
    }

    /// Takes the first node out of a subtree; returns it, and the subtree's new root.
    fn take_first(&mut self, at: u32) -> (u32, u32) {
        let Node { left, right, .. } = self.nodes[at as usize];
        if left == NONE {
            return (at, right);
        }
        let (first, rest) = self.take_first(left);
        self.nodes[at as usize].left = rest;
        (first, self.balanced(at))
    }

    /// Restores the balance of a subtree whose sides differ by two at most; returns its new root.
    fn balanced(&mut self, at: u32) -> u32 {
        let Node { left, right, .. } = self.nodes[at as usize];
        let (of_left, of_right) = (self.height(left), self.height(right));
        if of_left > of_right + 1 {
            let Node { left: outer, right: inner, .. } = self.nodes[left as usize];
            if self.height(inner) > self.height(outer) {
                let turned = self.turn_left(left);
                self.nodes[at as usize].left = turned;
            }
            return self.turn_right(at);
        }
        if of_right > of_left + 1 {
            let Node { left: inner, right: outer, .. } = self.nodes[right as usize];
            if self.height(inner) > self.height(outer) {
                let turned = self.turn_right(right);
                self.nodes[at as usize].right = turned;
            }
            return self.turn_left(at);
        }
        self.measure(at);
        at
    }

    fn turn_left(&mut self, at: u32) -> u32 {
        let up = self.nodes[at as usize].right;
        self.nodes[at as usize].right = self.nodes[up as usize].left;
        self.nodes[up as usize].left = at;
        self.measure(at);
        self.measure(up);
        up
    }

    fn turn_right(&mut self, at: u32) -> u32 {
        let up = self.nodes[at as usize].left;
        self.nodes[at as usize].left = self.nodes[up as usize].right;
        self.nodes[up as usize].right = at;
        self.measure(at);
        self.measure(up);
        up
    }

    fn measure(&mut self, at: u32) {
        let Node { left, right, .. } = self.nodes[at as usize];
        let mut reach = at;
        for child in [left, right] {
            if let Some(child) = self.node(child)
                && self.ends_after(child.reach, reach)
            {
                reach = child.reach;
            }
        }
        let height = 1 + self.height(left).max(self.height(right));
        let node = &mut self.nodes[at as usize];
        (node.height, node.reach) = (height, reach);
    }

    fn height(&self, at: u32) -> u8 {
        self.node(at).map_or(0, |node| node.height)
    }

    fn ends_after(&self, a: u32, b: u32) -> bool {
        match (&self.nodes[a as usize].range.end, &self.nodes[b as usize].range.end) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(a), Some(b)) => a > b,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl Intervals<u64> {
        /// Checks balance, order and reach of a subtree; returns its height.
        fn check(&self, at: u32) -> u8 {
            let Some(node) = self.node(at) else { return 0 };
            let (left, right) = (self.check(node.left), self.check(node.right));
            assert!(left.abs_diff(right) <= 1, "sides of {left} and {right}");
            assert_eq!(node.height, 1 + left.max(right));
            for child in [node.left, node.right].into_iter().filter_map(|child| self.node(child)) {
                assert!(!self.ends_after(child.reach, node.reach));
            }
            node.height
        }
    }

    #[test]
    fn it_finds_what_a_plain_list_finds() {
        let mut seed = 11_u64;
        let mut next = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut map = Intervals::default();
        let mut model: BTreeMap<KeyRange, u64> = BTreeMap::new();
        for step in 1..4_000 {
            let start = vec![next(40) as u8];
            let end = (next(8) > 0).then(|| vec![start[0] + 1 + next(20) as u8]);
            let range = KeyRange { start, end };
            if next(5) < 2 {
                assert_eq!(map.remove(&range), model.remove(&range));
            } else {
                *map.entry(&range) = step;
                model.insert(range.clone(), step);
                assert_eq!(map.get_mut(&range), Some(&mut step.clone()));
            }
            map.check(map.root);
            let key = [next(64) as u8, next(2) as u8];
            let mut found = Vec::new();
            map.holding(&key, &mut |value| found.push(*value));
            let expected = model.iter().filter(|(range, _)| range.contains(&key));
            assert_eq!(found, expected.map(|(_, value)| *value).collect::<Vec<_>>());

            let mut found = Vec::new();
            map.overlapping(&range, &mut |range, _| found.push(range.clone()));
            let expected = model.keys().filter(|other| other.overlaps(&range));
            assert_eq!(found, expected.cloned().collect::<Vec<_>>());
        }
        let ranges: Vec<KeyRange> = model.into_keys().collect();
        ranges.iter().for_each(|range| assert!(map.remove(range).is_some()));
        assert!(map.is_empty());
    }

    #[test]
    fn ascending_ranges_do_not_make_it_deep() {
        let mut map = Intervals::<u64>::default();
        for n in 0..10_000_u32 {
            let start = n.to_be_bytes().to_vec();
            map.entry(&KeyRange { end: Some([&start[..], &[0xff]].concat()), start });
        }
        assert!(map.check(map.root) <= 16, "1.44 · log2 of 10,000 is 19, sorted input gives 14");
    }
}
