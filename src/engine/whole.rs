//! Operations over the whole store: they ask every shard, so no range may be on its way between two
//! meanwhile. Moves and they exclude each other; both begin on the keeper's core.

use bytes::Bytes;

use super::message::{Message, Origin, Question, Whole};
use super::{Answer, Effects, Engine, Error, Reply};
use crate::keys::{CoreId, LeaseId, Revision};
use crate::mvcc::{Digest, HashWalk, Position};
use crate::txn::Refusal;

/// Versions that a shard adds to a digest in one step, or a little more; few where stores are small, so
/// that steps meet what else goes on.
const DIGEST_STEP: usize = if cfg!(any(test, feature = "sim")) { 8 } else { 512 };

/// An operation that may have to wait for a move to end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// End a lease.
    Revoke(LeaseId, Option<Origin>),
    /// Tell how long a lease has, and its keys.
    KeysOf { lease: LeaseId, granted_s: i64, ttl_s: i64, origin: Origin },
    /// Digest everything at a revision.
    Hash { at: Revision, origin: Origin },
}

/// A read that is under way.
pub(super) struct WholeRead {
    task: Task,
    /// The revision at which the answer is exact.
    at: Revision,
    missing: u16,
    keys: Vec<Bytes>,
    records: Vec<(Position, Bytes)>,
    compacted: Revision,
    /// Per core up to where its records are here.
    reached: Vec<Revision>,
    digest: Digest,
    /// Some of it can not be read.
    corrupt: bool,
}

impl Engine {
    /// Begins an operation, now or when the move that runs has ended.
    pub(super) fn begin_whole(&mut self, task: Task, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        if keeper.moves_first() {
            return keeper.whole_waiting.push_back(task);
        }
        keeper.whole_running += 1;
        match task {
            Task::Revoke(lease, origin) => self.begin_revoke(lease, origin, fx),
            Task::KeysOf { lease, .. } => self.ask_keys(task, lease, fx),
            Task::Hash { at, origin } => self.begin_digest(at, origin, fx),
        }
    }

    /// Begins what waited for a move that has ended, or that may not begin now.
    pub(super) fn begin_waiting_tasks(&mut self, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        for task in std::mem::take(&mut keeper.whole_waiting) {
            self.begin_whole(task, fx);
        }
    }

    /// An operation has ended.
    pub(super) fn end_whole(&mut self, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        keeper.whole_running -= 1;
        self.begin_waiting_move(fx);
    }

    pub(super) fn hash(&mut self, origin: Origin, revision: i64, fx: &mut Effects) {
        let watermark = self.order.watermark();
        let refusal = match revision {
            ..=0 => None,
            at if at > watermark.0 => Some(Refusal::FutureRevision),
            at if at < self.control.compacted.0 => Some(Refusal::Compacted),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return self.answer_state(origin, Err(refusal.into()));
        }
        let at = if revision > 0 { Revision(revision) } else { watermark };
        self.begin_whole(Task::Hash { at, origin }, fx);
    }

    fn ask_keys(&mut self, task: Task, lease: LeaseId, fx: &mut Effects) {
        let at = self.order.watermark();
        self.ask_all(task, at, Question::KeysOf(lease, at), fx);
    }

    fn begin_digest(&mut self, at: Revision, origin: Origin, fx: &mut Effects) {
        let compacted = self.control.compacted;
        if at < compacted {
            // A compaction overtook it while it waited.
            self.answer_state(origin, Err(Error::Refused(Refusal::Compacted)));
            return self.end_whole(fx);
        }
        let question = Question::Records { at, compacted };
        self.ask_all(Task::Hash { at, origin }, at, question, fx);
    }

    fn ask_all(&mut self, task: Task, at: Revision, question: Question, fx: &mut Effects) {
        let op = self.new_op();
        let read = WholeRead {
            task,
            at,
            missing: self.cores,
            keys: Vec::new(),
            records: Vec::new(),
            compacted: self.control.compacted,
            reached: vec![Revision::ZERO; usize::from(self.cores)],
            digest: Digest::new(),
            corrupt: false,
        };
        self.keeper.as_mut().expect("on the keeper's core").whole_reads.insert(op, read);
        self.put_to_all(op, question, fx);
    }

    fn put_to_all(&mut self, op: u64, question: Question, fx: &mut Effects) {
        for core in (0..self.cores).map(CoreId) {
            self.send(core, Message::AskAll { op, question }, fx);
        }
    }

    /// Answers for the shards of this core.
    pub(super) fn asked_all(
        &mut self,
        from: CoreId,
        op: u64,
        question: Question,
        fx: &mut Effects,
    ) {
        let found = match question {
            Question::Forget => return drop(self.digests.remove(&op)),
            Question::Sizes => Whole::Sizes(self.sizes()),
            Question::KeysOf(lease, at) => {
                let keys = self.seats.iter().flat_map(|seat| seat.shard.keys_of_at(lease, at));
                Whole::Keys(keys.collect())
            }
            Question::Records { at, compacted } => self.digest_part(op, at, compacted),
        };
        self.send(from, Message::All { op, found }, fx);
    }

    /// The next records of this core's shards. Those that are ahead of others wait.
    fn digest_part(&mut self, op: u64, at: Revision, compacted: Revision) -> Whole {
        let begin = || self.seats.iter().map(|_| HashWalk::new(at, at, compacted)).collect();
        let mut walks: Vec<HashWalk> = self.digests.remove(&op).unwrap_or_else(begin);
        let reached = |walks: &[HashWalk]| walks.iter().map(HashWalk::reached).min().unwrap_or(at);
        let before = reached(&walks);
        let records = self.intact(|engine| {
            let mut records = Vec::new();
            for (seat, walk) in engine.seats.iter().zip(&mut walks) {
                if walk.reached() == before {
                    let mut each = |position, bytes: &[u8]| {
                        records.push((position, Bytes::copy_from_slice(bytes)));
                    };
                    seat.shard.store().hash_records(walk, DIGEST_STEP, &mut each);
                }
            }
            records
        });
        let Some(records) = records else { return Whole::Corrupt };
        let through = reached(&walks);
        if through < at {
            self.digests.insert(op, walks);
        }
        Whole::Records { records, through }
    }

    /// One core's part of an operation over the whole store.
    pub(super) fn whole_part(&mut self, from: CoreId, op: u64, found: Whole, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("asked by the keeper");
        let read = keeper.whole_reads.get_mut(&op).expect("a read under way");
        read.missing -= 1;
        match found {
            Whole::Keys(mut keys) => read.keys.append(&mut keys),
            Whole::Records { mut records, through } => {
                read.records.append(&mut records);
                read.reached[usize::from(from.0)] = through;
            }
            Whole::Corrupt => read.corrupt = true,
            Whole::Sizes(_) => unreachable!("answered elsewhere"),
        }
        if read.missing == 0 {
            self.whole_step(op, fx);
        }
    }

    /// All cores have answered: goes on with a digest, or ends.
    fn whole_step(&mut self, op: u64, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        let read = keeper.whole_reads.get_mut(&op).expect("a read under way");
        // A core that knows of a compaction collects what it digests: no core knows before this one.
        let overtaken = self.control.compacted > read.compacted;
        if let Task::Hash { at, origin } = read.task
            && (read.corrupt || overtaken)
        {
            let corrupt = read.corrupt;
            keeper.whole_reads.remove(&op);
            self.put_to_all(op, Question::Forget, fx);
            if !corrupt {
                return self.begin_digest(at, origin, fx);
            }
            self.respond(origin, Err(Error::Corrupt), fx);
            return self.end_whole(fx);
        }
        if let task @ Task::KeysOf { lease, .. } = read.task
            && self.control.compacted > read.at
        {
            keeper.whole_reads.remove(&op);
            return self.ask_keys(task, lease, fx);
        }
        if let Task::Hash { at, .. } = read.task {
            let through = read.reached.iter().copied().min().unwrap_or(at);
            read.records.sort_unstable_by_key(|(position, _)| *position);
            let complete = read.records.partition_point(|(position, _)| position.0 <= through);
            for (_, bytes) in read.records.drain(..complete) {
                read.digest.add(&bytes);
            }
            if through < at {
                // Who is ahead waits, so that nobody's records pile up here.
                let behind = (0..).map(CoreId).zip(&read.reached).filter(|(_, it)| **it == through);
                let behind: Vec<CoreId> = behind.map(|(core, _)| core).collect();
                read.missing = behind.len() as u16;
                let question = Question::Records { at, compacted: read.compacted };
                for core in behind {
                    self.send(core, Message::AskAll { op, question }, fx);
                }
                return;
            }
        }
        let mut read = keeper.whole_reads.remove(&op).expect("just seen");
        let (origin, reply) = match read.task {
            Task::KeysOf { granted_s, ttl_s, origin, .. } => {
                read.keys.sort_unstable();
                (origin, Reply::TimeToLive { ttl_s, granted_s, keys: read.keys })
            }
            Task::Hash { at, origin } => {
                let compacted = read.compacted;
                let compact_revision = if compacted.0 > 0 { compacted.0 } else { -1 };
                let hash = read.digest.value();
                let reply = Reply::Hash { hash, compact_revision, hash_revision: at.0 };
                (origin, reply)
            }
            Task::Revoke(..) => unreachable!("coordinated elsewhere"),
        };
        let revision = read.at;
        self.respond(origin, Ok(Answer { revision, reply }), fx);
        self.end_whole(fx);
    }
}
