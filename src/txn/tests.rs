use bytes::Bytes;

use super::gathered::{Gathered, OwnedRow};
use super::*;

fn state(keys: &[(&str, &str)]) -> Gathered {
    let mut state = Gathered { current: Revision(9), ..Gathered::default() };
    for (key, value) in keys {
        let row = OwnedRow {
            value: Bytes::copy_from_slice(value.as_bytes()),
            create: Revision(5),
            modified: Revision(7),
            version: 2,
            lease: LeaseId::NONE,
        };
        state.newest.insert(Bytes::copy_from_slice(key.as_bytes()), row);
    }
    state
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put(key: &str, value: &str) -> pb::RequestOp {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    op(Request::RequestPut(pb::PutRequest { key, value, ..Default::default() }))
}

fn delete(key: &str, end: &str) -> pb::RequestOp {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    op(Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: false }))
}

fn range(key: &str, end: &str) -> pb::RequestOp {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    op(Request::RequestRange(pb::RangeRequest { key, range_end, ..Default::default() }))
}

fn compare(
    key: &str,
    target: CompareTarget,
    result: CompareResult,
    union: TargetUnion,
) -> pb::Compare {
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: key.to_owned().into(),
        target_union: Some(union),
        ..Default::default()
    }
}

fn run(state: &mut Gathered, txn: &pb::TxnRequest) -> Result<Executed, Refusal> {
    let plan = plan(state, txn)?;
    Ok(execute(state, txn, &plan, &mut || Revision(10)))
}

#[test]
fn an_absent_key_has_zero_numbers_and_no_value() {
    let state = state(&[]);
    for (result, holds_for_zero) in [
        (CompareResult::Equal, true),
        (CompareResult::NotEqual, false),
        (CompareResult::Less, false),
    ] {
        let version = compare("a", CompareTarget::Version, result, TargetUnion::Version(0));
        assert_eq!(holds(&state, &version), holds_for_zero, "{result:?}");
        let value = compare("a", CompareTarget::Value, result, TargetUnion::Value(Bytes::new()));
        assert!(!holds(&state, &value), "{result:?}");
    }
}

#[test]
fn what_a_compare_does_not_give_is_zero_or_empty() {
    let state = state(&[("a", "1"), ("empty", "")]);
    let bare = |key: &str, result| {
        let value = TargetUnion::Value(Bytes::new());
        let given = compare(key, CompareTarget::Value, result, value);
        holds(&state, &pb::Compare { target_union: None, ..given })
    };
    assert!(!bare("a", CompareResult::Equal));
    assert!(bare("a", CompareResult::Greater));
    assert!(bare("empty", CompareResult::Equal));
    assert!(!bare("absent", CompareResult::Equal));
}

#[test]
fn a_range_compare_holds_only_if_it_holds_for_every_key() {
    let state = state(&[("a", "1"), ("b", "2")]);
    let mut all =
        compare("a", CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(2));
    all.range_end = "z".into();
    assert!(holds(&state, &all));
    let value = TargetUnion::Value("1".into());
    let mut one = compare("a", CompareTarget::Value, CompareResult::Equal, value);
    assert!(holds(&state, &one));
    one.range_end = "z".into();
    assert!(!holds(&state, &one));
}

#[test]
fn reads_see_the_writes_before_them_and_headers_tell_when() {
    let mut state = state(&[("a", "1")]);
    let success = vec![range("a", ""), put("a", "2"), range("a", ""), delete("a", "")];
    let txn = pb::TxnRequest { success, ..Default::default() };
    let mut executed = run(&mut state, &txn).expect("runs");
    assert_eq!(executed.revision, Some(Revision(10)));
    fill_headers(&mut executed.response, Revision(9));
    let ranges: Vec<_> = executed
        .response
        .responses
        .iter()
        .filter_map(|op| match &op.response {
            Some(Response::ResponseRange(range)) => Some(range),
            _ => None,
        })
        .collect();
    assert_eq!(ranges[0].header.as_ref().map(|header| header.revision), Some(9));
    assert_eq!(ranges[1].header.as_ref().map(|header| header.revision), Some(10));
    let kv = &ranges[1].kvs[0];
    assert_eq!((&kv.value[..], kv.mod_revision, kv.version), (&b"2"[..], 10, 3));
    assert_eq!(state.writes.len(), 2);
}

#[test]
fn nested_compares_look_at_the_state_before_the_transaction() {
    let mut state = state(&[]);
    let absent =
        compare("n", CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(0));
    let nested = pb::TxnRequest {
        compare: vec![absent],
        success: vec![put("seen", "absent")],
        failure: vec![put("seen", "present")],
    };
    let success = vec![put("n", "1"), op(Request::RequestTxn(nested))];
    let txn = pb::TxnRequest { success, ..Default::default() };
    run(&mut state, &txn).expect("runs");
    assert_eq!(state.get(b"seen").map(|row| row.value.to_vec()), Some(b"absent".to_vec()));
}

#[test]
fn a_refused_operation_stops_the_whole_transaction_before_it_begins() {
    let mut state = state(&[("a", "1")]);
    let future = op(Request::RequestRange(pb::RangeRequest {
        key: "a".into(),
        revision: 99,
        ..Default::default()
    }));
    let txn = pb::TxnRequest { success: vec![put("x", "1"), future], ..Default::default() };
    assert_eq!(run(&mut state, &txn).map(|_| ()), Err(Refusal::FutureRevision));
    assert!(state.writes.is_empty());
}

#[test]
fn a_comparison_without_its_operand_compares_with_zero_or_nothing() {
    let state = state(&[("a", "1")]);
    let value = |result| pb::Compare {
        result: result as i32,
        target: CompareTarget::Value as i32,
        key: "a".into(),
        ..Default::default()
    };
    assert!(holds(&state, &value(CompareResult::Greater)));
    assert!(!holds(&state, &value(CompareResult::Equal)));
}

#[test]
fn a_negative_revision_is_a_compacted_one_inside_a_transaction() {
    let mut state = state(&[("a", "1")]);
    let past = op(Request::RequestRange(pb::RangeRequest {
        key: "a".into(),
        revision: -1,
        ..Default::default()
    }));
    let txn = pb::TxnRequest { success: vec![past], ..Default::default() };
    assert_eq!(run(&mut state, &txn).map(|_| ()), Err(Refusal::Compacted));
}

/// The transaction that makes etcd 3.7.3 panic at once and at every restart.
#[test]
fn keeping_the_value_of_a_key_deleted_from_key_on_is_key_not_found() {
    let mut state = state(&[("b", "1")]);
    let keep = op(Request::RequestPut(pb::PutRequest {
        key: "b".into(),
        ignore_value: true,
        ..Default::default()
    }));
    let txn = pb::TxnRequest { success: vec![delete("a", "\0"), keep], ..Default::default() };
    assert!(!has_duplicates(&txn), "etcd's check does not see it");
    assert_eq!(run(&mut state, &txn).map(|_| ()), Err(Refusal::KeyNotFound));
    assert!(state.writes.is_empty());
    let txn =
        pb::TxnRequest { success: vec![delete("a", "\0"), put("b", "2")], ..Default::default() };
    run(&mut state, &txn).expect("a put with a value is as good as new");
    assert_eq!(state.get(b"b").map(|row| (row.version, row.create)), Some((1, Revision(10))));
}

#[test]
fn two_writes_of_a_key_on_one_branch_are_duplicates() {
    let txn = |success: Vec<pb::RequestOp>| pb::TxnRequest { success, ..Default::default() };
    let nested = |success, failure| {
        op(Request::RequestTxn(pb::TxnRequest { success, failure, ..Default::default() }))
    };
    assert!(has_duplicates(&txn(vec![put("a", "1"), put("a", "2")])));
    assert!(has_duplicates(&txn(vec![put("b", "1"), delete("a", "c")])));
    assert!(!has_duplicates(&txn(vec![put("c", "1"), delete("a", "c")])));
    assert!(!has_duplicates(&txn(vec![delete("a", "c"), delete("b", "d")])));
    assert!(!has_duplicates(&txn(vec![nested(vec![put("a", "1")], vec![put("a", "2")])])));
    assert!(has_duplicates(&txn(vec![
        nested(vec![put("a", "1")], vec![]),
        nested(vec![], vec![put("a", "2")]),
    ])));
    assert!(has_duplicates(&txn(vec![put("a", "1"), nested(vec![delete("a", "")], vec![])])));
}

#[test]
fn a_range_is_filtered_sorted_and_cut_in_that_order() {
    let mut state = state(&[("a", "3"), ("b", "1"), ("c", "2")]);
    let request = pb::RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        limit: 2,
        sort_order: SortOrder::Descend as i32,
        sort_target: SortTarget::Value as i32,
        keys_only: true,
        ..Default::default()
    };
    let txn =
        pb::TxnRequest { success: vec![op(Request::RequestRange(request))], ..Default::default() };
    let executed = run(&mut state, &txn).expect("runs");
    assert_eq!(executed.revision, None);
    let Some(Response::ResponseRange(answer)) = &executed.response.responses[0].response else {
        panic!("a range answers a range")
    };
    let keys: Vec<_> = answer.kvs.iter().map(|kv| &kv.key[..]).collect();
    assert_eq!((keys, answer.more, answer.count), (vec![&b"a"[..], b"c"], true, 3));
    assert!(answer.kvs.iter().all(|kv| kv.value.is_empty()));
}
