//! `snapshot restore`: makes the data directory of a new member from a backup, of cored's or of etcd's.
//!
//! The state is the backup's, revision for revision; the cluster and its member are new. Nothing that
//! exists is touched.

use std::path::{Path, PathBuf};

use super::backup::Backup;
use super::failure::Failure;
use super::file::{BackupFile, Kind};
use super::{etcd, own};
use crate::config::Config;
use crate::keys::Revision;
use crate::mvcc::base::BlockRef;
use crate::mvcc::build::{Builder, Sink as _};
use crate::node::restore::{Beginning, Blocks, Restored, restore as make};

/// No store reaches this revision: what a backup says above is nonsense, and a store that began there
/// could run out of revisions.
const REVISION_MAX: Revision = Revision(1 << 62);

/// What a restore does beside restoring.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The backup need not have a right checksum, or any.
    pub skip_hash_check: bool,
    /// How far the revision moves on.
    pub bump_revision: u64,
    /// Whether everything up to the moved revision counts as compacted; has to be said with the bump.
    pub mark_compacted: bool,
    /// Users and roles may be lost.
    pub without_auth: bool,
    /// `--wal-dir`, if it was given: it must not exist.
    pub wal_dir: Option<PathBuf>,
}

/// Makes `config.data_dir` from the backup.
///
/// # Errors
/// [`Failure`]; nothing is left of the new directory then.
pub fn restore(file: &BackupFile, config: &Config, options: &Options) -> Result<Restored, Failure> {
    if (options.bump_revision > 0) != options.mark_compacted {
        // etcd's words.
        return Err(Failure::Usage("--mark-compacted required if --revision-bump > 0".into()));
    }
    refuse_occupied(config, options)?;
    if !file.has_checksum() && !options.skip_hash_check {
        let text = "snapshot missing hash but --skip-hash-check=false";
        return Err(Failure::Refused(text.into()));
    }
    let mark = file.digest(!options.skip_hash_check)?;
    let beginning = |backup: &Backup| {
        let Backup { revision: at, compacted, .. } = *backup;
        Beginning { at, compacted, control: backup.control(), mark }
    };
    match file.kind() {
        Kind::Etcd => {
            let snapshot =
                etcd::Snapshot::open(file.bytes()).map_err(Failure::etcd(file.path()))?;
            let backup = changed(snapshot.backup.clone(), options)?;
            make(config, beginning(&backup), |blocks| {
                from_etcd(file.path(), &snapshot, backup.compacted, config, blocks)
            })
        }
        Kind::Own => {
            let snapshot = own::Snapshot::open(file)?;
            let backup = changed(snapshot.backup.clone(), options)?;
            make(config, beginning(&backup), |blocks| from_own(file, &snapshot, config, blocks))
        }
    }
}

fn refuse_occupied(config: &Config, options: &Options) -> Result<(), Failure> {
    let path = &config.data_dir;
    let is_empty = || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if path.symlink_metadata().is_ok() && !is_empty() {
        let text = format!("data-dir {path:?} not empty or could not be read");
        return Err(Failure::Occupied(text));
    }
    match &options.wal_dir {
        Some(path) if path.symlink_metadata().is_ok() => {
            Err(Failure::Occupied(format!("wal-dir {path:?} exists")))
        }
        _ => Ok(()),
    }
}

/// The state to begin with.
fn changed(mut backup: Backup, options: &Options) -> Result<Backup, Failure> {
    if options.without_auth {
        backup.auth = Default::default();
    } else if backup.auth.enabled {
        let text = "authentication is enabled in the backup, and this release can not check who a \
                    client is: with --without-auth users and roles are left out, and whoever \
                    reaches the member may do everything";
        return Err(Failure::Refused(text.into()));
    }
    let bumped = backup.bumped(options.bump_revision).filter(|b| b.revision < REVISION_MAX);
    bumped.ok_or_else(|| Failure::Refused("no store has so large a revision".into()))
}

fn from_etcd(
    path: &Path,
    snapshot: &etcd::Snapshot<'_>,
    compacted: Revision,
    config: &Config,
    blocks: &mut Blocks,
) -> Result<Vec<BlockRef>, Failure> {
    let mut by_key = snapshot.by_key().map_err(Failure::etcd(path))?;
    let mut builder = Builder::new(blocks, compacted);
    let mut versions = Vec::new();
    while let Some(key) = by_key.next_into(&mut versions) {
        builder.add(key, &versions).map_err(Failure::file(&config.data_dir))?;
    }
    builder.finish().map_err(Failure::file(&config.data_dir))
}

fn from_own(
    file: &BackupFile,
    snapshot: &own::Snapshot,
    config: &Config,
    blocks: &mut Blocks,
) -> Result<Vec<BlockRef>, Failure> {
    let mut rows = snapshot.base().blocks().to_vec();
    for (number, row) in rows.iter_mut().enumerate() {
        snapshot.base().check_block(number).map_err(|error| own::damaged(file, &error))?;
        let at = row.offset as usize;
        let bytes = &file.bytes()[at..at + row.len as usize];
        (row.file, row.offset) = blocks.block(bytes).map_err(Failure::file(&config.data_dir))?;
    }
    Ok(rows)
}
