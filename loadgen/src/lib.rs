//! Load for any server that speaks the etcd v3 API, and an honest account of how it was carried.
//!
//! In a *closed loop* each client sends when it has its answer: this asks how much the server can do. In an
//! *open loop* a schedule says when each request is due, whatever became of the ones before it, and
//! latency counts from that time: this asks what a user sees at a given rate. Of an open loop both are shown,
//! the *response* time since the due time and the *service* time since the request was sent.
//!
//! Each thread is a one-threaded executor with its own connections, clients and histograms; nothing is shared on the
//! way of a request but a few counters. The coordinator empties the histograms once a second.
//!
//! With `--verify` every client notes what was acknowledged, and afterwards all of it is read back. In a watch
//! fan-out every watcher counts what it was told, and nothing may be missing.
//!
//! The modules in reading order: what is asked for, the run, what a client does, how it travels, what is told.

pub mod args;
pub mod run;

pub mod watch;
pub mod worker;

pub mod pace;
pub mod schedule;

pub mod keyspace;
pub mod workload;

pub mod readback;
pub mod verify;

pub mod client;
pub mod framing;
pub mod wire;

pub mod record;
pub mod usage;

pub mod hlog;
pub mod report;

pub mod random;

#[cfg(test)]
mod fake;
