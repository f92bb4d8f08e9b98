//! The table of flags. A new flag is a row here and a line where [`super::Config`] is put together;
//! parsing, environment and help follow from the row.

/// How the value of a flag is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Texts with commas between them.
    List,
    /// `true` or `false`; given without a value it is `true`.
    Bool,
    /// A whole number, not negative.
    Count,
    /// A whole number.
    Number,
    /// As Go writes durations: `1h30m`, `100ms`.
    Duration,
    /// URLs with commas between them.
    Urls,
}

/// Where a flag comes from and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// etcd's, with etcd's meaning.
    Etcd,
    /// etcd's; it is accepted, and there is nothing here that it could change.
    Accepted,
    /// Ours.
    Own,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// The value when nobody gives one.
    pub default: &'static str,
    /// How its value is written.
    pub form: Form,
    /// Whose it is.
    pub origin: Origin,
    /// Under which heading the help shows it.
    pub section: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl Flag {
    /// `ETCD_DATA_DIR`; none for a flag of our own.
    #[must_use]
    pub fn etcd_variable(&self) -> Option<String> {
        (self.origin != Origin::Own).then(|| self.variable("ETCD"))
    }

    /// `CORED_DATA_DIR`.
    #[must_use]
    pub fn own_variable(&self) -> String {
        self.variable("CORED")
    }

    fn variable(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

const MEMBER: &str = "Member";
const CLUSTERING: &str = "Clustering";
const MONITORING: &str = "Profiling and Monitoring";
const LOGGING: &str = "Logging";
const FEATURES: &str = "Features";
const CORES: &str = "Cores";

const fn etcd(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    form: Form,
    help: &'static str,
) -> Flag {
    Flag { name, default, form, origin: Origin::Etcd, section, help }
}

const fn accepted(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    form: Form,
    help: &'static str,
) -> Flag {
    Flag { name, default, form, origin: Origin::Accepted, section, help }
}

const fn own(name: &'static str, default: &'static str, form: Form, help: &'static str) -> Flag {
    Flag { name, default, form, origin: Origin::Own, section: CORES, help }
}

/// Every flag but `--help` and `--version`, in the order of the help.
pub const FLAGS: &[Flag] = &[
    etcd(MEMBER, "name", "default", Form::Text, "Name of this member, for people."),
    etcd(MEMBER, "data-dir", "${name}.etcd", Form::Text, "Path to the data directory."),
    etcd(
        MEMBER,
        "wal-dir",
        "",
        Form::Text,
        "Path to the directory of the logs, for instance on a device of its own.\n\
         Empty for 'wal' in the data directory.",
    ),
    accepted(
        MEMBER,
        "snapshot-count",
        "10000",
        Form::Count,
        "Committed transactions between two snapshots.",
    ),
    etcd(MEMBER, "heartbeat-interval", "100", Form::Count, "Milliseconds between heartbeats."),
    etcd(
        MEMBER,
        "election-timeout",
        "1000",
        Form::Count,
        "Milliseconds after which a silent leader is replaced.",
    ),
    accepted(
        MEMBER,
        "initial-election-tick-advance",
        "true",
        Form::Bool,
        "Whether the first election may be early.",
    ),
    accepted(
        MEMBER,
        "listen-peer-urls",
        "http://localhost:2380",
        Form::Urls,
        "URLs to listen on for other members.",
    ),
    etcd(
        MEMBER,
        "listen-client-urls",
        "http://localhost:2379",
        Form::Urls,
        "URLs to listen on for clients: gRPC, JSON, health and metrics.",
    ),
    etcd(
        MEMBER,
        "quota-backend-bytes",
        "0",
        Form::Number,
        "Bytes that keys, values and their history may take before the alarm NOSPACE is raised and\n\
         writes are refused; 0 for 2 GiB, negative for no limit.",
    ),
    etcd(
        MEMBER,
        "auto-compaction-mode",
        "periodic",
        Form::Text,
        "What --auto-compaction-retention counts: 'periodic' for time, 'revision' for revisions.",
    ),
    etcd(
        MEMBER,
        "auto-compaction-retention",
        "0",
        Form::Text,
        "How much history is kept: a time ('30m', '24h', or a number of hours), or a number of\n\
         revisions. 0 keeps all of it until somebody compacts.",
    ),
    etcd(MEMBER, "max-txn-ops", "128", Form::Count, "Operations that a transaction may have."),
    etcd(
        MEMBER,
        "max-request-bytes",
        "1572864",
        Form::Count,
        "Bytes that a request of a client may have.",
    ),
    etcd(
        MEMBER,
        "max-concurrent-streams",
        "4294967295",
        Form::Count,
        "Streams that a client may have open on one connection.",
    ),
    etcd(
        MEMBER,
        "grpc-keepalive-min-time",
        "5s",
        Form::Duration,
        "The least time between two pings of a client.",
    ),
    etcd(
        MEMBER,
        "grpc-keepalive-interval",
        "2h",
        Form::Duration,
        "Time between pings to a client (0 for none).",
    ),
    etcd(
        MEMBER,
        "grpc-keepalive-timeout",
        "20s",
        Form::Duration,
        "Time after which a client that does not answer a ping is given up (0 for never).",
    ),
    accepted(
        CLUSTERING,
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        Form::Urls,
        "This member's URLs for the other members.",
    ),
    accepted(
        CLUSTERING,
        "initial-cluster",
        "",
        Form::Text,
        "The members of a new cluster, 'name=url' with commas between them.\n\
         Empty for this member alone.",
    ),
    accepted(
        CLUSTERING,
        "initial-cluster-state",
        "new",
        Form::OneOf(&["new", "existing"]),
        "Whether the cluster is made now: 'new' or 'existing'.",
    ),
    etcd(
        CLUSTERING,
        "initial-cluster-token",
        "etcd-cluster",
        Form::Text,
        "Tells clusters apart that are made of the same URLs.",
    ),
    etcd(
        CLUSTERING,
        "advertise-client-urls",
        "http://localhost:2379",
        Form::Urls,
        "URLs that clients are told. Required when --listen-client-urls is given.",
    ),
    accepted(
        CLUSTERING,
        "strict-reconfig-check",
        "true",
        Form::Bool,
        "Whether changes that would cost the quorum are refused.",
    ),
    accepted(
        CLUSTERING,
        "pre-vote",
        "true",
        Form::Bool,
        "Whether a member asks before it stands for election.",
    ),
    etcd(
        MONITORING,
        "metrics",
        "basic",
        Form::Text,
        "How much /metrics shows: 'basic', or 'extensive' with the times of calls.",
    ),
    accepted(LOGGING, "logger", "zap", Form::Text, "Only 'zap', which stands for what there is."),
    etcd(
        LOGGING,
        "log-outputs",
        "default",
        Form::List,
        "Where to log: 'stderr' (also as 'default'), 'stdout', or paths of files.",
    ),
    etcd(
        LOGGING,
        "log-level",
        "info",
        Form::Text,
        "From which level on: debug, info, warn, error, panic or fatal.",
    ),
    etcd(LOGGING, "log-format", "json", Form::Text, "Form of a line: 'json' or 'console'."),
    etcd(
        FEATURES,
        "watch-progress-notify-interval",
        "10m",
        Form::Duration,
        "Time between progress notifications to watchers that asked for them.",
    ),
    own(
        "cores",
        "0",
        Form::Count,
        "Cores to use, each with a thread, a log and connections of its own; 0 for all that this\n\
         process may use.",
    ),
    own(
        "lanes",
        "0",
        Form::Count,
        "Raft groups over which the keys are spread. Fixed when the data directory is made; 0 for\n\
         what it has, or at the first start as many as cores, at most 16.",
    ),
    own(
        "checkpoint-wal-bytes",
        "268435456",
        Form::Count,
        "Bytes of log after which a checkpoint is made, or half the size of the last one if that is\n\
         more, but never more than an eighth of the memory; what lies below it is recycled.",
    ),
    own(
        "spin",
        "0s",
        Form::Duration,
        "How long an idle core looks for work before it sleeps. 50us makes answers that cross cores\n\
         shorter where every core has a CPU to itself; it costs CPU, and time where it has not.",
    ),
];

/// The flag of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// What a wrong command line is answered with.
pub const USAGE: &str = "\
Usage:

  cored [flags]
    Start a server.

  cored --version
    Show the version of cored, and of the etcd that it is compatible with.

  cored -h | --help
    Show the help information about cored.

Flags may be written with one dash or two, and are also read from the environment:
--data-dir from CORED_DATA_DIR, and from ETCD_DATA_DIR.
";

/// What `--help` prints.
#[must_use]
pub fn help() -> String {
    let mut text = USAGE.to_owned();
    let mut section = "";
    for flag in FLAGS {
        if flag.section != section {
            section = flag.section;
            text.push_str(&format!("\n{section}:\n"));
        }
        text.push_str(&format!("  --{} '{}'\n", flag.name, flag.default));
        for line in flag.help.lines() {
            text.push_str(&format!("    {line}\n"));
        }
        if flag.origin == Origin::Accepted {
            text.push_str("    Accepted; a cluster of one has no use for it.\n");
        }
    }
    text
}
