//! `snapshot export`: writes a backup as etcd would have written it.
//!
//! Keys keep their revisions, versions and leases, so HashKV of a member of etcd that is restored from
//! it is what it was. Members stay behind: whoever restores makes new ones.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use super::backup::Backup;
use super::failure::Failure;
use super::file::{self, BackupFile, Kind};
use super::{etcd, own};
use crate::mvcc::base::Corrupt;

/// Writes the backup `file` to `path` in etcd's format, with its checksum. A file of that name is replaced
/// when the new one is whole.
///
/// # Errors
/// When the backup is damaged, or the file can not be written: nothing is left of it then.
pub fn to_etcd(file: &BackupFile, path: &Path) -> Result<(), Failure> {
    file.check_checksum()?;
    file::replace(path, |part, out| {
        let out = BufWriter::with_capacity(1 << 20, out);
        let mut writer = etcd::Writer::new(out).map_err(Failure::file(part))?;
        let backup = match file.kind() {
            Kind::Etcd => of_etcd(file, part, &mut writer)?,
            Kind::Own => of_own(file, part, &mut writer)?,
        };
        let (out, _) = writer.finish(&backup).map_err(Failure::file(part))?;
        let out = out.into_inner().map_err(|error| Failure::file(part)(error.into_error()))?;
        file::append_checksum(out).map_err(Failure::file(part))
    })
}

type Writer = etcd::Writer<BufWriter<File>>;

fn of_etcd(file: &BackupFile, part: &Path, out: &mut Writer) -> Result<Backup, Failure> {
    let snapshot = etcd::Snapshot::open(file.bytes()).map_err(Failure::etcd(file.path()))?;
    let mut keys = out.keys();
    for version in snapshot.versions() {
        let version = version.map_err(Failure::etcd(file.path()))?;
        keys.put(&version).map_err(Failure::file(part))?;
    }
    keys.finish().map_err(Failure::file(part))?;
    Ok(snapshot.backup)
}

fn of_own(file: &BackupFile, part: &Path, out: &mut Writer) -> Result<Backup, Failure> {
    let snapshot = own::Snapshot::open(file)?;
    let mut keys = out.keys();
    let done = snapshot.versions(|version| Ok::<(), Stop>(keys.put(version)?));
    done.map_err(|stop| match stop {
        Stop::Disk(error) => Failure::file(part)(error),
        Stop::Corrupt(error) => own::damaged(file, &error),
    })?;
    keys.finish().map_err(Failure::file(part))?;
    Ok(snapshot.backup)
}

enum Stop {
    Disk(io::Error),
    Corrupt(Corrupt),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Disk(error)
    }
}

impl From<Corrupt> for Stop {
    fn from(error: Corrupt) -> Stop {
        Stop::Corrupt(error)
    }
}
