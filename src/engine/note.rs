//! What an engine does by itself and operators want to read of in the log.

use cored_proto::etcdserverpb as pb;

use super::Error;
use crate::config::Retention;
use crate::keys::Revision;
use crate::mvcc::base::Corrupt;

/// Something worth a line.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// An alarm was raised, or ended.
    Alarm {
        /// Which, and whose.
        alarm: pb::AlarmMember,
        /// Whether it was raised.
        on: bool,
    },
    /// A block of the image is damaged.
    Corrupt {
        /// Which, and how.
        fault: Corrupt,
    },
    /// A compaction that nobody asked for.
    AutoCompaction {
        /// The oldest revision that stays readable.
        at: Revision,
        /// Why.
        retention: Retention,
        /// How far it is.
        step: Step,
    },
}

/// How far a compaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It begins.
    Starting,
    /// It is effective, or somebody else had compacted as much.
    Completed {
        /// Milliseconds since it began.
        took_ms: u64,
    },
    /// It was refused.
    Failed {
        /// Why.
        error: Error,
        /// Milliseconds until the next look.
        retry_ms: u64,
    },
}
