//! Batches of versions against the same versions one by one.

use super::super::{Batch, Position, Store};
use super::Random;
use super::transcripts::{collect_all, history, scan};
use crate::keys::{KeyRange, LeaseId, Revision};

/// Keys with and without a common beginning, with equal hints, one a beginning of the other.
const KEYS: [&str; 8] = [
    "/registry/a",
    "/registry/ab",
    "/registry/abcdefgh1",
    "/registry/abcdefgh2",
    "/r",
    "x",
    "y",
    "\0",
];

struct Both {
    single: Store,
    batched: Store,
    batch: Batch,
    at: i64,
}

impl Both {
    fn write(&mut self, random: &mut Random, keys: &[&str]) {
        self.at += 1;
        let subs = 1 + random.below(2) as u32;
        for sub in 0..subs {
            let key = keys[random.below(keys.len())].as_bytes();
            let at: Position = (Revision(self.at), sub);
            let before = self.single.newest(key);
            let (create, number) = before.map_or((at.0, 1), |v| (v.create, v.version + 1));
            let value = vec![b'v'; [0, 5, 63, 64, 300][random.below(5)]];
            let lease = LeaseId(random.below(3) as i64);
            if random.percent(20) {
                self.single.delete(at, key);
                self.batch.delete(at, key);
            } else {
                self.single.install_put(at, key, &value, create, number, lease);
                self.batch.put(at, key, &value, (create, number), lease);
            }
        }
    }

    fn install(&mut self) {
        self.batched.install_all(std::mem::take(&mut self.batch));
    }

    fn compare(&self) {
        let all = KeyRange::all();
        for at in [None, Some(self.at - 3), Some(self.at)] {
            assert_eq!(scan(&self.batched, &all, at), scan(&self.single, &all, at));
        }
        let stories = [&self.batched, &self.single].map(|store| history(store, &all, 1, self.at));
        assert_eq!(stories[0], stories[1]);
        let of = |store: &Store| {
            let count = store.count(&all, None);
            (store.versions(), store.bytes_in_use(), store.highest(), count)
        };
        assert_eq!(of(&self.batched), of(&self.single));
    }
}

#[test]
fn a_batch_is_its_versions_one_by_one() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let keys = if seed % 2 == 0 { &KEYS[..] } else { &KEYS[..4] };
        let mut both =
            Both { single: Store::new(), batched: Store::new(), batch: Batch::default(), at: 1 };
        for _ in 0..6 {
            for _ in 0..random.below(30) {
                both.write(&mut random, keys);
            }
            both.install();
            both.compare();
        }
        // Shared and copied values leave alike.
        let half = both.at / 2;
        for store in [&mut both.single, &mut both.batched] {
            store.drop_above(Revision(both.at - 2));
            collect_all(store, half);
        }
        both.at -= 2;
        both.compare();
    }
}
