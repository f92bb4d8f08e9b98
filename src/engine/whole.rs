//! Operations over the whole store: they ask every shard, so no range may be on its way between two
//! meanwhile. Moves and they exclude each other; both begin on the keeper's core.

use bytes::Bytes;

use super::message::{Message, Origin, Question, Whole};
use super::{Answer, Effects, Engine, Error, Reply};
use crate::keys::{CoreId, LeaseId, Revision};
use crate::mvcc::{Digest, Position};
use crate::txn::Refusal;

/// Revisions that one step of a digest covers.
const DIGEST_STEP: i64 = 512;

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
    from: Revision,
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
            Task::KeysOf { lease, .. } => {
                let at = self.order.watermark();
                self.ask_all(task, at, Question::KeysOf(lease, at), fx);
            }
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

    fn begin_digest(&mut self, at: Revision, origin: Origin, fx: &mut Effects) {
        let compacted = self.control.compacted;
        if at < compacted {
            // A compaction overtook it while it waited.
            self.answer_state(origin, Err(Error::Refused(Refusal::Compacted)));
            return self.end_whole(fx);
        }
        let question = Question::Records { from: Revision::FIRST, at, compacted };
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
            from: Revision::FIRST,
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
            Question::Sizes => Whole::Sizes(self.sizes()),
            Question::KeysOf(lease, at) => {
                let keys = self.seats.iter().flat_map(|seat| seat.shard.keys_of_at(lease, at));
                Whole::Keys(keys.collect())
            }
            Question::Records { from, at, compacted } => {
                let through = Revision((from.0 + DIGEST_STEP - 1).min(at.0));
                let records = self.intact(|engine| {
                    let mut records = Vec::new();
                    for seat in &engine.seats {
                        let store = seat.shard.store();
                        store.hash_records(from, through, at, compacted, &mut |position, bytes| {
                            records.push((position, Bytes::copy_from_slice(bytes)));
                        });
                    }
                    records
                });
                records.map_or(Whole::Corrupt, |records| Whole::Records { records, through })
            }
        };
        self.send(from, Message::All { op, found }, fx);
    }

    /// One core's part of an operation over the whole store.
    pub(super) fn whole_part(&mut self, _from: CoreId, op: u64, found: Whole, fx: &mut Effects) {
        let keeper = self.keeper.as_mut().expect("asked by the keeper");
        let read = keeper.whole_reads.get_mut(&op).expect("a read under way");
        read.missing -= 1;
        let mut until = Revision::ZERO;
        match found {
            Whole::Keys(mut keys) => read.keys.append(&mut keys),
            Whole::Records { mut records, through } => {
                read.records.append(&mut records);
                until = through;
            }
            Whole::Corrupt => read.corrupt = true,
            Whole::Sizes(_) => unreachable!("answered elsewhere"),
        }
        if read.missing == 0 {
            self.whole_step(op, until, fx);
        }
    }

    /// All cores have answered: goes on with a digest, or ends.
    fn whole_step(&mut self, op: u64, through: Revision, fx: &mut Effects) {
        let cores = self.cores;
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        let read = keeper.whole_reads.get_mut(&op).expect("a read under way");
        if let (Task::Hash { origin, .. }, true) = (read.task, read.corrupt) {
            keeper.whole_reads.remove(&op);
            self.respond(origin, Err(Error::Corrupt), fx);
            return self.end_whole(fx);
        }
        if let Task::Hash { at, .. } = read.task {
            read.records.sort_unstable_by_key(|(position, _)| *position);
            for (_, bytes) in read.records.drain(..) {
                read.digest.add(&bytes);
            }
            if through < at {
                read.from = through.next();
                read.missing = cores;
                let question = Question::Records { from: read.from, at, compacted: read.compacted };
                return self.put_to_all(op, question, fx);
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
