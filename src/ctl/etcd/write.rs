//! Writes a backup as etcd would have: a bbolt file with etcd's buckets.
//!
//! The versions come one by one, in order of their positions; nothing of them is kept.

use std::io::{self, Seek, Write};

use prost::Message as _;

use super::{LeaseRecord, STORAGE_VERSION};
use crate::ctl::backup::{Alarm, Backup};
use crate::ctl::bbolt::{self, Tree};
use crate::keys::Revision;
use crate::mvcc::{VersionRef, revision_key};
use cored_proto::etcdserverpb::AlarmMember;

/// Writes the buckets of etcd.
#[derive(Debug)]
pub struct Writer<W> {
    file: bbolt::Writer<W>,
}

/// Writes the versions of all keys.
#[derive(Debug)]
pub struct Keys<'w, W> {
    tree: Tree<'w, W>,
    value: Vec<u8>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a file at the begin of `out`, which is empty.
    ///
    /// # Errors
    /// When `out` can not be written, here and below.
    pub fn new(out: W) -> io::Result<Writer<W>> {
        Ok(Writer { file: bbolt::Writer::new(out)? })
    }

    /// Begins the keys, once.
    pub fn keys(&mut self) -> Keys<'_, W> {
        Keys { tree: self.file.bucket("key"), value: Vec::new() }
    }

    /// Writes everything else and returns `out` and the size of the file.
    ///
    /// # Errors
    /// When `out` can not be written, or the backup names something twice.
    pub fn finish(mut self, backup: &Backup) -> io::Result<(W, u64)> {
        self.meta(backup.compacted)?;
        let mut sorted = backup.leases.clone();
        sorted.sort_by_key(|lease| lease.id.0 as u64);
        let mut leases = self.file.bucket("lease");
        for lease in &sorted {
            let id = lease.id.0;
            let record = LeaseRecord { id, ttl: lease.ttl, remaining: lease.remaining };
            leases.put(&id.to_be_bytes(), &record.encode_to_vec())?;
        }
        leases.finish()?;
        let record = |alarm: &Alarm| {
            AlarmMember { member_id: alarm.member, alarm: alarm.alarm }.encode_to_vec()
        };
        let mut alarms: Vec<Vec<u8>> = backup.alarms.iter().map(record).collect();
        alarms.sort();
        self.bucket("alarm", alarms.iter().map(|record| (record.as_slice(), &[][..])))?;
        let auth = &backup.auth;
        let (enabled, revision) = ([u8::from(auth.enabled)], auth.revision.to_be_bytes());
        let entries = [(&b"authEnabled"[..], &enabled[..]), (b"authRevision", &revision)];
        self.bucket("auth", entries.into_iter())?;
        for (name, records) in [("authUsers", &auth.users), ("authRoles", &auth.roles)] {
            self.bucket(name, records.iter().map(|(name, record)| (&name[..], &record[..])))?;
        }
        // Who restores it makes the members, and the cluster agrees on its version anew.
        for name in ["members", "members_removed", "cluster"] {
            self.bucket(name, std::iter::empty())?;
        }
        self.file.finish()
    }

    fn meta(&mut self, compacted: Revision) -> io::Result<()> {
        let one = 1u64.to_be_bytes();
        let (compacted_at, len) = revision_key((compacted, 0), false);
        let compacted_at = &compacted_at[..len];
        let mut entries = vec![
            (&b"consistent_index"[..], &one[..]),
            (b"finishedCompactRev", compacted_at),
            (b"scheduledCompactRev", compacted_at),
            (b"storageVersion", STORAGE_VERSION.as_bytes()),
            (b"term", &one),
        ];
        if compacted == Revision::ZERO {
            entries.retain(|(name, _)| !name.ends_with(b"CompactRev"));
        }
        self.bucket("meta", entries.into_iter())
    }

    fn bucket<'e>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (&'e [u8], &'e [u8])>,
    ) -> io::Result<()> {
        let mut bucket = self.file.bucket(name);
        for (key, value) in entries {
            bucket.put(key, value)?;
        }
        bucket.finish()
    }
}

impl<W: Write + Seek> Keys<'_, W> {
    /// Adds a version. Their positions ascend.
    ///
    /// # Errors
    /// When the file can not be written, or the positions do not ascend.
    pub fn put(&mut self, version: &VersionRef<'_>) -> io::Result<()> {
        self.value.clear();
        version.put_value(&mut self.value);
        let (key, len) = revision_key(version.position(), version.is_tombstone());
        self.tree.put(&key[..len], &self.value)
    }

    /// Ends the keys.
    ///
    /// # Errors
    /// When the file can not be written.
    pub fn finish(self) -> io::Result<()> {
        self.tree.finish()
    }
}
