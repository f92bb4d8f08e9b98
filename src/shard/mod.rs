//! One shard: the keys of one lane on this node, with what must change in step with them. Evaluates
//! requests against the newest versions (`evaluate`), installs redo records (`install`) and
//! answers reads (`reads`). It decides nothing about order, commits or other shards: the
//! [engine](crate::engine) calls it, and tells it which revision a write has.

pub mod request;

mod evaluate;
mod install;
mod reads;

pub use evaluate::{Context, Outcome};
pub use install::Outgoing;
pub use reads::{Cut, HistoryReply, Rows, encode_kvs};

use std::sync::Arc;

use crate::keys::{KeyRange, LaneId, LeaseId, Revision};
use crate::lease;
use crate::mvcc::base::{Base, Corrupt};
use crate::mvcc::{Piece, Replaced, Store};
use crate::route::balance::Sampler;
use crate::watch::{Registry, WatcherPiece};

/// Lease bindings that one piece of a move takes along.
const LEASES_MAX: usize = 1024;

/// The keys of one lane, who watches them and which leases hold them.
#[derive(Debug)]
pub struct Shard {
    lane: LaneId,
    store: Store,
    attached: lease::Index,
    registry: Registry,
    sampler: Sampler,
}

/// A bounded part of a range on its way to another shard.
#[derive(Debug)]
pub struct Moving {
    /// Keys with all their versions, of those in memory.
    pub piece: Piece,
    /// Keys and the leases that hold them, wherever their versions are.
    pub leases: Vec<lease::Binding>,
    /// Watchers of the range, with the first piece only.
    pub watchers: Vec<WatcherPiece>,
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(lane: LaneId) -> Shard {
        Shard {
            lane,
            store: Store::new(),
            attached: lease::Index::default(),
            registry: Registry::default(),
            sampler: Sampler::default(),
        }
    }

    /// Whose keys these are.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// The highest revision installed here.
    #[must_use]
    pub fn highest(&self) -> Revision {
        self.store.highest()
    }

    /// The versions themselves.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Raises the revision below which history is given up.
    pub fn compact(&mut self, at: Revision) {
        self.store.compact(at);
    }

    /// Removes some garbage below `upto`; whether there is more.
    pub fn collect(&mut self, upto: Revision, budget: usize) -> bool {
        self.store.collect(upto, budget)
    }

    /// The keys that a lease holds here, in order.
    #[must_use]
    pub fn keys_of(&self, lease: LeaseId) -> Vec<bytes::Bytes> {
        self.attached.keys(lease).map(bytes::Bytes::copy_from_slice).collect()
    }

    /// The keys that a lease held at `at`, which is not far below the newest revision. The index
    /// knows the newest binding of each key; what changed since is looked at by itself.
    #[must_use]
    pub fn keys_of_at(&self, lease: LeaseId, at: Revision) -> Vec<bytes::Bytes> {
        let mut changed = Vec::new();
        self.store.history(&KeyRange::all(), at.next(), self.highest(), &mut |version| {
            changed.push(bytes::Bytes::copy_from_slice(version.key));
            true
        });
        changed.sort_unstable();
        changed.dedup();
        let mut keys = self.keys_of(lease);
        keys.retain(|key| changed.binary_search(key).is_err());
        changed.retain(|key| self.store.get_at(key, at).is_some_and(|v| v.lease == lease));
        keys.append(&mut changed);
        keys.sort_unstable();
        keys
    }

    /// Who watches what here.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Which keys are busy.
    pub fn sampler(&mut self) -> &mut Sampler {
        &mut self.sampler
    }

    /// Takes some of a range's keys out, and all its watchers; whether this was the last of it. What
    /// the base has stays where it is: the shard that owns the range then looks there.
    pub fn export(&mut self, range: &KeyRange, max_bytes: usize) -> (Moving, bool) {
        let piece = self.store.export(range, max_bytes);
        let (leases, all) = self.attached.take(range, LEASES_MAX);
        let watchers = self.registry.export(range);
        let last = all && self.store.first_key(range).is_none();
        (Moving { piece, leases, watchers }, last)
    }

    /// Takes over what another shard exported.
    pub fn import(&mut self, moving: Moving) {
        for (key, lease) in &moving.leases {
            self.attached.bind(key, *lease);
        }
        self.store.import(moving.piece);
        self.registry.import(moving.watchers);
    }

    /// Begins with a checkpoint, of which the keys in `owned` are this shard's, and binds those to
    /// their leases.
    ///
    /// # Errors
    /// [`Corrupt`] for the first block with such a key that is not what was written: which keys the
    /// leases hold is not known then.
    ///
    /// # Panics
    /// If anything was installed before.
    pub fn set_base(&mut self, base: Arc<Base>, owned: Vec<KeyRange>) -> Result<(), Corrupt> {
        self.store.own(owned);
        self.store.set_base(base);
        self.store.leased(&mut |key, lease| self.attached.bind(key, lease))
    }

    /// Begins with these keys of an image, if there is one; whether that could tell all keys that leases
    /// hold. A damaged block shows when it is asked for; the leases of its keys are then unknown, and no
    /// lease may end until a start can read all of it: keys would stay behind. That outlasts the alarm,
    /// which an operator can end.
    pub fn begin(&mut self, owned: Vec<KeyRange>, base: Option<&Arc<Base>>) -> bool {
        match base {
            Some(base) => self.set_base(Arc::clone(base), owned).is_ok(),
            None => {
                self.own(owned);
                true
            }
        }
    }

    /// Begins with a store that has its image and everything above; `binds` says whether anything there
    /// binds a key to a lease. As [`Shard::begin`] otherwise.
    pub fn begin_with(&mut self, store: Store, owned: Vec<KeyRange>, binds: bool) -> bool {
        self.store = store;
        self.store.own(owned);
        let known = self.store.leased(&mut |key, lease| self.attached.bind(key, lease)).is_ok();
        if binds || !self.attached.is_empty() {
            let above = self.store.base().map_or(Revision::ZERO, |base| base.at()).next();
            self.store.history(&KeyRange::all(), above, Revision::MAX, &mut |version| {
                self.attached.bind(version.key, version.lease);
                true
            });
        }
        known
    }

    /// Says which keys are this shard's by the newest map.
    pub fn own(&mut self, ranges: Vec<KeyRange>) {
        self.store.own(ranges);
    }

    /// Closes what is in memory up to `at` for a checkpoint; see [`Store::freeze`].
    pub fn freeze(&mut self, at: Revision) {
        self.store.freeze(at);
    }

    /// Puts a checkpoint in the place of what it was built from; see [`Store::swap`].
    pub fn swap(&mut self, base: Arc<Base>) -> Replaced {
        self.store.swap(base)
    }
}

#[cfg(test)]
mod tests;
