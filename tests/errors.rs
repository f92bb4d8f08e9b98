//! Every refusal that one member without auth can give (a full quota is `maintenance.rs`), text and code,
//! through both doors: gRPC and JSON. Clients know an error by its text, so a changed letter is a
//! broken client.

mod common;

use cored_proto::etcdserverpb as pb;
use cored_proto::{v3electionpb, v3lockpb};
use prost::Message;
use serde_json::json;

use common::Server;
use common::grpc::{self, Request};
use common::http::b64;

const EMPTY_KEY: &str = "etcdserver: key is not provided";
const KEY_NOT_FOUND: &str = "etcdserver: key not found";
const VALUE_PROVIDED: &str = "etcdserver: value is provided";
const LEASE_PROVIDED: &str = "etcdserver: lease is provided";
const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
const DUPLICATE_KEY: &str = "etcdserver: duplicate key given in txn request";
const BAD_SORT: &str = "etcdserver: invalid sort option";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const LEASE_EXISTS: &str = "etcdserver: lease already exists";
const LEASE_TOO_LONG: &str = "etcdserver: too large lease TTL";
const TOO_LARGE: &str = "etcdserver: request is too large";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const CORRUPT: &str = "etcdserver: corrupt cluster";
const AUTH_OFF: &str = "etcdserver: authentication is not enabled";
const NO_LEADER_FIELD: &str = "\"leader\" field must be provided";
const NO_ELECTED: &str = "election: no leader";

const UNKNOWN: i32 = 2;
const INVALID: i32 = 3;
const NOT_FOUND: i32 = 5;
const EXHAUSTED: i32 = 8;
const PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const DATA_LOSS: i32 = 15;

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";
const CAMPAIGN: &str = "/v3electionpb.Election/Campaign";
const PROCLAIM: &str = "/v3electionpb.Election/Proclaim";
const LEADER: &str = "/v3electionpb.Election/Leader";
const RESIGN: &str = "/v3electionpb.Election/Resign";

/// The key `a` has versions at revisions 2, 3 and 4; the store is compacted at 3; lease 7 exists.
fn prepared() -> Server {
    let server = Server::start();
    for value in ["1", "2", "3"] {
        server.put("a", value);
    }
    for (path, body) in [
        ("/v3/kv/compaction", json!({"revision": "3"})),
        ("/v3/lease/grant", json!({"ID": "7", "TTL": "1000"})),
    ] {
        let (status, answer) = server.call(path, &body);
        assert_eq!(status, 200, "{answer}");
    }
    server
}

fn range(change: impl FnOnce(&mut pb::RangeRequest)) -> Vec<u8> {
    let mut request = pb::RangeRequest { key: "a".into(), ..Default::default() };
    change(&mut request);
    request.encode_to_vec()
}

fn put(change: impl FnOnce(&mut pb::PutRequest)) -> pb::PutRequest {
    let mut request = pb::PutRequest { key: "a".into(), ..Default::default() };
    change(&mut request);
    request
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put_op(change: impl FnOnce(&mut pb::PutRequest)) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(put(change)))
}

fn range_op(change: impl FnOnce(&mut pb::RangeRequest)) -> pb::RequestOp {
    let mut request = pb::RangeRequest { key: "a".into(), ..Default::default() };
    change(&mut request);
    op(pb::request_op::Request::RequestRange(request))
}

fn delete_op(key: &'static str, range_end: &'static str) -> pb::RequestOp {
    let (key, range_end) = (key.into(), range_end.into());
    let request = pb::DeleteRangeRequest { key, range_end, ..Default::default() };
    op(pb::request_op::Request::RequestDeleteRange(request))
}

fn txn_op(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
    let request = pb::TxnRequest { success, failure, ..Default::default() };
    op(pb::request_op::Request::RequestTxn(request))
}

fn then(success: Vec<pb::RequestOp>) -> Vec<u8> {
    pb::TxnRequest { success, ..Default::default() }.encode_to_vec()
}

fn otherwise(failure: Vec<pb::RequestOp>) -> Vec<u8> {
    pb::TxnRequest { failure, ..Default::default() }.encode_to_vec()
}

fn comparing(compare: Vec<pb::Compare>) -> Vec<u8> {
    pb::TxnRequest { compare, ..Default::default() }.encode_to_vec()
}

fn reads(n: usize) -> Vec<pb::RequestOp> {
    (0..n).map(|_| range_op(|_| ())).collect()
}

fn compact(revision: i64) -> Vec<u8> {
    pb::CompactionRequest { revision, ..Default::default() }.encode_to_vec()
}

fn grant(id: i64, ttl: i64) -> Vec<u8> {
    pb::LeaseGrantRequest { id, ttl }.encode_to_vec()
}

type Row = (&'static str, &'static str, Vec<u8>, i32, &'static str);

fn of_range() -> Vec<Row> {
    vec![
        ("no key", RANGE, range(|r| r.key.clear()), INVALID, EMPTY_KEY),
        (
            "no key, but an end",
            RANGE,
            range(|r| {
                r.key.clear();
                r.range_end = "b".into();
            }),
            INVALID,
            EMPTY_KEY,
        ),
        ("an order out of the enum", RANGE, range(|r| r.sort_order = 3), INVALID, BAD_SORT),
        ("a target out of the enum", RANGE, range(|r| r.sort_target = 5), INVALID, BAD_SORT),
        ("a negative order", RANGE, range(|r| r.sort_order = -1), INVALID, BAD_SORT),
        (
            "no key comes before a bad order",
            RANGE,
            range(|r| {
                r.key.clear();
                r.sort_order = 3;
            }),
            INVALID,
            EMPTY_KEY,
        ),
        ("compacted", RANGE, range(|r| r.revision = 2), OUT_OF_RANGE, COMPACTED),
        ("future", RANGE, range(|r| r.revision = 5), OUT_OF_RANGE, FUTURE),
        (
            "future, serializable",
            RANGE,
            range(|r| {
                r.revision = 5;
                r.serializable = true;
            }),
            OUT_OF_RANGE,
            FUTURE,
        ),
        (
            "future, counted",
            RANGE,
            range(|r| {
                r.revision = i64::MAX;
                r.count_only = true;
            }),
            OUT_OF_RANGE,
            FUTURE,
        ),
        ("stream: no key", RANGE_STREAM, range(|r| r.key.clear()), INVALID, EMPTY_KEY),
        ("stream: compacted", RANGE_STREAM, range(|r| r.revision = 2), OUT_OF_RANGE, COMPACTED),
        ("stream: future", RANGE_STREAM, range(|r| r.revision = 5), OUT_OF_RANGE, FUTURE),
        (
            "stream: descending",
            RANGE_STREAM,
            range(|r| r.sort_order = 2),
            UNIMPLEMENTED,
            "RangeStream does not support custom sort orders",
        ),
        (
            "stream: filter",
            RANGE_STREAM,
            range(|r| r.max_create_revision = 2),
            UNIMPLEMENTED,
            "RangeStream does not support revision filters",
        ),
    ]
}

fn of_writes() -> Vec<Row> {
    let row = |name, change: fn(&mut pb::PutRequest), code, text| -> Row {
        (name, PUT, put(change).encode_to_vec(), code, text)
    };
    vec![
        row("put: no key", |r| r.key.clear(), INVALID, EMPTY_KEY),
        row(
            "put: value ignored and given",
            |r| {
                r.ignore_value = true;
                r.value = "x".into();
            },
            INVALID,
            VALUE_PROVIDED,
        ),
        row(
            "put: lease ignored and given",
            |r| {
                r.ignore_lease = true;
                r.lease = 7;
            },
            INVALID,
            LEASE_PROVIDED,
        ),
        row(
            "put: value of an absent key",
            |r| {
                r.key = "x".into();
                r.ignore_value = true;
            },
            INVALID,
            KEY_NOT_FOUND,
        ),
        row(
            "put: lease of an absent key",
            |r| {
                r.key = "x".into();
                r.ignore_lease = true;
            },
            INVALID,
            KEY_NOT_FOUND,
        ),
        row("put: unknown lease", |r| r.lease = 404, NOT_FOUND, NO_LEASE),
        row("put: too large", |r| r.value = vec![b'v'; 1_600_000].into(), INVALID, TOO_LARGE),
        row(
            "put: larger than a message",
            |r| r.value = vec![b'v'; 2_200_000].into(),
            EXHAUSTED,
            "grpc: received message larger than max (2200008 vs. 2097152)",
        ),
        (
            "delete: no key",
            DELETE,
            pb::DeleteRangeRequest::default().encode_to_vec(),
            INVALID,
            EMPTY_KEY,
        ),
        ("compact: at the compacted", COMPACT, compact(3), OUT_OF_RANGE, COMPACTED),
        ("compact: zero", COMPACT, compact(0), OUT_OF_RANGE, COMPACTED),
        ("compact: negative", COMPACT, compact(-1), OUT_OF_RANGE, COMPACTED),
        ("compact: future", COMPACT, compact(5), OUT_OF_RANGE, FUTURE),
    ]
}

fn of_txn() -> Vec<Row> {
    let compare = |key: &'static str| pb::Compare { key: key.into(), ..Default::default() };
    vec![
        ("compare: no key", TXN, comparing(vec![compare("")]), INVALID, EMPTY_KEY),
        ("put: no key", TXN, then(vec![put_op(|r| r.key.clear())]), INVALID, EMPTY_KEY),
        ("range: no key", TXN, then(vec![range_op(|r| r.key.clear())]), INVALID, EMPTY_KEY),
        ("delete: no key", TXN, then(vec![delete_op("", "")]), INVALID, EMPTY_KEY),
        ("range: bad sort", TXN, then(vec![range_op(|r| r.sort_target = 9)]), INVALID, BAD_SORT),
        (
            "an operation that is none",
            TXN,
            then(vec![pb::RequestOp { request: None }]),
            INVALID,
            KEY_NOT_FOUND,
        ),
        (
            "the other branch is checked too",
            TXN,
            otherwise(vec![put_op(|r| r.key.clear())]),
            INVALID,
            EMPTY_KEY,
        ),
        ("129 operations", TXN, then(reads(129)), INVALID, TOO_MANY_OPS),
        ("129 in the other branch", TXN, otherwise(reads(129)), INVALID, TOO_MANY_OPS),
        ("129 compares", TXN, comparing(vec![compare("a"); 129]), INVALID, TOO_MANY_OPS),
        (
            "nested: more than the rest",
            TXN,
            then([reads(99), vec![txn_op(reads(29), vec![])]].concat()),
            INVALID,
            TOO_MANY_OPS,
        ),
        ("two puts", TXN, then(vec![put_op(|_| ()), put_op(|_| ())]), INVALID, DUPLICATE_KEY),
        (
            "two puts where it would not run",
            TXN,
            otherwise(vec![put_op(|_| ()), put_op(|_| ())]),
            INVALID,
            DUPLICATE_KEY,
        ),
        (
            "put in a deleted range",
            TXN,
            then(vec![put_op(|_| ()), delete_op("a", "b")]),
            INVALID,
            DUPLICATE_KEY,
        ),
        (
            "put of a deleted key",
            TXN,
            then(vec![delete_op("a", ""), put_op(|_| ())]),
            INVALID,
            DUPLICATE_KEY,
        ),
        (
            "nested put, outer delete",
            TXN,
            then(vec![delete_op("a", ""), txn_op(vec![], vec![put_op(|_| ())])]),
            INVALID,
            DUPLICATE_KEY,
        ),
        (
            "nested put, outer put",
            TXN,
            then(vec![txn_op(vec![put_op(|_| ())], vec![]), put_op(|_| ())]),
            INVALID,
            DUPLICATE_KEY,
        ),
        (
            "compacted inside",
            TXN,
            then(vec![put_op(|r| r.key = "n".into()), range_op(|r| r.revision = 2)]),
            OUT_OF_RANGE,
            COMPACTED,
        ),
        (
            "future inside",
            TXN,
            then(vec![put_op(|r| r.key = "n".into()), range_op(|r| r.revision = 5)]),
            OUT_OF_RANGE,
            FUTURE,
        ),
        (
            "absent key inside",
            TXN,
            then(vec![
                put_op(|r| r.key = "n".into()),
                put_op(|r| {
                    r.key = "x".into();
                    r.ignore_value = true;
                }),
            ]),
            INVALID,
            KEY_NOT_FOUND,
        ),
        (
            "value given and ignored inside",
            TXN,
            then(vec![put_op(|r| {
                r.ignore_value = true;
                r.value = "x".into();
            })]),
            INVALID,
            VALUE_PROVIDED,
        ),
        (
            "lease given and ignored inside",
            TXN,
            then(vec![put_op(|r| {
                r.ignore_lease = true;
                r.lease = 7;
            })]),
            INVALID,
            LEASE_PROVIDED,
        ),
        (
            "unknown lease inside",
            TXN,
            then(vec![put_op(|r| r.key = "n".into()), put_op(|r| r.lease = 404)]),
            NOT_FOUND,
            NO_LEASE,
        ),
    ]
}

fn of_the_rest() -> Vec<Row> {
    let revoke = |id| pb::LeaseRevokeRequest { id }.encode_to_vec();
    let hash = |revision| pb::HashKvRequest { revision }.encode_to_vec();
    let name = bytes::Bytes::from("e");
    let authenticate = pb::AuthenticateRequest { name: "u".into(), password: "p".into() };
    let lock = v3lockpb::LockRequest { name: name.clone(), lease: 404 };
    let campaign =
        v3electionpb::CampaignRequest { name: name.clone(), lease: 404, ..Default::default() };
    let leader = v3electionpb::LeaderRequest { name };
    vec![
        ("grant: exists", GRANT, grant(7, 10), PRECONDITION, LEASE_EXISTS),
        ("grant: too long", GRANT, grant(0, 9_000_000_001), OUT_OF_RANGE, LEASE_TOO_LONG),
        ("revoke: unknown", REVOKE, revoke(404), NOT_FOUND, NO_LEASE),
        ("revoke: none", REVOKE, revoke(0), NOT_FOUND, NO_LEASE),
        ("hashkv: compacted", HASH_KV, hash(2), OUT_OF_RANGE, COMPACTED),
        ("hashkv: future", HASH_KV, hash(5), OUT_OF_RANGE, FUTURE),
        ("authenticate", AUTHENTICATE, authenticate.encode_to_vec(), PRECONDITION, AUTH_OFF),
        // These services are clients of their own server in etcd, and lose the code on the way.
        ("lock: unknown lease", LOCK, lock.encode_to_vec(), UNKNOWN, NO_LEASE),
        ("unlock: no key", UNLOCK, vec![], UNKNOWN, EMPTY_KEY),
        ("campaign: unknown lease", CAMPAIGN, campaign.encode_to_vec(), UNKNOWN, NO_LEASE),
        ("leader: nobody", LEADER, leader.encode_to_vec(), UNKNOWN, NO_ELECTED),
        ("proclaim: no leader", PROCLAIM, vec![], UNKNOWN, NO_LEADER_FIELD),
        ("resign: no leader", RESIGN, vec![], UNKNOWN, NO_LEADER_FIELD),
        (
            "unknown method",
            "/etcdserverpb.KV/Nothing",
            vec![],
            UNIMPLEMENTED,
            "unknown method Nothing for service etcdserverpb.KV",
        ),
        (
            "unknown service",
            "/nobody.Here/Range",
            vec![],
            UNIMPLEMENTED,
            "unknown service nobody.Here",
        ),
    ]
}

#[test]
fn every_refusal_has_its_code_and_text() {
    let server = prepared();
    let mut wrong = Vec::new();
    for (name, path, message, code, text) in
        [of_range(), of_writes(), of_txn(), of_the_rest()].concat()
    {
        let reply = grpc::call(server.place.client, &Request::new(path, &message));
        if (reply.code, reply.text.as_str()) != (code, text) {
            wrong.push(format!(
                "{path}: {name}: got {} {:?}, want {code} {text:?}",
                reply.code, reply.text
            ));
        }
        if reply.http_status != 200 || !reply.messages.is_empty() {
            wrong.push(format!("{path}: {name}: a refusal looks different: {reply:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // And none of them did anything.
    let (_, answer) = server.call("/v3/kv/range", &json!({"key": b64("a")}));
    assert_eq!(answer["header"]["revision"], "4", "{answer}");
}

#[test]
fn json_carries_the_same_refusals() {
    let server = prepared();
    let key = b64("a");
    let mut wrong = Vec::new();
    for (path, body, status, code, text) in [
        ("/v3/kv/range", json!({}), 400, INVALID, EMPTY_KEY),
        ("/v3/kv/range", json!({"key": key, "revision": "2"}), 400, OUT_OF_RANGE, COMPACTED),
        ("/v3/kv/range", json!({"key": key, "revision": 5}), 400, OUT_OF_RANGE, FUTURE),
        ("/v3/kv/range", json!({"key": key, "sort_order": 7}), 400, INVALID, BAD_SORT),
        ("/v3/kv/put", json!({"key": key, "lease": "404"}), 404, NOT_FOUND, NO_LEASE),
        (
            "/v3/kv/put",
            json!({"key": key, "ignore_value": true, "value": key}),
            400,
            INVALID,
            VALUE_PROVIDED,
        ),
        (
            "/v3/kv/put",
            json!({"key": key, "value": b64(vec![0; 1_600_000])}),
            400,
            INVALID,
            TOO_LARGE,
        ),
        (
            "/v3/kv/put",
            json!({"key": key, "value": b64(vec![0; 2_200_000])}),
            429,
            EXHAUSTED,
            "grpc: received message larger than max (2200008 vs. 2097152)",
        ),
        ("/v3/kv/deleterange", json!({}), 400, INVALID, EMPTY_KEY),
        ("/v3/kv/txn", json!({"success": [{}]}), 400, INVALID, KEY_NOT_FOUND),
        (
            "/v3/kv/txn",
            json!({"success": [{"request_put": {"key": key}}, {"request_put": {"key": key}}]}),
            400,
            INVALID,
            DUPLICATE_KEY,
        ),
        ("/v3/kv/compaction", json!({"revision": "9"}), 400, OUT_OF_RANGE, FUTURE),
        ("/v3/lease/grant", json!({"ID": "7", "TTL": "9"}), 400, PRECONDITION, LEASE_EXISTS),
        ("/v3/lease/grant", json!({"TTL": "9000000001"}), 400, OUT_OF_RANGE, LEASE_TOO_LONG),
        ("/v3/lease/revoke", json!({"ID": "404"}), 404, NOT_FOUND, NO_LEASE),
        ("/v3/kv/lease/revoke", json!({"ID": "404"}), 404, NOT_FOUND, NO_LEASE),
        ("/v3/maintenance/hashkv", json!({"revision": "9"}), 400, OUT_OF_RANGE, FUTURE),
        ("/v3/auth/authenticate", json!({"name": "u"}), 400, PRECONDITION, AUTH_OFF),
        ("/v3/election/leader", json!({"name": key}), 500, UNKNOWN, NO_ELECTED),
        ("/v3/election/resign", json!({}), 500, UNKNOWN, NO_LEADER_FIELD),
        ("/v3/lock/lock", json!({"name": key, "lease": "404"}), 500, UNKNOWN, NO_LEASE),
    ] {
        let got = server.call(path, &body);
        if got != (status, json!({"code": code, "message": text})) {
            let body: String = body.to_string().chars().take(80).collect();
            wrong.push(format!(
                "{path} {body}: got {} {}, want {status} {code} {text:?}",
                got.0, got.1
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The transaction at which etcd 3.7.3 panics, and at every start after it.
#[test]
fn a_put_of_a_key_that_its_transaction_deletes_is_refused() {
    if common::stand_in() {
        return;
    }
    let mut server = Server::start();
    server.put("b", "1");
    let message = then(vec![
        delete_op("a", "\0"),
        put_op(|r| {
            r.key = "b".into();
            r.ignore_value = true;
        }),
    ]);
    let reply = grpc::call(server.place.client, &Request::new(TXN, &message));
    assert_eq!((reply.code, reply.text.as_str()), (INVALID, KEY_NOT_FOUND));
    assert_eq!(server.get("b").as_deref(), Some("1"));
    server.crash();
    assert_eq!(server.get("b").as_deref(), Some("1"));
    assert_eq!(server.put("b", "2"), 3);
}

/// What alarms refuse, and what they come before or after.
#[test]
fn alarms_refuse_through_both_doors() {
    let server = prepared();
    let alarm = |action: &str, kind: &str| {
        let request = json!({"action": action, "alarm": kind, "memberID": "5"});
        assert_eq!(server.call("/v3/maintenance/alarm", &request).0, 200);
    };
    let call = |path, message: Vec<u8>| {
        let reply = grpc::call(server.place.client, &Request::new(path, &message));
        (reply.code, reply.text)
    };
    let grant = |ttl| pb::LeaseGrantRequest { ttl, id: 7 }.encode_to_vec();
    let lock = v3lockpb::LockRequest { name: "l".into(), lease: 7 }.encode_to_vec();
    for (kind, status, code, text) in
        [("NOSPACE", 429, EXHAUSTED, NO_SPACE), ("CORRUPT", 500, DATA_LOSS, CORRUPT)]
    {
        alarm("ACTIVATE", kind);
        for (path, message) in [
            (PUT, put(|_| ()).encode_to_vec()),
            (PUT, put(|r| r.lease = 404).encode_to_vec()),
            (TXN, then(vec![put_op(|_| ())])),
            (TXN, otherwise(vec![txn_op(vec![put_op(|_| ())], Vec::new())])),
            (GRANT, grant(60)),
            (GRANT, grant(9_000_000_001)),
        ] {
            assert_eq!(call(path, message), (code, text.to_owned()), "{kind} {path}");
        }
        assert_eq!(call(LOCK, lock.clone()), (UNKNOWN, text.to_owned()), "{kind}");
        let body = json!({"key": b64("a")});
        let refused = (status, json!({"code": code, "message": text}));
        assert_eq!(server.call("/v3/kv/put", &body), refused, "{kind}");
        let empty = call(PUT, put(|r| r.key = "".into()).encode_to_vec());
        assert_eq!(empty, (INVALID, EMPTY_KEY.to_owned()), "{kind}");
        let grows_not = [
            (
                DELETE,
                pb::DeleteRangeRequest { key: "z".into(), ..Default::default() }.encode_to_vec(),
            ),
            (TXN, then(vec![delete_op("z", "")])),
        ];
        let refused = if kind == "CORRUPT" { (code, text.to_owned()) } else { (0, String::new()) };
        for (path, message) in grows_not {
            assert_eq!(call(path, message), refused, "{kind} {path}");
        }
        assert_eq!(call(RANGE, range(|_| ())).0, 0, "{kind}");
        assert_eq!(call(TXN, then(vec![range_op(|_| ())])).0, 0, "{kind}");
    }
    let compact = pb::CompactionRequest { revision: 99, physical: false }.encode_to_vec();
    assert_eq!(call(COMPACT, compact.clone()), (DATA_LOSS, CORRUPT.to_owned()));
    let revoke = pb::LeaseRevokeRequest { id: 404 }.encode_to_vec();
    assert_eq!(call(REVOKE, revoke.clone()), (DATA_LOSS, CORRUPT.to_owned()));
    alarm("DEACTIVATE", "CORRUPT");
    assert_eq!(call(COMPACT, compact), (OUT_OF_RANGE, FUTURE.to_owned()));
    assert_eq!(call(REVOKE, revoke), (NOT_FOUND, NO_LEASE.to_owned()));
}
