//! Why a log refuses to go on, and what is still true then. It knows no retry: after a failed
//! write nobody can say what the disk holds, so the first error of a log is also its last.

use std::io;
use std::sync::Arc;

use crate::disk::is_full;
use crate::options::Owner;

/// Why the log refuses to go on.
///
/// Cheap to clone, since a failed log answers every later call with the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed or was full. What was reported durable is safe; nothing more will be until
    /// the log is opened again.
    #[error("{op} {file} at byte {offset_bytes}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// The segment file, without its directory; empty when no single file is meant.
        file: String,
        /// Where in the file.
        offset_bytes: u64,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Bytes that were reported durable are damaged. Recovery stops rather than guess; nothing was
    /// changed on the disk.
    #[error("{file}: damaged at byte {offset_bytes}{}", lane_text(*.lane))]
    Corrupt {
        /// The segment file, without its directory.
        file: String,
        /// The number of the segment.
        segment: u64,
        /// Where the first damaged frame (or header) begins.
        offset_bytes: u64,
        /// The lane that the damaged frame names, when that much of it can be read. It is what the
        /// frame says, which the damage may have touched.
        lane: Option<u16>,
    },
    /// A segment between two others is not there.
    #[error("{file}: missing, though later segments exist")]
    Missing {
        /// The segment file that should exist.
        file: String,
    },
    /// The files belong to another cluster or member.
    #[error("{file}: belongs to {found}, this is {expected}")]
    Foreign {
        /// The segment file, without its directory.
        file: String,
        /// Whom the options name.
        expected: Owner,
        /// Whom the file names.
        found: Owner,
    },
    /// The file carries the number of another log than its name says.
    #[error("{file}: holds log {found}, not log {expected}")]
    WrongLog {
        /// The segment file, without its directory.
        file: String,
        /// The number in the options.
        expected: u16,
        /// The number in the file.
        found: u16,
    },
    /// The file was written by a newer release.
    #[error("{file}: format {found}, this release reads up to {supported}")]
    NewerFormat {
        /// The segment file, without its directory.
        file: String,
        /// The version in the file.
        found: u32,
        /// The newest version that this release reads.
        supported: u32,
    },
    /// Another process has the directory.
    #[error("{directory}: locked, another process is using it")]
    Locked {
        /// The directory.
        directory: String,
    },
    /// The machine or the filesystem lacks something that the log cannot do without.
    #[error("{what} does not work in {directory}: {source}")]
    Unsupported {
        /// What is needed.
        what: &'static str,
        /// Where it was tried.
        directory: String,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The caller's mistake: options that contradict each other.
    #[error("log options: {0}")]
    Options(&'static str),
}

impl Error {
    /// Whether the disk was full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Io { source, .. } if is_full(source))
    }

    pub(crate) fn io(
        op: &'static str,
        file: impl Into<String>,
        offset_bytes: u64,
        source: io::Error,
    ) -> Error {
        Error::Io { op, file: file.into(), offset_bytes, source: Arc::new(source) }
    }
}

fn lane_text(lane: Option<u16>) -> String {
    lane.map_or_else(String::new, |lane| format!(", in a frame of lane {lane}"))
}
