//! The range map: sorted boundaries, each the first key of a range and the lane that owns it.
//!
//! Every core has a copy; control records in lane 0 change it (R10). A copy may be behind: the
//! shard that is asked checks for itself and says "moved" where it no longer owns a key.

use bytes::Bytes;

use crate::keys::{KeyRange, LaneId};

/// Which lane owns which keys. There is always an owner for every key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeMap {
    version: u64,
    /// Ascending first keys; the first is the empty key. Neighbours differ in their lane.
    starts: Vec<(Bytes, LaneId)>,
}

impl Default for RangeMap {
    fn default() -> RangeMap {
        RangeMap { version: 0, starts: vec![(Bytes::new(), LaneId(0))] }
    }
}

impl RangeMap {
    /// A map as it was logged.
    ///
    /// # Panics
    /// If `starts` does not begin with the empty key or does not ascend.
    #[must_use]
    pub fn new(version: u64, starts: Vec<(Bytes, LaneId)>) -> RangeMap {
        assert!(starts.first().is_some_and(|(start, _)| start.is_empty()), "no owner for all keys");
        assert!(starts.is_sorted_by(|a, b| a.0 < b.0), "boundaries must ascend");
        RangeMap { version, starts }
    }

    /// Grows by one with each change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The first key of each range and its owner, ascending.
    #[must_use]
    pub fn starts(&self) -> &[(Bytes, LaneId)] {
        &self.starts
    }

    /// The lane that owns `key`. O(log ranges).
    #[must_use]
    pub fn lane_of(&self, key: &[u8]) -> LaneId {
        self.starts[self.slot_of(key)].1
    }

    fn slot_of(&self, key: &[u8]) -> usize {
        self.starts.partition_point(|(start, _)| start.as_ref() <= key) - 1
    }

    fn slot(&self, at: usize) -> KeyRange {
        KeyRange {
            start: self.starts[at].0.to_vec(),
            end: self.starts.get(at + 1).map(|(next, _)| next.to_vec()),
        }
    }

    /// `range` cut at the boundaries, in key order, each piece with its owner.
    #[must_use]
    pub fn pieces(&self, range: &KeyRange) -> Vec<(KeyRange, LaneId)> {
        if range.is_empty() {
            return Vec::new();
        }
        (self.slot_of(&range.start)..self.starts.len())
            .map_while(|at| Some((self.slot(at).intersect(range)?, self.starts[at].1)))
            .collect()
    }

    /// The lane that owns all of `range`, if one does; an empty range belongs to whoever would own
    /// its first key.
    #[must_use]
    pub fn sole_owner(&self, range: &KeyRange) -> Option<LaneId> {
        let slot = self.slot_of(&range.start);
        let whole = range.is_empty() || self.slot(slot).covers(range);
        whole.then(|| self.starts[slot].1)
    }

    /// Whether `lane` owns all of `range`.
    #[must_use]
    pub fn owns(&self, lane: LaneId, range: &KeyRange) -> bool {
        self.sole_owner(range) == Some(lane)
    }

    /// The ranges of one lane.
    pub fn of_lane(&self, lane: LaneId) -> impl Iterator<Item = KeyRange> + '_ {
        let owned = move |at: &usize| self.starts[*at].1 == lane;
        (0..self.starts.len()).filter(owned).map(|at| self.slot(at))
    }

    /// The next version of the map, in which `to` owns `range`.
    #[must_use]
    pub fn moved(&self, range: &KeyRange, to: LaneId) -> RangeMap {
        let mut starts: Vec<(Bytes, LaneId)> = Vec::with_capacity(self.starts.len() + 2);
        let mut push = |start: Bytes, lane: LaneId| {
            if starts.last().is_none_or(|&(_, before)| before != lane) {
                starts.push((start, lane));
            }
        };
        for at in 0..self.starts.len() {
            let (slot, lane) = (self.slot(at), self.starts[at].1);
            let Some(inside) = slot.intersect(range) else {
                push(slot.start.into(), lane);
                continue;
            };
            if slot.start < inside.start {
                push(slot.start.into(), lane);
            }
            push(inside.start.into(), to);
            if let Some(rest) = inside.end
                && slot.end.as_ref() != Some(&rest)
            {
                push(rest.into(), lane);
            }
        }
        RangeMap { version: self.version + 1, starts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> KeyRange {
        let end = (!end.is_empty()).then(|| end.as_bytes().to_vec());
        KeyRange { start: start.as_bytes().to_vec(), end }
    }

    #[test]
    fn a_fresh_map_is_one_range_of_lane_0() {
        let map = RangeMap::default();
        assert_eq!(map.sole_owner(&KeyRange::all()), Some(LaneId(0)));
        assert_eq!(map.pieces(&range("b", "a")), vec![]);
    }

    #[test]
    fn moves_split_and_join_ranges() {
        let map = RangeMap::default().moved(&range("g", "m"), LaneId(1));
        assert_eq!(map.lane_of(b"f"), LaneId(0));
        assert_eq!(map.lane_of(b"g"), LaneId(1));
        assert_eq!(map.lane_of(b"m"), LaneId(0));
        let pieces = map.pieces(&range("a", "h"));
        assert_eq!(pieces, vec![(range("a", "g"), LaneId(0)), (range("g", "h"), LaneId(1))]);
        assert_eq!(map.sole_owner(&range("a", "h")), None);

        let joined = map.moved(&range("m", ""), LaneId(1));
        assert_eq!(joined.starts().len(), 2, "{joined:?}");
        let back = joined.moved(&KeyRange::all(), LaneId(0));
        assert_eq!((back.starts().len(), back.version()), (1, 3));
    }

    #[test]
    fn every_key_keeps_exactly_one_owner_through_any_moves() {
        let mut seed = 7_u64;
        let mut next = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut map = RangeMap::default();
        let mut model = [LaneId(0); 26];
        for _ in 0..2_000 {
            let (a, b, lane) = (next(26), next(27), LaneId(next(4) as u16));
            let key = |at: u64| vec![b'a' + at as u8];
            let end = (b < 26).then(|| key(b));
            map = map.moved(&KeyRange { start: key(a), end }, lane);
            model.iter_mut().enumerate().for_each(|(at, owner)| {
                if (a..b).contains(&(at as u64)) {
                    *owner = lane;
                }
            });
            for (at, owner) in model.iter().enumerate() {
                assert_eq!(map.lane_of(&key(at as u64)), *owner);
            }
            let pieces = map.pieces(&KeyRange::all());
            assert!(pieces.windows(2).all(|two| two[0].0.end.as_ref() == Some(&two[1].0.start)));
        }
    }
}
