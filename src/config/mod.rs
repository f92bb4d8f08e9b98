//! What a member is told when it starts: one [table](table::FLAGS) of flags, each with etcd's name,
//! default, environment variable and help. A flag on the command line wins over `CORED_…`, which
//! wins over `ETCD_…`, which wins over the default. Nothing here opens, binds or starts anything.

mod check;
mod read;
pub mod table;
mod url;
mod value;

use std::path::PathBuf;
use std::time::Duration;

pub use read::{Note, Stop, read};
pub use url::{Scheme, Url};

/// The release of etcd whose API, answers and flags this server keeps to.
pub const ETCD_VERSION: &str = "3.7.3";

/// This server's own release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything that flags and environment say, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `--name`.
    pub name: String,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--wal-dir`, or its place in the data directory.
    pub wal_dir: PathBuf,
    /// `--listen-client-urls`.
    pub listen_client_urls: Vec<Url>,
    /// `--advertise-client-urls`.
    pub advertise_client_urls: Vec<Url>,
    /// `--listen-peer-urls`.
    pub listen_peer_urls: Vec<Url>,
    /// `--initial-advertise-peer-urls`.
    pub advertise_peer_urls: Vec<Url>,
    /// `--initial-cluster-token`.
    pub cluster_token: String,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--max-concurrent-streams`, of one connection.
    pub max_concurrent_streams: u32,
    /// `--quota-backend-bytes`, 0 replaced by etcd's 2 GiB; negative for none.
    pub quota_bytes: i64,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`; none keeps all history.
    pub auto_compaction: Option<Retention>,
    /// `--heartbeat-interval`.
    pub heartbeat: Duration,
    /// `--election-timeout`.
    pub election: Duration,
    /// `--grpc-keepalive-min-time`: clients that ping more often are sent away.
    pub keepalive_min_time: Duration,
    /// `--grpc-keepalive-interval`: pings to clients; zero for none.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: how long a client may owe the answer to a ping.
    pub keepalive_timeout: Duration,
    /// `--watch-progress-notify-interval`.
    pub watch_progress_interval: Duration,
    /// `--metrics extensive`: calls are timed.
    pub metrics_extensive: bool,
    /// Where and how to log.
    pub log: LogConfig,
    /// `--cores`, at most the CPUs that this process may use.
    pub cores: u16,
    /// `--lanes`, if it was given: else the data directory decides.
    pub lanes: Option<u16>,
    /// `--checkpoint-wal-bytes`.
    pub checkpoint_wal_bytes: u64,
    /// `--spin`: how long an idle core looks for work before it sleeps.
    pub spin: Duration,
}

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// That of so long.
    Period {
        /// Milliseconds, not 0.
        ms: u64,
    },
    /// So many revisions, more than 0.
    Revisions(i64),
}

/// How urgent a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Details for whoever looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// What is odd.
    Warn,
    /// What failed.
    Error,
}

/// Where and how to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `--log-level`.
    pub level: Level,
    /// `--log-outputs`: `stderr`, `stdout` or paths of files.
    pub outputs: Vec<String>,
    /// `--log-format`: JSON lines, or lines for people.
    pub json: bool,
}

impl Default for LogConfig {
    /// What holds until the flags have been read.
    fn default() -> LogConfig {
        LogConfig { level: Level::Info, outputs: vec!["stderr".to_owned()], json: true }
    }
}

/// Why a member can not start with these flags. The texts of what etcd checks too are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something on the command line that is no flag.
    #[error("{0:?} is not a valid flag")]
    NotAFlag(String),
    /// A value of an environment variable does not fit its flag.
    #[error("invalid value {value:?} for {variable}: {reason}")]
    Variable {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Clients would be told an address that is not served.
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    AdvertiseUnset,
    /// A server can only listen on its own addresses.
    #[error("expected IP in URL for binding ({0})")]
    NotAnAddress(Url),
    /// Elections would be lost to ordinary delays.
    #[error(
        "--election-timeout[{election_ms}ms] should be at least as 5 times as \
         --heartbeat-interval[{heartbeat_ms}ms]"
    )]
    ElectionTooShort {
        /// `--election-timeout`.
        election_ms: u128,
        /// `--heartbeat-interval`.
        heartbeat_ms: u128,
    },
    /// A dead leader would be missed too late.
    #[error("--election-timeout[{0}ms] is too long, and should be set less than 50000ms")]
    ElectionTooLong(u128),
    /// Zero is no interval.
    #[error("--{0} must be >0 (set to 0ms)")]
    NotPositive(&'static str),
    /// There are two ways to compact by itself.
    #[error("unknown auto-compaction-mode {0:?}")]
    CompactionMode(String),
    /// Neither way to compact by itself was chosen.
    #[error("undefined auto-compaction-mode")]
    CompactionModeUnset,
    /// How much history to keep can not be read.
    #[error("error parsing CompactionRetention: time: invalid duration {0:?}")]
    CompactionRetention(String),
    /// A log can have one of two forms.
    #[error("unknown log format: {0}, supported values json, console")]
    LogFormat(String),
    /// Not one of the levels.
    #[error("unrecognized level: {0:?}")]
    LogLevel(String),
    /// Only one logger.
    #[error("unknown logger option {0:?}")]
    Logger(String),
    /// The cluster that the flags describe does not hold this member.
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    NotInCluster(String),
    /// This release runs members alone.
    #[error("--initial-cluster names {0} members: this release runs clusters of one")]
    Cluster(usize),
    /// Something that etcd has and this release has not.
    #[error("{0} is not supported by this release")]
    Unsupported(String),
    /// A number outside of its bounds.
    #[error("--{flag}[{value}] must be between {min} and {max}")]
    Bounds {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
}

/// What `--version` prints: the lines scripts look for in etcd's, then our own.
#[must_use]
pub fn version_text() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\n\
         Git SHA: none (this is cored, compatible with etcd {ETCD_VERSION})\n\
         Go Version: none (Rust)\n\
         Go OS/Arch: {}/{}\n\
         cored Version: {VERSION}\n",
        std::env::consts::OS,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
    )
}

#[cfg(test)]
mod tests;
