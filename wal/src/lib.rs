//! A durable sequence of byte records.
//!
//! A [`Log`] takes opaque records, copies them into groups, writes each group with one aligned
//! write and says up to which record everything is durable. Opening it again gives back every
//! record that was ever reported durable, in order, or refuses with the place of the damage. It
//! knows nothing of Raft, keys or clients, starts no thread, waits only while it is opened or
//! closed, and asks no clock: time is handed to [`Log::tick`].
//!
//! ```text
//! append ─▶ forming group ─▶ submit ─▶ one write ─▶ complete ─▶ durable sequence
//!                 ▲                        │ O_DIRECT | O_DSYNC into a zero-filled segment
//!                 └── records that arrive while a write is in flight form the next group
//! ```
//!
//! Every byte on disk is described in [`segment`] (the header of a file) and [`record`] (a frame);
//! [`recover`] holds the rule that tells a torn tail from damage.

mod area;
mod buffer;
pub mod disk;
mod error;
mod group;
mod log;
mod options;
pub mod record;
pub mod recover;
pub mod segment;

pub use area::{Area, Arrived};
pub use buffer::{BLOCK_BYTES, Buffer};
pub use disk::Disk;
pub use error::Error;
pub use log::{Log, Position, Stats};
pub use options::{Options, Owner};
pub use record::{PAYLOAD_BYTES_MAX, Sequence};
pub use recover::{Record, Recovered, Torn};
