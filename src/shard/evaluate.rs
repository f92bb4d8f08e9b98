//! A request against the newest versions becomes changed keys, the bytes of a redo record, and an
//! answer. Nothing is changed when it is refused.

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;

use super::request::Reply;
use super::{Outgoing, Shard};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo;
use crate::lease;
use crate::mvcc::VersionRef;
use crate::txn::{self, Refusal, Row, State};

/// What a request is evaluated against, beside the shard's keys.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The leases there are.
    pub leases: &'a lease::Table,
    /// History below this revision is gone.
    pub compacted: Revision,
    /// The newest revision that a client can know of: the watermark, or what is installed here.
    pub current: Revision,
}

/// What came of a request.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub reply: Reply,
    /// The revision it took, if it wrote.
    pub revision: Option<Revision>,
}

impl Shard {
    /// Writes one key. `take` hands out the revision, `batch` receives the redo record.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then and no revision was taken.
    pub fn put(
        &mut self,
        put: &pb::PutRequest,
        context: Context<'_>,
        take: &mut dyn FnMut() -> Revision,
        batch: &mut Vec<u8>,
        outgoing: &mut Outgoing,
    ) -> Result<Outcome, Refusal> {
        self.sampler.note(&put.key);
        if put.lease != 0 || put.ignore_value || put.ignore_lease {
            txn::check_put(&View::new(self, context), put)?;
        }
        let mut reply = pb::PutResponse::default();
        let mut kept = None;
        let mut lease = LeaseId(put.lease);
        if put.prev_kv || put.ignore_value || put.ignore_lease {
            let before = self.store.newest(&put.key);
            reply.prev_kv = before.filter(|_| put.prev_kv).map(|version| row(version).to_kv());
            kept = before.filter(|_| put.ignore_value).map(|v| Bytes::copy_from_slice(v.value));
            if let Some(before) = before.filter(|_| put.ignore_lease) {
                lease = before.lease;
            }
        }
        let value = kept.as_ref().unwrap_or(&put.value);
        let at = take();
        let (create, version) = self.store.put((at, 0), &put.key, value, lease);
        redo::begin_write(batch, at, 1);
        redo::put(batch, &put.key, value, create, version, lease);
        self.changed((at, 0), &put.key, lease, outgoing);
        Ok(Outcome { reply: Reply::Put(reply), revision: Some(at) })
    }

    /// Runs a transaction whose keys all live here.
    ///
    /// # Errors
    /// As [`Shard::put`].
    pub fn txn(
        &mut self,
        request: &pb::TxnRequest,
        context: Context<'_>,
        take: &mut dyn FnMut() -> Revision,
        batch: &mut Vec<u8>,
        outgoing: &mut Outgoing,
    ) -> Result<Outcome, Refusal> {
        let mut view = View::new(self, context);
        let plan = txn::plan(&view, request)?;
        let mut executed = txn::execute(&mut view, request, &plan, take);
        let changed = view.changed;
        let Some(at) = executed.revision else {
            let gate = context.current.max(self.highest());
            txn::fill_headers(&mut executed.response, gate);
            return Ok(Outcome { reply: Reply::Txn(executed.response), revision: None });
        };
        txn::fill_headers(&mut executed.response, at.prev());
        redo::begin_write(batch, at, changed.len());
        for (sub, change) in (0_u32..).zip(&changed) {
            self.sampler.note(&change.key);
            match &change.put {
                Some(put) => {
                    redo::put(batch, &change.key, &put.value, put.create, put.version, put.lease)
                }
                None => redo::delete(batch, &change.key),
            }
            let lease = change.put.as_ref().map_or(LeaseId::NONE, |put| put.lease);
            self.changed((at, sub), &change.key, lease, outgoing);
        }
        Ok(Outcome { reply: Reply::Txn(executed.response), revision: Some(at) })
    }
}

/// A version as transactions see it.
pub(super) fn row(version: VersionRef<'_>) -> Row<'_> {
    Row {
        key: version.key,
        value: version.value,
        create: version.create,
        modified: version.modified,
        version: version.version,
        lease: version.lease,
    }
}

/// A key that a transaction changed.
struct Changed {
    key: Bytes,
    put: Option<ChangedTo>,
}

struct ChangedTo {
    value: Bytes,
    create: Revision,
    version: i64,
    lease: LeaseId,
}

/// The newest state of one shard, as a transaction reads and changes it.
struct View<'a, 'c> {
    shard: &'a mut Shard,
    context: Context<'c>,
    changed: Vec<Changed>,
}

impl<'a, 'c> View<'a, 'c> {
    fn new(shard: &'a mut Shard, context: Context<'c>) -> View<'a, 'c> {
        View { shard, context, changed: Vec::new() }
    }
}

impl State for View<'_, '_> {
    fn get(&self, key: &[u8]) -> Option<Row<'_>> {
        self.shard.store.newest(key).map(row)
    }

    fn scan(&self, range: &KeyRange, at: Option<Revision>, visit: &mut dyn FnMut(Row<'_>) -> bool) {
        self.shard.store.scan(range, at, &mut |version| visit(row(version)));
    }

    fn count(&self, range: &KeyRange, at: Option<Revision>) -> i64 {
        self.shard.store.count(range, at) as i64
    }

    fn has_lease(&self, lease: LeaseId) -> bool {
        self.context.leases.contains(lease)
    }

    fn compacted(&self) -> Revision {
        self.context.compacted
    }

    fn current(&self) -> Revision {
        self.context.current
    }

    fn put(&mut self, at: Revision, sub: u32, key: &[u8], value: &[u8], lease: LeaseId) {
        let (create, version) = self.shard.store.put((at, sub), key, value, lease);
        let value = Bytes::copy_from_slice(value);
        let put = Some(ChangedTo { value, create, version, lease });
        self.changed.push(Changed { key: Bytes::copy_from_slice(key), put });
    }

    fn delete(&mut self, at: Revision, sub: u32, key: &[u8]) {
        self.shard.store.delete((at, sub), key);
        self.changed.push(Changed { key: Bytes::copy_from_slice(key), put: None });
    }
}
