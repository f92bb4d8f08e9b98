use super::*;
use crate::api::tests::double::World;

const PUT: &str = "etcdserverpb.KV/Put";
const RANGE: &str = "etcdserverpb.KV/Range";
const DELETE: &str = "etcdserverpb.KV/DeleteRange";
const TXN: &str = "etcdserverpb.KV/Txn";

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put_of(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), ..Default::default() }
}

fn put_op(key: &str) -> pb::RequestOp {
    op(Request::RequestPut(put_of(key)))
}

fn range_of(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn range_op(key: &str) -> pb::RequestOp {
    op(Request::RequestRange(range_of(key)))
}

fn delete_op(key: &str, end: &str) -> pb::RequestOp {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    op(Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: false }))
}

fn txn_op(success: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Request::RequestTxn(then(success)))
}

fn then(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

fn otherwise(failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { failure, ..Default::default() }
}

fn comparing(key: &str, times: usize) -> pb::TxnRequest {
    let compare = pb::Compare { key: key.to_owned().into(), ..Default::default() };
    pb::TxnRequest { compare: vec![compare; times], ..Default::default() }
}

/// Seen on etcd 3.7.3, each of them.
#[test]
fn a_bad_request_is_refused_in_etcds_words_and_order() {
    let long = |len: usize| pb::PutRequest { value: vec![0; len].into(), ..put_of("k") };
    let cases: Vec<Case> = vec![
        case(RANGE, range_of(""), Some(Status::EMPTY_KEY)),
        case(RANGE, pb::RangeRequest { sort_target: 9, ..range_of("") }, Some(Status::EMPTY_KEY)),
        case(
            RANGE,
            pb::RangeRequest { sort_order: 7, ..range_of("a") },
            Some(Status::INVALID_SORT_OPTION),
        ),
        case(
            RANGE,
            pb::RangeRequest { sort_target: -1, ..range_of("a") },
            Some(Status::INVALID_SORT_OPTION),
        ),
        case(RANGE, pb::RangeRequest { limit: -5, ..range_of("a") }, None),
        case(PUT, put_of(""), Some(Status::EMPTY_KEY)),
        case(
            PUT,
            pb::PutRequest {
                value: "v".into(),
                lease: 1,
                ignore_value: true,
                ignore_lease: true,
                ..put_of("a")
            },
            Some(Status::VALUE_PROVIDED),
        ),
        case(
            PUT,
            pb::PutRequest { lease: 1, ignore_value: true, ignore_lease: true, ..put_of("a") },
            Some(Status::LEASE_PROVIDED),
        ),
        case(
            PUT,
            pb::PutRequest { ignore_lease: true, ..put_of("none") },
            Some(Status::KEY_NOT_FOUND),
        ),
        case(PUT, pb::PutRequest { lease: 99, ..put_of("a") }, Some(Status::LEASE_NOT_FOUND)),
        // The longest put that etcd takes with its default limit, and one byte more.
        case(PUT, long((3 << 19) - 17 - 7), None),
        case(PUT, long((3 << 19) - 17 - 6), Some(Status::REQUEST_TOO_LARGE)),
        case(DELETE, pb::DeleteRangeRequest::default(), Some(Status::EMPTY_KEY)),
        case(TXN, pb::TxnRequest::default(), None),
        case(TXN, then(vec![pb::RequestOp::default()]), Some(Status::KEY_NOT_FOUND)),
        case(TXN, comparing("", 1), Some(Status::EMPTY_KEY)),
        case(TXN, then(vec![range_op(""), pb::RequestOp::default()]), Some(Status::EMPTY_KEY)),
        case(
            TXN,
            pb::TxnRequest {
                success: vec![txn_op(vec![pb::RequestOp::default()])],
                failure: vec![put_op("")],
                ..Default::default()
            },
            Some(Status::KEY_NOT_FOUND),
        ),
        case(TXN, then(vec![range_op("a"); 128]), None),
        case(TXN, then(vec![range_op("a"); 129]), Some(Status::TOO_MANY_OPS)),
        case(TXN, otherwise(vec![range_op("a"); 129]), Some(Status::TOO_MANY_OPS)),
        case(TXN, comparing("a", 129), Some(Status::TOO_MANY_OPS)),
        // A nested transaction has what its parent leaves.
        case(TXN, nested(127, 0), None),
        case(TXN, nested(127, 1), Some(Status::TOO_MANY_OPS)),
        case(TXN, nested(126, 1), None),
        case(TXN, nested(126, 2), Some(Status::TOO_MANY_OPS)),
        // Duplicates are looked for after everything else.
        case(TXN, then(vec![put_op("a"), put_op("a")]), Some(Status::DUPLICATE_KEY)),
        case(TXN, then(vec![put_op("a"), put_op("a"), put_op("")]), Some(Status::EMPTY_KEY)),
        case(TXN, otherwise(vec![put_op("b"), delete_op("a", "c")]), Some(Status::DUPLICATE_KEY)),
        case(TXN, then(vec![put_op("a"), txn_op(vec![put_op("a")])]), Some(Status::DUPLICATE_KEY)),
    ];
    for (number, (path, call, expected)) in cases.into_iter().enumerate() {
        assert_eq!(call(&mut World::new()), expected, "case {number}: {path}");
    }
}

/// A path, the call, and what it is refused with.
type Case = (&'static str, Box<dyn FnOnce(&mut World) -> Option<Status>>, Option<Status>);

fn case(
    path: &'static str,
    request: impl prost::Message + 'static,
    refused: Option<Status>,
) -> Case {
    let call =
        move |world: &mut World| world.call_bytes(path, request.encode_to_vec().into()).err();
    (path, Box::new(call), refused)
}

fn nested(beside: usize, inside: usize) -> pb::TxnRequest {
    let mut success = vec![range_op("a"); beside];
    success.push(txn_op(vec![range_op("a"); inside]));
    then(success)
}

#[test]
fn what_a_check_refuses_never_reaches_the_engine() {
    let mut world = World::new();
    let _ = world.call_bytes(PUT, prost::Message::encode_to_vec(&put_of("")).into());
    assert!(world.model.asked.is_empty());
}

#[test]
fn a_long_read_passes_where_a_long_write_does_not() {
    let key = "k".repeat(3 << 19);
    let mut world = World::new();
    let send = |world: &mut World, txn: &pb::TxnRequest| {
        world.call_bytes(TXN, prost::Message::encode_to_vec(txn).into()).err()
    };
    assert_eq!(send(&mut world, &then(vec![range_op(&key)])), None);
    let refused = Some(Status::REQUEST_TOO_LARGE);
    assert_eq!(send(&mut world, &then(vec![put_op(&key)])), refused);
    assert_eq!(send(&mut world, &then(vec![txn_op(vec![range_op(&key)])])), refused);
}

#[test]
fn a_stream_knows_no_order_but_the_keys_own() {
    let ok = [(SortOrder::None, SortTarget::Key), (SortOrder::Ascend, SortTarget::Key)];
    let sorted = [
        (SortOrder::Descend, SortTarget::Key),
        (SortOrder::Ascend, SortTarget::Mod),
        (SortOrder::None, SortTarget::Value),
    ];
    let with = |(order, target): (SortOrder, SortTarget)| pb::RangeRequest {
        sort_order: order as i32,
        sort_target: target as i32,
        ..range_of("a")
    };
    for order in ok {
        assert_eq!(range_stream(&with(order)), Ok(()), "{order:?}");
    }
    for order in sorted {
        assert_eq!(range_stream(&with(order)), Err(Status::STREAM_SORTED), "{order:?}");
    }
    for filtered in [
        pb::RangeRequest { min_mod_revision: 1, ..range_of("a") },
        pb::RangeRequest { max_mod_revision: 1, ..range_of("a") },
        pb::RangeRequest { min_create_revision: 1, ..range_of("a") },
        pb::RangeRequest { max_create_revision: 1, ..range_of("a") },
    ] {
        assert_eq!(range_stream(&filtered), Err(Status::STREAM_FILTERED));
    }
    assert_eq!(range_stream(&range_of("")), Err(Status::EMPTY_KEY));
}

#[test]
fn a_lease_lives_long_enough_and_not_too_long() {
    assert_eq!(lease_ttl_s(-5, 2), Ok(2));
    assert_eq!(lease_ttl_s(1, 2), Ok(2));
    assert_eq!(lease_ttl_s(LEASE_TTL_MAX_S, 2), Ok(LEASE_TTL_MAX_S));
    assert_eq!(lease_ttl_s(LEASE_TTL_MAX_S + 1, 2), Err(Status::LEASE_TTL_TOO_LARGE));
}
