//! A small server that speaks enough of etcd's API for a load to run against it, and that can be told to break its
//! promises: tests use it to see whether the load generator notices.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use cored_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse, WatchRequest, WatchResponse, compare, request_op, response_op,
    watch_request::RequestUnion,
};
use cored_proto::mvccpb::{Event, KeyValue};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc as queue, oneshot};
use tokio::task::spawn_local;

use crate::framing::{Messages, frame};

/// Each counts operations: 3 means every third one. 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Puts that are acknowledged and forgotten.
    pub lose_puts: u64,
    /// Puts that are refused with an error.
    pub refuse_puts: u64,
    /// Puts that are never answered.
    pub hang_puts: u64,
    /// Puts whose event one watcher never gets.
    pub drop_events: u64,
    /// Puts whose event one watcher gets twice.
    pub repeat_events: u64,
}

/// The server, on a thread of its own, until it is dropped.
pub struct Fake {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Starts a server with these faults on a free port.
    pub fn start(faults: Faults) -> Fake {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let serve = async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let store =
                    Rc::new(RefCell::new(Store { revision: 1, faults, ..Store::default() }));
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    spawn_local(connection(socket, Rc::clone(&store)));
                }
            };
            let until_stopped = async {
                tokio::select! { () = serve => {}, _ = stopped => {} }
            };
            tokio::task::LocalSet::new().block_on(&runtime, until_stopped);
        });
        Fake { address: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

type Shared = Rc<RefCell<Store>>;

#[derive(Default)]
struct Store {
    revision: i64,
    keys: BTreeMap<Bytes, KeyValue>,
    watchers: Vec<Watcher>,
    leases: i64,
    puts: u64,
    faults: Faults,
}

struct Watcher {
    id: i64,
    key: Bytes,
    range_end: Bytes,
    events: queue::UnboundedSender<WatchResponse>,
}

/// What becomes of a call.
enum Answer {
    Reply(Bytes),
    Error(&'static str),
    Silence,
}

fn is_turn(every: u64, count: u64) -> bool {
    every > 0 && count.is_multiple_of(every)
}

fn covers(key: &[u8], range_end: &[u8], name: &[u8]) -> bool {
    if range_end.is_empty() { name == key } else { key <= name && name < range_end }
}

impl Store {
    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.revision, ..ResponseHeader::default() })
    }

    fn put(&mut self, request: PutRequest) {
        self.puts += 1;
        if is_turn(self.faults.lose_puts, self.puts) {
            return;
        }
        let kv = KeyValue {
            key: request.key.clone(),
            value: request.value,
            mod_revision: self.revision,
            ..KeyValue::default()
        };
        self.keys.insert(request.key, kv.clone());
        let drops = is_turn(self.faults.drop_events, self.puts);
        let repeats = is_turn(self.faults.repeat_events, self.puts);
        let mut is_first = true;
        for watcher in &self.watchers {
            if !covers(&watcher.key, &watcher.range_end, &kv.key) {
                continue;
            }
            let event = Event { kv: Some(kv.clone()), ..Event::default() };
            let response =
                WatchResponse { watch_id: watcher.id, events: vec![event], ..Default::default() };
            let times = match std::mem::take(&mut is_first) {
                true if drops => 0,
                true if repeats => 2,
                _ => 1,
            };
            for _ in 0..times {
                drop(watcher.events.send(response.clone()));
            }
        }
    }

    fn range(&self, request: &RangeRequest) -> RangeResponse {
        let found =
            self.keys.iter().filter(|(name, _)| covers(&request.key, &request.range_end, name));
        let kvs: Vec<KeyValue> = found.map(|(_, kv)| kv.clone()).collect();
        RangeResponse { header: self.header(), count: kvs.len() as i64, kvs, more: false }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let deleted = i64::from(self.keys.remove(&request.key).is_some());
        self.revision += deleted;
        DeleteRangeResponse { header: self.header(), deleted, ..DeleteRangeResponse::default() }
    }

    fn txn(&mut self, request: TxnRequest) -> TxnResponse {
        let succeeded = request.compare.iter().all(|compare| {
            let Some(compare::TargetUnion::ModRevision(expected)) = compare.target_union else {
                panic!("only revisions are compared here");
            };
            self.keys.get(&compare.key).map_or(0, |kv| kv.mod_revision) == expected
        });
        let branch = if succeeded { request.success } else { request.failure };
        self.revision += i64::from(succeeded);
        let mut responses = Vec::new();
        for op in branch {
            let response = match op.request {
                Some(request_op::Request::RequestPut(put)) => {
                    self.put(put);
                    response_op::Response::ResponsePut(PutResponse::default())
                }
                Some(request_op::Request::RequestRange(range)) => {
                    response_op::Response::ResponseRange(self.range(&range))
                }
                other => panic!("{other:?}"),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: self.header(), succeeded, responses }
    }

    fn unary(&mut self, path: &str, message: Bytes) -> Answer {
        let reply = match path.rsplit('/').next() {
            Some("Put") => {
                let count = self.puts + 1;
                if is_turn(self.faults.refuse_puts, count) {
                    self.puts = count;
                    return Answer::Error("etcdserver: too many requests");
                }
                self.revision += 1;
                self.put(PutRequest::decode(message).unwrap());
                if is_turn(self.faults.hang_puts, count) {
                    return Answer::Silence;
                }
                frame(&PutResponse { header: self.header(), ..PutResponse::default() })
            }
            Some("Range") => frame(&self.range(&RangeRequest::decode(message).unwrap())),
            Some("DeleteRange") => {
                frame(&self.delete(&DeleteRangeRequest::decode(message).unwrap()))
            }
            Some("Txn") => frame(&self.txn(TxnRequest::decode(message).unwrap())),
            Some("LeaseGrant") => {
                self.leases += 1;
                frame(&LeaseGrantResponse { id: self.leases, ttl: 60, ..Default::default() })
            }
            other => panic!("{other:?}"),
        };
        Answer::Reply(reply)
    }
}

async fn connection(socket: TcpStream, store: Shared) {
    socket.set_nodelay(true).unwrap();
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        spawn_local(call(request, respond, Rc::clone(&store)));
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, store: Shared) {
    let path = request.uri().path().to_owned();
    let mut incoming = Incoming { body: request.into_body(), messages: Messages::default() };
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    if path.ends_with("/LeaseKeepAlive") || path.ends_with("/Watch") {
        let Ok(send) = respond.send_response(head, false) else { return };
        if path.ends_with("/Watch") {
            watch(incoming, send, store).await;
        } else {
            keep_alive(incoming, send).await;
        }
        return;
    }
    let Some(message) = incoming.next().await else { return };
    let answer = store.borrow_mut().unary(&path, message);
    let (status, message) = match &answer {
        Answer::Silence => return std::future::pending().await,
        Answer::Reply(_) => ("0", ""),
        Answer::Error(message) => ("8", *message),
    };
    // Whoever hangs up in the middle only harms itself.
    let Ok(mut send) = respond.send_response(head, false) else { return };
    if let Answer::Reply(reply) = answer {
        drop(send.send_data(reply, false));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    drop(send.send_trailers(trailers));
}

async fn keep_alive(mut incoming: Incoming, mut send: SendStream<Bytes>) {
    while let Some(message) = incoming.next().await {
        // Both messages have the id in a field of their own; the time to live is what counts.
        drop(message);
        let reply = LeaseKeepAliveResponse { ttl: 60, ..LeaseKeepAliveResponse::default() };
        if send.send_data(frame(&reply), false).is_err() {
            return;
        }
    }
}

async fn watch(mut incoming: Incoming, mut send: SendStream<Bytes>, store: Shared) {
    let (events, mut arriving) = queue::unbounded_channel();
    loop {
        let response = tokio::select! {
            message = incoming.next() => {
                let Some(message) = message else { return };
                let request = WatchRequest::decode(message).unwrap();
                let Some(RequestUnion::CreateRequest(create)) = request.request_union else {
                    panic!("{request:?}");
                };
                store.borrow_mut().watchers.push(Watcher {
                    id: create.watch_id,
                    key: create.key,
                    range_end: create.range_end,
                    events: events.clone(),
                });
                WatchResponse { watch_id: create.watch_id, created: true, ..Default::default() }
            }
            response = arriving.recv() => response.expect("one sender is ours"),
        };
        if send.send_data(frame(&response), false).is_err() {
            return;
        }
    }
}

struct Incoming {
    body: RecvStream,
    messages: Messages,
}

impl Incoming {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.messages.take().unwrap() {
                return Some(message);
            }
            let chunk: Bytes = self.body.data().await?.ok()?;
            self.body.flow_control().release_capacity(chunk.len()).ok()?;
            self.messages.push(BytesMut::from(&chunk[..]).freeze());
        }
    }
}
