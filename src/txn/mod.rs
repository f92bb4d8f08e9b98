//! Compare, then, else: what a transaction does to a state, in etcd's order and words.
//!
//! A put and a delete are transactions of one operation. [`plan`] settles everything that can fail
//! before anything changes: which branches run (all compares, nested ones too, look at the state
//! before the transaction), then the checks of the operations on those branches. [`execute`] cannot
//! fail. Where the state lives (one shard, or rows gathered from several) is behind [`State`].

pub mod cost;
pub mod gathered;

use std::collections::BTreeSet;

use cored_proto::etcdserverpb as pb;
use cored_proto::mvccpb::KeyValue;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;

use crate::keys::{KeyRange, LeaseId, Revision};

/// A key's version, borrowed from wherever it lives.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// Revision at which the key came into being.
    pub create: Revision,
    /// Revision of this version.
    pub modified: Revision,
    /// Versions since the key came into being, this one included.
    pub version: i64,
    /// The lease that holds the key, or none.
    pub lease: LeaseId,
}

impl Row<'_> {
    /// The row as clients see it.
    #[must_use]
    pub fn to_kv(&self) -> KeyValue {
        KeyValue {
            key: self.key.to_vec().into(),
            create_revision: self.create.0,
            mod_revision: self.modified.0,
            version: self.version,
            value: self.value.to_vec().into(),
            lease: self.lease.0,
        }
    }
}

/// What a transaction reads and changes: the newest state, with what came before it in the order.
pub trait State {
    /// The newest live version of a key.
    fn get(&self, key: &[u8]) -> Option<Row<'_>>;
    /// Visits the live keys of a range in order, as of `at` or newest, until `visit` says no more.
    fn scan(&self, range: &KeyRange, at: Option<Revision>, visit: &mut dyn FnMut(Row<'_>) -> bool);
    /// How many live keys a range holds.
    fn count(&self, range: &KeyRange, at: Option<Revision>) -> i64;
    /// Whether a lease exists.
    fn has_lease(&self, lease: LeaseId) -> bool;
    /// History below this revision is gone.
    fn compacted(&self) -> Revision;
    /// The newest revision that a client can know of.
    fn current(&self) -> Revision;
    /// Writes a version as sub-revision `sub` of `at`.
    fn put(&mut self, at: Revision, sub: u32, key: &[u8], value: &[u8], lease: LeaseId);
    /// Writes a tombstone.
    fn delete(&mut self, at: Revision, sub: u32, key: &[u8]);
}

/// Why a transaction (or a single operation) is refused. It has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// `ignore_value` or `ignore_lease` on an absent key.
    #[error("key not found")]
    KeyNotFound,
    /// A put names a lease that does not exist.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A read at a revision that was given up.
    #[error("required revision has been compacted")]
    Compacted,
    /// A read at a revision that does not exist yet.
    #[error("required revision is a future revision")]
    FutureRevision,
}

/// Which branch of each transaction runs, in the order in which they are met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    path: Vec<bool>,
}

/// Decides the branches and checks the operations on them.
///
/// # Errors
/// The [`Refusal`] that etcd gives for the first operation that cannot run; puts are checked
/// before ranges.
pub fn plan(state: &impl State, txn: &pb::TxnRequest) -> Result<Plan, Refusal> {
    let mut path = Vec::new();
    choose(state, txn, &mut path);
    let mut deleted = Vec::new();
    check_puts(state, txn, &mut path.iter(), &mut deleted)?;
    check_ranges(state, txn, &mut path.iter())?;
    Ok(Plan { path })
}

/// The outcome of an executed transaction.
#[derive(Debug)]
pub struct Executed {
    /// The answer. Headers of operations that ran before the first write hold revision 0 until
    /// [`fill_headers`] knows better.
    pub response: pb::TxnResponse,
    /// The revision it took, if it wrote.
    pub revision: Option<Revision>,
}

/// Runs the planned branches. `take` is called once, at the first write, for its revision.
pub fn execute(
    state: &mut impl State,
    txn: &pb::TxnRequest,
    plan: &Plan,
    take: &mut dyn FnMut() -> Revision,
) -> Executed {
    let mut run = Run { state, take, revision: None, sub: 0 };
    let response = run.txn(txn, &mut plan.path.iter());
    Executed { response, revision: run.revision }
}

/// Puts `begin`, the revision before the transaction, into the headers of the operations that ran
/// before its first write, as etcd does.
pub fn fill_headers(response: &mut pb::TxnResponse, begin: Revision) {
    for op in &mut response.responses {
        let header = match &mut op.response {
            Some(Response::ResponseRange(range)) => &mut range.header,
            Some(Response::ResponsePut(put)) => &mut put.header,
            Some(Response::ResponseDeleteRange(delete)) => &mut delete.header,
            Some(Response::ResponseTxn(txn)) => {
                fill_headers(txn, begin);
                continue;
            }
            None => continue,
        };
        if let Some(header) = header
            && header.revision == 0
        {
            header.revision = begin.0;
        }
    }
}

/// The key ranges a transaction may touch on any branch, with its compares, and the leases its
/// puts name: what must be in one place, or latched, to run it.
#[derive(Default, Debug, Clone)]
pub struct Footprint {
    /// Ranges that are read or written at the newest state.
    pub ranges: Vec<KeyRange>,
    /// Ranges that are only read at an old revision.
    pub past: Vec<(KeyRange, Revision)>,
    /// Leases that puts name.
    pub leases: Vec<LeaseId>,
    /// Whether any branch holds a put or a delete.
    pub writes: bool,
}

impl Footprint {
    /// The footprint of `txn`.
    #[must_use]
    pub fn of(txn: &pb::TxnRequest) -> Footprint {
        let mut footprint = Footprint::default();
        footprint.add(txn);
        footprint
    }

    fn add(&mut self, txn: &pb::TxnRequest) {
        for compare in &txn.compare {
            self.ranges.push(KeyRange::from_request(&compare.key, &compare.range_end));
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    let keys = KeyRange::from_request(&range.key, &range.range_end);
                    match range.revision {
                        ..=0 => self.ranges.push(keys),
                        at => self.past.push((keys, Revision(at))),
                    }
                }
                Some(Request::RequestPut(put)) => {
                    self.writes = true;
                    self.ranges.push(KeyRange::single(&put.key));
                    if put.lease != 0 {
                        self.leases.push(LeaseId(put.lease));
                    }
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    self.writes = true;
                    self.ranges.push(KeyRange::from_request(&delete.key, &delete.range_end));
                }
                Some(Request::RequestTxn(nested)) => self.add(nested),
                None => {}
            }
        }
    }
}

fn choose(state: &impl State, txn: &pb::TxnRequest, path: &mut Vec<bool>) {
    let succeeded = txn.compare.iter().all(|compare| holds(state, compare));
    path.push(succeeded);
    for op in branch(txn, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(state, nested, path);
        }
    }
}

fn branch(txn: &pb::TxnRequest, succeeded: bool) -> &[pb::RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Whether every key in the compared range satisfies the comparison. An empty range is one absent
/// key: its numbers are 0, and no comparison of its value holds.
fn holds(state: &impl State, compare: &pb::Compare) -> bool {
    let range = KeyRange::from_request(&compare.key, &compare.range_end);
    let (mut any, mut all) = (false, true);
    state.scan(&range, None, &mut |row| {
        any = true;
        all = row_holds(compare, Some(&row));
        all
    });
    if any { all } else { row_holds(compare, None) }
}

fn row_holds(compare: &pb::Compare, row: Option<&Row<'_>>) -> bool {
    let union = compare.target_union.as_ref();
    let number = |mine: fn(&Row<'_>) -> i64, theirs: Option<i64>| {
        row.map_or(0, mine).cmp(&theirs.unwrap_or(0))
    };
    let ordering = match compare.target() {
        CompareTarget::Value => match (row, union) {
            (None, _) => return false,
            (Some(row), Some(TargetUnion::Value(value))) => row.value.cmp(value.as_ref()),
            // A value that was not given is an empty one, as a number that was not given is 0.
            (Some(row), _) => row.value.cmp(&[]),
        },
        CompareTarget::Version => number(
            |row| row.version,
            match union {
                Some(TargetUnion::Version(version)) => Some(*version),
                _ => None,
            },
        ),
        CompareTarget::Create => number(
            |row| row.create.0,
            match union {
                Some(TargetUnion::CreateRevision(revision)) => Some(*revision),
                _ => None,
            },
        ),
        CompareTarget::Mod => number(
            |row| row.modified.0,
            match union {
                Some(TargetUnion::ModRevision(revision)) => Some(*revision),
                _ => None,
            },
        ),
        CompareTarget::Lease => number(
            |row| row.lease.0,
            match union {
                Some(TargetUnion::Lease(lease)) => Some(*lease),
                _ => None,
            },
        ),
    };
    match compare.result() {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}

/// Whether a put may run on `state`.
///
/// # Errors
/// [`Refusal::KeyNotFound`], [`Refusal::LeaseNotFound`].
pub fn check_put(state: &impl State, put: &pb::PutRequest) -> Result<(), Refusal> {
    if (put.ignore_value || put.ignore_lease) && state.get(&put.key).is_none() {
        return Err(Refusal::KeyNotFound);
    }
    let lease = LeaseId(put.lease);
    if lease.is_some() && !state.has_lease(lease) {
        return Err(Refusal::LeaseNotFound);
    }
    Ok(())
}

fn check_puts(
    state: &impl State,
    txn: &pb::TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
    deleted: &mut Vec<KeyRange>,
) -> Result<(), Refusal> {
    let succeeded = *path.next().expect("one choice for each transaction");
    for op in branch(txn, succeeded) {
        match &op.request {
            Some(Request::RequestPut(put)) => {
                check_put(state, put)?;
                // The duplicate check reads range_end "\0" as etcd does, which is not "from key
                // on". So a put may follow a delete of its key, and then there is nothing to keep.
                let gone = deleted.iter().any(|range| range.contains(&put.key));
                if gone && (put.ignore_value || put.ignore_lease) {
                    return Err(Refusal::KeyNotFound);
                }
            }
            Some(Request::RequestDeleteRange(delete)) => {
                deleted.push(KeyRange::from_request(&delete.key, &delete.range_end));
            }
            Some(Request::RequestTxn(nested)) => check_puts(state, nested, path, deleted)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether a read inside a transaction at `revision` (0: newest) is possible. A negative revision
/// is a compacted one here, as in etcd, though for a range by itself it means the newest.
///
/// # Errors
/// [`Refusal::FutureRevision`], [`Refusal::Compacted`].
pub fn check_revision(state: &impl State, revision: i64) -> Result<(), Refusal> {
    if revision == 0 {
        Ok(())
    } else if Revision(revision) > state.current() {
        Err(Refusal::FutureRevision)
    } else if revision < 0 || Revision(revision) < state.compacted() {
        Err(Refusal::Compacted)
    } else {
        Ok(())
    }
}

fn check_ranges(
    state: &impl State,
    txn: &pb::TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
) -> Result<(), Refusal> {
    let succeeded = *path.next().expect("one choice for each transaction");
    for op in branch(txn, succeeded) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_revision(state, range.revision)?,
            Some(Request::RequestTxn(nested)) => check_ranges(state, nested, path)?,
            _ => {}
        }
    }
    Ok(())
}

struct Run<'a, S> {
    state: &'a mut S,
    take: &'a mut dyn FnMut() -> Revision,
    revision: Option<Revision>,
    sub: u32,
}

impl<S: State> Run<'_, S> {
    fn txn(
        &mut self,
        txn: &pb::TxnRequest,
        path: &mut std::slice::Iter<'_, bool>,
    ) -> pb::TxnResponse {
        let succeeded = *path.next().expect("one choice for each transaction");
        let responses = branch(txn, succeeded)
            .iter()
            .map(|op| {
                let response = match &op.request {
                    Some(Request::RequestRange(range)) => {
                        Some(Response::ResponseRange(self.range(range)))
                    }
                    Some(Request::RequestPut(put)) => Some(Response::ResponsePut(self.put(put))),
                    Some(Request::RequestDeleteRange(delete)) => {
                        Some(Response::ResponseDeleteRange(self.delete(delete)))
                    }
                    Some(Request::RequestTxn(nested)) => {
                        Some(Response::ResponseTxn(self.txn(nested, path)))
                    }
                    None => None,
                };
                pb::ResponseOp { response }
            })
            .collect();
        let header = Some(pb::ResponseHeader::default());
        pb::TxnResponse { header, succeeded, responses }
    }

    /// The revision and sub-revision of the next write.
    fn next(&mut self) -> (Revision, u32) {
        let revision = *self.revision.get_or_insert_with(|| (self.take)());
        self.sub += 1;
        (revision, self.sub - 1)
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        let revision = self.revision.map_or(0, |revision| revision.0);
        Some(pb::ResponseHeader { revision, ..Default::default() })
    }

    fn put(&mut self, put: &pb::PutRequest) -> pb::PutResponse {
        let mut response = pb::PutResponse::default();
        let mut value = put.value.clone();
        let mut lease = LeaseId(put.lease);
        if put.prev_kv || put.ignore_value || put.ignore_lease {
            let previous = self.state.get(&put.key);
            if let (Some(row), true) = (&previous, put.ignore_value) {
                value = row.value.to_vec().into();
            }
            if let (Some(row), true) = (&previous, put.ignore_lease) {
                lease = row.lease;
            }
            response.prev_kv = previous.filter(|_| put.prev_kv).map(|row| row.to_kv());
        }
        let (at, sub) = self.next();
        self.state.put(at, sub, &put.key, &value, lease);
        response.header = self.header();
        response
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let range = KeyRange::from_request(&delete.key, &delete.range_end);
        let (mut keys, mut prev_kvs) = (Vec::new(), Vec::new());
        self.state.scan(&range, None, &mut |row| {
            keys.push(row.key.to_vec());
            if delete.prev_kv {
                prev_kvs.push(row.to_kv());
            }
            true
        });
        for key in &keys {
            let (at, sub) = self.next();
            self.state.delete(at, sub, key);
        }
        pb::DeleteRangeResponse { header: self.header(), deleted: keys.len() as i64, prev_kvs }
    }

    fn range(&mut self, request: &pb::RangeRequest) -> pb::RangeResponse {
        let keys = KeyRange::from_request(&request.key, &request.range_end);
        let at = (request.revision > 0).then_some(Revision(request.revision));
        let mut kvs = Vec::new();
        if !request.count_only {
            let cut = if reads_all(request) { 0 } else { request.limit.max(0) as usize };
            self.state.scan(&keys, at, &mut |row| {
                if passes(request, row.create, row.modified) {
                    kvs.push(row.to_kv());
                }
                cut == 0 || kvs.len() <= cut
            });
        }
        let count = self.state.count(&keys, at);
        let mut response = pb::RangeResponse { header: self.header(), kvs, more: false, count };
        arrange(request, &mut response);
        response
    }
}

/// Whether the answer can be cut at its limit only after the whole range was read.
#[must_use]
pub fn reads_all(request: &pb::RangeRequest) -> bool {
    is_sorted(request)
        || request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn is_sorted(request: &pb::RangeRequest) -> bool {
    request.sort_order() != SortOrder::None || request.sort_target() != SortTarget::Key
}

/// Whether a version passes the request's revision filters.
#[must_use]
pub fn passes(request: &pb::RangeRequest, create: Revision, modified: Revision) -> bool {
    let within =
        |at: Revision, min: i64, max: i64| (min == 0 || at.0 >= min) && (max == 0 || at.0 <= max);
    within(modified, request.min_mod_revision, request.max_mod_revision)
        && within(create, request.min_create_revision, request.max_create_revision)
}

/// Sorts, cuts at the limit, and drops the values where only keys are wanted.
pub fn arrange(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    if is_sorted(request) {
        let kvs = &mut response.kvs;
        match request.sort_target() {
            SortTarget::Key => kvs.sort_by(|a, b| a.key.cmp(&b.key)),
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        if request.sort_order() == SortOrder::Descend {
            kvs.reverse();
        }
    }
    let limit = request.limit.max(0) as usize;
    if limit > 0 && response.kvs.len() > limit {
        response.kvs.truncate(limit);
        response.more = true;
    }
    if request.keys_only {
        response.kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
}

/// Whether two operations of one branch could write the same key: two puts, or a put inside a
/// deleted range, in etcd's reading (`range_end` "\0" covers nothing, branches of one nested
/// transaction exclude each other).
#[must_use]
pub fn has_duplicates(txn: &pb::TxnRequest) -> bool {
    writes_of(&txn.success).is_none() || writes_of(&txn.failure).is_none()
}

#[derive(Default)]
struct Writes {
    puts: BTreeSet<Vec<u8>>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn takes(&mut self, key: &[u8]) -> bool {
        !self.deletes.iter().any(|range| range.contains(key)) && self.puts.insert(key.to_vec())
    }
}

fn writes_of(ops: &[pb::RequestOp]) -> Option<Writes> {
    let mut all = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.push(match &delete.range_end[..] {
                [] => KeyRange::single(&delete.key),
                end => KeyRange { start: delete.key.to_vec(), end: Some(end.to_vec()) },
            });
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            let (then, other) = (writes_of(&nested.success)?, writes_of(&nested.failure)?);
            if !then.puts.iter().all(|key| all.takes(key)) {
                return None;
            }
            let fresh = other.puts.iter().filter(|key| !then.puts.contains(*key));
            if !fresh.into_iter().all(|key| all.takes(key)) {
                return None;
            }
            all.deletes.extend(then.deletes.into_iter().chain(other.deletes));
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && !all.takes(&put.key)
        {
            return None;
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests;
