//! The keeper of control state: what only the core of lane 0 does. Control records (leases,
//! compaction, range map) are logged in lane 0 with a stamp, take effect on every core once the
//! watermark covers the stamp, and are answered when every core says so (R13).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cored_proto::etcdserverpb as pb;

use super::alarms::Alarms;
use super::auto_compact::AutoCompact;
use super::checkpointing::Checkpointing;
use super::message::{Change, Message, Origin, Transfer};
use super::moves::Move;
use super::note::{Note, Step};
use super::seat::Item;
use super::start::Start;
use super::whole::{Task, WholeRead};
use super::{Answer, Effects, Engine, Error, Reply, Request};
use crate::config::Retention;
use crate::keys::{CoreId, LaneId, LeaseId, Revision};
use crate::lane::redo::{Control, Record};
use crate::lease;
use crate::route::ClaimId;
use crate::route::balance::Balancer;
use crate::txn::Refusal;

/// Control state that is being changed, and who waits for it.
pub(super) struct Keeper {
    pub(super) start: Start,
    /// Of the leases that are known on this core, as of the moment when they came to be known.
    pub(super) clock: lease::Clock,
    /// Control records that are not effective everywhere yet, in the order of the log.
    controls: BTreeMap<u64, Pending>,
    next_control: u64,
    /// The newest compaction that was asked for.
    compacting: Revision,
    /// Compactions whose callers wait until the garbage is gone: revision and caller.
    physical: Vec<(Revision, Origin)>,
    pub(super) auto_compact: Option<AutoCompact>,
    /// Per core up to where its garbage is gone.
    collected: Vec<Revision>,
    granting: BTreeSet<LeaseId>,
    /// The alarms as they will be when everything that was logged is effective.
    pub(super) alarms: Alarms,
    /// Leases whose end is under way, and who else asked for it.
    pub(super) revoking: BTreeMap<LeaseId, Vec<Origin>>,
    /// Leases whose time ran out.
    pub(super) expired: u64,
    pub(super) moving: Option<Move>,
    /// Operations over the whole store that run, and those that wait for a move to end.
    pub(super) whole_running: usize,
    pub(super) whole_waiting: VecDeque<Task>,
    pub(super) whole_reads: BTreeMap<u64, WholeRead>,
    pub(super) balancer: Balancer,
    pub(super) balance_due_ms: u64,
    pub(super) checkpoint: Checkpointing,
}

/// A control record between its proposal and its last acknowledgement.
struct Pending {
    stamp: Revision,
    change: Change,
    /// Its entry, once that is committed.
    index: Option<u64>,
    sent: bool,
    acks: u16,
    then: Then,
}

/// What follows when a control record is effective everywhere.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// A compaction is answered, or waits until its garbage is gone.
    Compacted(Revision, bool, Origin),
    /// A compaction that nobody asked for, and when it began.
    AutoCompacted(Revision, u64),
    /// A lease begins.
    Granted(LeaseId, i64, Origin),
    /// A keepalive is answered.
    Renewed(i64, Origin),
    /// An alarm was raised or ended, or there was none to end.
    Alarm(Option<pb::AlarmMember>, Origin),
    /// A lease without keys is gone.
    Revoked(ClaimId, Option<Origin>),
    /// Nobody waits.
    Nothing,
}

impl Keeper {
    pub(super) fn new(lanes: u16, cores: u16, auto_compaction: Option<Retention>) -> Keeper {
        Keeper {
            start: Start::new(lanes),
            clock: lease::Clock::default(),
            controls: BTreeMap::new(),
            next_control: 1,
            compacting: Revision::ZERO,
            physical: Vec::new(),
            auto_compact: auto_compaction.map(AutoCompact::new),
            collected: vec![Revision::ZERO; usize::from(cores)],
            granting: BTreeSet::new(),
            alarms: Alarms::default(),
            revoking: BTreeMap::new(),
            expired: 0,
            moving: None,
            whole_running: 0,
            whole_waiting: VecDeque::new(),
            whole_reads: BTreeMap::new(),
            balancer: Balancer::new(lanes, cores),
            balance_due_ms: 0,
            checkpoint: Checkpointing::default(),
        }
    }

    /// The stamp that the next control record waits for.
    pub(super) fn awaits(&self) -> Option<Revision> {
        let next = self.controls.values().find(|pending| !pending.sent)?;
        next.index.map(|_| next.stamp)
    }

    /// All control records in entries up to this one have taken effect, or are not committed yet.
    pub(super) fn effective_index(&self) -> u64 {
        let next = self.controls.values().find(|pending| !pending.sent);
        next.and_then(|pending| pending.index).map_or(u64::MAX, |index| index - 1)
    }

    /// Whether a move comes before operations over the whole store: one that has begun, or could.
    pub(super) fn moves_first(&self) -> bool {
        self.is_moving() || self.moving.is_some() && !self.checkpoint.excludes_moves()
    }

    /// Whether a range is on its way.
    pub(super) fn is_moving(&self) -> bool {
        self.moving.as_ref().is_some_and(Move::has_begun)
    }

    /// Whether nothing is under way, on a node of so many cores that was told to stop.
    pub(super) fn is_quiet(&self, cores: u16) -> bool {
        self.controls.is_empty() && self.checkpoint.is_quiet(cores)
    }
}

impl Engine {
    fn keeper(&mut self) -> &mut Keeper {
        self.keeper.as_mut().expect("commands go to the keeper's core")
    }

    /// A request about control state.
    pub(super) fn command(&mut self, origin: Origin, request: Request, fx: &mut Effects) {
        if let Some(error) = self.control.alarms.refuse(&request) {
            return self.answer_state(origin, Err(error));
        }
        match request {
            Request::Compact { revision, physical } => {
                self.compact(origin, Revision(revision), physical);
            }
            Request::LeaseGrant { id, ttl_s } => self.grant(origin, id, ttl_s),
            Request::LeaseRevoke { id } => self.revoke(origin, id, fx),
            Request::LeaseKeepAlive { id } => self.keep_alive(origin, id),
            Request::LeaseTimeToLive { id, keys } => self.time_to_live(origin, id, keys, fx),
            Request::LeaseLeases => {
                let leases = self.control.leases.ids().collect();
                self.answer_state(origin, Ok(Reply::Leases(leases)));
            }
            Request::HashKv { revision } => self.hash(origin, revision, fx),
            Request::Hash => self.hash(origin, 0, fx),
            Request::Alarm(request) => self.alarm(origin, request),
            // Logs alone hold everything yet, and they are durable.
            Request::Checkpoint => self.ask_checkpoint(origin, fx),
            other => unreachable!("{other:?} is no command"),
        }
    }

    /// Answers from control state: once everything that may have been seen is covered.
    pub(super) fn answer_state(&mut self, origin: Origin, reply: Result<Reply, Error>) {
        let revision = self.order.watermark().max(self.control.gate);
        self.respond_at(revision, origin, reply.map(|reply| Answer { revision, reply }));
    }

    fn compact(&mut self, origin: Origin, at: Revision, physical: bool) {
        if let Err(error) = self.log_compaction(at, Then::Compacted(at, physical, origin)) {
            self.answer_state(origin, Err(error));
        }
    }

    fn log_compaction(&mut self, at: Revision, then: Then) -> Result<(), Error> {
        let watermark = self.order.watermark();
        let floor = self.control.compacted.max(self.keeper().compacting);
        if at <= floor {
            return Err(Refusal::Compacted.into());
        }
        if at > watermark {
            return Err(Refusal::FutureRevision.into());
        }
        self.keeper().compacting = at;
        self.control_record(Control::Compact(at), None, then);
        Ok(())
    }

    /// Compacts by the schedule, if one is set and it is time.
    fn auto_compact(&mut self, fx: &mut Effects) {
        let (now_ms, current) = (self.now_ms, self.order.watermark());
        let schedule = self.keeper().auto_compact.as_mut();
        let Some(at) = schedule.and_then(|schedule| schedule.due(now_ms, current)) else { return };
        self.note_compaction(at, Step::Starting, fx);
        let request = Request::Compact { revision: at.0, physical: false };
        let logged = match self.control.alarms.refuse(&request) {
            Some(error) => Err(error),
            None => self.log_compaction(at, Then::AutoCompacted(at, now_ms)),
        };
        match logged {
            Ok(()) => {}
            // Somebody else has compacted as much.
            Err(Error::Refused(Refusal::Compacted)) => self.auto_compacted(at, now_ms, fx),
            Err(error) => {
                let schedule = self.keeper().auto_compact.as_mut().expect("it was due");
                schedule.ended(at, false, now_ms, current);
                let retry_ms = schedule.interval_ms();
                self.note_compaction(at, Step::Failed { error, retry_ms }, fx);
            }
        }
    }

    fn auto_compacted(&mut self, at: Revision, began_ms: u64, fx: &mut Effects) {
        let (now_ms, current) = (self.now_ms, self.order.watermark());
        let schedule = self.keeper().auto_compact.as_mut().expect("it was due");
        schedule.ended(at, true, now_ms, current);
        self.note_compaction(at, Step::Completed { took_ms: now_ms - began_ms }, fx);
    }

    fn note_compaction(&mut self, at: Revision, step: Step, fx: &mut Effects) {
        let schedule = self.keeper().auto_compact.as_ref().expect("it was due");
        fx.notes.push(Note::AutoCompaction { at, retention: schedule.retention(), step });
    }

    fn grant(&mut self, origin: Origin, lease: LeaseId, ttl_s: i64) {
        let known = self.control.leases.contains(lease);
        if known || !self.keeper().granting.insert(lease) {
            return self.answer_state(origin, Err(Error::LeaseExists));
        }
        let then = Then::Granted(lease, ttl_s, origin);
        self.control_record(Control::Grant { lease, ttl_s }, None, then);
    }

    /// Logs a control record.
    pub(super) fn control_record(
        &mut self,
        control: Control,
        transfer: Option<Transfer>,
        then: Then,
    ) {
        let stamp = self.order.counter();
        let record = Record::Control { stamp, control: control.clone() };
        let number = self.pending(stamp, Change::Logged(control, transfer), then);
        self.log(LaneId(0), Item::Control(number), &record);
    }

    /// Logs the end of a lease that holds no keys.
    pub(super) fn log_keyless_revoke(
        &mut self,
        op: ClaimId,
        lease: LeaseId,
        origin: Option<Origin>,
    ) {
        let at = self.order.counter();
        let record = Record::Revoke { at, lease, writes: Vec::new() };
        let then = Then::Revoked(op, origin);
        let number = self.pending(at, Change::Revoked(lease), then);
        self.log(LaneId(0), Item::Control(number), &record);
    }

    fn pending(&mut self, stamp: Revision, change: Change, then: Then) -> u64 {
        let keeper = self.keeper();
        let number = keeper.next_control;
        keeper.next_control += 1;
        let pending = Pending { stamp, change, index: None, sent: false, acks: 0, then };
        keeper.controls.insert(number, pending);
        number
    }

    pub(super) fn control_committed(&mut self, number: u64, index: u64) {
        let pending = self.keeper().controls.get_mut(&number);
        pending.expect("logged by this engine").index = Some(index);
    }

    /// Lets control records take effect, in order, once the watermark covers them.
    pub(super) fn release_controls(&mut self, watermark: Revision, fx: &mut Effects) {
        let Some(keeper) = &mut self.keeper else { return };
        let mut effective = Vec::new();
        for (&number, pending) in keeper.controls.iter_mut().filter(|(_, p)| !p.sent) {
            if pending.index.is_none() || pending.stamp > watermark {
                break;
            }
            pending.sent = true;
            effective.push((number, pending.change.clone()));
        }
        for (number, change) in effective {
            for core in (0..self.cores).map(CoreId) {
                let change = change.clone();
                self.send(core, Message::Control { number, change }, fx);
            }
        }
    }

    /// Changes this core's copy of the control state.
    pub(super) fn apply_control(
        &mut self,
        from: CoreId,
        number: u64,
        change: Change,
        fx: &mut Effects,
    ) {
        match change {
            Change::Revoked(lease) => self.lease_gone(lease),
            Change::Logged(Control::Grant { lease, ttl_s }, _) => {
                self.control.leases.grant(lease, ttl_s);
                if let Some(keeper) = &mut self.keeper {
                    keeper.clock.grant(lease, ttl_s, 0, self.now_ms);
                }
            }
            Change::Logged(Control::Remaining(leases), _) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.clock.logged(&leases);
                }
            }
            Change::Logged(Control::Compact(at), _) => {
                self.control.compacted = self.control.compacted.max(at);
                self.seats.iter_mut().for_each(|seat| seat.shard.compact(at));
                self.garbage = true;
                self.again = true;
            }
            Change::Logged(Control::Alarm { member, alarm, on }, _) => {
                if self.control.alarms.set(alarm, member, on) && self.keeper.is_some() {
                    let alarm = pb::AlarmMember { member_id: member, alarm };
                    fx.notes.push(Note::Alarm { alarm, on });
                }
            }
            Change::Logged(Control::Auth(auth), _) => self.control.auth = auth.into(),
            Change::Logged(Control::Map { version, ranges }, transfer) => {
                self.new_map(version, ranges, transfer, fx);
            }
        }
        self.send(from, Message::ControlDone { number }, fx);
    }

    /// A control record is effective on one more core.
    pub(super) fn control_done(&mut self, number: u64, fx: &mut Effects) {
        let cores = self.cores;
        let keeper = self.keeper();
        let pending = keeper.controls.get_mut(&number).expect("not effective everywhere");
        pending.acks += 1;
        if pending.acks < cores {
            return;
        }
        let pending = keeper.controls.remove(&number).expect("just seen");
        self.effective(pending.then, fx);
    }

    fn effective(&mut self, then: Then, fx: &mut Effects) {
        let revision = self.order.watermark();
        let done = |reply| Ok(Answer { revision, reply });
        match then {
            Then::Nothing => {}
            Then::Compacted(at, true, origin) => {
                self.keeper().physical.push((at, origin));
                self.answer_physical(fx);
            }
            Then::AutoCompacted(at, began_ms) => self.auto_compacted(at, began_ms, fx),
            Then::Compacted(_, false, origin) => self.respond(origin, done(Reply::Done), fx),
            Then::Granted(lease, ttl_s, origin) => {
                self.keeper().granting.remove(&lease);
                self.respond(origin, done(Reply::Ttl(ttl_s)), fx);
            }
            Then::Alarm(told, origin) => {
                let reply = Reply::Alarms(told.into_iter().collect());
                self.respond(origin, done(reply), fx);
            }
            Then::Renewed(ttl_s, origin) => self.respond(origin, done(Reply::Ttl(ttl_s)), fx),
            Then::Revoked(op, origin) => {
                self.finish_keyless(op, fx);
                if let Some(origin) = origin {
                    self.respond(origin, done(Reply::Done), fx);
                }
                self.end_whole(fx);
            }
        }
    }

    /// A core has no garbage left up to `upto`.
    pub(super) fn collected(&mut self, from: CoreId, upto: Revision, fx: &mut Effects) {
        let known = &mut self.keeper().collected[usize::from(from.0)];
        *known = upto.max(*known);
        self.answer_physical(fx);
    }

    fn answer_physical(&mut self, fx: &mut Effects) {
        let revision = self.order.watermark();
        let keeper = self.keeper();
        let everywhere = keeper.collected.iter().copied().min().unwrap_or(Revision::ZERO);
        let (done, waiting) =
            keeper.physical.drain(..).partition::<Vec<_>, _>(|(at, _)| *at <= everywhere);
        keeper.physical = waiting;
        for (_, origin) in done {
            self.respond(origin, Ok(Answer { revision, reply: Reply::Done }), fx);
        }
    }

    /// What comes due with time.
    pub(super) fn keeper_tick(&mut self, fx: &mut Effects) {
        if self.keeper.is_none() {
            return;
        }
        if self.stopping {
            return self.stop_tick();
        }
        // In a damaged store nothing changes by itself either.
        if !self.control.alarms.is_raised(pb::AlarmType::Corrupt) {
            self.expire_leases(fx);
            self.log_remaining();
        }
        self.auto_compact(fx);
        self.balance(fx);
        self.checkpoint_tick(fx);
        self.watch_image(fx);
    }

    /// Notes how long each lease still has, so that a restart continues from there.
    pub(super) fn keeper_stop(&mut self) {
        if self.keeper.is_none() || !self.serving {
            return;
        }
        let now_ms = self.now_ms;
        let remaining = self.keeper().clock.all_remaining(now_ms);
        let damaged = self.control.alarms.is_raised(pb::AlarmType::Corrupt);
        if !remaining.is_empty() && !damaged {
            self.control_record(Control::Remaining(remaining), None, Then::Nothing);
        }
    }
}
