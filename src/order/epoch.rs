//! The cut between two epochs (R5): which revisions every lane still holds without a gap, and
//! which records of earlier epochs are void. Pure arithmetic on numbers that the lanes report.

use crate::keys::{LaneId, Revision};

/// One reign of one serving node, counted from 1; 0 is nobody's.
pub type Epoch = u64;

/// What a new epoch commits in lane 0 before it serves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochRecord {
    /// The epoch that begins.
    pub epoch: Epoch,
    /// P: the highest revision such that none up to it is missing in the lanes.
    pub cut: Revision,
    /// Per lane the barrier's (index, term): what lies below it belongs to earlier epochs.
    pub barriers: Vec<(u64, u64)>,
}

impl EpochRecord {
    /// Whether a record at `index` of `lane` with revision or stamp `at` is void: written before
    /// this epoch, above its cut.
    #[must_use]
    pub fn voids(&self, lane: LaneId, index: u64, at: Revision) -> bool {
        self.barriers
            .get(usize::from(lane.0))
            .is_some_and(|&(barrier, _)| index < barrier && at > self.cut)
    }
}

/// Two epochs that can not both have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("epoch {epoch} can not follow epoch {last}")]
pub struct OutOfOrder {
    /// The epoch that does not fit.
    pub epoch: Epoch,
    /// The one before it.
    pub last: Epoch,
}

/// All epochs of a node's history, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Epochs(Vec<EpochRecord>);

impl Epochs {
    /// Adds the newest epoch; one that is known is passed over.
    ///
    /// # Errors
    /// [`OutOfOrder`] if it does not come after the one before, or cuts lower: what an epoch showed
    /// was never void.
    pub fn push(&mut self, epoch: EpochRecord) -> Result<(), OutOfOrder> {
        match self.0.last() {
            Some(last) if *last == epoch => return Ok(()),
            Some(last) if last.epoch >= epoch.epoch || last.cut > epoch.cut => {
                return Err(OutOfOrder { epoch: epoch.epoch, last: last.epoch });
            }
            _ => self.0.push(epoch),
        }
        Ok(())
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&EpochRecord> {
        self.0.last()
    }

    /// Whether any epoch voids a record at `index` of `lane` with revision or stamp `at`. The first
    /// epoch that began behind the record decides, since cuts only grow. O(log epochs).
    #[must_use]
    pub fn voids(&self, lane: LaneId, index: u64, at: Revision) -> bool {
        let lane_at = usize::from(lane.0);
        let behind = self.0.partition_point(|epoch| {
            epoch.barriers.get(lane_at).is_none_or(|&(barrier, _)| barrier <= index)
        });
        self.0.get(behind).is_some_and(|epoch| epoch.voids(lane, index, at))
    }
}

/// Revisions that a lane holds, as ascending runs `first..=last` that do not touch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Runs(Vec<(Revision, Revision)>);

impl Runs {
    /// Adds one revision, if it is above all that were added before; whether it is.
    #[must_use]
    pub fn push(&mut self, revision: Revision) -> bool {
        match self.0.last_mut() {
            Some((_, last)) if last.next() == revision => *last = revision,
            Some((_, last)) if *last >= revision => return false,
            _ => self.0.push((revision, revision)),
        }
        true
    }
}

/// P of R5: the highest revision such that none from `base` (already held elsewhere) up to it is
/// missing in the lanes. O(runs · log runs).
#[must_use]
pub fn cut(base: Revision, lanes: &[Runs]) -> Revision {
    let mut runs: Vec<_> = lanes.iter().flat_map(|lane| lane.0.iter().copied()).collect();
    runs.sort_unstable();
    let mut held = base;
    for (first, last) in runs {
        if first > held.next() {
            break;
        }
        held = held.max(last);
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(revisions: &[i64]) -> Runs {
        let mut runs = Runs::default();
        revisions.iter().for_each(|&r| assert!(runs.push(Revision(r))));
        runs
    }

    #[test]
    fn the_cut_is_the_longest_prefix_without_a_gap() {
        assert_eq!(cut(Revision(1), &[runs(&[]), runs(&[])]), Revision(1));
        assert_eq!(cut(Revision(1), &[runs(&[2, 4]), runs(&[3, 6])]), Revision(4));
        assert_eq!(cut(Revision(1), &[runs(&[3, 4])]), Revision(1));
        assert_eq!(cut(Revision(5), &[runs(&[2, 3, 6])]), Revision(6));
    }

    #[test]
    fn a_lanes_revisions_only_grow() {
        let mut runs = runs(&[2, 3, 7]);
        assert!(!runs.push(Revision(7)) && !runs.push(Revision(2)) && runs.push(Revision(8)));
        assert_eq!(cut(Revision(6), &[runs]), Revision(8));
    }

    #[test]
    fn epochs_follow_each_other_and_never_cut_lower() {
        let epoch = |epoch, cut| EpochRecord { epoch, cut: Revision(cut), barriers: vec![] };
        let mut epochs = Epochs::default();
        assert_eq!(epochs.push(epoch(3, 10)), Ok(()));
        assert_eq!(epochs.push(epoch(3, 10)), Ok(()), "known");
        let refused = |epoch| Err(OutOfOrder { epoch, last: 3 });
        assert_eq!(epochs.push(epoch(3, 11)), refused(3));
        assert_eq!(epochs.push(epoch(2, 10)), refused(2));
        assert_eq!(epochs.push(epoch(4, 9)), refused(4));
        assert_eq!(epochs.push(epoch(5, 10)), Ok(()));
        assert_eq!(epochs.last(), Some(&epoch(5, 10)));
    }

    #[test]
    fn only_older_records_above_the_cut_are_void() {
        let epoch = EpochRecord { epoch: 3, cut: Revision(10), barriers: vec![(7, 2), (9, 2)] };
        assert!(epoch.voids(LaneId(0), 6, Revision(11)));
        assert!(!epoch.voids(LaneId(0), 6, Revision(10)));
        assert!(!epoch.voids(LaneId(0), 8, Revision(11)), "written by the new epoch");
        assert!(epoch.voids(LaneId(1), 8, Revision(11)));
    }
}
