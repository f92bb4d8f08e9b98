//! The one clock that the rooms below are told of: milliseconds since this process began to count.
//! It never goes back.

use std::time::Instant;

/// A clock; copies agree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    /// A clock that stands at 0.
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Milliseconds since it stood at 0.
    pub(super) fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
