//! Answers looked at without decoding them: a reply of a thousand keys is counted, not built.
//! It knows protobuf's wire format and the few field numbers it needs.

use bytes::{Buf, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// `RangeResponse.kvs`
const RANGE_KVS: u32 = 2;
/// `RangeResponse.count`
const RANGE_COUNT: u32 = 4;

/// The keys that a `RangeResponse` carries; its count when it carries none.
///
/// # Errors
/// When the bytes are not a protobuf message.
pub fn range_response_keys(reply: &Bytes) -> Result<u64, DecodeError> {
    let mut rest: &[u8] = reply;
    let (mut keys, mut count) = (0, 0);
    while rest.has_remaining() {
        let (field, wire_type) = decode_key(&mut rest)?;
        if field == RANGE_COUNT && wire_type == WireType::Varint {
            count = decode_varint(&mut rest)?;
        } else {
            keys += u64::from(field == RANGE_KVS);
            skip_field(wire_type, field, &mut rest, DecodeContext::default())?;
        }
    }
    Ok(if keys == 0 { count } else { keys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cored_proto::etcdserverpb::RangeResponse;
    use cored_proto::mvccpb::KeyValue;
    use prost::Message;

    #[test]
    fn keys_are_counted_as_the_decoder_sees_them() {
        let kv = KeyValue { key: "k".into(), value: vec![7; 300].into(), ..KeyValue::default() };
        for keys in [0, 1, 1000] {
            let response = RangeResponse {
                kvs: vec![kv.clone(); keys],
                count: 5000,
                ..RangeResponse::default()
            };
            let counted = range_response_keys(&response.encode_to_vec().into());
            assert_eq!(counted, Ok(if keys == 0 { 5000 } else { keys as u64 }));
        }
        assert!(range_response_keys(&Bytes::from_static(&[0x12, 0xff])).is_err());
    }
}
