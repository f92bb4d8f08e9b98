//! The KV service. Put and Range are most of what a store does, so they do little here: decode,
//! check, ask, and write the answer once into a buffer of its size. A range arrives from the engine
//! already encoded and is not looked at, except where it must be cut into pieces.

use bytes::{BufMut, Bytes, BytesMut};
use cored_proto::Method;
use cored_proto::etcdserverpb as pb;
use cored_proto::mvccpb::KeyValue;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_varint, encoded_len_varint};

use super::status::Status;
use super::stream::Responses;
use super::{Api, check, decode, encode};
use crate::engine::{Answer, RangeReply, Reply, Request};
use crate::keys::Revision;
use crate::txn::cost;

/// Keys in the first piece of a streamed range.
const STREAM_FIRST_KEYS: i64 = 10;

/// A range answer from this size on is not copied behind its header: the header goes to its end.
/// The order of fields means nothing to a reader, and the copy of a long answer costs more than
/// everything else that is done with it here.
const APPEND_BYTES: usize = 16 << 10;

/// Field keys: number and wire type in one byte.
const HEADER: u8 = 1 << 3 | WireType::LengthDelimited as u8;
const KVS: u32 = 2;
const MORE: u8 = 3 << 3 | WireType::Varint as u8;
const COUNT: u8 = 4 << 3 | WireType::Varint as u8;
const RANGE_RESPONSE: u8 = 1 << 3 | WireType::LengthDelimited as u8;

impl Api {
    pub(super) async fn put(&self, request: Bytes) -> Result<Bytes, Status> {
        let len_bytes = request.len();
        let put: pb::PutRequest = decode(request)?;
        self.within_quota(cost::put(&put)).await?;
        check::put(&put)?;
        check::size(len_bytes, self.settings.max_request_bytes)?;
        let answer = self.door.ask(Request::Put(put)).await?;
        let Answer { revision, reply: Reply::Put(mut response) } = answer else {
            unreachable!("a put is answered as a put")
        };
        response.header = Some(self.door.header(revision.0));
        Ok(encode(&response))
    }

    pub(super) async fn range(&self, request: Bytes) -> Result<Bytes, Status> {
        let range: pb::RangeRequest = decode(request)?;
        check::range(&range)?;
        let (revision, reply) = self.ask_range(range).await?;
        Ok(range_response(Some(self.door.header(revision.0)), reply))
    }

    /// The methods of the service that are seldom called.
    pub(super) async fn kv(&self, method: &Method, request: Bytes) -> Result<Bytes, Status> {
        let len_bytes = request.len();
        match method.name {
            "DeleteRange" => {
                let delete: pb::DeleteRangeRequest = decode(request)?;
                check::delete_range(&delete)?;
                check::size(len_bytes, self.settings.max_request_bytes)?;
                Ok(encode(&self.delete_range(delete).await?))
            }
            "Txn" => {
                let txn: pb::TxnRequest = decode(request)?;
                self.within_quota(cost::txn(&txn)).await?;
                check::txn(&txn, self.settings.max_txn_ops)?;
                if !cost::only_reads(&txn) {
                    check::size(len_bytes, self.settings.max_request_bytes)?;
                }
                Ok(encode(&self.txn(txn).await?))
            }
            "Compact" => {
                let compact: pb::CompactionRequest = decode(request)?;
                let (revision, physical) = (compact.revision, compact.physical);
                let header = Some(self.done(Request::Compact { revision, physical }).await?);
                Ok(encode(&pb::CompactionResponse { header }))
            }
            name => Err(Status::unimplemented(name)),
        }
    }

    /// A range in pieces which merged are the answer that [`Api::range`] would have given: all read
    /// at the revision of the first, header, `more` and `count` in the last. The pieces grow from
    /// few keys towards `--max-request-bytes`, so that the first arrives at once and none is huge.
    pub(super) async fn range_stream(
        &self,
        mut range: pb::RangeRequest,
        responses: &Responses,
    ) -> Result<(), Status> {
        check::range_stream(&range)?;
        let mut left = if range.limit > 0 { range.limit } else { i64::MAX };
        let mut keys_max = STREAM_FIRST_KEYS;
        // Revision and count of the first piece, which are those of the whole.
        let mut whole = None;
        loop {
            range.limit = if range.count_only { 0 } else { keys_max.min(left) };
            let (revision, reply) = self.ask_range(range.clone()).await?;
            let (header_revision, count) = *whole.get_or_insert((revision, reply.count));
            if range.revision <= 0 {
                range.revision = revision.0;
            }
            let (keys, last) = keys_of(&reply.kvs);
            left -= keys;
            let len_bytes = reply.kvs.len();
            match last {
                Some(last) if reply.more && left > 0 => {
                    let piece = RangeReply { kvs: reply.kvs, more: false, count: 0 };
                    responses.push(stream_response(range_response(None, piece)));
                    // The smallest key above the last one.
                    range.key = [&last[..], b"\0"].concat().into();
                    keys_max = next_keys_max(keys_max, len_bytes, self.settings.max_request_bytes);
                    if !responses.ready().await {
                        return Ok(());
                    }
                }
                _ => {
                    let header = Some(self.door.header(header_revision.0));
                    let piece = RangeReply { kvs: reply.kvs, more: reply.more, count };
                    responses.push(stream_response(range_response(header, piece)));
                    return Ok(());
                }
            }
        }
    }

    /// Asks for a range that was checked.
    pub(super) async fn ask_range(
        &self,
        range: pb::RangeRequest,
    ) -> Result<(Revision, RangeReply), Status> {
        let answer = self.door.ask(Request::Range(range)).await?;
        let Answer { revision, reply: Reply::Range(reply) } = answer else {
            unreachable!("a range is answered as a range")
        };
        Ok((revision, reply))
    }

    /// Deletes a range that was checked.
    pub(super) async fn delete_range(
        &self,
        delete: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        let answer = self.door.ask(Request::DeleteRange(delete)).await?;
        let Answer { revision, reply: Reply::DeleteRange(mut response) } = answer else {
            unreachable!("a deletion is answered as a deletion")
        };
        response.header = Some(self.door.header(revision.0));
        Ok(response)
    }

    /// Runs a transaction that was checked.
    pub(super) async fn txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        let answer = self.door.ask(Request::Txn(txn)).await?;
        let Answer { revision, reply: Reply::Txn(mut response) } = answer else {
            unreachable!("a transaction is answered as a transaction")
        };
        response.header = Some(self.door.header(revision.0));
        Ok(response)
    }
}

/// An encoded `RangeResponse`.
fn range_response(header: Option<pb::ResponseHeader>, reply: RangeReply) -> Bytes {
    let header_len = header.map_or(0, |header| {
        let len = header.encoded_len();
        1 + encoded_len_varint(len as u64) + len
    });
    let more_len = if reply.more { 2 } else { 0 };
    let count = reply.count as u64;
    let count_len = if count == 0 { 0 } else { 1 + encoded_len_varint(count) };
    let around = header_len + more_len + count_len;
    let mut buffer = if reply.kvs.len() >= APPEND_BYTES {
        let mut buffer = reply.kvs;
        buffer.reserve(around);
        put_header(&mut buffer, header);
        buffer
    } else {
        let mut buffer = BytesMut::with_capacity(around + reply.kvs.len());
        put_header(&mut buffer, header);
        buffer.extend_from_slice(&reply.kvs);
        buffer
    };
    if reply.more {
        buffer.extend_from_slice(&[MORE, 1]);
    }
    if count != 0 {
        buffer.put_u8(COUNT);
        encode_varint(count, &mut buffer);
    }
    buffer.freeze()
}

fn put_header(buffer: &mut BytesMut, header: Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        buffer.put_u8(HEADER);
        header.encode_length_delimited(buffer).expect("a BytesMut grows");
    }
}

/// An encoded `RangeStreamResponse` around a piece.
fn stream_response(piece: Bytes) -> Bytes {
    let len = piece.len();
    let mut buffer = BytesMut::with_capacity(1 + encoded_len_varint(len as u64) + len);
    buffer.put_u8(RANGE_RESPONSE);
    encode_varint(len as u64, &mut buffer);
    buffer.extend_from_slice(&piece);
    buffer.freeze()
}

/// How many keys the encoded `kvs` fields hold, and the last of them.
fn keys_of(kvs: &[u8]) -> (i64, Option<Bytes>) {
    let (mut keys, mut last, mut rest) = (0, None, kvs);
    while !rest.is_empty() {
        let (field, _) = decode_key(&mut rest).expect("the engine encodes well");
        assert_eq!(field, KVS, "a range answer holds keys and nothing else");
        let len = decode_varint(&mut rest).expect("the engine encodes well") as usize;
        last = Some(&rest[..len]);
        rest = &rest[len..];
        keys += 1;
    }
    let last = last.map(|last| KeyValue::decode(last).expect("the engine encodes well").key);
    (keys, last)
}

/// How many keys the next piece may have: twice as many or half as many when the last one was far
/// off the wanted size, and never none, which would mean all.
fn next_keys_max(keys_max: i64, len_bytes: usize, wanted_bytes: usize) -> i64 {
    if len_bytes < wanted_bytes / 2 {
        keys_max.saturating_mul(2)
    } else if len_bytes > wanted_bytes.saturating_mul(2) {
        (keys_max / 2).max(1)
    } else {
        keys_max
    }
}

#[cfg(test)]
mod tests;
