//! The rows of a transaction that touches several shards, gathered under latches: the same
//! [`State`] as one shard is, so that the same code runs on it. It remembers what was written, and
//! knows nothing of where the rows came from.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Row, State};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::{Change, Write};

/// A key's version, owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedRow {
    /// Its value.
    pub value: Bytes,
    /// Revision at which the key came into being.
    pub create: Revision,
    /// Revision of this version.
    pub modified: Revision,
    /// Versions since then.
    pub version: i64,
    /// The lease that holds the key, or none.
    pub lease: LeaseId,
}

/// What one shard contributes.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// Newest live rows of the ranges that are read or written at the newest state.
    pub newest: BTreeMap<Bytes, OwnedRow>,
    /// Rows of ranges read at an old revision, by that revision.
    pub past: BTreeMap<Revision, BTreeMap<Bytes, OwnedRow>>,
    /// Leases among those asked for that exist.
    pub leases: Vec<LeaseId>,
    /// History below this revision is gone.
    pub compacted: Revision,
    /// The newest revision that a client can know of.
    pub current: Revision,
    /// The highest revision installed where the rows come from: the answer's gate.
    pub highest: Revision,
    /// What was written since, by sub-revision.
    pub writes: Vec<Write>,
}

impl Gathered {
    /// Adds what another shard contributes.
    pub fn join(&mut self, other: Gathered) {
        self.newest.extend(other.newest);
        for (at, rows) in other.past {
            self.past.entry(at).or_default().extend(rows);
        }
        self.leases.extend(other.leases);
        self.compacted = self.compacted.max(other.compacted);
        self.current = self.current.max(other.current);
        self.highest = self.highest.max(other.highest);
    }

    fn rows(&self, at: Option<Revision>) -> Option<&BTreeMap<Bytes, OwnedRow>> {
        match at {
            None => Some(&self.newest),
            Some(at) => self.past.get(&at),
        }
    }

    fn within(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
    ) -> impl Iterator<Item = (&Bytes, &OwnedRow)> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let start = Included(&range.start[..]);
        let end = range.end.as_deref().map_or(Unbounded, Excluded);
        // An inverted range would panic in the map, and holds nothing.
        let rows = self.rows(at).filter(|_| !range.is_empty());
        rows.into_iter().flat_map(move |rows| rows.range::<[u8], _>((start, end)))
    }
}

fn row<'a>((key, row): (&'a Bytes, &'a OwnedRow)) -> Row<'a> {
    Row {
        key,
        value: &row.value,
        create: row.create,
        modified: row.modified,
        version: row.version,
        lease: row.lease,
    }
}

impl State for Gathered {
    fn get(&self, key: &[u8]) -> Option<Row<'_>> {
        self.newest.get_key_value(key).map(row)
    }

    fn scan(&self, range: &KeyRange, at: Option<Revision>, visit: &mut dyn FnMut(Row<'_>) -> bool) {
        for found in self.within(range, at) {
            if !visit(row(found)) {
                return;
            }
        }
    }

    fn count(&self, range: &KeyRange, at: Option<Revision>) -> i64 {
        self.within(range, at).count() as i64
    }

    fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.contains(&lease)
    }

    fn compacted(&self) -> Revision {
        self.compacted
    }

    fn current(&self) -> Revision {
        self.current
    }

    fn put(&mut self, at: Revision, _sub: u32, key: &[u8], value: &[u8], lease: LeaseId) {
        let key = Bytes::copy_from_slice(key);
        let value = Bytes::copy_from_slice(value);
        let before = self.newest.get(&key);
        let create = before.map_or(at, |row| row.create);
        let version = before.map_or(1, |row| row.version + 1);
        let change = Change::Put { value: value.clone(), create, version, lease };
        self.writes.push(Write { key: key.clone(), change });
        self.newest.insert(key, OwnedRow { value, create, modified: at, version, lease });
    }

    fn delete(&mut self, _at: Revision, _sub: u32, key: &[u8]) {
        self.newest.remove(key);
        self.writes.push(Write { key: Bytes::copy_from_slice(key), change: Change::Delete });
    }
}
