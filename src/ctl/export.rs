//! `snapshot export`: writes a backup as etcd would have written it.
//!
//! Keys keep their revisions, versions and leases, so HashKV of a member of etcd that is restored from
//! it is what it was. Members stay behind: whoever restores makes new ones.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::etcd;
use super::failure::Failure;
use super::file::{self, BackupFile, Kind};

/// Writes the backup `file` to `path` in etcd's format, with its checksum. A file of that name is replaced
/// when the new one is whole.
///
/// # Errors
/// When the backup is damaged, or the file can not be written: nothing is left of it then.
pub fn to_etcd(file: &BackupFile, path: &Path) -> Result<(), Failure> {
    file.check_checksum()?;
    file::replace(path, |part, out| {
        let writer = etcd::Writer::new(BufWriter::with_capacity(1 << 20, out));
        let out = match file.kind() {
            Kind::Etcd => of_etcd(file, part, writer.map_err(Failure::file(part))?)?,
        };
        file::append_checksum(out).map_err(Failure::file(part))
    })
}

type Out = BufWriter<File>;

fn of_etcd(file: &BackupFile, part: &Path, mut out: etcd::Writer<Out>) -> Result<File, Failure> {
    let snapshot = etcd::Snapshot::open(file.bytes()).map_err(Failure::etcd(file.path()))?;
    let mut keys = out.keys();
    for version in snapshot.versions() {
        let version = version.map_err(Failure::etcd(file.path()))?;
        keys.put(&version).map_err(Failure::file(part))?;
    }
    keys.finish().map_err(Failure::file(part))?;
    let (mut out, _) = out.finish(&snapshot.backup).map_err(Failure::file(part))?;
    out.flush().map_err(Failure::file(part))?;
    out.into_inner().map_err(|error| Failure::file(part)(error.into_error()))
}
