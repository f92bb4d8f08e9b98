//! The HashKV digest, equal to etcd's on equal histories.
//!
//! ```text
//! "key"                                  once
//! main  u64 big-endian                   then for each version that counts, in order
//! '_'
//! sub   u64 big-endian
//! 't'                                    tombstones only
//! mvccpb.KeyValue                        a tombstone's holds the key alone
//! ```
//!
//! Knows only the versions of one shard: who digests a whole member merges shards by position.

use super::base::Merge;
use super::{Position, Store, VersionRef};
use crate::keys::{KeyRange, Revision};

/// Bytes of a key in etcd's backend, but for the mark of a tombstone.
pub const REVISION_KEY_BYTES: usize = 17;
/// That mark.
pub const TOMBSTONE: u8 = b't';

/// CRC-32C over what [`Store::hash_records`] shows, from all shards in order of position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest(u32);

impl Default for Digest {
    fn default() -> Digest {
        Digest::new()
    }
}

impl Digest {
    /// The digest of a member that nothing was written to.
    #[must_use]
    pub fn new() -> Digest {
        Digest(crc32c::crc32c(b"key"))
    }

    /// Goes on with a record.
    pub fn add(&mut self, record: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, record);
    }

    /// What HashKV answers.
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }
}

/// A digest of one store under way: what, and where it stands.
#[derive(Debug)]
pub struct HashWalk {
    /// The next revision.
    from: Revision,
    through: Revision,
    kept_at: Revision,
    compacted: Revision,
    /// What is left of the base, once it was begun with.
    base: Option<Merge>,
}

impl HashWalk {
    /// What HashKV digests of revisions up to `through`.
    ///
    /// Versions up to `compacted` count only where they are live and the newest of their key at
    /// `kept_at`, the revision that the client asked for: so the digest is the same before, during and
    /// after garbage collection. One exception is etcd's: when no key of the member has a value at the
    /// revision asked for, it counts all that a compaction keeps; `kept_at` is `compacted` then.
    #[must_use]
    pub fn new(through: Revision, kept_at: Revision, compacted: Revision) -> HashWalk {
        HashWalk { from: Revision::FIRST, through, kept_at, compacted, base: None }
    }

    /// Up to where it has come.
    #[must_use]
    pub fn reached(&self) -> Revision {
        self.from.prev()
    }

    /// The store has another base, or other ranges, than when it was begun with.
    pub fn base_changed(&mut self) {
        self.base = None;
    }
}

impl Store {
    /// Goes on with a digest by whole revisions, and by `versions_max` versions at least if there are so
    /// many, and shows the records that count in order.
    pub fn hash_records(
        &self,
        walk: &mut HashWalk,
        versions_max: usize,
        each: &mut dyn FnMut(Position, &[u8]),
    ) {
        let HashWalk { from, through, kept_at, compacted, .. } = *walk;
        let (mut seen, mut newest) = (0, None);
        let mut record = Vec::new();
        let mut take = |version: VersionRef<'_>| {
            if seen >= versions_max && newest != Some(version.modified) {
                return false;
            }
            (seen, newest) = (seen + 1, Some(version.modified));
            let kept = || self.get_at(version.key, kept_at).map(|kept| kept.position());
            if version.modified > compacted || kept() == Some(version.position()) {
                record.clear();
                push_record(&version, &mut record);
                each(version.position(), &record);
            }
            true
        };
        let mut all = true;
        if from <= self.base.at()
            && let Some(mut history) = self.base.walk(walk.base.take(), from, through)
        {
            while let Some(version) = history.peek() {
                // A damaged block is known as that to whoever asks, and left out here.
                let Ok(version) = version else { continue };
                all = take(version);
                if !all {
                    break;
                }
                history.advance();
            }
            walk.base = Some(history.pause());
        }
        if all {
            self.history_in_memory(&KeyRange::all(), from, through, &mut |version| {
                all = take(version);
                all
            });
        }
        walk.from = newest.filter(|_| !all).unwrap_or(through).next();
    }
}

/// What HashKV digests of a version: its key in etcd's backend, then its value there.
pub fn push_record(version: &VersionRef<'_>, out: &mut Vec<u8>) {
    let (key, len) = revision_key(version.position(), version.is_tombstone());
    out.extend_from_slice(&key[..len]);
    version.put_value(out);
}

/// The key of a version in etcd's backend, and its length: tombstones have one byte more.
#[must_use]
pub fn revision_key(at: Position, tombstone: bool) -> ([u8; REVISION_KEY_BYTES + 1], usize) {
    let mut key = [TOMBSTONE; REVISION_KEY_BYTES + 1];
    key[..8].copy_from_slice(&at.0.0.to_be_bytes());
    key[8] = b'_';
    key[9..17].copy_from_slice(&u64::from(at.1).to_be_bytes());
    (key, REVISION_KEY_BYTES + usize::from(tombstone))
}
