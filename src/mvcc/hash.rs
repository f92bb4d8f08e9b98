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

use super::{Position, Store, VersionRef};
use crate::keys::{KeyRange, Revision};

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

impl Store {
    /// Shows the records that HashKV digests, of revisions `from` through `through`, in order.
    ///
    /// Versions up to `compacted` count only where they are live and the newest of their key at
    /// `kept_at`, the revision that the client asked for: so the digest is the same before, during and
    /// after garbage collection. One exception is etcd's: when no key of the member has a value at the
    /// revision asked for, it counts all that a compaction keeps; `kept_at` is `compacted` then.
    pub fn hash_records(
        &self,
        from: Revision,
        through: Revision,
        kept_at: Revision,
        compacted: Revision,
        each: &mut dyn FnMut(Position, &[u8]),
    ) {
        let mut record = Vec::new();
        self.history(&KeyRange::all(), from, through, &mut |version| {
            if version.modified > compacted
                || self.get_at(version.key, kept_at).map(|kept| kept.position())
                    == Some(version.position())
            {
                record.clear();
                encode(&version, &mut record);
                each(version.position(), &record);
            }
            true
        });
    }
}

fn encode(version: &VersionRef<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&version.modified.0.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&u64::from(version.sub).to_be_bytes());
    if version.is_tombstone() {
        out.push(b't');
    }
    bytes(0x0a, version.key, out);
    if version.is_tombstone() {
        return;
    }
    number(0x10, version.create.0, out);
    number(0x18, version.modified.0, out);
    number(0x20, version.version, out);
    bytes(0x2a, version.value, out);
    number(0x30, version.lease.0, out);
}

/// A field of numbers; protobuf leaves zeros out.
fn number(tag: u8, n: i64, out: &mut Vec<u8>) {
    if n != 0 {
        out.push(tag);
        varint(n as u64, out);
    }
}

/// A field of bytes; protobuf leaves empty ones out.
fn bytes(tag: u8, field: &[u8], out: &mut Vec<u8>) {
    if !field.is_empty() {
        out.push(tag);
        varint(field.len() as u64, out);
        out.extend_from_slice(field);
    }
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
