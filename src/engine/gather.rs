//! Reads over several shards: each part is read at the same revision, the parts are merged. Parts
//! whose keys have moved are asked for again, from whoever owns them by the newer map.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use cored_proto::etcdserverpb as pb;
use prost::Message as _;

use super::message::{Message, Origin, Part, Question, Reading, Whole};
use super::serve::read_revision;
use super::{Answer, Effects, Engine, Error, RangeReply, Reply, RequestId, StatusReply};
use crate::keys::{CoreId, KeyRange, Revision};
use crate::shard::{Cut, HistoryReply, Rows, encode_kvs};
use crate::txn::{self, Refusal};
use crate::watch::{Event, WatcherId};

/// Live history that a registration may bring in one piece.
const REGISTER_BYTES_MAX: usize = 1 << 20;

/// One read, and what came of its parts so far.
pub(super) struct Gather {
    aim: Aim,
    reading: Option<Reading>,
    parts: Vec<(KeyRange, Option<Part>)>,
    missing: usize,
}

/// Who waits for it.
enum Aim {
    Range { id: RequestId, request: Arc<pb::RangeRequest>, watermark: Revision },
    History { watcher: WatcherId },
    Register { watcher: WatcherId },
    Status { id: RequestId, sizes: Sizes },
}

/// How much one core holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes allocated.
    pub bytes: usize,
    /// Of those, bytes that can still be read.
    pub bytes_in_use: usize,
    /// Keys that have a value.
    pub keys: usize,
    /// The revision of the last compaction.
    pub compacted: Revision,
    /// Versions that compaction has removed since the start.
    pub collected: u64,
    /// Leases whose time ran out since the start.
    pub leases_expired: u64,
    /// Sum of the lanes' newest indexes.
    pub raft_index: u64,
    /// Sum of the lanes' applied indexes.
    pub raft_applied: u64,
}

impl Engine {
    /// A range over several shards.
    pub(super) fn begin_range(
        &mut self,
        id: RequestId,
        request: pb::RangeRequest,
        fx: &mut Effects,
    ) {
        let watermark = self.order.watermark();
        let at = match read_revision(&request, watermark, self.control.compacted) {
            Ok(at) => at,
            Err(error) => return fx.answers.push((id, Err(error))),
        };
        let keys = KeyRange::from_request(&request.key, &request.range_end);
        let request = Arc::new(request);
        let reading = Reading::Range { request: Arc::clone(&request), at };
        self.begin_gather(Aim::Range { id, request, watermark }, &keys, reading, fx);
    }

    /// History of a range for a watcher that catches up.
    pub(super) fn begin_history(
        &mut self,
        watcher: WatcherId,
        range: &KeyRange,
        from: Revision,
        previous: bool,
        max_bytes: usize,
        fx: &mut Effects,
    ) {
        let through = self.turn_watermark;
        let reading = Reading::History { from, through, previous, max_bytes };
        self.begin_gather(Aim::History { watcher }, range, reading, fx);
    }

    /// Registers a watcher with every shard of its range.
    pub(super) fn begin_register(
        &mut self,
        watcher: WatcherId,
        range: &KeyRange,
        from: Revision,
        previous: bool,
        fx: &mut Effects,
    ) {
        let reading = Reading::Register { watcher, from, previous };
        self.begin_gather(Aim::Register { watcher }, range, reading, fx);
    }

    /// Sizes and Raft positions of all cores.
    pub(super) fn begin_status(&mut self, id: RequestId, fx: &mut Effects) {
        let op = self.new_op();
        let missing = usize::from(self.cores);
        let aim = Aim::Status { id, sizes: Sizes::default() };
        self.gathers.insert(op, Gather { aim, reading: None, parts: Vec::new(), missing });
        for core in (0..self.cores).map(CoreId) {
            self.send(core, Message::AskAll { op, question: Question::Sizes }, fx);
        }
    }

    fn begin_gather(&mut self, aim: Aim, keys: &KeyRange, reading: Reading, fx: &mut Effects) {
        let op = self.new_op();
        let gather = Gather { aim, reading: Some(reading), parts: Vec::new(), missing: 0 };
        self.gathers.insert(op, gather);
        self.add_parts(op, keys, fx);
        self.check_gather(op, fx);
    }

    /// Asks the owners of `keys`, each for its part.
    fn add_parts(&mut self, op: u64, keys: &KeyRange, fx: &mut Effects) {
        let pieces = self.control.map.pieces(keys);
        let gather = self.gathers.get_mut(&op).expect("a read under way");
        let reading = gather.reading.clone().expect("a read of a range");
        for (range, lane) in pieces {
            let part = gather.parts.len();
            gather.parts.push((range.clone(), None));
            gather.missing += 1;
            let message = Message::Read { op, part, lane, range, reading: reading.clone() };
            let to = CoreId(lane.0 % self.cores);
            if to == self.core {
                self.local.push_back(message);
            } else {
                fx.mesh.push((to, message));
            }
        }
    }

    /// Reads for another core (or this one).
    pub(super) fn read_here(&mut self, at: usize, range: &KeyRange, reading: Reading) -> Part {
        let compacted = self.control.compacted;
        let shard = &mut self.seats[at].shard;
        match reading {
            Reading::Range { at, .. } if at < compacted => Part::Compacted(compacted),
            Reading::Range { request, at } => {
                Part::Rows(shard.range(&request, range, at, Cut::Part))
            }
            Reading::History { from, .. } if from < compacted => Part::Compacted(compacted),
            Reading::History { from, through, previous, max_bytes } => {
                Part::History(shard.history(range, from, through, previous, max_bytes))
            }
            Reading::Register { from, .. } if from < compacted => Part::Compacted(compacted),
            Reading::Register { watcher, from, previous } => {
                let through = shard.highest();
                let history = shard.history(range, from, through, previous, REGISTER_BYTES_MAX);
                if history.through < through {
                    return Part::TooFar;
                }
                shard.registry().add(watcher, range.clone(), previous);
                Part::History(history)
            }
        }
    }

    /// A part of this core's read has come.
    pub(super) fn part(&mut self, op: u64, part: usize, found: Part, fx: &mut Effects) {
        let Some(gather) = self.gathers.get_mut(&op) else { return };
        gather.missing -= 1;
        if let Part::Moved(version) = found {
            let range = gather.parts[part].0.clone();
            if self.control.map.version() >= version {
                self.add_parts(op, &range, fx);
            } else {
                // The map that says where it went is on its way.
                gather.missing += 1;
                let again = Message::Part { op, part, found };
                self.awaiting_map.push((version, again));
            }
        } else {
            gather.parts[part].1 = Some(found);
        }
        self.check_gather(op, fx);
    }

    /// Ends a read whose parts are all there.
    fn check_gather(&mut self, op: u64, fx: &mut Effects) {
        if self.gathers.get(&op).is_none_or(|gather| gather.missing > 0) {
            return;
        }
        let gather = self.gathers.remove(&op).expect("just seen");
        let mut parts: Vec<_> = gather
            .parts
            .into_iter()
            .filter_map(|(range, part)| Some((range.start, part?)))
            .collect();
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        let parts = parts.into_iter().map(|(_, part)| part);
        match gather.aim {
            Aim::Range { id, request, watermark } => {
                self.merge_range(id, &request, watermark, parts, fx);
            }
            Aim::History { watcher } => match merge_history(parts) {
                Merged::Events(events, through) => {
                    self.history_read(watcher, events, through, fx);
                }
                Merged::Compacted(at) => self.watch_compacted(watcher, at, fx),
                Merged::TooFar => unreachable!("a read of history has no bound"),
                Merged::Corrupt => self.watch_unreadable(watcher, fx),
            },
            Aim::Register { watcher } => match merge_history(parts) {
                Merged::Events(events, _) => self.registered(watcher, events, fx),
                Merged::TooFar => self.not_registered(watcher, fx),
                Merged::Corrupt => self.watch_unreadable(watcher, fx),
                Merged::Compacted(at) => self.watch_compacted(watcher, at, fx),
            },
            Aim::Status { .. } => unreachable!("no parts"),
        }
    }

    fn merge_range(
        &mut self,
        id: RequestId,
        request: &Arc<pb::RangeRequest>,
        watermark: Revision,
        parts: impl Iterator<Item = Part>,
        fx: &mut Effects,
    ) {
        let mut rows = Vec::new();
        for part in parts {
            match part {
                Part::Rows(more) => rows.push(more),
                Part::Compacted(_) if request.revision <= 0 => {
                    // A compaction overtook the read: the current revision is another one now.
                    return self.begin_range(id, request.as_ref().clone(), fx);
                }
                Part::Corrupt => return fx.answers.push((id, Err(Error::Corrupt))),
                _ => return fx.answers.push((id, Err(Error::Refused(Refusal::Compacted)))),
            }
        }
        let reply = merge_rows(request, rows);
        fx.answers.push((id, Ok(Answer { revision: watermark, reply: Reply::Range(reply) })));
    }

    /// What this core holds, for whoever asks about the whole store.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes {
            compacted: self.control.compacted,
            collected: self.collected,
            leases_expired: self.keeper.as_ref().map_or(0, |keeper| keeper.expired),
            ..Sizes::default()
        };
        for seat in &self.seats {
            sizes.keys += seat.shard.store().keys();
            sizes.bytes += seat.shard.store().bytes();
            sizes.bytes_in_use += seat.shard.store().bytes_in_use();
            sizes.raft_index += seat.group.last_index();
            sizes.raft_applied += seat.group.commit_index();
        }
        sizes
    }

    /// An answer to a question that this core put to all.
    pub(super) fn answered_all(&mut self, from: CoreId, op: u64, found: Whole, fx: &mut Effects) {
        let Whole::Sizes(more) = found else { return self.whole_part(from, op, found, fx) };
        let Some(gather) = self.gathers.get_mut(&op) else { return };
        let Aim::Status { id, sizes } = &mut gather.aim else { return };
        sizes.bytes += more.bytes;
        sizes.bytes_in_use += more.bytes_in_use;
        sizes.raft_index += more.raft_index;
        sizes.raft_applied += more.raft_applied;
        gather.missing -= 1;
        if gather.missing > 0 {
            return;
        }
        let (id, sizes) = (*id, *sizes);
        self.gathers.remove(&op);
        let status = StatusReply {
            db_bytes: sizes.bytes as i64,
            db_in_use_bytes: sizes.bytes_in_use as i64,
            raft_term: self.term(),
            raft_index: sizes.raft_index,
            raft_applied_index: sizes.raft_applied,
            serves: self.serving,
            alarms: self.control.alarms.of(0).collect(),
        };
        let revision = self.order.watermark();
        let origin = Origin { core: self.core, id };
        self.respond(origin, Ok(Answer { revision, reply: Reply::Status(status) }), fx);
    }
}

enum Merged {
    Events(Vec<Event>, Revision),
    TooFar,
    Compacted(Revision),
    Corrupt,
}

/// History of several shards as one: complete up to where the shortest part ends.
fn merge_history(parts: impl Iterator<Item = Part>) -> Merged {
    let (mut events, mut through, mut too_far) = (Vec::new(), Revision::MAX, false);
    for part in parts {
        match part {
            Part::History(HistoryReply { events: mut more, through: until }) => {
                events.append(&mut more);
                through = through.min(until);
            }
            Part::TooFar => too_far = true,
            Part::Compacted(at) => return Merged::Compacted(at),
            Part::Corrupt => return Merged::Corrupt,
            Part::Rows(_) | Part::Moved(_) => unreachable!("a part of history"),
        }
    }
    if too_far {
        return Merged::TooFar;
    }
    events.sort_by_key(|event: &Event| (event.revision, event.sub));
    Merged::Events(events, through)
}

/// Rows of several shards, in key order, as one answer.
fn merge_rows(request: &pb::RangeRequest, mut parts: Vec<Rows>) -> RangeReply {
    let count = parts.iter().map(|rows| rows.count).sum();
    if request.count_only {
        return RangeReply { count, ..RangeReply::default() };
    }
    if txn::reads_all(request) {
        let mut response = pb::RangeResponse::default();
        for rows in parts {
            // Encoded `kvs` fields are a RangeResponse that has nothing else.
            response.merge(rows.kvs.freeze()).expect("encoded by a shard of this node");
        }
        txn::arrange(request, &mut response);
        let mut kvs = BytesMut::new();
        encode_kvs(&response.kvs, &mut kvs);
        return RangeReply { kvs, more: response.more, count };
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let mut reply = RangeReply { count, ..RangeReply::default() };
    let mut left = if limit == 0 { usize::MAX } else { limit };
    for rows in &mut parts {
        if rows.rows > left {
            let bytes = first_fields(&rows.kvs, left);
            rows.kvs.truncate(bytes);
            rows.rows = left;
        }
        left -= rows.rows;
        if reply.kvs.is_empty() {
            reply.kvs = std::mem::take(&mut rows.kvs);
        } else {
            reply.kvs.extend_from_slice(&rows.kvs);
        }
    }
    reply.more = limit > 0 && count > limit as i64;
    reply
}

/// How many bytes the first `count` length-delimited fields take.
fn first_fields(fields: &[u8], count: usize) -> usize {
    let mut rest = fields;
    for _ in 0..count {
        rest.advance(1);
        let len = prost::decode_length_delimiter(&mut rest).expect("encoded by a shard");
        rest.advance(len);
    }
    fields.len() - rest.len()
}
