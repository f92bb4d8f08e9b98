//! What one client asks next, and what it learns from the answer. Requests are made here as framed bytes;
//! how they travel and how long they take is told elsewhere.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use cored_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, PutRequest, PutResponse, RangeRequest, RequestOp, TxnRequest,
    TxnResponse, compare, request_op, response_op,
};
use prost::Message;

use crate::client::Rpc;
use crate::framing::frame;
use crate::keyspace::{KeyNames, KeyPicker};
use crate::random::Random;
use crate::verify::{TAG_BYTES, write_tag};
use crate::wire;

/// The kinds of operations that can be mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Write one key.
    Put,
    /// Read one key, or a range of them.
    Range,
    /// Write one key if it still is as this client last saw it, else look at it.
    TxnCas,
    /// Delete one key.
    Delete,
    /// Renew the client's lease.
    LeaseKeepalive,
    /// Write the next keys, many in one transaction.
    Fill,
}

impl Kind {
    /// As on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::Range => "range",
            Kind::TxnCas => "txn-cas",
            Kind::Delete => "delete",
            Kind::LeaseKeepalive => "lease-keepalive",
            Kind::Fill => "fill",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        [Kind::Put, Kind::Range, Kind::TxnCas, Kind::Delete, Kind::LeaseKeepalive]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| {
                format!("{text} is none of put, range, txn-cas, delete, lease-keepalive")
            })
    }
}

/// Kinds and their shares of 100.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix(Vec<(Kind, f64)>);

impl Mix {
    /// Nothing but `kind`.
    #[must_use]
    pub fn only(kind: Kind) -> Mix {
        Mix(vec![(kind, 100.0)])
    }

    /// The kinds, in the order in which they were named.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.0.iter().map(|&(kind, _)| kind)
    }

    /// The position, in that order, of a random kind.
    fn pick(&self, random: &mut Random) -> usize {
        if self.0.len() == 1 {
            return 0;
        }
        let mut left = random.unit() * 100.0;
        for (position, (_, percent)) in self.0.iter().enumerate() {
            left -= percent;
            if left < 0.0 {
                return position;
            }
        }
        // Rounding only; the last kind is as likely as it should be.
        self.0.len() - 1
    }
}

impl FromStr for Mix {
    type Err = String;

    /// Reads `put=60,range=40`. The shares must be positive and make 100.
    fn from_str(text: &str) -> Result<Mix, String> {
        let mut parts: Vec<(Kind, f64)> = Vec::new();
        for part in text.split(',') {
            let (name, percent) =
                part.split_once('=').ok_or_else(|| format!("{part}: expected kind=per cent"))?;
            let kind: Kind = name.trim().parse()?;
            let percent: f64 = percent
                .trim()
                .trim_end_matches('%')
                .parse()
                .map_err(|_| format!("{percent} is not a number"))?;
            if percent.is_nan() || percent <= 0.0 {
                return Err(format!("{part}: a share must be above 0"));
            }
            if parts.iter().any(|&(other, _)| other == kind) {
                return Err(format!("{name} is named twice"));
            }
            parts.push((kind, percent));
        }
        let sum: f64 = parts.iter().map(|(_, percent)| percent).sum();
        if (sum - 100.0).abs() > 0.01 {
            return Err(format!("the shares of {text} make {sum}, not 100"));
        }
        Ok(Mix(parts))
    }
}

/// What all clients have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which operations.
    pub mix: Mix,
    /// How keys are called.
    pub names: KeyNames,
    /// Which keys.
    pub picker: KeyPicker,
    /// Length of the values written.
    pub value_len_bytes: usize,
    /// Keys a range covers; 1 is a read of one key.
    pub range_keys: u64,
    /// Most keys a range returns; 0 for all.
    pub limit: i64,
    /// Ask whatever member is at hand, without a leader's confirmation.
    pub serializable: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Count only.
    pub count_only: bool,
    /// Keys in one transaction of a fill; 1 makes it a plain put.
    pub fill_keys_per_txn: u64,
    /// What the head of each value tells.
    pub tag: Tag,
}

/// What the first bytes of a value tell about the write that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Nothing: all values are alike.
    None,
    /// Its number, so that the value can be recognised.
    Number,
    /// When it was due, so that whoever sees the value knows how old it is.
    Due,
}

/// One request, ready to be sent.
#[derive(Debug)]
pub struct Operation {
    /// Position of its kind in the mix.
    pub kind: usize,
    /// Where it goes.
    pub rpc: Rpc,
    /// The message with its prefix.
    pub framed: Bytes,
    /// The number of the key it touches (the first one, if several).
    pub key: u64,
    /// What it writes there.
    pub write: Write,
}

/// What an operation would leave behind at its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing.
    None,
    /// A value with this tag, at as many keys from `key` on as given.
    Value {
        /// The number of the write.
        tag: u64,
        /// How many neighbouring keys.
        keys: u64,
    },
    /// No key.
    Deletion,
}

/// What an answer said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The revision of the write, if it took place.
    pub written_at: Option<i64>,
    /// Keys in the answer.
    pub keys: u64,
    /// A compare that did not hold.
    pub compare_failed: bool,
}

/// One client's requests.
#[derive(Debug)]
pub struct Workload {
    settings: Arc<Settings>,
    random: Random,
    /// High bits of the tags, so that no two clients write the same.
    tag_base: u64,
    writes: u64,
    due_ns: u64,
    lease: i64,
    /// Newest revision this client has seen of a key, for compares. At most one entry a key.
    seen: HashMap<u64, i64>,
    value: Bytes,
}

impl Workload {
    /// The requests of client number `client` under `seed`.
    #[must_use]
    pub fn new(settings: Arc<Settings>, seed: u64, client: u32) -> Workload {
        // Letters that do not compress to nothing, the same for all clients of a seed.
        let mut filler = Random::new(seed, u64::MAX);
        let value: Vec<u8> =
            (0..settings.value_len_bytes).map(|_| b'a' + filler.below(26) as u8).collect();
        Workload {
            settings,
            random: Random::new(seed, u64::from(client)),
            tag_base: (u64::from(client) + 1) << 36,
            writes: 0,
            due_ns: 0,
            lease: 0,
            seen: HashMap::new(),
            value: value.into(),
        }
    }

    /// The lease that keepalives renew.
    pub fn set_lease(&mut self, id: i64) {
        self.lease = id;
    }

    /// The next request, due at `due_ns` after the start of the load; `None` when a fill is full.
    pub fn next(&mut self, due_ns: u64) -> Option<Operation> {
        self.due_ns = due_ns;
        let position = self.settings.mix.pick(&mut self.random);
        let kind = self.settings.mix.0[position].0;
        if kind == Kind::Fill {
            return self.fill(position);
        }
        let key = match kind {
            Kind::LeaseKeepalive => 0,
            Kind::Range => self.range_start(),
            _ => self.settings.picker.pick(&mut self.random),
        };
        let (rpc, framed, write) = match kind {
            Kind::Put => {
                let (put, write) = self.put(key);
                (Rpc::Put, frame(&put), write)
            }
            Kind::Range => (Rpc::Range, frame(&self.range(key)), Write::None),
            Kind::TxnCas => {
                let (txn, write) = self.compare_and_swap(key);
                (Rpc::Txn, frame(&txn), write)
            }
            Kind::Delete => {
                let delete = DeleteRangeRequest {
                    key: self.settings.names.name(key).into(),
                    ..DeleteRangeRequest::default()
                };
                (Rpc::DeleteRange, frame(&delete), Write::Deletion)
            }
            Kind::LeaseKeepalive | Kind::Fill => {
                let renewal = LeaseKeepAliveRequest { id: self.lease };
                (Rpc::LeaseKeepAlive, frame(&renewal), Write::None)
            }
        };
        Some(Operation { kind: position, rpc, framed, key, write })
    }

    /// Reads the reply to `operation`.
    ///
    /// # Errors
    /// When the bytes are not the reply that the method returns.
    pub fn answered(
        &mut self,
        operation: &Operation,
        reply: Bytes,
    ) -> Result<Answer, prost::DecodeError> {
        let mut answer = Answer::default();
        match operation.rpc {
            Rpc::Put => {
                answer.written_at = PutResponse::decode(reply)?.header.map(|h| h.revision);
            }
            Rpc::DeleteRange => {
                let response = DeleteRangeResponse::decode(reply)?;
                answer.written_at = response.header.map(|h| h.revision);
                answer.keys = u64::try_from(response.deleted).unwrap_or(0);
            }
            Rpc::Range => answer.keys = wire::range_response_keys(&reply)?,
            Rpc::Txn => {
                let response = TxnResponse::decode(reply)?;
                let revision = response.header.map_or(0, |h| h.revision);
                if response.succeeded {
                    answer.written_at = Some(revision);
                    self.remember(operation.key, revision);
                } else {
                    answer.compare_failed = true;
                    self.remember(operation.key, found_revision(&response));
                }
            }
            Rpc::LeaseKeepAlive => {
                // A lease that is gone is answered with a time to live of 0, not with an error.
                let renewed = LeaseKeepAliveResponse::decode(reply)?.ttl > 0;
                answer.compare_failed = !renewed;
            }
            Rpc::Watch | Rpc::LeaseGrant | Rpc::LeaseRevoke => {}
        }
        Ok(answer)
    }

    fn remember(&mut self, key: u64, revision: i64) {
        if self.settings.mix.kinds().any(|kind| kind == Kind::TxnCas) {
            self.seen.insert(key, revision);
        }
    }

    fn put(&mut self, key: u64) -> (PutRequest, Write) {
        let tag = self.next_tag();
        let put = PutRequest {
            key: self.settings.names.name(key).into(),
            value: self.value_with(tag),
            ..PutRequest::default()
        };
        (put, Write::Value { tag, keys: 1 })
    }

    fn next_tag(&mut self) -> u64 {
        self.writes += 1;
        if self.settings.tag == Tag::Due { self.due_ns } else { self.tag_base | self.writes }
    }

    fn value_with(&self, tag: u64) -> Bytes {
        if self.settings.tag == Tag::None || self.value.len() < TAG_BYTES {
            return self.value.clone();
        }
        let mut value = self.value.to_vec();
        write_tag(&mut value, tag);
        value.into()
    }

    /// The first key of a range that ends inside the key space.
    fn range_start(&mut self) -> u64 {
        let key = self.settings.picker.pick(&mut self.random);
        key.min(self.settings.picker.count().saturating_sub(self.settings.range_keys))
    }

    fn range(&self, key: u64) -> RangeRequest {
        let settings = &self.settings;
        let range_end = if settings.range_keys > 1 {
            settings.names.name((key + settings.range_keys).min(settings.picker.count())).into()
        } else {
            Bytes::new()
        };
        RangeRequest {
            key: settings.names.name(key).into(),
            range_end,
            limit: settings.limit,
            serializable: settings.serializable,
            keys_only: settings.keys_only,
            count_only: settings.count_only,
            ..RangeRequest::default()
        }
    }

    fn compare_and_swap(&mut self, key: u64) -> (TxnRequest, Write) {
        let (put, write) = self.put(key);
        let name = put.key.clone();
        // A key never seen is taken to be absent, whose revision is 0.
        let expected = self.seen.get(&key).copied().unwrap_or(0);
        let look = RangeRequest { key: name.clone(), keys_only: true, ..RangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![Compare {
                result: compare::CompareResult::Equal as i32,
                target: compare::CompareTarget::Mod as i32,
                key: name,
                target_union: Some(compare::TargetUnion::ModRevision(expected)),
                ..Compare::default()
            }],
            success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(request_op::Request::RequestRange(look)) }],
        };
        (txn, write)
    }

    fn fill(&mut self, position: usize) -> Option<Operation> {
        let taken = self.settings.picker.take_run(self.settings.fill_keys_per_txn)?;
        let key = taken.start;
        let keys = taken.end - taken.start;
        let tag = self.next_tag();
        let mut puts = taken.map(|key| PutRequest {
            key: self.settings.names.name(key).into(),
            value: self.value_with(tag),
            ..PutRequest::default()
        });
        let (rpc, framed) = if keys == 1 {
            (Rpc::Put, frame(&puts.next()?))
        } else {
            let success = puts
                .map(|put| RequestOp { request: Some(request_op::Request::RequestPut(put)) })
                .collect();
            (Rpc::Txn, frame(&TxnRequest { success, ..TxnRequest::default() }))
        };
        Some(Operation { kind: position, rpc, framed, key, write: Write::Value { tag, keys } })
    }
}

/// The revision of the key that a failed compare went on to read; 0 when it is absent.
fn found_revision(response: &TxnResponse) -> i64 {
    response
        .responses
        .iter()
        .find_map(|op| match &op.response {
            Some(response_op::Response::ResponseRange(range)) => {
                range.kvs.first().map(|kv| kv.mod_revision)
            }
            _ => None,
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
