//! Which segments of a log may go once a checkpoint holds what is in them. It knows numbers alone:
//! which segment a lane's entries begin in is told by whoever reads or writes the log, and that the
//! head of a segment repeats votes is the log's own business.

use std::collections::BTreeMap;

use super::Cut;
use crate::keys::LaneId;

/// Per segment of one log what it holds of each lane.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Retained {
    /// By segment, per lane the highest index of an entry that begins in it; 0 is none.
    segments: BTreeMap<u64, Vec<u64>>,
}

impl Retained {
    /// Entry `index` of `lane` is in `segment`, or in a later one that is not begun yet: segments go
    /// in their order, so too low a number only keeps one longer. O(log segments).
    pub fn append(&mut self, segment: u64, lane: LaneId, index: u64) {
        let lanes = self.segments.entry(segment).or_default();
        let lane = usize::from(lane.0);
        if lanes.len() <= lane {
            lanes.resize(lane + 1, 0);
        }
        // A tail that was overwritten counts as long as it is there.
        lanes[lane] = lanes[lane].max(index);
    }

    /// The first segment that must stay when a checkpoint holds the entries up to `cuts`, by lane;
    /// a lane that is not listed is held in no part. All below may go. Never above the newest
    /// segment with an entry, which may still grow. `None` when there is none.
    #[must_use]
    pub fn below(&self, cuts: &[Cut]) -> Option<u64> {
        let needed = |lanes: &[u64]| {
            let mut lanes = lanes.iter().enumerate();
            lanes.any(|(lane, &highest)| highest > cuts.get(lane).map_or(0, |cut| cut.index))
        };
        let first = self.segments.iter().find(|(_, lanes)| needed(lanes));
        first.or(self.segments.last_key_value()).map(|(&segment, _)| segment)
    }

    /// Segments below `segment` are gone.
    pub fn recycled_below(&mut self, segment: u64) {
        self.segments = self.segments.split_off(&segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(indexes: &[u64]) -> Vec<Cut> {
        indexes.iter().map(|&index| Cut { index, term: 1 }).collect()
    }

    fn filled() -> Retained {
        let mut retained = Retained::default();
        for (segment, lane, index) in [
            (3, 0, 1),
            (3, 2, 7),
            (3, 0, 2),
            (4, 0, 3),
            (6, 2, 8),
            (6, 2, 9),
            (7, 2, 10),
            (8, 0, 4),
        ] {
            retained.append(segment, LaneId(lane), index);
        }
        retained
    }

    #[test]
    fn segments_go_when_every_lane_has_passed_them() {
        let retained = filled();
        for (at, first) in [
            ([0, 0, 0], 3),
            ([2, 0, 6], 3),
            ([1, 0, 7], 3),
            ([2, 0, 7], 4),
            ([3, 0, 8], 6),
            ([3, 0, 9], 7),
            ([2, 0, 9], 4),
            ([3, 0, 10], 8),
            ([99, 99, 99], 8),
        ] {
            assert_eq!(retained.below(&cuts(&at)), Some(first), "{at:?}");
        }
        assert_eq!(retained.below(&cuts(&[99])), Some(3), "nothing is known of lane 2");
        assert_eq!(Retained::default().below(&cuts(&[99])), None);
    }

    #[test]
    fn an_overwritten_tail_keeps_its_segment_and_later_writes_theirs() {
        let mut retained = Retained::default();
        retained.append(1, LaneId(0), 9);
        retained.append(2, LaneId(0), 6);
        retained.append(2, LaneId(0), 7);
        assert_eq!(retained.below(&cuts(&[8])), Some(1));
        assert_eq!(retained.below(&cuts(&[9])), Some(2));
        retained.append(2, LaneId(0), 10);
        assert_eq!(retained.below(&cuts(&[9])), Some(2));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut retained = filled();
        retained.recycled_below(6);
        assert_eq!(retained.below(&cuts(&[0, 0, 0])), Some(6));
        retained.recycled_below(6);
        assert_eq!(retained.below(&cuts(&[3, 0, 9])), Some(7));
    }
}
