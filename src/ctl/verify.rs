//! `verify`: whether a backup or a data directory is what was written, every byte of it.

use std::path::Path;

use super::failure::Failure;
use super::file::BackupFile;
use super::status::{Format, status};
use crate::node::verify::verify as data_directory;

/// Reads `path`, a data directory that no member runs on or a backup, and tells what it holds. The logs of a
/// data directory may be in `wal_dir`. A backup without a checksum is verified by what else it has: that
/// of etcd has next to nothing.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(path: &Path, wal_dir: Option<&Path>) -> Result<String, Failure> {
    if path.is_dir() {
        return Ok(data_directory(path, wal_dir)?.to_string());
    }
    let file = BackupFile::open(path)?;
    let told = status(path)?.show(Format::Simple);
    let checksum = if file.has_checksum() { "its checksum is right" } else { "it has no checksum" };
    Ok(format!("{told}sound, {checksum}\n"))
}
