//! Waiting in line: what locks and elections share. Everybody who wants something puts a key under
//! its prefix, held by a lease; the oldest key has it; whoever comes later watches the key just
//! before its own, so that a departure wakes one and not all. The keys are etcd's client library's,
//! so clients that wait by themselves stand in the same line.

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use cored_proto::mvccpb::{Event, KeyValue, event::EventType};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use prost::Message;

use super::door::{Door, WatchStream};
use super::status::{Code, Status};
use super::{Api, check};
use crate::engine::Request;
use crate::keys::{LeaseId, Revision};
use crate::txn::cost;

/// The seconds of a lease that is made for a caller who has none.
const SESSION_TTL_S: i64 = 60;

/// Everything under `name` + "/".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    prefix: Bytes,
}

impl Line {
    pub(super) fn new(name: &[u8]) -> Line {
        Line { prefix: [name, b"/"].concat().into() }
    }

    /// The key that stands for a lease: its number in hexadecimal, the sign in front.
    pub(super) fn place(&self, lease: LeaseId) -> Bytes {
        let sign = if lease.0 < 0 { "-" } else { "" };
        let hex = format!("{sign}{:x}", lease.0.unsigned_abs());
        [&self.prefix[..], hex.as_bytes()].concat().into()
    }

    /// All places, as `key` and `range_end`.
    pub(super) fn range(&self) -> (Bytes, Bytes) {
        let mut end = self.prefix.to_vec();
        // The slash at the end has a byte after it, so the first key outside is easily made.
        *end.last_mut().expect("a slash at least") += 1;
        (self.prefix.clone(), end.into())
    }

    /// Asks for the oldest place.
    pub(super) fn first(&self) -> pb::RangeRequest {
        self.by_creation(SortOrder::Ascend)
    }

    /// Asks for the youngest place among those made at `max_create` or before.
    fn last(&self, max_create: Revision) -> pb::RangeRequest {
        let max_create_revision = max_create.0;
        pb::RangeRequest { max_create_revision, ..self.by_creation(SortOrder::Descend) }
    }

    fn by_creation(&self, order: SortOrder) -> pb::RangeRequest {
        let (key, range_end) = self.range();
        pb::RangeRequest {
            key,
            range_end,
            limit: 1,
            sort_order: order as i32,
            sort_target: SortTarget::Create as i32,
            ..Default::default()
        }
    }
}

/// Holds if the key was made at that revision; at 0, if there is no such key.
pub(super) fn made_at(key: &Bytes, create_revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(create_revision)),
    }
}

/// The key-value pair that the operation at `index` read, if it read one.
pub(super) fn read_at(response: &pb::TxnResponse, index: usize) -> Option<&KeyValue> {
    match response.responses.get(index)?.response.as_ref()? {
        pb::response_op::Response::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

impl Api {
    /// The caller's lease, or a new one.
    pub(super) async fn session(&self, lease: LeaseId) -> Result<LeaseId, Status> {
        if lease.is_some() {
            return Ok(lease);
        }
        Ok(LeaseId(self.grant(LeaseId::NONE, SESSION_TTL_S).await?.id))
    }

    /// Runs a transaction as if it came from a client.
    pub(super) async fn checked_txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.within_quota(cost::txn(&txn)).await?;
        check::txn(&txn, self.settings.max_txn_ops)?;
        check::size(txn.encoded_len(), self.settings.max_request_bytes)?;
        self.txn(txn).await
    }

    /// The first key of a range, and the revision at which it was looked for.
    pub(super) async fn read_one(
        &self,
        range: pb::RangeRequest,
    ) -> Result<(Revision, Option<KeyValue>), Status> {
        let (revision, reply) = self.ask_range(range).await?;
        let response = pb::RangeResponse::decode(reply.kvs).expect("the engine encodes well");
        Ok((revision, response.kvs.into_iter().next()))
    }

    /// Waits until nobody is left in the line who came before `mine`, a create revision.
    pub(super) async fn my_turn(&self, line: &Line, mine: Revision) -> Result<(), Status> {
        loop {
            let (revision, before) = self.read_one(line.last(mine.prev())).await?;
            let Some(before) = before else { return Ok(()) };
            let mut changes = self.changes(before.key, Bytes::new(), revision.next(), true);
            // When the watch breaks off because its start was compacted, looking again tells more.
            while let Some((_, events)) = changes.next().await? {
                if events.iter().any(|event| event.r#type() == EventType::Delete) {
                    break;
                }
            }
        }
    }

    /// Watches a range from `start` on.
    pub(super) fn changes(
        &self,
        key: Bytes,
        range_end: Bytes,
        start: Revision,
        only_deletes: bool,
    ) -> Changes {
        let stream = self.door.watch();
        let filters = if only_deletes { vec![FilterType::Noput as i32] } else { Vec::new() };
        let start_revision = start.0;
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            filters,
            ..Default::default()
        };
        stream.send(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        Changes { stream }
    }
}

/// What happens to the keys of a range.
pub(super) struct Changes {
    stream: WatchStream,
}

impl Changes {
    /// The next events, with the header they came with; `None` when their history was compacted
    /// before they could be read.
    pub(super) async fn next(
        &mut self,
    ) -> Result<Option<(pb::ResponseHeader, Vec<Event>)>, Status> {
        loop {
            let response = self.stream.next().await.ok_or(Status::STOPPED)?;
            self.stream.sent(response.len());
            let response = pb::WatchResponse::decode(response).expect("the hub encodes well");
            if response.compact_revision != 0 {
                return Ok(None);
            }
            if response.canceled {
                let message = response.cancel_reason.into();
                return Err(Status { code: Code::Unknown, message });
            }
            if !response.events.is_empty() {
                return Ok(Some((response.header.unwrap_or_default(), response.events)));
            }
        }
    }
}

/// Leaves the line for a caller who goes while it waits: without this, nobody behind it would have
/// a turn before its lease ends.
pub(super) struct Leave<'a> {
    door: &'a Door,
    request: Option<Request>,
}

impl<'a> Leave<'a> {
    /// Asks `request` of the engine when dropped, unless the caller stays.
    pub(super) fn unless_it_stays(door: &'a Door, request: Request) -> Leave<'a> {
        Leave { door, request: Some(request) }
    }

    /// The caller keeps its place.
    pub(super) fn stay(mut self) {
        self.request = None;
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            self.door.tell(request);
        }
    }
}
