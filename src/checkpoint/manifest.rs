//! What a checkpoint says beside its keys: where it stands in every lane, the control state, and
//! which blocks it is made of.
//!
//! ```text
//! offset  size  field, little-endian
//!      0     8  magic       "coredman"
//!      8     4  crc32c      over bytes 12 to the end; its place is the same in every version
//!     12     4  version     1
//!     16     8  bytes       of the whole manifest
//!     24     8  number      of the checkpoint; each one more
//!     32     8  cluster
//!     40     8  member
//!     48     8  revision    R: everything up to here is in it
//!     56     8  compacted   history below is gone
//!     64     …  cuts        count (4), then per lane index (8) and term (8) of the newest entry that is wholly in it
//!      .     …  control     length (4), then redo records: epoch, range map, leases and what else lane 0 said
//!      .     …  blocks      count (4), then each as below, in key order
//! ```
//!
//! A block: file (8), offset (8), length (4), crc32c (4), keys (4), live keys (4), versions (4), keys with a lease (4), bytes of
//! keys and values (8), oldest revision (8), newest revision (8), the lowest compaction that would remove something (8), first
//! key (length in 4, then itself).

use bytes::BufMut;

use super::coding::{Malformed, Reader, put_string};
use crate::keys::Revision;
use crate::lane::Cut;
use crate::mvcc::base::BlockRef;

const MAGIC: &[u8; 8] = b"coredman";
const CRC_AT: usize = 8;
const COVERED_FROM: usize = 12;
const BYTES_AT: usize = 16;
const HEAD_BYTES: usize = 24;
/// A block with an empty first key.
const BLOCK_BYTES: usize = 76;

/// A checkpoint's description. The blocks hold the keys; everything else is here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// Each checkpoint of a member has one more than the last.
    pub number: u64,
    /// Whose it is.
    pub cluster: u64,
    /// Which member made it.
    pub member: u64,
    /// R: exactly the versions up to here are in the blocks.
    pub at: Revision,
    /// History below this revision is gone.
    pub compacted: Revision,
    /// Per lane the newest entry that is wholly part of the checkpoint, with those before it.
    pub cuts: Vec<Cut>,
    /// Redo records that make the control state out of nothing.
    pub control: Vec<u8>,
    /// The blocks, in key order.
    pub blocks: Vec<BlockRef>,
}

/// Why bytes are no manifest that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// They do not begin as one.
    #[error("it is not the manifest of a checkpoint")]
    Foreign,
    /// Written by a later release.
    #[error("format {found} is newer than this release knows (up to {newest})", newest = Manifest::VERSION)]
    Newer {
        /// What it says.
        found: u32,
    },
    /// The checksum or the length is wrong.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The checksum is right and the content is not.
    #[error("it makes no sense: {0}")]
    Malformed(#[from] Malformed),
}

impl Manifest {
    /// The newest format that this release knows.
    pub const VERSION: u32 = 1;

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + 256 + self.blocks.len() * 2 * BLOCK_BYTES);
        out.put_slice(MAGIC);
        out.put_u32_le(0);
        out.put_u32_le(Self::VERSION);
        out.put_u64_le(0);
        out.put_u64_le(self.number);
        out.put_u64_le(self.cluster);
        out.put_u64_le(self.member);
        out.put_i64_le(self.at.0);
        out.put_i64_le(self.compacted.0);
        out.put_u32_le(count(self.cuts.len()));
        for cut in &self.cuts {
            out.put_u64_le(cut.index);
            out.put_u64_le(cut.term);
        }
        put_string(&mut out, &self.control);
        out.put_u32_le(count(self.blocks.len()));
        for block in &self.blocks {
            put_block(&mut out, block);
        }
        let bytes = out.len() as u64;
        out[BYTES_AT..BYTES_AT + 8].copy_from_slice(&bytes.to_le_bytes());
        let crc = crc32c::crc32c(&out[COVERED_FROM..]);
        out[CRC_AT..COVERED_FROM].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what [`Manifest::encode`] made.
    ///
    /// # Errors
    /// [`ManifestError`]; no allocation is larger than the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        if !bytes.starts_with(MAGIC) {
            return Err(ManifestError::Foreign);
        }
        if bytes.len() < HEAD_BYTES {
            return Err(ManifestError::Damaged("it is cut short"));
        }
        let mut head = Reader::new(&bytes[CRC_AT..HEAD_BYTES]);
        let (crc, version, len) = (head.u32()?, head.u32()?, head.u64()?);
        if crc32c::crc32c(&bytes[COVERED_FROM..]) != crc {
            let cut = len > bytes.len() as u64;
            let why = if cut { "it is cut short" } else { "its checksum is wrong" };
            return Err(ManifestError::Damaged(why));
        }
        if version > Self::VERSION {
            return Err(ManifestError::Newer { found: version });
        }
        if len != bytes.len() as u64 {
            return Err(ManifestError::Damaged("its length is wrong"));
        }
        let mut reader = Reader::new(&bytes[HEAD_BYTES..]);
        let manifest = Manifest {
            number: reader.u64()?,
            cluster: reader.u64()?,
            member: reader.u64()?,
            at: Revision(reader.i64()?),
            compacted: Revision(reader.i64()?),
            cuts: reader.many(16, |r| Ok(Cut { index: r.u64()?, term: r.u64()? }))?,
            control: reader.string()?.to_vec(),
            blocks: reader.many(BLOCK_BYTES, block)?,
        };
        reader.end()?;
        Ok(manifest)
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("lanes and blocks are counted in millions at most")
}

fn put_block(out: &mut Vec<u8>, block: &BlockRef) {
    out.put_u64_le(block.file);
    out.put_u64_le(block.offset);
    for number in [block.len, block.crc, block.keys, block.live, block.versions, block.leased] {
        out.put_u32_le(number);
    }
    out.put_u64_le(block.bytes);
    for revision in [block.oldest, block.newest, block.garbage_from] {
        out.put_i64_le(revision.0);
    }
    put_string(out, &block.first_key);
}

fn block(reader: &mut Reader<'_>) -> Result<BlockRef, Malformed> {
    Ok(BlockRef {
        file: reader.u64()?,
        offset: reader.u64()?,
        len: reader.u32()?,
        crc: reader.u32()?,
        keys: reader.u32()?,
        live: reader.u32()?,
        versions: reader.u32()?,
        leased: reader.u32()?,
        bytes: reader.u64()?,
        oldest: Revision(reader.i64()?),
        newest: Revision(reader.i64()?),
        garbage_from: Revision(reader.i64()?),
        first_key: reader.string()?.into(),
    })
}
