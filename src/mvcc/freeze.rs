//! Layers come and go: what was active is closed for a checkpoint to be built from, and gives way to
//! it.
//!
//! Knows neither who builds the checkpoint nor when one is due.

use std::sync::Arc;

use super::layer::Layer;
use super::{Position, Store};
use crate::keys::Revision;

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
            let position: Position = popped.version.position();
            let found = self.active.find(&popped.key);
            self.active.push(position, &popped.key, found, popped.version, popped.beneath);
        }
    }

    /// The layer that a checkpoint is built from, if one is.
    #[must_use]
    pub fn frozen(&self) -> Option<&Arc<Layer>> {
        self.frozen.as_ref().map(|frozen| &frozen.layer)
    }
}
