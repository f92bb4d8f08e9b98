//! One core's life: the drive loop between everything that waits and the engine, which thinks.
//!
//! A turn takes everything that came in since the last one (what the log made durable, the messages
//! of other cores, what clients ask), steps the engine through it, and carries out what it asks for.
//! Everything that has to wait for anything waits in [`Drive::arrived`] and nowhere else. It knows
//! neither what a request means nor what a record holds.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cored_wal::{Disk, Log, Sequence, Stats};
use glommio::timer::Timer;

use super::background::{Background, Job};
use super::clock::Clock;
use super::eventfd::EventFd;
use super::linger::Linger;
use super::mesh::Mesh;
use super::notes;
use super::room::Watcher;
use super::shutdown::Shutdown;
use super::watchdog::{BEAT_MS, Pulse};
use crate::api::door::{Door, Inbox, WatchInput};
use crate::engine::{Effects, Engine, Error, Input, Message, Request, RequestId, Sizes};
use crate::keys::LaneId;
use crate::lane::{Retained, Stored};
use crate::metrics;
use crate::watch::StreamId;

/// How long one turn may take more inputs of clients. With what the engine does at the end of a
/// turn it stays about a millisecond; messages of other cores are taken all the same (R11).
const TURN: Duration = Duration::from_micros(500);

/// The clock is read once for so many inputs of clients.
const INPUTS_PER_LOOK: usize = 8;

/// After so much work, or so many turns, without a pause the loop lets the executor look at its
/// rings.
///
/// The preempt timer is an hour away, so an executor turns to its rings only when no task is
/// runnable. Connections whose next request is always there already would keep it from them for
/// ever, and with them timers and finished writes. They all wait for this loop, so it is the one
/// that has to stop for a moment. A pause costs a trip through the kernel: counting work instead of
/// time spares a lone client one for each of its requests.
const PAUSE_AFTER: Duration = Duration::from_micros(300);
const PAUSE_AFTER_TURNS: u32 = 32;

/// A real timer, the only kind of yielding that reaches the rings.
const PAUSE: Duration = Duration::from_micros(1);

/// How long a lone request's write is waited for in place.
///
/// To park and to be woken costs the executor some ten system calls and two interrupts, more than the
/// write of a fast disk takes. With nobody else in sight that is not worth it; whoever comes
/// meanwhile loses no more than this, and a disk that takes longer is left to the executor.
const LONE_WAIT: Duration = Duration::from_micros(250);

/// A turn longer than this is counted.
const SLOW_TURN: Duration = Duration::from_millis(1);

/// What a drive loop is made of.
pub(super) struct Parts<D> {
    pub engine: Engine,
    pub log: Log<D>,
    /// Which segments of the log hold what.
    pub retained: Retained,
    pub mesh: Mesh<Message>,
    pub door: Rc<Door>,
    pub linger: Rc<Linger<Message>>,
    /// On the core that asks for checkpoints.
    pub background: Option<Background>,
    pub room: Watcher,
    pub clock: Clock,
    pub shutdown: Arc<Shutdown>,
    /// One for each core; this loop beats the one at its own number.
    pub pulses: Arc<[Pulse]>,
    pub core: usize,
    pub metrics: Arc<metrics::Core>,
    /// Called once, when the engine says that serving begins.
    pub serves: Option<Box<dyn FnOnce()>>,
}

/// Drives an engine until the node stops, and closes its log.
///
/// # Errors
/// The log failed. Nothing that was not durable has been answered.
pub(super) async fn drive<D: Disk>(parts: Parts<D>) -> Result<(), cored_wal::Error> {
    let mut drive = Drive::new(parts);
    poll_fn(|cx| {
        let now_ms = drive.parts.clock.now_ms();
        drive.pulse().watch(Some(cx.waker().clone()), now_ms);
        Poll::Ready(())
    })
    .await;
    let ended = drive.run().await;
    drive.pulse().watch(None, 0);
    ended?;
    // The last thing this core does; nobody is left whom waiting could hold up.
    drive.parts.log.close()
}

struct Drive<D> {
    parts: Parts<D>,
    effects: Effects,
    /// What clients asked and no turn has taken yet, bounded with what they may have in flight.
    backlog: Backlog,
    /// Turns whose records are not durable yet, each with its last record.
    unpersisted: VecDeque<(Sequence, u64)>,
    /// Started writes, for their latency.
    writes: Writes,
    finished: Option<EventFd>,
    timer: Timer,
    timer_due_ms: u64,
    beat_due_ms: u64,
    /// Work and turns since the last pause.
    worked: Duration,
    turns: u32,
    /// Whether the last turn gave something to a connection, which must run to pass it on.
    delivered: bool,
    /// Whether the loop waited for the disk since it last waited for everything.
    waited: bool,
    stopping: bool,
}

impl<D: Disk> Drive<D> {
    fn new(parts: Parts<D>) -> Drive<D> {
        let stats = parts.log.stats();
        let writes = Writes {
            groups_started: stats.groups_started,
            groups_finished: stats.groups_finished,
            ..Writes::default()
        };
        let finished = parts.log.wake_fd().map(EventFd::new);
        Drive {
            effects: Effects::default(),
            backlog: Backlog::default(),
            unpersisted: VecDeque::new(),
            writes,
            finished,
            timer: Timer::new(Duration::ZERO),
            timer_due_ms: 0,
            beat_due_ms: 0,
            worked: Duration::ZERO,
            turns: 0,
            delivered: false,
            waited: false,
            stopping: false,
            parts,
        }
    }

    async fn run(&mut self) -> Result<(), cored_wal::Error> {
        while !self.is_over() {
            self.parts.linger.set_idle(false);
            let began = Instant::now();
            self.turn(began)?;
            self.measure(began);
            if self.worked >= PAUSE_AFTER || self.turns >= PAUSE_AFTER_TURNS {
                self.pause().await;
            }
            if self.wants_turn() {
                continue;
            }
            if self.is_lone() {
                self.parts.log.wait(LONE_WAIT)?;
                self.waited = true;
                continue;
            }
            self.waited = false;
            let Parts { log, engine, linger, .. } = &self.parts;
            linger.set_idle(log.in_flight() == 0 && engine.waiting() == 0);
            poll_fn(|cx| self.arrived(cx)).await;
        }
        Ok(())
    }

    fn pulse(&self) -> &Pulse {
        &self.parts.pulses[self.parts.core]
    }

    fn turn(&mut self, began: Instant) -> Result<(), cored_wal::Error> {
        let now_ms = self.parts.clock.now_ms();
        self.pulse().beat(now_ms);
        self.parts.engine.begin();
        self.take_durable(now_ms)?;
        let Parts { engine, mesh, .. } = &mut self.parts;
        let fx = &mut self.effects;
        mesh.take(|from, message| engine.step(Input::Mesh(from, message), now_ms, fx));
        if let Some(built) = self.parts.background.as_ref().and_then(Background::take) {
            self.parts.engine.step(Input::Built(built), now_ms, &mut self.effects);
        }
        let Parts { engine, metrics, door, room, background, .. } = &mut self.parts;
        let fx = &mut self.effects;
        // Whoever asks for checkpoints raises alarms; before it serves it can do neither.
        if background.is_some() && engine.serves() && room.is_full() {
            engine.step(Input::Full, now_ms, fx);
        }
        if now_ms >= self.beat_due_ms {
            self.beat_due_ms = now_ms + BEAT_MS;
            engine.step(Input::Tick, now_ms, fx);
            note_sizes(metrics, &engine.sizes());
        }
        self.backlog.add(door.take());
        let mut taken = 0;
        while let Some(input) = self.backlog.next() {
            count(metrics, &input);
            engine.step(input, now_ms, fx);
            taken += 1;
            if taken % INPUTS_PER_LOOK == 0 && began.elapsed() >= TURN {
                break;
            }
        }
        self.stop_in_order(now_ms);
        self.parts.engine.flush(now_ms, &mut self.effects);
        self.carry_out(now_ms)
    }

    /// Tells the engine what has become durable.
    fn take_durable(&mut self, now_ms: u64) -> Result<(), cored_wal::Error> {
        let durable = self.parts.log.complete()?;
        // What has ended may have let the next write start.
        self.time_writes();
        let Some(durable) = durable else { return Ok(()) };
        let mut newest = None;
        while let Some((last, turn)) = self.unpersisted.front()
            && *last <= durable
        {
            newest = Some(*turn);
            self.unpersisted.pop_front();
        }
        if let Some(turn) = newest {
            self.parts.engine.step(Input::Persisted(turn), now_ms, &mut self.effects);
        }
        Ok(())
    }

    /// Carries out what the engine asks for. Writes start before anything else is done, since
    /// their time counts; answers and messages never depend on the writes of their own turn.
    fn carry_out(&mut self, now_ms: u64) -> Result<(), cored_wal::Error> {
        let Parts { engine, log, retained, mesh, door, metrics, room, .. } = &mut self.parts;
        let fx = &mut self.effects;
        let last = append(log, retained, &mut fx.records, &mut fx.carry);
        if let Some(turn) = fx.turn.take() {
            self.unpersisted.push_back((last.expect("a turn with a number has records"), turn));
        }
        log.submit()?;
        room.turn(log, now_ms)?;
        self.writes.note(&log.stats(), metrics);
        if log.next_tick_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            log.tick(now_ms)?;
        }
        if let Some(cuts) = fx.recycle.take()
            && let Some(first) = retained.below(&cuts)
        {
            log.recycle_below(first)?;
            retained.recycled_below(log.oldest_segment());
        }
        mesh.send(&mut fx.mesh);
        fx.wake.drain(..).for_each(|core| mesh.poke(core));
        door.set_term(engine.term());
        self.delivered = !fx.answers.is_empty() || !fx.watch.is_empty();
        for (id, answer) in fx.answers.drain(..) {
            if matches!(answer, Err(Error::NoLeader | Error::Stopped | Error::Timeout)) {
                metrics.proposals_failed.add(1);
            }
            door.deliver(id, answer);
        }
        fx.watch.drain(..).for_each(|(id, response)| door.deliver_watch(id, response));
        fx.notes.drain(..).for_each(notes::log);
        if let Some(background) = &self.parts.background {
            if let Some(build) = fx.build.take() {
                background.push(Job::Build(build));
            }
            if std::mem::take(&mut fx.hurry) {
                background.hurry_build();
            }
            if !fx.dropped.is_empty() {
                background.push(Job::Drop(std::mem::take(&mut fx.dropped)));
            }
        }
        if std::mem::take(&mut fx.serves)
            && let Some(serves) = self.parts.serves.take()
        {
            serves();
        }
        Ok(())
    }

    fn time_writes(&mut self) {
        self.writes.note(&self.parts.log.stats(), &self.parts.metrics);
    }

    /// Whether the next turn needs no waiting.
    fn wants_turn(&self) -> bool {
        let polls = self.finished.is_none() && self.parts.log.pending();
        polls || self.parts.engine.wants_turn() || !self.backlog.is_empty() || self.is_over()
    }

    /// Whether one request waits for its write, and nothing else could happen on this core meanwhile.
    fn is_lone(&self) -> bool {
        let Parts { engine, log, door, .. } = &self.parts;
        let lone = log.in_flight() == 1 && engine.waiting() == 1 && door.in_flight() <= 1;
        lone && !self.waited && !self.delivered && self.finished.is_some()
    }

    async fn pause(&mut self) {
        self.parts.linger.visits();
        Timer::new(PAUSE).await;
        (self.worked, self.turns) = (Duration::ZERO, 0);
    }

    /// Waits until there is something to do. All wake-ups of this core end here.
    fn arrived(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.arm_timer(cx);
        let mut arrived = self.parts.door.poll_arrived(cx.waker()).is_ready();
        if let Some(finished) = self.finished.as_mut().filter(|_| self.parts.log.is_busy())
            && finished.poll_readable(cx).is_ready()
        {
            arrived = true;
            // It came through the rings.
            self.parts.linger.visits();
        }
        if self.parts.clock.now_ms() >= self.timer_due_ms {
            self.timer_due_ms = u64::MAX;
            arrived = true;
        }
        arrived |= self.parts.mesh.poll_arrived(cx.waker()).is_ready();
        if arrived { Poll::Ready(()) } else { Poll::Pending }
    }

    /// One timer for the beat and for the seal of an idle log.
    ///
    /// It is polled once: glommio registers a timer once more each time it is polled, keeps all of these
    /// until they are over, looks through them whenever it looks at its rings, and wakes for each.
    fn arm_timer(&mut self, cx: &mut Context<'_>) {
        let seal_ms = self.parts.log.next_tick_ms().unwrap_or(u64::MAX);
        let due_ms = self.beat_due_ms.min(seal_ms);
        // A timer that is early only costs a turn.
        if due_ms < self.timer_due_ms {
            self.timer_due_ms = due_ms;
            let wait_ms = due_ms.saturating_sub(self.parts.clock.now_ms());
            // It may be up to a millisecond early, and is not polled again.
            self.timer.reset(Duration::from_millis(wait_ms + 1));
            let registered = Pin::new(&mut self.timer).poll(cx);
            debug_assert!(registered.is_pending(), "it has just been set");
        }
    }

    /// Passes through the stages of stopping as far as the other cores have come.
    fn stop_in_order(&mut self, now_ms: u64) {
        let shutdown = &self.parts.shutdown;
        if !shutdown.is_asked() {
            return;
        }
        let core = self.parts.core;
        if self.parts.serves.is_some() {
            // It never served, so nothing was opened that could be closed.
            shutdown.front_is_closed(core);
        }
        if !self.stopping && shutdown.are_fronts_closed() {
            self.stopping = true;
            self.parts.background.iter().for_each(Background::hurry);
            self.parts.engine.step(Input::Stop, now_ms, &mut self.effects);
            self.parts.door.close(Error::Stopped);
        }
        if self.stopping && self.parts.engine.drained() {
            shutdown.is_drained(core);
        }
    }

    fn is_over(&self) -> bool {
        self.parts.shutdown.is_over()
    }

    fn measure(&mut self, began: Instant) {
        let took = began.elapsed();
        self.worked += took;
        self.turns += 1;
        let metrics = &self.parts.metrics;
        metrics.turns.add(1);
        if took > SLOW_TURN {
            metrics.slow_turns.add(1);
        }
        metrics.turn_longest.raise(took);
        let stats = self.parts.log.stats();
        metrics.wal_bytes.set(stats.bytes);
        metrics.wal_groups.set(stats.groups_finished);
        metrics.wal_segment_waits.set(stats.segment_waits);
    }
}

/// Counts what clients ask for.
fn count(metrics: &metrics::Core, input: &Input) {
    let request = match input {
        Input::Request(_, request) => request,
        Input::Watch(_, WatchInput::Open) => return metrics.watch_streams.add(1),
        Input::Watch(_, WatchInput::Close) => return metrics.watch_streams.sub(1),
        _ => return,
    };
    match request {
        Request::Put(_) => metrics.puts.add(1),
        Request::Range(_) => metrics.ranges.add(1),
        Request::DeleteRange(_) => metrics.deletes.add(1),
        Request::Txn(_) => metrics.txns.add(1),
        Request::LeaseGrant { .. } => metrics.leases_granted.add(1),
        Request::LeaseRevoke { .. } => metrics.leases_revoked.add(1),
        Request::LeaseKeepAlive { .. } => metrics.leases_renewed.add(1),
        _ => {}
    }
}

/// Notes this core's part of the store's size and of the lanes' positions.
fn note_sizes(metrics: &metrics::Core, sizes: &Sizes) {
    metrics.db_bytes.set(sizes.bytes as u64);
    metrics.db_in_use_bytes.set(sizes.bytes_in_use as u64);
    metrics.keys.set(sizes.keys as u64);
    metrics.compacted.set(sizes.compacted.0.max(0) as u64);
    metrics.collected.set(sizes.collected);
    metrics.leases_expired.set(sizes.leases_expired);
    metrics.raft_committed.set(sizes.raft_index);
    metrics.raft_applied.set(sizes.raft_applied);
}

/// Appends records in order and returns the last one's place; then sets what is carried.
fn append<D: Disk>(
    log: &mut Log<D>,
    retained: &mut Retained,
    records: &mut Vec<(LaneId, Stored)>,
    carry: &mut Vec<(LaneId, Stored)>,
) -> Option<Sequence> {
    let mut last = None;
    for (lane, stored) in records.drain(..) {
        if let Some(index) = stored.entry_index() {
            retained.append(log.position().segment, lane, index);
        }
        last = Some(log.append(lane.0, stored.kind as u8, &[&stored.head, &stored.body]));
    }
    for (lane, stored) in carry.drain(..) {
        let mut payload = stored.head.to_vec();
        payload.extend_from_slice(&stored.body);
        log.set_carry(lane.0, stored.kind as u8, &payload);
    }
    last
}

/// What came through the door and waits for its turn.
#[derive(Default)]
struct Backlog {
    requests: VecDeque<(RequestId, Request)>,
    watch: VecDeque<(StreamId, WatchInput)>,
    abandoned: VecDeque<RequestId>,
}

impl Backlog {
    fn add(&mut self, inbox: Inbox) {
        self.requests.extend(inbox.requests);
        self.watch.extend(inbox.watch);
        self.abandoned.extend(inbox.abandoned);
    }

    /// Requests that were given up come last: never before the request itself.
    fn next(&mut self) -> Option<Input> {
        if let Some((stream, input)) = self.watch.pop_front() {
            return Some(Input::Watch(stream, input));
        }
        if let Some((id, request)) = self.requests.pop_front() {
            return Some(Input::Request(id, request));
        }
        self.abandoned.pop_front().map(Input::Abandoned)
    }

    fn is_empty(&self) -> bool {
        self.watch.is_empty() && self.requests.is_empty() && self.abandoned.is_empty()
    }
}

/// When the writes under way were started: at most two.
#[derive(Default)]
struct Writes {
    started: VecDeque<Instant>,
    groups_started: u64,
    groups_finished: u64,
}

impl Writes {
    /// Compares the log's counters with what was known, and counts how long finished writes took.
    fn note(&mut self, stats: &Stats, metrics: &metrics::Core) {
        let (started, finished) = (stats.groups_started, stats.groups_finished);
        if (started, finished) == (self.groups_started, self.groups_finished) {
            return;
        }
        let now = Instant::now();
        for _ in self.groups_started..started {
            self.started.push_back(now);
        }
        for _ in self.groups_finished..finished {
            if let Some(began) = self.started.pop_front() {
                metrics.wal_fsync.observe(now - began);
                metrics.wal_fsync_fine.observe(now - began);
            }
        }
        (self.groups_started, self.groups_finished) = (started, finished);
    }
}

#[cfg(test)]
mod tests;
