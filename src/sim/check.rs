//! What clients were told, held against what happened. The history (every write in revision order,
//! read from the logs at the end) is folded into the state at each revision; then
//!
//! - revisions have no gaps, and each told write is at its revision, word for word;
//! - every answer is exact at the revision in its header;
//! - an answer's revision is not below any that was told before the request was made, and above it
//!   for a write: with exactness that is linearizability;
//! - watchers heard every event of their range once, in order, whole (`watched`).
//!
//! Transactions are run again by the same code that ran them, on the state before them: what is
//! checked here is order, atomicity and durability, not what a compare means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use cored_proto::mvccpb::KeyValue;
use pb::response_op::Response;
use prost::Message as _;

use super::leases::{Leases, Moment};
use super::watched::Watched;
use crate::engine::{Answer, Error, Reply, Request};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::{Change, Write};
use crate::txn;
use crate::txn::gathered::{Gathered, OwnedRow};

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation(String);

impl Violation {
    pub(super) fn new(what: impl Into<String>) -> Violation {
        Violation(what.into())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One revision of the history: what it wrote, and the lease whose end it was, if it was one's.
#[derive(Clone)]
pub(super) struct Happened {
    pub(super) revision: Revision,
    pub(super) ended: Option<LeaseId>,
    pub(super) writes: Vec<Write>,
}

/// Live rows at one revision.
pub(super) type Rows = BTreeMap<Bytes, OwnedRow>;

/// The state at every revision, from 1 on.
#[derive(Debug, Default)]
pub(super) struct States {
    at: Vec<Rows>,
    pub(super) writes: BTreeMap<Revision, Vec<Write>>,
}

impl States {
    fn new(history: &[Happened]) -> Result<States, Violation> {
        let mut states = States { at: vec![Rows::new(), Rows::new()], writes: BTreeMap::new() };
        for Happened { revision, ended, writes } in history {
            if revision.0 != states.at.len() as i64 {
                return Err(Violation::new(format!(
                    "revision {revision} follows {}",
                    states.at.len() - 1
                )));
            }
            let mut rows = states.at.last().expect("revision 1 at least").clone();
            if let Some(lease) = ended {
                let gone: Vec<&Bytes> = writes.iter().map(|write| &write.key).collect();
                same("keys that go with their lease", &gone, &held(&rows, *lease).collect())?;
            }
            for write in writes {
                apply(&mut rows, *revision, write);
            }
            states.at.push(rows);
            states.writes.insert(*revision, writes.clone());
        }
        Ok(states)
    }

    pub(super) fn at(&self, revision: Revision) -> Result<&Rows, Violation> {
        usize::try_from(revision.0)
            .ok()
            .and_then(|at| self.at.get(at))
            .ok_or_else(|| Violation::new(format!("revision {revision} was told and is gone")))
    }
}

fn apply(rows: &mut Rows, at: Revision, write: &Write) {
    match &write.change {
        Change::Put { value, create, version, lease } => {
            let row = OwnedRow {
                value: value.clone(),
                create: *create,
                modified: at,
                version: *version,
                lease: *lease,
            };
            rows.insert(write.key.clone(), row);
        }
        Change::Delete => {
            rows.remove(&write.key);
        }
    }
}

/// A row as clients see it.
pub(super) fn to_kv(key: &Bytes, row: &OwnedRow) -> KeyValue {
    KeyValue {
        key: key.clone(),
        create_revision: row.create.0,
        mod_revision: row.modified.0,
        version: row.version,
        value: row.value.clone(),
        lease: row.lease.0,
    }
}

/// The lease that a request is about.
fn lease_of(request: &Request) -> Option<LeaseId> {
    match request {
        Request::LeaseGrant { id, .. }
        | Request::LeaseRevoke { id }
        | Request::LeaseKeepAlive { id }
        | Request::LeaseTimeToLive { id, .. } => Some(*id),
        Request::Put(put) if put.lease != 0 => Some(LeaseId(put.lease)),
        _ => None,
    }
}

/// The keys that a lease holds, in order.
fn held(rows: &Rows, lease: LeaseId) -> impl Iterator<Item = &Bytes> {
    rows.iter().filter(move |(_, row)| row.lease == lease).map(|(key, _)| key)
}

struct Asked {
    request: Request,
    when: Moment,
    /// How long the lease that it is about was to live.
    lease_until_ms: Option<u64>,
    /// The newest revision that anybody had been told when it was asked.
    floor: Revision,
    answer: Option<Answer>,
}

/// Collects what clients ask and are told.
#[derive(Default)]
pub(super) struct Checker {
    asked: BTreeMap<u64, Asked>,
    watched: BTreeMap<u64, Watched>,
    newest_told: Revision,
    newest_compaction: Revision,
    leases: Leases,
    /// How much was asked and told so far.
    order: u64,
}

impl Checker {
    pub(super) fn asked(&mut self, id: u64, request: Request, now_ms: u64) {
        let when = self.moment(now_ms);
        match request {
            Request::Compact { revision, .. } => {
                self.newest_compaction = self.newest_compaction.max(Revision(revision));
            }
            Request::LeaseRevoke { id } => self.leases.revoke_asked(id, when),
            _ => {}
        }
        let lease_until_ms = lease_of(&request).and_then(|lease| self.leases.until_ms(lease));
        let floor = self.newest_told;
        self.asked.insert(id, Asked { request, when, lease_until_ms, floor, answer: None });
    }

    fn moment(&mut self, now_ms: u64) -> Moment {
        self.order += 1;
        Moment { now_ms, order: self.order }
    }

    pub(super) fn request(&self, id: u64) -> Option<&Request> {
        self.asked.get(&id).map(|asked| &asked.request)
    }

    /// Forgets a request whose outcome nobody was told.
    pub(super) fn lost(&mut self, id: u64, now_ms: u64) {
        let now = self.moment(now_ms);
        if let Some(Asked { request: Request::LeaseRevoke { id }, .. }) = self.asked.remove(&id) {
            self.leases.revoke_ended(id, now);
        }
    }

    pub(super) fn newest_told(&self) -> Revision {
        self.newest_told
    }

    pub(super) fn told(
        &mut self,
        id: u64,
        answer: Result<Answer, Error>,
        now_ms: u64,
    ) -> Result<(), Violation> {
        self.told_of_lease(id, &answer, now_ms)?;
        match answer {
            Ok(answer) => {
                let asked = self.asked.get_mut(&id).expect("asked before");
                if answer.revision < asked.floor {
                    return Err(Violation::new(format!(
                        "{:?} was answered at {} though {} was told before",
                        asked.request, answer.revision, asked.floor
                    )));
                }
                self.newest_told = self.newest_told.max(answer.revision);
                asked.answer = Some(answer);
            }
            Err(Error::Refused(_) | Error::LeaseExists | Error::NoLeader) => self.lost(id, now_ms),
            Err(error) => return Err(Violation::new(format!("answered with {error}"))),
        }
        Ok(())
    }

    fn told_of_lease(
        &mut self,
        id: u64,
        answer: &Result<Answer, Error>,
        now_ms: u64,
    ) -> Result<(), Violation> {
        let now = self.moment(now_ms);
        let Asked { request, when, lease_until_ms, .. } = &self.asked[&id];
        let Some(lease) = lease_of(request) else { return Ok(()) };
        let left_s = match (request, answer.as_ref().map(|answer| &answer.reply)) {
            (Request::LeaseRevoke { .. }, Ok(_)) => {
                self.leases.revoke_ended(lease, now);
                return Ok(());
            }
            (
                Request::LeaseGrant { .. } | Request::LeaseKeepAlive { .. },
                Ok(Reply::Ttl(ttl_s @ 1..)),
            ) => {
                self.leases.lives(lease, *ttl_s, *when);
                return Ok(());
            }
            (Request::LeaseKeepAlive { .. }, Ok(_)) => None,
            (Request::LeaseTimeToLive { .. }, Ok(Reply::TimeToLive { ttl_s, .. })) => {
                (*ttl_s >= 0).then_some(*ttl_s)
            }
            (Request::Put(_), Err(Error::Refused(txn::Refusal::LeaseNotFound))) => None,
            _ => return Ok(()),
        };
        self.leases.told(lease, left_s, *lease_until_ms, *when, now)
    }

    pub(super) fn watch_opened(&mut self, stream: u64, create: pb::WatchCreateRequest) {
        self.watched.insert(stream, Watched::new(create));
    }

    pub(super) fn watch_closed(&mut self, stream: u64) {
        if let Some(watched) = self.watched.get_mut(&stream) {
            watched.close();
        }
    }

    pub(super) fn watch_cancel_asked(&mut self, stream: u64) {
        if let Some(watched) = self.watched.get_mut(&stream) {
            watched.cancel_asked();
        }
    }

    pub(super) fn watched(
        &mut self,
        stream: u64,
        response: pb::WatchResponse,
    ) -> Result<(), Violation> {
        // The last words of a stream that was just closed may still come.
        let Some(watched) = self.watched.get_mut(&stream) else { return Ok(()) };
        if let Some(header) = &response.header {
            self.newest_told = self.newest_told.max(Revision(header.revision));
        }
        watched.heard(response)
    }

    /// Everything is at rest: watchers must have heard everything up to `watermark`.
    pub(super) fn at_rest(&mut self, watermark: Revision) -> Result<(), Violation> {
        self.newest_told = self.newest_told.max(watermark);
        self.watched.values_mut().try_for_each(|watched| watched.at_rest(watermark))
    }

    /// Holds everything against what happened.
    pub(super) fn finish(&self, history: &[Happened]) -> Result<(), Violation> {
        let states = States::new(history)?;
        states.at(self.newest_told)?;
        let mut taken = BTreeSet::new();
        for asked in self.asked.values() {
            if let Some(answer) = &asked.answer {
                check(asked, answer, &states, &mut taken).map_err(|violation| {
                    Violation::new(format!("{:?}: {violation}\n{answer:?}", asked.request))
                })?;
            }
        }
        let compacted = self.newest_compaction;
        self.watched.values().try_for_each(|watched| watched.finish(&states, compacted))
    }
}

fn same<T: PartialEq + fmt::Debug>(what: &str, told: &T, happened: &T) -> Result<(), Violation> {
    if told == happened {
        return Ok(());
    }
    Err(Violation::new(format!("{what}: told {told:?}, happened {happened:?}")))
}

/// The request as a transaction, if it is one.
fn as_txn(request: &Request) -> Option<pb::TxnRequest> {
    use pb::request_op::Request as Op;
    let op = match request {
        Request::Txn(txn) => return Some(txn.clone()),
        Request::Put(put) => Op::RequestPut(put.clone()),
        Request::DeleteRange(delete) => Op::RequestDeleteRange(delete.clone()),
        _ => return None,
    };
    let success = vec![pb::RequestOp { request: Some(op) }];
    Some(pb::TxnRequest { success, ..Default::default() })
}

/// The answer as that to a transaction.
fn as_response(reply: &Reply) -> Option<pb::TxnResponse> {
    let response = match reply {
        Reply::Txn(txn) => return Some(txn.clone()),
        Reply::Put(put) => Response::ResponsePut(put.clone()),
        Reply::DeleteRange(delete) => Response::ResponseDeleteRange(delete.clone()),
        _ => return None,
    };
    let responses = vec![pb::ResponseOp { response: Some(response) }];
    Some(pb::TxnResponse { succeeded: true, responses, ..Default::default() })
}

fn wrote(response: &pb::TxnResponse) -> bool {
    response.responses.iter().any(|op| match &op.response {
        Some(Response::ResponsePut(_)) => true,
        Some(Response::ResponseDeleteRange(delete)) => delete.deleted > 0,
        Some(Response::ResponseTxn(txn)) => wrote(txn),
        _ => false,
    })
}

fn check(
    asked: &Asked,
    answer: &Answer,
    states: &States,
    taken: &mut BTreeSet<Revision>,
) -> Result<(), Violation> {
    let at = answer.revision;
    if let (Some(txn), Some(told)) = (as_txn(&asked.request), as_response(&answer.reply)) {
        return check_txn(asked, &txn, told, at, states, taken);
    }
    match (&asked.request, &answer.reply) {
        (Request::Range(request), Reply::Range(reply)) => {
            let read_at = if request.revision > 0 { Revision(request.revision) } else { at };
            let mut told = pb::RangeResponse::decode(&reply.kvs[..]).expect("well encoded");
            (told.count, told.more) = (reply.count, reply.more);
            same("range", &told, &range(request, states.at(read_at)?))
        }
        (Request::LeaseRevoke { id }, _) => {
            same("keys of a revoked lease", &held(states.at(at)?, *id).count(), &0)
        }
        (Request::LeaseTimeToLive { id, .. }, Reply::TimeToLive { ttl_s, keys, .. }) => {
            let held: Vec<Bytes> = held(states.at(at)?, *id).cloned().collect();
            // A lease that is gone, of which no keys are told, holds none.
            let what = if *ttl_s < 0 { "keys of a lease that is gone" } else { "keys of a lease" };
            same(what, keys, &held)
        }
        (Request::HashKv { .. }, Reply::Hash { hash, compact_revision, hash_revision }) => {
            let (at, compacted) = (Revision(*hash_revision), Revision(*compact_revision));
            same("digest", hash, &digest(states, at, compacted))
        }
        _ => states.at(at).map(drop),
    }
}

fn check_txn(
    asked: &Asked,
    txn: &pb::TxnRequest,
    mut told: pb::TxnResponse,
    at: Revision,
    states: &States,
    taken: &mut BTreeSet<Revision>,
) -> Result<(), Violation> {
    let wrote = wrote(&told);
    let before = if wrote { at.prev() } else { at };
    if wrote && at <= asked.floor {
        return Err(Violation::new(format!("written at {at}, not above {}", asked.floor)));
    }
    if wrote && !taken.insert(at) {
        return Err(Violation::new(format!("two writes at {at}")));
    }
    let mut model = Gathered {
        newest: states.at(before)?.clone(),
        leases: (1..=3).map(LeaseId).collect(),
        current: before,
        ..Gathered::default()
    };
    for (_, revision) in txn::Footprint::of(txn).past {
        if revision <= before {
            model.past.insert(revision, states.at(revision)?.clone());
        }
    }
    let plan = txn::plan(&model, txn)
        .map_err(|refusal| Violation::new(format!("it should have been refused: {refusal}")))?;
    let mut executed = txn::execute(&mut model, txn, &plan, &mut || at);
    strip_headers(&mut told);
    strip_headers(&mut executed.response);
    same("answer", &told, &executed.response)?;
    if wrote {
        same("writes", &states.writes.get(&at), &Some(&model.writes))?;
    }
    Ok(())
}

fn strip_headers(response: &mut pb::TxnResponse) {
    response.header = None;
    for op in &mut response.responses {
        match &mut op.response {
            Some(Response::ResponseRange(range)) => range.header = None,
            Some(Response::ResponsePut(put)) => put.header = None,
            Some(Response::ResponseDeleteRange(delete)) => delete.header = None,
            Some(Response::ResponseTxn(txn)) => strip_headers(txn),
            None => {}
        }
    }
}

fn range(request: &pb::RangeRequest, rows: &Rows) -> pb::RangeResponse {
    let keys = KeyRange::from_request(&request.key, &request.range_end);
    let inside = rows.iter().filter(|(key, _)| keys.contains(key));
    let kvs: Vec<KeyValue> = inside.map(|(key, row)| to_kv(key, row)).collect();
    let mut response = pb::RangeResponse { count: kvs.len() as i64, ..Default::default() };
    if !request.count_only {
        let passes =
            |kv: &KeyValue| txn::passes(request, Revision(kv.create_revision), modified(kv));
        response.kvs = kvs;
        response.kvs.retain(passes);
        txn::arrange(request, &mut response);
    }
    response
}

fn modified(kv: &KeyValue) -> Revision {
    Revision(kv.mod_revision)
}

/// HashKV at a revision, after a compaction: of what is not above that, the values that are left count.
fn digest(states: &States, at: Revision, compacted: Revision) -> u32 {
    let mut newest = BTreeMap::new();
    for (revision, writes) in states.writes.range(..=at) {
        newest.extend((0_u64..).zip(writes).map(|(sub, write)| (&write.key, (*revision, sub))));
    }
    let mut crc = crc32c::crc32c(b"key");
    for (revision, writes) in states.writes.range(..=at) {
        for (sub, write) in (0_u64..).zip(writes) {
            let is_left = newest[&write.key] == (*revision, sub) && write.change != Change::Delete;
            if *revision <= compacted && !is_left {
                continue;
            }
            let mut record = revision.0.to_be_bytes().to_vec();
            record.push(b'_');
            record.extend_from_slice(&sub.to_be_bytes());
            let kv = match &write.change {
                Change::Put { value, create, version, lease } => KeyValue {
                    key: write.key.clone(),
                    create_revision: create.0,
                    mod_revision: revision.0,
                    version: *version,
                    value: value.clone(),
                    lease: lease.0,
                },
                Change::Delete => {
                    record.push(b't');
                    KeyValue { key: write.key.clone(), ..Default::default() }
                }
            };
            record.extend_from_slice(&kv.encode_to_vec());
            crc = crc32c::crc32c_append(crc, &record);
        }
    }
    crc
}
