//! How an epoch begins (R5): every lane elects and commits a barrier, the keeper finds the cut and
//! commits the epoch record, every core installs what the cut keeps, then all serve.

use std::sync::Arc;

use super::message::Message;
use super::past::{PastControl, Replay};
use super::seat::Item;
use super::{Effects, Engine};
use crate::keys::{CoreId, LaneId, Revision};
use crate::lane::redo::{Record, Writes};
use crate::mvcc::base::Base;
use crate::order::EpochRecord;

/// About how many bytes of records one turn installs: some milliseconds.
const REPLAY_BYTES: usize = 1 << 20;

/// What the keeper knows of an epoch that begins.
pub(super) struct Start {
    barriers: Vec<Option<(u64, u64)>>,
    record: Option<EpochRecord>,
    replayed: u16,
}

/// What a core has still to install before it serves.
pub(super) struct Replaying {
    /// Nothing for a core that owns no range or has drafts of its shards.
    replay: Option<Replay>,
    control: PastControl,
}

impl Start {
    pub(super) fn new(lanes: u16) -> Start {
        Start { barriers: vec![None; usize::from(lanes)], record: None, replayed: 0 }
    }
}

impl Engine {
    /// Lets lanes that have not begun stand for election, and puts a barrier into those that lead.
    pub(super) fn begin_lanes(&mut self) {
        if self.serving {
            return;
        }
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            if seat.barrier_proposed {
                continue;
            }
            if !seat.group.is_leader() {
                seat.group.campaign();
            }
            if seat.group.is_leader() {
                seat.barrier_proposed = true;
                let lane = seat.lane();
                self.log(lane, Item::Barrier, &Record::Barrier { epoch: self.epoch });
            } else {
                self.again = true;
            }
        }
    }

    pub(super) fn own_barrier_committed(&mut self, lane: LaneId, fx: &mut Effects) {
        let seat = self.seat(lane);
        // The commit that was reported last is the barrier's: nothing follows it before the epoch
        // is served, and nothing else carries this item.
        let at = (seat.group.commit_index(), seat.group.term());
        self.send(CoreId(0), Message::Barrier { lane, at }, fx);
    }

    /// On the keeper's core: a lane has its barrier.
    pub(super) fn barrier_committed(&mut self, lane: LaneId, at: (u64, u64), fx: &mut Effects) {
        let _ = fx;
        let epoch = self.epoch;
        let keeper = self.keeper.as_mut().expect("sent to the keeper");
        keeper.start.barriers[usize::from(lane.0)] = Some(at);
        let Some(barriers) = keeper.start.barriers.iter().copied().collect::<Option<Vec<_>>>()
        else {
            return;
        };
        let past = self.past.as_ref().expect("kept until everything is installed");
        let cut = past.cut();
        let record = EpochRecord { epoch, cut, barriers: barriers.clone() };
        keeper.start.record = Some(record);
        self.log(LaneId(0), Item::Epoch, &Record::Epoch { epoch, cut, barriers });
    }

    /// On the keeper's core: the epoch record is committed.
    pub(super) fn epoch_committed(&mut self, fx: &mut Effects) {
        let keeper = self.keeper.as_ref().expect("lane 0 lives with the keeper");
        let record = keeper.start.record.clone().expect("proposed before");
        self.begin_checkpoints(record.clone());
        for core in (0..self.cores).map(CoreId) {
            self.send(core, Message::Epoch(record.clone()), fx);
        }
    }

    /// Begins to install everything the new epoch keeps. Not in this turn: what it tells other cores
    /// must leave first, so that all install at the same time.
    pub(super) fn begin_replay(&mut self, record: &EpochRecord) {
        let past = self.past.take().expect("an epoch begins once");
        let mut control = past.control(record);
        self.control.map = std::mem::take(&mut control.map);
        self.control.compacted = control.compacted;
        self.control.alarms = std::mem::take(&mut control.alarms);
        self.control.auth = std::mem::take(&mut control.auth).into();
        for (&lease, &(ttl_s, _)) in &control.leases {
            self.control.leases.grant(lease, ttl_s);
        }
        let base = self.base.take();
        let is_drafted = self.begin_shards(base.as_ref());
        let mut owners = self.control.map.starts().iter().map(|(_, lane)| *lane);
        let owns = owners.any(|lane| self.core_of(lane) == self.core);
        let replay = (owns && !is_drafted).then(|| past.replay(record));
        self.replaying = Some(Box::new(Replaying { replay, control }));
        self.again = true;
    }

    /// Begins the shards of this core: with their drafts, or with what the image `base` has of their keys.
    /// Whether it was with drafts.
    pub(super) fn begin_shards(&mut self, base: Option<&Arc<Base>>) -> bool {
        let map = &self.control.map;
        let mut is_drafted = true;
        for seat in &mut self.seats {
            let owned = map.of_lane(seat.lane()).collect();
            // The image remembers the fault, and whoever serves looks there.
            self.leased_known &= match seat.draft.take() {
                Some(draft) => {
                    assert!(draft.knows(map), "what was settled is what the epoch begins with");
                    draft.begin(&mut seat.shard, owned)
                }
                None => {
                    is_drafted = false;
                    seat.shard.begin(owned, base)
                }
            };
        }
        is_drafted
    }

    /// Installs the next part of that in revision order (R8), for the shards of this core.
    pub(super) fn step_replay(&mut self, fx: &mut Effects) {
        let Some(mut replaying) = self.replaying.take() else { return };
        let more = replaying.replay.as_mut().is_some_and(|replay| {
            replay.step(REPLAY_BYTES, |revision, _, writes| self.replay_writes(revision, writes))
        });
        if more {
            self.replaying = Some(replaying);
            self.again = true;
            return;
        }
        let Replaying { control, .. } = *replaying;
        for seat in &mut self.seats {
            seat.shard.compact(control.compacted);
        }
        self.garbage = control.compacted > Revision::ZERO;
        if let Some(keeper) = &mut self.keeper {
            keeper.alarms.clone_from(&self.control.alarms);
            self.restore_leases(&control);
        }
        self.send(CoreId(0), Message::Replayed, fx);
    }

    fn replay_writes(&mut self, revision: Revision, writes: Writes<'_>) {
        for (sub, (key, change)) in (0_u32..).zip(writes) {
            let lane = self.control.map.lane_of(key);
            if self.core_of(lane) == self.core {
                self.seat(lane).shard.replay((revision, sub), key, change);
            }
        }
    }

    /// On the keeper's core: a core has installed everything.
    pub(super) fn replayed(&mut self, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("sent to the keeper");
        keeper.start.replayed += 1;
        if keeper.start.replayed < self.cores {
            return;
        }
        let record = keeper.start.record.clone().expect("replayed by it");
        self.order.serve(record.epoch, record.cut);
        for core in (0..self.cores).map(CoreId) {
            self.send(core, Message::Serve { epoch: record.epoch }, fx);
        }
    }

    pub(super) fn serve(&mut self, epoch: u64, fx: &mut Effects) {
        assert_eq!(epoch, self.epoch, "the epoch that this core began");
        self.serving = true;
        self.again = true;
        fx.serves = true;
        for (stream, input) in std::mem::take(&mut self.early_watch) {
            self.watch_input(stream, input, fx);
        }
    }
}
