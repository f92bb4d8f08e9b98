//! The base against a model, and against every kind of damage.

mod damage;
mod layout;
mod model;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use super::{Base, BlockRef, Corrupt, Mapped};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::Change;
use crate::mvcc::build::Memory;
use crate::mvcc::build::{Builder, Sizes};
use crate::mvcc::tests::Random;
use crate::mvcc::{Position, Store, VersionRef};

/// What blocks on disks have.
const SIZES_AS_WRITTEN: Sizes = Sizes { block: 256 << 10, part: 64 << 20 };

/// A version of a key, owned.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    key: Vec<u8>,
    value: Vec<u8>,
    create: Revision,
    at: Position,
    version: i64,
    lease: LeaseId,
}

fn row(v: VersionRef<'_>) -> Row {
    let (key, value) = (v.key.to_vec(), v.value.to_vec());
    Row { key, value, create: v.create, at: v.position(), version: v.version, lease: v.lease }
}

impl Row {
    fn is_live(&self) -> bool {
        self.version > 0
    }

    fn view(&self) -> VersionRef<'_> {
        VersionRef {
            key: &self.key,
            value: &self.value,
            create: self.create,
            modified: self.at.0,
            sub: self.at.1,
            version: self.version,
            lease: self.lease,
        }
    }

    fn install(&self, store: &mut Store) {
        let Row { value, create, version, lease, .. } = self.clone();
        let change = match version {
            0 => Change::Delete,
            _ => Change::Put { value: value.into(), create, version, lease },
        };
        store.install(self.at, &self.key, &change);
    }
}

/// All versions of all keys, with nothing but lists.
#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, Vec<Row>>,
}

impl Model {
    fn newest(&self, key: &[u8]) -> Option<&Row> {
        self.keys.get(key)?.last()
    }

    /// Removes what nobody may read after a compaction at `at`.
    fn compact(&mut self, at: Revision) {
        for rows in self.keys.values_mut() {
            let wrote = rows.iter().any(|row| row.at.0 == at);
            let newest = rows.iter().rfind(|row| row.at.0 < at).map(|row| row.at);
            rows.retain(|row| row.at.0 >= at || Some(row.at) == newest && row.is_live() && !wrote);
        }
        self.keys.retain(|_, rows| !rows.is_empty());
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.keys.values().flatten()
    }

    /// Random writes at one revision; what they add is also returned.
    fn write(&mut self, random: &mut Random, revision: Revision, keys: usize) -> Vec<Row> {
        let mut added = Vec::new();
        for _ in 0..1 + random.below(3) {
            let key = some_key(random, keys);
            if added.iter().any(|row: &Row| row.key == key) {
                continue;
            }
            let live = self.newest(&key).is_some_and(Row::is_live);
            let sub = added.len() as u32;
            if live && random.percent(35) {
                added.push(self.delete(&key, (revision, sub)));
                if random.percent(30) {
                    // A transaction may delete a key and put it again.
                    added.push(self.put(random, &key, (revision, sub + 1)));
                }
            } else {
                added.push(self.put(random, &key, (revision, sub)));
            }
        }
        added
    }

    fn delete(&mut self, key: &[u8], at: Position) -> Row {
        let (create, lease) = (Revision::ZERO, LeaseId::NONE);
        let row = Row { key: key.to_vec(), value: Vec::new(), create, at, version: 0, lease };
        self.push(row)
    }

    fn put(&mut self, random: &mut Random, key: &[u8], at: Position) -> Row {
        let before = self.newest(key).filter(|row| row.is_live());
        let (create, version) = before.map_or((at.0, 1), |row| (row.create, row.version + 1));
        let value = vec![b'a' + (at.0.0 % 26) as u8; random.below(60)];
        let lease = LeaseId([0, 0, 0, 5, i64::MIN][random.below(5)]);
        self.push(Row { key: key.to_vec(), value, create, at, version, lease })
    }

    fn push(&mut self, row: Row) -> Row {
        self.keys.entry(row.key.clone()).or_default().push(row.clone());
        row
    }
}

fn some_key(random: &mut Random, keys: usize) -> Vec<u8> {
    let n = random.below(keys);
    match n % 5 {
        0 => format!("/registry/some/long/prefix/that/all/share/{n:05}").into_bytes(),
        1 => [&[b'k'; 2][..], &(n as u32).to_le_bytes()].concat(),
        2 => vec![b'a'; 1 + n % 50],
        3 => [&b"/registry/some/long/prefix"[..], &vec![0; n % 7]].concat(),
        _ => format!("{n:x}").into_bytes(),
    }
}

fn some_range(random: &mut Random, keys: usize) -> KeyRange {
    match random.below(5) {
        0 => KeyRange::all(),
        1 => KeyRange { start: some_key(random, keys), end: None },
        2 => KeyRange::single(&some_key(random, keys)),
        _ => KeyRange { start: some_key(random, keys), end: Some(some_key(random, keys)) },
    }
}

/// Blocks of these rows alone, small ones.
fn blocks(model: &Model, sizes: Sizes) -> (Vec<BlockRef>, Vec<u8>) {
    let mut memory = Memory::new(1);
    let mut builder = Builder::with_sizes(&mut memory, Revision::ZERO, sizes);
    for (key, rows) in &model.keys {
        let versions: Vec<_> = rows.iter().map(Row::view).collect();
        let Ok(()) = builder.add(key, &versions);
    }
    let Ok(rows) = builder.finish() as Result<_, Infallible>;
    (rows, memory.bytes)
}

fn open(at: Revision, rows: Vec<BlockRef>, bytes: Vec<u8>) -> Result<Base, Corrupt> {
    let file: Mapped = Arc::new(bytes);
    Base::open(at, rows, BTreeMap::from([(1, file)]))
}
