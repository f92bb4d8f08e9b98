use prost::Message as _;

use crate::etcdserverpb::{PutRequest, RequestOp, request_op};
use crate::{DESCRIPTORS, Kind, METHODS};

#[test]
fn bytes_on_the_wire_are_etcds() {
    let put = PutRequest {
        key: "a".into(),
        value: "1".into(),
        lease: 300,
        prev_kv: true,
        ..Default::default()
    };
    assert_eq!(put.encode_to_vec(), b"\x0a\x01a\x12\x011\x18\xac\x02\x20\x01");
    let op = RequestOp { request: Some(request_op::Request::RequestPut(PutRequest::default())) };
    assert_eq!(op.encode_to_vec(), b"\x12\x00");
}

#[test]
fn a_decoded_value_is_a_slice_of_the_buffer_it_came_in() {
    let buffer = bytes::Bytes::from_static(b"\x0a\x01a\x12\x04long");
    let put = PutRequest::decode(buffer.clone()).expect("a valid message");
    assert_eq!(put.value.as_ptr(), buffer[5..].as_ptr());
}

#[test]
fn every_method_is_in_the_table_with_its_kind() {
    let find = |service: &str, name: &str| {
        METHODS
            .iter()
            .find(|method| method.service == service && method.name == name)
            .unwrap_or_else(|| panic!("{service}/{name}"))
    };
    assert_eq!(METHODS.len(), 52);
    assert_eq!(find("etcdserverpb.KV", "Put").kind, Kind::Unary);
    assert_eq!(find("etcdserverpb.KV", "RangeStream").kind, Kind::ServerStream);
    assert_eq!(find("etcdserverpb.KV", "RangeStream").input, "etcdserverpb.RangeRequest");
    assert_eq!(find("etcdserverpb.Watch", "Watch").kind, Kind::BidiStream);
    assert_eq!(find("v3electionpb.Election", "Observe").output, "v3electionpb.LeaderResponse");
    assert_eq!(find("grpc.health.v1.Health", "Watch").kind, Kind::ServerStream);
}

#[test]
fn the_descriptors_list_imports_before_their_users() {
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).expect("written by the build");
    let mut seen = Vec::new();
    for file in &set.file {
        for import in &file.dependency {
            assert!(seen.contains(import), "{} before {import}", file.name());
        }
        seen.push(file.name().to_owned());
    }
    assert_eq!(seen.len(), 6);
}
