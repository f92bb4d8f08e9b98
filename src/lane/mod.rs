//! One lane: a raft-rs group whose `Ready` is turned into plain effects.
//!
//! The group thinks and never waits: what must reach the disk comes out as [`Stored`] records, and
//! [`Group::persisted`] tells it when they did. It knows entries and terms, not what an entry means.
//! Peers are added later by delivering messages; nothing here assumes that there are none.

mod log;
pub mod redo;
mod retain;

use bytes::Bytes;
use raft::eraftpb::{EntryType, Message};
use raft::{Config, RawNode, StateRole};

use crate::keys::LaneId;
pub use log::{
    Cut, Damaged, HEAD_BYTES, Recovered, Stored, StoredKind, entry_index, record_sequence,
};
pub use retain::Retained;

/// Ticks without a leader before a voter stands for election.
const ELECTION_TICKS: usize = 10;

/// Committed entries handed out in one ready, in bytes: keeps a turn short after a restart.
const COMMITTED_BYTES_MAX: u64 = 1 << 20;

/// An entry that a quorum holds.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its place in the lane's log.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// A batch of redo records; empty for the entry that opens a term.
    pub data: Bytes,
}

/// What a group asks for in one turn.
#[derive(Default, Debug)]
pub struct Output {
    /// Records for the log, in this order. When all are durable, [`Group::persisted`] is owed
    /// with the newest of `ready`.
    pub stored: Vec<Stored>,
    /// The number of the newest ready that is part of this output, if any.
    pub ready: Option<u64>,
    /// Entries that became committed, in index order.
    pub committed: Vec<Committed>,
    /// Messages for other members, free to go at once.
    pub messages: Vec<Message>,
    /// Messages for other members, to be kept until `ready` is durable.
    pub after_persist: Vec<Message>,
}

/// Why a proposal was not taken. Nothing was appended.
#[derive(Debug, thiserror::Error)]
#[error("lane does not take proposals: {0}")]
pub struct Refused(#[source] raft::Error);

/// One Raft group of this node.
pub struct Group {
    lane: LaneId,
    node: RawNode<log::Storage>,
    /// Numbers the records of this lane across all logs and restarts.
    sequence: u64,
}

impl Group {
    /// Continues a lane from what its log holds above a checkpoint; without either this is the first
    /// start of a group whose only voter is `id`.
    ///
    /// # Panics
    /// If the recovered log contradicts itself: its frames passed their checksums, so that is a
    /// defect of this program and not of the disk.
    #[must_use]
    pub fn new(lane: LaneId, id: u64, recovered: Recovered) -> Group {
        let sequence = recovered.sequence;
        let config = Config {
            id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: 1,
            check_quorum: true,
            pre_vote: true,
            max_inflight_msgs: 256,
            max_size_per_msg: 1 << 20,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            // What is in flight is bounded where revisions are given out (R3): a proposal that
            // raft-rs dropped after that would be a gap.
            max_uncommitted_size: raft::NO_LIMIT,
            ..Config::default()
        };
        let storage = log::Storage::new(id, recovered);
        let quiet = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, storage, &quiet)
            .expect("the configuration is valid and the log has been checked");
        Group { lane, node, sequence }
    }

    /// Which lane this is.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// Stands for election now, whatever the clock says.
    pub fn campaign(&mut self) {
        // The only error is a local message to a node that cannot stand, which is no voter: then
        // there is nothing to do, and the lane simply does not lead.
        let _ = self.node.campaign();
    }

    /// Passes one tick of the election clock.
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// Whether this node leads the lane.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The index of the newest entry.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The index up to which entries are committed.
    #[must_use]
    pub fn commit_index(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// Appends an entry and returns its index.
    ///
    /// # Errors
    /// [`Refused`] when this node does not lead the lane; nothing has changed then.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<u64, Refused> {
        self.node.propose(Vec::new(), data).map_err(Refused)?;
        Ok(self.last_index())
    }

    /// Everything up to ready `number` is durable here.
    pub fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
    }

    /// Entries up to `index` have been taken over by the shards: the lane may forget them.
    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        self.node.mut_store().forget(index);
    }

    /// Collects what the group wants done, over as many readies as it takes.
    pub fn drain(&mut self, out: &mut Output) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            out.ready = Some(ready.number());
            out.messages.append(&mut ready.take_messages());
            out.after_persist.append(&mut ready.take_persisted_messages());
            for entry in ready.take_committed_entries() {
                debug_assert_eq!(entry.entry_type, EntryType::EntryNormal);
                out.committed.push(Committed {
                    index: entry.index,
                    term: entry.term,
                    data: entry.data,
                });
            }
            // A commit index alone is not worth a record: the next leader finds it again.
            if let Some(state) = ready.hs()
                && self.node.store().must_store(state)
            {
                out.stored.push(log::hard_state(&mut self.sequence, state));
                self.node.mut_store().set_hard_state(state.clone());
            }
            let entries = ready.take_entries();
            for entry in &entries {
                out.stored.push(log::entry(&mut self.sequence, entry));
            }
            self.node.mut_store().append(entries);
            self.node.advance_append_async(ready);
        }
    }

    /// An entry of this reign, by its index: all of them have the current term.
    #[must_use]
    pub fn cut_at(&self, index: u64) -> Cut {
        Cut { index, term: self.term() }
    }

    /// The state that every new segment of the log repeats, so that recycling an old one never
    /// forgets a vote.
    #[must_use]
    pub fn carry(&self) -> Stored {
        log::carry(self.sequence, &self.node.raft.hard_state())
    }
}

#[cfg(test)]
mod tests;
