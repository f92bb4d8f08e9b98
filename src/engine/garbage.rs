//! What a compaction leaves behind goes, in bounded steps of turns that have time for it.
//!
//! Knows neither which versions are garbage nor when to compact.

use super::{Effects, Engine, Message};
use crate::keys::CoreId;

/// Garbage versions that one turn looks at.
const COLLECT_BUDGET: usize = 512;

impl Engine {
    /// Takes a step in each shard, and tells the keeper once there is no more to do.
    pub(super) fn collect_garbage(&mut self, fx: &mut Effects) {
        let upto = self.control.compacted.min(self.order.watermark());
        self.garbage = false;
        for seat in &mut self.seats {
            if seat.is_sending() {
                // A key of which part has gone must keep the tombstone that goes behind it.
                self.garbage = true;
                continue;
            }
            let before = seat.shard.store().versions();
            self.garbage |= seat.shard.collect(upto, COLLECT_BUDGET);
            self.collected += (before - seat.shard.store().versions()) as u64;
        }
        if !self.garbage {
            self.send(CoreId(0), Message::Collected { upto }, fx);
        }
        self.again |= self.garbage;
    }
}
