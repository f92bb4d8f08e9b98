//! What a lane wrote, installed while the logs are still being read: a start would otherwise read first
//! and install then, with one core, what took both to write.
//!
//! What holds, and whose a key is, is known only when everything has been read (R5, R10). Then
//!
//! - what the next epoch voids, records above its cut, is taken back;
//! - keys that several lanes wrote, since their range moved or a transaction had keys of several, are
//!   put together: all versions of a key, in the order of their revisions (R8), with the lane that owns it.
//!
//! A lane's own records ascend, but for those that an epoch voided and gave out again. A draft does
//! without what is void by an epoch that was recorded: where there is any, all drafts of the node go, the
//! logs are read again and everything is replayed.

use std::fmt;
use std::sync::Arc;

use crate::keys::{KeyRange, Revision};
use crate::lane::redo::{SeenChange, Writes};
use crate::mvcc::base::Base;
use crate::mvcc::{Batch, Store};
use crate::route::RangeMap;
use crate::shard::Shard;

/// Key and value bytes that are installed together: some keys for each leaf of a large index.
const BATCH_BYTES: usize = 4 << 20;

/// Collects what a lane writes.
#[derive(Debug, Default)]
pub(super) struct Collector {
    newest: Revision,
    batch: Option<Batch>,
}

impl Collector {
    /// Takes the writes of one record; whether a draft can have them.
    pub(super) fn write(&mut self, at: Revision, writes: Writes<'_>) -> bool {
        if at <= self.newest {
            // Given out twice: the first was void.
            return false;
        }
        self.newest = at;
        // What the last record adds beyond what is enough, and headers.
        let batch = self.batch.get_or_insert_with(|| Batch::with_capacity(BATCH_BYTES / 8 * 9));
        for (sub, (key, change)) in (0..).zip(writes) {
            let at = (at, sub);
            match change {
                SeenChange::Put { value, create, version, lease } => {
                    batch.put(at, key, value, (create, version), lease);
                }
                SeenChange::Delete => batch.delete(at, key),
            }
        }
        true
    }

    /// What is worth to be installed now: enough, or `all`.
    pub(super) fn take(&mut self, all: bool) -> Option<Batch> {
        self.batch.take_if(|batch| all || batch.bytes() >= BATCH_BYTES)
    }
}

/// What one lane wrote, as far as it was read; in the end, what its shard owns.
pub struct Draft {
    store: Store,
    /// Whether anything was bound to a lease.
    binds: bool,
    /// By which map its keys are its own, in the end.
    map_version: u64,
}

impl Draft {
    /// With the image `base` beneath, and nothing else.
    #[must_use]
    pub fn new(base: Option<&Arc<Base>>) -> Draft {
        // It owns all keys until it is known whose they are: a tombstone asks what lies beneath.
        let mut store = Store::new();
        if let Some(base) = base {
            store.set_base(Arc::clone(base));
        }
        Draft { store, binds: false, map_version: 0 }
    }

    /// Installs the next writes of the lane.
    pub fn install(&mut self, writes: Batch) {
        self.binds |= writes.binds();
        self.store.install_all(writes);
    }

    /// Makes what lanes wrote to what their shards have when an epoch begins with `cut` and `map`.
    pub(super) fn settle(drafts: &mut [Draft], cut: Revision, map: &RangeMap) {
        for draft in &mut *drafts {
            draft.map_version = map.version();
            if draft.store.highest() > cut {
                draft.store.drop_above(cut);
            }
        }
        let owners = map.pieces(&KeyRange::all()).into_iter();
        let owners: Vec<_> = owners.map(|(range, lane)| (range, lane.0)).collect();
        let mut stores: Vec<_> = drafts.iter_mut().map(|draft| &mut draft.store).collect();
        let got = Store::deal(&mut stores, &owners);
        let binds = drafts.iter().any(|draft| draft.binds);
        drafts.iter_mut().zip(got).for_each(|(draft, got)| draft.binds |= got && binds);
    }

    /// Whether [`Draft::settle`] knew this map.
    pub(in crate::engine) fn knows(&self, map: &RangeMap) -> bool {
        self.map_version == map.version()
    }

    /// Begins a shard with it, which owns these ranges. Whether the image could tell all keys that leases
    /// hold.
    pub(in crate::engine) fn begin(self, shard: &mut Shard, owned: Vec<KeyRange>) -> bool {
        shard.begin_with(self.store, owned, self.binds)
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("store", &self.store).finish_non_exhaustive()
    }
}
