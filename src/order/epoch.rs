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

    /// Above which revision or stamp records at `index` of `lane` are void; `None` when none is. The
    /// first epoch that began behind them decides, since cuts only grow. O(log epochs).
    #[must_use]
    pub fn limit(&self, lane: LaneId, index: u64) -> Option<Revision> {
        let lane_at = usize::from(lane.0);
        let behind = self.0.partition_point(|epoch| {
            epoch.barriers.get(lane_at).is_none_or(|&(barrier, _)| barrier <= index)
        });
        self.0.get(behind).map(|epoch| epoch.cut)
    }

    /// Whether any epoch voids a record at `index` of `lane` with revision or stamp `at`.
    #[must_use]
    pub fn voids(&self, lane: LaneId, index: u64, at: Revision) -> bool {
        self.limit(lane, index).is_some_and(|limit| at > limit)
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

    /// The lowest one.
    #[must_use]
    pub fn first(&self) -> Option<Revision> {
        self.0.first().map(|(first, _)| *first)
    }

    /// The highest one.
    #[must_use]
    pub fn last(&self) -> Option<Revision> {
        self.0.last().map(|(_, last)| *last)
    }

    /// Adds those of `others` up to `limit`, if they are above all that were added before; whether
    /// they are.
    #[must_use]
    pub fn append(&mut self, others: &Runs, limit: Revision) -> bool {
        let kept = others.0.iter().take_while(|(first, _)| *first <= limit);
        let mut kept = kept.map(|&(first, last)| (first, last.min(limit)));
        let Some(next) = kept.next() else { return true };
        match self.0.last_mut() {
            Some((_, last)) if last.next() == next.0 => *last = next.1,
            Some((_, last)) if *last >= next.0 => return false,
            _ => self.0.push(next),
        }
        self.0.extend(kept);
        true
    }
}

/// P of R5: the highest revision such that none from `base` (already held elsewhere) up to it is
/// missing in the lanes. O(runs · lanes).
#[must_use]
pub fn cut(base: Revision, lanes: &[Runs]) -> Revision {
    let mut rest: Vec<&[(Revision, Revision)]> = lanes.iter().map(|lane| &lane.0[..]).collect();
    let mut held = base;
    loop {
        let before = held;
        for runs in &mut rest {
            while let [(first, last), others @ ..] = runs
                && *first <= held.next()
            {
                held = held.max(*last);
                *runs = others;
            }
        }
        if held == before {
            return held;
        }
    }
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
    fn sections_of_a_lane_are_joined_without_what_is_void() {
        let mut all = runs(&[2, 3]);
        assert!(all.append(&runs(&[4, 5, 7, 8, 9, 12]), Revision(8)));
        assert_eq!(all, runs(&[2, 3, 4, 5, 7, 8]));
        assert!(all.append(&runs(&[1, 2]), Revision(0)), "all void");
        assert!(!all.append(&runs(&[8, 9]), Revision(9)), "twice");
        assert!(all.append(&runs(&[9, 12]), Revision::MAX));
        assert_eq!(all, runs(&[2, 3, 4, 5, 7, 8, 9, 12]));
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
        let record = EpochRecord { epoch: 3, cut: Revision(10), barriers: vec![(7, 2), (9, 2)] };
        let mut epochs = Epochs::default();
        epochs.push(record).expect("the first");
        assert!(epochs.voids(LaneId(0), 6, Revision(11)));
        assert!(!epochs.voids(LaneId(0), 6, Revision(10)));
        assert!(!epochs.voids(LaneId(0), 7, Revision(11)), "written by the new epoch");
        assert!(epochs.voids(LaneId(1), 8, Revision(11)));
    }
}
