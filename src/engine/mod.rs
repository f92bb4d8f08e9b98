//! One core's whole thinking: its shards and lanes, the operations that reach across shards, the
//! watch streams and requests of its clients.
//!
//! A turn is [`Engine::begin`], one [`Engine::step`] for each [`Input`], then [`Engine::flush`]; all
//! of them only fill [`Effects`]. The core's drive loop (`node::core`) carries those out: it appends
//! records to the log, passes messages to other cores, delivers answers. The simulation drives the
//! same code from one seed.
//!
//! ```text
//! request ─▶ serve ─▶ (this or another core) evaluate ─▶ batch ─▶ lane ─▶ log
//!               │            answer waits in its seat ◀── watermark ◀── committed
//!               ├─▶ across: latch, gather, log once, install, release
//!               ├─▶ gather: read every shard at one revision, merge
//!               └─▶ keeper (lane 0's core): leases, compaction, range map, moves, epochs
//! ```

mod across;
mod alarms;
mod auto_compact;
mod checkpointing;
mod garbage;
mod gather;
mod hold;
mod keeper;
mod lease_life;
mod message;
mod moves;
mod note;
mod past;
mod seat;
mod serve;
mod start;
mod watching;
mod whole;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

pub use crate::shard::request::{
    Answer, Error, RangeReply, Reply, Request, RequestId, StatusReply,
};
pub use alarms::Alarms;
pub use checkpointing::{Build, STOP_MS};
pub use gather::Sizes;
pub use message::Message;
pub use note::{Note, Step};
pub use past::{
    Draft, Ground, LanePast, LaneRead, LaneReader, Past, PastControl, RecoverError, Recovery, join,
    join_drafts, recover, recover_drafted,
};

use crate::config::Retention;
use crate::keys::{CoreId, KeyRange, LaneId, Revision};
use crate::lane::redo::Auth;
use crate::lane::{Cut, Output, Stored};
use crate::lease;
use crate::mvcc::base::Base;
use crate::mvcc::{HashWalk, Replaced};
use crate::order::Order;
use crate::route::{ClaimId, RangeMap};
use crate::shard::{Context, Outgoing};
use crate::watch::{Hub, HubConfig, StreamId, WatchInput};
use across::Across;
use gather::Gather;
use keeper::Keeper;
use message::Origin;
use seat::{Item, Seat, Waiter};

/// Milliseconds between two ticks of the Raft clock.
const RAFT_TICK_MS: u64 = 100;

/// What an engine is made of.
#[derive(Debug)]
pub struct Setup {
    /// Which core this is.
    pub core: CoreId,
    /// How many there are.
    pub cores: u16,
    /// How many lanes; lane k lives on core k mod cores.
    pub lanes: u16,
    /// This member's Raft number, not 0.
    pub member: u64,
    /// What all cores share.
    pub order: Arc<Order>,
    /// What earlier epochs left.
    pub past: Past,
    /// The past of this core's lanes, ascending.
    pub groups: Vec<(LaneId, LanePast)>,
    /// The image that the past goes on from.
    pub base: Option<Arc<Base>>,
    /// Bytes that the logs held above the image at the start.
    pub log_bytes: u64,
    /// Bytes of log after which the next checkpoint is made, if half of the image is not more.
    pub checkpoint_bytes: u64,
    /// Bytes of log after which it is made, however large the image is: what the log has is in memory too.
    pub checkpoint_bytes_max: u64,
    /// Bytes of a moving range that go to its new lane at a time, about.
    pub piece_bytes: usize,
    /// For the watch streams of this core.
    pub hub: HubConfig,
    /// How much history is kept without being asked; all of it without one.
    pub auto_compaction: Option<Retention>,
}

/// Everything that can happen to a core.
#[derive(Debug)]
pub enum Input {
    /// A client asks.
    Request(RequestId, Request),
    /// A client no longer waits.
    Abandoned(RequestId),
    /// Something about a watch stream.
    Watch(StreamId, WatchInput),
    /// Another core says something.
    Mesh(CoreId, Message),
    /// The records of a turn, and of all before it, are durable.
    Persisted(u64),
    /// Time has passed; at least every 100 ms.
    Tick,
    /// Move a range to another lane, if one lane owns all of it and nothing else moves; for the
    /// keeper's core (that of lane 0).
    Move {
        /// Which keys.
        range: KeyRange,
        /// Who gets them.
        to: LaneId,
    },
    /// The image that was asked for is durable, or could not be made; for the keeper's core.
    Built(Option<Arc<Base>>),
    /// The disk was found full, by whoever needs room on it; for the keeper's core.
    Full,
    /// Take no more requests, and come to rest.
    Stop,
}

/// Everything a core can ask for. Order matters where it is stated.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records to append to the log, in this order.
    pub records: Vec<(LaneId, Stored)>,
    /// When all of `records` are durable, [`Input::Persisted`] is owed with this number. Turns
    /// without records have none.
    pub turn: Option<u64>,
    /// State that new segments repeat, to be set behind `records`.
    pub carry: Vec<(LaneId, Stored)>,
    /// Messages to other cores, to be passed on in this very order, whatever their destination: an
    /// event must be in its queue before the acknowledgement behind it is in another (R11).
    pub mesh: Vec<(CoreId, Message)>,
    /// Cores that wait for a revision that is covered now: they need a turn.
    pub wake: Vec<CoreId>,
    /// Answers for clients of this core.
    pub answers: Vec<(RequestId, Result<Answer, Error>)>,
    /// Encoded `WatchResponse`s for streams of this core, in order.
    pub watch: Vec<(StreamId, Bytes)>,
    /// Told once, when serving begins.
    pub serves: bool,
    /// What happened that operators want to read of.
    pub notes: Vec<Note>,
    /// An image to build beside the running node; [`Input::Built`] is owed.
    pub build: Option<Box<Build>>,
    /// The image under way is waited for: whoever builds it shall take no more regard of others.
    pub hurry: bool,
    /// This core's log needs no entry up to these cuts any more.
    pub recycle: Option<Arc<[Cut]>>,
    /// Large things that nobody needs any more, to be let go where it holds nobody up.
    pub dropped: Vec<Replaced>,
}

/// One core's state.
pub struct Engine {
    core: CoreId,
    cores: u16,
    lanes: u16,
    order: Arc<Order>,
    past: Option<Past>,
    replaying: Option<Box<start::Replaying>>,
    base: Option<Arc<Base>>,
    /// Whether the image could tell all keys that leases hold. One that could not fails on every core alike.
    leased_known: bool,
    /// This member's number, as clients know it.
    member_id: u64,
    checkpoint_bytes: u64,
    checkpoint_bytes_max: u64,
    piece_bytes: usize,
    /// Bytes for the log since the keeper was told last.
    logged_bytes: u64,
    /// Requests of this core's clients since then.
    requests: u64,
    epoch: u64,
    serving: bool,
    stopping: bool,
    now_ms: u64,
    raft_tick_due_ms: u64,
    load_due_ms: u64,
    control: Control,
    seats: Vec<Seat>,
    /// Cross-shard writes that this core coordinates.
    across: BTreeMap<ClaimId, Across>,
    /// Digests under way, by the keeper's number: where each shard of this core stands.
    digests: BTreeMap<u64, Vec<HashWalk>>,
    /// Reads that this core gathers.
    gathers: BTreeMap<u64, Gather>,
    next_op: u64,
    /// Answers whose gates do not ascend with time.
    gated: BTreeMap<(Revision, u64), Waiter>,
    /// What waits for a newer range map, with the version it needs.
    awaiting_map: Vec<(u64, Message)>,
    hub: Hub,
    /// What watch streams asked before this core served.
    early_watch: Vec<(StreamId, WatchInput)>,
    hold: hold::Hold,
    outgoing: Outgoing,
    /// The watermark at the begin of this turn: what a watcher may be told (R11).
    turn_watermark: Revision,
    /// Messages to this core itself.
    local: VecDeque<Message>,
    /// Messages that must follow this turn's events.
    acks: Vec<(CoreId, Message)>,
    turn: u64,
    /// Versions that compaction has removed.
    collected: u64,
    /// What this core stated last to have in use, in bytes.
    bytes_in_use: i64,
    /// Per turn that is not durable yet, the readies it holds: seat and number.
    unpersisted: VecDeque<(u64, Vec<(usize, u64)>)>,
    garbage: bool,
    /// Another turn is wanted at once.
    again: bool,
    keeper: Option<Box<Keeper>>,
}

/// Control state, a copy on every core (R13).
#[derive(Debug, Default)]
struct Control {
    map: RangeMap,
    leases: lease::Table,
    alarms: Alarms,
    auth: Arc<Auth>,
    compacted: Revision,
    /// The newest revision or stamp that changed something here before W covered it.
    gate: Revision,
}

impl Engine {
    /// A core that has not begun to serve.
    #[must_use]
    pub fn new(setup: Setup) -> Engine {
        let Setup { core, cores, lanes, member, order, past, groups, .. } = setup;
        let Setup { base, log_bytes, hub, auto_compaction, .. } = setup;
        let Setup { checkpoint_bytes, checkpoint_bytes_max, piece_bytes, .. } = setup;
        let seats = groups.into_iter().map(|(lane, past)| Seat::new(lane, member, past)).collect();
        Engine {
            core,
            cores,
            lanes,
            order,
            epoch: past.next_epoch(),
            past: Some(past),
            replaying: None,
            base,
            leased_known: true,
            member_id: hub.member_id,
            checkpoint_bytes,
            checkpoint_bytes_max,
            piece_bytes,
            logged_bytes: if core == CoreId(0) { log_bytes } else { 0 },
            requests: 0,
            serving: false,
            stopping: false,
            now_ms: 0,
            raft_tick_due_ms: 0,
            load_due_ms: 0,
            control: Control::default(),
            seats,
            across: BTreeMap::new(),
            digests: BTreeMap::new(),
            gathers: BTreeMap::new(),
            next_op: 1,
            gated: BTreeMap::new(),
            awaiting_map: Vec::new(),
            hub: Hub::new(core, hub),
            early_watch: Vec::new(),
            hold: hold::Hold::default(),
            outgoing: Outgoing::default(),
            turn_watermark: Revision::ZERO,
            local: VecDeque::new(),
            acks: Vec::new(),
            turn: 0,
            collected: 0,
            bytes_in_use: 0,
            unpersisted: VecDeque::new(),
            garbage: false,
            again: true,
            keeper: (core == CoreId(0))
                .then(|| Box::new(Keeper::new(lanes, cores, auto_compaction))),
        }
    }

    /// Begins a turn. To be called before the messages of other cores are taken, all of which must
    /// then be given to this turn: what they hold is complete up to the watermark that is read here.
    pub fn begin(&mut self) {
        self.turn_watermark = self.order.watermark();
        self.again = false;
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input, now_ms: u64, fx: &mut Effects) {
        self.now_ms = self.now_ms.max(now_ms);
        match input {
            Input::Request(id, request) => self.request(id, request, fx),
            // Whatever it waits for is bounded in time and answers into the void.
            Input::Abandoned(_) => {}
            Input::Watch(stream, input) => self.watch_input(stream, input, fx),
            Input::Mesh(from, message) => self.message(from, message, fx),
            Input::Persisted(turn) => self.persisted(turn),
            Input::Tick => self.tick(fx),
            Input::Move { range, to } => {
                let keeper = self.keeper.as_ref().expect("for the keeper's core");
                if self.serving && keeper.moving.is_none() {
                    self.plan_move(range, to, fx);
                }
            }
            Input::Built(base) => self.built(base, fx),
            Input::Full => self.disk_full(fx),
            Input::Stop => self.stop(fx),
        }
        self.run_local(fx);
    }

    /// Ends a turn: proposes what was written, moves the watermark, releases what waits for it.
    pub fn flush(&mut self, now_ms: u64, fx: &mut Effects) {
        self.now_ms = self.now_ms.max(now_ms);
        self.begin_lanes();
        self.step_replay(fx);
        self.background(fx);
        self.run_local(fx);
        loop {
            self.drain_lanes(fx);
            let watermark = self.publish(fx);
            self.release(watermark, fx);
            self.run_local(fx);
            // Behind the control records that this watermark let take effect.
            self.release_checkpoint(watermark, fx);
            self.run_local(fx);
            if self.seats.iter().any(Seat::has_batch) {
                continue;
            }
            self.send_events(fx);
            if self.is_settled() {
                break;
            }
        }
        self.advance_hub(fx);
        self.run_local(fx);
        fx.mesh.append(&mut self.acks);
        self.state_usage();
        // What watchers wait for is other events now, which the watermark may have passed already.
        if !self.is_settled() || self.seats.iter().any(Seat::has_batch) {
            self.again = true;
        }
    }

    /// Whether another turn is wanted at once, without any input.
    #[must_use]
    pub fn wants_turn(&self) -> bool {
        self.again
    }

    /// How many answers wait here for the watermark.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.gated.len() + self.seats.iter().map(Seat::waiting).sum::<usize>()
    }

    /// Whether this core serves.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.serving
    }

    /// The Raft term of this core's first lane, for response headers.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.seats.first().map_or(0, |seat| seat.group.term())
    }

    /// After [`Input::Stop`]: whether nothing is in flight any more.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.stopping
            && self.seats.iter().all(Seat::is_quiet)
            && self.across.is_empty()
            && self.gated.is_empty()
            && self.unpersisted.is_empty()
            && self.hold.is_empty()
            && self.keeper.as_ref().is_none_or(|keeper| keeper.is_quiet(self.cores))
    }

    fn core_of(&self, lane: LaneId) -> CoreId {
        CoreId(lane.0 % self.cores)
    }

    fn seat_index(&self, lane: LaneId) -> usize {
        assert_eq!(self.core_of(lane), self.core, "lane {lane:?} lives elsewhere");
        usize::from(lane.0 / self.cores)
    }

    fn seat(&mut self, lane: LaneId) -> &mut Seat {
        let at = self.seat_index(lane);
        &mut self.seats[at]
    }

    fn other_cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        let me = self.core;
        (0..self.cores).map(CoreId).filter(move |core| *core != me)
    }

    fn new_op(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op - 1
    }

    /// What evaluation on a shard is done against.
    fn context<'a>(control: &'a Control, order: &Order, highest: Revision) -> Context<'a> {
        Context {
            leases: &control.leases,
            compacted: control.compacted,
            current: order.watermark().max(highest),
        }
    }

    fn send(&mut self, to: CoreId, message: Message, fx: &mut Effects) {
        if to == self.core {
            self.local.push_back(message);
        } else {
            fx.mesh.push((to, message));
        }
    }

    fn respond(&mut self, origin: Origin, answer: Result<Answer, Error>, fx: &mut Effects) {
        if origin.core == self.core {
            fx.answers.push((origin.id, answer));
        } else {
            fx.mesh.push((origin.core, Message::Answer { id: origin.id, answer }));
        }
    }

    /// Answers once the watermark covers `gate` (R1).
    fn respond_at(&mut self, gate: Revision, origin: Origin, answer: Result<Answer, Error>) {
        let number = self.new_op();
        self.gated.insert((gate, number), Waiter { gate, origin, answer });
    }

    fn run_local(&mut self, fx: &mut Effects) {
        while let Some(message) = self.local.pop_front() {
            self.message(self.core, message, fx);
        }
    }

    fn message(&mut self, from: CoreId, message: Message, fx: &mut Effects) {
        match message {
            Message::Ask { id, lane, request } => {
                self.asked(Origin { core: from, id }, lane, request, fx);
            }
            Message::Command { id, request } => {
                self.command(Origin { core: from, id }, request, fx);
            }
            Message::Across { origin, request } => self.begin_across(origin, request, fx),
            Message::Answer { id, answer } => fx.answers.push((id, answer)),
            Message::Moved { id, request, version } => {
                self.when_map(version, Message::Moved { id, request, version }, fx);
            }
            Message::Read { op, part, lane, range, reading } => {
                self.read(from, op, part, lane, range, reading, fx);
            }
            Message::Part { op, part, found } => self.part(op, part, found, fx),
            Message::AskAll { op, question } => self.asked_all(from, op, question, fx),
            Message::All { op, found } => self.answered_all(from, op, found, fx),
            Message::Claim { op, lane, claim, turn, want } => {
                self.claim(op, lane, claim, turn, want, fx);
            }
            Message::Claimed { op, held } => self.claimed(op, held, fx),
            Message::Release { op, lane } => self.release_latches(op, lane, fx),
            Message::Install { logged_by, lane, at, writes, revokes } => {
                self.install(from, logged_by, lane, at, &writes, revokes);
            }
            Message::Installed { logged_by, at } => self.installed(logged_by, at, fx),
            Message::Control { number, change } => self.apply_control(from, number, change, fx),
            Message::ControlDone { number } => self.control_done(number, fx),
            Message::Collected { upto } => self.collected(from, upto, fx),
            Message::Barrier { lane, at } => self.barrier_committed(lane, at, fx),
            Message::Epoch(record) => self.begin_replay(&record),
            Message::Replayed => self.replayed(fx),
            Message::Serve { epoch } => self.serve(epoch, fx),
            Message::Events(events) => self.hub.matched(events),
            Message::Unregister { watcher } => self.unregister(watcher),
            Message::Settle { transfer } => self.settle(transfer, fx),
            Message::Settled { op } => self.settled(op, fx),
            Message::Piece { transfer, moving, last } => self.piece(transfer, moving, last, fx),
            Message::Arrived { op } => self.arrived(op, fx),
            Message::Expired { lease } => self.begin_whole(whole::Task::Revoke(lease, None), fx),
            Message::Load { asked, loads } => self.load(from, asked, loads),
            Message::Logged { bytes, last } => self.logged(bytes, last, fx),
            Message::Hold(on) => self.hold(on),
            Message::Mark => self.mark(from, fx),
            Message::Marked { cuts, reach } => self.marked(cuts, reach),
            Message::Freeze { at } => self.freeze(from, at, fx),
            Message::Frozen { layers } => self.frozen(layers, fx),
            Message::Swap { base, cuts } => self.swap(from, &base, cuts, fx),
            Message::Swapped { dropped } => self.swapped(dropped, fx),
        }
    }

    /// The records of `turn` are durable, and with them all readies up to it.
    fn persisted(&mut self, turn: u64) {
        while let Some((oldest, _)) = self.unpersisted.front()
            && *oldest <= turn
        {
            let (_, readies) = self.unpersisted.pop_front().expect("just seen");
            for (seat, ready) in readies {
                self.seats[seat].group.persisted(ready);
            }
        }
    }

    /// Proposes batches and carries out what the lanes ask.
    fn drain_lanes(&mut self, fx: &mut Effects) {
        for at in 0..self.seats.len() {
            self.seats[at].propose();
            while self.drain_lane(at, fx) {}
        }
    }

    /// One round with one lane; whether another may bring more.
    fn drain_lane(&mut self, at: usize, fx: &mut Effects) -> bool {
        let seat = &mut self.seats[at];
        let lane = seat.lane();
        let mut out = Output::default();
        seat.group.drain(&mut out);
        let Some(ready) = out.ready else { return false };
        // A ready without records waits for those before it all the same: to report it reports them.
        let at_once = out.stored.is_empty() && self.unpersisted.is_empty();
        if out.stored.iter().any(Stored::is_hard_state) {
            fx.carry.push((lane, seat.group.carry()));
        }
        if at_once {
            seat.group.persisted(ready);
        } else if out.stored.is_empty() {
            let (_, readies) = self.unpersisted.back_mut().expect("not empty");
            readies.push((at, ready));
        } else {
            let turn = *fx.turn.get_or_insert_with(|| {
                self.turn += 1;
                self.turn
            });
            match self.unpersisted.back_mut() {
                Some((last, readies)) if *last == turn => readies.push((at, ready)),
                _ => self.unpersisted.push_back((turn, vec![(at, ready)])),
            }
        }
        self.logged_bytes += out.stored.iter().map(|stored| stored.body.len() as u64).sum::<u64>();
        fx.records.extend(out.stored.drain(..).map(|stored| (lane, stored)));
        // Messages to peers (`out.messages`, `out.after_persist`) are for members to come.
        if let Some(last) = out.committed.last() {
            let index = last.index;
            let items = self.seats[at].commit(index);
            self.seats[at].group.applied(index);
            for (index, item) in items {
                self.item_committed(lane, index, item, fx);
            }
        }
        at_once
    }

    fn item_committed(&mut self, lane: LaneId, index: u64, item: Item, fx: &mut Effects) {
        match item {
            Item::Barrier => self.own_barrier_committed(lane, fx),
            Item::Epoch => self.epoch_committed(fx),
            Item::Control(number) => self.control_committed(number, index),
        }
    }

    /// Leaves what is done (R2), publishes the watermark and wakes the cores that wait for it.
    fn publish(&mut self, fx: &mut Effects) -> Revision {
        if !self.serving {
            return self.order.watermark();
        }
        for seat in &mut self.seats {
            if seat.leave() {
                self.order.hold(seat.lane(), seat.oldest());
            }
        }
        let watermark = self.order.publish();
        for core in self.other_cores() {
            if self.order.is_awaited(core) && !fx.wake.contains(&core) {
                fx.wake.push(core);
            }
        }
        watermark
    }

    /// Releases what the watermark covers.
    fn release(&mut self, watermark: Revision, fx: &mut Effects) {
        // Read after the watermark: the epoch that handed out the gates must still stand (R1).
        if self.serving && self.order.epoch() != self.epoch {
            return;
        }
        for at in 0..self.seats.len() {
            while let Some(waiter) = self.seats[at].waiters.front()
                && waiter.gate <= watermark
            {
                let waiter = self.seats[at].waiters.pop_front().expect("just seen");
                self.respond(waiter.origin, waiter.answer, fx);
            }
        }
        while let Some(entry) = self.gated.first_entry()
            && entry.key().0 <= watermark
        {
            let waiter = entry.remove();
            self.respond(waiter.origin, waiter.answer, fx);
        }
        self.release_settling(watermark, fx);
        self.release_controls(watermark, fx);
    }

    /// States which revision this core waits for, then looks once more: whether nothing that it
    /// waits for is covered by now.
    fn is_settled(&mut self) -> bool {
        let waiting = self.seats.iter().filter_map(|seat| seat.waiters.front()).map(|w| w.gate);
        let gated = self.gated.keys().next().map(|(gate, _)| *gate);
        let settling = self.seats.iter().filter_map(Seat::settling_at);
        let controls = self.keeper.as_ref().and_then(|keeper| keeper.awaits());
        let checkpoint = self.checkpoint_awaits();
        let here = waiting.chain(gated).chain(settling).chain(controls).chain(checkpoint).min();
        let hub = self.hub.awaits();
        let awaited = here.into_iter().chain(hub).min();
        self.order.await_from(self.core, awaited);
        let watermark = self.order.watermark();
        if hub.is_some_and(|revision| revision <= watermark && revision > self.turn_watermark) {
            // Watchers may be told only what a later turn begins with.
            self.again = true;
        }
        here.is_none_or(|revision| revision > watermark)
    }

    /// Work that nobody waits for, in bounded steps.
    fn background(&mut self, fx: &mut Effects) {
        if !self.serving {
            return;
        }
        self.send_pieces(fx);
        self.ask_held(fx);
        self.report_much(fx);
        if self.garbage {
            self.collect_garbage(fx);
        }
    }

    /// States how many bytes this core has in use, for the quota.
    fn state_usage(&mut self) {
        let parts = self.seats.iter().map(|seat| seat.shard.store().bytes_in_use());
        let now = i64::try_from(parts.sum::<usize>()).unwrap_or(i64::MAX);
        self.order.usage().changed(self.bytes_in_use, now);
        self.bytes_in_use = now;
    }

    fn tick(&mut self, fx: &mut Effects) {
        if self.now_ms >= self.raft_tick_due_ms {
            self.raft_tick_due_ms = self.now_ms + RAFT_TICK_MS;
            self.seats.iter_mut().for_each(|seat| seat.group.tick());
        }
        if self.serving {
            self.report_load(fx);
            self.keeper_tick(fx);
        }
    }

    fn stop(&mut self, fx: &mut Effects) {
        self.stopping = true;
        self.hold(false);
        self.keeper_stop();
        self.report_log(true, fx);
    }
}

#[cfg(test)]
mod tests;
