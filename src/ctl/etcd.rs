//! The buckets that etcd 3.4 to 3.7 keeps its state in, read from a backup and written into one.
//!
//! Knows what etcd's entries mean and nothing of pages, files or of what becomes of a backup.
//!
//! ```text
//! bucket           key                              value
//! key              revision key                     mvccpb.KeyValue; a tombstone's holds the key alone
//! meta             scheduledCompactRev              revision key of the last compaction asked for
//!                  finishedCompactRev               and of the last one carried out
//!                  consistent_index, term           big-endian u64: the log entry that is in the file (term: 3.5)
//!                  confState                        JSON of the voters (3.5); new members mean a new one
//!                  storageVersion                   "3.6.0" (3.6)
//! lease            id, big-endian                   leasepb.Lease
//! alarm            etcdserverpb.AlarmMember         nothing
//! auth             authEnabled                      one byte, 0 or 1
//!                  authRevision                     big-endian u64
//! authUsers        name                             authpb.User
//! authRoles        name                             authpb.Role
//! members          id in hex                        JSON; a restore makes new ones
//! members_removed  id in hex                        "removed"
//! cluster          clusterVersion, downgrade        text (3.5)
//!
//! revision key     offset  size  field
//!                       0     8  main   big-endian revision
//!                       8     1  '_'
//!                       9     8  sub    big-endian place inside the revision
//!                      17     1  't'    tombstones only
//! ```
//!
//! A restore that moved the revision on leaves an entry at the new revision that has no bytes at all:
//! it counts for the revision and is no version of any key.

mod keys;
#[cfg(test)]
mod tests;
mod write;

pub use keys::ByKey;
pub use write::{Keys, Writer};

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;

use super::backup::{Alarm, Backup, Lease};
use super::bbolt::{self, Bucket, Database, Entries, Entry};
use crate::keys::{LeaseId, Revision};
use crate::lane::redo::Auth;
use crate::mvcc::{Position, TOMBSTONE, VersionRef};
use cored_proto::etcdserverpb::AlarmMember;

/// What etcd writes into a backup of the release that this one stands for. 3.6 and 3.7 take it, older
/// ones do not look.
const STORAGE_VERSION: &str = "3.6.0";
/// Seconds that a lease may have, etcd's limit.
const TTL_MAX: i64 = 9_000_000_000;

/// Why a backup of etcd can not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file around the entries.
    #[error(transparent)]
    File(#[from] bbolt::Error),
    /// A bbolt file of something else.
    #[error("not a backup of etcd: no bucket {0:?}")]
    NoBucket(&'static str),
    /// An entry is not what etcd writes there.
    #[error("bucket {bucket:?}, damaged at byte {at}: {why}")]
    Entry {
        /// Its bucket.
        bucket: &'static str,
        /// Where its key lies in the file.
        at: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A backup of etcd: its control state read, its keys waiting to be.
#[derive(Debug)]
pub struct Snapshot<'a> {
    database: Database<'a>,
    keys: Bucket<'a>,
    /// All but the keys.
    pub backup: Backup,
    /// etcd's name of the file's schema, where it has one: from 3.6 on.
    pub version: Option<String>,
}

impl<'a> Snapshot<'a> {
    /// Reads all but the keys of the file `bytes`, without the checksum that may follow it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(bytes: &'a [u8]) -> Result<Snapshot<'a>, Error> {
        let database = Database::open(bytes)?;
        let keys = database.bucket(b"key")?.ok_or(Error::NoBucket("key"))?;
        let meta = database.bucket(b"meta")?.ok_or(Error::NoBucket("meta"))?;
        let mut compacted = Revision::ZERO;
        let mut version = None;
        for entry in meta.entries() {
            let entry = entry?;
            match entry.key {
                // A compaction that was asked for holds, whether or not it was carried out.
                b"scheduledCompactRev" | b"finishedCompactRev" => {
                    let (position, _) = position(entry.value)
                        .ok_or_else(|| wrong("meta", &entry, "not a revision"))?;
                    compacted = compacted.max(position.0);
                }
                b"storageVersion" => {
                    version = Some(String::from_utf8_lossy(entry.value).into_owned());
                }
                _ => {}
            }
        }
        let revision = compacted.max(Revision::FIRST);
        let (leases, alarms, auth) = (leases(&database)?, alarms(&database)?, auth(&database)?);
        let backup = Backup { revision, compacted, leases, alarms, auth };
        let mut snapshot = Snapshot { database, keys, backup, version };
        snapshot.backup.revision = revision.max(snapshot.newest()?);
        Ok(snapshot)
    }

    /// All versions in order of their positions, tombstones too.
    #[must_use]
    pub fn versions(&self) -> Versions<'a> {
        Versions { entries: self.keys.entries(), previous: (Revision::ZERO, 0) }
    }

    /// All versions sorted by key. Holds the keys in memory, and 24 bytes a version.
    ///
    /// # Errors
    /// Reads all entries, and ends at the first that is damaged.
    pub fn by_key(&self) -> Result<ByKey<'a>, Error> {
        ByKey::new(self)
    }

    /// Reads the whole file: every page, and every key.
    ///
    /// # Errors
    /// The first damage.
    pub fn check(&self) -> Result<(), Error> {
        self.database.check()?;
        self.versions().try_for_each(|version| version.map(drop))
    }

    /// What `etcdutl snapshot status` says of the file: a checksum over the entries of all buckets, and how
    /// many keys have a value. Holds a pointer a key in memory.
    ///
    /// # Errors
    /// Reads all entries, and ends at the first that is damaged.
    pub fn digest(&self) -> Result<(u32, u64), Error> {
        let mut hash = 0;
        let mut live = HashSet::new();
        for bucket in self.database.root().entries() {
            let bucket = bucket?;
            hash = crc32c::crc32c_append(hash, bucket.key);
            for entry in bucket.bucket(&self.database)?.entries() {
                let entry = entry?;
                hash = crc32c::crc32c_append(hash, entry.key);
                hash = crc32c::crc32c_append(hash, entry.value);
                if bucket.key == b"key" {
                    // The mark of a moved revision counts as a key without a name.
                    let key = version(&entry)?.map_or(&[][..], |version| version.key);
                    match key_position(&entry)? {
                        (_, true) => live.remove(key),
                        (_, false) => live.insert(key),
                    };
                }
            }
        }
        Ok((hash, live.len() as u64))
    }

    /// The revision of the newest entry, 0 without one: where compaction took the last one along, the
    /// store's revision is higher.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn newest(&self) -> Result<Revision, Error> {
        let newest = self.keys.last()?.as_ref().map(key_position).transpose()?;
        Ok(newest.map_or(Revision::ZERO, |(position, _)| position.0))
    }

    /// The database itself.
    #[must_use]
    pub fn database(&self) -> &Database<'a> {
        &self.database
    }
}

/// See [`Snapshot::versions`]. After an error it ends.
#[derive(Debug)]
pub struct Versions<'a> {
    entries: Entries<'a>,
    previous: Position,
}

impl<'a> Versions<'a> {
    /// The next version and the entry that it was read from.
    fn next_entry(&mut self) -> Option<Result<(Entry<'a>, VersionRef<'a>), Error>> {
        loop {
            let entry = match self.entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let found = version(&entry).and_then(|found| self.pass(&entry, found));
            match found {
                Ok(None) => {}
                Ok(Some(version)) => return Some(Ok((entry, version))),
                Err(error) => {
                    self.entries.end();
                    return Some(Err(error));
                }
            }
        }
    }

    /// A position has one entry: a tombstone's key would not say so.
    fn pass(
        &mut self,
        entry: &Entry<'_>,
        found: Option<VersionRef<'a>>,
    ) -> Result<Option<VersionRef<'a>>, Error> {
        if let Some(version) = &found {
            let previous = std::mem::replace(&mut self.previous, version.position());
            if previous >= self.previous {
                return Err(wrong("key", entry, "a put and a delete at one place"));
            }
        }
        Ok(found)
    }
}

impl<'a> Iterator for Versions<'a> {
    type Item = Result<VersionRef<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_entry()?.map(|(_, version)| version))
    }
}

fn wrong(bucket: &'static str, entry: &Entry<'_>, why: &'static str) -> Error {
    Error::Entry { bucket, at: entry.at, why }
}

/// A revision key's position, and whether it marks a tombstone.
fn position(key: &[u8]) -> Option<(Position, bool)> {
    let (main, rest) = key.split_first_chunk::<8>()?;
    let (sub, mark) = rest.strip_prefix(b"_")?.split_first_chunk::<8>()?;
    let tombstone = match mark {
        [] => false,
        [TOMBSTONE] => true,
        _ => return None,
    };
    let main = i64::try_from(u64::from_be_bytes(*main)).ok()?;
    let sub = u32::try_from(u64::from_be_bytes(*sub)).ok()?;
    Some(((Revision(main), sub), tombstone))
}

fn key_position(entry: &Entry<'_>) -> Result<(Position, bool), Error> {
    match position(entry.key) {
        Some((position, tombstone)) if position.0 > Revision::ZERO => Ok((position, tombstone)),
        _ => Err(wrong("key", entry, "not a revision")),
    }
}

/// The version that an entry of the keys holds; `None` for the mark of a moved revision.
fn version<'a>(entry: &Entry<'a>) -> Result<Option<VersionRef<'a>>, Error> {
    let ((modified, sub), tombstone) = key_position(entry)?;
    if entry.value.is_empty() && !tombstone {
        return Ok(None);
    }
    let found = keys::decode(entry.value)
        .ok_or_else(|| wrong("key", entry, "the value is no mvccpb.KeyValue"))?;
    let version = VersionRef { modified, sub, ..found };
    if version.key.is_empty() {
        return Err(wrong("key", entry, "a version without a key"));
    }
    if tombstone {
        return Ok(Some(self::tombstone(&version)));
    }
    if found.modified != modified {
        return Err(wrong("key", entry, "key and value name two revisions"));
    }
    if version.version < 1 || version.create < Revision::FIRST || version.create > modified {
        return Err(wrong("key", entry, "the value's counts can not be"));
    }
    Ok(Some(version))
}

/// What the store makes of a tombstone: key and position alone.
fn tombstone<'a>(version: &VersionRef<'a>) -> VersionRef<'a> {
    let (create, lease) = (Revision::ZERO, LeaseId::NONE);
    VersionRef { value: &[], create, version: 0, lease, ..*version }
}

/// `leasepb.Lease`, which is not part of the API.
#[derive(Clone, PartialEq, prost::Message)]
struct LeaseRecord {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining: i64,
}

fn leases(database: &Database<'_>) -> Result<Vec<Lease>, Error> {
    each(database, b"lease", |entry| {
        let record = LeaseRecord::decode(entry.value).ok();
        let record = record.filter(|record| {
            let named = record.id != 0 && entry.key == record.id.to_be_bytes();
            named && record.ttl <= TTL_MAX
        });
        let LeaseRecord { id, ttl, remaining } =
            record.ok_or_else(|| wrong("lease", entry, "not the lease that its key names"))?;
        // As etcd reads it: no lease is shorter than the least time to live.
        let ttl = ttl.max(1);
        Ok(Lease { id: LeaseId(id), ttl, remaining: remaining.clamp(0, ttl) })
    })
}

fn alarms(database: &Database<'_>) -> Result<Vec<Alarm>, Error> {
    each(database, b"alarm", |entry| {
        let record =
            AlarmMember::decode(entry.key).map_err(|_| wrong("alarm", entry, "not an alarm"))?;
        Ok(Alarm { member: record.member_id, alarm: record.alarm })
    })
}

fn auth(database: &Database<'_>) -> Result<Auth, Error> {
    let mut auth = Auth::default();
    each(database, b"auth", |entry| {
        match (entry.key, entry.value) {
            (b"authEnabled", [enabled]) => auth.enabled = *enabled == 1,
            (b"authRevision", revision) => {
                let revision = revision.try_into().map(u64::from_be_bytes);
                auth.revision = revision.map_err(|_| wrong("auth", entry, "not a number"))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    let copy = Bytes::copy_from_slice;
    let record = |entry: &Entry<'_>| Ok((copy(entry.key), copy(entry.value)));
    auth.users = each(database, b"authUsers", record)?;
    auth.roles = each(database, b"authRoles", record)?;
    Ok(auth)
}

/// Every entry of a bucket that may be missing.
fn each<'a, T>(
    database: &Database<'a>,
    bucket: &[u8],
    mut read: impl FnMut(&Entry<'a>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let Some(bucket) = database.bucket(bucket)? else { return Ok(Vec::new()) };
    bucket.entries().map(|entry| read(&entry?)).collect()
}
