//! One hub, three shards and clients that come and go, read slowly or not at all, driven by dice and
//! held against the plain list of everything that was ever written.
//!
//! A shard installs its part of a revision some time after the revision was taken, and its messages
//! reach the hub some time after that; the watermark follows what all shards have installed, with a
//! lag. Keys move between shards. What each client receives must be, for each of its watchers, a
//! prefix of what the list says it should: in order, each event once, whole revisions, with the right
//! value before; at the end, all of it.

use std::ops::Range;

use prost::Message as _;

use super::super::super::{Event, Registry};
use super::*;
use crate::keys::LeaseId;
use crate::mvcc::VersionRef;

const SHARDS: usize = 3;
const KEYS: u8 = 12;
const STREAMS: u64 = 4;

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One change, as the list has it.
#[derive(Clone, PartialEq, Debug)]
struct Change {
    revision: i64,
    sub: u32,
    key: u8,
    /// `None` is a deletion.
    value: Option<Vec<u8>>,
    /// Index in the list of the live version before.
    before: Option<usize>,
}

fn view<'a>(change: &'a Change, key: &'a [u8]) -> VersionRef<'a> {
    VersionRef {
        key,
        value: change.value.as_deref().unwrap_or_default(),
        create: Revision(change.revision),
        modified: Revision(change.revision),
        sub: change.sub,
        version: i64::from(change.value.is_some()),
        lease: LeaseId::NONE,
    }
}

fn event(all: &[Change], at: usize, prev_kv: bool) -> Event {
    let change = &all[at];
    let key = [change.key];
    let before = change.before.filter(|_| prev_kv).map(|before| view(&all[before], &key));
    match change.value {
        Some(_) => Event::put(&view(change, &key), before.as_ref()),
        None => Event::delete(&key, Revision(change.revision), change.sub, before.as_ref()),
    }
}

#[derive(Clone)]
enum ToShard {
    Read { op: u64, range: KeyRange, from: i64, prev_kv: bool, how: How },
    Unregister(WatcherId),
}

#[derive(Clone, Copy)]
enum How {
    Register(WatcherId),
    History { through: i64, max_bytes: usize },
}

enum ToHub {
    Events(Matched),
    Part { op: u64, part: Part },
}

enum Part {
    Events(Vec<Event>, i64),
    TooFar,
    Compacted,
}

#[derive(Default)]
struct Shard {
    registry: Registry,
    /// Indexes of changes to install, ascending.
    due: VecDeque<usize>,
    /// Indexes of installed changes.
    installed: Vec<usize>,
    compacted: i64,
    inbox: VecDeque<ToShard>,
}

struct Gather {
    watcher: WatcherId,
    register: bool,
    missing: usize,
    events: Vec<Event>,
    through: i64,
    failed: Option<Part>,
}

/// A watcher as its client knows it.
struct Watching {
    range: KeyRange,
    start: i64,
    request: pb::WatchCreateRequest,
    /// How many of the list's matching changes have come; those before were not asked for.
    seen: usize,
    fragments: bool,
}

#[derive(Default)]
struct Client {
    open: bool,
    queue: VecDeque<Bytes>,
    /// Requests whose `created` has not come.
    asked: VecDeque<pb::WatchCreateRequest>,
    watching: BTreeMap<i64, Watching>,
    /// Every id that it ever canceled.
    canceled: BTreeSet<i64>,
}

struct World {
    dice: Dice,
    all: Vec<Change>,
    /// Index of the newest version of each key.
    newest: BTreeMap<u8, usize>,
    counter: i64,
    w: i64,
    compacted: i64,
    hub_compacted: i64,
    owner: Vec<usize>,
    shards: Vec<Shard>,
    to_hub: Vec<VecDeque<ToHub>>,
    gathers: BTreeMap<u64, Gather>,
    next_op: u64,
    hub: Hub,
    clients: BTreeMap<StreamId, Client>,
    next_stream: u64,
    delivered: usize,
    compactions: usize,
    stalls: usize,
    progress: usize,
    history_bytes: Range<usize>,
}

impl World {
    fn new(seed: u64) -> World {
        let config = HubConfig {
            waiting_bytes_max: 600,
            history_bytes: 200,
            progress_notify_ms: 1000,
            max_request_bytes: 100,
            ..HubConfig::default()
        };
        World {
            dice: Dice(seed),
            all: Vec::new(),
            newest: BTreeMap::new(),
            counter: 1,
            w: 1,
            compacted: 0,
            hub_compacted: 0,
            owner: (0..usize::from(KEYS)).map(|key| key % SHARDS).collect(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            to_hub: (0..SHARDS).map(|_| VecDeque::new()).collect(),
            gathers: BTreeMap::new(),
            next_op: 0,
            hub: Hub::new(CoreId(0), config),
            clients: BTreeMap::new(),
            next_stream: 0,
            delivered: 0,
            compactions: 0,
            stalls: 0,
            progress: 0,
            history_bytes: 200..600,
        }
    }

    /// A transaction on one to three keys takes the next revision.
    fn write(&mut self) {
        self.counter += 1;
        let mut keys: Vec<u8> =
            (0..1 + self.dice.below(3)).map(|_| self.dice.below(KEYS.into()) as u8).collect();
        keys.sort_unstable();
        keys.dedup();
        for (sub, key) in (0..).zip(keys) {
            let before = self.newest.get(&key).copied();
            let before = before.filter(|at| self.all[*at].value.is_some());
            let delete = before.is_some() && self.dice.one_in(3);
            let value = (!delete).then(|| vec![b'v'; self.dice.below(60) as usize]);
            let at = self.all.len();
            self.all.push(Change { revision: self.counter, sub, key, value, before });
            self.newest.insert(key, at);
            self.shards[self.owner[usize::from(key)]].due.push_back(at);
        }
    }

    fn install(&mut self, shard: usize) {
        let Some(at) = self.shards[shard].due.pop_front() else { return };
        let key = [self.all[at].key];
        let mut matching = Vec::new();
        self.shards[shard].registry.matching(&key, &mut matching);
        if !matching.is_empty() {
            let prev_kv = matching.iter().any(|(_, prev_kv)| *prev_kv);
            let watchers = matching.iter().map(|(watcher, _)| watcher.number).collect();
            let matched = Matched { event: event(&self.all, at, prev_kv), watchers };
            self.to_hub[shard].push_back(ToHub::Events(matched));
        }
        // What moved here may be newer.
        let installed = &mut self.shards[shard].installed;
        let place = installed.partition_point(|other| *other < at);
        installed.insert(place, at);
    }

    /// Everything installed and sent up to here may be shown.
    fn publish(&mut self) {
        let due = self.shards.iter().filter_map(|shard| shard.due.front());
        let covered = due.map(|at| self.all[*at].revision - 1).min().unwrap_or(self.counter);
        self.w += self.dice.below((covered - self.w + 1) as u64) as i64;
    }

    /// A shard takes one message, at its own pace.
    fn serve(&mut self, shard: usize) {
        let Some(message) = self.shards[shard].inbox.pop_front() else { return };
        match message {
            ToShard::Unregister(watcher) => self.shards[shard].registry.remove(watcher),
            ToShard::Read { op, range, from, prev_kv, how } => {
                let part = self.read(shard, &range, from, prev_kv, how);
                self.to_hub[shard].push_back(ToHub::Part { op, part });
            }
        }
    }

    fn read(&mut self, shard: usize, range: &KeyRange, from: i64, prev_kv: bool, how: How) -> Part {
        let (through, max_bytes) = match how {
            How::Register(_) => (i64::MAX, 1000),
            How::History { through, max_bytes } => (through, max_bytes),
        };
        if from < self.shards[shard].compacted {
            return Part::Compacted;
        }
        let (mut events, mut bytes, mut until) = (Vec::<Event>::new(), 0, through);
        for &at in &self.shards[shard].installed {
            let change = &self.all[at];
            if !(from..=through).contains(&change.revision) || !range.contains(&[change.key]) {
                continue;
            }
            let begins = events.last().is_none_or(|last| last.revision.0 != change.revision);
            if begins && bytes > max_bytes {
                until = change.revision - 1;
                break;
            }
            let event = event(&self.all, at, prev_kv);
            bytes += event.bytes();
            events.push(event);
        }
        if let How::Register(watcher) = how {
            if until < through {
                return Part::TooFar;
            }
            // As the range map has it: each shard adds what it owns.
            for key in 0..KEYS {
                let own = KeyRange { start: vec![key], end: Some(vec![key + 1]) };
                if self.owner[usize::from(key)] == shard
                    && let Some(own) = own.intersect(range)
                {
                    self.shards[shard].registry.add(watcher, own, prev_kv);
                }
            }
        }
        Part::Events(events, until)
    }

    /// A key moves, with its history and watchers, when nothing of it is in flight.
    fn move_key(&mut self) {
        let key = self.dice.below(KEYS.into()) as u8;
        let (from, to) = (self.owner[usize::from(key)], self.dice.below(SHARDS as u64) as usize);
        let in_flight = self.shards[from].due.iter().any(|at| self.all[*at].key == key);
        // Reads under way would have to be told "moved"; here the move waits for them instead.
        let busy = self.shards.iter().any(|shard| !shard.inbox.is_empty());
        if in_flight || busy || from == to {
            return;
        }
        self.owner[usize::from(key)] = to;
        let range = KeyRange { start: vec![key], end: Some(vec![key + 1]) };
        let pieces = self.shards[from].registry.export(&range);
        self.shards[to].registry.import(pieces);
        let (moving, staying) = std::mem::take(&mut self.shards[from].installed)
            .into_iter()
            .partition::<Vec<_>, _>(|at| self.all[*at].key == key);
        self.shards[from].installed = staying;
        self.shards[to].installed.extend(moving);
        self.shards[to].installed.sort_unstable();
    }

    /// A compaction takes effect on shards and hub, in any order, after it was decided.
    fn compact(&mut self) {
        if self.dice.one_in(8) {
            self.compacted += self.dice.below((self.w - self.compacted + 1) as u64) as i64 / 2;
        }
        match self.dice.below(SHARDS as u64 + 1) as usize {
            SHARDS => self.hub_compacted = self.compacted,
            shard => self.shards[shard].compacted = self.compacted,
        }
    }

    fn now(&self, w: i64, now_ms: u64) -> Now {
        Now { watermark: Revision(w), compacted: Revision(self.hub_compacted), now_ms }
    }

    /// One turn of the hub's core.
    fn turn(&mut self, now_ms: u64) {
        // Loaded before the queues are drained (R11); the world goes on in between.
        let w = self.w;
        if self.dice.one_in(2) {
            self.write();
            let shard = self.dice.below(SHARDS as u64) as usize;
            self.install(shard);
            self.publish();
        }
        let mut out = Vec::new();
        for shard in 0..SHARDS {
            while let Some(message) = self.to_hub[shard].pop_front() {
                match message {
                    ToHub::Events(matched) => self.hub.matched(vec![matched]),
                    ToHub::Part { op, part } => self.part(op, part, &mut out),
                }
            }
        }
        self.carry_out(&mut out, w);
        for _ in 0..self.dice.below(3) {
            self.client(now_ms, &mut out);
        }
        self.hub.advance(self.now(w, now_ms), &mut out);
        self.carry_out(&mut out, w);
    }

    fn part(&mut self, op: u64, part: Part, out: &mut Vec<Action>) {
        let gather = self.gathers.get_mut(&op).expect("each part is asked for once");
        gather.missing -= 1;
        match part {
            Part::Events(events, through) => {
                gather.events.extend(events);
                gather.through = gather.through.min(through);
            }
            Part::TooFar if matches!(gather.failed, Some(Part::Compacted)) => {}
            failed => gather.failed = Some(failed),
        }
        if gather.missing > 0 {
            return;
        }
        let mut gather = self.gathers.remove(&op).expect("just seen");
        gather.events.sort_by_key(Event::position);
        let compacted = Revision(self.hub_compacted);
        match gather.failed {
            Some(Part::TooFar) => self.hub.too_far(gather.watcher, out),
            Some(_) => self.hub.compacted(gather.watcher, compacted, out),
            None if gather.register => self.hub.registered(gather.watcher, gather.events, out),
            None => {
                let through = Revision(gather.through);
                self.hub.history(gather.watcher, gather.events, through, out);
            }
        }
    }

    fn carry_out(&mut self, out: &mut Vec<Action>, w: i64) {
        for action in std::mem::take(out) {
            match action {
                Action::Send { stream, bytes } => self.send(stream, bytes),
                Action::Unregister { watcher } => {
                    self.stalls += 1;
                    for shard in &mut self.shards {
                        shard.inbox.push_back(ToShard::Unregister(watcher));
                    }
                }
                Action::Register { watcher, range, from, prev_kv } => {
                    self.ask(watcher, range, from, prev_kv, How::Register(watcher));
                }
                Action::History { watcher, range, from, prev_kv, max_bytes } => {
                    assert!(self.history_bytes.contains(&max_bytes));
                    let how = How::History { through: w, max_bytes };
                    self.ask(watcher, range, from, prev_kv, how);
                }
            }
        }
    }

    fn ask(
        &mut self,
        watcher: WatcherId,
        range: KeyRange,
        from: Revision,
        prev_kv: bool,
        how: How,
    ) {
        let op = self.next_op;
        self.next_op += 1;
        self.gathers.insert(
            op,
            Gather {
                watcher,
                register: matches!(how, How::Register(_)),
                missing: SHARDS,
                events: Vec::new(),
                through: i64::MAX,
                failed: None,
            },
        );
        for shard in &mut self.shards {
            let range = range.clone();
            shard.inbox.push_back(ToShard::Read { op, range, from: from.0, prev_kv, how });
        }
    }

    fn send(&mut self, stream: StreamId, bytes: Bytes) {
        let client = self.clients.get_mut(&stream).expect("the stream was opened");
        assert!(client.open, "a response after the end of its stream");
        client.queue.push_back(bytes);
        let waiting: usize = client.queue.iter().map(Bytes::len).sum();
        assert!(waiting < 40_000, "{waiting} bytes wait for a client");
    }

    /// One client does something.
    fn client(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let now = self.now(self.w, now_ms);
        let open = self.clients.iter().filter(|(_, client)| client.open).count() as u64;
        if open < STREAMS || self.dice.one_in(200) {
            let id = StreamId(self.next_stream);
            self.next_stream += 1;
            self.clients.insert(id, Client { open: true, ..Client::default() });
            return self.hub.input(id, WatchInput::Open, now, out);
        }
        let nth = self.dice.below(open) as usize;
        let mut ids = self.clients.iter().filter(|(_, client)| client.open).map(|(id, _)| *id);
        let id = ids.nth(nth).expect("counted");
        let roll = self.dice.below(20);
        let client = self.clients.get_mut(&id).expect("just seen");
        let waiting: usize = client.queue.iter().map(Bytes::len).sum();
        let union = match roll {
            // One that asks on and on without reading would not be answered.
            0..6 if waiting > 1_000 => return,
            0..3 if client.watching.len() < 6 => {
                let request = create(&mut self.dice, self.w);
                client.asked.push_back(request.clone());
                RequestUnion::CreateRequest(request)
            }
            3 => {
                let watch_id = self.dice.below(8) as i64;
                client.canceled.insert(watch_id);
                RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })
            }
            4 => RequestUnion::ProgressRequest(pb::WatchProgressRequest {}),
            5 if self.dice.one_in(20) => {
                client.open = false;
                return self.hub.input(id, WatchInput::Close, now, out);
            }
            // Odd streams read slowly.
            _ if id.0 % 2 == 1 && !self.dice.one_in(6) => return,
            _ => {
                self.read_response(id, now, out);
                return self.read_response(id, now, out);
            }
        };
        let request = pb::WatchRequest { request_union: Some(union) };
        self.hub.input(id, WatchInput::Request(request), now, out);
    }

    fn read_response(&mut self, id: StreamId, now: Now, out: &mut Vec<Action>) {
        let client = self.clients.get_mut(&id).expect("known");
        let Some(bytes) = client.queue.pop_front() else { return };
        let sent = WatchInput::Sent { bytes: bytes.len() };
        self.hub.input(id, sent, now, out);
        let response = pb::WatchResponse::decode(bytes).expect("well-formed");
        self.check(id, &response);
    }

    /// Holds one response against the list.
    fn check(&mut self, id: StreamId, response: &pb::WatchResponse) {
        let revision = response.header.as_ref().expect("always").revision;
        assert!(revision <= self.w, "a header above the watermark");
        let client = self.clients.get_mut(&id).expect("known");
        if response.created {
            let request = client.asked.pop_front().expect("asked for");
            if response.canceled {
                assert!(response.watch_id == -1 && !response.cancel_reason.is_empty());
                return;
            }
            let start = match request.start_revision {
                0 => revision + 1,
                start => start,
            };
            let range = KeyRange::from_request(&request.key, &request.range_end);
            let watching = Watching { range, start, request, seen: 0, fragments: false };
            let before = client.watching.insert(response.watch_id, watching);
            assert!(before.is_none(), "an id that is in use");
        } else if response.canceled {
            let gone = client.watching.remove(&response.watch_id).expect("known to the client");
            if response.compact_revision > 0 {
                self.compactions += 1;
                assert_eq!(revision, 0);
                let next = gone.next(&self.all);
                assert!(next < response.compact_revision, "it could still have been served");
            } else {
                assert!(client.canceled.contains(&response.watch_id), "nobody asked for it");
            }
        } else if response.events.is_empty() {
            self.progress += 1;
            for (watch_id, watching) in &client.watching {
                if response.watch_id == -1 || response.watch_id == *watch_id {
                    let missing = watching.expected(&self.all).nth(watching.seen);
                    assert!(
                        missing.is_none_or(|at| self.all[at].revision > revision),
                        "progress to {revision} ahead of {:?}",
                        missing.map(|at| &self.all[at])
                    );
                }
            }
        } else {
            let watching = client.watching.get_mut(&response.watch_id).expect("created first");
            self.delivered += response.events.len();
            watching.check_events(&self.all, response, revision);
        }
    }

    /// Everything comes to rest and every client reads all there is.
    fn settle(&mut self, mut now_ms: u64) {
        for _ in 0..100_000 {
            for shard in 0..SHARDS {
                while !self.shards[shard].due.is_empty() {
                    self.install(shard);
                }
                while !self.shards[shard].inbox.is_empty() {
                    self.serve(shard);
                }
                self.shards[shard].compacted = self.compacted;
            }
            (self.w, self.hub_compacted) = (self.counter, self.compacted);
            let mut out = Vec::new();
            let open = self.clients.iter().filter(|(_, client)| client.open);
            let ids: Vec<StreamId> = open.map(|(id, _)| *id).collect();
            let now = self.now(self.w, now_ms);
            for id in ids {
                while !self.clients[&id].queue.is_empty() {
                    self.read_response(id, now, &mut out);
                }
            }
            self.carry_out(&mut out, self.w);
            for shard in 0..SHARDS {
                while let Some(message) = self.to_hub[shard].pop_front() {
                    match message {
                        ToHub::Events(matched) => self.hub.matched(vec![matched]),
                        ToHub::Part { op, part } => self.part(op, part, &mut out),
                    }
                }
            }
            self.hub.advance(self.now(self.w, now_ms), &mut out);
            now_ms += 1;
            let quiet = out.is_empty()
                && self.gathers.is_empty()
                && self.shards.iter().all(|shard| shard.inbox.is_empty())
                && self.clients.values().all(|client| !client.open || client.queue.is_empty());
            self.carry_out(&mut out, self.w);
            if quiet {
                return self.check_end();
            }
        }
        panic!("it does not come to rest");
    }

    fn check_end(&self) {
        let mut live = BTreeSet::new();
        for client in self.clients.values().filter(|client| client.open) {
            assert!(client.asked.is_empty(), "a request without an answer");
            for watching in client.watching.values() {
                assert!(!watching.fragments, "the last fragment is missing");
                let rest = watching.expected(&self.all).nth(watching.seen);
                assert_eq!(rest.map(|at| &self.all[at]), None, "it was never sent");
            }
            live.extend(client.watching.values().map(|watching| watching.start));
        }
        let counts = self.hub.counts();
        assert_eq!((counts.slow, counts.pending), (0, 0));
        let watchers: usize =
            self.clients.values().filter(|c| c.open).map(|c| c.watching.len()).sum();
        assert_eq!(counts.watchers, watchers);
        let most = self.shards.iter().map(|shard| shard.registry.len()).max().unwrap_or(0);
        assert!(most <= watchers, "{most} are registered, {watchers} are watching");
    }
}

impl Watching {
    /// Indexes of all changes that this watcher should see, in order.
    fn expected<'a>(&'a self, all: &'a [Change]) -> impl Iterator<Item = usize> + 'a {
        let filters = &self.request.filters;
        let (no_put, no_delete) = (filters.contains(&0), filters.contains(&1));
        (0..all.len()).filter(move |&at| {
            let change = &all[at];
            change.revision >= self.start
                && self.range.contains(&[change.key])
                && !(if change.value.is_some() { no_put } else { no_delete })
        })
    }

    /// The revision after the last one it has seen.
    fn next(&self, all: &[Change]) -> i64 {
        let last = self.seen.checked_sub(1).and_then(|last| self.expected(all).nth(last));
        last.map_or(self.start, |at| all[at].revision + 1)
    }

    fn check_events(&mut self, all: &[Change], response: &pb::WatchResponse, revision: i64) {
        let expected: Vec<usize> =
            self.expected(all).skip(self.seen).take(response.events.len() + 1).collect();
        assert!(expected.len() >= response.events.len(), "more than there is");
        for (found, &at) in response.events.iter().zip(&expected) {
            let kv = found.kv.as_ref().expect("always");
            let change = &all[at];
            assert_eq!((kv.mod_revision, &kv.key[..]), (change.revision, &[change.key][..]));
            assert_eq!(found.r#type == 1, change.value.is_none());
            assert_eq!(&kv.value[..], change.value.as_deref().unwrap_or_default());
            let before = change.before.filter(|_| self.request.prev_kv);
            let prev = found.prev_kv.as_ref().map(|prev| prev.mod_revision);
            assert_eq!(prev, before.map(|before| all[before].revision));
        }
        let last = all[expected[response.events.len() - 1]].revision;
        assert!(last <= revision, "an event above the header");
        let next = expected.get(response.events.len()).map(|at| all[*at].revision);
        assert!(response.fragment || next != Some(last), "half of revision {last}");
        assert!(!response.fragment || self.request.fragment, "a fragment nobody asked for");
        self.fragments = response.fragment;
        self.seen += response.events.len();
    }
}

fn create(dice: &mut Dice, w: i64) -> pb::WatchCreateRequest {
    let key = dice.below(KEYS.into()) as u8;
    let range_end = match dice.below(3) {
        0 => vec![],
        1 => vec![0],
        _ => vec![key + dice.below(5) as u8],
    };
    let start_revision = match dice.below(6) {
        0 => w + dice.below(8) as i64,
        1 | 2 => dice.below(w as u64 + 1) as i64,
        3 if dice.one_in(5) => -1,
        _ => 0,
    };
    pb::WatchCreateRequest {
        // Key 0 stands for the empty one.
        key: vec![key].into(),
        range_end: range_end.into(),
        start_revision,
        progress_notify: dice.one_in(2),
        filters: if dice.one_in(4) { vec![dice.below(2) as i32] } else { vec![] },
        prev_kv: dice.one_in(2),
        watch_id: if dice.one_in(3) { dice.below(8) as i64 } else { 0 },
        fragment: dice.one_in(3),
    }
}

#[test]
fn every_watcher_sees_exactly_what_it_should() {
    let (mut delivered, mut compactions, mut progress, mut stalls) = (0, 0, 0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed);
        let pace = 1 + world.dice.below(4);
        for step in 0..1_500 {
            for _ in 0..world.dice.below(pace) {
                world.write();
            }
            for shard in 0..SHARDS {
                for _ in 0..world.dice.below(3) {
                    world.install(shard);
                    world.serve(shard);
                }
            }
            world.publish();
            match world.dice.below(12) {
                0 => world.compact(),
                1 => world.move_key(),
                _ => world.turn(step * 10),
            }
        }
        world.settle(1_500 * 10);
        delivered += world.delivered;
        compactions += world.compactions;
        progress += world.progress;
        stalls += world.stalls;
    }
    // The dice reach what they are meant to reach.
    assert!(delivered > 50_000, "{delivered} events");
    assert!(compactions > 100, "{compactions} canceled by compactions");
    assert!(progress > 300, "{progress} words of progress");
    assert!(stalls > 500, "{stalls} unregistered");
}
