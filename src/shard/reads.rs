//! Reads of one shard at one revision: ranges, history, and what an operation across shards gathers.
//! Answers are encoded while they are read; nothing is copied twice.

use bytes::{BufMut, BytesMut};
use cored_proto::etcdserverpb as pb;
use prost::Message as _;

use super::Shard;
use super::evaluate::{Context, row};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::txn::gathered::{Gathered, OwnedRow};
use crate::txn::{self, Footprint};
use crate::watch::Event;

/// Room that is made for an answer at once, by the length of its first row.
const ROOM_MAX_BYTES: usize = 4 << 20;

/// The tag of `RangeResponse.kvs`: field 2, length-delimited.
const KVS_TAG: u8 = 2 << 3 | 2;

/// Part of an answer to a range: what one shard contributes.
#[derive(Debug, Default)]
pub struct Rows {
    /// Encoded `kvs` fields, in key order or as the request sorts.
    pub kvs: BytesMut,
    /// How many they are.
    pub rows: usize,
    /// Keys in the range, whatever limit and filters say.
    pub count: i64,
    /// Whether the limit cut something.
    pub more: bool,
}

/// How a range may be cut by the shard that reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// It is the whole answer: sort, cut, say whether there is more.
    Whole,
    /// It is part of an answer that somebody else sorts and cuts: only an upper bound applies.
    Part,
}

/// What one shard knows of the history of a range.
#[derive(Debug)]
pub struct HistoryReply {
    /// Events in position order.
    pub events: Vec<Event>,
    /// The revision up to which they are complete.
    pub through: Revision,
}

impl Shard {
    /// Reads `keys` (all of them this shard's) at `at` for `request`.
    pub fn range(
        &mut self,
        request: &pb::RangeRequest,
        keys: &KeyRange,
        at: Revision,
        cut: Cut,
    ) -> Rows {
        self.sampler.note(&keys.start);
        let count = self.store.count(keys, Some(at)) as i64;
        let mut rows = Rows { count, ..Rows::default() };
        if request.count_only {
            return rows;
        }
        if txn::reads_all(request) {
            return self.sorted(request, keys, at, cut, rows);
        }
        let limit = usize::try_from(request.limit).unwrap_or(0);
        rows.more = limit > 0 && count as usize > limit;
        let expected = if rows.more { limit } else { count as usize };
        if limit == 0 || count > 0 {
            self.store.scan(keys, Some(at), &mut |mut version| {
                if request.keys_only {
                    version.value = b"";
                }
                version.put_field(KVS_TAG, version.kv_len(), &mut rows.kvs);
                rows.rows += 1;
                if rows.rows == 1 {
                    // The others are likely to be as long: a buffer that doubles copies everything twice.
                    let more = rows.kvs.len().saturating_mul(expected.saturating_sub(1));
                    rows.kvs.reserve((more + more / 16).min(ROOM_MAX_BYTES));
                }
                rows.rows != limit
            });
            self.sampler.read(rows.rows);
        }
        rows
    }

    /// The slow way, for requests that can be cut only after everything was read.
    fn sorted(
        &self,
        request: &pb::RangeRequest,
        keys: &KeyRange,
        at: Revision,
        cut: Cut,
        mut rows: Rows,
    ) -> Rows {
        let mut response = pb::RangeResponse::default();
        self.store.scan(keys, Some(at), &mut |version| {
            if txn::passes(request, version.create, version.modified) {
                response.kvs.push(row(version).to_kv());
            }
            true
        });
        if cut == Cut::Whole {
            txn::arrange(request, &mut response);
        }
        rows.more = response.more;
        rows.rows = response.kvs.len();
        encode_kvs(&response.kvs, &mut rows.kvs);
        rows
    }

    /// The history of a range from `from` to `through`, at most about `max_bytes` of it but at
    /// least one revision.
    #[must_use]
    pub fn history(
        &self,
        range: &KeyRange,
        from: Revision,
        through: Revision,
        previous: bool,
        max_bytes: usize,
    ) -> HistoryReply {
        let mut events: Vec<Event> = Vec::new();
        let mut bytes = 0;
        let mut reached = through;
        self.store.history(range, from, through, &mut |version| {
            let starts_revision =
                events.last().is_none_or(|last| last.revision != version.modified);
            if bytes > max_bytes && starts_revision {
                reached = version.modified.prev();
                return false;
            }
            let before =
                if previous { self.store.before(version.key, version.position()) } else { None };
            let event = if version.is_tombstone() {
                Event::delete(version.key, version.modified, version.sub, before.as_ref())
            } else {
                Event::put(&version, before.as_ref())
            };
            bytes += event.bytes();
            events.push(event);
            true
        });
        HistoryReply { events, through: reached }
    }

    /// What an operation across shards needs of this one: rows of `footprint` that lie in `owned`.
    #[must_use]
    pub fn gather(
        &self,
        footprint: &Footprint,
        owned: &[KeyRange],
        context: Context<'_>,
    ) -> Gathered {
        let mut gathered = Gathered {
            compacted: context.compacted,
            current: context.current,
            highest: self.highest(),
            ..Gathered::default()
        };
        let has = |lease: &&LeaseId| context.leases.contains(**lease);
        gathered.leases = footprint.leases.iter().filter(has).copied().collect();
        for range in footprint.ranges.iter().flat_map(|range| within(range, owned)) {
            self.store.scan(&range, None, &mut |version| {
                let (key, row) = owned_row(row(version));
                gathered.newest.insert(key, row);
                true
            });
        }
        for (range, at) in &footprint.past {
            // Whether `at` is in the future is not for one shard to say: another may be ahead.
            if *at < context.compacted {
                continue;
            }
            let rows = gathered.past.entry(*at).or_default();
            for range in within(range, owned) {
                self.store.scan(&range, Some(*at), &mut |version| {
                    let (key, row) = owned_row(row(version));
                    rows.insert(key, row);
                    true
                });
            }
        }
        gathered
    }
}

/// Encodes `kvs` fields one after the other.
pub fn encode_kvs(kvs: &[cored_proto::mvccpb::KeyValue], out: &mut BytesMut) {
    for kv in kvs {
        out.put_u8(KVS_TAG);
        kv.encode_length_delimited(out).expect("a growing buffer takes everything");
    }
}

fn within<'a>(range: &'a KeyRange, owned: &'a [KeyRange]) -> impl Iterator<Item = KeyRange> + 'a {
    owned.iter().filter_map(|mine| mine.intersect(range))
}

fn owned_row(row: txn::Row<'_>) -> (bytes::Bytes, OwnedRow) {
    let owned = OwnedRow {
        value: bytes::Bytes::copy_from_slice(row.value),
        create: row.create,
        modified: row.modified,
        version: row.version,
        lease: row.lease,
    };
    (bytes::Bytes::copy_from_slice(row.key), owned)
}
