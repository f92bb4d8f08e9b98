//! Reads every key of a finished run back and judges it by what was acknowledged. It knows how to ask, in pieces of
//! bounded size; what is right is known to `verify`.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cored_proto::etcdserverpb::{RangeRequest, RangeResponse};
use prost::Message;

use crate::client::{CallError, Caller, Connection, Rpc};
use crate::framing::frame;
use crate::keyspace::KeyNames;
use crate::verify::{Acknowledged, Verdict, read_tag};

/// Values that one request may bring back, in bytes.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Keys that one request may bring back, those between ours included.
const PIECE_KEYS_MAX: u64 = 1000;

/// What is to be read and how.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Whom to ask.
    pub endpoint: &'a str,
    /// How the keys are called.
    pub names: &'a KeyNames,
    /// Length of the values.
    pub value_len_bytes: usize,
    /// Whether they carry the number of their write.
    pub tagged: bool,
    /// How long a request may go on failing: the server may be starting again.
    pub patience: Duration,
}

/// Compares what is stored with what was acknowledged.
///
/// # Errors
/// When a read still fails at the end of patience.
pub async fn read_back(question: Question<'_>, notes: &Acknowledged) -> Result<Verdict, CallError> {
    let connection = Connection::new(question.endpoint, 1).map_err(CallError::NotGrpc)?;
    let mut caller = Caller::new(connection);
    let mut verdict = notes.verdict();
    let numbers = notes.key_numbers();
    let keys_max = (PIECE_BYTES_MAX / question.value_len_bytes.max(1)).max(1) as u64;
    let mut rest = &numbers[..];
    while let Some(&first) = rest.first() {
        let end = first + keys_max.min(PIECE_KEYS_MAX);
        let (piece, after) = rest.split_at(rest.partition_point(|&number| number < end));
        rest = after;
        let last = piece[piece.len() - 1];
        let found = ask(&mut caller, question, first..=last).await?;
        let mut found = found.into_iter().peekable();
        for &number in piece {
            while found.next_if(|&(other, _)| other < number).is_some() {}
            let here = found.next_if(|&(other, _)| other == number).map(|(_, what)| what);
            notes.check(number, here, question.tagged, &mut verdict);
        }
    }
    Ok(verdict)
}

type Found = (u64, (i64, Option<u64>));

async fn ask(
    caller: &mut Caller,
    question: Question<'_>,
    numbers: RangeInclusive<u64>,
) -> Result<Vec<Found>, CallError> {
    let request = frame(&RangeRequest {
        key: question.names.name(*numbers.start()).into(),
        range_end: after(question.names.name(*numbers.end())),
        ..RangeRequest::default()
    });
    let deadline = Instant::now() + question.patience;
    let reply = loop {
        match caller.unary(Rpc::Range, request.clone()).await {
            Ok(reply) => break reply,
            Err(error) if Instant::now() >= deadline => return Err(error),
            // A refused connection has already waited; an answered error has not.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let kvs = RangeResponse::decode(reply)?.kvs;
    let ours = |kv: cored_proto::mvccpb::KeyValue| {
        let tag = if question.tagged { read_tag(&kv.value) } else { None };
        Some((question.names.number(&kv.key)?, (kv.mod_revision, tag)))
    };
    Ok(kvs.into_iter().filter_map(ours).collect())
}

/// The end of a range whose last key is `name`.
fn after(mut name: Vec<u8>) -> Bytes {
    name.push(0);
    name.into()
}
