//! Writes that reach across shards: latch what is read or written in ascending key order, gather,
//! take one revision and log one record, install in every shard, release (R9). Coordinated on the
//! core of the lane that logs, so that the revision is taken there in the turn of the append (R3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::message::{Held, Message, Origin, Want};
use super::seat::Waiting;
use super::serve::{as_txn, delete_reply};
use super::{Answer, Effects, Engine, Error, Reply, Request};
use crate::keys::{CoreId, KeyRange, LaneId, LeaseId, Revision};
use crate::lane::redo::{self, Change, Record, Write};
use crate::route::latch::{Granted, Turn};
use crate::route::{Claim, ClaimId};
use crate::txn::gathered::Gathered;
use crate::txn::{self, Footprint};
use cored_proto::etcdserverpb as pb;

/// One operation.
pub(super) struct Across {
    work: Work,
    /// What is still to be claimed, in order; the first one is being asked for.
    steps: std::vec::IntoIter<Step>,
    /// Shards that hold, or are being asked for, latches of it.
    lanes: BTreeSet<LaneId>,
    gathered: Gathered,
    keys: Vec<Bytes>,
    /// When it is logged: lane and revision, until every shard has installed it.
    logged: Option<(LaneId, Revision)>,
}

enum Work {
    /// A transaction of a client's.
    Txn {
        origin: Origin,
        /// As it came, to be sent on when keys have moved.
        request: Request,
        txn: pb::TxnRequest,
    },
    /// The end of a lease.
    Revoke {
        lease: LeaseId,
        /// Who asked, unless it expired.
        origin: Option<Origin>,
        round: Round,
    },
}

/// How far the end of a lease is.
///
/// What binds a key to the lease on several shards claims the lease on the first of them alone, and may
/// be under way there when the others have been claimed here. So no shard is asked before all are held.
#[derive(Clone, Copy)]
enum Round {
    /// Claims the lease on every shard: no key can be bound to it any more.
    Lease,
    /// Asks every shard which keys it holds.
    Ask,
    /// Claims those keys, and asks again: some may have gone meanwhile.
    Keys,
}

struct Step {
    lane: LaneId,
    claim: Claim,
    want: Want,
}

impl Engine {
    /// A transaction that this core logs, if its map agrees.
    pub(super) fn begin_across(&mut self, origin: Origin, request: Request, fx: &mut Effects) {
        let txn = match &request {
            Request::Txn(txn) => txn.clone(),
            Request::DeleteRange(delete) => as_txn(delete.clone()),
            other => unreachable!("{other:?} never reaches across shards"),
        };
        let footprint = Arc::new(Footprint::of(&txn));
        let steps = self.claim_steps(&footprint);
        let lowest = steps.iter().map(|step| step.lane).min().unwrap_or(LaneId(0));
        let core = self.core_of(lowest);
        if core != self.core {
            // Ranges have moved since: another lane logs it now.
            return fx.mesh.push((core, Message::Across { origin, request }));
        }
        let work = Work::Txn { origin, request, txn };
        self.begin_op(work, steps, fx);
    }

    /// Ends a lease: claims it on every shard first, so that no key can be bound to it any more,
    /// then the keys it holds.
    pub(super) fn begin_revoke(
        &mut self,
        lease: LeaseId,
        origin: Option<Origin>,
        fx: &mut Effects,
    ) {
        let claim = Claim { revokes: Some(lease), ..Claim::default() };
        let steps = self.everywhere(&claim, &Want::Hold);
        self.begin_op(Work::Revoke { lease, origin, round: Round::Lease }, steps, fx);
    }

    /// The same of every shard.
    fn everywhere(&self, claim: &Claim, want: &Want) -> Vec<Step> {
        let step = |lane| Step { lane, claim: claim.clone(), want: want.clone() };
        (0..self.lanes).map(LaneId).map(step).collect()
    }

    fn begin_op(&mut self, work: Work, steps: Vec<Step>, fx: &mut Effects) {
        let op = ClaimId { core: self.core, number: self.new_op() };
        let across = Across {
            work,
            steps: steps.into_iter(),
            lanes: BTreeSet::new(),
            gathered: Gathered::default(),
            keys: Vec::new(),
            logged: None,
        };
        self.across.insert(op, across);
        self.next_claim(op, fx);
    }

    /// The claims of a footprint in ascending key order, none overlapping, neighbours of one lane
    /// together.
    fn claim_steps(&self, footprint: &Arc<Footprint>) -> Vec<Step> {
        let past = footprint.past.iter().map(|(range, _)| range);
        let all = footprint.ranges.iter().chain(past).cloned().collect();
        let mut steps: Vec<Step> = Vec::new();
        for range in disjoint(all) {
            for (piece, lane) in self.control.map.pieces(&range) {
                match steps.last_mut() {
                    Some(step) if step.lane == lane => step.claim.ranges.push(piece),
                    _ => steps.push(Step {
                        lane,
                        claim: Claim { ranges: vec![piece], ..Claim::default() },
                        want: Want::Rows(Arc::clone(footprint)),
                    }),
                }
            }
        }
        if let Some(first) = steps.first_mut() {
            first.claim.binds.clone_from(&footprint.leases);
        }
        steps
    }

    /// Asks for the next claim, or goes on when all are held.
    fn next_claim(&mut self, op: ClaimId, fx: &mut Effects) {
        let across = self.across.get_mut(&op).expect("an operation under way");
        match across.steps.next() {
            Some(Step { lane, claim, want }) => {
                let turn = if across.lanes.is_empty() { Turn::First } else { Turn::Later };
                across.lanes.insert(lane);
                let message = Message::Claim { op, lane, claim, turn, want };
                self.send(self.core_of(lane), message, fx);
            }
            None => self.all_claimed(op, fx),
        }
    }

    /// A claim on a shard of this core.
    pub(super) fn claim(
        &mut self,
        op: ClaimId,
        lane: LaneId,
        claim: Claim,
        turn: Turn,
        want: Want,
        fx: &mut Effects,
    ) {
        let at = self.seat_index(lane);
        if self.seats[at].is_receiving(&claim.ranges) {
            let message = Message::Claim { op, lane, claim, turn, want };
            return self.seats[at].parked.push((op.core, message));
        }
        let (kept, wanted) = (claim.clone(), want.clone());
        let waiter = || Waiting::Claim(op, kept, wanted);
        match self.seats[at].latches.claim(op, claim.clone(), turn, waiter) {
            Granted::Now => self.granted(op, lane, &claim, want, fx),
            Granted::Later => {}
        }
    }

    /// A claim on a shard of this core is held: gathers what it is for.
    pub(super) fn granted(
        &mut self,
        op: ClaimId,
        lane: LaneId,
        claim: &Claim,
        want: Want,
        fx: &mut Effects,
    ) {
        let at = self.seat_index(lane);
        let owned = |range: &KeyRange| self.control.map.owns(lane, range);
        let here = claim.ranges.iter().all(owned) && !self.seats[at].is_receiving(&claim.ranges);
        let held = if !here {
            Held::Moved(self.control.map.version())
        } else {
            match want {
                Want::Hold => Held::Nothing,
                Want::KeysOf(lease) => {
                    let mut keys = self.seats[at].shard.keys_of(lease);
                    // What a later claim is for can still go or be bound to another lease.
                    let held = |key: &Bytes| claim.ranges.iter().any(|range| range.contains(key));
                    keys.retain(|key| claim.ranges.is_empty() || held(key));
                    Held::Keys(keys)
                }
                Want::Rows(footprint) => {
                    let gathered = self.intact(|engine| {
                        let (shard, control) = (&engine.seats[at].shard, &engine.control);
                        let context = Engine::context(control, &engine.order, shard.highest());
                        let mut gathered = shard.gather(&footprint, &claim.ranges, context);
                        gathered.highest = gathered.highest.max(control.gate);
                        gathered
                    });
                    gathered.map_or(Held::Corrupt, Held::Rows)
                }
            }
        };
        self.send(op.core, Message::Claimed { op, held }, fx);
    }

    /// A claim of this core's operation was granted.
    pub(super) fn claimed(&mut self, op: ClaimId, held: Held, fx: &mut Effects) {
        if self.is_move(op) {
            return self.move_claimed(op, &held, fx);
        }
        let across = self.across.get_mut(&op).expect("an operation under way");
        match held {
            Held::Nothing => {}
            Held::Rows(gathered) => across.gathered.join(gathered),
            Held::Keys(mut keys) => across.keys.append(&mut keys),
            Held::Moved(version) => return self.start_over(op, version, fx),
            Held::Corrupt => {
                let Work::Txn { origin, .. } = self.finish(op, fx).work else {
                    unreachable!("a lease's keys are known without looking at rows")
                };
                return self.respond(origin, Err(Error::Corrupt), fx);
            }
        }
        self.next_claim(op, fx);
    }

    /// Keys have moved: gives everything back and begins anew with the newer map.
    fn start_over(&mut self, op: ClaimId, version: u64, fx: &mut Effects) {
        let across = self.finish(op, fx);
        match across.work {
            Work::Txn { origin, request, .. } => {
                self.when_map(version, Message::Across { origin, request }, fx);
            }
            Work::Revoke { .. } => unreachable!("no range moves while a lease is revoked"),
        }
    }

    /// Gives back every latch of an operation.
    fn finish(&mut self, op: ClaimId, fx: &mut Effects) -> Across {
        let across = self.across.remove(&op).expect("an operation under way");
        for &lane in &across.lanes {
            self.send(self.core_of(lane), Message::Release { op, lane }, fx);
        }
        across
    }

    pub(super) fn release_latches(&mut self, op: ClaimId, lane: LaneId, fx: &mut Effects) {
        let at = self.seat_index(lane);
        self.seats[at].latches.release(op);
        self.grant_waiting(at, fx);
    }

    fn all_claimed(&mut self, op: ClaimId, fx: &mut Effects) {
        let across = self.across.get_mut(&op).expect("an operation under way");
        match &mut across.work {
            Work::Txn { .. } => self.execute(op, fx),
            Work::Revoke { lease, round, .. } => {
                let (want, keys) = (Want::KeysOf(*lease), std::mem::take(&mut across.keys));
                let (next, steps) = match *round {
                    Round::Lease => (Round::Ask, self.everywhere(&Claim::default(), &want)),
                    Round::Ask if !keys.is_empty() => (Round::Keys, self.key_steps(keys, &want)),
                    Round::Ask | Round::Keys => return self.log_revoke(op, keys, fx),
                };
                self.next_round(op, next, steps, fx);
            }
        }
    }

    fn next_round(&mut self, op: ClaimId, next: Round, steps: Vec<Step>, fx: &mut Effects) {
        let across = self.across.get_mut(&op).expect("an operation under way");
        if let Work::Revoke { round, .. } = &mut across.work {
            *round = next;
        }
        across.steps = steps.into_iter();
        self.next_claim(op, fx);
    }

    /// Claims that cover `keys` in ascending order: in each range of the map, from the first of them
    /// to the last.
    fn key_steps(&self, mut keys: Vec<Bytes>, want: &Want) -> Vec<Step> {
        keys.sort_unstable();
        let mut steps: Vec<Step> = Vec::new();
        for (piece, lane) in self.control.map.pieces(&KeyRange::all()) {
            let mut inside = keys.iter().filter(|key| piece.contains(key));
            let Some(first) = inside.next() else { continue };
            let mut range = KeyRange::single(inside.next_back().unwrap_or(first));
            range.start = first.to_vec();
            match steps.last_mut() {
                Some(step) if step.lane == lane => step.claim.ranges.push(range),
                _ => steps.push(Step {
                    lane,
                    claim: Claim { ranges: vec![range], ..Claim::default() },
                    want: want.clone(),
                }),
            }
        }
        steps
    }

    /// Everything is latched and gathered: runs the transaction and logs what it writes.
    fn execute(&mut self, op: ClaimId, fx: &mut Effects) {
        let across = self.across.get_mut(&op).expect("an operation under way");
        let Work::Txn { origin, request, txn, .. } = &across.work else {
            unreachable!("a lease is revoked elsewhere")
        };
        let (origin, is_delete) = (*origin, matches!(request, Request::DeleteRange(_)));
        let lane = *across.lanes.first().expect("at least one shard");
        let at = usize::from(lane.0 / self.cores);
        let seen = across.gathered.highest.max(across.gathered.current);
        let wrap = |reply: Reply| if is_delete { delete_reply(reply) } else { reply };
        if !self.seats[at].has_room() {
            self.finish(op, fx);
            return self.respond(origin, Err(Error::TooManyRequests), fx);
        }
        if let Some(error) = self.control.alarms.refuse(request) {
            self.finish(op, fx);
            return self.respond_at(seen, origin, Err(error));
        }
        let plan = match txn::plan(&across.gathered, txn) {
            Ok(plan) => plan,
            Err(refusal) => {
                self.finish(op, fx);
                return self.respond_at(seen, origin, Err(refusal.into()));
            }
        };
        let order = &self.order;
        let mut take = || order.take(lane);
        let mut executed = txn::execute(&mut across.gathered, txn, &plan, &mut take);
        let Some(revision) = executed.revision else {
            txn::fill_headers(&mut executed.response, seen);
            let reply = wrap(Reply::Txn(executed.response));
            self.finish(op, fx);
            return self.respond_at(seen, origin, Ok(Answer { revision: seen, reply }));
        };
        txn::fill_headers(&mut executed.response, revision.prev());
        let writes = std::mem::take(&mut across.gathered.writes);
        let record = Record::Write { revision, writes };
        redo::encode(self.seats[at].batch(), &record);
        let Record::Write { writes, .. } = record else { unreachable!("just made") };
        let reply = wrap(Reply::Txn(executed.response));
        self.respond_at(revision, origin, Ok(Answer { revision, reply }));
        self.install_everywhere(op, lane, revision, writes, None, fx);
    }

    /// The lease is latched everywhere and so are its keys: logs its end.
    fn log_revoke(&mut self, op: ClaimId, mut keys: Vec<Bytes>, fx: &mut Effects) {
        let across = self.across.get(&op).expect("an operation under way");
        let Work::Revoke { lease, origin, .. } = across.work else {
            unreachable!("a transaction is executed elsewhere")
        };
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return self.log_keyless_revoke(op, lease, origin);
        }
        let lane = LaneId(0);
        let at = self.order.take(lane);
        let writes: Vec<Write> =
            keys.into_iter().map(|key| Write { key, change: Change::Delete }).collect();
        let record = Record::Revoke { at, lease, writes };
        redo::encode(self.seat(lane).batch(), &record);
        let Record::Revoke { writes, .. } = record else { unreachable!("just made") };
        if let Some(origin) = origin {
            let answer = Ok(Answer { revision: at, reply: Reply::Done });
            self.respond_at(at, origin, answer);
        }
        self.install_everywhere(op, lane, at, writes, Some(lease), fx);
    }

    /// Installs a record in all shards that it touches; a revocation in all there are.
    fn install_everywhere(
        &mut self,
        op: ClaimId,
        logged_by: LaneId,
        at: Revision,
        writes: Vec<Write>,
        revokes: Option<LeaseId>,
        fx: &mut Effects,
    ) {
        let mut per_lane: BTreeMap<LaneId, Vec<(u32, Write)>> = BTreeMap::new();
        if revokes.is_some() {
            per_lane.extend((0..self.lanes).map(|lane| (LaneId(lane), Vec::new())));
        }
        for (sub, write) in (0_u32..).zip(writes) {
            let lane = self.control.map.lane_of(&write.key);
            per_lane.entry(lane).or_default().push((sub, write));
        }
        self.seat(logged_by).took(at, per_lane.len());
        let across = self.across.get_mut(&op).expect("an operation under way");
        across.logged = Some((logged_by, at));
        for (lane, writes) in per_lane {
            let message = Message::Install { logged_by, lane, at, writes, revokes };
            self.send(self.core_of(lane), message, fx);
        }
    }

    /// Installs a record that another lane, or another shard's coordinator, logged.
    pub(super) fn install(
        &mut self,
        from: CoreId,
        logged_by: LaneId,
        lane: LaneId,
        at: Revision,
        writes: &[(u32, Write)],
        revokes: Option<LeaseId>,
    ) {
        let seat = self.seat_index(lane);
        self.seats[seat].shard.install(at, writes, &mut self.outgoing);
        if let Some(lease) = revokes {
            if let Some(keeper) = &mut self.keeper
                && let Some(ttl_s) = self.control.leases.ttl_s(lease)
            {
                keeper.checkpoint.lease_ends(at, lease, ttl_s);
            }
            self.control.gate = self.control.gate.max(at);
            self.lease_gone(lease);
        }
        let done = Message::Installed { logged_by, at };
        if from == self.core {
            self.local.push_back(done);
        } else {
            // Behind this turn's events (R11).
            self.acks.push((from, done));
        }
    }

    /// A shard has installed a record that a lane of this core logged; the last one ends the
    /// operation.
    pub(super) fn installed(&mut self, logged_by: LaneId, at: Revision, fx: &mut Effects) {
        let seat = self.seat(logged_by);
        seat.installed(at);
        if !seat.is_installed(at) {
            return;
        }
        let done = self.across.iter().find(|(_, op)| op.logged == Some((logged_by, at)));
        let op = *done.expect("the operation that logged it").0;
        let across = self.finish(op, fx);
        if let Work::Revoke { .. } = across.work {
            self.end_whole(fx);
        }
    }

    /// A lease without keys has ended, by a control record.
    pub(super) fn finish_keyless(&mut self, op: ClaimId, fx: &mut Effects) {
        self.finish(op, fx);
    }
}

/// The same keys as ranges that ascend and do not overlap.
fn disjoint(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort();
    let mut joined: Vec<KeyRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end.as_ref().is_none_or(|end| range.start <= *end) => {
                last.end = match (last.end.take(), range.end) {
                    (Some(a), Some(b)) => Some(a.max(b)),
                    _ => None,
                };
            }
            _ => joined.push(range),
        }
    }
    joined
}
