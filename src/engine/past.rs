//! What a node finds in its logs when it starts, put in order: the epochs that were, the revisions
//! each lane holds, and the records to install once the new epoch's cut is known (R5, R8).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::alarms::Alarms;
use crate::keys::{LaneId, LeaseId, Revision};
use crate::lane::redo::{Batch, Control, Malformed, Record, Write};
use crate::lane::{Cut, Damaged, Recovered};
use crate::order::{Epoch, EpochRecord, Epochs, OutOfOrder, Runs};
use crate::route::RangeMap;

/// Why the records of the logs make no sense, though every frame passed its checksum.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A lane's Raft entries contradict each other.
    #[error("lane {lane}: {source}")]
    Lane {
        /// Which lane.
        lane: u16,
        /// What is wrong.
        source: Damaged,
    },
    /// An entry is no batch of redo records.
    #[error("lane {lane}, entry {index}: {source}")]
    Entry {
        /// Which lane.
        lane: u16,
        /// Which entry.
        index: u64,
        /// What is wrong.
        source: Malformed,
    },
    /// A lane's revisions do not grow along its log.
    #[error("lane {lane}, entry {index}: revision {revision} is not above those before it", revision = revision.0)]
    Order {
        /// Which lane.
        lane: u16,
        /// Which entry.
        index: u64,
        /// The revision that comes too late.
        revision: Revision,
    },
    /// The epochs that were recorded contradict each other or the checkpoint.
    #[error(transparent)]
    Epoch(#[from] OutOfOrder),
    /// Revisions are missing that an epoch had begun with, so clients may have seen them.
    #[error(
        "revisions up to {served} were served, checkpoint and logs hold those up to {held}",
        served = served.0, held = held.0
    )]
    Lost {
        /// Where the newest epoch began.
        served: Revision,
        /// What is there without a gap.
        held: Revision,
    },
}

/// What lies beneath the logs: what a checkpoint holds, besides keys. The default is the beginning
/// of time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ground {
    /// R: every revision up to it is in the checkpoint.
    pub at: Revision,
    /// Per lane the newest entry of which nothing is needed any more. A lane that is not listed has
    /// none.
    pub lanes: Vec<Cut>,
    /// The newest epoch that was recorded when the checkpoint was made.
    pub epoch: Option<EpochRecord>,
    /// Control state. It may include what records above lane 0's cut say: each of them says what
    /// became true, so that all from the cut on, said again in their order, lead to the same state.
    pub control: PastControl,
}

impl Default for Ground {
    fn default() -> Ground {
        Ground {
            at: Revision::FIRST,
            lanes: Vec::new(),
            epoch: None,
            control: PastControl::default(),
        }
    }
}

/// Everything that earlier epochs left, shared by all cores until they have installed it.
#[derive(Debug, Default)]
pub struct Past {
    /// What lies beneath.
    ground: Ground,
    /// Per lane the entries with their indexes.
    lanes: Vec<Vec<(u64, Bytes)>>,
    /// Per lane the revisions it holds, void ones left out.
    runs: Vec<Runs>,
    /// Epochs that were recorded.
    epochs: Epochs,
    /// The newest epoch that was begun, recorded or not.
    newest_epoch: Epoch,
    /// P of R5.
    cut: Revision,
}

/// What [`recover`] makes of the logs.
#[derive(Debug, Default)]
pub struct Recovery {
    /// For all cores.
    pub past: Arc<Past>,
    /// For each lane its group's past, to be given to the core that has it.
    pub lanes: Vec<Recovered>,
}

/// Puts the records of all logs together: per lane, in any order, kind and bytes as they were
/// appended. What `ground` holds is left out.
///
/// # Errors
/// [`RecoverError`] when the records contradict each other or the checkpoint: a defect, a newer
/// format, or files that do not belong together.
pub fn recover(records: Vec<Vec<(u8, Bytes)>>, ground: &Ground) -> Result<Recovery, RecoverError> {
    let mut past = Past { ground: ground.clone(), ..Past::default() };
    let mut lanes = Vec::new();
    for (lane, records) in (0..).zip(records) {
        let cut = ground.lanes.get(usize::from(lane)).copied().unwrap_or_default();
        let recovered = Recovered::assemble(records, cut)
            .map_err(|source| RecoverError::Lane { lane, source })?;
        let entries = recovered.entries();
        past.lanes.push(entries.map(|(index, data)| (index, data.clone())).collect());
        lanes.push(recovered);
    }
    past.read_epochs()?;
    past.read_runs()?;
    past.find_cut()?;
    Ok(Recovery { past: Arc::new(past), lanes })
}

impl Past {
    fn read_epochs(&mut self) -> Result<(), RecoverError> {
        let mut found: Vec<_> = self.ground.epoch.iter().cloned().collect();
        if let Some(entries) = self.lanes.first() {
            each(LaneId(0), entries, |_, record| {
                if let Record::Epoch { epoch, cut, barriers } = record {
                    found.push(EpochRecord { epoch, cut, barriers });
                }
                Ok(())
            })?;
        }
        // The checkpoint's epoch is the newest of its time, while its cut in lane 0 may lie below
        // that and below older ones.
        found.sort_by_key(|record| record.epoch);
        found.into_iter().try_for_each(|epoch| self.epochs.push(epoch))?;
        Ok(())
    }

    fn read_runs(&mut self) -> Result<(), RecoverError> {
        self.newest_epoch = self.epochs.last().map_or(0, |epoch| epoch.epoch);
        for (number, entries) in (0..).zip(&self.lanes) {
            let (lane, mut runs) = (LaneId(number), Runs::default());
            each(lane, entries, |index, record| {
                if let Record::Barrier { epoch } = record {
                    self.newest_epoch = self.newest_epoch.max(epoch);
                }
                match record.revision() {
                    Some(revision)
                        if revision > self.ground.at
                            && !self.epochs.voids(lane, index, revision)
                            && !runs.push(revision) =>
                    {
                        Err(RecoverError::Order { lane: number, index, revision })
                    }
                    _ => Ok(()),
                }
            })?;
            self.runs.push(runs);
        }
        Ok(())
    }

    fn find_cut(&mut self) -> Result<(), RecoverError> {
        self.cut = crate::order::epoch::cut(self.ground.at, &self.runs);
        match self.epochs.last() {
            Some(last) if last.cut > self.cut => {
                Err(RecoverError::Lost { served: last.cut, held: self.cut })
            }
            _ => Ok(()),
        }
    }

    /// The epoch that begins now.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        self.newest_epoch + 1
    }

    /// P of R5: what checkpoint and lanes hold without a gap.
    #[must_use]
    pub fn cut(&self) -> Revision {
        self.cut
    }

    /// The control state as of the epoch that `record` opens.
    ///
    /// # Panics
    /// If an entry is malformed: [`recover`] has read them all before.
    #[must_use]
    pub fn control(&self, record: &EpochRecord) -> PastControl {
        let mut control = self.ground.control.clone();
        let Some(entries) = self.lanes.first() else { return control };
        let epochs = self.epochs_with(record);
        each(LaneId(0), entries, |index, record| {
            // A stamp does not tell whether the checkpoint has the record: others may have had the
            // same one after it. So all of them take effect, once more or for the first time.
            if record.at().is_none_or(|at| !epochs.voids(LaneId(0), index, at)) {
                control.apply(record);
            }
            Ok(())
        })
        .expect("read before");
        control
    }

    /// Every write that the epoch of `record` keeps, in revision order.
    ///
    /// # Panics
    /// As [`Past::control`].
    pub fn writes(&self, record: &EpochRecord, mut visit: impl FnMut(Revision, &[Write])) {
        let epochs = self.epochs_with(record);
        self.merge(&epochs, |revision, _, writes| visit(revision, writes));
    }

    /// Every write that the recorded epochs keep, in revision order: what a node has served, and
    /// what the last epoch wrote. With each comes the lease whose end it was, if it was one's.
    ///
    /// # Panics
    /// As [`Past::control`].
    pub fn kept_writes(&self, visit: impl FnMut(Revision, Option<LeaseId>, &[Write])) {
        self.merge(&self.epochs, visit);
    }

    fn epochs_with(&self, record: &EpochRecord) -> Epochs {
        let mut epochs = self.epochs.clone();
        epochs.push(record.clone()).expect("newer than all that were found, and with their cut");
        epochs
    }

    fn merge(&self, epochs: &Epochs, mut visit: impl FnMut(Revision, Option<LeaseId>, &[Write])) {
        let mut cursors: Vec<Cursor<'_>> = (0..)
            .map(LaneId)
            .zip(&self.lanes)
            .map(|(lane, entries)| Cursor {
                lane,
                base: self.ground.at,
                entries: entries.iter(),
                batch: None,
                next: None,
            })
            .collect();
        cursors.iter_mut().for_each(|cursor| cursor.step(epochs));
        loop {
            let oldest = cursors
                .iter_mut()
                .filter(|cursor| cursor.next.is_some())
                .min_by_key(|cursor| cursor.next.as_ref().map(|(revision, ..)| *revision));
            let Some(cursor) = oldest else { return };
            let (revision, ended, writes) = cursor.next.take().expect("just filtered");
            visit(revision, ended, &writes);
            cursor.step(epochs);
        }
    }
}

/// Control state as earlier epochs left it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PastControl {
    /// Leases with seconds to live, and seconds left if that was logged (0: all of them).
    pub leases: BTreeMap<LeaseId, (i64, i64)>,
    /// History below this revision is gone.
    pub compacted: Revision,
    /// The alarms that are raised.
    pub alarms: Alarms,
    /// Which lane owns which keys.
    pub map: RangeMap,
}

impl PastControl {
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Control { control, .. } => match control {
                Control::Grant { lease, ttl_s } => {
                    self.leases.insert(lease, (ttl_s, 0));
                }
                Control::Remaining(leases) => {
                    for (lease, left_s) in leases {
                        if let Some(known) = self.leases.get_mut(&lease) {
                            known.1 = left_s;
                        }
                    }
                }
                Control::Compact(at) => self.compacted = self.compacted.max(at),
                Control::Alarm { member, alarm, on } => {
                    self.alarms.set(alarm, member, on);
                }
                Control::Map { version, ranges } => self.map = RangeMap::new(version, ranges),
            },
            Record::Revoke { lease, .. } => {
                self.leases.remove(&lease);
            }
            Record::Write { .. } | Record::Barrier { .. } | Record::Epoch { .. } => {}
        }
    }
}

fn each(
    lane: LaneId,
    entries: &[(u64, Bytes)],
    mut visit: impl FnMut(u64, Record) -> Result<(), RecoverError>,
) -> Result<(), RecoverError> {
    for (index, data) in entries {
        let mut batch = Batch::new(data.clone());
        let malformed = |source| RecoverError::Entry { lane: lane.0, index: *index, source };
        while let Some(record) = batch.record().map_err(malformed)? {
            visit(*index, record)?;
        }
    }
    Ok(())
}

/// Reads the writes of one lane.
struct Cursor<'a> {
    lane: LaneId,
    base: Revision,
    entries: std::slice::Iter<'a, (u64, Bytes)>,
    batch: Option<(u64, Batch)>,
    next: Option<(Revision, Option<LeaseId>, Vec<Write>)>,
}

impl Cursor<'_> {
    fn step(&mut self, epochs: &Epochs) {
        loop {
            let Some((index, batch)) = &mut self.batch else {
                let Some((index, data)) = self.entries.next() else { return };
                self.batch = Some((*index, Batch::new(data.clone())));
                continue;
            };
            let Some(record) = batch.record().expect("read before") else {
                self.batch = None;
                continue;
            };
            let (revision, ended, writes) = match record {
                Record::Write { revision, writes } => (revision, None, writes),
                Record::Revoke { at, lease, writes } if !writes.is_empty() => {
                    (at, Some(lease), writes)
                }
                _ => continue,
            };
            if revision > self.base && !epochs.voids(self.lane, *index, revision) {
                self.next = Some((revision, ended, writes));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
