//! What goes in and out of the gateway, compared with what etcd 3.7.3 says to the same.

use bytes::BytesMut;
use cored_proto::shape::{self, Field, Kind, Shape};
use prost::Message;

use super::routes::{ROUTES, table};
use super::scan::{Found, Scanner};
use super::{read, write};
use crate::front::tests::numbers::Numbers;

fn shape_of(name: &str) -> &'static Shape {
    shape::find(&format!("etcdserverpb.{name}")).expect("a message of the API")
}

/// The first value of a text, or what is wrong with it.
fn first_value(text: &[u8]) -> Result<&[u8], String> {
    let mut scanner = Scanner::default();
    for (at, &byte) in text.iter().enumerate() {
        match scanner.take(byte)? {
            Found::More => {}
            Found::End => return Ok(text[..=at].trim_ascii_start()),
            Found::EndBefore => return Ok(text[..at].trim_ascii_start()),
        }
    }
    if scanner.is_number() { Ok(text.trim_ascii()) } else { Err("unexpected EOF".into()) }
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>, String> {
    read::message(first_value(text.as_bytes())?, shape_of(name))
}

fn json(bytes: &[u8], shape: &'static Shape) -> String {
    let mut out = BytesMut::new();
    write::message(bytes, shape, &mut out).expect("an encoded message");
    String::from_utf8(out.to_vec()).expect("text")
}

#[test]
fn requests_are_read_as_etcd_reads_them() {
    for (name, text, expected) in [
        ("PutRequest", r#"{"key":"YQ==","prevKv":true}"#, r#"{"key":"YQ==","prev_kv":true}"#),
        ("PutRequest", r#"{"key":"YQ"}"#, r#"{"key":"YQ=="}"#),
        ("PutRequest", r#"{"key":"Y-_Q"}"#, r#"{"key":"Y+/Q"}"#),
        ("PutRequest", r#"{"key":"Y\u002b\/Q"}"#, r#"{"key":"Y+/Q"}"#),
        ("PutRequest", r#" {"key" : null , "value":""} "#, "{}"),
        ("PutRequest", r#"{"lease":1e3}"#, r#"{"lease":"1000"}"#),
        ("PutRequest", r#"{"lease":"1e3"}"#, r#"{"lease":"1000"}"#),
        ("PutRequest", r#"{"lease":1.50E1}"#, r#"{"lease":"15"}"#),
        ("PutRequest", r#"{"lease":1200e-2}"#, r#"{"lease":"12"}"#),
        ("PutRequest", r#"{"lease":-0.0}"#, "{}"),
        (
            "PutRequest",
            r#"{"lease":"-9223372036854775808"}"#,
            r#"{"lease":"-9223372036854775808"}"#,
        ),
        (
            "PutRequest",
            r#"{"what":{"a":[1,{"b":null}],"c":"}"},"key":"YQ=="}"#,
            r#"{"key":"YQ=="}"#,
        ),
        ("PutRequest", r#"{"key":"YQ=="} garbage"#, r#"{"key":"YQ=="}"#),
        (
            "RangeRequest",
            r#"{"sort_order":"DESCEND","sortTarget":2}"#,
            r#"{"sort_order":"DESCEND","sort_target":"CREATE"}"#,
        ),
        ("RangeRequest", r#"{"sort_order":"NOPE","sort_target":"1"}"#, "{}"),
        ("RangeRequest", r#"{"sort_order":7}"#, r#"{"sort_order":7}"#),
        ("LeaseGrantRequest", r#"{"TTL":60,"ID":"77","id":5}"#, r#"{"TTL":"60","ID":"77"}"#),
        ("Compare", r#"{"version":0}"#, r#"{"version":"0"}"#),
        ("TxnRequest", r#"{"compare":null,"success":[]}"#, "{}"),
        (
            "TxnRequest",
            r#"{"success":[{"requestRange":{"key":"YQ=="}},{"request_txn":{}},{}]}"#,
            r#"{"success":[{"request_range":{"key":"YQ=="}},{"request_txn":{}},{}]}"#,
        ),
        (
            "WatchRequest",
            r#"{"create_request":{"filters":["NODELETE",0,"NOPE"]}}"#,
            r#"{"create_request":{"filters":["NODELETE","NOPUT"]}}"#,
        ),
        ("WatchRequest", r#"{"progress_request":{}}"#, r#"{"progress_request":{}}"#),
        (
            "AuthUserAddRequest",
            r#"{"name":"\ud83d\ude00\n\"","password":"\u0001"}"#,
            "{\"name\":\"\u{1f600}\\n\\\"\",\"password\":\"\\u0001\"}",
        ),
    ] {
        let bytes = decode(name, text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(json(&bytes, shape_of(name)), expected, "{text}");
    }
}

#[test]
fn wrong_requests_are_refused_in_etcds_words() {
    for (name, text, expected) in [
        ("PutRequest", "{", "unexpected EOF"),
        ("PutRequest", "x", "invalid character 'x' looking for beginning of value"),
        (
            "PutRequest",
            r#"{"key":"YQ==",}"#,
            "invalid character '}' looking for beginning of object key string",
        ),
        (
            "PutRequest",
            r#"{"key":"YQ==" "a":1}"#,
            "invalid character '\"' after object key:value pair",
        ),
        ("PutRequest", r#"{"key" 1}"#, "invalid character '1' after object key"),
        ("PutRequest", "[1 2]", "invalid character '2' after array element"),
        ("PutRequest", r#"{"a":tru}"#, "invalid character '}' in literal true (expecting 'e')"),
        ("PutRequest", r#"{"a":01}"#, "invalid character '1' after object key:value pair"),
        (
            "PutRequest",
            r#"{"a":1.}"#,
            "invalid character '}' after decimal point in numeric literal",
        ),
        ("PutRequest", r#"{"a":1e}"#, "invalid character '}' in exponent of numeric literal"),
        ("PutRequest", r#"{"a":"\x"}"#, "invalid character 'x' in string escape code"),
        ("PutRequest", "{\"a\":\"\n\"}", "invalid character '\\n' in string literal"),
        (
            "PutRequest",
            r#"{"a":"\u00g0"}"#,
            "invalid character 'g' in \\u hexadecimal character escape",
        ),
        ("PutRequest", "[]", "proto: syntax error (line 1:1): unexpected token ["),
        ("PutRequest", "null", "proto: syntax error (line 1:1): unexpected token null"),
        ("PutRequest", "\"a\"", "proto: syntax error (line 1:1): unexpected token \"a\""),
        ("PutRequest", " 12", "proto: syntax error (line 1:1): unexpected token 12"),
        ("PutRequest", r#"{"key":1}"#, "proto: (line 1:8): invalid value for bytes field key: 1"),
        (
            "PutRequest",
            r#"{"key":"a b"}"#,
            "proto: (line 1:8): invalid value for bytes field key: \"a b\"",
        ),
        ("PutRequest", r#"{"key":"YQ=="#, "unexpected EOF"),
        (
            "PutRequest",
            "{\n \"lease\": 1.5}",
            "proto: (line 2:11): invalid value for int64 field lease: 1.5",
        ),
        (
            "PutRequest",
            r#"{"key":"YQ==","lease":99999999999999999999}"#,
            "proto: (line 1:23): invalid value for int64 field lease: 99999999999999999999",
        ),
        (
            "PutRequest",
            r#"{"key":"YQ==","prev_kv":"true"}"#,
            "proto: (line 1:25): invalid value for bool field prevKv: \"true\"",
        ),
        (
            "PutRequest",
            r#"{"key":"YQ==","key":"Yg=="}"#,
            "proto: (line 1:15): duplicate field \"key\"",
        ),
        (
            "PutRequest",
            r#"{"key":"YQ==","value":"Yg==","ke\u0079":"YQ=="}"#,
            "proto: (line 1:30): duplicate field \"ke\\u0079\"",
        ),
        (
            "RangeRequest",
            r#"{"key":"YQ==","limit":" 1"}"#,
            "proto: (line 1:23): invalid value for int64 field limit: \" 1\"",
        ),
        (
            "RangeRequest",
            r#"{"key":"YQ==","limit":"01"}"#,
            "proto: (line 1:23): invalid value for int64 field limit: \"01\"",
        ),
        (
            "TxnRequest",
            r#"{"compare":[{"key":"YQ==","target":"VALUE","value":"Yg==","version":"1"}]}"#,
            "proto: (line 1:59): error parsing \"version\", oneof \
             etcdserverpb.Compare.target_union is already set",
        ),
        (
            "TxnRequest",
            r#"{"compare":{"key":"YQ=="}}"#,
            "proto: syntax error (line 1:12): unexpected token {",
        ),
        (
            "TxnRequest",
            r#"{"compare":[null]}"#,
            "proto: syntax error (line 1:13): unexpected token null",
        ),
        (
            "AuthUserAddRequest",
            r#"{"name":5}"#,
            "proto: (line 1:9): invalid value for string field name: 5",
        ),
        ("AuthUserAddRequest", r#"{"name":"\ud800"}"#, "proto: unexpected EOF"),
    ] {
        assert_eq!(decode(name, text), Err(expected.into()), "{text}");
    }
}

#[test]
fn text_that_is_not_utf8_or_too_deep_is_refused() {
    let name = b"{\"name\":\"\xff\"}";
    let error = read::message(first_value(name).expect("a value"), shape_of("AuthUserAddRequest"));
    assert!(error.expect_err("refused").contains("invalid UTF-8"));
    let nested = |depth: usize| {
        let open = "{\"success\":[{\"request_txn\":".repeat(depth);
        format!("{open}{{}}{}", "}]}".repeat(depth))
    };
    assert!(decode("TxnRequest", &nested(40)).is_ok());
    let error = decode("TxnRequest", &nested(1000));
    assert_eq!(error, Err("proto: exceeded max recursion depth".into()));
    let unknown = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(decode("PutRequest", &unknown(9_999)), Ok(Vec::new()));
    let error = decode("PutRequest", &unknown(10_000));
    assert_eq!(error, Err("invalid character '[' exceeded max depth".into()));
}

#[test]
fn responses_are_written_as_etcd_writes_them() {
    use cored_proto::etcdserverpb::{Member, MemberListResponse, RangeResponse, ResponseHeader};
    use cored_proto::mvccpb::KeyValue;
    let header = Some(ResponseHeader {
        cluster_id: 6_001_611_773_266_757_492,
        member_id: u64::MAX,
        revision: -1,
        raft_term: 0,
    });
    let kv = KeyValue { key: "a".into(), version: 8, ..KeyValue::default() };
    let range = RangeResponse { header, kvs: vec![kv, KeyValue::default()], more: true, count: 2 };
    assert_eq!(
        json(&range.encode_to_vec(), shape_of("RangeResponse")),
        "{\"header\":{\"cluster_id\":\"6001611773266757492\",\
         \"member_id\":\"18446744073709551615\",\"revision\":\"-1\"},\
         \"kvs\":[{\"key\":\"YQ==\",\"version\":\"8\"},{}],\"more\":true,\"count\":\"2\"}"
    );
    let member = Member {
        id: 1,
        name: "a".into(),
        peer_ur_ls: vec!["http://x".into()],
        ..Member::default()
    };
    let list = MemberListResponse { header: None, members: vec![member] };
    assert_eq!(
        json(&list.encode_to_vec(), shape_of("MemberListResponse")),
        r#"{"members":[{"ID":"1","name":"a","peerURLs":["http://x"]}]}"#
    );
}

#[test]
fn fields_in_any_order_and_bytes_that_are_no_message() {
    // count, then a key-value, then more, then another key-value; and an unknown field.
    let bytes = b"\x20\x02\x12\x03\x0a\x01a\x18\x01\x12\x03\x0a\x01b\xa0\x06\x01";
    let expected = r#"{"kvs":[{"key":"YQ=="},{"key":"Yg=="}],"more":true,"count":"2"}"#;
    assert_eq!(json(bytes, shape_of("RangeResponse")), expected);
    for bytes in [&b"\x12\x05\x0a"[..], b"\x20", b"\x17", b"\x12\x01\xff", b"\x20\x80"] {
        let mut out = BytesMut::new();
        assert!(write::message(bytes, shape_of("RangeResponse"), &mut out).is_err());
    }
}

/// A random message of a shape, as canonical JSON would have it: fields in order, no zeros.
fn random_message(shape: &'static Shape, numbers: &mut Numbers, depth: usize, out: &mut String) {
    out.push('{');
    let mut seen_oneofs = 0_u32;
    let mut first = true;
    for field in shape.fields {
        let taken = field.oneof.is_some_and(|oneof| seen_oneofs & (1 << oneof) != 0);
        if taken || numbers.below(3) == 0 {
            continue;
        }
        let mut value = String::new();
        if field.repeated {
            let count = if depth > 4 { 0 } else { numbers.below(3) };
            let items: Vec<String> = (0..count)
                .filter_map(|_| {
                    let mut item = String::new();
                    random_value(field, numbers, depth, &mut item).then_some(item)
                })
                .collect();
            if items.is_empty() {
                continue;
            }
            value = format!("[{}]", items.join(","));
        } else if !random_value(field, numbers, depth, &mut value) {
            continue;
        }
        if let Some(oneof) = field.oneof {
            seen_oneofs |= 1 << oneof;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.push_str(&format!("\"{}\":{value}", field.name));
    }
    out.push('}');
}

/// Whether there is a value: a zero is none where presence does not count.
fn random_value(
    field: &'static Field,
    numbers: &mut Numbers,
    depth: usize,
    out: &mut String,
) -> bool {
    let presence = field.repeated || field.oneof.is_some();
    let number = numbers.next() >> numbers.below(64);
    let number = if numbers.below(6) == 0 { 0 } else { number };
    match field.kind {
        Kind::Message(_) if depth > 6 => return false,
        Kind::Message(shape) => random_message(shape, numbers, depth + 1, out),
        Kind::Bool if presence => return false,
        Kind::Bool => out.push_str("true"),
        _ if number == 0 && !presence => return false,
        Kind::Int64 => out.push_str(&format!("\"{}\"", number.cast_signed())),
        Kind::Uint64 => out.push_str(&format!("\"{number}\"")),
        Kind::Uint32 if number as u32 == 0 && !presence => return false,
        Kind::Uint32 => out.push_str(&format!("{}", number as u32)),
        Kind::Enum(names) => {
            let value = names.values[numbers.below(names.values.len() as u64) as usize];
            if value.1 == 0 && !presence {
                return false;
            }
            out.push_str(&format!("\"{}\"", value.0));
        }
        Kind::String => {
            let mut json = BytesMut::new();
            write::string(&format!("{number:x}\u{e9}\"\\\t\u{2028}"), &mut json);
            out.push_str(std::str::from_utf8(&json).expect("text"));
        }
        Kind::Bytes => {
            let bytes = &number.to_be_bytes()[numbers.below(8) as usize..];
            use base64::Engine;
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            out.push_str(&format!("\"{text}\""));
        }
    }
    true
}

#[test]
fn json_survives_the_way_through_protobuf() {
    for seed in 0..400 {
        let mut numbers = Numbers::new(seed);
        for name in ["TxnRequest", "TxnResponse", "WatchRequest", "WatchResponse", "StatusResponse"]
        {
            let mut text = String::new();
            random_message(shape_of(name), &mut numbers, 0, &mut text);
            let bytes = decode(name, &text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(json(&bytes, shape_of(name)), text, "seed {seed}");
            if name == "TxnRequest" {
                // What prost makes of the bytes encodes to the same JSON.
                let decoded = cored_proto::etcdserverpb::TxnRequest::decode(&bytes[..]);
                let again = decoded.expect("an encoded message").encode_to_vec();
                assert_eq!(json(&again, shape_of(name)), text, "seed {seed}");
            }
        }
    }
}

#[test]
fn damaged_json_is_refused_or_read_but_never_more() {
    let text = r#"{"compare":[{"key":"YQ==","target":"VALUE","value":"Yg=="}],"success":[
        {"request_put":{"key":"YWJj","value":"\u0041QI=","lease":"-12"}},{"x":[true,null,1.5e3]}]}"#;
    assert!(decode("TxnRequest", text).is_ok());
    let mut numbers = Numbers::new(7);
    for _ in 0..20_000 {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=numbers.below(3) {
            let at = numbers.below(bytes.len() as u64) as usize;
            match numbers.below(3) {
                0 => bytes[at] = numbers.next() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"{}[]\",:\\u0e-."[numbers.below(13) as usize]),
            }
        }
        if let Ok(value) = first_value(&bytes)
            && let Ok(message) = read::message(value, shape_of("TxnRequest"))
        {
            json(&message, shape_of("TxnRequest"));
        }
    }
}

#[test]
fn every_route_names_a_method_and_no_path_stands_twice() {
    assert_eq!(table().len(), ROUTES.len());
}
