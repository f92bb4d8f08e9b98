//! Reads one lane as its records come out of the logs: what they say, and in what order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::draft::Collector;
use super::{Ground, PIECE_BYTES, Piece, RecoverError};
use crate::keys::{LaneId, Revision};
use crate::lane::redo::{Reader, Record, Seen};
use crate::lane::{Cut, HEAD_BYTES, Recovered, entry_index, record_sequence};
use crate::mvcc::Batch;
use crate::order::{Epoch, EpochRecord, Epochs, Runs};

/// Takes the records of one lane one by one, in any order. Lanes may be read at the same time.
///
/// They nearly always come in the order in which they were written, and are then looked at as they
/// come. Where a lane moved between logs, or a tail was overwritten, [`LaneReader::finish`] looks.
pub struct LaneReader<'a> {
    lane: LaneId,
    ground: &'a Ground,
    cut: Cut,
    records: Vec<(u8, Bytes)>,
    /// Whether what entries say is left to the draft, and not kept.
    is_drafting: bool,
    /// Number of the newest record, and index of the newest entry or of the cut.
    newest: (u64, u64),
    is_in_order: bool,
    read: LaneRead,
    failed: Option<RecoverError>,
}

/// What a [`LaneReader`] makes of one lane.
#[derive(Debug, Default)]
pub struct LaneRead {
    pub(super) recovered: Recovered,
    pub(super) entries: VecDeque<Arc<Piece>>,
    /// What lies between two barriers.
    sections: Vec<Section>,
    /// In lane 0, records that change control state.
    pub(super) control: Vec<(u64, Record)>,
    /// In lane 0, epochs that were recorded.
    pub(super) epochs: Vec<EpochRecord>,
    /// The newest epoch that was begun, recorded or not.
    pub(super) newest_epoch: Epoch,
    /// Bytes of the entries.
    pub(super) bytes: u64,
    /// What a draft is made of, as long as nothing speaks against it.
    collector: Option<Collector>,
}

/// Entries of one epoch: revisions grow, and the same ones above some limit are void.
#[derive(Debug, Default)]
struct Section {
    /// Index of its first entry, a barrier, or of the first one above the cut.
    from: u64,
    runs: Runs,
}

/// What a record is to those that came before it.
enum Place {
    /// Nothing new: a hard state, or below the cut.
    Aside,
    /// The next entry.
    Next(u64),
    /// Something else.
    OutOfOrder,
}

impl<'a> LaneReader<'a> {
    /// Of a lane of which nothing has been read.
    #[must_use]
    pub fn new(lane: LaneId, ground: &'a Ground) -> LaneReader<'a> {
        let cut = ground.lanes.get(usize::from(lane.0)).copied().unwrap_or_default();
        LaneReader {
            lane,
            ground,
            cut,
            records: Vec::new(),
            is_drafting: false,
            newest: (0, cut.index),
            is_in_order: true,
            read: LaneRead::above(cut),
            failed: None,
        }
    }

    /// Collects what a [`Draft`](super::Draft) is made of, and keeps of the entries only that they were.
    #[must_use]
    pub fn drafting(lane: LaneId, ground: &'a Ground) -> LaneReader<'a> {
        let mut reader = LaneReader::new(lane, ground);
        reader.is_drafting = true;
        reader.read.collector = Some(Collector::default());
        reader
    }

    /// Takes a record: kind and bytes as they were appended. Writes that a draft should install are
    /// returned now and then.
    pub fn record(&mut self, kind: u8, bytes: Bytes) -> Option<Batch> {
        if self.is_in_order && self.failed.is_none() {
            match self.place(kind, &bytes) {
                Place::Aside => {}
                Place::OutOfOrder => {
                    self.is_in_order = false;
                    self.read.collector = None;
                }
                Place::Next(index) => {
                    let (data, base) = (bytes.slice(HEAD_BYTES..), self.ground.at);
                    self.failed = self.read.entry(self.lane, index, &data, base).err();
                }
            }
        }
        let kept = match self.is_drafting {
            // A slice would keep the memory into which the whole log was read.
            true => Bytes::copy_from_slice(&bytes[..bytes.len().min(HEAD_BYTES)]),
            false => bytes,
        };
        self.records.push((kind, kept));
        self.read.collector.as_mut()?.take(false)
    }

    /// The writes that a draft has not got when there are no more records.
    pub fn rest(&mut self) -> Option<Batch> {
        self.read.collector.as_mut()?.take(true)
    }

    fn place(&mut self, kind: u8, bytes: &[u8]) -> Place {
        let (sequence, newest) = self.newest;
        match (record_sequence(bytes), entry_index(kind, bytes)) {
            (Some(_), None) => Place::Aside,
            (Some(number), Some(index)) if number > sequence && index <= self.cut.index => {
                // Below the cut the log may begin anywhere, but it must not come back to it.
                self.newest.0 = number;
                if newest > self.cut.index { Place::OutOfOrder } else { Place::Aside }
            }
            (Some(number), Some(index)) if number > sequence && index == newest + 1 => {
                self.newest = (number, index);
                Place::Next(index)
            }
            _ => Place::OutOfOrder,
        }
    }

    /// Everything was read.
    ///
    /// # Errors
    /// [`RecoverError`] when the records contradict each other or the checkpoint.
    pub fn finish(self) -> Result<LaneRead, RecoverError> {
        let LaneReader { lane, ground, cut, mut read, .. } = self;
        let recovered = Recovered::assemble(self.records, cut)
            .map_err(|source| RecoverError::Lane { lane: lane.0, source })?;
        if self.is_drafting {
            let recovered = recovered.installed();
            return self.failed.map_or(Ok(LaneRead { recovered, ..read }), Err);
        }
        let entries = recovered.entries().map(|(index, data)| (index, data.clone()));
        let pieces = in_pieces(entries);
        if self.is_in_order {
            if let Some(failed) = self.failed {
                return Err(failed);
            }
        } else {
            read = LaneRead::above(cut);
            for (index, data) in pieces.iter().flat_map(|piece| piece.iter()) {
                read.entry(lane, *index, data, ground.at)?;
            }
        }
        Ok(LaneRead { recovered, entries: pieces, ..read })
    }
}

impl LaneRead {
    fn above(cut: Cut) -> LaneRead {
        let first = Section { from: cut.index + 1, runs: Runs::default() };
        LaneRead { sections: vec![first], ..LaneRead::default() }
    }

    /// Looks at the batch of one entry.
    fn entry(
        &mut self,
        lane: LaneId,
        index: u64,
        data: &Bytes,
        base: Revision,
    ) -> Result<(), RecoverError> {
        self.bytes += data.len() as u64;
        let mut reader = Reader::new(data);
        let malformed = |source| RecoverError::Entry { lane: lane.0, index, source };
        while let Some(seen) = reader.record().map_err(malformed)? {
            let (revision, writes) = match seen {
                Seen::Write { revision, writes } => (revision, writes),
                Seen::Revoke { at, lease, writes } => {
                    self.control.push((index, Record::Revoke { at, lease, writes: Vec::new() }));
                    if writes.is_empty() {
                        continue;
                    }
                    (at, writes)
                }
                Seen::Other(Record::Epoch { epoch, cut, barriers }) => {
                    self.epochs.push(EpochRecord { epoch, cut, barriers });
                    continue;
                }
                Seen::Other(Record::Barrier { epoch }) => {
                    self.newest_epoch = self.newest_epoch.max(epoch);
                    self.sections.push(Section { from: index, runs: Runs::default() });
                    continue;
                }
                Seen::Other(record) => {
                    self.control.push((index, record));
                    continue;
                }
            };
            if revision <= base {
                continue;
            }
            let section = self.sections.last_mut().expect("there is one from the begin on");
            if !section.runs.push(revision) {
                return Err(RecoverError::Order { lane: lane.0, index, revision });
            }
            if let Some(collector) = &mut self.collector
                && !collector.write(revision, writes)
            {
                self.collector = None;
            }
        }
        Ok(())
    }

    /// Whether everything was looked at, and a draft has all of it.
    pub(super) fn is_drafted(&self) -> bool {
        self.collector.is_some()
    }

    /// Whether an epoch voids nothing of it. What the next epoch will void is no part of that: a draft can
    /// take it back.
    pub(super) fn is_kept(&self, lane: LaneId, epochs: &Epochs) -> bool {
        self.sections.iter().all(|section| {
            let limit = epochs.limit(lane, section.from).unwrap_or(Revision::MAX);
            section.runs.last().is_none_or(|last| last <= limit)
        })
    }

    /// The highest revision in it, void or not.
    pub(super) fn newest(&self) -> Revision {
        let newest = self.sections.iter().filter_map(|section| section.runs.last());
        newest.max().unwrap_or(Revision::ZERO)
    }

    /// The revisions of the lane that are not void.
    pub(super) fn kept_runs(
        &mut self,
        lane: LaneId,
        epochs: &Epochs,
    ) -> Result<Runs, RecoverError> {
        let mut kept = Runs::default();
        for Section { from, runs } in self.sections.drain(..) {
            // All barriers that an epoch record names are begins of sections, so what is void of the
            // first entry's revisions is void of all.
            let limit = epochs.limit(lane, from).unwrap_or(Revision::MAX);
            if !kept.append(&runs, limit) {
                let revision = runs.first().expect("the one that does not fit");
                return Err(RecoverError::Order { lane: lane.0, index: from, revision });
            }
        }
        Ok(kept)
    }
}

fn in_pieces(entries: impl Iterator<Item = (u64, Bytes)>) -> VecDeque<Arc<Piece>> {
    let (mut pieces, mut piece, mut bytes) = (VecDeque::new(), Piece::new(), 0);
    for (index, data) in entries {
        bytes += data.len();
        piece.push((index, data));
        if bytes >= PIECE_BYTES {
            pieces.push_back(Arc::new(std::mem::take(&mut piece)));
            bytes = 0;
        }
    }
    if !piece.is_empty() {
        pieces.push_back(Arc::new(piece));
    }
    pieces
}
