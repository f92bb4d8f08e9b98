//! One segment file: its name, its header block, and the key that ties frames to it. It knows no
//! directory and opens nothing; a disk does.

use crate::buffer::{BLOCK_BYTES, Buffer};
use crate::error::Error;
use crate::options::{Options, Owner};

/// The newest header and frame layout that this release reads and the one that it writes.
pub const FORMAT_VERSION: u32 = 1;

/// Where frames begin: the header has the first block for itself, so no group rewrites it.
pub const FIRST_FRAME: u64 = BLOCK_BYTES as u64;

/// The first bytes of every segment.
pub const MAGIC: [u8; 8] = *b"coredwal";

/// The first block of every segment, little-endian. It is written and synced before the file gets
/// its name, so a file with a segment's name has a whole header or is damaged.
///
/// ```text
/// offset  size  field
///      0     8  magic          "coredwal"
///      8     4  crc32c         over bytes 12..4096; its place is the same in every version
///     12     4  version        1
///     16     2  log            number of the log in its directory
///     18     6  zero
///     24     8  segment        number of this file in its log: from 1, each one more, never reused
///     32     8  epoch          how often the log had been opened when the file was prepared
///     40     8  salt           random, given by the caller
///     48     8  cluster        the owner
///     56     8  member
///     64     8  segment_bytes  size of this file
///     72        zeros up to 4096
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of the log in its directory.
    pub log: u16,
    /// Number of the file in its log.
    pub segment: u64,
    /// How often the log had been opened when the file was prepared.
    pub epoch: u64,
    /// The caller's random number.
    pub salt: u64,
    /// Whose log this is.
    pub owner: Owner,
    /// Size of the file.
    pub segment_bytes: u64,
}

/// Ties frames to one use of one file.
///
/// Recycled files are full of old frames. Segment numbers are never reused, so neither are keys,
/// and a frame of an earlier use fails both the mark and the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Written into each frame, so that foreign bytes are told apart without a checksum. Not zero.
    pub mark: u32,
    /// Where each frame's checksum starts from.
    pub seed: u32,
}

impl Key {
    /// The key of one use of one file.
    #[must_use]
    pub fn new(log: u16, segment: u64, epoch: u64, salt: u64) -> Key {
        let mut bytes = [0; 26];
        bytes[0..2].copy_from_slice(&log.to_le_bytes());
        bytes[2..10].copy_from_slice(&segment.to_le_bytes());
        bytes[10..18].copy_from_slice(&epoch.to_le_bytes());
        bytes[18..26].copy_from_slice(&salt.to_le_bytes());
        let seed = crc32c::crc32c(&bytes);
        // A second, independent function of the same bytes: a checksum of the checksum would not
        // be, since equal seeds would give equal marks.
        let mark = bytes.iter().fold(0x811c_9dc5_u32, |mark, byte| {
            (mark ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        Key { mark: mark | 1, seed }
    }
}

impl SegmentHeader {
    /// The header of a segment that is made now.
    #[must_use]
    pub fn new(options: &Options, segment: u64, epoch: u64) -> SegmentHeader {
        SegmentHeader {
            log: options.log,
            segment,
            epoch,
            salt: options.salt,
            owner: options.owner,
            segment_bytes: options.segment_bytes,
        }
    }

    /// The key of the frames in this segment.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::new(self.log, self.segment, self.epoch, self.salt)
    }

    /// The header as one block.
    #[must_use]
    pub fn encode(&self) -> Buffer {
        let mut block = Buffer::zeroed(BLOCK_BYTES);
        block[0..8].copy_from_slice(&MAGIC);
        block[12..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..18].copy_from_slice(&self.log.to_le_bytes());
        for (at, value) in [
            (24, self.segment),
            (32, self.epoch),
            (40, self.salt),
            (48, self.owner.cluster),
            (56, self.owner.member),
            (64, self.segment_bytes),
        ] {
            block[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&block[12..]);
        block[8..12].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads and checks the header of the file that is named as segment `segment` of the log.
    ///
    /// # Errors
    /// - [`Error::Corrupt`] if the bytes are no header, or that of another segment.
    /// - [`Error::NewerFormat`], [`Error::WrongLog`], [`Error::Foreign`] if it is whole but not ours.
    pub fn decode(bytes: &[u8], options: &Options, segment: u64) -> Result<SegmentHeader, Error> {
        let file = file_name(options.log, segment);
        let corrupt = |file| Error::Corrupt { file, segment, offset_bytes: 0, lane: None };
        let Some(block) = bytes.first_chunk::<BLOCK_BYTES>() else {
            return Err(corrupt(file));
        };
        let u32_at = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"));
        if block[0..8] != MAGIC || u32_at(8) != crc32c::crc32c(&block[12..]) {
            return Err(corrupt(file));
        }
        let found = u32_at(12);
        if found > FORMAT_VERSION {
            return Err(Error::NewerFormat { file, found, supported: FORMAT_VERSION });
        }
        let header = SegmentHeader {
            log: u16::from_le_bytes([block[16], block[17]]),
            segment: u64_at(24),
            epoch: u64_at(32),
            salt: u64_at(40),
            owner: Owner { cluster: u64_at(48), member: u64_at(56) },
            segment_bytes: u64_at(64),
        };
        if header.owner != options.owner {
            return Err(Error::Foreign { file, expected: options.owner, found: header.owner });
        }
        if header.log != options.log {
            return Err(Error::WrongLog { file, expected: options.log, found: header.log });
        }
        if header.segment != segment {
            return Err(corrupt(file));
        }
        Ok(header)
    }
}

/// The name of a segment file in its directory.
#[must_use]
pub fn file_name(log: u16, segment: u64) -> String {
    name(log, segment, "wal")
}

/// A file's name with another suffix, see [`parse_name`].
pub(crate) fn name(log: u16, segment: u64, suffix: &str) -> String {
    format!("{log:05}-{segment:012}.{suffix}")
}

/// The log and segment that a file name stands for, and what follows the numbers: `wal` for a
/// segment, `spare` for a file that waits to become one, `new` for one that is being filled.
#[must_use]
pub fn parse_name(name: &str) -> Option<(u16, u64, &str)> {
    let (numbers, suffix) = name.split_once('.')?;
    let (log, segment) = numbers.split_once('-')?;
    let (log, segment) = (log.parse().ok()?, segment.parse().ok()?);
    (format!("{log:05}-{segment:012}") == numbers).then_some((log, segment, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_others_are_refused_by_name() {
        let options = Options::default();
        let header = SegmentHeader::new(&options, 5, 2);
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block, &options, 5).unwrap(), header);
        assert!(matches!(
            SegmentHeader::decode(&block, &options, 6),
            Err(Error::Corrupt { segment: 6, .. })
        ));
        let mut other = options.clone();
        other.owner.member = 1;
        assert!(matches!(SegmentHeader::decode(&block, &other, 5), Err(Error::Foreign { .. })));
        other = options.clone();
        other.log = 1;
        assert!(matches!(
            SegmentHeader::decode(&block, &other, 5),
            Err(Error::WrongLog { found: 0, .. })
        ));
        let mut newer = header.encode();
        newer[12] = 2;
        let crc = crc32c::crc32c(&newer[12..]);
        newer[8..12].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(
            SegmentHeader::decode(&newer, &options, 5),
            Err(Error::NewerFormat { found: 2, .. })
        ));
    }

    #[test]
    fn names_are_read_back_and_others_ignored() {
        assert_eq!(parse_name(&file_name(3, 17)), Some((3, 17, "wal")));
        assert_eq!(parse_name("00003-000000000017.spare"), Some((3, 17, "spare")));
        for foreign in ["", "lost+found", "3-17.wal", "00003-000000000017", "x-y.wal"] {
            assert_eq!(parse_name(foreign), None, "{foreign}");
        }
    }
}
