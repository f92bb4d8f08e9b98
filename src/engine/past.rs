//! What a node finds in its logs when it starts, put in order: the epochs that were, the revisions
//! each lane holds, and the records to install once the new epoch's cut is known (R5, R8).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::alarms::Alarms;
use crate::keys::{LaneId, LeaseId, Revision};
use crate::lane::redo::{Batch, Control, Malformed, Record, Write};
use crate::lane::{Damaged, Recovered};
use crate::order::{Epoch, EpochRecord, Epochs, Runs};
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
}

/// Everything that earlier epochs left, shared by all cores until they have installed it.
#[derive(Debug, Default)]
pub struct Past {
    /// Per lane the entries with their indexes.
    lanes: Vec<Vec<(u64, Bytes)>>,
    /// Per lane the revisions it holds, void ones left out.
    runs: Vec<Runs>,
    /// Epochs that were recorded.
    epochs: Epochs,
    /// The newest epoch that was begun, recorded or not.
    newest_epoch: Epoch,
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
/// appended.
///
/// # Errors
/// [`RecoverError`] when the records contradict each other: a defect or a newer format.
pub fn recover(records: Vec<Vec<(u8, Bytes)>>) -> Result<Recovery, RecoverError> {
    let mut past = Past::default();
    let mut lanes = Vec::new();
    for (lane, records) in (0..).zip(records) {
        let recovered =
            Recovered::assemble(records).map_err(|source| RecoverError::Lane { lane, source })?;
        let entries = recovered.entries();
        past.lanes.push(entries.map(|(index, data)| (index, data.clone())).collect());
        lanes.push(recovered);
    }
    past.read_epochs()?;
    past.read_runs()?;
    Ok(Recovery { past: Arc::new(past), lanes })
}

impl Past {
    fn read_epochs(&mut self) -> Result<(), RecoverError> {
        let mut found = Vec::new();
        if let Some(entries) = self.lanes.first() {
            each(LaneId(0), entries, |_, record| {
                if let Record::Epoch { epoch, cut, barriers } = record {
                    found.push(EpochRecord { epoch, cut, barriers });
                }
            })?;
        }
        found.into_iter().for_each(|epoch| self.epochs.push(epoch));
        Ok(())
    }

    fn read_runs(&mut self) -> Result<(), RecoverError> {
        self.newest_epoch = self.epochs.last().map_or(0, |epoch| epoch.epoch);
        for (lane, entries) in (0..).map(LaneId).zip(&self.lanes) {
            let mut runs = Runs::default();
            each(lane, entries, |index, record| {
                if let Record::Barrier { epoch } = record {
                    self.newest_epoch = self.newest_epoch.max(epoch);
                }
                if let Some(revision) = record.revision()
                    && !self.epochs.voids(lane, index, revision)
                {
                    runs.push(revision);
                }
            })?;
            self.runs.push(runs);
        }
        Ok(())
    }

    /// The epoch that begins now.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        self.newest_epoch + 1
    }

    /// P of R5.
    #[must_use]
    pub fn cut(&self) -> Revision {
        // A fresh store stands at 1, and what an earlier epoch served from is a floor too: all that
        // it covers is in the logs, so this only guards against a defect.
        let base = Revision::FIRST;
        let cut = crate::order::epoch::cut(base, &self.runs);
        let served = self.epochs.last().map_or(base, |epoch| epoch.cut);
        assert!(cut >= served, "revisions up to {served:?} were served, the logs hold {cut:?}");
        cut
    }

    /// The index of the newest entry that a lane held.
    #[must_use]
    pub fn last_index(&self, lane: LaneId) -> u64 {
        self.lanes
            .get(usize::from(lane.0))
            .and_then(|entries| entries.last())
            .map_or(0, |(index, _)| *index)
    }

    /// The control state as of the epoch that `record` opens.
    ///
    /// # Panics
    /// If an entry is malformed: [`recover`] has read them all before.
    #[must_use]
    pub fn control(&self, record: &EpochRecord) -> PastControl {
        let mut control = PastControl::default();
        let Some(entries) = self.lanes.first() else { return control };
        let mut epochs = self.epochs.clone();
        epochs.push(record.clone());
        each(LaneId(0), entries, |index, record| {
            if record.at().is_none_or(|at| !epochs.voids(LaneId(0), index, at)) {
                control.apply(record);
            }
        })
        .expect("read before");
        control
    }

    /// Every write that the epoch of `record` keeps, in revision order.
    ///
    /// # Panics
    /// As [`Past::control`].
    pub fn writes(&self, record: &EpochRecord, mut visit: impl FnMut(Revision, &[Write])) {
        let mut epochs = self.epochs.clone();
        epochs.push(record.clone());
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

    fn merge(&self, epochs: &Epochs, mut visit: impl FnMut(Revision, Option<LeaseId>, &[Write])) {
        let mut cursors: Vec<Cursor<'_>> = (0..)
            .map(LaneId)
            .zip(&self.lanes)
            .map(|(lane, entries)| Cursor {
                lane,
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
#[derive(Debug, Default)]
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
    fn apply(&mut self, record: Record) {
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
    mut visit: impl FnMut(u64, Record),
) -> Result<(), RecoverError> {
    for (index, data) in entries {
        let mut batch = Batch::new(data.clone());
        let malformed = |source| RecoverError::Entry { lane: lane.0, index: *index, source };
        while let Some(record) = batch.record().map_err(malformed)? {
            visit(*index, record);
        }
    }
    Ok(())
}

/// Reads the writes of one lane.
struct Cursor<'a> {
    lane: LaneId,
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
            if !epochs.voids(self.lane, *index, revision) {
                self.next = Some((revision, ended, writes));
                return;
            }
        }
    }
}
