//! A node in one thread on a perfect disk: every core gets its turns until all is quiet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use cored_proto::etcdserverpb as pb;
use prost::Message as _;

mod alarms;
mod auto_compact;
mod checkpointing;
mod image;
mod leases;

use super::*;
use crate::keys::{KeyRange, LeaseId};
use crate::mvcc::base::{BlockRef, Mapped};
use crate::mvcc::build::Memory;
use crate::watch::{HubConfig, StreamId, WatchInput};

struct Node {
    order: Arc<Order>,
    engines: Vec<Engine>,
    mesh: Vec<VecDeque<(CoreId, Message)>>,
    /// Per lane what its log holds.
    log: Vec<Vec<(u8, Bytes)>>,
    /// Per core turns that are written but not reported durable.
    written: Vec<VecDeque<u64>>,
    answers: BTreeMap<(u16, u64), Result<Answer, Error>>,
    watch: Vec<(StreamId, pb::WatchResponse)>,
    notes: Vec<Note>,
    build: Option<Box<Build>>,
    /// Images that were asked for; none is made.
    builds: usize,
    /// How often somebody was told to hurry with it.
    hurried: usize,
    next: u64,
    now_ms: u64,
}

impl Node {
    fn new(cores: u16, lanes: u16) -> Node {
        Node::start(cores, lanes, vec![Vec::new(); usize::from(lanes)])
    }

    fn start(cores: u16, lanes: u16, log: Vec<Vec<(u8, Bytes)>>) -> Node {
        let recovery = recover(log.clone(), &Ground::default()).expect("a whole log");
        let order = Arc::new(Order::new(lanes, cores));
        let mut groups: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
        for (lane, recovered) in (0..).map(LaneId).zip(recovery.lanes) {
            groups[usize::from(lane.0 % cores)].push((lane, recovered));
        }
        let engines = (0..cores).map(CoreId).zip(groups).map(|(core, groups)| {
            Engine::new(Setup {
                core,
                cores,
                lanes,
                member: 1,
                order: Arc::clone(&order),
                past: recovery.past.clone(),
                groups,
                base: None,
                log_bytes: 0,
                checkpoint_bytes: u64::MAX,
                checkpoint_bytes_max: u64::MAX,
                piece_bytes: usize::MAX,
                hub: HubConfig::default(),
                auto_compaction: None,
            })
        });
        let engines = engines.collect();
        let mut node = Node {
            order,
            engines,
            mesh: (0..cores).map(|_| VecDeque::new()).collect(),
            log,
            written: vec![VecDeque::new(); usize::from(cores)],
            answers: BTreeMap::new(),
            watch: Vec::new(),
            notes: Vec::new(),
            build: None,
            builds: 0,
            hurried: 0,
            next: 1,
            now_ms: 0,
        };
        node.settle();
        assert!(node.engines.iter().all(Engine::serves));
        node
    }

    fn restart(self) -> Node {
        let (cores, lanes) = (self.engines.len() as u16, self.log.len() as u16);
        Node::start(cores, lanes, self.log)
    }

    fn turn(&mut self, core: usize, inputs: Vec<Input>) {
        let engine = &mut self.engines[core];
        let mut fx = Effects::default();
        engine.begin();
        for (from, message) in self.mesh[core].drain(..) {
            engine.step(Input::Mesh(from, message), self.now_ms, &mut fx);
        }
        for input in inputs {
            engine.step(input, self.now_ms, &mut fx);
        }
        engine.flush(self.now_ms, &mut fx);
        for (lane, stored) in fx.records {
            let bytes = [&stored.head[..], &stored.body].concat();
            self.log[usize::from(lane.0)].push((stored.kind as u8, bytes.into()));
        }
        self.written[core].extend(fx.turn);
        self.notes.extend(fx.notes);
        self.builds += usize::from(fx.build.is_some());
        self.hurried += usize::from(fx.hurry);
        self.build = fx.build.or(self.build.take());
        for (to, message) in fx.mesh {
            self.mesh[usize::from(to.0)].push_back((CoreId(core as u16), message));
        }
        for (id, answer) in fx.answers {
            let before = self.answers.insert((core as u16, id.0), answer);
            assert!(before.is_none(), "answered twice");
        }
        for (stream, bytes) in fx.watch {
            let response = pb::WatchResponse::decode(bytes).expect("well encoded");
            self.watch.push((stream, response));
        }
    }

    /// A turn in which a core hears that all it wrote is durable.
    fn turn_of_disk(&mut self, core: usize) {
        let persisted = self.written[core].drain(..).map(Input::Persisted).collect();
        self.turn(core, persisted);
    }

    fn settle(&mut self) {
        for _ in 0..100_000 {
            for core in 0..self.engines.len() {
                self.turn_of_disk(core);
            }
            let quiet = self.mesh.iter().all(VecDeque::is_empty)
                && self.written.iter().all(VecDeque::is_empty)
                && !self.engines.iter().any(Engine::wants_turn);
            if quiet {
                return;
            }
        }
        panic!("never quiet");
    }

    fn send(&mut self, core: usize, request: Request) -> (u16, u64) {
        let id = self.next;
        self.next += 1;
        self.turn(core, vec![Input::Request(RequestId(id), request)]);
        (core as u16, id)
    }

    fn ask(&mut self, core: usize, request: Request) -> Result<Answer, Error> {
        let id = self.send(core, request);
        self.settle();
        self.answers.remove(&id).expect("answered")
    }

    fn put(&mut self, core: usize, key: &str, value: &str) -> i64 {
        self.put_leased(core, key, value, 0).expect("a put")
    }

    fn put_leased(
        &mut self,
        core: usize,
        key: &str,
        value: &str,
        lease: i64,
    ) -> Result<i64, Error> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let put = pb::PutRequest { key, value, lease, ..Default::default() };
        self.ask(core, Request::Put(put)).map(|answer| answer.revision.0)
    }

    fn range(
        &mut self,
        core: usize,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Error> {
        let answer = self.ask(core, Request::Range(request))?;
        let Reply::Range(reply) = answer.reply else { panic!("a range answers a range") };
        let mut response = pb::RangeResponse::decode(reply.kvs.freeze()).expect("well encoded");
        response.count = reply.count;
        response.more = reply.more;
        Ok(response)
    }

    /// Everything there is, as `key=value@modified`.
    fn all(&mut self, core: usize) -> String {
        let response = self.range(core, everything()).expect("a range");
        let kvs = response.kvs.iter().map(|kv| {
            let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
            format!("{}={}@{}", text(&kv.key), text(&kv.value), kv.mod_revision)
        });
        kvs.collect::<Vec<_>>().join(" ")
    }

    fn move_range(&mut self, start: &str, end: Option<&str>, to: u16) {
        let end = end.map(|end| end.as_bytes().to_vec());
        let range = KeyRange { start: start.as_bytes().to_vec(), end };
        self.turn(0, vec![Input::Move { range, to: LaneId(to) }]);
    }

    fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        for core in 0..self.engines.len() {
            self.turn(core, vec![Input::Tick]);
        }
        self.settle();
    }
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

fn put_op(key: &str, lease: i64) -> pb::RequestOp {
    let (key, value) = (key.to_owned().into(), "t".into());
    let put = pb::PutRequest { key, value, lease, ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

/// The image that was asked for, with what `spoil` does to its file.
fn image_of(build: &Build, spoil: impl FnOnce(&mut [u8], &[BlockRef])) -> Arc<Base> {
    let mut file = Memory::new(1);
    let rows = build.image(&mut file).expect("memory is never full");
    spoil(&mut file.bytes, &rows);
    let files = BTreeMap::from([(1, Arc::new(file.bytes) as Mapped)]);
    Arc::new(Base::open(build.at, rows, files).expect("rows that make sense"))
}

fn two() -> Node {
    let mut node = Node::new(2, 2);
    node.move_range("m", None, 1);
    node.settle();
    assert_eq!(node.engines[1].control.map.lane_of(b"x"), LaneId(1));
    node
}

#[test]
fn puts_are_read_back_on_every_core_and_after_a_restart() {
    let mut node = two();
    assert_eq!(node.put(0, "a", "1"), 2);
    assert_eq!(node.put(0, "x", "2"), 3);
    assert_eq!(node.put(1, "a", "3"), 4);
    assert_eq!(node.all(0), "a=3@4 x=2@3");
    assert_eq!(node.all(1), "a=3@4 x=2@3");
    let mut node = node.restart();
    assert_eq!(node.all(1), "a=3@4 x=2@3");
    assert_eq!(node.put(1, "y", "4"), 5);
}

#[test]
fn a_limit_cuts_across_shards_and_the_count_does_not() {
    let mut node = two();
    for key in ["a", "b", "x", "y"] {
        node.put(0, key, key);
    }
    let request = pb::RangeRequest { limit: 3, ..everything() };
    let response = node.range(1, request).expect("a range");
    assert_eq!((response.kvs.len(), response.count, response.more), (3, 4, true));
    let request = pb::RangeRequest {
        sort_order: pb::range_request::SortOrder::Descend as i32,
        limit: 1,
        ..everything()
    };
    let response = node.range(0, request).expect("a range");
    assert_eq!((&response.kvs[0].key[..], response.more), (&b"y"[..], true));
}

#[test]
fn a_transaction_across_shards_is_one_revision() {
    let mut node = two();
    node.put(0, "x", "0");
    let success = vec![put_op("a", 0), put_op("x", 0)];
    let txn = pb::TxnRequest { success, ..Default::default() };
    let answer = node.ask(1, Request::Txn(txn)).expect("a transaction");
    assert_eq!(answer.revision, Revision(3));
    assert_eq!(node.all(0), "a=t@3 x=t@3");
    let delete = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: true };
    let answer = node.ask(0, Request::DeleteRange(delete)).expect("a delete");
    let Reply::DeleteRange(reply) = answer.reply else { panic!("a delete") };
    assert_eq!((reply.deleted, reply.prev_kvs.len()), (2, 2));
    assert_eq!(node.all(1), "");
    let mut node = node.restart();
    assert_eq!(node.all(1), "");
    assert_eq!(node.put(0, "z", "1"), 5);
}

#[test]
fn what_one_lane_lost_voids_what_others_hold_above_it() {
    let mut node = two();
    node.put(0, "a", "1");
    node.put(0, "x", "2");
    let kept = node.log[0].len();
    node.put(0, "a", "3");
    node.put(0, "x", "4");
    // Lane 0 loses revision 4; lane 1 still holds revision 5, which nobody can build on.
    node.log[0].truncate(kept);
    let mut node = node.restart();
    assert_eq!(node.all(0), "a=1@2 x=2@3");
    assert_eq!(node.put(1, "b", "5"), 4, "a voided number is given out again");
    let mut node = node.restart();
    assert_eq!(node.all(0), "a=1@2 b=5@4 x=2@3");
}

#[test]
fn compaction_hides_history_at_once_and_survives_a_restart() {
    let mut node = two();
    for n in 0..5 {
        node.put(0, "a", &n.to_string());
    }
    let compact = |revision| Request::Compact { revision, physical: true };
    node.ask(1, compact(4)).expect("compacted");
    let refused = |node: &mut Node, revision| node.ask(0, compact(revision)).err();
    use crate::txn::Refusal;
    assert_eq!(refused(&mut node, 4), Some(Error::Refused(Refusal::Compacted)));
    assert_eq!(refused(&mut node, 99), Some(Error::Refused(Refusal::FutureRevision)));
    let old = pb::RangeRequest { revision: 3, ..everything() };
    assert!(node.range(0, old.clone()).is_err());
    assert_eq!(node.range(0, pb::RangeRequest { revision: 4, ..old.clone() }).unwrap().count, 1);
    let mut node = node.restart();
    assert!(node.range(1, old).is_err());
    assert_eq!(node.all(1), "a=4@6");
}

#[test]
fn requests_follow_their_keys_while_a_range_moves() {
    let mut node = two();
    let mut expected = BTreeMap::new();
    for n in 0..200 {
        let key = format!("{}{n}", ["a", "k", "p", "z"][n % 4]);
        node.put(n % 2, &key, "0");
        expected.insert(key, 0);
    }
    for round in 1..=6_u16 {
        let (start, end) = [("k", Some("q")), ("a", Some("m")), ("", None)][usize::from(round % 3)];
        node.move_range(start, end, round % 2);
        let mut ids = Vec::new();
        for key in expected.keys() {
            let value = round.to_string();
            let put = pb::PutRequest {
                key: key.clone().into(),
                value: value.into(),
                ..Default::default()
            };
            ids.push(node.send(ids.len() % 2, Request::Put(put)));
        }
        node.settle();
        ids.iter().for_each(|id| assert!(node.answers.remove(id).expect("answered").is_ok()));
        expected.values_mut().for_each(|value| *value = round);
        let response = node.range(1, everything()).expect("a range");
        assert_eq!(response.count as usize, expected.len());
        for (kv, (key, value)) in response.kvs.iter().zip(&expected) {
            assert_eq!(kv.key, key.as_bytes());
            assert_eq!(kv.value, value.to_string());
            assert_eq!(kv.version, i64::from(round) + 1);
        }
    }
    let before = node.all(0);
    assert_eq!(node.restart().all(1), before);
}

#[test]
fn the_digest_is_etcds() {
    let mut node = two();
    let hash = |node: &mut Node| {
        let answer = node.ask(1, Request::HashKv { revision: 0 }).expect("a digest");
        let Reply::Hash { hash, compact_revision, .. } = answer.reply else { panic!("a digest") };
        (hash, compact_revision)
    };
    assert_eq!(hash(&mut node), (1_084_519_789, -1));
    node.put(0, "a", "1");
    assert_eq!(hash(&mut node), (2_587_454_935, -1));
    let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    node.ask(0, Request::DeleteRange(delete)).expect("a delete");
    assert_eq!(hash(&mut node), (3_520_211_144, -1));
}

#[test]
fn a_watch_hears_every_revision_once_and_whole() {
    let mut node = two();
    node.put(0, "a", "1");
    let create = pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 2,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let request = pb::WatchRequest { request_union: Some(union) };
    let stream = StreamId(1);
    node.turn(1, vec![Input::Watch(stream, WatchInput::Open)]);
    node.turn(1, vec![Input::Watch(stream, WatchInput::Request(request))]);
    node.settle();
    node.put(0, "x", "2");
    node.put(1, "a", "3");
    node.move_range("a", Some("z"), 1);
    node.put(1, "a", "4");
    node.settle();
    let events: Vec<i64> = node
        .watch
        .iter()
        .flat_map(|(_, response)| &response.events)
        .map(|event| event.kv.as_ref().expect("a key").mod_revision)
        .collect();
    assert!(node.watch[0].1.created);
    assert_eq!(events, [2, 3, 4, 5]);
    let _ = (BytesMut::new().has_remaining_mut(), node.order.watermark());
}
