//! A stand-in for everything behind the door, for the tests of this room: an executor that polls
//! only what was woken, so that a lost wake-up is a test that hangs and fails, and an engine that
//! is a map with its whole history. It shares the meaning of transactions with the real one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};
use cored_proto::etcdserverpb as pb;
use cored_proto::mvccpb::{Event, KeyValue, event::EventType};
use cored_proto::{METHODS, Method};
use prost::Message;

use crate::api::backup::Source;
use crate::api::door::{Door, Identity, WatchInput};
use crate::api::pages::Page;
use crate::api::status::Status;
use crate::api::stream::{Requests, Responses, pair};
use crate::api::{Api, Caller, Settings};
use crate::engine::{Alarms, Answer, Error, RangeReply, Reply, Request, StatusReply};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::Change;
use crate::txn;
use crate::txn::gathered::Gathered;
use crate::watch::StreamId;

pub const IDENTITY: Identity = Identity { cluster_id: 0x77, member_id: 0x1234_5678_9abc };
pub const TERM: u64 = 3;

/// A member in a thread.
pub struct World {
    pub api: Rc<Api>,
    pub door: Rc<Door>,
    pub model: Model,
    tasks: Vec<Option<Task>>,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A unary call that may not be answered yet.
pub struct Call {
    task: usize,
    outcome: Rc<RefCell<Option<Result<Bytes, Status>>>>,
}

/// The client's side of a call that streams.
pub struct Stream {
    task: usize,
    pub requests: Option<Responses>,
    pub responses: Option<Requests>,
    /// The status it ended with, once that was read; a clean end leaves none.
    pub end: Option<Status>,
}

pub fn settings() -> Settings {
    Settings {
        max_request_bytes: 3 << 19,
        max_txn_ops: 128,
        name: "default".to_owned(),
        peer_urls: vec!["http://127.0.0.1:2380".to_owned()],
        client_urls: vec!["http://127.0.0.1:2379".to_owned()],
        quota_bytes: 2 << 30,
        usage: Arc::default(),
        min_lease_ttl_s: 2,
    }
}

pub fn method(path: &str) -> &'static Method {
    let (service, name) = path.split_once('/').expect("service/method");
    let found = METHODS.iter().find(|method| method.service == service && method.name == name);
    found.unwrap_or_else(|| panic!("{path} is in the API"))
}

impl World {
    pub fn new() -> World {
        World::with(settings())
    }

    pub fn with(settings: Settings) -> World {
        World::make(settings, None)
    }

    /// A member with backups.
    pub fn with_source(source: Option<Rc<dyn Source>>) -> World {
        World::make(settings(), source)
    }

    fn make(settings: Settings, source: Option<Rc<dyn Source>>) -> World {
        let door = Door::new(IDENTITY);
        door.set_term(TERM);
        let api = Api::new(settings, Rc::clone(&door), source, Default::default(), 42);
        World { api, door, model: Model::new(), tasks: Vec::new() }
    }

    /// Calls a method and expects an answer without anything else happening.
    pub fn call<R: Message + Default>(
        &mut self,
        path: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        let call = self.start(path, request);
        let answer = self.outcome(&call).unwrap_or_else(|| panic!("{path} waits"));
        answer.map(|bytes| R::decode(bytes).expect("an answer decodes"))
    }

    /// As [`World::call`], with bytes as they are.
    pub fn call_bytes(&mut self, path: &str, request: Bytes) -> Result<Bytes, Status> {
        let call = self.start_bytes(path, request);
        self.outcome(&call).unwrap_or_else(|| panic!("{path} waits"))
    }

    /// Begins a call, and lets happen what can.
    pub fn start(&mut self, path: &str, request: &impl Message) -> Call {
        self.start_bytes(path, request.encode_to_vec().into())
    }

    fn start_bytes(&mut self, path: &str, request: Bytes) -> Call {
        let outcome = Rc::new(RefCell::new(None));
        let set = Rc::clone(&outcome);
        let answer = Rc::clone(&self.api).unary(method(path), Caller::default(), request);
        let task = self.spawn(async move {
            let answer = answer.await;
            *set.borrow_mut() = Some(answer);
        });
        self.run();
        Call { task, outcome }
    }

    /// What a call has come to, if it has.
    pub fn outcome(&self, call: &Call) -> Option<Result<Bytes, Status>> {
        call.outcome.borrow().clone()
    }

    /// The client of a call goes.
    pub fn cancel(&mut self, call: &Call) {
        self.tasks[call.task] = None;
        self.run();
    }

    /// Opens a stream.
    pub fn open(&mut self, path: &str, caller: Caller) -> Stream {
        let (requests, handler_requests) = pair();
        let (handler_responses, responses) = pair();
        let serve =
            Rc::clone(&self.api).stream(method(path), caller, handler_requests, handler_responses);
        let task = self.spawn(serve);
        self.run();
        Stream { task, requests: Some(requests), responses: Some(responses), end: None }
    }

    /// Sends a message on a stream.
    pub fn send(&mut self, stream: &Stream, message: &impl Message) {
        self.send_bytes(stream, message.encode_to_vec().into());
    }

    pub fn send_bytes(&mut self, stream: &Stream, message: Bytes) {
        stream.requests.as_ref().expect("open").push(message);
        self.run();
    }

    /// The client says that it has no more to say.
    pub fn close_send(&mut self, stream: &mut Stream) {
        stream.requests = None;
        self.run();
    }

    /// The next message on a stream: `None` when there is none now, or no more.
    pub fn receive<R: Message + Default>(&mut self, stream: &mut Stream) -> Option<R> {
        let responses = stream.responses.as_mut().expect("open");
        let next = responses.poll_next(&mut Context::from_waker(Waker::noop()));
        self.run();
        match next {
            Poll::Ready(Some(Ok(message))) => Some(R::decode(message).expect("an answer decodes")),
            Poll::Ready(Some(Err(status))) => {
                stream.end = Some(status);
                None
            }
            Poll::Ready(None) | Poll::Pending => None,
        }
    }

    /// As [`World::receive`], where the call must end instead of waiting.
    pub fn receive_or_end<R: Message + Default>(&mut self, stream: &mut Stream) -> Option<R> {
        let next = self.receive(stream);
        assert!(next.is_some() || !self.serves(stream), "the call waits");
        next
    }

    /// Whether the handler of a stream still runs.
    pub fn serves(&self, stream: &Stream) -> bool {
        self.tasks[stream.task].is_some()
    }

    /// Asks for a page.
    pub fn page(&mut self, path: &str, query: &str) -> Option<Page> {
        let outcome = Rc::new(RefCell::new(None));
        let set = Rc::clone(&outcome);
        let page = Rc::clone(&self.api).page(path.to_owned(), query.to_owned());
        self.spawn(async move {
            let page = page.await;
            *set.borrow_mut() = Some(page);
        });
        self.run();
        outcome.take().expect("a page does not wait")
    }

    fn spawn(&mut self, future: impl Future<Output = ()> + 'static) -> usize {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.tasks.push(Some(Task { future: Box::pin(future), woken }));
        self.tasks.len() - 1
    }

    /// Lets everything happen that can: tasks, and the engine's turns between them.
    pub fn run(&mut self) {
        loop {
            let mut moved = false;
            for slot in &mut self.tasks {
                let Some(task) = slot else { continue };
                if !task.woken.0.swap(false, Ordering::Relaxed) {
                    continue;
                }
                moved = true;
                let waker = Waker::from(Arc::clone(&task.woken));
                if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    *slot = None;
                }
            }
            let inbox = self.door.take();
            moved |= !inbox.is_empty();
            for (id, request) in inbox.requests {
                self.model.asked.push(request.clone());
                let answer = self.model.request(request);
                self.door.deliver(id, answer);
            }
            for (id, input) in inbox.watch {
                self.model.watch(id, input);
            }
            for (id, response) in self.model.responses.drain(..) {
                self.door.deliver_watch(id, response.encode_to_vec().into());
            }
            if !moved {
                return;
            }
        }
    }
}

/// The engine: a map and its past.
pub struct Model {
    state: Gathered,
    /// Every event there ever was.
    history: Vec<Event>,
    leases: BTreeMap<LeaseId, i64>,
    pub alarms: Alarms,
    watches: Vec<Watch>,
    responses: Vec<(StreamId, pb::WatchResponse)>,
    /// Every request, in order.
    pub asked: Vec<Request>,
    /// Answers everything from now on.
    pub refuses: Option<Error>,
    /// Whether the status says so.
    pub serves: bool,
    /// Bytes that streams reported as sent.
    pub sent_bytes: usize,
    /// Streams that were closed.
    pub closed: usize,
}

struct Watch {
    stream: StreamId,
    id: i64,
    range: KeyRange,
    start: i64,
    only_deletes: bool,
}

impl Model {
    fn new() -> Model {
        let mut state = Gathered { current: Revision::FIRST, ..Gathered::default() };
        state.past.insert(Revision::FIRST, BTreeMap::new());
        Model {
            state,
            history: Vec::new(),
            leases: BTreeMap::new(),
            alarms: Alarms::default(),
            watches: Vec::new(),
            responses: Vec::new(),
            asked: Vec::new(),
            refuses: None,
            serves: true,
            sent_bytes: 0,
            closed: 0,
        }
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.state.current.0
    }

    /// The keys there are.
    pub fn keys(&self) -> Vec<String> {
        let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
        self.state.newest.keys().map(text).collect()
    }

    fn request(&mut self, request: Request) -> Result<Answer, Error> {
        use pb::request_op::Request as Op;
        use pb::response_op::Response as OpAnswer;
        if let Some(error) = self.refuses {
            if matches!(request, Request::Status) && error == Error::NoLeader {
                return Ok(self.answer(Reply::Status(self.status())));
            }
            return Err(error);
        }
        if let Some(error) = self.alarms.refuse(&request) {
            return Err(error);
        }
        let reply = match request {
            Request::Range(range) => {
                let Some(OpAnswer::ResponseRange(response)) = self.one(Op::RequestRange(range))?
                else {
                    unreachable!()
                };
                let kvs = pb::RangeResponse { kvs: response.kvs, ..Default::default() };
                let kvs = BytesMut::from(&kvs.encode_to_vec()[..]);
                Reply::Range(RangeReply { kvs, more: response.more, count: response.count })
            }
            Request::Put(put) => match self.one(Op::RequestPut(put))? {
                Some(OpAnswer::ResponsePut(response)) => {
                    Reply::Put(pb::PutResponse { header: None, ..response })
                }
                _ => unreachable!(),
            },
            Request::DeleteRange(delete) => match self.one(Op::RequestDeleteRange(delete))? {
                Some(OpAnswer::ResponseDeleteRange(response)) => {
                    Reply::DeleteRange(pb::DeleteRangeResponse { header: None, ..response })
                }
                _ => unreachable!(),
            },
            Request::Txn(txn) => Reply::Txn(self.txn(&txn)?),
            Request::Compact { revision, .. } => {
                if revision <= self.state.compacted.0 {
                    return Err(txn::Refusal::Compacted.into());
                }
                txn::check_revision(&self.state, revision)?;
                self.state.compacted = Revision(revision);
                Reply::Done
            }
            Request::LeaseGrant { id, ttl_s } => {
                if self.leases.contains_key(&id) {
                    return Err(Error::LeaseExists);
                }
                self.leases.insert(id, ttl_s);
                self.state.leases.push(id);
                Reply::Ttl(ttl_s)
            }
            Request::LeaseRevoke { id } => {
                self.leases.remove(&id).ok_or(txn::Refusal::LeaseNotFound)?;
                self.state.leases.retain(|lease| *lease != id);
                self.delete_keys_of(id);
                Reply::Done
            }
            Request::LeaseKeepAlive { id } => {
                Reply::Ttl(self.leases.get(&id).copied().unwrap_or(0))
            }
            Request::LeaseTimeToLive { id, keys } => match self.leases.get(&id) {
                None => Reply::TimeToLive { ttl_s: -1, granted_s: 0, keys: Vec::new() },
                Some(&ttl) => {
                    let keys = if keys { self.keys_of(id) } else { Vec::new() };
                    Reply::TimeToLive { ttl_s: ttl - 1, granted_s: ttl, keys }
                }
            },
            Request::LeaseLeases => Reply::Leases(self.leases.keys().copied().collect()),
            Request::HashKv { revision } => {
                txn::check_revision(&self.state, revision)?;
                let hash_revision = if revision == 0 { self.state.current.0 } else { revision };
                Reply::Hash { hash: 7, compact_revision: -1, hash_revision }
            }
            Request::Hash => Reply::Hash { hash: 8, compact_revision: -1, hash_revision: 0 },
            Request::Alarm(pb::AlarmRequest { action, member_id, alarm }) => {
                let alarms = match action {
                    0 => self.alarms.of(alarm).collect(),
                    action => {
                        self.alarms.set(alarm, member_id, action == 1);
                        vec![pb::AlarmMember { member_id, alarm }]
                    }
                };
                Reply::Alarms(alarms)
            }
            Request::Status => Reply::Status(self.status()),
            Request::Checkpoint | Request::ReadIndex => Reply::Done,
        };
        Ok(self.answer(reply))
    }

    fn answer(&self, reply: Reply) -> Answer {
        Answer { revision: self.state.current, reply }
    }

    fn status(&self) -> StatusReply {
        StatusReply {
            db_bytes: 4096,
            db_in_use_bytes: 1024,
            raft_term: TERM,
            raft_index: 12,
            raft_applied_index: 11,
            serves: self.serves,
            alarms: self.alarms.of(0).collect(),
        }
    }

    fn keys_of(&self, lease: LeaseId) -> Vec<Bytes> {
        let held = self.state.newest.iter().filter(|(_, row)| row.lease == lease);
        held.map(|(key, _)| key.clone()).collect()
    }

    fn delete_keys_of(&mut self, lease: LeaseId) {
        use pb::request_op::Request as Op;
        let success = self
            .keys_of(lease)
            .into_iter()
            .map(|key| {
                let delete = pb::DeleteRangeRequest { key, ..Default::default() };
                pb::RequestOp { request: Some(Op::RequestDeleteRange(delete)) }
            })
            .collect();
        self.txn(&pb::TxnRequest { success, ..Default::default() }).expect("deletes");
    }

    fn one(
        &mut self,
        op: pb::request_op::Request,
    ) -> Result<Option<pb::response_op::Response>, Error> {
        let success = vec![pb::RequestOp { request: Some(op) }];
        let mut response = self.txn(&pb::TxnRequest { success, ..Default::default() })?;
        Ok(response.responses.remove(0).response)
    }

    fn txn(&mut self, txn: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let plan = txn::plan(&self.state, txn)?;
        let next = self.state.current.next();
        let before = self.state.current;
        let mut executed = txn::execute(&mut self.state, txn, &plan, &mut || next);
        txn::fill_headers(&mut executed.response, before);
        if executed.revision.is_some() {
            self.state.current = next;
            self.state.past.insert(next, self.state.newest.clone());
            self.publish(next);
        }
        executed.response.header = None;
        Ok(executed.response)
    }

    fn publish(&mut self, revision: Revision) {
        let events: Vec<Event> = self
            .state
            .writes
            .drain(..)
            .map(|write| match write.change {
                Change::Put { value, create, version, lease } => Event {
                    r#type: EventType::Put as i32,
                    kv: Some(KeyValue {
                        key: write.key,
                        create_revision: create.0,
                        mod_revision: revision.0,
                        version,
                        value,
                        lease: lease.0,
                    }),
                    prev_kv: None,
                },
                Change::Delete => Event {
                    r#type: EventType::Delete as i32,
                    kv: Some(KeyValue {
                        key: write.key,
                        mod_revision: revision.0,
                        ..Default::default()
                    }),
                    prev_kv: None,
                },
            })
            .collect();
        for watch in &self.watches {
            tell(&mut self.responses, watch, revision, &events);
        }
        self.history.extend(events);
    }

    fn watch(&mut self, stream: StreamId, input: WatchInput) {
        use pb::watch_request::RequestUnion;
        match input {
            WatchInput::Open => {}
            WatchInput::Sent { bytes } => self.sent_bytes += bytes,
            WatchInput::Close => {
                self.watches.retain(|watch| watch.stream != stream);
                self.closed += 1;
            }
            WatchInput::Request(request) => match request.request_union {
                Some(RequestUnion::CreateRequest(create)) => self.create(stream, &create),
                Some(RequestUnion::CancelRequest(cancel)) => {
                    let id = cancel.watch_id;
                    self.watches.retain(|watch| watch.stream != stream || watch.id != id);
                    let response =
                        pb::WatchResponse { watch_id: id, canceled: true, ..Default::default() };
                    self.responses.push((stream, response));
                }
                Some(RequestUnion::ProgressRequest(_)) => {
                    let response = pb::WatchResponse { watch_id: -1, ..Default::default() };
                    self.responses.push((stream, response));
                }
                None => {}
            },
        }
    }

    fn create(&mut self, stream: StreamId, create: &pb::WatchCreateRequest) {
        let id = self.watches.iter().filter(|watch| watch.stream == stream).count() as i64;
        let created = pb::WatchResponse { watch_id: id, created: true, ..Default::default() };
        self.responses.push((stream, created));
        let current = self.state.current;
        let start = if create.start_revision == 0 { current.0 + 1 } else { create.start_revision };
        if start < self.state.compacted.0 {
            let compact_revision = self.state.compacted.0;
            let canceled = pb::WatchResponse {
                watch_id: id,
                canceled: true,
                compact_revision,
                ..Default::default()
            };
            self.responses.push((stream, canceled));
            return;
        }
        let range = KeyRange::from_request(&create.key, &create.range_end);
        let only_deletes = !create.filters.is_empty();
        let watch = Watch { stream, id, range, start, only_deletes };
        tell(&mut self.responses, &watch, current, &self.history);
        self.watches.push(watch);
    }
}

fn tell(
    responses: &mut Vec<(StreamId, pb::WatchResponse)>,
    watch: &Watch,
    revision: Revision,
    events: &[Event],
) {
    let wanted = |event: &&Event| {
        let kv = event.kv.as_ref().expect("an event has a key");
        kv.mod_revision >= watch.start
            && watch.range.contains(&kv.key)
            && (!watch.only_deletes || event.r#type() == EventType::Delete)
    };
    let events: Vec<Event> = events.iter().filter(wanted).cloned().collect();
    if !events.is_empty() {
        let header = Some(pb::ResponseHeader { revision: revision.0, ..Default::default() });
        let response =
            pb::WatchResponse { header, watch_id: watch.id, events, ..Default::default() };
        responses.push((watch.stream, response));
    }
}
