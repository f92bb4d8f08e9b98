//! The shard that a lane's own records make, put together while the logs are still being read.
//!
//! A start would otherwise read first and install then, with one core, what took both to write. But
//! what holds is known only when everything has been read (R5), so a draft counts on what is nearly
//! always true, and where it is not all drafts of the node go and everything is replayed:
//!
//! - no range changed hands since the checkpoint, and no lane wrote keys of another one: then all
//!   versions of a key are in its lane, in the order of their revisions (R8);
//! - nothing in the log is void by an epoch that was recorded. What the epoch that begins now will
//!   void, records above its cut, is taken back.

use std::sync::Arc;

use bytes::Bytes;

use super::Ground;
use crate::keys::{LaneId, Revision};
use crate::lane::redo::{SeenChange, Writes};
use crate::mvcc::base::Base;
use crate::mvcc::{Batch, Sorted};
use crate::route::RangeMap;
use crate::shard::Shard;

/// Key and value bytes that are installed together: some keys for each leaf of a large index.
const BATCH_BYTES: usize = 4 << 20;

/// Collects what a lane writes to its own keys.
#[derive(Debug)]
pub(super) struct Collector {
    lane: LaneId,
    map: RangeMap,
    newest: Revision,
    batch: Batch,
}

impl Collector {
    pub(super) fn new(lane: LaneId, map: &RangeMap) -> Collector {
        let (map, batch) = (map.clone(), Batch::default());
        Collector { lane, map, newest: Revision::ZERO, batch }
    }

    /// By which map the keys are the lane's own.
    pub(super) fn map_version(&self) -> u64 {
        self.map.version()
    }

    /// Takes the writes of one record, which lie in `entry`; whether a draft can have them.
    pub(super) fn write(&mut self, at: Revision, writes: Writes<'_>, entry: &Bytes) -> bool {
        if at <= self.newest {
            // Given out twice: the first was void.
            return false;
        }
        self.newest = at;
        for (sub, (key, change)) in (0..).zip(writes) {
            if self.map.lane_of(key) != self.lane {
                return false;
            }
            let at = (at, sub);
            match change {
                SeenChange::Put { value, create, version, lease } => {
                    self.batch.put(at, key, value, (create, version), lease, entry);
                }
                SeenChange::Delete => self.batch.delete(at, key, entry),
            }
        }
        true
    }

    /// What is worth to be installed now: enough, or `all`.
    pub(super) fn take(&mut self, all: bool) -> Option<Sorted> {
        let enough = if all { 1 } else { BATCH_BYTES };
        (self.batch.bytes() >= enough).then(|| std::mem::take(&mut self.batch).sorted())
    }
}

/// A shard as far as its lane was read.
#[derive(Debug)]
pub struct Draft {
    shard: Shard,
    /// Whether the image could tell all keys that leases hold.
    leased_known: bool,
}

impl Draft {
    /// With the image `base` of `ground` beneath, and nothing else.
    #[must_use]
    pub fn new(lane: LaneId, ground: &Ground, base: Option<&Arc<Base>>) -> Draft {
        let mut shard = Shard::new(lane);
        let leased_known = shard.begin(ground.control.map.of_lane(lane).collect(), base);
        Draft { shard, leased_known }
    }

    /// Installs the next writes of the lane.
    pub fn install(&mut self, writes: &Sorted) {
        self.shard.replay_all(writes);
    }

    /// Puts the shard in the place of an empty one, as of the epoch that begins with `cut`. Whether the
    /// image could tell all keys that leases hold.
    pub(in crate::engine) fn into_shard(mut self, cut: Revision, shard: &mut Shard) -> bool {
        if self.shard.highest() > cut {
            self.shard.drop_above(cut);
        }
        *shard = self.shard;
        self.leased_known
    }
}
