//! What is done to backups and data directories from outside of a running member.
//!
//! Each file is one subject; `coredctl` is a command line around them. Knows files, and the API as a
//! client does; it never opens what a running member writes.

pub mod failure;
pub mod file;

pub mod backup;
pub mod bbolt;
pub mod etcd;
pub mod own;

pub mod client;
pub mod export;
pub mod restore;
pub mod save;
pub mod status;
pub mod verify;

#[cfg(test)]
mod tests;
