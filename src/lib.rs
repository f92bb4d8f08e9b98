//! cored: a distributed key-value store that speaks the etcd v3 API.
//!
//! The architecture is told in `docs/design.md`; here are the rooms, in reading order. A room names
//! only rooms above it. Everything down to [`engine`] is driven and never acts: it knows no socket,
//! file, clock, thread or `async`. What waits lives in [`front`] and [`node`]; [`ctl`] works from
//! outside of a running member.
//!
//! What lasts is in two places: in the logs (crate `cored_wal`), which [`lane`] fills, and in the
//! checkpoint, whose blocks are [`mvcc`]'s and whose manifest is [`checkpoint`]'s.

pub mod config;
pub mod keys;
pub mod metrics;

pub mod lease;
pub mod mvcc;
pub mod watch;

pub mod lane;

pub mod checkpoint;
pub mod order;
pub mod route;
pub mod txn;

pub mod shard;

pub mod engine;

pub mod api;
pub mod ctl;
pub mod front;
pub mod node;

#[cfg(any(test, feature = "sim"))]
pub mod sim;
