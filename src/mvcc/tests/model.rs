//! The store against a map of lists that forgets nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cored_proto::mvccpb::KeyValue;
use prost::Message;

use super::super::build::Sizes;
use super::super::{HashWalk, Position, Store, VersionRef};
use super::{Images, Random};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::Change;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    key: Vec<u8>,
    value: Vec<u8>,
    create: Revision,
    at: Position,
    version: i64,
    lease: LeaseId,
}

impl Row {
    fn is_live(&self) -> bool {
        self.version > 0
    }
}

fn row(v: VersionRef<'_>) -> Row {
    let (key, value) = (v.key.to_vec(), v.value.to_vec());
    Row { key, value, create: v.create, at: v.position(), version: v.version, lease: v.lease }
}

#[derive(Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, Vec<Row>>,
    compacted: Revision,
}

impl Model {
    fn at(&self, key: &[u8], at: Revision) -> Option<&Row> {
        let newest = self.keys.get(key)?.iter().rev().find(|row| row.at.0 <= at)?;
        newest.is_live().then_some(newest)
    }

    fn scan(&self, range: &KeyRange, at: Revision) -> Vec<Row> {
        let inside = self.keys.keys().filter(|key| range.contains(key));
        inside.filter_map(|key| self.at(key, at)).cloned().collect()
    }

    fn history(&self, range: &KeyRange, from: Revision, through: Revision) -> Vec<Row> {
        let inside = self.keys.iter().filter(|(key, _)| range.contains(key));
        let mut rows: Vec<Row> = inside
            .flat_map(|(_, rows)| rows)
            .filter(|row| from <= row.at.0 && row.at.0 <= through)
            .cloned()
            .collect();
        rows.sort_by_key(|row| row.at);
        rows
    }

    /// What is left of the versions above `floor` when everything below the compaction is collected.
    fn kept(&self, floor: Revision) -> Vec<&Row> {
        let mut kept = Vec::new();
        for (key, rows) in &self.keys {
            let rows = &rows[rows.partition_point(|row| row.at.0 <= floor)..];
            let hides = self.at(key, floor).is_some();
            let older = rows.iter().filter(|row| row.at.0 <= self.compacted).count();
            kept.extend(
                rows[..older]
                    .last()
                    .filter(|row| row.is_live() || row.at.0 == self.compacted || hides),
            );
            kept.extend(&rows[older..]);
        }
        kept
    }

    fn hash_records(&self, at: Revision) -> Vec<(Position, Vec<u8>)> {
        let mut records = Vec::new();
        for row in self.history(&KeyRange::all(), Revision::ZERO, at) {
            if row.at.0 <= self.compacted && self.at(&row.key, at) != Some(&row) {
                continue;
            }
            let mut kv = KeyValue { key: row.key.clone().into(), ..KeyValue::default() };
            let mut record = [&row.at.0.0.to_be_bytes()[..], b"_"].concat();
            record.extend(u64::from(row.at.1).to_be_bytes());
            if row.is_live() {
                kv.value = row.value.clone().into();
                kv.create_revision = row.create.0;
                kv.mod_revision = row.at.0.0;
                kv.version = row.version;
                kv.lease = row.lease.0;
            } else {
                record.push(b't');
            }
            record.extend(kv.encode_to_vec());
            records.push((row.at, record));
        }
        records
    }
}

struct World {
    random: Random,
    store: Store,
    model: Model,
    revision: Revision,
    keys: usize,
    value_max: usize,
    /// Below or at the newest freeze, all is in layers that are closed.
    floor: Revision,
    checkpoints: usize,
    images: Images,
}

impl World {
    fn key(&mut self) -> Vec<u8> {
        let n = self.random.below(self.keys);
        match n % 4 {
            0 => format!("/registry/some/long/prefix/that/all/share/{n:05}").into_bytes(),
            1 => [&[b'k'; 2][..], &(n as u32).to_le_bytes()].concat(),
            2 => vec![b'a'; 1 + n % 50],
            _ => format!("{n:x}").into_bytes(),
        }
    }

    fn range(&mut self) -> KeyRange {
        match self.random.below(5) {
            0 => KeyRange::all(),
            1 => KeyRange { start: self.key(), end: None },
            2 => KeyRange::single(&self.key()),
            _ => KeyRange { start: self.key(), end: Some(self.key()) },
        }
    }

    /// A revision that readers may name, or one that is still to come.
    fn readable(&mut self) -> Revision {
        let span = (self.revision.0 - self.model.compacted.0) as usize;
        let back = if self.random.percent(60) { span.min(6) } else { span };
        Revision(self.revision.0 - self.random.below(back + 1) as i64)
    }

    fn write(&mut self) {
        let revision = self.revision.next();
        let mut done: Vec<Vec<u8>> = Vec::new();
        for sub in 0..1 + self.random.below(3) {
            let (key, at) = (self.key(), (revision, sub as u32));
            if done.contains(&key) {
                continue;
            }
            let before = self.model.at(&key, revision).cloned();
            if self.random.percent(30) {
                if before.is_some() {
                    self.store.delete(at, &key);
                    let value = Vec::new();
                    let (create, lease) = (Revision::ZERO, LeaseId::NONE);
                    let row = Row { key: key.clone(), value, create, at, version: 0, lease };
                    self.model.keys.get_mut(&key).unwrap().push(row);
                }
            } else {
                self.put(at, &key, before);
            }
            done.push(key);
        }
        self.revision = revision;
    }

    fn put(&mut self, at: Position, key: &[u8], before: Option<Row>) {
        let value = vec![b'v'; self.random.below(self.value_max)];
        let lease = LeaseId([0, 0, 0, 5, i64::MIN][self.random.below(5)]);
        let (create, version) =
            before.map_or((at.0, 1), |before| (before.create, before.version + 1));
        if self.random.percent(50) {
            assert_eq!(self.store.put(at, key, &value, lease), (create, version));
        } else {
            let value = Bytes::from(value.clone());
            self.store.install(at, key, &Change::Put { value, create, version, lease });
        }
        let row = Row { key: key.to_vec(), value, create, at, version, lease };
        self.model.keys.entry(key.to_vec()).or_default().push(row);
    }

    fn compact(&mut self) {
        let at = self.readable();
        self.store.compact(at);
        self.model.compacted = at;
        assert_eq!(self.store.compacted(), at);
    }

    fn collect(&mut self) {
        let (upto, budget) = (self.model.compacted, 1 + self.random.below(30));
        let before = self.store.versions();
        let more = self.store.collect(upto, budget);
        assert!(before - self.store.versions() <= budget, "a step keeps to its budget");
        if !more {
            let frozen = self.store.frozen().map_or(0, |layer| layer.versions());
            let kept = self.model.kept(self.floor);
            assert_eq!(self.store.versions() - frozen, kept.len(), "all garbage is gone");
            if self.floor == Revision::ZERO {
                let bytes: usize = kept.iter().map(|row| row.key.len() + row.value.len()).sum();
                assert_eq!(self.store.bytes_in_use(), bytes);
            }
        }
    }

    fn drop_above(&mut self) {
        let through = self.readable().max(self.floor);
        self.store.drop_above(through);
        for rows in self.model.keys.values_mut() {
            rows.retain(|row| row.at.0 <= through);
        }
        self.model.keys.retain(|_, rows| !rows.is_empty());
        self.revision = through;
        assert!(self.store.highest() <= through);
    }

    /// The next step on the way from an active layer to a base.
    fn checkpoint(&mut self) {
        let Some(frozen) = self.store.frozen().cloned() else {
            let at = self.readable().max(self.floor).max(self.store.collected());
            self.store.freeze(at);
            self.floor = at;
            return;
        };
        let compacted = self.model.compacted.min(self.floor);
        let base = self.images.build(self.floor, &[&*frozen], compacted);
        let layer = self.store.swap(base).layer;
        assert!(Arc::ptr_eq(&layer, &frozen));
        self.checkpoints += 1;
    }

    /// The newest base, and all that was written since.
    fn restart(&mut self) {
        let base = self.store.base().cloned();
        self.floor = base.as_ref().map_or(Revision::ZERO, |base| base.at());
        self.store = Store::new();
        if let Some(base) = base {
            self.store.set_base(base);
        }
        for row in self.model.history(&KeyRange::all(), self.floor.next(), Revision::MAX) {
            let Row { key, value, create, at, version, lease } = row;
            let change = match version {
                0 => Change::Delete,
                _ => Change::Put { value: value.into(), create, version, lease },
            };
            self.store.install(at, &key, &change);
        }
        self.store.compact(self.model.compacted);
    }

    /// To another store and back, in pieces of any size.
    fn travel(&mut self) {
        if self.store.frozen().is_some() {
            return;
        }
        let (range, at) = (self.range(), self.readable());
        let mut other = Store::new();
        if let Some(base) = self.store.base() {
            other.set_base(base.clone());
        }
        other.compact(Revision(self.random.below(self.model.compacted.0 as usize + 1) as i64));
        other.own(vec![range.clone()]);
        self.store.own(around(&range));
        while self.store.first_key(&range).is_some() {
            let size = self.random.below(3_000);
            other.import(self.store.export(&range, size));
            if self.random.percent(30) {
                other.collect(self.model.compacted, self.random.below(20));
            }
        }
        assert_eq!(self.store.count(&range, None), 0);
        let mut rows = Vec::new();
        other.scan(&KeyRange::all(), Some(at), &mut |v| {
            rows.push(row(v));
            true
        });
        assert_eq!(rows, self.model.scan(&range, at));
        while other.first_key(&KeyRange::all()).is_some() {
            let size = self.random.below(3_000);
            self.store.import(other.export(&KeyRange::all(), size));
        }
        other.own(Vec::new());
        self.store.own(vec![KeyRange::all()]);
        assert_eq!((other.versions(), other.bytes_in_use()), (0, 0));
    }

    fn check(&mut self) {
        let (range, at) = (self.range(), self.readable());
        let expected = self.model.scan(&range, at);
        let limit = self.random.below(expected.len() + 2).max(1);
        let mut rows = Vec::new();
        self.store.scan(&range, Some(at), &mut |v| {
            rows.push(row(v));
            rows.len() < limit
        });
        assert_eq!(rows[..], expected[..limit.min(expected.len())], "{range:?} at {at:?}");
        assert_eq!(self.store.count(&range, Some(at)), expected.len(), "{range:?} at {at:?}");

        let newest = self.model.scan(&range, Revision::MAX);
        let mut rows = Vec::new();
        self.store.scan(&range, None, &mut |v| {
            rows.push(row(v));
            true
        });
        assert_eq!(rows, newest);
        assert_eq!(self.store.count(&range, None), newest.len());
        let median = newest.get(newest.len() / 2).map(|row| row.key.clone());
        assert_eq!(self.store.median_key(&range), median);

        let (from, through) = (self.readable(), self.readable());
        let mut rows = Vec::new();
        self.store.history(&range, from, through, &mut |v| {
            rows.push(row(v));
            true
        });
        assert_eq!(
            rows,
            self.model.history(&range, from, through),
            "{range:?} {from:?} {through:?}"
        );
        for event in rows {
            let version = self.store.version_at(&event.key, event.at).map(row);
            assert_eq!(version.as_ref(), Some(&event));
            let at = event.at.0.prev();
            let before = self.store.before(&event.key, event.at).map(row);
            let readable = at >= self.model.compacted;
            let expected = self.model.at(&event.key, at).filter(|_| readable).cloned();
            assert_eq!(before, expected);
        }
        let key = self.key();
        assert_eq!(self.store.newest(&key).map(row), self.model.at(&key, Revision::MAX).cloned());
        assert_eq!(self.store.get_at(&key, at).map(row), self.model.at(&key, at).cloned());
    }

    fn check_hash(&mut self) {
        let at = self.readable();
        let mut records = Vec::new();
        let mut walk = HashWalk::new(at, at, self.model.compacted);
        while walk.reached() < at {
            let before = walk.reached();
            let mut each = |position, bytes: &[u8]| records.push((position, bytes.to_vec()));
            self.store.hash_records(&mut walk, 1 + self.random.below(40), &mut each);
            assert!(walk.reached() > before);
            if self.random.percent(25) {
                walk.base_changed();
            }
        }
        assert_eq!(records, self.model.hash_records(at));
    }
}

/// All keys outside of a range.
fn around(range: &KeyRange) -> Vec<KeyRange> {
    if range.is_empty() {
        return vec![KeyRange::all()];
    }
    let before = KeyRange { start: Vec::new(), end: Some(range.start.clone()) };
    let behind = range.end.clone().map(|start| KeyRange { start, end: None });
    [before].into_iter().chain(behind).filter(|part| !part.is_empty()).collect()
}

/// Of a thousand steps, how many go on with a checkpoint.
fn run(seed: u64, keys: usize, steps: usize, value_max: usize, checkpoint: usize) -> usize {
    let mut world = World {
        random: Random::new(seed),
        store: Store::new(),
        model: Model::default(),
        revision: Revision::FIRST,
        keys,
        value_max,
        floor: Revision::ZERO,
        checkpoints: 0,
        images: Images::of(Sizes { block: 2 << 10, part: 1 << 10 }),
    };
    let check_every = 1 + keys / 40;
    for step in 0..steps {
        if world.random.below(1_000) < checkpoint {
            match world.random.below(8) {
                0 => world.restart(),
                _ => world.checkpoint(),
            }
        }
        match world.random.below(1_000) {
            0..6 => world.compact(),
            6..150 => world.collect(),
            150..154 => world.drop_above(),
            154..156 => world.travel(),
            _ => world.write(),
        }
        if step % check_every == 0 {
            world.check();
        }
        if step % (check_every * 20) == 0 {
            world.check_hash();
        }
    }
    assert_eq!(world.store.fault(), None);
    world.checkpoints
}

#[test]
fn few_keys_with_long_histories() {
    for seed in 0..20 {
        run(seed, 24, 3_000, 40, 0);
    }
}

#[test]
fn many_keys_over_several_levels_of_the_index() {
    for seed in 100..103 {
        run(seed, 4_000, 12_000, 40, 0);
    }
}

#[test]
fn few_keys_in_layers() {
    let checkpoints = (200..220).map(|seed| run(seed, 24, 3_000, 40, 20));
    assert!(checkpoints.sum::<usize>() > 200);
}

#[test]
fn many_keys_in_layers_over_several_blocks() {
    let checkpoints = (300..303).map(|seed| run(seed, 4_000, 12_000, 600, 3));
    assert!(checkpoints.sum::<usize>() > 15);
}
