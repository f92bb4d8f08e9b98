//! One core's whole thinking: its shards and lanes, the operations that reach across shards, the
//! watch streams and requests of its clients.
//!
//! [`Engine::step`] takes one [`Input`], [`Engine::flush`] ends a turn; both only fill [`Effects`].
//! The core's drive loop (`node::core`) carries those out: it appends records to the log, passes
//! messages to other cores, delivers answers. The simulation drives the same code from one seed.

mod request;

pub use request::{Answer, Error, RangeReply, Reply, Request, RequestId, StatusReply};
