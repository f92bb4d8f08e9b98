//! The versions of a backup of etcd by key, and the message that holds one.
//!
//! etcd stores versions in order of revisions. To sort them, their keys are held in memory, one behind
//! the other, with a row for each version; values stay in the file.

use super::{Error, Snapshot, position};
use crate::keys::{LeaseId, Revision};
use crate::mvcc::{REVISION_KEY_BYTES, TOMBSTONE, VersionRef};

/// See [`Snapshot::by_key`].
#[derive(Debug)]
pub struct ByKey<'a> {
    /// The whole file.
    bytes: &'a [u8],
    keys: Vec<u8>,
    /// Sorted by key, and those of one key by position.
    rows: Vec<Row>,
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// Where the key lies in `keys`.
    key_at: u64,
    /// Where the entry lies in the file: its revision key, then its value.
    entry_at: u64,
    key_bytes: u32,
    entry_bytes: u32,
}

impl<'a> ByKey<'a> {
    pub(super) fn new(snapshot: &Snapshot<'a>) -> Result<ByKey<'a>, Error> {
        let (mut keys, mut rows) = (Vec::new(), Vec::new());
        let mut versions = snapshot.versions();
        while let Some((entry, version)) = versions.next_entry().transpose()? {
            // The lengths of an entry are stored in 32 bits; together they may need one more.
            let entry_bytes = u32::try_from(entry.key.len() + entry.value.len())
                .map_err(|_| super::wrong("key", &entry, "an entry of four gigabytes"))?;
            let (key_at, entry_at) = (keys.len() as u64, entry.at);
            let key_bytes = version.key.len() as u32;
            rows.push(Row { key_at, entry_at, key_bytes, entry_bytes });
            keys.extend_from_slice(version.key);
        }
        let key = |row: &Row| &keys[row.key_at as usize..][..row.key_bytes as usize];
        // Stable: the versions of a key stay in their order.
        rows.sort_by(|a, b| key(a).cmp(key(b)));
        Ok(ByKey { bytes: snapshot.database.bytes(), keys, rows, next: 0 })
    }

    /// Fills `versions` with all versions of the next key, the oldest first, and returns the key.
    pub fn next_into(&mut self, versions: &mut Vec<VersionRef<'a>>) -> Option<&[u8]> {
        versions.clear();
        let first = *self.rows.get(self.next)?;
        let of_one_key = |row: &&Row| self.key(row) == self.key(&first);
        let count = self.rows[self.next..].iter().take_while(of_one_key).count();
        for row in &self.rows[self.next..self.next + count] {
            versions.push(self.version(row));
        }
        self.next += count;
        Some(self.key(&first))
    }

    fn key(&self, row: &Row) -> &[u8] {
        &self.keys[row.key_at as usize..][..row.key_bytes as usize]
    }

    fn version(&self, row: &Row) -> VersionRef<'a> {
        let entry = &self.bytes[row.entry_at as usize..][..row.entry_bytes as usize];
        // A tombstone's revision key is one byte longer, and no message begins with that byte.
        let is_tombstone = entry.get(REVISION_KEY_BYTES) == Some(&TOMBSTONE);
        let (place, value) = entry.split_at(REVISION_KEY_BYTES + usize::from(is_tombstone));
        let ((modified, sub), _) = position(place).expect("the same bytes were read before");
        let version = decode(value).expect("the same bytes were read before");
        let version = VersionRef { modified, sub, ..version };
        if is_tombstone { super::tombstone(&version) } else { version }
    }
}

/// A `mvccpb.KeyValue` in place; its place inside its revision is not part of it.
pub(super) fn decode(mut message: &[u8]) -> Option<VersionRef<'_>> {
    let (create, modified, lease) = (Revision::ZERO, Revision::ZERO, LeaseId::NONE);
    let mut found =
        VersionRef { key: &[], value: &[], create, modified, sub: 0, version: 0, lease };
    while !message.is_empty() {
        match take_number(&mut message)? {
            0x0a => found.key = take_bytes(&mut message)?,
            0x10 => found.create = Revision(take_number(&mut message)? as i64),
            0x18 => found.modified = Revision(take_number(&mut message)? as i64),
            0x20 => found.version = take_number(&mut message)? as i64,
            0x2a => found.value = take_bytes(&mut message)?,
            0x30 => found.lease = LeaseId(take_number(&mut message)? as i64),
            // Fields of a later release.
            tag if tag >> 3 > 6 => skip(tag & 7, &mut message)?,
            _ => return None,
        }
    }
    Some(found)
}

fn take_number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_bytes<'a>(message: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_number(message)?).ok()?;
    message.split_off(..len)
}

fn skip(wire_type: u64, message: &mut &[u8]) -> Option<()> {
    match wire_type {
        0 => take_number(message).map(drop),
        1 => message.split_off(..8).map(drop),
        2 => take_bytes(message).map(drop),
        5 => message.split_off(..4).map(drop),
        _ => None,
    }
}
