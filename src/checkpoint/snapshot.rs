//! A checkpoint as one stream of bytes, for a backup: the manifest, then the blocks that it names.
//!
//! ```text
//! offset  size  field, little-endian
//!      0     8  magic     "coredsnp"
//!      8     4  crc32c    over bytes 12..4096; its place is the same in every version
//!     12     4  version   1
//!     16     8  manifest  length of the manifest in bytes
//!     24     8  bytes     of the whole stream, without what the API adds behind it
//!     32  4064  zero
//!   4096     …  the manifest, zeros up to the next multiple of 4096; its blocks are in file 0, which is this one
//!      .     …  blocks, each at the offset that the manifest says (a multiple of 4096), zeros between them
//! ```
//!
//! Such a file can be mapped and read as it is. The API sends the SHA-256 of all this behind it, as etcd does.

use bytes::BufMut;

use super::coding::Reader;
use super::{Manifest, ManifestError};

const MAGIC: &[u8; 8] = b"coredsnp";
const VERSION: u32 = 1;

/// Blocks and manifest begin at multiples of this.
pub const ALIGN_BYTES: u64 = 4096;

const HEAD_BYTES: usize = 4096;

/// The least bytes from the beginning of a file that [`Snapshot::is_one`] and [`Snapshot::manifest_bytes`] need.
pub const HEAD: usize = HEAD_BYTES;

/// What is streamed: where each block of a checkpoint goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The manifest, with the places of the blocks in the stream.
    pub manifest: Manifest,
    /// Length of the stream.
    pub bytes: u64,
}

impl Snapshot {
    /// Lays out the stream of a checkpoint. Block k of `manifest` will be block k of the stream.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Snapshot {
        let mut manifest = manifest.clone();
        // Places are numbers of a fixed size, so the manifest's length does not depend on them.
        let manifest_bytes = manifest.encode().len() as u64;
        let mut at = (HEAD_BYTES as u64 + manifest_bytes).next_multiple_of(ALIGN_BYTES);
        for block in &mut manifest.blocks {
            (block.file, block.offset) = (0, at);
            at = (at + u64::from(block.len)).next_multiple_of(ALIGN_BYTES);
        }
        Snapshot { manifest, bytes: at }
    }

    /// The stream up to the first block.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let manifest = self.manifest.encode();
        let mut out = Vec::with_capacity(HEAD_BYTES + manifest.len() + HEAD_BYTES);
        out.put_slice(MAGIC);
        out.put_u32_le(0);
        out.put_u32_le(VERSION);
        out.put_u64_le(manifest.len() as u64);
        out.put_u64_le(self.bytes);
        out.resize(HEAD_BYTES, 0);
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out.put_slice(&manifest);
        out.resize(out.len().next_multiple_of(ALIGN_BYTES as usize), 0);
        out
    }

    /// Whether a file that begins with `head` is one of these.
    #[must_use]
    pub fn is_one(head: &[u8]) -> bool {
        head.starts_with(MAGIC)
    }

    /// Where the manifest stands, by the first [`HEAD`] bytes: its offset and its length.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn manifest_bytes(head: &[u8]) -> Result<(usize, usize), ManifestError> {
        let (at, len, _) = read_head(head)?;
        Ok((at, len))
    }

    /// Reads the beginning of a stream: at least up to the end of the manifest.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Snapshot, ManifestError> {
        let (at, len, total) = read_head(bytes)?;
        let end = at.checked_add(len).filter(|end| *end <= bytes.len());
        let end = end.ok_or(ManifestError::Damaged("it is cut short"))?;
        let manifest = Manifest::decode(&bytes[at..end])?;
        let snapshot = Snapshot { manifest, bytes: total };
        if Snapshot::of(&snapshot.manifest) != snapshot {
            return Err(ManifestError::Damaged("its blocks are not where they belong"));
        }
        Ok(snapshot)
    }
}

fn read_head(bytes: &[u8]) -> Result<(usize, usize, u64), ManifestError> {
    if !Snapshot::is_one(bytes) {
        return Err(ManifestError::Foreign);
    }
    let head = bytes.get(..HEAD_BYTES).ok_or(ManifestError::Damaged("it is cut short"))?;
    let mut reader = Reader::new(&head[8..32]);
    let (crc, version) = (reader.u32()?, reader.u32()?);
    if crc32c::crc32c(&head[12..]) != crc {
        return Err(ManifestError::Damaged("its checksum is wrong"));
    }
    if version > VERSION {
        return Err(ManifestError::Newer { found: version });
    }
    let len = usize::try_from(reader.u64()?).map_err(|_| reader.malformed())?;
    Ok((HEAD_BYTES, len, reader.u64()?))
}
