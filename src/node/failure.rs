//! Why a member can not start or has to stop, each with an exit code of its own, so that whoever
//! supervises the process can tell a wrong flag from a broken disk. Numbers are never reused.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use cored_wal::Error as LogError;
use cored_wal::disk::is_full;

use crate::engine::RecoverError;

/// What ended a member.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something of the operating system's that has no kind of its own here.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// io_uring is missing or forbidden.
    #[error(
        "io_uring is not available: {source}. It needs Linux 5.11 or newer, sysctl \
         kernel.io_uring_disabled=0, and in a container a seccomp profile that allows \
         io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Uring {
        /// What the operating system said.
        source: io::Error,
    },
    /// A limit of the process is too small.
    #[error("{what} is {limit}, {needed} are needed for {cores} cores: raise it with {remedy}")]
    Limit {
        /// Which.
        what: &'static str,
        /// What it is.
        limit: u64,
        /// What is needed.
        needed: u64,
        /// For so many.
        cores: u16,
        /// How it is raised.
        remedy: &'static str,
    },
    /// Another process listens there already.
    #[error("can not listen on {url}: {source}")]
    Listen {
        /// Where.
        url: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process has the data directory.
    #[error("{path} is locked by another process{}", holder(.pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process, if it said so.
        pid: Option<u32>,
    },
    /// The data directory can not be made, read or written.
    #[error("{path}: {source}{}", remedy(is_full(.source)))]
    Directory {
        /// What could not be used.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The data directory holds something else.
    #[error("{path} is not a data directory of cored: {why}")]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is there.
        why: String,
    },
    /// A newer release wrote it.
    #[error("{path} has format {found}, this release reads up to {supported}")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        supported: u32,
    },
    /// The number of lanes is fixed when the data directory is made.
    #[error(
        "--lanes {asked} differs from the {found} lanes of {path}: the number is fixed when the \
         data directory is made; leave the flag out"
    )]
    Lanes {
        /// The directory.
        path: PathBuf,
        /// What the flag says.
        asked: u16,
        /// What the directory has.
        found: u16,
    },
    /// Logs that this member wrote are not there.
    #[error("{path} lacks log {log}, which this member has written: is it the right --wal-dir?")]
    LogMissing {
        /// The directory of the logs.
        path: PathBuf,
        /// The first one that is missing.
        log: u16,
    },
    /// A log can not be opened, or failed.
    #[error("log {log}: {source}{}", remedy(.source.is_full()))]
    Log {
        /// Its number.
        log: u16,
        /// Why.
        source: LogError,
    },
    /// A checkpoint is damaged, or parts of it are missing.
    #[error("checkpoint {path}: {why}; the logs no longer hold what it holds")]
    Checkpoint {
        /// Its manifest.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Clients have to say who they are, which nobody here could check.
    #[error(
        "authentication is enabled in {path}, and this release can not check who a client is: \
         restore a backup with `coredctl snapshot restore --without-auth`"
    )]
    Auth {
        /// The data directory.
        path: PathBuf,
    },
    /// The logs were read but make no sense.
    #[error("the logs contradict each other: {0}")]
    Recover(#[from] RecoverError),
    /// A log holds records of lanes that the member does not have.
    #[error("log {log} holds records of lane {lane}, this member has {lanes} lanes")]
    Lane {
        /// The log.
        log: u16,
        /// The lane.
        lane: u16,
        /// How many there are.
        lanes: u16,
    },
    /// A thread of the member ended without saying why; its panic is in the log above.
    #[error("core {0} ended by a defect")]
    Defect(u16),
}

/// What helps on a full disk.
fn remedy(is_full: bool) -> &'static str {
    if !is_full {
        return "";
    }
    ". Make room on its file system, some hundred MiB, and start the member again; its own files are no \
     waste, and without one of them it does not start"
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl Failure {
    /// What the process ends with. 1 and 2 are those of flags, as in etcd.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Failure::System { .. } => 1,
            Failure::Uring { .. } => 10,
            Failure::Limit { .. } => 11,
            Failure::Listen { .. } => 12,
            Failure::Locked { .. } => 13,
            Failure::Directory { .. } => 14,
            Failure::NotOurs { .. } => 15,
            Failure::NewerFormat { .. } => 16,
            Failure::Lanes { .. } => 17,
            Failure::LogMissing { .. } => 18,
            Failure::Log { source, .. } => match source {
                LogError::Unsupported { .. } => 10,
                LogError::Foreign { .. } | LogError::WrongLog { .. } => 15,
                LogError::NewerFormat { .. } => 16,
                LogError::Corrupt { .. } | LogError::Missing { .. } => 19,
                _ => 20,
            },
            Failure::Recover(_) | Failure::Lane { .. } | Failure::Checkpoint { .. } => 19,
            Failure::Auth { .. } => 21,
            Failure::Defect(_) => DEFECT,
        }
    }
}

/// The exit code of a defect of this program.
pub const DEFECT: u8 = 70;

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> ExitCode {
        ExitCode::from(failure.code())
    }
}
