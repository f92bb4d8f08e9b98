//! `snapshot save`: fetches a backup from a running member, of this kind or of etcd's, into a file.
//!
//! The file has its name only when it is whole, checked and on the disk. What is inside is not looked
//! into here.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::client;
use super::failure::Failure;
use super::file::{self, SHA256_BYTES, has_checksum};
use cored_proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};

const PATH: &str = "/etcdserverpb.Maintenance/Snapshot";

/// What was saved.
#[derive(Debug)]
pub struct Saved {
    /// Bytes of the file, checksum included.
    pub bytes: u64,
    /// What the server says of the format; older ones say nothing.
    pub version: String,
}

/// Fetches a backup from the member at `endpoint`. A file of that name is replaced.
///
/// # Errors
/// Whatever happens, no file with that name is left that was not whole before.
pub fn save(endpoint: &str, path: &Path, dial_timeout: Duration) -> Result<Saved, Failure> {
    file::replace(path, |part, file| {
        let mut inflow = Inflow::new(file);
        fetch(endpoint, dial_timeout, &mut inflow).map_err(|stop| match stop {
            Stop::Server(source) => Failure::Server { endpoint: endpoint.to_owned(), source },
            Stop::Disk(source) => Failure::file(part)(source),
        })?;
        inflow.finish(path)
    })
}

fn fetch(endpoint: &str, dial_timeout: Duration, inflow: &mut Inflow) -> Result<(), Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(client::stream(endpoint, PATH, &SnapshotRequest {}, dial_timeout, |message| {
        let message = SnapshotResponse::decode(message)
            .map_err(|error| client::Error::NotGrpc(error.to_string()))?;
        inflow.push(&message.blob)?;
        if !message.version.is_empty() {
            inflow.version = message.version;
        }
        Ok(())
    }))
}

enum Stop {
    Server(client::Error),
    Disk(std::io::Error),
}

impl From<client::Error> for Stop {
    fn from(error: client::Error) -> Stop {
        Stop::Server(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Disk(error)
    }
}

/// The file while it comes. The last 32 bytes are the checksum of those before, and which are the last
/// is only known at the end.
struct Inflow {
    file: File,
    bytes: u64,
    sum: Sha256,
    /// Up to 32 bytes that are not in the sum.
    tail: Vec<u8>,
    version: String,
}

impl Inflow {
    fn new(file: File) -> Inflow {
        let (sum, tail) = (Sha256::new(), Vec::with_capacity(2 * SHA256_BYTES));
        Inflow { file, bytes: 0, sum, tail, version: String::new() }
    }

    fn push(&mut self, blob: &[u8]) -> std::io::Result<()> {
        self.file.write_all(blob)?;
        self.bytes += blob.len() as u64;
        if blob.len() >= SHA256_BYTES {
            let (body, tail) = blob.split_at(blob.len() - SHA256_BYTES);
            self.sum.update(&self.tail);
            self.sum.update(body);
            self.tail.clear();
            self.tail.extend_from_slice(tail);
        } else {
            self.tail.extend_from_slice(blob);
            let done = self.tail.len().saturating_sub(SHA256_BYTES);
            self.sum.update(&self.tail[..done]);
            self.tail.drain(..done);
        }
        Ok(())
    }

    fn finish(self, path: &Path) -> Result<Saved, Failure> {
        let damaged = |why: String| Err(Failure::Damaged { path: path.to_owned(), why });
        if !has_checksum(self.bytes) {
            return damaged(format!("sha256 checksum not found [bytes: {}]", self.bytes));
        }
        if self.sum.finalize()[..] != self.tail[..] {
            return damaged("what arrived does not have the sha256 checksum behind it".into());
        }
        Ok(Saved { bytes: self.bytes, version: self.version })
    }
}
