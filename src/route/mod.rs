//! Which shard owns a key, who must wait for a range, and where a range should live.
//!
//! State and arithmetic only; what waits and what is moved is the business of the rooms above.

pub mod balance;
pub mod latch;
pub mod ranges;

pub use latch::{Claim, ClaimId, Latches};
pub use ranges::RangeMap;
