//! What clients ask: a small world of keys and leases, so that they meet often.

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as Op;
use pb::watch_create_request::FilterType;

use super::Random;
use crate::engine::Request;
use crate::keys::LeaseId;

/// Keys that clients use; the range map can cut between any two.
pub(super) const KEYS: [&str; 8] = ["a", "b", "c", "d", "m", "n", "x", "y"];

/// Leases that clients use: 1 to this.
pub(super) const LEASES: u64 = 3;

fn key(random: &mut Random) -> Bytes {
    Bytes::from_static(KEYS[random.index(KEYS.len())].as_bytes())
}

fn lease(random: &mut Random) -> LeaseId {
    LeaseId(1 + random.below(LEASES) as i64)
}

/// A key and, half the time, the end of a range from it.
fn range(random: &mut Random) -> (Bytes, Bytes) {
    match random.below(4) {
        0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        1 => {
            let (a, b) = (key(random), key(random));
            if a < b { (a, b) } else { (a, Bytes::from_static(b"\0")) }
        }
        _ => (key(random), Bytes::new()),
    }
}

fn put(random: &mut Random, value: u64, plain: bool) -> pb::PutRequest {
    // Now and then one that splits the log's groups.
    let copies = if random.one_in(12) { 500 } else { 1 };
    let mut put = pb::PutRequest {
        key: key(random),
        value: value.to_string().repeat(copies).into(),
        prev_kv: random.one_in(2),
        ..Default::default()
    };
    match random.below(8) {
        _ if plain => {}
        0 | 1 => put.lease = lease(random).0,
        2 => {
            put.ignore_value = true;
            put.value = Bytes::new();
        }
        3 => put.ignore_lease = true,
        _ => {}
    }
    put
}

fn range_request(random: &mut Random, newest: i64) -> pb::RangeRequest {
    let (key, range_end) = range(random);
    let revision = match random.below(4) {
        0 if newest > 0 => 1 + random.below(newest as u64 + 1) as i64,
        _ => 0,
    };
    let mut request = pb::RangeRequest { key, range_end, revision, ..Default::default() };
    if random.one_in(3) {
        request.limit = 1 + random.below(4) as i64;
    }
    request.count_only = random.one_in(6);
    request.keys_only = random.one_in(8);
    if random.one_in(6) {
        let order = if random.one_in(2) { SortOrder::Descend } else { SortOrder::Ascend };
        request.sort_order = order as i32;
        request.sort_target = random.below(SortTarget::Value as u64 + 1) as i32;
    }
    if random.one_in(8) {
        let bound = 1 + random.below(newest.max(1) as u64) as i64;
        match random.below(4) {
            0 => request.min_mod_revision = bound,
            1 => request.max_mod_revision = bound,
            2 => request.min_create_revision = bound,
            _ => request.max_create_revision = bound,
        }
    }
    request
}

fn compare(random: &mut Random) -> pb::Compare {
    let (key, range_end) = range(random);
    let result = match random.below(4) {
        0 => CompareResult::Greater,
        1 => CompareResult::Less,
        2 => CompareResult::NotEqual,
        _ => CompareResult::Equal,
    };
    let (target, union) = match random.below(5) {
        0 => (CompareTarget::Version, TargetUnion::Version(random.below(3) as i64)),
        1 => (CompareTarget::Create, TargetUnion::CreateRevision(random.below(20) as i64)),
        2 => (CompareTarget::Mod, TargetUnion::ModRevision(random.below(60) as i64)),
        3 => {
            let value = random.below(200).to_string().into();
            (CompareTarget::Value, TargetUnion::Value(value))
        }
        _ => (CompareTarget::Lease, TargetUnion::Lease(random.below(2) as i64)),
    };
    let (result, target) = (result as i32, target as i32);
    pb::Compare { result, target, key, range_end, target_union: Some(union) }
}

fn delete(random: &mut Random) -> pb::DeleteRangeRequest {
    let (key, range_end) = range(random);
    pb::DeleteRangeRequest { key, range_end, prev_kv: random.one_in(2) }
}

fn branch(random: &mut Random, value: u64, newest: i64, depth: u32) -> Vec<pb::RequestOp> {
    (0..random.below(4))
        .map(|_| {
            let request = match random.below(9) {
                0 if depth < 2 => Op::RequestTxn(any_txn(random, value, newest, depth + 1)),
                0..=2 => Op::RequestRange(range_request(random, newest)),
                3 | 4 => Op::RequestDeleteRange(delete(random)),
                _ => {
                    let plain = !random.one_in(3);
                    Op::RequestPut(put(random, value, plain))
                }
            };
            pb::RequestOp { request: Some(request) }
        })
        .collect()
}

fn any_txn(random: &mut Random, value: u64, newest: i64, depth: u32) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: (0..random.below(3)).map(|_| compare(random)).collect(),
        success: branch(random, value, newest, depth),
        failure: branch(random, value, newest, depth),
    }
}

fn txn(random: &mut Random, value: u64, newest: i64) -> pb::TxnRequest {
    loop {
        let txn = any_txn(random, value, newest, 0);
        if !crate::txn::has_duplicates(&txn) {
            return txn;
        }
    }
}

/// What clients of a world do most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taste {
    /// A little of everything.
    All,
    /// Begin and end leases, and bind keys to them: that takes several steps on several shards, so
    /// they must meet often to meet in each.
    Leases,
    /// Write one key at a time, and ranges hardly move: then each lane alone tells of its keys, which a
    /// start makes use of.
    Apart,
    /// Compact often, and read what is about to be gone.
    Past,
}

impl Taste {
    pub(super) fn any(random: &mut Random) -> Taste {
        match random.below(8) {
            0 | 1 => Taste::Leases,
            2 | 3 => Taste::Apart,
            4 | 5 => Taste::Past,
            _ => Taste::All,
        }
    }
}

/// A request that passes the API's checks. `value` is used once; `newest` is a revision that is
/// known to exist.
pub(super) fn request(random: &mut Random, taste: Taste, value: u64, newest: i64) -> Request {
    if taste == Taste::Leases && random.one_in(2) {
        return about_leases(random, value);
    }
    if taste == Taste::Apart && !random.one_in(20) {
        return about_one_key(random, value, newest);
    }
    if taste == Taste::Past && random.one_in(2) {
        return about_the_past(random, newest);
    }
    match random.below(20) {
        0..=6 => Request::Put(put(random, value, false)),
        7 | 8 => Request::DeleteRange(delete(random)),
        9..=11 => Request::Txn(txn(random, value, newest)),
        12..=15 => Request::Range(range_request(random, newest)),
        16 => Request::LeaseGrant { id: lease(random), ttl_s: 2 + random.below(5) as i64 },
        17 if random.one_in(3) => Request::LeaseRevoke { id: lease(random) },
        17 => Request::LeaseKeepAlive { id: lease(random) },
        18 if newest > 1 && random.one_in(3) => Request::Compact {
            revision: 1 + random.below(newest as u64) as i64,
            physical: random.one_in(2),
        },
        18 => Request::HashKv { revision: 0 },
        _ => Request::LeaseTimeToLive { id: lease(random), keys: true },
    }
}

fn about_the_past(random: &mut Random, newest: i64) -> Request {
    let revision = (newest - random.below(4) as i64).max(1);
    match random.below(8) {
        0 | 1 => Request::Compact { revision, physical: random.one_in(2) },
        2 | 3 => Request::HashKv { revision: 0 },
        _ => {
            // From a key on, so that most have parts on several cores.
            let (key, range_end) = (key(random), Bytes::from_static(b"\0"));
            Request::Range(pb::RangeRequest { key, range_end, revision, ..Default::default() })
        }
    }
}

fn about_one_key(random: &mut Random, value: u64, newest: i64) -> Request {
    match random.below(20) {
        0 | 1 => Request::DeleteRange(pb::DeleteRangeRequest {
            key: key(random),
            prev_kv: random.one_in(2),
            ..Default::default()
        }),
        2 => Request::LeaseGrant { id: lease(random), ttl_s: 2 + random.below(50) as i64 },
        3..=5 => Request::LeaseTimeToLive { id: lease(random), keys: true },
        6 | 7 => Request::Range(range_request(random, newest)),
        8..=13 => Request::Put(leased(random, value)),
        _ => Request::Put(put(random, value, false)),
    }
}

fn about_leases(random: &mut Random, value: u64) -> Request {
    let id = lease(random);
    match random.below(8) {
        0 => Request::LeaseRevoke { id },
        1 => Request::LeaseGrant { id, ttl_s: 2 + random.below(5) as i64 },
        2 => Request::LeaseKeepAlive { id },
        3 => Request::LeaseTimeToLive { id, keys: true },
        4 => Request::Put(leased(random, value)),
        _ => {
            let (one, other) = (leased(random, value), put(random, value, false));
            let puts = if one.key == other.key { vec![one] } else { vec![one, other] };
            let success = puts.into_iter().map(Op::RequestPut);
            let success = success.map(|op| pb::RequestOp { request: Some(op) }).collect();
            Request::Txn(pb::TxnRequest { success, ..Default::default() })
        }
    }
}

fn leased(random: &mut Random, value: u64) -> pb::PutRequest {
    pb::PutRequest { lease: lease(random).0, ..put(random, value, true) }
}

/// A watch on some range from some revision.
pub(super) fn watch(random: &mut Random, newest: i64) -> pb::WatchCreateRequest {
    let (key, range_end) = range(random);
    let start_revision = match random.below(3) {
        0 => 0,
        _ => 1 + random.below(newest as u64 + 3) as i64,
    };
    let filters = match random.below(8) {
        0 => vec![FilterType::Noput as i32],
        1 => vec![FilterType::Nodelete as i32],
        _ => Vec::new(),
    };
    pb::WatchCreateRequest {
        key,
        range_end,
        start_revision,
        prev_kv: random.one_in(3),
        filters,
        fragment: random.one_in(4),
        progress_notify: random.one_in(3),
        ..Default::default()
    }
}
