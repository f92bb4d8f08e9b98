//! A shard and its lane on their core: what is in flight, who waits for it, who waits for latches.

use std::collections::VecDeque;

use super::message::{Origin, Transfer, Want};
use super::past::{Draft, LanePast};
use super::{Answer, Error, Request};
use crate::keys::{KeyRange, LaneId, Revision};
use crate::lane::Group;
use crate::route::{Claim, ClaimId, Latches};
use crate::shard::Shard;

/// Bytes of records of one lane that may be in flight; requests beyond are refused (R3).
pub(super) const IN_FLIGHT_BYTES_MAX: usize = 256 << 20;

/// A batch above this is proposed at once, so that no entry grows far beyond a record.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Something in a lane's log, beside revisions, whose commit somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Item {
    /// A control record, by its number.
    Control(u64),
    /// The barrier that opens an epoch.
    Barrier,
    /// The record that says where the epoch cuts.
    Epoch,
}

/// A revision between the sequencer and the watermark.
#[derive(Debug)]
struct Flight {
    revision: Revision,
    /// Its entry; `u64::MAX` until it is proposed.
    index: u64,
    /// Shards that have not installed it.
    installs: usize,
}

/// An answer that waits for its gate.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) gate: Revision,
    pub(super) origin: Origin,
    pub(super) answer: Result<Answer, Error>,
}

/// A request or claim that waits for latches.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A write of this shard alone.
    Ask(Origin, Request),
    /// A claim.
    Claim(ClaimId, Claim, Want),
}

/// What this shard does in a move of a range.
#[derive(Debug)]
pub(super) enum Role {
    /// Answers [`super::message::Message::Settle`] once W covers everything here.
    Settling(Transfer, Revision),
    /// Sends pieces.
    Sending(Transfer),
    /// Waits for pieces; what asks for these keys is parked.
    Receiving(Transfer),
}

/// One lane and its shard.
pub(super) struct Seat {
    pub(super) shard: Shard,
    pub(super) group: Group,
    pub(super) latches: Latches<Waiting>,
    pub(super) role: Option<Role>,
    /// A move whose last piece came before the map that announces it.
    pub(super) arrived: Option<ClaimId>,
    /// Messages for keys that are on their way here.
    pub(super) parked: Vec<(crate::keys::CoreId, super::Message)>,
    /// Answers whose gates ascend.
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) barrier_proposed: bool,
    /// What the shard will be when the epoch begins, if that is known.
    pub(super) draft: Option<Box<Draft>>,
    batch: Vec<u8>,
    /// Items of the batch.
    fresh: Vec<Item>,
    /// Items of proposed entries, by index.
    proposed: VecDeque<(u64, Vec<Item>)>,
    flights: VecDeque<Flight>,
    /// Entries in flight with their sizes.
    entries: VecDeque<(u64, usize)>,
    bytes_in_flight: usize,
    committed: u64,
}

impl Seat {
    /// Whether part of its keys is on its way to another lane.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.role, Some(Role::Sending(_)))
    }

    pub(super) fn new(lane: LaneId, member: u64, past: LanePast) -> Seat {
        Seat {
            shard: Shard::new(lane),
            group: Group::new(lane, member, past.group),
            draft: past.draft,
            latches: Latches::default(),
            role: None,
            arrived: None,
            parked: Vec::new(),
            waiters: VecDeque::new(),
            barrier_proposed: false,
            batch: Vec::new(),
            fresh: Vec::new(),
            proposed: VecDeque::new(),
            flights: VecDeque::new(),
            entries: VecDeque::new(),
            bytes_in_flight: 0,
            committed: 0,
        }
    }

    pub(super) fn lane(&self) -> LaneId {
        self.group.lane()
    }

    /// Whether another record may be appended (R3): asked before a revision is taken.
    pub(super) fn has_room(&self) -> bool {
        self.bytes_in_flight + self.batch.len() < IN_FLIGHT_BYTES_MAX
    }

    /// The records of this turn; appending to it must be followed by [`Seat::took`] or
    /// [`Seat::logged`].
    pub(super) fn batch(&mut self) -> &mut Vec<u8> {
        &mut self.batch
    }

    /// The shard and the batch at once.
    pub(super) fn writing(&mut self) -> (&mut Shard, &mut Vec<u8>) {
        (&mut self.shard, &mut self.batch)
    }

    /// A record with this revision is in the batch; `installs` shards beside this one must still
    /// install it.
    pub(super) fn took(&mut self, revision: Revision, installs: usize) {
        self.flights.push_back(Flight { revision, index: u64::MAX, installs });
        self.propose_if_large();
    }

    /// A record without a revision is in the batch.
    pub(super) fn logged(&mut self, item: Item) {
        self.fresh.push(item);
        self.propose_if_large();
    }

    fn propose_if_large(&mut self) {
        if self.batch.len() > BATCH_BYTES_MAX {
            self.propose();
        }
    }

    /// Proposes the batch as one entry.
    ///
    /// # Panics
    /// If the lane does not take it. Revisions in it were handed out, so there would be a gap (R3);
    /// with one voter a lane that leads takes everything.
    pub(super) fn propose(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let bytes = self.batch.len();
        let data = std::mem::replace(&mut self.batch, Vec::with_capacity(bytes.min(64 << 10)));
        let index = self.group.propose(data).expect("a leading lane takes proposals");
        self.bytes_in_flight += bytes;
        self.entries.push_back((index, bytes));
        for flight in self.flights.iter_mut().rev() {
            if flight.index != u64::MAX {
                break;
            }
            flight.index = index;
        }
        if !self.fresh.is_empty() {
            self.proposed.push_back((index, std::mem::take(&mut self.fresh)));
        }
    }

    /// Entries up to `index` are committed; returns the items among them with their entries.
    pub(super) fn commit(&mut self, index: u64) -> Vec<(u64, Item)> {
        self.committed = self.committed.max(index);
        while let Some(&(entry, bytes)) = self.entries.front()
            && entry <= index
        {
            self.bytes_in_flight -= bytes;
            self.entries.pop_front();
        }
        let mut items = Vec::new();
        while let Some((entry, _)) = self.proposed.front()
            && *entry <= index
        {
            let (entry, more) = self.proposed.pop_front().expect("just seen");
            items.extend(more.into_iter().map(|item| (entry, item)));
        }
        items
    }

    /// One shard more has installed the record with this revision.
    pub(super) fn installed(&mut self, revision: Revision) {
        let at = self.flights.partition_point(|flight| flight.revision < revision);
        let flight = self.flights.get_mut(at).filter(|flight| flight.revision == revision);
        flight.expect("a record in flight").installs -= 1;
    }

    /// Whether everywhere has installed the record with this revision.
    pub(super) fn is_installed(&self, revision: Revision) -> bool {
        let at = self.flights.partition_point(|flight| flight.revision < revision);
        !self
            .flights
            .get(at)
            .is_some_and(|flight| flight.revision == revision && flight.installs > 0)
    }

    /// Leaves revisions that are committed and installed everywhere; whether the oldest that is
    /// held has changed. [`Seat::oldest`] is it.
    pub(super) fn leave(&mut self) -> bool {
        let before = self.flights.len();
        while let Some(flight) = self.flights.front()
            && flight.index <= self.committed
            && flight.installs == 0
        {
            self.flights.pop_front();
        }
        self.flights.len() != before
    }

    /// The newest entry of which, and before which, every record is committed and installed.
    pub(super) fn settled(&self) -> u64 {
        let held = self.flights.front().map_or(u64::MAX, |flight| flight.index);
        self.committed.min(held - 1)
    }

    /// The oldest revision that the lane holds (R2).
    pub(super) fn oldest(&self) -> Option<Revision> {
        self.flights.front().map(|flight| flight.revision)
    }

    /// Whether records wait to be proposed.
    pub(super) fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    /// The revision that a move waits for, if one does.
    pub(super) fn settling_at(&self) -> Option<Revision> {
        match &self.role {
            Some(Role::Settling(_, at)) => Some(*at),
            _ => None,
        }
    }

    /// How many answers wait for their gates.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Whether nothing is in flight and nobody waits.
    pub(super) fn is_quiet(&self) -> bool {
        self.flights.is_empty()
            && self.batch.is_empty()
            && self.entries.is_empty()
            && self.waiters.is_empty()
    }

    /// Whether requests for any of `ranges` must wait until keys have arrived.
    pub(super) fn is_receiving<'a>(&self, ranges: impl IntoIterator<Item = &'a KeyRange>) -> bool {
        match &self.role {
            Some(Role::Receiving(transfer)) => {
                ranges.into_iter().any(|range| range.overlaps(&transfer.range))
            }
            _ => false,
        }
    }
}
