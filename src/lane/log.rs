//! What a lane keeps: raft-rs's `Storage` over recent entries in memory, and the bytes of a lane's
//! records in the log. It knows terms and indexes; where records are written, and when they are
//! durable, is not its business.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

/// What a record of a lane in the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StoredKind {
    /// One Raft entry.
    Entry = 1,
    /// Term, vote and commit index.
    HardState = 2,
}

impl StoredKind {
    /// The kind with this number in the log.
    #[must_use]
    pub fn from_number(number: u8) -> Option<StoredKind> {
        match number {
            1 => Some(StoredKind::Entry),
            2 => Some(StoredKind::HardState),
            _ => None,
        }
    }
}

/// A record for the log: `head` and `body` are written one after the other.
///
/// ```text
/// offset  size  field, little-endian
///      0     8  sequence   one more than this lane's record before, whatever log that went to
///      8     8  term
///     16     8  index      of the entry; of a hard state the commit index
///     24     8  vote       of a hard state; 0 for an entry
///     32   len  the entry's data
/// ```
#[derive(Clone, Debug)]
pub struct Stored {
    /// Entry or hard state.
    pub kind: StoredKind,
    /// The fixed fields.
    pub head: [u8; HEAD_BYTES],
    /// The entry's data.
    pub body: Bytes,
}

impl Stored {
    /// Whether this is a hard state: term and vote.
    #[must_use]
    pub fn is_hard_state(&self) -> bool {
        self.kind == StoredKind::HardState
    }
}

/// Size of the fixed fields of a [`Stored`] record.
pub const HEAD_BYTES: usize = 32;

/// The index of the entry that a record of a lane's log holds; `None` when it holds none.
#[must_use]
pub fn entry_index(kind: u8, record: &[u8]) -> Option<u64> {
    let mut fixed = record.get(16..HEAD_BYTES)?;
    (kind == StoredKind::Entry as u8).then(|| fixed.get_u64_le())
}

/// The number of a record of a lane's log among those of the lane.
#[must_use]
pub fn record_sequence(record: &[u8]) -> Option<u64> {
    (record.len() >= HEAD_BYTES).then(|| (&record[..]).get_u64_le())
}

impl Stored {
    /// The index of the entry, if this is one.
    #[must_use]
    pub fn entry_index(&self) -> Option<u64> {
        entry_index(self.kind as u8, &self.head)
    }
}

fn head(sequence: u64, term: u64, index: u64, vote: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let mut out = &mut head[..];
    out.put_u64_le(sequence);
    out.put_u64_le(term);
    out.put_u64_le(index);
    out.put_u64_le(vote);
    head
}

pub(super) fn entry(sequence: &mut u64, entry: &Entry) -> Stored {
    *sequence += 1;
    Stored {
        kind: StoredKind::Entry,
        head: head(*sequence, entry.term, entry.index, 0),
        body: entry.data.clone(),
    }
}

pub(super) fn hard_state(sequence: &mut u64, state: &HardState) -> Stored {
    *sequence += 1;
    carry(*sequence, state)
}

pub(super) fn carry(sequence: u64, state: &HardState) -> Stored {
    Stored {
        kind: StoredKind::HardState,
        head: head(sequence, state.term, state.commit, state.vote),
        body: Bytes::new(),
    }
}

/// Why the records of a lane make no sense, though each passed its checksum.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    /// A record of a kind that this version does not write.
    #[error("record of unknown kind {0}")]
    Kind(u8),
    /// Shorter than the fixed fields.
    #[error("record of {0} bytes is too short")]
    Short(usize),
    /// Entries are missing.
    #[error("entry {index} follows entry {last}")]
    Gap {
        /// Index of the entry that was read.
        index: u64,
        /// Index of the newest entry before it.
        last: u64,
    },
    /// The entry at the cut is not the one that the checkpoint holds.
    #[error("entry {index} has term {term}, the checkpoint was made in term {expected}")]
    Term {
        /// Index of the entry.
        index: u64,
        /// Its term in the log.
        term: u64,
        /// Its term in the checkpoint.
        expected: u64,
    },
}

/// Up to where a checkpoint holds what a lane says: an entry, by index and term. The default is the
/// place before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    /// Index of the newest entry that is part of the checkpoint.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// A lane's past, put together from the records of all logs that hold some of it.
#[derive(Default, Debug)]
pub struct Recovered {
    /// Sequence number of the newest record.
    pub sequence: u64,
    state: HardState,
    cut: Cut,
    /// What follows the cut, without a gap.
    entries: VecDeque<Entry>,
}

impl Recovered {
    /// Puts a lane together from its records, in any order. What the checkpoint holds is left out,
    /// and may be missing from the logs in part or altogether: segments go when it is made.
    ///
    /// # Errors
    /// [`Damaged`] when the records contradict each other or the checkpoint, or do not reach down
    /// to it.
    pub fn assemble(mut records: Vec<(u8, Bytes)>, cut: Cut) -> Result<Recovered, Damaged> {
        if let Some((_, short)) = records.iter().find(|(_, bytes)| bytes.len() < HEAD_BYTES) {
            return Err(Damaged::Short(short.len()));
        }
        // Each record was written once, so a stable sort by its number restores the order even
        // when the lane moved to another core, and so to another log, at some restart. A carried
        // hard state repeats a number; it says the same or more.
        records.sort_by_key(|(_, bytes)| (&bytes[..]).get_u64_le());
        let mut recovered = Recovered { cut, ..Recovered::default() };
        // From the newest on: a newer leader may have overwritten a tail that was never committed, so
        // an entry counts as long as none that was written later has its index or a lower one. In
        // the other direction, a recycled segment could leave a gap in what was overwritten.
        let mut above = u64::MAX;
        for (kind, bytes) in records.into_iter().rev() {
            recovered.add(kind, bytes, &mut above)?;
        }
        match recovered.entries.front() {
            Some(first) if first.index - 1 != cut.index => {
                Err(Damaged::Gap { index: first.index, last: cut.index })
            }
            _ => Ok(recovered),
        }
    }

    fn add(&mut self, kind: u8, mut bytes: Bytes, above: &mut u64) -> Result<(), Damaged> {
        self.sequence = self.sequence.max(bytes.get_u64_le());
        let (term, index, vote) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
        match StoredKind::from_number(kind).ok_or(Damaged::Kind(kind))? {
            StoredKind::HardState => {
                if (term, index) > (self.state.term, self.state.commit) {
                    self.state = HardState { term, vote, commit: index, ..Default::default() };
                }
            }
            StoredKind::Entry if index == 0 => return Err(Damaged::Gap { index, last: 0 }),
            StoredKind::Entry if index >= *above => {}
            StoredKind::Entry => {
                *above = index;
                if index > self.cut.index {
                    if let Some(next) = self.entries.front()
                        && next.index - 1 != index
                    {
                        return Err(Damaged::Gap { index: next.index, last: index });
                    }
                    let entry = Entry { term, index, data: bytes, ..Default::default() };
                    self.entries.push_front(entry);
                } else if index == self.cut.index && term != self.cut.term {
                    return Err(Damaged::Term { index, term, expected: self.cut.term });
                }
            }
        }
        Ok(())
    }

    /// Without its entries, since what they say has been installed: the group's only voter has what was
    /// committed, and what it has is committed.
    #[must_use]
    pub fn installed(mut self) -> Recovered {
        if let Some(Entry { index, term, .. }) = self.entries.back() {
            self.cut = Cut { index: *index, term: *term };
            self.entries.clear();
        }
        self
    }

    /// The data of every entry with its index, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        self.entries.iter().map(|entry| (entry.index, &entry.data))
    }
}

/// raft-rs's view of a lane: entries that were not yet forgotten, and the hard state.
pub(super) struct Storage {
    state: HardState,
    voters: ConfState,
    /// Everything up to here has been forgotten.
    forgotten: u64,
    forgotten_term: u64,
    entries: VecDeque<Entry>,
}

impl Storage {
    pub(super) fn new(id: u64, recovered: Recovered) -> Storage {
        let Recovered { mut state, cut, entries, .. } = recovered;
        let last = entries.back().map_or(cut.index, |entry| entry.index);
        // A hard state written after entries that a crash tore off may point past the end, and one
        // from before a checkpoint that came from elsewhere stands below what that has committed.
        state.commit = state.commit.clamp(cut.index, last);
        if state.term < cut.term {
            (state.term, state.vote) = (cut.term, 0);
        }
        let voters = ConfState { voters: vec![id], ..Default::default() };
        Storage { state, voters, forgotten: cut.index, forgotten_term: cut.term, entries }
    }

    /// Whether a restart must know this state, or would find it again by itself.
    pub(super) fn must_store(&self, state: &HardState) -> bool {
        (state.term, state.vote) != (self.state.term, self.state.vote)
    }

    pub(super) fn set_hard_state(&mut self, state: HardState) {
        self.state = state;
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            debug_assert_eq!(entry.entry_type, EntryType::EntryNormal);
            let keep = entry.index - self.forgotten - 1;
            self.entries.truncate(keep as usize);
            self.entries.push_back(entry);
        }
    }

    pub(super) fn forget(&mut self, index: u64) {
        while let Some(entry) = self.entries.front()
            && entry.index <= index
        {
            (self.forgotten, self.forgotten_term) = (entry.index, entry.term);
            self.entries.pop_front();
        }
    }

    fn last(&self) -> u64 {
        self.forgotten + self.entries.len() as u64
    }
}

impl raft::Storage for Storage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.state.clone(), conf_state: self.voters.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.forgotten {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "entries up to {high} of {}", self.last());
        let max_bytes = max_size.into().unwrap_or(raft::NO_LIMIT);
        let from = (low - self.forgotten - 1) as usize;
        let upto = (high - self.forgotten - 1) as usize;
        let mut bytes = 0_u64;
        let taken = self.entries.range(from..upto).enumerate().take_while(|(n, entry)| {
            bytes += entry.data.len() as u64;
            *n == 0 || bytes <= max_bytes
        });
        Ok(taken.map(|(_, entry)| entry.clone()).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.forgotten {
            return Ok(self.forgotten_term);
        }
        if index < self.forgotten {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.entries
            .get((index - self.forgotten - 1) as usize)
            .map(|entry| entry.term)
            .ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.forgotten + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Asked for only by a peer that is too far behind.
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
