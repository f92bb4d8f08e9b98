//! What cores say to each other. Messages between two cores arrive in the order in which they were
//! sent. Requests are bounded by what connections may have in flight; everything else answers a
//! request and is bounded with it, so nothing here ever waits for room.

use std::sync::Arc;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;

use crate::keys::{CoreId, KeyRange, LaneId, LeaseId, Revision};
use crate::lane::Cut;
use crate::lane::redo::{Control, Write};
use crate::mvcc::base::Base;
use crate::mvcc::{Layer, Replaced};
use crate::order::EpochRecord;
use crate::route::balance::LaneLoad;
use crate::route::latch::Turn;
use crate::route::{Claim, ClaimId};
use crate::shard::request::{Answer, Error, Request, RequestId};
use crate::shard::{HistoryReply, Moving, Rows};
use crate::txn::Footprint;
use crate::txn::gathered::Gathered;
use crate::watch::{Matched, WatcherId};

/// Who waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// The connection core.
    pub core: CoreId,
    /// The request there.
    pub id: RequestId,
}

/// A read that one shard answers in full.
#[derive(Clone, Debug)]
pub enum Reading {
    /// Rows of a range at a revision.
    Range {
        /// The request; shared by all parts.
        request: Arc<pb::RangeRequest>,
        /// At which revision.
        at: Revision,
    },
    /// History of a range.
    History {
        /// First revision.
        from: Revision,
        /// Last revision.
        through: Revision,
        /// Whether events carry the version before.
        previous: bool,
        /// About how much.
        max_bytes: usize,
    },
    /// From now on tell `watcher` of every change, and of all there are from `from` on.
    Register {
        /// Who.
        watcher: WatcherId,
        /// First revision.
        from: Revision,
        /// Whether events carry the version before.
        previous: bool,
    },
}

/// What became of a [`Reading`].
#[derive(Debug)]
pub enum Part {
    /// To [`Reading::Range`].
    Rows(Rows),
    /// To [`Reading::History`] and [`Reading::Register`].
    History(HistoryReply),
    /// To [`Reading::Register`]: there is too much history to hand out in one piece.
    TooFar,
    /// History is gone below this revision.
    Compacted(Revision),
    /// Some of it lies in a block of the image that is damaged.
    Corrupt,
    /// The keys live elsewhere, by a map of this version.
    Moved(u64),
}

/// What a claim is made for.
#[derive(Clone, Debug)]
pub enum Want {
    /// Nothing but to hold it.
    Hold,
    /// Rows for a transaction.
    Rows(Arc<Footprint>),
    /// The keys that a lease holds.
    KeysOf(LeaseId),
}

/// What a granted claim brings.
#[derive(Debug)]
pub enum Held {
    /// For [`Want::Hold`].
    Nothing,
    /// For [`Want::Rows`].
    Rows(Gathered),
    /// For [`Want::KeysOf`].
    Keys(Vec<Bytes>),
    /// Some of the rows lie in a block of the image that is damaged.
    Corrupt,
    /// The keys live elsewhere, by a map of this version; nothing is held.
    Moved(u64),
}

/// A range on its way from one lane to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The operation.
    pub op: ClaimId,
    /// The keys.
    pub range: KeyRange,
    /// Who has them.
    pub from: LaneId,
    /// Who gets them.
    pub to: LaneId,
}

/// What all shards of a core say to a question about the whole store.
#[derive(Debug)]
pub enum Whole {
    /// The keys that a lease holds.
    Keys(Vec<Bytes>),
    /// Digest records with their positions, complete up to a revision.
    Records {
        /// Position and bytes.
        records: Vec<((Revision, u32), Bytes)>,
        /// Complete up to here.
        through: Revision,
    },
    /// Some of it lies in a block of the image that is damaged.
    Corrupt,
    /// Sizes and Raft positions.
    Sizes(super::gather::Sizes),
}

/// A question about the whole store.
#[derive(Clone, Copy, Debug)]
pub enum Question {
    /// Which keys did a lease hold at a revision?
    KeysOf(LeaseId, Revision),
    /// What comes next in the digest at `at`?
    Records {
        /// The revision that is digested.
        at: Revision,
        /// History below is gone.
        compacted: Revision,
    },
    /// Nothing more: a digest was given up.
    Forget,
    /// How much is there?
    Sizes,
}

/// One message.
#[derive(Debug)]
pub enum Message {
    /// A request for the shard of `lane`.
    Ask {
        /// Number on the sending core.
        id: RequestId,
        /// Whose keys it is about.
        lane: LaneId,
        /// The request.
        request: Request,
    },
    /// A request for the core that keeps control state.
    Command {
        /// Number on the sending core.
        id: RequestId,
        /// The request.
        request: Request,
    },
    /// A transaction over several shards, for the core of the lane that will log it.
    Across {
        /// Who waits.
        origin: Origin,
        /// The request.
        request: Request,
    },
    /// The answer to a request of the receiver's.
    Answer {
        /// Its number.
        id: RequestId,
        /// The answer.
        answer: Result<Answer, Error>,
    },
    /// A request comes back: the keys live elsewhere, by a map of this version.
    Moved {
        /// Its number.
        id: RequestId,
        /// The request.
        request: Request,
        /// Version of the map.
        version: u64,
    },
    /// Part of a read.
    Read {
        /// Operation on the sending core.
        op: u64,
        /// Part of that operation.
        part: usize,
        /// Whose keys.
        lane: LaneId,
        /// Which keys.
        range: KeyRange,
        /// What.
        reading: Reading,
    },
    /// The answer to [`Message::Read`].
    Part {
        /// Operation on the receiving core.
        op: u64,
        /// Part of it.
        part: usize,
        /// What was found.
        found: Part,
    },
    /// Ask every shard of the receiver.
    AskAll {
        /// Operation on the sending core.
        op: u64,
        /// What.
        question: Question,
    },
    /// The answer to [`Message::AskAll`].
    All {
        /// Operation on the receiving core.
        op: u64,
        /// What was found.
        found: Whole,
    },
    /// Claim latches on the shard of `lane`.
    Claim {
        /// For whom.
        op: ClaimId,
        /// Which shard.
        lane: LaneId,
        /// On what.
        claim: Claim,
        /// Whether the operation holds anything already.
        turn: Turn,
        /// What for.
        want: Want,
    },
    /// A claim was granted, or its keys live elsewhere.
    Claimed {
        /// The operation.
        op: ClaimId,
        /// What it brings.
        held: Held,
    },
    /// Give back all latches of an operation on the shard of `lane`.
    Release {
        /// The operation.
        op: ClaimId,
        /// Which shard.
        lane: LaneId,
    },
    /// Install a logged record in the shard of `lane`.
    Install {
        /// The lane that logged it.
        logged_by: LaneId,
        /// Which shard.
        lane: LaneId,
        /// Its revision.
        at: Revision,
        /// This shard's changes with their places inside the revision.
        writes: Vec<(u32, Write)>,
        /// The lease that is gone with it.
        revokes: Option<LeaseId>,
    },
    /// A record was installed.
    Installed {
        /// The lane that logged it.
        logged_by: LaneId,
        /// Its revision.
        at: Revision,
    },
    /// A control record takes effect.
    Control {
        /// Its number on the keeper's core.
        number: u64,
        /// The change, or the lease that is gone.
        change: Change,
    },
    /// It took effect on the sender.
    ControlDone {
        /// Its number.
        number: u64,
    },
    /// Garbage up to this revision is gone on the sender.
    Collected {
        /// Up to here.
        upto: Revision,
    },
    /// A lane of the sender has committed its barrier.
    Barrier {
        /// The lane.
        lane: LaneId,
        /// The barrier's index and term.
        at: (u64, u64),
    },
    /// The epoch record is committed.
    Epoch(EpochRecord),
    /// The sender has installed everything up to the cut.
    Replayed,
    /// Serving begins.
    Serve {
        /// The epoch.
        epoch: u64,
    },
    /// Events for the receiver's watchers.
    Events(Vec<Matched>),
    /// Nobody listens to a watcher any more.
    Unregister {
        /// Which.
        watcher: WatcherId,
    },
    /// Tell when everything in the range is committed; the range is latched.
    Settle {
        /// The move.
        transfer: Transfer,
    },
    /// Everything in the range is committed.
    Settled {
        /// The operation.
        op: ClaimId,
    },
    /// Keys on their way.
    Piece {
        /// The move.
        transfer: Transfer,
        /// The keys.
        moving: Moving,
        /// Whether these are the last.
        last: bool,
    },
    /// The receiver of a move has everything.
    Arrived {
        /// The operation.
        op: ClaimId,
    },
    /// A lease's time is over; the keeper says this to itself.
    Expired {
        /// Which.
        lease: LeaseId,
    },
    /// How busy the sender is.
    Load {
        /// Requests of its clients since it said so last.
        asked: u64,
        /// What its lanes did.
        loads: Vec<LaneLoad>,
    },
    /// The sender has logged this much since it said so last.
    Logged {
        /// Bytes of entries.
        bytes: u64,
        /// It has been told to stop, and says no more.
        last: bool,
    },
    /// Let nothing grow, or let things grow again.
    Hold(bool),
    /// Tell how far your lanes are: a checkpoint begins.
    Mark,
    /// How far the sender's lanes are.
    Marked {
        /// Per lane the newest entry that is settled with all before it.
        cuts: Vec<(LaneId, Cut)>,
        /// No revision in those entries is above this.
        reach: Revision,
    },
    /// Close what your shards hold up to this revision.
    Freeze {
        /// R of the checkpoint.
        at: Revision,
    },
    /// What the sender's shards hold up to that revision.
    Frozen {
        /// One layer for each shard.
        layers: Vec<Arc<Layer>>,
    },
    /// Go over to a new image.
    Swap {
        /// The image.
        base: Arc<Base>,
        /// What it makes superfluous in the logs.
        cuts: Arc<[Cut]>,
    },
    /// The sender has gone over.
    Swapped {
        /// What it needs no more.
        dropped: Vec<Replaced>,
    },
}

/// What a control record changes.
#[derive(Clone, Debug)]
pub enum Change {
    /// As logged, with the move that a new range map brings about.
    Logged(Control, Option<Transfer>),
    /// A lease that held no keys is gone.
    Revoked(LeaseId),
}
