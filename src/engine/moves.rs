//! A range on its way from one shard to another (R10): latch it, wait until everything in it is
//! committed, log the new map, hand the keys over in bounded pieces, release.

use bytes::Bytes;

use super::keeper::Then;
use super::message::{Held, Message, Transfer, Want};
use super::seat::Role;
use super::{Effects, Engine};
use crate::keys::{CoreId, KeyRange, LaneId, Revision};
use crate::lane::redo::Control;
use crate::route::balance::{LaneLoad, Move as Decision};
use crate::route::latch::Turn;
use crate::route::{Claim, ClaimId, RangeMap};
use crate::shard::Moving;

/// Time between two looks at how busy the lanes are.
const BALANCE_MS: u64 = 1000;

/// A move, on the keeper's core.
pub(super) struct Move {
    transfer: Transfer,
    /// Whether it has begun; before that it waits for operations over the whole store.
    begun: bool,
}

impl Move {
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }
}

impl Engine {
    /// Tells the keeper how busy this core's lanes are, each second.
    pub(super) fn report_load(&mut self, fx: &mut Effects) {
        if self.now_ms < self.load_due_ms {
            return;
        }
        self.load_due_ms = self.now_ms + BALANCE_MS;
        let loads: Vec<LaneLoad> = self
            .seats
            .iter_mut()
            .map(|seat| {
                let lane = seat.lane();
                seat.shard.sampler().load(lane)
            })
            .collect();
        let asked = std::mem::take(&mut self.requests);
        self.send(CoreId(0), Message::Load { asked, loads }, fx);
        self.report_log(false, fx);
    }

    /// Tells the keeper how much this core has logged; `last` when it stops.
    pub(super) fn report_log(&mut self, last: bool, fx: &mut Effects) {
        let bytes = std::mem::take(&mut self.logged_bytes);
        self.send(CoreId(0), Message::Logged { bytes, last }, fx);
    }

    /// How busy the lanes of a core are, and its clients.
    pub(super) fn load(&mut self, from: CoreId, asked: u64, loads: Vec<LaneLoad>) {
        let keeper = self.keeper.as_mut().expect("sent to the keeper");
        keeper.balancer.asked(from, asked);
        loads.into_iter().for_each(|load| keeper.balancer.report(load));
    }

    /// Begins a move if the lanes are uneven.
    pub(super) fn balance(&mut self, fx: &mut Effects) {
        let now_ms = self.now_ms;
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        let due = now_ms >= keeper.balance_due_ms && self.lanes > 1;
        if !due || keeper.moving.is_some() || keeper.checkpoint.excludes_moves() {
            return;
        }
        keeper.balance_due_ms = now_ms + BALANCE_MS;
        if let Some(Decision { range, to }) = keeper.balancer.decide(&self.control.map) {
            self.plan_move(range, to, fx);
        }
    }

    /// Plans to move `range`, which one lane owns, to another; nothing happens if that is not so.
    pub(super) fn plan_move(&mut self, range: KeyRange, to: LaneId, fx: &mut Effects) {
        let Some(from) = self.control.map.sole_owner(&range) else { return };
        if range.is_empty() || from == to || to.0 >= self.lanes {
            return;
        }
        let op = ClaimId { core: self.core, number: self.new_op() };
        let transfer = Transfer { op, range, from, to };
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        keeper.moving = Some(Move { transfer, begun: false });
        self.begin_waiting_move(fx);
    }

    /// Begins the move that waits, if nothing runs over the whole store and no layer is frozen.
    pub(super) fn begin_waiting_move(&mut self, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        let Some(planned) = keeper.moving.as_mut().filter(|planned| !planned.begun) else {
            return;
        };
        if keeper.whole_running > 0 || keeper.checkpoint.excludes_moves() {
            return;
        }
        planned.begun = true;
        let Transfer { op, range, from, .. } = planned.transfer.clone();
        let claim = Claim { ranges: vec![range], ..Claim::default() };
        let (turn, want) = (Turn::First, Want::Hold);
        let message = Message::Claim { op, lane: from, claim, turn, want };
        self.send(self.core_of(from), message, fx);
    }

    /// Whether an operation of this core is a move.
    pub(super) fn is_move(&self, op: ClaimId) -> bool {
        let moving = self.keeper.as_ref().and_then(|keeper| keeper.moving.as_ref());
        moving.is_some_and(|moving| moving.transfer.op == op)
    }

    /// The range is latched: waits until all of it is committed.
    pub(super) fn move_claimed(&mut self, op: ClaimId, held: &Held, fx: &mut Effects) {
        assert!(
            !matches!(held, Held::Moved(_)),
            "{op:?}: only moves change the map, one at a time"
        );
        let keeper = self.keeper.as_ref().expect("on the keeper's core");
        let transfer = keeper.moving.as_ref().expect("this move").transfer.clone();
        self.send(self.core_of(transfer.from), Message::Settle { transfer }, fx);
    }

    pub(super) fn settle(&mut self, transfer: Transfer, fx: &mut Effects) {
        let seat = self.seat(transfer.from);
        let at = seat.shard.highest();
        seat.role = Some(Role::Settling(transfer, at));
        self.release_settling(self.order.watermark(), fx);
    }

    /// Tells the keeper of ranges in which everything is committed.
    pub(super) fn release_settling(&mut self, watermark: Revision, fx: &mut Effects) {
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            if seat.settling_at().is_none_or(|revision| revision > watermark) {
                continue;
            }
            if let Some(Role::Settling(transfer, _)) = seat.role.take() {
                self.send(CoreId(0), Message::Settled { op: transfer.op }, fx);
            }
        }
    }

    /// Everything in the range is committed: logs the new map.
    pub(super) fn settled(&mut self, op: ClaimId, fx: &mut Effects) {
        let _ = (op, fx);
        let keeper = self.keeper.as_ref().expect("on the keeper's core");
        let transfer = keeper.moving.as_ref().expect("this move").transfer.clone();
        let map = self.control.map.moved(&transfer.range, transfer.to);
        let control = Control::Map { version: map.version(), ranges: map.starts().to_vec() };
        self.control_record(control, Some(transfer), Then::Nothing);
    }

    /// A new map takes effect here.
    pub(super) fn new_map(
        &mut self,
        version: u64,
        ranges: Vec<(Bytes, LaneId)>,
        transfer: Option<Transfer>,
        fx: &mut Effects,
    ) {
        self.control.map = RangeMap::new(version, ranges);
        self.own_ranges();
        if let Some(transfer) = transfer {
            if self.core_of(transfer.from) == self.core {
                self.seat(transfer.from).role = Some(Role::Sending(transfer.clone()));
                self.again = true;
            }
            if self.core_of(transfer.to) == self.core {
                let seat = self.seat(transfer.to);
                // The last piece may have come before the map; the move ends with both.
                if seat.arrived.take() == Some(transfer.op) {
                    self.send(CoreId(0), Message::Arrived { op: transfer.op }, fx);
                } else {
                    seat.role = Some(Role::Receiving(transfer));
                }
            }
        }
        for (needs, message) in std::mem::take(&mut self.awaiting_map) {
            if needs > version {
                self.awaiting_map.push((needs, message));
            } else {
                self.local.push_back(message);
            }
        }
    }

    /// Hands over a piece of each range that is on its way from here.
    pub(super) fn send_pieces(&mut self, fx: &mut Effects) {
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            let Some(Role::Sending(transfer)) = &seat.role else { continue };
            let transfer = transfer.clone();
            let (moving, last) = seat.shard.export(&transfer.range, self.piece_bytes);
            if last {
                seat.role = None;
            } else {
                self.again = true;
            }
            let to = self.core_of(transfer.to);
            self.send(to, Message::Piece { transfer, moving, last }, fx);
        }
    }

    /// Takes over a piece; with the last one, does what had to wait for it.
    pub(super) fn piece(
        &mut self,
        transfer: Transfer,
        moving: Moving,
        last: bool,
        fx: &mut Effects,
    ) {
        let at = self.seat_index(transfer.to);
        let seat = &mut self.seats[at];
        seat.shard.import(moving);
        if !last {
            return;
        }
        if !matches!(seat.role, Some(Role::Receiving(_))) {
            seat.arrived = Some(transfer.op);
            return;
        }
        seat.role = None;
        let parked = std::mem::take(&mut seat.parked);
        self.send(CoreId(0), Message::Arrived { op: transfer.op }, fx);
        for (from, message) in parked {
            self.message(from, message, fx);
        }
    }

    /// A move has ended: releases its latch and what waited for it.
    pub(super) fn arrived(&mut self, op: ClaimId, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        let done = keeper.moving.take().expect("this move");
        keeper.balance_due_ms = self.now_ms;
        let lane = done.transfer.from;
        self.send(self.core_of(lane), Message::Release { op, lane }, fx);
        self.begin_waiting_tasks(fx);
    }
}
