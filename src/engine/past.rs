//! What a node finds in its logs when it starts, put in order: the epochs that were, the revisions
//! each lane holds, and the records to install once the new epoch's cut is known (R5, R8).
//!
//! ```text
//! LaneReader   per lane, in any thread: entries in order, each batch looked at once
//! Draft        the shard that they make; nothing else is kept of them
//! join         all lanes: epochs, void records, P
//! Replay       per core, when the epoch begins: all lanes merged by revision, read in place
//! ```
//!
//! There are drafts or there is a replay. Where something speaks against drafts, which is known only in the
//! end, the logs are read once more for a replay.
//!
//! For that each core has a [`Past`] of its own, all of which share the entries in pieces: a piece of the logs'
//! memory goes as soon as the last core has passed it, so that what is installed grows into what is
//! done with. Cores install some at a turn.
//!
//! **Why each key's versions come in ascending revision (R8).** Along a lane revisions grow, except at
//! a barrier, where a new epoch may give out again what it voided; without the void ones they grow
//! everywhere ([`join`] refuses a lane where they do not). So one reader a lane, of which the one
//! with the lowest revision goes next, gives all records in the order of their revisions, and inside
//! a record writes come by sub-revision. Every core merges all lanes for itself and passes over keys
//! that it does not own: whatever lane logged a key's versions, and whatever core has it now, they
//! come in order, and cores need not wait for each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

mod draft;
mod lane;

pub use draft::Draft;
pub use lane::{LaneRead, LaneReader};

use super::alarms::Alarms;
use crate::keys::{LaneId, LeaseId, Revision};
use crate::lane::redo::{Auth, Control, Malformed, Reader, Record, Seen, Writes};
use crate::lane::{Cut, Damaged, Recovered};
use crate::mvcc::base::Base;
use crate::order::{Epoch, EpochRecord, Epochs, OutOfOrder};
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

/// Bytes of entries in a [`Piece`], except for one that is longer.
const PIECE_BYTES: usize = 1 << 20;

/// Everything that earlier epochs left, as one core has it until it has installed it. A clone costs
/// little: it shares everything that is large.
#[derive(Clone, Debug, Default)]
pub struct Past {
    facts: Arc<Facts>,
    /// Per lane its entries; nothing where there are drafts.
    lanes: Vec<VecDeque<Arc<Piece>>>,
}

/// Entries of a lane with their indexes: slices of the logs as they were read.
type Piece = Vec<(u64, Bytes)>;

/// What all lanes together tell.
#[derive(Debug, Default)]
struct Facts {
    /// What lies beneath.
    ground: Ground,
    /// Lane 0's records that change control state, with their entries' indexes.
    control: Vec<(u64, Record)>,
    /// Epochs that were recorded.
    epochs: Epochs,
    /// The newest epoch that was begun, recorded or not.
    newest_epoch: Epoch,
    /// P of R5.
    cut: Revision,
    /// See [`Past::has_void`].
    has_void: bool,
}

/// What [`recover`] makes of the logs.
#[derive(Debug, Default)]
pub struct Recovery {
    /// For all cores, to each a clone.
    pub past: Past,
    /// For each lane its own past, to be given to the core that has it.
    pub lanes: Vec<LanePast>,
    /// Bytes of the entries that lie above the checkpoint.
    pub bytes: u64,
}

/// What is one lane's alone.
#[derive(Debug, Default)]
pub struct LanePast {
    /// Its group's.
    pub group: Recovered,
    /// Its shard's, which was put together while the logs were read; otherwise [`Past::replay`] tells.
    pub draft: Option<Box<Draft>>,
}

/// Puts the records of all logs together: per lane, in any order, kind and bytes as they were
/// appended. What `ground` holds is left out.
///
/// # Errors
/// [`RecoverError`] when the records contradict each other or the checkpoint: a defect, a newer
/// format, or files that do not belong together.
pub fn recover(records: Vec<Vec<(u8, Bytes)>>, ground: &Ground) -> Result<Recovery, RecoverError> {
    let lanes = (0..).map(LaneId).zip(records);
    let read = lanes.map(|(lane, records)| {
        let mut reader = LaneReader::new(lane, ground);
        for (kind, bytes) in records {
            reader.record(kind, bytes);
        }
        reader.finish()
    });
    join(read.collect::<Result<_, _>>()?, ground)
}

/// As [`recover`], with drafts of the shards, for a node that goes on from the image `base`; `None` where
/// there can be none.
///
/// # Errors
/// As [`recover`].
pub fn recover_drafted(
    records: Vec<Vec<(u8, Bytes)>>,
    ground: &Ground,
    base: Option<&Arc<Base>>,
) -> Result<Option<Recovery>, RecoverError> {
    let lanes = (0..).map(LaneId).zip(records);
    let read = lanes.map(|(lane, records)| {
        let mut reader = LaneReader::drafting(lane, ground);
        let mut draft = Draft::new(base);
        for (kind, bytes) in records {
            reader.record(kind, bytes).into_iter().for_each(|writes| draft.install(writes));
        }
        reader.rest().into_iter().for_each(|writes| draft.install(writes));
        Ok((reader.finish()?, draft))
    });
    join_drafts(read.collect::<Result<_, RecoverError>>()?, ground)
}

/// The second half of [`recover`]: what was read of each lane.
///
/// # Errors
/// As [`recover`].
pub fn join(lanes: Vec<LaneRead>, ground: &Ground) -> Result<Recovery, RecoverError> {
    let epochs = epochs(&lanes, ground)?;
    let (past, groups, bytes) = assemble(lanes, epochs, ground)?;
    let lanes = groups.into_iter().map(|group| LanePast { group, draft: None }).collect();
    Ok(Recovery { past, lanes, bytes })
}

/// The second half of [`recover_drafted`]: what was read of each lane, and its draft with all the writes
/// that reading it gave.
///
/// # Errors
/// As [`recover`].
pub fn join_drafts(
    lanes: Vec<(LaneRead, Draft)>,
    ground: &Ground,
) -> Result<Option<Recovery>, RecoverError> {
    let (lanes, mut drafts): (Vec<_>, Vec<_>) = lanes.into_iter().unzip();
    // Keys of a shard may be in any lane's draft, so drafts are of use together or not at all.
    if !lanes.iter().all(LaneRead::is_drafted) {
        return Ok(None);
    }
    let epochs = epochs(&lanes, ground)?;
    if !(0..).map(LaneId).zip(&lanes).all(|(lane, read)| read.is_kept(lane, &epochs)) {
        return Ok(None);
    }
    let (past, groups, bytes) = assemble(lanes, epochs, ground)?;
    // Its barriers will stand behind everything that was read.
    let barriers = vec![(u64::MAX, u64::MAX); groups.len()];
    let next = EpochRecord { epoch: past.next_epoch(), cut: past.cut(), barriers };
    Draft::settle(&mut drafts, past.cut(), &past.control(&next).map);
    let lanes = groups.into_iter().zip(drafts);
    let lanes = lanes.map(|(group, draft)| LanePast { group, draft: Some(Box::new(draft)) });
    Ok(Some(Recovery { past, lanes: lanes.collect(), bytes }))
}

/// The epochs that were recorded.
fn epochs(lanes: &[LaneRead], ground: &Ground) -> Result<Epochs, RecoverError> {
    // The checkpoint's epoch is the newest of its time, while its cut in lane 0 may lie below
    // that and below older ones.
    let found = lanes.iter().flat_map(|lane| &lane.epochs).chain(&ground.epoch);
    let mut found: Vec<_> = found.cloned().collect();
    found.sort_by_key(|record| record.epoch);
    let mut epochs = Epochs::default();
    found.into_iter().try_for_each(|epoch| epochs.push(epoch))?;
    Ok(epochs)
}

/// What all lanes tell together, what is each group's own, and how many bytes of entries there are.
fn assemble(
    lanes: Vec<LaneRead>,
    epochs: Epochs,
    ground: &Ground,
) -> Result<(Past, Vec<Recovered>, u64), RecoverError> {
    let begun = lanes.iter().map(|lane| lane.newest_epoch);
    let newest_epoch = begun.chain(epochs.last().map(|last| last.epoch)).max().unwrap_or(0);
    let mut facts = Facts { ground: ground.clone(), epochs, newest_epoch, ..Facts::default() };
    let mut runs = Vec::with_capacity(lanes.len());
    let mut entries = Vec::with_capacity(lanes.len());
    let mut groups = Vec::with_capacity(lanes.len());
    let mut bytes = 0;
    let mut newest = Revision::ZERO;
    for (number, mut lane) in (0..).zip(lanes) {
        facts.has_void |= !lane.is_kept(LaneId(number), &facts.epochs);
        newest = newest.max(lane.newest());
        runs.push(lane.kept_runs(LaneId(number), &facts.epochs)?);
        facts.control.append(&mut lane.control);
        entries.push(lane.entries);
        groups.push(lane.recovered);
        bytes += lane.bytes;
    }
    facts.cut = crate::order::epoch::cut(ground.at, &runs);
    facts.has_void |= newest > facts.cut;
    if let Some(last) = facts.epochs.last().filter(|last| last.cut > facts.cut) {
        return Err(RecoverError::Lost { served: last.cut, held: facts.cut });
    }
    Ok((Past { facts: Arc::new(facts), lanes: entries }, groups, bytes))
}

impl Past {
    /// The epoch that begins now.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        self.facts.newest_epoch + 1
    }

    /// P of R5: what checkpoint and lanes hold without a gap.
    #[must_use]
    pub fn cut(&self) -> Revision {
        self.facts.cut
    }

    /// Whether the logs have what no epoch keeps, the next one included.
    #[must_use]
    pub fn has_void(&self) -> bool {
        self.facts.has_void
    }

    /// The control state as of the epoch that `record` opens.
    ///
    /// # Panics
    /// If the epoch does not come after all that were found.
    #[must_use]
    pub fn control(&self, record: &EpochRecord) -> PastControl {
        let mut control = self.facts.ground.control.clone();
        let epochs = self.epochs_with(record);
        for (index, record) in &self.facts.control {
            // A stamp does not tell whether the checkpoint has the record: others may have had the
            // same one after it. So all of them take effect, once more or for the first time.
            if record.at().is_none_or(|at| !epochs.voids(LaneId(0), *index, at)) {
                control.apply(record);
            }
        }
        control
    }

    /// Every write that the epoch of `record` keeps.
    ///
    /// # Panics
    /// As [`Past::control`].
    #[must_use]
    pub fn replay(self, record: &EpochRecord) -> Replay {
        let epochs = self.epochs_with(record);
        Replay::new(self, epochs)
    }

    /// Every write that the recorded epochs keep: what a node has served, and what the last epoch
    /// wrote.
    #[must_use]
    pub fn replay_recorded(self) -> Replay {
        let epochs = self.facts.epochs.clone();
        Replay::new(self, epochs)
    }

    fn epochs_with(&self, record: &EpochRecord) -> Epochs {
        let mut epochs = self.facts.epochs.clone();
        epochs.push(record.clone()).expect("newer than all that were found, and with their cut");
        epochs
    }
}

/// The writes of all lanes in revision order, step by step.
#[derive(Debug)]
pub struct Replay {
    base: Revision,
    epochs: Epochs,
    /// Per lane what is left, and where in that the next record stands.
    lanes: Vec<(VecDeque<Arc<Piece>>, Place)>,
}

/// A record in the pieces of a lane.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    piece: usize,
    /// Entry of the piece.
    entry: usize,
    /// Byte of the entry.
    at: usize,
}

impl Replay {
    fn new(past: Past, epochs: Epochs) -> Replay {
        let lanes = past.lanes.into_iter().map(|pieces| (pieces, Place::default())).collect();
        Replay { base: past.facts.ground.at, epochs, lanes }
    }

    /// Shows the next writes, of whole records and about `bytes_max` bytes, with their revision and,
    /// if they are the end of a lease, with that. Whether there are more.
    pub fn step(
        &mut self,
        bytes_max: usize,
        mut visit: impl FnMut(Revision, Option<LeaseId>, Writes<'_>),
    ) -> bool {
        let mut cursors: Vec<_> = (0..)
            .zip(&self.lanes)
            .map(|(lane, (pieces, place))| Cursor::new(LaneId(lane), pieces, *place))
            .collect();
        cursors.iter_mut().for_each(|cursor| cursor.step(self.base, &self.epochs));
        let mut bytes = 0;
        while bytes < bytes_max {
            let oldest = cursors
                .iter_mut()
                .filter(|cursor| cursor.next.is_some())
                .min_by_key(|cursor| cursor.next.as_ref().map(|(revision, ..)| *revision));
            let Some(cursor) = oldest else { break };
            let (revision, ended, writes) = cursor.next.take().expect("just filtered");
            bytes += writes.len_bytes();
            visit(revision, ended, writes);
            cursor.step(self.base, &self.epochs);
        }
        let more = cursors.iter().any(|cursor| cursor.next.is_some());
        let places: Vec<_> = cursors.into_iter().map(|cursor| cursor.place).collect();
        for ((pieces, place), reached) in self.lanes.iter_mut().zip(places) {
            pieces.drain(..reached.piece);
            *place = Place { piece: 0, ..reached };
        }
        more
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
    /// Users and roles.
    pub auth: Auth,
    /// Which lane owns which keys.
    pub map: RangeMap,
}

impl PastControl {
    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::Control { control, .. } => match control {
                Control::Grant { lease, ttl_s } => {
                    self.leases.insert(*lease, (*ttl_s, 0));
                }
                Control::Remaining(leases) => {
                    for (lease, left_s) in leases {
                        if let Some(known) = self.leases.get_mut(lease) {
                            known.1 = *left_s;
                        }
                    }
                }
                Control::Compact(at) => self.compacted = self.compacted.max(*at),
                Control::Alarm { member, alarm, on } => {
                    self.alarms.set(*alarm, *member, *on);
                }
                Control::Auth(auth) => self.auth = auth.clone(),
                Control::Map { version, ranges } => {
                    self.map = RangeMap::new(*version, ranges.clone());
                }
            },
            Record::Revoke { lease, .. } => {
                self.leases.remove(lease);
            }
            Record::Write { .. } | Record::Barrier { .. } | Record::Epoch { .. } => {}
        }
    }
}

/// Reads the writes of one lane.
struct Cursor<'a> {
    lane: LaneId,
    pieces: &'a VecDeque<Arc<Piece>>,
    /// Where `next` stands.
    place: Place,
    /// The batch of the entry there, behind `next`.
    reader: Option<Reader<'a>>,
    /// Above this the entry's records are void.
    limit: Revision,
    next: Option<(Revision, Option<LeaseId>, Writes<'a>)>,
}

impl<'a> Cursor<'a> {
    fn new(lane: LaneId, pieces: &'a VecDeque<Arc<Piece>>, place: Place) -> Cursor<'a> {
        Cursor { lane, pieces, place, reader: None, limit: Revision::MAX, next: None }
    }

    fn step(&mut self, base: Revision, epochs: &Epochs) {
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(piece) = self.pieces.get(self.place.piece) else { return };
                let Some((index, data)) = piece.get(self.place.entry) else {
                    self.place = Place { piece: self.place.piece + 1, ..Place::default() };
                    continue;
                };
                self.reader = Some(Reader::from(data, self.place.at));
                self.limit = epochs.limit(self.lane, *index).unwrap_or(Revision::MAX);
                continue;
            };
            self.place.at = reader.at();
            let Some(seen) = reader.record().expect("looked at before") else {
                self.place = Place { entry: self.place.entry + 1, at: 0, ..self.place };
                self.reader = None;
                continue;
            };
            let (revision, ended, writes) = match seen {
                Seen::Write { revision, writes } => (revision, None, writes),
                Seen::Revoke { at, lease, writes } if !writes.is_empty() => {
                    (at, Some(lease), writes)
                }
                _ => continue,
            };
            if revision > base && revision <= self.limit {
                self.next = Some((revision, ended, writes));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
