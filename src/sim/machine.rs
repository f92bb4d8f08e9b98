//! The node, its clients and its misfortunes, one step at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use cored_wal::disk::memory::{Crash, MemoryDisk, Odds, Pace};
use cored_wal::{Log, Options};
use pb::watch_request::RequestUnion;
use prost::Message as _;

use super::check::{Checker, Happened, Violation};
use super::client::{self, Taste};
use super::images::Images;
use super::{Outcome, Random};
use crate::engine::{
    Answer, Effects, Engine, Error, Input, Message, Request, RequestId, Setup, recover,
    recover_drafted,
};
use crate::keys::{CoreId, KeyRange, LaneId, LeaseId};
use crate::lane::{Retained, entry_index};
use crate::order::Order;
use crate::watch::{HubConfig, StreamId, WatchInput};

/// How long and how hard a run is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Steps before everything comes to rest.
    pub steps: u64,
    /// Clients.
    pub clients: usize,
    /// Whether the process is killed and the power fails now and then.
    pub crashes: bool,
    /// Whether writes fail now and then.
    pub disk_faults: bool,
}

impl Plan {
    /// The same, with the troubles that a seed has: every second disk fails, two of three crash.
    #[must_use]
    pub fn of(self, seed: u64) -> Plan {
        Plan { disk_faults: seed.is_multiple_of(2), crashes: !seed.is_multiple_of(3), ..self }
    }
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { steps: 4000, clients: 6, crashes: true, disk_faults: true }
    }
}

/// Logs there are, whatever the number of cores is at a start.
const DISKS: usize = 3;

/// Watchers fall behind after a handful of events, catch up in small steps, and hear of progress.
const HUB: HubConfig = HubConfig {
    cluster_id: 1,
    member_id: 1,
    max_request_bytes: 3 << 19,
    progress_notify_ms: 500,
    waiting_bytes_max: 400,
    history_bytes: 200,
};

/// A key with some versions does not move at once.
const PIECE_BYTES: usize = 200;

/// Where a core is in its turn.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Phase {
    Resting,
    Begun,
    Stepped,
    /// Effects are being carried out.
    Acting,
}

struct Core {
    engine: Engine,
    log: Log<MemoryDisk>,
    retained: Retained,
    phase: Phase,
    inputs: VecDeque<Input>,
    inbox: VecDeque<(CoreId, Message)>,
    woken: bool,
    fx: Effects,
    mesh: VecDeque<(CoreId, Message)>,
    /// Turns whose records are not durable: the last record's sequence, and the turn.
    unpersisted: VecDeque<(u64, u64)>,
}

impl Core {
    fn wants_turn(&self) -> bool {
        self.woken || self.engine.wants_turn() || !self.inputs.is_empty() || !self.inbox.is_empty()
    }

    fn is_at_rest(&self) -> bool {
        self.phase == Phase::Resting
            && !self.wants_turn()
            && !self.log.pending()
            && self.unpersisted.is_empty()
    }
}

/// A node and everything around it.
pub struct World {
    random: Random,
    plan: Plan,
    lanes: u16,
    order: Arc<Order>,
    cores: Vec<Core>,
    disks: Vec<MemoryDisk>,
    images: Images,
    /// Bytes of log after which a checkpoint is made.
    checkpoint_bytes: u64,
    /// What happened up to the revision of the newest image: the logs need not hold it any more.
    remembered: Vec<Happened>,
    taste: Taste,
    /// Per client the request it waits for.
    clients: Vec<Option<u64>>,
    checker: Checker,
    /// Requests under way, with their clients.
    asked: BTreeMap<u64, usize>,
    /// Watch streams, with their cores.
    streams: BTreeMap<u64, usize>,
    /// What slow clients have not taken from their streams: core, stream and bytes.
    untaken: Vec<(usize, StreamId, usize)>,
    /// A disk that hardly gets anything done, so that the others run ahead of it; `DISKS` for none.
    slow_disk: usize,
    next: u64,
    now_ms: u64,
    trace: u64,
    crashes: usize,
    answered: usize,
}

impl World {
    /// The world of a seed: a fresh node of some cores and lanes.
    #[must_use]
    pub fn new(seed: u64, plan: Plan) -> World {
        let mut random = Random::new(seed);
        let lanes = 1 + random.below(4) as u16;
        let disks = (0..DISKS).map(|_| MemoryDisk::new(random.number())).collect();
        let checkpoint_bytes = 500 << random.below(8);
        let taste = Taste::any(&mut random);
        let mut world = World {
            random,
            plan,
            lanes,
            order: Arc::new(Order::new(lanes, 1)),
            cores: Vec::new(),
            disks,
            images: Images::default(),
            checkpoint_bytes,
            remembered: Vec::new(),
            taste,
            clients: vec![None; plan.clients],
            checker: Checker::default(),
            asked: BTreeMap::new(),
            streams: BTreeMap::new(),
            untaken: Vec::new(),
            slow_disk: DISKS,
            next: 1,
            now_ms: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            crashes: 0,
            answered: 0,
        };
        world.start();
        world
    }

    /// Runs to the end and checks.
    ///
    /// # Errors
    /// [`Violation`]: the first promise that was broken.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        for _ in 0..self.plan.steps {
            self.step()?;
        }
        self.come_to_rest()?;
        self.checker.at_rest(self.order.watermark())?;
        self.crash(Crash::Kill);
        self.come_to_rest()?;
        for lease in 1..=client::LEASES {
            let id = LeaseId(lease as i64);
            self.ask(0, Request::LeaseTimeToLive { id, keys: true });
            self.come_to_rest()?;
        }
        let history = self.history();
        self.checker.finish(&history)?;
        Ok(Outcome { trace: self.trace, answered: self.answered, crashes: self.crashes })
    }

    fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// Opens every log and makes the cores, whose number may differ from the last time.
    fn start(&mut self) {
        let cores = 1 + self.random.below(DISKS as u64) as u16;
        let salt = self.random.number();
        let (records, mut logs) = open(&self.disks, self.lanes, salt);
        for disk in &self.disks {
            disk.set_pace(Pace::Stepwise);
            if self.plan.disk_faults && self.random.one_in(4) {
                disk.set_odds(Odds { failed: 3000, short: 1000, ..Odds::default() });
            }
        }
        let (ground, base) = self.images.load();
        let drafted = recover_drafted(records.clone(), &ground, base.as_ref());
        let drafted = drafted.expect("logs and checkpoint make sense");
        let replayed = || recover(records, &ground).expect("logs and checkpoint make sense");
        let recovery = drafted.unwrap_or_else(replayed);
        let log_bytes = recovery.bytes;
        self.order = Arc::new(Order::new(self.lanes, cores));
        let mut groups: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
        for (lane, recovered) in (0..).map(LaneId).zip(recovery.lanes) {
            groups[usize::from(lane.0 % cores)].push((lane, recovered));
        }
        let engine = |core, groups| {
            Engine::new(Setup {
                core,
                cores,
                lanes: self.lanes,
                member: 1,
                order: Arc::clone(&self.order),
                past: recovery.past.clone(),
                groups,
                base: base.clone(),
                log_bytes,
                checkpoint_bytes: self.checkpoint_bytes,
                checkpoint_bytes_max: self.checkpoint_bytes,
                piece_bytes: PIECE_BYTES,
                hub: HUB,
                auto_compaction: None,
            })
        };
        for (log, retained) in logs.iter_mut().skip(usize::from(cores)) {
            // Nobody writes to it, so it is now or never.
            if let Some(first) = retained.below(&ground.lanes) {
                log.recycle_below(first).expect("the disks work while logs are opened");
            }
        }
        let cores = (0..cores).map(CoreId).zip(groups).zip(logs);
        self.cores = cores
            .map(|((core, groups), (log, retained))| Core {
                engine: engine(core, groups),
                log,
                retained,
                phase: Phase::Resting,
                inputs: VecDeque::new(),
                inbox: VecDeque::new(),
                woken: true,
                fx: Effects::default(),
                mesh: VecDeque::new(),
                unpersisted: VecDeque::new(),
            })
            .collect();
    }

    /// One thing happens.
    fn step(&mut self) -> Result<(), Violation> {
        let choice = self.random.below(1000);
        self.note(choice);
        match choice {
            0..=549 => {
                let core = self.random.index(self.cores.len());
                self.run_core(core)?;
            }
            550..=699 => self.finish_write(),
            700..=889 => self.client_acts(),
            890..=949 => {
                self.now_ms += 20 + self.random.below(200);
                let core = self.random.index(self.cores.len());
                self.tick(core);
            }
            950..=969 => self.watcher_acts(),
            970..=979 => self.move_a_range(),
            980 | 981 if self.plan.crashes => {
                let how = if self.random.one_in(2) { Crash::Power } else { Crash::Kill };
                self.crash(how);
            }
            982..=985 => self.slow_disk = self.random.index(DISKS + 1),
            986..=995 => self.take_some(),
            996 | 997 => self.go_on_building(),
            _ => {}
        }
        Ok(())
    }

    /// The image that is being built is finished, or can not be.
    fn go_on_building(&mut self) {
        if self.images.is_building() {
            let works = !self.plan.disk_faults || !self.random.one_in(4);
            self.end_building(works);
        }
    }

    fn end_building(&mut self, works: bool) {
        let at = self.images.building_at().expect("something is being built");
        let built = if works {
            let seen = self.remembered.last().map(|happened| happened.revision);
            let new = self.logged().into_iter().filter(|h| Some(h.revision) > seen);
            let new: Vec<_> = new.filter(|happened| happened.revision <= at).collect();
            self.remembered.extend(new);
            Some(self.images.finish())
        } else {
            self.images.fail();
            None
        };
        self.cores[0].inputs.push_back(Input::Built(built));
    }

    /// A slow client takes what was sent on its stream.
    fn take_some(&mut self) {
        if !self.untaken.is_empty() {
            let at = self.random.index(self.untaken.len());
            let (core, stream, bytes) = self.untaken.remove(at);
            let sent = Input::Watch(stream, WatchInput::Sent { bytes });
            self.cores[core].inputs.push_back(sent);
        }
    }

    fn tick(&mut self, core: usize) {
        let now_ms = self.now_ms;
        let core = &mut self.cores[core];
        core.inputs.push_back(Input::Tick);
        // A failed log is noticed in the core's next step.
        let _ = core.log.tick(now_ms);
    }

    fn finish_write(&mut self) {
        let disk = self.random.index(self.cores.len());
        let under_way = self.disks[disk].under_way().len();
        if disk == self.slow_disk && !self.random.one_in(30) {
            return;
        }
        if under_way > 0 {
            let place = self.random.index(under_way);
            self.disks[disk].finish(place);
        }
    }

    /// Takes the next step of a core's turn.
    fn run_core(&mut self, at: usize) -> Result<(), Violation> {
        if self.complete_log(at).is_err() {
            // After a failed write the node stops.
            self.crash(Crash::Kill);
            return Ok(());
        }
        let now_ms = self.now_ms;
        let core = &mut self.cores[at];
        match core.phase {
            Phase::Resting => {
                if core.wants_turn() {
                    core.woken = false;
                    core.engine.begin();
                    core.phase = Phase::Begun;
                }
            }
            Phase::Begun => {
                for (from, message) in core.inbox.drain(..) {
                    core.engine.step(Input::Mesh(from, message), now_ms, &mut core.fx);
                }
                while let Some(input) = core.inputs.pop_front() {
                    core.engine.step(input, now_ms, &mut core.fx);
                }
                core.phase = Phase::Stepped;
            }
            Phase::Stepped => {
                core.engine.flush(now_ms, &mut core.fx);
                core.phase = Phase::Acting;
                core.mesh.extend(core.fx.mesh.drain(..));
                write_records(core);
            }
            Phase::Acting => return self.act(at),
        }
        Ok(())
    }

    fn complete_log(&mut self, at: usize) -> Result<(), cored_wal::Error> {
        let core = &mut self.cores[at];
        core.log.complete()?;
        let durable = core.log.durable().0;
        while let Some(&(sequence, turn)) = core.unpersisted.front()
            && sequence <= durable
        {
            core.unpersisted.pop_front();
            core.inputs.push_back(Input::Persisted(turn));
        }
        Ok(())
    }

    /// Carries out one effect.
    fn act(&mut self, at: usize) -> Result<(), Violation> {
        if let Some((to, message)) = self.cores[at].mesh.pop_front() {
            let from = CoreId(at as u16);
            self.cores[usize::from(to.0)].inbox.push_back((from, message));
            return Ok(());
        }
        for core in std::mem::take(&mut self.cores[at].fx.wake) {
            self.cores[usize::from(core.0)].woken = true;
        }
        for (id, answer) in std::mem::take(&mut self.cores[at].fx.answers) {
            self.deliver(id, answer)?;
        }
        for (stream, bytes) in std::mem::take(&mut self.cores[at].fx.watch) {
            let bytes_sent = bytes.len();
            let response = pb::WatchResponse::decode(bytes).expect("well encoded");
            self.note(response.header.as_ref().map_or(0, |header| header.revision) as u64);
            self.checker.watched(stream.0, response)?;
            if stream.0 % 3 == 0 {
                self.untaken.push((at, stream, bytes_sent));
            } else {
                let sent = WatchInput::Sent { bytes: bytes_sent };
                self.cores[at].inputs.push_back(Input::Watch(stream, sent));
            }
        }
        let fx = &mut self.cores[at].fx;
        fx.dropped.clear();
        let recycle = fx.recycle.take();
        if let Some(build) = fx.build.take() {
            self.images.begin(build);
        }
        let core = &mut self.cores[at];
        if let Some(first) = recycle.and_then(|cuts| core.retained.below(&cuts)) {
            // A failed log is noticed in the core's next step.
            let _ = core.log.recycle_below(first);
            core.retained.recycled_below(core.log.oldest_segment());
        }
        core.phase = Phase::Resting;
        Ok(())
    }

    fn deliver(&mut self, id: RequestId, answer: Result<Answer, Error>) -> Result<(), Violation> {
        let Some(client) = self.asked.remove(&id.0) else {
            return Err(Violation::new("an answer to a request that nobody waits for"));
        };
        self.note(answer.as_ref().map_or(7, |answer| answer.revision.0 as u64));
        self.clients[client] = None;
        self.answered += 1;
        self.checker.told(id.0, answer, self.now_ms)
    }

    fn client_acts(&mut self) {
        let client = self.random.index(self.clients.len());
        if self.clients[client].is_some() {
            return;
        }
        let newest = self.checker.newest_told().0;
        let request = client::request(&mut self.random, self.taste, self.next, newest);
        self.ask(client, request);
    }

    fn ask(&mut self, client: usize, request: Request) {
        let id = self.next;
        self.next += 1;
        let core = self.random.index(self.cores.len());
        self.checker.asked(id, request.clone(), self.now_ms);
        self.clients[client] = Some(id);
        self.asked.insert(id, client);
        self.cores[core].inputs.push_back(Input::Request(RequestId(id), request));
    }

    fn watcher_acts(&mut self) {
        if self.streams.len() > 3 && self.random.one_in(2) {
            let at = self.random.index(self.streams.len());
            let (&stream, &core) = self.streams.iter().nth(at).expect("an index below the length");
            let input = match self.random.below(4) {
                0 => {
                    self.checker.watch_cancel_asked(stream);
                    // The only watcher of its stream has the first number.
                    WatchInput::Request(watch_request(RequestUnion::CancelRequest(
                        pb::WatchCancelRequest { watch_id: 0 },
                    )))
                }
                1 => WatchInput::Request(watch_request(RequestUnion::ProgressRequest(
                    pb::WatchProgressRequest {},
                ))),
                _ => {
                    self.streams.remove(&stream);
                    self.untaken.retain(|(_, of, _)| of.0 != stream);
                    self.checker.watch_closed(stream);
                    WatchInput::Close
                }
            };
            return self.cores[core].inputs.push_back(Input::Watch(StreamId(stream), input));
        }
        let stream = self.next;
        self.next += 1;
        let core = self.random.index(self.cores.len());
        let create = client::watch(&mut self.random, self.checker.newest_told().0);
        self.checker.watch_opened(stream, create.clone());
        self.streams.insert(stream, core);
        let request = watch_request(RequestUnion::CreateRequest(create));
        let inputs = &mut self.cores[core].inputs;
        inputs.push_back(Input::Watch(StreamId(stream), WatchInput::Open));
        inputs.push_back(Input::Watch(StreamId(stream), WatchInput::Request(request)));
    }

    fn move_a_range(&mut self) {
        if self.taste == Taste::Apart && !self.random.one_in(8) {
            return;
        }
        let bound = |random: &mut Random| {
            let at = random.index(client::KEYS.len() + 1);
            client::KEYS.get(at).map(|key| key.as_bytes().to_vec())
        };
        let start = bound(&mut self.random).unwrap_or_default();
        let end = bound(&mut self.random).filter(|end| *end > start);
        let to = LaneId(self.random.below(u64::from(self.lanes)) as u16);
        let range = KeyRange { start, end };
        self.cores[0].inputs.push_back(Input::Move { range, to });
    }

    /// The node dies and starts again.
    fn crash(&mut self, how: Crash) {
        self.note(99);
        self.crashes += 1;
        self.disks = self.disks.iter().map(|disk| disk.crash(how)).collect();
        for (id, client) in std::mem::take(&mut self.asked) {
            self.clients[client] = None;
            self.checker.lost(id, self.now_ms);
        }
        self.untaken.clear();
        self.images.fail();
        for stream in std::mem::take(&mut self.streams).into_keys() {
            self.checker.watch_closed(stream);
        }
        self.cores.clear();
        self.start();
    }

    /// Nothing new happens until nothing is under way.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        for round in 0..200_000_u64 {
            self.disks.iter().for_each(|disk| disk.set_odds(Odds::default()));
            let at = self.random.index(self.cores.len());
            self.disks[at].finish_all();
            self.take_some();
            if self.images.is_building() {
                self.end_building(true);
            }
            self.run_core(at)?;
            if round % 64 == 0
                && self.asked.is_empty()
                && self.untaken.is_empty()
                && self.cores.iter().all(Core::is_at_rest)
            {
                let serves = self.cores.iter().all(|core| core.engine.serves());
                return if serves { Ok(()) } else { Err(Violation::new("it never serves")) };
            }
        }
        let asked: Vec<_> = self.asked.keys().map(|id| self.checker.request(*id)).collect();
        let cores: Vec<_> =
            self.cores.iter().map(|c| (c.phase, c.wants_turn(), c.log.pending())).collect();
        Err(Violation::new(format!("it never comes to rest: {asked:?} wait; {cores:?}")))
    }

    /// Every write there is, in revision order.
    fn history(&self) -> Vec<Happened> {
        let mut history = self.remembered.clone();
        let seen = history.last().map(|happened| happened.revision);
        history.extend(self.logged().into_iter().filter(|h| Some(h.revision) > seen));
        history
    }

    /// The writes above the newest image, in revision order, read from the logs as a start would read them.
    fn logged(&self) -> Vec<Happened> {
        let disks: Vec<MemoryDisk> =
            self.disks.iter().map(|disk| disk.crash(Crash::Kill)).collect();
        let (records, _) = open(&disks, self.lanes, 0);
        let (ground, _) = self.images.load();
        let past = recover(records, &ground).expect("logs and checkpoint make sense").past;
        let mut history = Vec::new();
        past.replay_recorded().step(usize::MAX, |revision, ended, writes| {
            history.push(Happened { revision, ended, writes: writes.to_vec() });
        });
        history
    }
}

fn watch_request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

fn write_records(core: &mut Core) {
    let mut last = None;
    for (lane, stored) in core.fx.records.drain(..) {
        if let Some(index) = stored.entry_index() {
            core.retained.append(core.log.position().segment, lane, index);
        }
        let parts = [&stored.head[..], &stored.body[..]];
        last = Some(core.log.append(lane.0, stored.kind as u8, &parts));
    }
    for (lane, stored) in core.fx.carry.drain(..) {
        let bytes = [&stored.head[..], &stored.body[..]].concat();
        core.log.set_carry(lane.0, stored.kind as u8, &bytes);
    }
    if let Some(turn) = core.fx.turn.take() {
        let sequence = last.expect("a turn with a number has records").0;
        core.unpersisted.push_back((sequence, turn));
    }
    core.fx.serves = false;
    // A failure is noticed in the core's next step.
    let _ = core.log.submit();
}

/// Per lane its records.
type Records = Vec<Vec<(u8, Bytes)>>;

/// A log, and which of its segments hold what.
type Opened = (Log<MemoryDisk>, Retained);

/// Opens the logs on `disks` and sorts what they hold by lane.
fn open(disks: &[MemoryDisk], lanes: u16, salt: u64) -> (Records, Vec<Opened>) {
    let mut records: Records = vec![Vec::new(); usize::from(lanes)];
    let mut logs = Vec::new();
    for (number, disk) in (0..).zip(disks) {
        disk.set_pace(Pace::AtOnce);
        disk.set_odds(Odds::default());
        let options = Options {
            log: number,
            segment_bytes: 24 << 10,
            group_bytes_max: 8 << 10,
            second_write_bytes: 512,
            salt,
            ..Options::default()
        };
        let mut retained = Retained::default();
        let opened = Log::open(disk.clone(), options, |record| {
            if let Some(index) = entry_index(record.kind, record.payload) {
                retained.append(record.segment, LaneId(record.lane), index);
            }
            records[usize::from(record.lane)].push((record.kind, record.payload.clone()));
        });
        let (log, _) = opened.expect("what was acknowledged is there");
        logs.push((log, retained));
    }
    (records, logs)
}
