//! Path to handler: one etcd service a file, each of them check, ask the engine, answer. Bytes of
//! protobuf messages come in and go out; how they were framed is the front's business.

pub mod backup;
pub mod door;
pub mod pages;
pub mod status;
pub mod stream;

mod check;

mod auth;
mod cluster;
mod election;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod quota;
mod turn;
mod watch;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cored_proto::Method;
use cored_proto::etcdserverpb::ResponseHeader;
use futures_lite::future;
use prost::Message;

use crate::engine::{Answer, Reply, Request};
use crate::keys::Revision;
use crate::metrics;
use crate::order::Usage;
use backup::Source;
use door::Door;
use status::{Code, Status};
use stream::{Requests, Responses};

/// The etcd version whose behaviour this is: clients look at it to see what they may ask.
pub const ETCD_VERSION: &str = "3.7.3";
/// The cluster's and the storage's version: etcd's, without the patch level.
pub const ETCD_CLUSTER_VERSION: &str = "3.7.0";

/// What a call tells about its caller, beside the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The `token` metadata, or what an `Authorization` header carries.
    pub token: Option<String>,
    /// Whether the caller refuses to be served without a leader (`hasleader: true`).
    pub requires_leader: bool,
    /// The `client-api-version` metadata.
    pub client_api_version: Option<String>,
    /// Whether the call came through the JSON gateway.
    pub json: bool,
}

/// What the API must know of its member. The same on all cores.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--name`.
    pub name: String,
    /// `--initial-advertise-peer-urls`.
    pub peer_urls: Vec<String>,
    /// `--advertise-client-urls`.
    pub client_urls: Vec<String>,
    /// `--quota-backend-bytes`, as Status reports it; negative for none.
    pub quota_bytes: i64,
    /// How many bytes the store has in use.
    pub usage: Arc<Usage>,
    /// The least seconds a lease can have: etcd's ⌈1.5 × election timeout⌉.
    pub min_lease_ttl_s: i64,
}

/// The API of one core.
pub struct Api {
    settings: Settings,
    door: Rc<Door>,
    /// Where backups come from; a member without one has none.
    source: Option<Rc<dyn Source>>,
    /// This core's counters.
    metrics: Arc<metrics::Core>,
    /// Where the sequence of generated lease numbers stands.
    leases: Cell<u64>,
}

impl Api {
    /// The API behind a door. `salt` makes generated lease numbers differ between cores and starts.
    #[must_use]
    pub fn new(
        settings: Settings,
        door: Rc<Door>,
        source: Option<Rc<dyn Source>>,
        metrics: Arc<metrics::Core>,
        salt: u64,
    ) -> Rc<Api> {
        Rc::new(Api { settings, door, source, metrics, leases: Cell::new(salt) })
    }

    /// What the API knows of its member.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Answers a call with one request and one response, both encoded messages.
    ///
    /// # Errors
    /// What the client gets instead.
    pub async fn unary(
        self: Rc<Api>,
        method: &'static Method,
        caller: Caller,
        request: Bytes,
    ) -> Result<Bytes, Status> {
        self.metrics.clients.count(caller.client_api_version.as_deref(), false);
        match (method.service, method.name) {
            ("etcdserverpb.KV", "Put") => self.put(request).await,
            ("etcdserverpb.KV", "Range") => self.range(request).await,
            // In a box, so that the futures of puts and ranges stay as small as they are.
            _ => Box::pin(self.seldom(method, caller, request)).await,
        }
    }

    async fn seldom(
        self: Rc<Api>,
        method: &'static Method,
        caller: Caller,
        request: Bytes,
    ) -> Result<Bytes, Status> {
        match method.service {
            "etcdserverpb.KV" => self.kv(method, request).await,
            "etcdserverpb.Lease" => self.lease(method, request).await,
            "etcdserverpb.Cluster" => self.cluster(method, &caller, request).await,
            "etcdserverpb.Maintenance" => self.maintenance(method, request).await,
            "etcdserverpb.Auth" => self.auth(method, request).await,
            "v3lockpb.Lock" => self.lock_service(method, request).await,
            "v3electionpb.Election" => self.election(method, request).await,
            "grpc.health.v1.Health" => health::unary(method, request),
            _ => Err(Status::unimplemented(method.name)),
        }
    }

    /// Serves a call that streams at least one way until it is over; `responses` tells how it ended.
    /// The call is over, too, when nobody reads its responses any more.
    pub async fn stream(
        self: Rc<Api>,
        method: &'static Method,
        caller: Caller,
        mut requests: Requests,
        responses: Responses,
    ) {
        self.metrics.clients.count(caller.client_api_version.as_deref(), true);
        let work = async {
            match (method.service, method.name) {
                ("etcdserverpb.Watch", "Watch") => {
                    self.watch(&caller, &mut requests, &responses).await
                }
                ("etcdserverpb.Lease", "LeaseKeepAlive") => {
                    self.lease_keep_alive(&mut requests, &responses).await
                }
                ("etcdserverpb.KV", "RangeStream") => {
                    self.range_stream(only(&mut requests).await?, &responses).await
                }
                ("etcdserverpb.Maintenance", "Snapshot") => {
                    self.snapshot(only(&mut requests).await?, &responses).await
                }
                ("v3electionpb.Election", "Observe") => {
                    self.observe(only(&mut requests).await?, &responses).await
                }
                ("grpc.health.v1.Health", "Watch") => {
                    health::watch(only(&mut requests).await?, &responses).await
                }
                _ => Err(Status::unimplemented(method.name)),
            }
        };
        let gone = async {
            responses.closed().await;
            Ok(())
        };
        let end = future::or(work, gone).await;
        responses.end(end);
    }

    /// The confirmed current revision, for answers that come with it and with nothing else of the
    /// store's.
    async fn current(&self) -> Result<Revision, Status> {
        Ok(self.door.ask(Request::ReadIndex).await?.revision)
    }

    /// Asks for something whose answer is that it was done.
    async fn done(&self, request: Request) -> Result<ResponseHeader, Status> {
        let Answer { revision, reply: Reply::Done } = self.door.ask(request).await? else {
            unreachable!("what is only done is answered as done")
        };
        Ok(self.door.header(revision.0))
    }
}

/// The one request of a call that streams its responses only.
async fn only<M: Message + Default>(requests: &mut Requests) -> Result<M, Status> {
    match requests.next().await {
        Some(request) => decode_streamed(request?),
        None => Err(Status::NO_REQUEST),
    }
}

/// A request of a unary call.
fn decode<M: Message + Default>(request: Bytes) -> Result<M, Status> {
    M::decode(request).map_err(|error| malformed("grpc: error unmarshalling request", &error))
}

/// A message of a call that streams: grpc-go has other words for the same mistake there.
fn decode_streamed<M: Message + Default>(request: Bytes) -> Result<M, Status> {
    let what = "grpc: failed to unmarshal the received message";
    M::decode(request).map_err(|error| malformed(what, &error))
}

fn malformed(what: &str, error: &prost::DecodeError) -> Status {
    // prost tells its mistakes apart by text only. Go has one text for all of them but this one.
    let why = if error.to_string().contains("UTF-8") {
        "string field contains invalid UTF-8"
    } else {
        "proto: cannot parse invalid wire-format data"
    };
    Status { code: Code::Internal, message: format!("{what}: {why}").into() }
}

/// A message in a buffer of exactly its size.
fn encode(message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(message.encoded_len());
    message.encode(&mut buffer).expect("a BytesMut grows");
    buffer.freeze()
}

#[cfg(test)]
mod tests;
