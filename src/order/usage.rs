//! How many bytes the store has in use, all cores together: the number that the quota is compared
//! with. A core states its part when a turn has changed it, so what is read lags a turn behind and
//! no more. Nothing here knows what the bytes are, or how many may be.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// One number that all cores add to and all connections read, on cache lines of its own (128 bytes:
/// x86 fetches lines in pairs). It orders nothing, so every access is relaxed.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Usage(AtomicI64);

impl Usage {
    /// Bytes in use.
    #[must_use]
    pub fn bytes_in_use(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// States that a core has `now` bytes in use where it stated `before` the last time.
    pub fn changed(&self, before: i64, now: i64) {
        if before != now {
            self.0.fetch_add(now - before, Relaxed);
        }
    }
}
