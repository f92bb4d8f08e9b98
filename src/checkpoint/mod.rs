//! A checkpoint: what one is made of, beside its blocks ([`mvcc::base`](crate::mvcc)), and the bytes
//! of its manifest. When one is made is the [engine](crate::engine)'s business; files and threads are
//! the node's.

mod coding;
mod manifest;
mod snapshot;
#[cfg(test)]
mod tests;

pub use coding::Malformed;
pub use manifest::{Manifest, ManifestError};
pub use snapshot::{ALIGN_BYTES, HEAD, Snapshot};
