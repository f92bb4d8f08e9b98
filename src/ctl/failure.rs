//! Why a command of `coredctl` failed, each kind with an exit code; where a running member would stop
//! for the same reason, with the member's own number.

use std::io;
use std::path::{Path, PathBuf};

use super::{bbolt, client, etcd};

/// What ended a command.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Arguments that each can be read and do not fit together.
    #[error("{0}")]
    Usage(String),
    /// No answer from the server, or one that says no.
    #[error("{endpoint}: {source}")]
    Server {
        /// Whom it was about.
        endpoint: String,
        /// What came.
        source: client::Error,
    },
    /// A file or directory can not be made, read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something is there that must not be lost.
    #[error("{0}")]
    Occupied(String),
    /// It is no backup.
    #[error("{path}: {why}")]
    NotOurs {
        /// The file or directory.
        path: PathBuf,
        /// What it is, or is not.
        why: String,
    },
    /// The backup is fine, and can not be had the way that was asked for.
    #[error("{0}")]
    Refused(String),
    /// A later release wrote it.
    #[error("{path}: {why}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says.
        why: String,
    },
    /// What a member would stop for.
    #[error(transparent)]
    Node(#[from] crate::node::Failure),
    /// A backup, or a part of one, is not what was written.
    #[error("{path}: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong there.
        why: String,
    },
}

impl Failure {
    /// Makes one of what the operating system said of `path`.
    pub fn file(path: &Path) -> impl Fn(io::Error) -> Failure + use<'_> {
        move |source| Failure::File { path: path.to_owned(), source }
    }

    /// Makes one of what was found in the backup of etcd at `path`.
    pub fn etcd(path: &Path) -> impl Fn(etcd::Error) -> Failure + use<'_> {
        move |error| {
            let (path, why) = (path.to_owned(), error.to_string());
            match error {
                etcd::Error::NoBucket(_) | etcd::Error::File(bbolt::Error::Foreign) => {
                    Failure::NotOurs { path, why }
                }
                etcd::Error::Entry { .. } | etcd::Error::File(_) => Failure::Damaged { path, why },
            }
        }
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Server { .. } => 3,
            Failure::File { .. } => 14,
            Failure::Occupied(_) | Failure::NotOurs { .. } => 15,
            Failure::Newer { .. } => 16,
            Failure::Damaged { .. } => 19,
            Failure::Node(failure) => failure.code(),
        }
    }
}
