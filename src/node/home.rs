//! The data directory: made, locked and recognised. It holds a lock, the identity of the member
//! and, unless they are elsewhere, the logs.
//!
//! The identity is a text of lines `key: value`; the last line is a crc32c of those before it:
//!
//! ```text
//! cored: member
//! format: 1
//! cluster: cdf818194e3a8c32     16 hexadecimal digits
//! member: 8e9e05c52164694d      16 hexadecimal digits, never 0
//! lanes: 2                      fixed from now on
//! logs: 2                       logs 0…1 have been made and must be there
//! checkpoint: made              only when one has been made and must be there
//! name: default                 --name at the first start
//! check: 1a2b3c4d
//! ```
//!
//! It is replaced as a whole: written beside, synced, renamed, directory synced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use cored_wal::disk::is_full;

use super::failure::Failure;
use super::files;
use crate::config::Config;

/// The newest format of the directory that this release knows.
const FORMAT: u32 = 1;

const IDENTITY: &str = "identity";
const IDENTITY_NEW: &str = "identity.new";
const LOCK: &str = "lock";
const WAL: &str = "wal";

/// Who a member is, for as long as its data directory lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The cluster's number.
    pub cluster: u64,
    /// The member's number, never 0.
    pub member: u64,
    /// How many lanes it has.
    pub lanes: u16,
    /// Logs 0 up to this one, not included, have been made.
    pub logs: u16,
    /// Whether there is a checkpoint: the logs alone are not all that the member holds.
    pub checkpoint: bool,
    /// `--name` when the directory was made.
    pub name: String,
}

/// A data directory that this process holds alone.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    identity: Identity,
    /// Locked as long as it is open, so a dead process leaves nothing behind.
    _lock: File,
}

impl Home {
    /// Opens the data directory, making it (mode 0700) if it is missing. The lanes of a new one are
    /// `--lanes`, or as many as cores, at most `lanes_default_max`.
    ///
    /// # Errors
    /// [`Failure::Locked`], [`Failure::Directory`], [`Failure::NotOurs`], [`Failure::NewerFormat`],
    /// [`Failure::Lanes`].
    pub(super) fn open(config: &Config, lanes_default_max: u16) -> Result<Home, Failure> {
        let path = config.data_dir.clone();
        make(&path).map_err(|source| Failure::Directory { path: path.clone(), source })?;
        refuse_foreign(&path)?;
        let lock = lock(&path)?;
        if let Some(identity) = read_identity(&path)? {
            if let Some(asked) = config.lanes.filter(|asked| *asked != identity.lanes) {
                return Err(Failure::Lanes { path, asked, found: identity.lanes });
            }
            return Ok(Home { path, identity, _lock: lock });
        }
        let home = Home { path, identity: identity(config, lanes_default_max), _lock: lock };
        home.write()?;
        Ok(home)
    }

    /// Opens a data directory that is a member's already. It is locked, and nothing else in it changes.
    ///
    /// # Errors
    /// [`Failure::Locked`], [`Failure::Directory`], [`Failure::NotOurs`], [`Failure::NewerFormat`].
    pub(super) fn existing(path: &Path) -> Result<Home, Failure> {
        let path = path.to_owned();
        let Some(identity) = read_identity(&path)? else {
            return Err(Failure::NotOurs { path, why: "it has no identity".into() });
        };
        let lock = lock(&path)?;
        Ok(Home { path, identity, _lock: lock })
    }

    /// Makes and locks a data directory that has no identity until [`Home::write`] gives it one.
    ///
    /// # Errors
    /// [`Failure::Locked`], [`Failure::Directory`].
    pub(super) fn found(config: &Config, lanes_default_max: u16) -> Result<Home, Failure> {
        let path = config.data_dir.clone();
        make(&path).map_err(|source| Failure::Directory { path: path.clone(), source })?;
        let lock = lock(&path)?;
        Ok(Home { path, identity: identity(config, lanes_default_max), _lock: lock })
    }

    /// Removes what makes a directory a member's, and the directory unless it `existed` before.
    pub(super) fn abandon(&self, existed: bool) -> io::Result<()> {
        for name in [IDENTITY, IDENTITY_NEW, LOCK] {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if existed { Ok(()) } else { fs::remove_dir(&self.path) }
    }

    /// Who lives here.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Notes that logs 0 up to `logs`, not included, exist: a later start without one of them is
    /// refused instead of beginning with an empty one.
    ///
    /// # Errors
    /// [`Failure::Directory`].
    pub(super) fn note_logs(&mut self, logs: u16) -> Result<(), Failure> {
        if logs > self.identity.logs {
            self.identity.logs = logs;
            self.write()?;
        }
        Ok(())
    }

    /// Writes who lives here.
    ///
    /// # Errors
    /// [`Failure::Directory`].
    pub(super) fn write(&self) -> Result<(), Failure> {
        let path = || self.path.join(IDENTITY);
        write(&self.path, &self.identity)
            .map_err(|source| Failure::Directory { path: path(), source })
    }

    /// Notes that there is a checkpoint, which [`Home::write`] will write.
    pub(super) fn note_checkpoint(&mut self) {
        self.identity.checkpoint = true;
    }
}

/// Writes who lives in the data directory `path`, which this process has locked.
pub(super) fn write(path: &Path, identity: &Identity) -> io::Result<()> {
    let content = encode(identity);
    files::replace(&path.join(IDENTITY), &path.join(IDENTITY_NEW), content.as_bytes())
}

fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let (path, mode) = (path.display(), format!("{mode:o}"));
            tracing::warn!(%path, mode, "others may enter the data directory; 700 is recommended");
        }
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(files::DIRECTORY_MODE).create(path)?;
    files::sync_directory(path.parent().unwrap_or(path))
}

/// A directory without our identity must hold nothing but what we make before it.
fn refuse_foreign(path: &Path) -> Result<(), Failure> {
    let read = fs::read_dir(path).and_then(|entries| {
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<Vec<String>>>()
    });
    let names = read.map_err(|source| Failure::Directory { path: path.to_owned(), source })?;
    if names.iter().any(|name| name == IDENTITY) {
        return Ok(());
    }
    let not_ours = |why: String| Err(Failure::NotOurs { path: path.to_owned(), why });
    if path.join("member").join("snap").is_dir() {
        let remedy = "coredctl snapshot restore takes a backup of it";
        return not_ours(format!("it holds data of etcd; {remedy}"));
    }
    // A file system of its own brings this directory along.
    let known = [LOCK, IDENTITY_NEW, WAL, "lost+found"];
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => not_ours(format!("it holds {name:?} and no identity")),
        None => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File, Failure> {
    let directory = |source| Failure::Directory { path: path.join(LOCK), source };
    let mut options = OpenOptions::new();
    let options =
        options.read(true).write(true).create(true).truncate(false).mode(files::FILE_MODE);
    let mut file = options.open(path.join(LOCK)).map_err(directory)?;
    // SAFETY: the call takes no memory, and the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(directory(error));
        }
        let mut pid = String::new();
        // Only for the message: a lock file without a number is no other error.
        let _ = file.read_to_string(&mut pid);
        return Err(Failure::Locked { path: path.to_owned(), pid: pid.trim().parse().ok() });
    }
    // Written over what is there and cut off behind it, which takes no room on a full disk.
    let note = format!("{}\n", std::process::id());
    let noted =
        file.write_all_at(note.as_bytes(), 0).and_then(|()| file.set_len(note.len() as u64));
    match noted {
        Err(error) if !is_full(&error) => Err(directory(error)),
        _ => Ok(file),
    }
}

fn encode(identity: &Identity) -> String {
    let Identity { cluster, member, lanes, logs, checkpoint, name } = identity;
    let checkpoint = if *checkpoint { "checkpoint: made\n" } else { "" };
    let text = format!(
        "cored: member\nformat: {FORMAT}\ncluster: {cluster:016x}\nmember: {member:016x}\n\
         lanes: {lanes}\nlogs: {logs}\n{checkpoint}name: {}\n",
        name.escape_default()
    );
    let check = crc32c::crc32c(text.as_bytes());
    format!("{text}check: {check:08x}\n")
}

fn read_identity(path: &Path) -> Result<Option<Identity>, Failure> {
    let file = path.join(IDENTITY);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(source) => return Err(Failure::Directory { path: file, source }),
    };
    let not_ours = |why: &str| Failure::NotOurs { path: path.to_owned(), why: why.to_owned() };
    let line = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::to_owned)
    };
    if line("cored").as_deref() != Some("member") {
        return Err(not_ours("its identity is not one of a member"));
    }
    let format = line("format").and_then(|format| format.parse().ok());
    match format {
        // Of a newer format only these two lines are known.
        Some(found) if found > FORMAT => {
            return Err(Failure::NewerFormat { path: file, found, supported: FORMAT });
        }
        Some(FORMAT) => {}
        _ => return Err(not_ours("its identity has no format")),
    }
    decode(&text, line).map(Some).ok_or_else(|| not_ours("its identity is damaged"))
}

fn decode(text: &str, line: impl Fn(&str) -> Option<String>) -> Option<Identity> {
    let checked = text.rfind("check: ")?;
    // The digits exactly as they were written: a flipped bit can make a capital of one.
    if line("check")? != format!("{:08x}", crc32c::crc32c(&text.as_bytes()[..checked])) {
        return None;
    }
    let hex = |key: &str| u64::from_str_radix(&line(key)?, 16).ok();
    Some(Identity {
        cluster: hex("cluster")?,
        member: hex("member").filter(|member| *member != 0)?,
        lanes: line("lanes")?.parse().ok().filter(|lanes| *lanes > 0)?,
        logs: line("logs")?.parse().ok()?,
        checkpoint: line("checkpoint").is_some(),
        name: line("name")?,
    })
}

/// A new member by its flags.
fn identity(config: &Config, lanes_default_max: u16) -> Identity {
    let (cluster, member) = numbers(config);
    let lanes = config.lanes.unwrap_or(config.cores.min(lanes_default_max));
    Identity { cluster, member, lanes, logs: 0, checkpoint: false, name: config.name.clone() }
}

/// The numbers of cluster and member: always the same for the same URLs and token, as in etcd.
fn numbers(config: &Config) -> (u64, u64) {
    let mut text = String::new();
    for url in &config.advertise_peer_urls {
        text.push_str(&url.to_string());
    }
    text.push_str(&config.cluster_token);
    let member = hash(text.as_bytes());
    (hash(&member.to_be_bytes()), member)
}

/// FNV-1a with the last mixing of MurmurHash3. It only has to be stable and spread; never 0.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    (hash ^ (hash >> 33)).max(1)
}

#[cfg(test)]
mod tests;
