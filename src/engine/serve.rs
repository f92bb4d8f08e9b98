//! A client's request on its way: from its connection core to the shard that owns its keys, or to
//! whoever coordinates it, and what the shard does with it.

use super::message::{Message, Origin, Reading};
use super::seat::{Item, Waiter, Waiting};
use super::{Answer, Effects, Engine, Error, RangeReply, Reply, Request, RequestId};
use crate::keys::{CoreId, KeyRange, LaneId, LeaseId, Revision};
use crate::route::Claim;
use crate::shard::{Cut, Outcome, Shard};
use crate::txn::{Footprint, Refusal};
use cored_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use pb::response_op::Response;

/// Where a request goes.
enum Way {
    /// All its keys have one owner.
    One(LaneId),
    /// A read over several shards.
    Gather,
    /// A write over several shards, logged in the lowest lane.
    Across(LaneId),
    /// To the keeper of control state.
    Keeper,
    /// Anywhere: it is about no key.
    Here,
}

impl Engine {
    pub(super) fn request(&mut self, id: RequestId, request: Request, fx: &mut Effects) {
        if self.stopping {
            return fx.answers.push((id, Err(Error::Stopped)));
        }
        if matches!(request, Request::Status) {
            // How a member is can be asked at any time.
            return self.begin_status(id, fx);
        }
        if !self.serving {
            return fx.answers.push((id, Err(Error::NoLeader)));
        }
        if self.must_wait(&request) && self.control.alarms.refuse(&request).is_none() {
            return self.hold.push(id, request);
        }
        self.requests += 1;
        let origin = Origin { core: self.core, id };
        match self.way(&request) {
            Way::One(lane) => match self.core_of(lane) {
                core if core == self.core => self.asked(origin, lane, request, fx),
                core => fx.mesh.push((core, Message::Ask { id, lane, request })),
            },
            Way::Gather => {
                let Request::Range(range) = request else { unreachable!("only ranges gather") };
                self.begin_range(id, range, fx);
            }
            Way::Across(lane) => {
                let core = self.core_of(lane);
                self.send(core, Message::Across { origin, request }, fx);
            }
            Way::Keeper => self.send(CoreId(0), Message::Command { id, request }, fx),
            Way::Here => {
                let revision = self.order.watermark();
                fx.answers.push((id, Ok(Answer { revision, reply: Reply::Done })));
            }
        }
    }

    fn way(&self, request: &Request) -> Way {
        let map = &self.control.map;
        match request {
            Request::Put(put) => Way::One(map.lane_of(&put.key)),
            Request::Range(range) => {
                let keys = KeyRange::from_request(&range.key, &range.range_end);
                map.sole_owner(&keys).map_or(Way::Gather, Way::One)
            }
            Request::DeleteRange(delete) => {
                let keys = KeyRange::from_request(&delete.key, &delete.range_end);
                self.owner_of(std::iter::once(&keys))
            }
            Request::Txn(txn) => {
                let footprint = Footprint::of(txn);
                let past = footprint.past.iter().map(|(range, _)| range);
                self.owner_of(footprint.ranges.iter().chain(past))
            }
            Request::Compact { .. }
            | Request::LeaseGrant { .. }
            | Request::LeaseRevoke { .. }
            | Request::LeaseKeepAlive { .. }
            | Request::LeaseTimeToLive { .. }
            | Request::LeaseLeases
            | Request::HashKv { .. }
            | Request::Hash
            | Request::Alarm(_)
            | Request::Checkpoint => Way::Keeper,
            Request::Status | Request::ReadIndex => Way::Here,
        }
    }

    /// The one lane that owns all of `ranges`, or the lowest of several.
    fn owner_of<'a>(&self, ranges: impl Iterator<Item = &'a KeyRange>) -> Way {
        let map = &self.control.map;
        let mut lanes = Vec::new();
        for range in ranges {
            match map.sole_owner(range) {
                Some(lane) => lanes.push(lane),
                None => lanes.extend(map.pieces(range).into_iter().map(|(_, lane)| lane)),
            }
        }
        let lowest = lanes.iter().copied().min().unwrap_or(LaneId(0));
        if lanes.iter().all(|lane| *lane == lowest) {
            Way::One(lowest)
        } else {
            Way::Across(lowest)
        }
    }

    /// A request for a shard of this core.
    pub(super) fn asked(
        &mut self,
        origin: Origin,
        lane: LaneId,
        request: Request,
        fx: &mut Effects,
    ) {
        let at = self.seat_index(lane);
        if self.is_plain_put(at, &request) {
            return self.evaluate(at, origin, request, fx);
        }
        let ranges = ranges_of(&request);
        if self.seats[at].is_receiving(&ranges) {
            let message = Message::Ask { id: origin.id, lane, request };
            return self.seats[at].parked.push((origin.core, message));
        }
        if !ranges.iter().all(|range| self.control.map.owns(lane, range)) {
            return self.moved(origin, request, fx);
        }
        if let Request::Range(range) = &request {
            let answer = self.range_here(at, range);
            return self.respond(origin, answer, fx);
        }
        let claim = Claim { ranges, revokes: None, binds: leases_of(&request) };
        let latches = &mut self.seats[at].latches;
        if !latches.may_pass(&claim) {
            return latches.wait(claim, Waiting::Ask(origin, request));
        }
        self.evaluate(at, origin, request, fx);
    }

    /// The common case, told without building ranges: a put of an owned key while no latch is held.
    fn is_plain_put(&self, at: usize, request: &Request) -> bool {
        let seat = &self.seats[at];
        match request {
            Request::Put(put) => {
                seat.latches.is_idle()
                    && seat.role.is_none()
                    && self.control.map.lane_of(&put.key) == seat.lane()
            }
            _ => false,
        }
    }

    /// Sends a request back to its connection core: the keys live elsewhere.
    fn moved(&mut self, origin: Origin, request: Request, fx: &mut Effects) {
        let version = self.control.map.version();
        self.send(origin.core, Message::Moved { id: origin.id, request, version }, fx);
    }

    /// Does `message` again once this core's map has reached `version`.
    pub(super) fn when_map(&mut self, version: u64, message: Message, fx: &mut Effects) {
        if self.control.map.version() < version {
            return self.awaiting_map.push((version, message));
        }
        match message {
            Message::Moved { id, request, .. } => self.request(id, request, fx),
            other => self.local.push_back(other),
        }
    }

    /// A linearizable read of one shard (R7 with one voter): everything up to the watermark is
    /// installed, and the watermark covers whatever was acknowledged before the request arrived.
    fn range_here(&mut self, at: usize, request: &pb::RangeRequest) -> Result<Answer, Error> {
        let watermark = self.order.watermark();
        let revision = read_revision(request, watermark, self.control.compacted)?;
        let keys = KeyRange::from_request(&request.key, &request.range_end);
        let rows = self
            .intact(|engine| engine.seats[at].shard.range(request, &keys, revision, Cut::Whole));
        let rows = rows.ok_or(Error::Corrupt)?;
        let reply = RangeReply { kvs: rows.kvs, more: rows.more, count: rows.count };
        Ok(Answer { revision: watermark, reply: Reply::Range(reply) })
    }

    /// Evaluates a write whose latches are free and whose keys are owned.
    pub(super) fn evaluate(
        &mut self,
        at: usize,
        origin: Origin,
        request: Request,
        fx: &mut Effects,
    ) {
        if !self.seats[at].has_room() {
            return self.respond(origin, Err(Error::TooManyRequests), fx);
        }
        let seat = &mut self.seats[at];
        let lane = seat.lane();
        let highest = seat.shard.highest();
        let context = Engine::context(&self.control, &self.order, highest);
        let current = context.current;
        let order = &self.order;
        let mut take = || order.take(lane);
        let (shard, batch) = seat.writing();
        let outgoing = &mut self.outgoing;
        let alarms = &self.control.alarms;
        let mut evaluate = || {
            if let Some(error) = alarms.refuse(&request) {
                return Err(error);
            }
            if !is_readable(shard, &request) {
                return Err(Error::Corrupt);
            }
            let outcome = match &request {
                Request::Put(put) => shard.put(put, context, &mut take, batch, outgoing),
                Request::Txn(txn) => shard.txn(txn, context, &mut take, batch, outgoing),
                Request::DeleteRange(delete) => shard
                    .txn(&as_txn(delete.clone()), context, &mut take, batch, outgoing)
                    .map(unwrap_delete),
                other => unreachable!("{other:?} is no write of one shard"),
            };
            outcome.map_err(Error::from)
        };
        let outcome = evaluate();
        self.outcome(at, origin, outcome, current.max(self.control.gate));
    }

    /// Lets the answer wait for its gate: its own revision, or everything it may have seen.
    fn outcome(
        &mut self,
        at: usize,
        origin: Origin,
        outcome: Result<Outcome, Error>,
        seen: Revision,
    ) {
        let seat = &mut self.seats[at];
        let (gate, answer) = match outcome {
            Ok(Outcome { reply, revision: Some(revision) }) => {
                seat.took(revision, 0);
                (revision, Ok(Answer { revision, reply }))
            }
            Ok(Outcome { reply, revision: None }) => (seen, Ok(Answer { revision: seen, reply })),
            Err(error) => (seen, Err(error)),
        };
        match seat.waiters.back() {
            // A control record's stamp can be ahead of this lane's revisions.
            Some(last) if last.gate > gate => self.respond_at(gate, origin, answer),
            _ => self.seats[at].waiters.push_back(Waiter { gate, origin, answer }),
        }
    }

    /// Evaluates, or grants, everything that waited for latches which are free now.
    pub(super) fn grant_waiting(&mut self, at: usize, fx: &mut Effects) {
        while let Some((_, waiting)) = self.seats[at].latches.next_granted() {
            let lane = self.seats[at].lane();
            match waiting {
                Waiting::Ask(origin, request) => {
                    // Its keys may have left meanwhile, and may even be on their way back.
                    let ranges = ranges_of(&request);
                    let owned = |range: &KeyRange| self.control.map.owns(lane, range);
                    if self.seats[at].is_receiving(&ranges) {
                        let message = Message::Ask { id: origin.id, lane, request };
                        self.seats[at].parked.push((origin.core, message));
                    } else if ranges.iter().all(owned) {
                        self.evaluate(at, origin, request, fx);
                    } else {
                        self.moved(origin, request, fx);
                    }
                }
                Waiting::Claim(op, claim, want) => self.granted(op, lane, &claim, want, fx),
            }
        }
    }

    /// Appends a record without a revision to a lane of this core.
    pub(super) fn log(&mut self, lane: LaneId, item: Item, record: &crate::lane::redo::Record) {
        let seat = self.seat(lane);
        crate::lane::redo::encode(seat.batch(), record);
        seat.logged(item);
    }

    /// Part of a read, for a shard of this core.
    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn read(
        &mut self,
        from: CoreId,
        op: u64,
        part: usize,
        lane: LaneId,
        range: KeyRange,
        reading: Reading,
        fx: &mut Effects,
    ) {
        let at = self.seat_index(lane);
        if self.seats[at].is_receiving(std::iter::once(&range)) {
            let message = Message::Read { op, part, lane, range, reading };
            return self.seats[at].parked.push((from, message));
        }
        let found = if self.control.map.owns(lane, &range) {
            // Nothing of a damaged block is told; a registration that was made is taken back.
            let found = self.intact(|engine| engine.read_here(at, &range, reading));
            found.unwrap_or(super::message::Part::Corrupt)
        } else {
            super::message::Part::Moved(self.control.map.version())
        };
        self.send(from, Message::Part { op, part, found }, fx);
    }
}

/// The revision a range is read at.
///
/// # Errors
/// As etcd: above the current one, or given up.
pub(super) fn read_revision(
    request: &pb::RangeRequest,
    watermark: Revision,
    compacted: Revision,
) -> Result<Revision, Error> {
    match request.revision {
        ..=0 => Ok(watermark),
        at if at > watermark.0 => Err(Refusal::FutureRevision.into()),
        at if at < compacted.0 => Err(Refusal::Compacted.into()),
        at => Ok(Revision(at)),
    }
}

/// Whether everything that a write looks at can be read: asked before it takes a revision.
fn is_readable(shard: &Shard, request: &Request) -> bool {
    match request {
        Request::Put(put) => shard.store().touch_key(&put.key).is_ok(),
        _ if !shard.store().has_base() => true,
        other => ranges_of(other).iter().all(|range| shard.store().touch(range).is_ok()),
    }
}

/// All keys that a request names.
fn ranges_of(request: &Request) -> Vec<KeyRange> {
    match request {
        Request::Put(put) => vec![KeyRange::single(&put.key)],
        Request::Range(range) => vec![KeyRange::from_request(&range.key, &range.range_end)],
        Request::DeleteRange(delete) => {
            vec![KeyRange::from_request(&delete.key, &delete.range_end)]
        }
        Request::Txn(txn) => {
            let footprint = Footprint::of(txn);
            let past = footprint.past.into_iter().map(|(range, _)| range);
            footprint.ranges.into_iter().chain(past).collect()
        }
        _ => Vec::new(),
    }
}

/// All leases that a request binds keys to.
fn leases_of(request: &Request) -> Vec<LeaseId> {
    match request {
        Request::Put(put) if put.lease != 0 => vec![LeaseId(put.lease)],
        Request::Txn(txn) => Footprint::of(txn).leases,
        _ => Vec::new(),
    }
}

/// A delete as a transaction of one operation.
pub(super) fn as_txn(delete: pb::DeleteRangeRequest) -> pb::TxnRequest {
    let op = pb::RequestOp { request: Some(Op::RequestDeleteRange(delete)) };
    pb::TxnRequest { success: vec![op], ..Default::default() }
}

/// The answer to [`as_txn`] as that to the delete.
pub(super) fn unwrap_delete(outcome: Outcome) -> Outcome {
    Outcome { reply: delete_reply(outcome.reply), revision: outcome.revision }
}

pub(super) fn delete_reply(reply: Reply) -> Reply {
    let Reply::Txn(mut txn) = reply else { unreachable!("a transaction answers a transaction") };
    match txn.responses.pop().and_then(|op| op.response) {
        Some(Response::ResponseDeleteRange(mut delete)) => {
            delete.header = None;
            Reply::DeleteRange(delete)
        }
        other => unreachable!("{other:?} answers no delete"),
    }
}
