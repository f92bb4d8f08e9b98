//! Layers come and go: what was active is closed for a checkpoint to be built from, and gives way to
//! it.
//!
//! ```text
//! freeze at R   active          →  frozen up to R, active above
//! swap          frozen, base    →  base at R
//! ```
//!
//! Knows neither who builds the checkpoint nor when one is due.

use std::sync::Arc;

use super::Store;
use super::base::{Base, Corrupt};
use super::layer::Layer;
use crate::keys::{KeyRange, LeaseId, Revision};

/// What a checkpoint replaced. Whoever drops the last of it gives much memory back, which takes time: a large
/// image alone some 30 µs a MiB.
#[derive(Debug)]
pub struct Replaced {
    /// The layer that was frozen.
    pub layer: Arc<Layer>,
    /// The image beneath it.
    pub base: Option<Arc<Base>>,
}

/// What was the active layer, while a checkpoint is built from it.
pub(super) struct Frozen {
    pub(super) layer: Arc<Layer>,
    /// All of its versions lie at or below, all of the active layer's above.
    pub(super) at: Revision,
}

impl Store {
    /// Closes the active layer at `at`: what was written up to there is [frozen](Store::frozen) and
    /// never changes again, what was written since goes to a new active layer. O(versions above
    /// `at`).
    ///
    /// # Panics
    /// If there is a frozen layer already, or `at` lies below what was collected or closed before: the
    /// state at `at` is no longer whole then.
    pub fn freeze(&mut self, at: Revision) {
        assert!(self.frozen.is_none(), "one checkpoint at a time");
        assert!(at >= self.collected(), "{at:?} is collected");
        assert!(at >= self.floor(), "{at:?} is in a layer that is closed");
        let mut above = Vec::new();
        while let Some(popped) = self.active.pop_above(at) {
            above.push(popped);
        }
        let layer = Arc::new(std::mem::replace(&mut self.active, Layer::new()));
        self.frozen = Some(Frozen { layer, at });
        for popped in above.into_iter().rev() {
            let position = popped.version.position();
            let found = self.active.place(&popped.key);
            self.active.push(position, &popped.key, found, popped.version, popped.beneath);
        }
    }

    /// The layer that a checkpoint is built from, if one is.
    #[must_use]
    pub fn frozen(&self) -> Option<&Arc<Layer>> {
        self.frozen.as_ref().map(|frozen| &frozen.layer)
    }

    /// Puts the checkpoint that was built from the frozen layer and the old base in their place, and returns
    /// these.
    ///
    /// # Panics
    /// If the checkpoint is not one of the revision at which a layer was frozen.
    pub fn swap(&mut self, base: Arc<Base>) -> Replaced {
        let Frozen { layer, at } = self.frozen.take().expect("a layer was frozen");
        assert_eq!(at, base.at(), "the checkpoint holds what was frozen");
        let before = self.base.set(base, self.collected.upto());
        Replaced { layer, base: before }
    }

    /// Begins with a checkpoint, before anything else is told.
    ///
    /// # Panics
    /// If the store has versions already.
    pub fn set_base(&mut self, base: Arc<Base>) {
        let empty = self.active.versions() == 0 && self.frozen.is_none();
        assert!(empty, "a base is the first thing of a store");
        self.highest = self.highest.max(base.at());
        self.base.set(base, self.collected.upto());
    }

    /// The checkpoint beneath, if there is one.
    #[must_use]
    pub fn base(&self) -> Option<&Arc<Base>> {
        self.base.get()
    }

    /// Says which keys are this store's: of the base, it shows no others. All of them at first.
    ///
    /// A key that comes must be owned before its first version is told. No two of the ranges may share
    /// a key.
    pub fn own(&mut self, ranges: Vec<KeyRange>) {
        self.base.own(ranges, self.collected.upto());
    }

    /// Shows every key of the base whose newest version there binds it to a lease. Reads the blocks
    /// with such keys.
    ///
    /// # Errors
    /// [`Corrupt`] for the first of them that is not what was written.
    pub fn leased(&self, visit: &mut dyn FnMut(&[u8], LeaseId)) -> Result<(), Corrupt> {
        self.base.leased(visit)
    }

    /// Checks all of the base that an operation on the newest versions of `range` could read, so that
    /// no later look can fail.
    ///
    /// # Errors
    /// [`Corrupt`] for the first block that is not what was written.
    pub fn touch(&self, range: &KeyRange) -> Result<(), Corrupt> {
        match range.as_single() {
            Some(key) if self.active.find(key).is_some() => Ok(()),
            _ => self.base.touch(range),
        }
    }

    /// The first corrupt block that anyone touched, in this store or another of the node. What such a
    /// block held is missing from all answers since, and from what came of them.
    #[must_use]
    pub fn fault(&self) -> Option<Corrupt> {
        self.base.get()?.fault()
    }

    /// Whether there is a checkpoint beneath.
    #[must_use]
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// That the newest version of `key` can be read.
    ///
    /// # Errors
    /// [`Corrupt`] if it lies in a damaged block of the checkpoint.
    pub fn touch_key(&self, key: &[u8]) -> Result<(), Corrupt> {
        match self.base.get() {
            Some(base) if self.active.find(key).is_none() => base.touch_key(key),
            _ => Ok(()),
        }
    }

    /// How often a damaged block of the checkpoint was in somebody's way.
    #[must_use]
    pub fn bad_reads(&self) -> u64 {
        self.base.get().map_or(0, |base| base.bad_reads())
    }
}
