//! `Maintenance.Snapshot`: streams a backup as etcd streams its file, so that `etcdctl snapshot save`
//! takes it: blobs of at most 32 KiB, each with how much follows it, at the end the SHA-256 of all
//! of them. Where the bytes come from, and what they mean, is behind [`Source`].

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use sha2::{Digest, Sha256};

use super::status::{Code, Status};
use super::stream::Responses;
use super::{Api, ETCD_CLUSTER_VERSION, encode};
use crate::engine::Request;

/// The bytes of one blob; etcd's last blob, and any before it here, may have fewer.
const BLOB_BYTES: usize = 32 << 10;

/// `etcdctl` and `etcdutl` tell a file with a checksum behind it by its length: a multiple of this
/// many bytes, and 32 more. So a backup has a multiple of them, zeros at its end if need be.
pub const LENGTH_BYTES: u64 = 512;

/// What a future of this room is, where a trait must name it.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Where backups come from: the node's newest checkpoint; in tests something in memory.
pub trait Source {
    /// Opens what there is now. What was opened can be read to its end, whatever is checkpointed or
    /// removed meanwhile.
    ///
    /// # Errors
    /// Files can not be opened.
    fn open(&self) -> Later<'_, io::Result<Box<dyn Backup>>>;
}

/// A backup that is being read.
pub trait Backup {
    /// How many bytes it has: a multiple of [`LENGTH_BYTES`], not 0, always the same.
    fn len_bytes(&self) -> u64;

    /// The next bytes, as many as come easily, at most a few MiB; none only at the end.
    ///
    /// # Errors
    /// Files can not be read, or are damaged: the caller gets nothing more, and no checksum.
    fn read(&mut self) -> Later<'_, io::Result<Bytes>>;
}

impl Api {
    /// Checkpoints, and streams what was checkpointed, as fast as the client takes it.
    pub(super) async fn snapshot(
        &self,
        _: pb::SnapshotRequest,
        responses: &Responses,
    ) -> Result<(), Status> {
        let source = self.source.as_ref().ok_or_else(|| Status::unimplemented("Snapshot"))?;
        self.done(Request::Checkpoint).await?;
        let mut backup = source.open().await.map_err(failed)?;
        let mut left_bytes = backup.len_bytes();
        let mut sha = Sha256::new();
        while left_bytes > 0 {
            let mut bytes = backup.read().await.map_err(failed)?;
            if bytes.is_empty() || bytes.len() as u64 > left_bytes {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            while !bytes.is_empty() {
                let blob = bytes.split_to(bytes.len().min(BLOB_BYTES));
                left_bytes -= blob.len() as u64;
                sha.update(&blob);
                if !send(responses, left_bytes, blob).await {
                    return Ok(());
                }
            }
        }
        send(responses, 0, Bytes::copy_from_slice(&sha.finalize())).await;
        Ok(())
    }
}

/// Sends a blob, and returns when there is room for another; whether anybody still listens.
async fn send(responses: &Responses, remaining_bytes: u64, blob: Bytes) -> bool {
    let version = ETCD_CLUSTER_VERSION.to_owned();
    // As in etcd, without a header.
    let response = pb::SnapshotResponse { header: None, remaining_bytes, blob, version };
    responses.push(encode(&response));
    responses.ready().await
}

/// An error of the system, which etcd passes on with its raw text.
fn failed(error: io::Error) -> Status {
    Status { code: Code::Unknown, message: error.to_string().into() }
}

#[cfg(test)]
mod tests;
