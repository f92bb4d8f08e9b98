//! Reads a data directory that no member runs on from its first byte to its last: identity, checkpoint
//! with all its blocks, logs. It finds what a start would find, and what a start would find later.
//!
//! It changes nothing but the lock, so that no member starts meanwhile.

use std::fmt;
use std::path::Path;

use super::Failure;
use super::checkpoints::{Checkpoints, DIRECTORY, block_file};
use super::home::Home;
use super::logs;
use crate::keys::Revision;

/// What a sound data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The number of the cluster.
    pub cluster: u64,
    /// The number of the member.
    pub member: u64,
    /// Revision of the checkpoint; without one the logs hold everything.
    pub checkpoint: Option<Revision>,
    /// Blocks of the checkpoint.
    pub blocks: usize,
    /// Keys in it that have a value.
    pub keys: u64,
    /// Records in the logs.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl fmt::Display for Verified {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verified { cluster, member, checkpoint, blocks, keys, records, bytes } = self;
        writeln!(out, "member {member:x} of cluster {cluster:x}")?;
        match checkpoint {
            Some(at) => {
                writeln!(
                    out,
                    "checkpoint at revision {at}: {keys} keys in {blocks} blocks, sound"
                )?;
            }
            None => writeln!(out, "no checkpoint")?,
        }
        writeln!(out, "logs: {records} records, {bytes} bytes, sound")
    }
}

/// Verifies the data directory `data_dir`, whose logs are in `wal_dir` if not in it.
///
/// # Errors
/// The first thing that is wrong, as a member would say it; [`Failure::Locked`] if one runs there.
pub fn verify(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Verified, Failure> {
    let home = Home::existing(data_dir)?;
    let identity = home.identity();
    let mut verified = Verified {
        cluster: identity.cluster,
        member: identity.member,
        checkpoint: None,
        blocks: 0,
        keys: 0,
        records: 0,
        bytes: 0,
    };
    let checkpoints = Checkpoints::read(data_dir, identity)?;
    checkpoints.ground()?;
    if let Some(found) = checkpoints.newest() {
        let (base, directory) = (&found.base, data_dir.join(DIRECTORY));
        for number in 0..base.blocks().len() {
            base.check_block(number).map_err(|corrupt| Failure::Checkpoint {
                path: block_file(&directory, corrupt.file),
                why: corrupt.to_string(),
            })?;
        }
        verified.checkpoint = Some(base.at());
        (verified.blocks, verified.keys) = (base.blocks().len(), base.live());
    }
    let inside = data_dir.join("wal");
    (verified.records, verified.bytes) = logs::verify(&home, wal_dir.unwrap_or(&inside))?;
    Ok(verified)
}
