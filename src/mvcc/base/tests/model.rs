//! Random histories in images built on images, every method against the model.

use super::*;
use crate::mvcc::Layer;
use crate::mvcc::base::KeyRef;
use crate::mvcc::build::feed;

struct World {
    random: Random,
    model: Model,
    base: Option<Base>,
    files: BTreeMap<u64, Mapped>,
    revision: Revision,
    compacted: Revision,
    keys: usize,
    sizes: Sizes,
    reused: usize,
    parts: usize,
}

impl World {
    /// Writes into layers that share no key, and builds the next image.
    fn checkpoint(&mut self, writes: usize) {
        let mut layers: Vec<Store> = (0..1 + self.random.below(4)).map(|_| Store::new()).collect();
        // Now and then only a few neighbours change.
        let keys = if self.random.percent(50) { self.keys } else { 1 + self.keys / 20 };
        for _ in 0..writes {
            self.revision = self.revision.next();
            for row in self.model.write(&mut self.random, self.revision, keys) {
                let count = layers.len();
                let shard = usize::from(row.key[row.key.len() / 2]) % count;
                row.install(&mut layers[shard]);
            }
        }
        if self.random.percent(60) {
            let span = (self.revision.0 - self.compacted.0) as usize;
            self.compacted.0 += self.random.below(span + 1) as i64;
        }
        self.model.compact(self.compacted);

        let mut memory = Memory::new(self.files.len() as u64 + 1);
        let file = self.files.len() as u64 + 1;
        let builder = Builder::with_sizes(&mut memory, self.compacted, self.sizes);
        let layers: Vec<&Layer> = layers.iter().map(|store| &store.active).collect();
        let rows = feed(builder, self.base.as_ref(), &layers, self.compacted);
        let rows = rows.expect("memory keeps what it gets");
        self.files.insert(file, Arc::new(memory.bytes));
        self.reused += rows.iter().filter(|row| row.file != file).count();
        self.parts += rows.iter().filter(|row| row.keys == 0).count();
        let base = Base::open(self.revision, rows, self.files.clone()).expect("rows in order");
        self.base = Some(base);
        self.check_whole();
    }

    fn check_whole(&self) {
        let base = self.base.as_ref().expect("built");
        (0..base.blocks().len()).for_each(|n| base.check_block(n).expect("whole"));
        let rows: Vec<&Row> = self.model.rows().collect();
        let newest = self.model.keys.values().map(|rows| rows.last().expect("a version"));
        let live = newest.clone().filter(|row| row.is_live());
        assert_eq!(base.versions(), rows.len() as u64);
        assert_eq!(base.keys(), self.model.keys.len() as u64);
        assert_eq!(base.live(), live.clone().count() as u64);
        let bytes: usize = rows.iter().map(|row| row.key.len() + row.value.len()).sum();
        assert_eq!(base.logical_bytes(), bytes as u64);
        for (rank, row) in live.enumerate() {
            assert_eq!(base.nth_live(rank as u64), Ok(Some(&row.key[..])));
            assert_eq!(base.rank(&row.key), Ok(rank as u64));
        }
        assert_eq!(base.nth_live(base.live()), Ok(None));
        let mut leased = Vec::new();
        base.leased(&mut |key, lease| leased.push((key.to_vec(), lease))).expect("whole");
        let bound = newest.filter(|row| row.lease.is_some());
        assert_eq!(leased, bound.map(|row| (row.key.clone(), row.lease)).collect::<Vec<_>>());
        assert_eq!(base.fault(), None);
    }

    fn some_revision(&mut self) -> Revision {
        Revision(self.random.below(self.revision.0 as usize + 2) as i64)
    }

    fn check(&mut self) {
        let key = some_key(&mut self.random, self.keys);
        let (from, through) = (self.some_revision(), self.some_revision());
        let range = some_range(&mut self.random, self.keys);
        let other = some_range(&mut self.random, self.keys);
        let base = self.base.as_ref().expect("built");
        let none = Vec::new();
        let rows = self.model.keys.get(&key).unwrap_or(&none);

        assert_eq!(base.newest(&key).map(|v| v.map(row)), Ok(rows.last().cloned()));
        let at = rows.iter().rfind(|row| row.at.0 <= through).cloned();
        assert_eq!(base.get_at(&key, through).map(|v| v.map(row)), Ok(at));
        for position in rows.iter().map(|row| row.at).chain([(from, 0), (through, 1)]) {
            let there = rows.iter().find(|row| row.at == position).cloned();
            assert_eq!(base.version_at(&key, position).map(|v| v.map(row)), Ok(there));
        }
        let live = |(_, rows): &(&Vec<u8>, &Vec<Row>)| rows.last().is_some_and(Row::is_live);
        let before = self.model.keys.range(..key.clone()).filter(live).count();
        assert_eq!(base.rank(&key), Ok(before as u64));

        let mut cursor = base.cursor(&range);
        for (key, rows) in self.model.keys.iter().filter(|(key, _)| range.contains(key)) {
            let found = cursor.peek().expect("whole").expect("as many as the model has");
            assert_eq!(found.key(), key);
            assert_eq!(found.versions().map(row).collect::<Vec<_>>(), *rows);
            assert_eq!((found.len(), found.get(rows.len())), (rows.len(), None));
            assert_eq!(found.newest().map(row), rows.last().cloned());
            let at = rows.iter().rfind(|row| row.at.0 <= through).cloned();
            assert_eq!(found.at(through).map(row), at);
            cursor.advance();
        }
        assert!(cursor.peek().expect("whole").is_none());

        let known = self.model.keys.contains_key(&key);
        let mut cursor = base.cursor(&range);
        for next in self.model.keys.keys().filter(|key| range.contains(key)) {
            let order = Ok(Some(next.cmp(&key)));
            assert_eq!(cursor.compare(&key, false), order, "{next:?} {key:?}");
            if known && key >= *next {
                assert_eq!(cursor.compare(&key, true), order, "{next:?} {key:?}");
            }
            cursor.pass();
        }
        assert_eq!(cursor.compare(&key, false), Ok(None));

        let ranges = match other.overlaps(&range) {
            true => vec![range],
            false => vec![range, other],
        };
        let history: Result<Vec<Row>, Corrupt> =
            base.history(&ranges, from, through).map(|v| v.map(row)).collect();
        let inside = |row: &&Row| ranges.iter().any(|range| range.contains(&row.key));
        let happened = |row: &&Row| from <= row.at.0 && row.at.0 <= through;
        let mut rows: Vec<Row> =
            self.model.rows().filter(inside).filter(happened).cloned().collect();
        rows.sort_by_key(|row| row.at);
        assert_eq!(history, Ok(rows), "{ranges:?} {from:?} {through:?}");
    }
}

fn run(seed: u64, keys: usize, sizes: Sizes, checkpoints: usize, writes: usize) -> World {
    let mut world = World {
        random: Random::new(seed),
        model: Model::default(),
        base: None,
        files: BTreeMap::new(),
        revision: Revision::FIRST,
        compacted: Revision::ZERO,
        keys,
        sizes,
        reused: 0,
        parts: 0,
    };
    for _ in 0..checkpoints {
        let writes = world.random.below(writes);
        world.checkpoint(writes);
        (0..40).for_each(|_| world.check());
    }
    world
}

#[test]
fn images_on_images_of_few_keys_with_long_histories() {
    let mut parts = 0;
    for seed in 0..30 {
        parts += run(seed, 12, Sizes { block: 700, part: 500 }, 12, 80).parts;
    }
    assert!(parts > 100, "some keys need several blocks");
}

#[test]
fn images_on_images_of_many_keys() {
    let mut reused = 0;
    for seed in 100..112 {
        reused += run(seed, 700, Sizes { block: 2_000, part: 100_000 }, 15, 200).reused;
    }
    assert!(reused > 400, "most blocks stay where they are");
}

#[test]
fn images_of_whole_blocks() {
    run(7, 20_000, SIZES_AS_WRITTEN, 3, 12_000);
}

#[test]
fn an_empty_image_answers() {
    let base = open(Revision(7), Vec::new(), Vec::new()).expect("nothing to be wrong");
    assert_eq!((base.keys(), base.live(), base.versions()), (0, 0, 0));
    assert_eq!(base.newest(b"a"), Ok(None));
    assert_eq!(base.rank(b"a"), Ok(0));
    assert_eq!(base.nth_live(0), Ok(None));
    assert!(
        base.cursor(&KeyRange::all())
            .peek()
            .map(|k: Option<KeyRef<'_>>| k.is_none())
            .expect("whole")
    );
    assert_eq!(base.history(&[KeyRange::all()], Revision::ZERO, Revision::MAX).count(), 0);
    assert_eq!(base.touch(&KeyRange::all()), Ok(()));
}
