//! Requests as a server would read them.

use super::*;
use crate::framing::PREFIX_BYTES;
use crate::keyspace::Shape;
use cored_proto::etcdserverpb::{RangeResponse, ResponseHeader, ResponseOp};
use cored_proto::mvccpb::KeyValue;

fn settings(mix: Mix, shape: Shape, keys: u64) -> Settings {
    Settings {
        mix,
        names: KeyNames::new("", 8, keys).unwrap(),
        picker: KeyPicker::new(shape, keys),
        value_len_bytes: 32,
        range_keys: 1,
        limit: 0,
        serializable: false,
        keys_only: false,
        count_only: false,
        fill_keys_per_txn: 100,
        tag: Tag::Number,
    }
}

fn workload(settings: Settings) -> Workload {
    Workload::new(Arc::new(settings), 1, 0)
}

fn read<M: Message + Default>(operation: &Operation) -> M {
    M::decode(operation.framed.slice(PREFIX_BYTES..)).unwrap()
}

#[test]
fn mixes_are_read_and_wrong_ones_refused() {
    let mix: Mix = "put=60,range=39.5%, txn-cas=0.5".parse().unwrap();
    assert_eq!(mix.0, [(Kind::Put, 60.0), (Kind::Range, 39.5), (Kind::TxnCas, 0.5)]);
    for wrong in
        ["", "put", "put=50", "put=50,put=50", "put=100,range=0", "put=-1,range=101", "get=100"]
    {
        assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
    }
}

#[test]
fn a_mix_is_drawn_in_its_shares() {
    let mix: Mix = "put=70,range=20,delete=10".parse().unwrap();
    let mut workload = workload(settings(mix, Shape::Uniform, 100));
    let mut seen = [0_u32; 3];
    for _ in 0..10_000 {
        seen[workload.next(0).unwrap().kind] += 1;
    }
    for (seen, expected) in seen.into_iter().zip([7_000, 2_000, 1_000]) {
        assert!(seen.abs_diff(expected) < 250, "{seen} of {expected}");
    }
}

#[test]
fn puts_carry_their_tag_and_no_two_are_alike() {
    let mut workload = workload(settings(Mix::only(Kind::Put), Shape::Sequential, 100));
    let (first, second) = (workload.next(0).unwrap(), workload.next(0).unwrap());
    assert_ne!(first.write, second.write);
    let put: PutRequest = read(&first);
    assert_eq!((&put.key[..], put.value.len()), (&b"00000000"[..], 32));
    let Write::Value { tag, keys: 1 } = first.write else { panic!("{:?}", first.write) };
    assert_eq!(crate::verify::read_tag(&put.value), Some(tag));
}

#[test]
fn a_value_can_tell_when_it_was_due() {
    let mut settings = settings(Mix::only(Kind::Put), Shape::Sequential, 100);
    settings.tag = Tag::Due;
    let put: PutRequest = read(&workload(settings).next(1_234_567).unwrap());
    assert_eq!(crate::verify::read_tag(&put.value), Some(1_234_567));
}

#[test]
fn ranges_stay_inside_the_key_space() {
    let mut settings = settings(Mix::only(Kind::Range), Shape::Uniform, 1000);
    settings.range_keys = 900;
    settings.limit = 10;
    let mut workload = workload(settings);
    for _ in 0..100 {
        let range: RangeRequest = read(&workload.next(0).unwrap());
        assert!(range.key <= b"00000100"[..] && range.range_end <= b"00001000"[..]);
        assert_eq!(range.limit, 10);
    }
}

#[test]
fn a_swap_expects_what_the_last_answer_showed() {
    let mut workload = workload(settings(Mix::only(Kind::TxnCas), Shape::Sequential, 1));
    let expects = |operation: &Operation| {
        read::<TxnRequest>(operation).compare[0].target_union.clone().unwrap()
    };
    let first = workload.next(0).unwrap();
    assert_eq!(expects(&first), compare::TargetUnion::ModRevision(0));

    let found = KeyValue { mod_revision: 7, ..KeyValue::default() };
    let range = RangeResponse { kvs: vec![found], ..RangeResponse::default() };
    let failed = TxnResponse {
        succeeded: false,
        responses: vec![ResponseOp { response: Some(response_op::Response::ResponseRange(range)) }],
        ..TxnResponse::default()
    };
    let answer = workload.answered(&first, failed.encode_to_vec().into()).unwrap();
    assert_eq!(answer, Answer { compare_failed: true, ..Answer::default() });
    let second = workload.next(0).unwrap();
    assert_eq!(expects(&second), compare::TargetUnion::ModRevision(7));

    let header = Some(ResponseHeader { revision: 9, ..ResponseHeader::default() });
    let succeeded = TxnResponse { succeeded: true, header, ..TxnResponse::default() };
    let answer = workload.answered(&second, succeeded.encode_to_vec().into()).unwrap();
    assert_eq!(answer.written_at, Some(9));
    assert_eq!(expects(&workload.next(0).unwrap()), compare::TargetUnion::ModRevision(9));
}

#[test]
fn a_fill_writes_every_key_once_and_ends() {
    let mut workload = workload(settings(Mix::only(Kind::Fill), Shape::Sequential, 250));
    let mut keys = Vec::new();
    while let Some(operation) = workload.next(0) {
        let txn: TxnRequest = read(&operation);
        for op in txn.success {
            let Some(request_op::Request::RequestPut(put)) = op.request else { panic!() };
            keys.push(String::from_utf8(put.key.to_vec()).unwrap());
        }
    }
    let expected: Vec<String> = (0..250).map(|i| format!("{i:08}")).collect();
    assert_eq!(keys, expected);
}
