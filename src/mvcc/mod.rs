//! One shard's keys with all their versions: put, delete, range, history and compaction.

mod revisions;
mod slots;
mod version;

pub use version::{Position, VersionRef};
