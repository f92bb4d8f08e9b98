use super::*;
use crate::api::Caller;
use crate::api::status::Code;
use crate::api::tests::double::{IDENTITY, Stream, TERM, World, settings};
use crate::engine::Error;

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: IDENTITY.cluster_id,
        member_id: IDENTITY.member_id,
        revision,
        raft_term: TERM,
    })
}

fn put(world: &mut World, key: &str, value: &str) -> pb::PutResponse {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    let put = pb::PutRequest { key, value, prev_kv: true, ..Default::default() };
    world.call("etcdserverpb.KV/Put", &put).expect("puts")
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

fn range(world: &mut World, request: &pb::RangeRequest) -> pb::RangeResponse {
    world.call("etcdserverpb.KV/Range", request).expect("ranges")
}

/// The pieces of a streamed range, and how it ended.
fn pieces(
    world: &mut World,
    request: &pb::RangeRequest,
) -> (Vec<pb::RangeStreamResponse>, Option<Status>) {
    let mut stream = world.open("etcdserverpb.KV/RangeStream", Caller::default());
    world.send(&stream, request);
    let pieces = std::iter::from_fn(|| world.receive_or_end(&mut stream)).collect();
    (pieces, stream.end)
}

fn merged(pieces: &[pb::RangeStreamResponse]) -> pb::RangeResponse {
    let mut whole = Vec::new();
    for piece in pieces {
        let piece = piece.range_response.as_ref().expect("a piece");
        piece.encode(&mut whole).expect("a Vec grows");
    }
    pb::RangeResponse::decode(&whole[..]).expect("messages one after the other are merged")
}

#[test]
fn a_put_is_answered_with_its_revision_and_what_was_there() {
    let mut world = World::new();
    let first = put(&mut world, "a", "1");
    assert_eq!(first, pb::PutResponse { header: header(2), prev_kv: None });
    let second = put(&mut world, "a", "2");
    assert_eq!(second.header, header(3));
    assert_eq!(second.prev_kv.map(|kv| (kv.value, kv.mod_revision)), Some(("1".into(), 2)));
}

#[test]
fn a_range_is_encoded_as_prost_would() {
    let mut world = World::new();
    put(&mut world, "a", "1");
    put(&mut world, "b", "2");
    for request in [
        all(),
        pb::RangeRequest { limit: 1, ..all() },
        pb::RangeRequest { count_only: true, ..all() },
        pb::RangeRequest { key: "none".into(), ..Default::default() },
    ] {
        let bytes = prost::Message::encode_to_vec(&request).into();
        let answer = world.call_bytes("etcdserverpb.KV/Range", bytes).expect("ranges");
        let decoded = pb::RangeResponse::decode(answer.clone()).expect("decodes");
        assert_eq!(decoded.encode_to_vec(), answer, "{request:?}");
        assert_eq!(decoded.header, header(3));
    }
    let limited = range(&mut world, &pb::RangeRequest { limit: 1, ..all() });
    assert_eq!((limited.kvs.len(), limited.more, limited.count), (1, true, 2));
}

#[test]
fn a_long_range_says_the_same_as_a_short_one() {
    let mut world = World::new();
    let value = "v".repeat(APPEND_BYTES);
    put(&mut world, "a", &value);
    let long = range(&mut world, &all());
    assert_eq!((long.header, long.count, long.more), (header(2), 1, false));
    assert_eq!(long.kvs.len(), 1);
    assert_eq!(long.kvs[0].value, value);
}

#[test]
fn a_reply_of_any_numbers_survives_its_encoding() {
    for count in [0, 1, 127, 128, i64::MAX, -1] {
        for more in [false, true] {
            for kvs in [0, 3, APPEND_BYTES] {
                let kv = KeyValue { key: vec![b'k'; kvs].into(), ..Default::default() };
                let kvs = if kvs == 0 { Vec::new() } else { vec![kv] };
                let encoded = pb::RangeResponse { kvs: kvs.clone(), ..Default::default() };
                let encoded = BytesMut::from(&encoded.encode_to_vec()[..]);
                let reply = RangeReply { kvs: encoded, more, count };
                let bytes = range_response(header(i64::MAX), reply);
                let decoded = pb::RangeResponse::decode(bytes).expect("decodes");
                let expected = pb::RangeResponse { header: header(i64::MAX), kvs, more, count };
                assert_eq!(decoded, expected);
            }
        }
    }
}

#[test]
fn only_the_outermost_header_of_a_transaction_says_who_answered() {
    use pb::request_op::Request as Op;
    use pb::response_op::Response;
    let mut world = World::new();
    let op = |request| pb::RequestOp { request: Some(request) };
    let put = |key: &str| {
        let key = key.to_owned().into();
        op(Op::RequestPut(pb::PutRequest { key, ..Default::default() }))
    };
    let nested = pb::TxnRequest { success: vec![put("b")], ..Default::default() };
    let success = vec![put("a"), op(Op::RequestTxn(nested))];
    let txn = pb::TxnRequest { success, ..Default::default() };
    let response: pb::TxnResponse = world.call("etcdserverpb.KV/Txn", &txn).expect("runs");
    assert_eq!(response.header, header(2));
    let Some(Response::ResponsePut(put)) = &response.responses[0].response else { panic!() };
    let bare = pb::ResponseHeader { revision: 2, ..Default::default() };
    assert_eq!(put.header, Some(bare));
    let Some(Response::ResponseTxn(inner)) = &response.responses[1].response else { panic!() };
    assert_eq!(inner.header, Some(pb::ResponseHeader::default()));
}

#[test]
fn compaction_hides_the_past_once() {
    let mut world = World::new();
    put(&mut world, "a", "1");
    put(&mut world, "a", "2");
    let compact = pb::CompactionRequest { revision: 3, physical: false };
    let path = "etcdserverpb.KV/Compact";
    let done: pb::CompactionResponse = world.call(path, &compact).expect("compacts");
    assert_eq!(done.header, header(3));
    let again = world.call::<pb::CompactionResponse>(path, &compact);
    assert_eq!(again, Err(Status::COMPACTED));
    let future = pb::CompactionRequest { revision: 9, physical: false };
    let future = world.call::<pb::CompactionResponse>(path, &future);
    assert_eq!(future, Err(Status::FUTURE_REVISION));
    let old = pb::RangeRequest { revision: 2, ..all() };
    let old = world.call::<pb::RangeResponse>("etcdserverpb.KV/Range", &old);
    assert_eq!(old, Err(Status::COMPACTED));
}

#[test]
fn malformed_messages_are_grpcs_own_error() {
    let mut world = World::new();
    for bytes in
        [&b"\xff"[..], b"\x0a\x05a", b"\x0b", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"]
    {
        for path in ["etcdserverpb.KV/Put", "etcdserverpb.KV/Range", "etcdserverpb.KV/Txn"] {
            let refused = world.call_bytes(path, Bytes::from_static(bytes)).expect_err(path);
            assert_eq!(refused.code, Code::Internal);
            let text =
                "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
            assert_eq!(refused.message, text);
        }
    }
    let (_, end) = {
        let mut stream = world.open("etcdserverpb.KV/RangeStream", Caller::default());
        world.send_bytes(&stream, Bytes::from_static(b"\xff"));
        (world.receive_or_end::<pb::RangeStreamResponse>(&mut stream), stream.end)
    };
    let text = "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
    assert_eq!(end.map(|end| (end.code, end.message)), Some((Code::Internal, text.into())));
}

/// Transactions in transactions in transactions: the decoder gives up before the stack does.
#[test]
fn nesting_without_end_is_refused() {
    let mut message = Vec::new();
    for _ in 0..20_000 {
        for tag in [0x22, 0x12] {
            let mut outer = vec![tag];
            encode_varint(message.len() as u64, &mut outer);
            outer.append(&mut message);
            message = outer;
        }
        if message.len() > 64 << 10 {
            break;
        }
    }
    let refused = World::new().call_bytes("etcdserverpb.KV/Txn", message.into());
    assert_eq!(refused.map_err(|status| status.code), Err(Code::Internal));
}

#[test]
fn a_streamed_range_merges_to_the_range() {
    let mut world = World::new();
    for n in 0..57 {
        put(&mut world, &format!("k{n:03}"), "v");
    }
    for request in [
        all(),
        pb::RangeRequest { limit: 1, ..all() },
        pb::RangeRequest { limit: 10, ..all() },
        pb::RangeRequest { limit: 25, ..all() },
        pb::RangeRequest { limit: 57, ..all() },
        pb::RangeRequest { limit: -3, ..all() },
        pb::RangeRequest { keys_only: true, limit: 31, ..all() },
        pb::RangeRequest { count_only: true, ..all() },
        pb::RangeRequest { revision: 20, ..all() },
        pb::RangeRequest { key: "none".into(), ..Default::default() },
    ] {
        let (pieces, end) = pieces(&mut world, &request);
        assert_eq!(end, None);
        assert_eq!(merged(&pieces), range(&mut world, &request), "{request:?}");
        let (last, before) = pieces.split_last().expect("one at least");
        let last = last.range_response.as_ref().expect("a piece");
        assert!(last.header.is_some());
        for piece in before {
            let piece = piece.range_response.as_ref().expect("a piece");
            assert!(piece.header.is_none() && piece.count == 0 && !piece.more);
        }
    }
    let (pieces, _) = pieces(&mut world, &all());
    let lens: Vec<usize> = pieces
        .iter()
        .map(|piece| piece.range_response.as_ref().map_or(0, |piece| piece.kvs.len()))
        .collect();
    assert_eq!(lens, [10, 20, 27], "pieces grow while they are small");
}

#[test]
fn a_streamed_range_shows_one_revision() {
    let mut world = World::with(crate::api::Settings { max_request_bytes: 1 << 20, ..settings() });
    let value = "v".repeat(64 << 10);
    for n in 0..30 {
        put(&mut world, &format!("k{n:03}"), &value);
    }
    let mut stream = world.open("etcdserverpb.KV/RangeStream", Caller::default());
    world.send(&stream, &all());
    // The client is slow, so only the first piece was read when the store changes.
    put(&mut world, "k999", "new");
    put(&mut world, "k029", "changed");
    let pieces: Vec<pb::RangeStreamResponse> =
        std::iter::from_fn(|| world.receive_or_end(&mut stream)).collect();
    assert!(pieces.len() > 1, "the range is too long for one piece");
    let whole = merged(&pieces);
    assert_eq!((whole.kvs.len(), whole.count, whole.header), (30, 30, header(31)));
    assert_eq!(whole.kvs[29].value, value);
}

#[test]
fn a_slow_reader_of_a_range_holds_it_back_and_its_leaving_ends_it() {
    let mut world = World::new();
    let value = "v".repeat(100 << 10);
    for n in 0..100 {
        put(&mut world, &format!("k{n:03}"), &value);
    }
    let asked = world.model.asked.len();
    let mut stream = world.open("etcdserverpb.KV/RangeStream", Caller::default());
    world.send(&stream, &all());
    assert_eq!(world.model.asked.len() - asked, 1, "one piece waits, no other was read");
    stream.responses = None;
    world.run();
    assert!(!world.serves(&stream));
    assert_eq!(world.model.asked.len() - asked, 1);
}

#[test]
fn a_streamed_range_is_refused_like_a_range() {
    let mut world = World::new();
    let refused = |world: &mut World, request: &pb::RangeRequest| {
        let (pieces, end) = pieces(world, request);
        assert_eq!(pieces, []);
        end
    };
    let sorted = pb::RangeRequest { sort_order: 2, ..all() };
    assert_eq!(refused(&mut world, &sorted), Some(Status::STREAM_SORTED));
    assert_eq!(refused(&mut world, &pb::RangeRequest::default()), Some(Status::EMPTY_KEY));
    let future = pb::RangeRequest { revision: 9, ..all() };
    assert_eq!(refused(&mut world, &future), Some(Status::FUTURE_REVISION));
    world.model.refuses = Some(Error::NoLeader);
    assert_eq!(refused(&mut world, &all()), Some(Status::NO_LEADER));
    let mut stream: Stream = world.open("etcdserverpb.KV/RangeStream", Caller::default());
    world.close_send(&mut stream);
    assert_eq!(world.receive_or_end::<pb::RangeStreamResponse>(&mut stream), None);
    assert_eq!(stream.end, Some(Status::NO_REQUEST));
}

#[test]
fn pieces_aim_at_the_wanted_size() {
    assert_eq!(next_keys_max(10, 40, 100), 20);
    assert_eq!(next_keys_max(10, 50, 100), 10);
    assert_eq!(next_keys_max(10, 200, 100), 10);
    assert_eq!(next_keys_max(10, 201, 100), 5);
    assert_eq!(next_keys_max(1, 201, 100), 1);
}
