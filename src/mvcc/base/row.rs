//! What is known of a block without reading it: where it lies and what it holds.
//!
//! Knows how rows come about from versions; not how a block is laid out.

use crate::keys::Revision;
use std::ops::Range;

use super::super::version::VersionRef;

/// Where a block lies and what it holds: a row of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// Number of the file.
    pub file: u64,
    /// Where the block begins in it, in bytes.
    pub offset: u64,
    /// Bytes of the block.
    pub len: u32,
    /// crc32c of those bytes.
    pub crc: u32,
    /// The lowest key in the block. Blocks that only together hold the versions of one key have the same.
    pub first_key: Vec<u8>,
    /// Keys whose newest version is in the block; zero when its only key goes on in the next one.
    pub keys: u32,
    /// Keys that have a value by their newest version.
    pub live: u32,
    /// Versions, tombstones too.
    pub versions: u32,
    /// Keys whose newest version binds them to a lease.
    pub leased: u32,
    /// Key and value bytes of all versions; a key counts with each of its versions.
    pub bytes: u64,
    /// The lowest revision in the block.
    pub oldest: Revision,
    /// The highest revision in the block.
    pub newest: Revision,
    /// The lowest compaction revision that would remove something from the block; [`Revision::MAX`] if
    /// none would.
    pub garbage_from: Revision,
}

impl BlockRef {
    /// The bytes of the file that the block has.
    #[must_use]
    pub fn part(&self) -> Range<usize> {
        let start = self.offset as usize;
        start..start + self.len as usize
    }
}

/// A block that is not what was written, or is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {block} at byte {offset} of file {file}: {why}")]
pub struct Corrupt {
    /// Number of the file.
    pub file: u64,
    /// Number of the block in key order.
    pub block: usize,
    /// Where the block begins in the file, in bytes.
    pub offset: u64,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The file is not there.
    #[error("the file is missing")]
    Missing,
    /// The file is shorter than the row says.
    #[error("it ends behind the end of the file")]
    Truncated,
    /// The rows are not in the order of their keys.
    #[error("its first key is out of order")]
    OutOfOrder,
    /// The bytes changed since they were written.
    #[error("wrong checksum")]
    Checksum,
    /// The bytes are no block, though their checksum is right.
    #[error("not an archive of a block")]
    Archive,
    /// Keys, versions or offsets are not what every block has, though the checksum is right.
    #[error("keys or versions out of order or out of bounds")]
    Content,
    /// The block is whole, but another than the row means.
    #[error("it holds something else than its row says")]
    Row,
}

impl Why {
    const ALL: [Why; 7] = [
        Why::Missing,
        Why::Truncated,
        Why::OutOfOrder,
        Why::Checksum,
        Why::Archive,
        Why::Content,
        Why::Row,
    ];

    /// The state of a block that this is wrong with.
    pub(super) fn state(self) -> u8 {
        super::BAD + self as u8
    }

    pub(super) fn from_state(state: u8) -> Option<Why> {
        Why::ALL.get(usize::from(state.checked_sub(super::BAD)?)).copied()
    }
}

/// What some keys hold, to be compared with a row or put into one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::mvcc) struct Tally {
    pub(in crate::mvcc) keys: u32,
    pub(in crate::mvcc) live: u32,
    pub(in crate::mvcc) versions: u32,
    pub(in crate::mvcc) leased: u32,
    pub(in crate::mvcc) bytes: u64,
    pub(in crate::mvcc) oldest: Revision,
    pub(in crate::mvcc) newest: Revision,
    pub(in crate::mvcc) garbage_from: Revision,
}

impl Default for Tally {
    fn default() -> Tally {
        let (oldest, newest, garbage_from) = (Revision::MAX, Revision::ZERO, Revision::MAX);
        Tally { keys: 0, live: 0, versions: 0, leased: 0, bytes: 0, oldest, newest, garbage_from }
    }
}

impl Tally {
    /// The tally of one key with these versions, ascending.
    pub(in crate::mvcc) fn of<'a>(
        key: &[u8],
        versions: impl Iterator<Item = VersionRef<'a>>,
    ) -> Tally {
        let mut tally = Tally { keys: 1, ..Tally::default() };
        for version in versions {
            tally.garbage_from = match tally.versions {
                // A compaction right above removes a tombstone.
                0 if version.is_tombstone() => version.modified.next(),
                0 => Revision::MAX,
                // What replaces a value makes it garbage by its own revision, or the next when that wrote both.
                1 if tally.garbage_from == Revision::MAX => {
                    version.modified.max(tally.newest.next())
                }
                _ => tally.garbage_from,
            };
            tally.versions += 1;
            tally.bytes += (key.len() + version.value.len()) as u64;
            tally.oldest = tally.oldest.min(version.modified);
            tally.newest = tally.newest.max(version.modified);
            tally.live = u32::from(!version.is_tombstone());
            tally.leased = u32::from(version.lease.is_some());
        }
        tally
    }

    /// The tally of versions that later ones of the same key follow in the next block.
    pub(in crate::mvcc) fn part(self) -> Tally {
        Tally { keys: 0, live: 0, leased: 0, ..self }
    }

    /// Adds what other keys hold.
    pub(in crate::mvcc) fn merge(&mut self, other: &Tally) {
        self.keys += other.keys;
        self.live += other.live;
        self.versions += other.versions;
        self.leased += other.leased;
        self.bytes += other.bytes;
        self.oldest = self.oldest.min(other.oldest);
        self.newest = self.newest.max(other.newest);
        self.garbage_from = self.garbage_from.min(other.garbage_from);
    }

    /// Whether a row says the same. Of a key in several blocks only all of them together know what a
    /// compaction would remove.
    pub(super) fn agrees(&self, row: &BlockRef, several: bool) -> bool {
        let garbage_from = if several { row.garbage_from } else { self.garbage_from };
        let said = Tally {
            keys: row.keys,
            live: row.live,
            versions: row.versions,
            leased: row.leased,
            bytes: row.bytes,
            oldest: row.oldest,
            newest: row.newest,
            garbage_from: row.garbage_from,
        };
        said == Tally { garbage_from, ..*self }
    }
}
