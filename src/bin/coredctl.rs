//! `coredctl`: makes, looks into, restores and converts backups. A command line around [`cored::ctl`].

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cored::ctl::failure::Failure;
use cored::ctl::file::BackupFile;
use cored::ctl::status::Format;
use cored::ctl::{export, save, status};

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
    /// Writes a backup in another format.
    Export(Export),
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
struct Export {
    /// The backup.
    file: PathBuf,
    /// The file to make.
    out: PathBuf,
    /// What to write.
    #[arg(long)]
    format: ExportFormat,
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
        Snapshot::Export(export) => export.run(),
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

impl Export {
    fn run(self) -> Result<String, Failure> {
        let file = BackupFile::open(&self.file)?;
        match self.format {
            ExportFormat::Etcd => export::to_etcd(&file, &self.out)?,
        }
        Ok(format!("Snapshot exported to {}\n", self.out.display()))
    }
}
