//! Path to handler: one etcd service a file, each of them check, ask the engine, answer. Bytes of
//! protobuf messages come in and go out; how they were framed is the front's business.

pub mod door;
pub mod status;
pub mod stream;

use std::rc::Rc;

use bytes::Bytes;
use cored_proto::Method;

use door::Door;
use status::{Code, Status};
use stream::{Requests, Responses};

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
    /// `--quota-backend-bytes`, as Status reports it.
    pub quota_bytes: i64,
    /// The least seconds a lease can have: etcd's ⌈1.5 × election timeout⌉.
    pub min_lease_ttl_s: i64,
}

/// The API of one core.
#[derive(Debug)]
pub struct Api {
    settings: Settings,
    door: Rc<Door>,
}

impl Api {
    /// The API behind a door. `salt` makes generated lease numbers differ between cores and starts.
    #[must_use]
    pub fn new(settings: Settings, door: Rc<Door>, salt: u64) -> Rc<Api> {
        let _ = salt;
        Rc::new(Api { settings, door })
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
        let _ = (caller, request, &self.door, method);
        Err(Status::fixed(Code::Unimplemented, "not served"))
    }

    /// Serves a call that streams at least one way until it is over; `responses` tells how it ended.
    pub async fn stream(
        self: Rc<Api>,
        method: &'static Method,
        caller: Caller,
        requests: Requests,
        responses: Responses,
    ) {
        let _ = (method, caller, requests);
        responses.end(Err(Status::fixed(Code::Unimplemented, "not served")));
    }
}
