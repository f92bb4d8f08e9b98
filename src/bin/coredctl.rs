//! `coredctl`: makes, looks into, restores and converts backups. A command line around [`cored::ctl`].

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cored::config::{self, Stop};
use cored::ctl::failure::Failure;
use cored::ctl::file::BackupFile;
use cored::ctl::status::Format;
use cored::ctl::{export, restore, save, status, verify};
use cored::node::limits;

/// Works on backups of cored and of etcd.
#[derive(Parser)]
#[command(name = "coredctl", version)]
struct Command {
    #[command(subcommand)]
    group: Group,
}

#[derive(Subcommand)]
enum Group {
    /// Makes, looks into and converts backups.
    #[command(subcommand)]
    Snapshot(Snapshot),
}

#[derive(Subcommand)]
enum Snapshot {
    /// Fetches a backup from a running member into FILE.
    Save(Save),
    /// Reads a backup from its first byte to its last and tells what it holds.
    Status(Status),
    /// Makes the data directory of a new member from a backup of cored or of etcd.
    Restore(Restore),
    /// Writes a backup in another format.
    Export(Export),
    /// Tells whether a backup, or a data directory that no member runs on, is what was written.
    Verify(Verify),
}

#[derive(Args)]
struct Save {
    /// The file to make.
    file: PathBuf,
    /// The member to ask: one.
    #[arg(
        long,
        env = "ETCDCTL_ENDPOINTS",
        default_value = "127.0.0.1:2379",
        value_delimiter = ','
    )]
    endpoints: Vec<String>,
    /// How long to wait for the connection, in seconds.
    #[arg(long, default_value_t = 5)]
    dial_timeout: u64,
}

#[derive(Args)]
struct Status {
    /// The backup.
    file: PathBuf,
    /// How to show it.
    #[arg(short, long, default_value = "simple")]
    write_out: WriteOut,
}

#[derive(Clone, Copy, ValueEnum)]
enum WriteOut {
    Simple,
    Table,
    Json,
    Fields,
}

#[derive(Args)]
struct Restore {
    /// The backup.
    file: PathBuf,
    /// The directory to make [default: the member's name and ".etcd"].
    #[arg(long)]
    data_dir: Option<String>,
    /// Where the member's logs will be, if not in the data directory: it must not exist.
    #[arg(long)]
    wal_dir: Option<String>,
    /// The member's name.
    #[arg(long)]
    name: Option<String>,
    /// The members of the new cluster: name=URL.
    #[arg(long)]
    initial_cluster: Option<String>,
    /// Tells clusters apart that have the same members.
    #[arg(long)]
    initial_cluster_token: Option<String>,
    /// The member's URLs for its peers.
    #[arg(long)]
    initial_advertise_peer_urls: Option<String>,
    /// How many lanes the member has, for good.
    #[arg(long)]
    lanes: Option<String>,
    /// Take a file without a right checksum: one that was copied from a data directory of etcd.
    #[arg(long)]
    skip_hash_check: bool,
    /// How far to move the revision on, so that it is beyond all that clients have seen.
    #[arg(long, default_value_t = 0)]
    bump_revision: u64,
    /// Have everything up to the moved revision compacted; needed with --bump-revision.
    #[arg(long)]
    mark_compacted: bool,
    /// Leave users and roles out.
    #[arg(long)]
    without_auth: bool,
}

#[derive(Args)]
struct Export {
    /// The backup.
    file: PathBuf,
    /// The file to make.
    out: PathBuf,
    /// What to write.
    #[arg(long)]
    format: ExportFormat,
}

#[derive(Args)]
struct Verify {
    /// The backup or the data directory.
    path: PathBuf,
    /// Where the logs are, if not in the data directory.
    #[arg(long)]
    wal_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ExportFormat {
    /// What `etcdutl snapshot restore` takes, of etcd 3.4 to 3.7.
    Etcd,
}

fn main() -> ExitCode {
    let Group::Snapshot(command) = Command::parse().group;
    let done = match command {
        Snapshot::Save(save) => save.run(),
        Snapshot::Status(status) => status.run(),
        Snapshot::Restore(restore) => restore.run(),
        Snapshot::Export(export) => export.run(),
        Snapshot::Verify(Verify { path, wal_dir }) => verify::verify(&path, wal_dir.as_deref()),
    };
    match done {
        Ok(text) => {
            // Whoever closed the other end has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "Error: {failure}");
            failure.code().into()
        }
    }
}

impl Save {
    fn run(self) -> Result<String, Failure> {
        let [endpoint] = self.endpoints.as_slice() else {
            let endpoints = self.endpoints.join(" ");
            let text = "snapshot must be requested to one selected node, not multiple";
            return Err(Failure::Usage(format!("{text} [{endpoints}]")));
        };
        let timeout = Duration::from_secs(self.dial_timeout);
        let saved = save::save(endpoint, &self.file, timeout)?;
        let mut text = format!("Snapshot saved at {}\n", self.file.display());
        if !saved.version.is_empty() {
            text += &format!("Server version {}\n", saved.version);
        }
        Ok(text)
    }
}

impl Status {
    fn run(self) -> Result<String, Failure> {
        let format = match self.write_out {
            WriteOut::Simple => Format::Simple,
            WriteOut::Table => Format::Table,
            WriteOut::Json => Format::Json,
            WriteOut::Fields => Format::Fields,
        };
        Ok(status::status(&self.file)?.show(format))
    }
}

impl Restore {
    fn run(self) -> Result<String, Failure> {
        // The member will read the same flags, and says the same about them.
        let flags = [
            ("name", &self.name),
            ("data-dir", &self.data_dir),
            ("wal-dir", &self.wal_dir),
            ("initial-cluster", &self.initial_cluster),
            ("initial-cluster-token", &self.initial_cluster_token),
            ("initial-advertise-peer-urls", &self.initial_advertise_peer_urls),
            ("lanes", &self.lanes),
        ];
        let flag = |(name, value): (&str, &Option<String>)| {
            value.as_ref().map(|value| format!("--{name}={value}"))
        };
        let given: Vec<String> = flags.into_iter().filter_map(flag).collect();
        let (config, _) =
            config::read(given, [], limits::cpus().len()).map_err(|stop| match stop {
                Stop::Print(text) | Stop::Usage(text) => Failure::Usage(text.trim_end().to_owned()),
                Stop::Invalid(error) => Failure::Usage(error.to_string()),
            })?;
        let file = BackupFile::open(&self.file)?;
        let options = restore::Options {
            skip_hash_check: self.skip_hash_check,
            bump_revision: self.bump_revision,
            mark_compacted: self.mark_compacted,
            without_auth: self.without_auth,
            wal_dir: self.wal_dir.map(PathBuf::from),
        };
        let made = restore::restore(&file, &config, &options)?;
        let (data_dir, cluster, member) = (config.data_dir.display(), made.cluster, made.member);
        Ok(format!("Restored into {data_dir}: cluster {cluster:x}, member {member:x}\n"))
    }
}

impl Export {
    fn run(self) -> Result<String, Failure> {
        let file = BackupFile::open(&self.file)?;
        match self.format {
            ExportFormat::Etcd => export::to_etcd(&file, &self.out)?,
        }
        Ok(format!("Snapshot exported to {}\n", self.out.display()))
    }
}
