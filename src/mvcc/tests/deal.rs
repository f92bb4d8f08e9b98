//! Stores whose keys are dealt, against stores that had only their own from the beginning.

use std::sync::Arc;

use super::super::base::Base;
use super::super::{Batch, Store};
use super::transcripts::{collect_all, history, scan};
use super::{Images, Random};
use crate::keys::{KeyRange, LeaseId, Revision};

const STORES: usize = 3;
/// What the image holds.
const BASE_AT: i64 = 40;

fn key(number: usize) -> String {
    format!("/registry/{number:04}")
}

fn on(base: &Arc<Base>) -> Store {
    let mut store = Store::new();
    store.set_base(Arc::clone(base));
    store
}

/// All keys in ranges, each with the number of a store.
fn owners(random: &mut Random, keys: usize) -> Vec<(KeyRange, usize)> {
    let mut starts: Vec<_> = (0..random.below(8)).map(|_| key(random.below(keys))).collect();
    starts.extend([String::new(), key(keys + 1)]);
    starts.sort_unstable();
    starts.dedup();
    let ends = starts[1..].iter().map(|end| Some(end.clone().into_bytes())).chain([None]);
    let ranges = starts.iter().zip(ends);
    let ranges = ranges.map(|(start, end)| KeyRange { start: start.clone().into(), end });
    // Some stores own nothing.
    let some = 1 + random.below(STORES);
    ranges.map(|range| (range, random.below(some))).collect()
}

fn run(seed: u64, keys: usize, writes: usize) {
    let mut random = Random::new(seed);
    let mut old = Store::new();
    for at in 2..BASE_AT {
        let key = key(random.below(keys));
        match random.percent(20) {
            true => old.delete((Revision(at), 0), key.as_bytes()),
            false => drop(old.put((Revision(at), 0), key.as_bytes(), b"old", LeaseId::NONE)),
        }
    }
    old.freeze(Revision(BASE_AT));
    let frozen = old.frozen().expect("frozen").clone();
    let base = Images::default().build(Revision(BASE_AT), &[&*frozen], Revision::ZERO);

    let owners = owners(&mut random, keys);
    // Who wrote a key changes in the middle, as when its range moves.
    let before = self::owners(&mut random, keys);
    let owner_in = |map: &[(KeyRange, usize)], key: &str| {
        map.iter().find(|(range, _)| range.contains(key.as_bytes())).expect("all keys").1
    };
    let mut drafts: Vec<Store> = (0..STORES).map(|_| on(&base)).collect();
    let mut batches: Vec<Batch> = (0..STORES).map(|_| Batch::default()).collect();
    let mut expected: Vec<Store> = (0..STORES).map(|_| on(&base)).collect();
    let last = BASE_AT + writes as i64;
    for at in BASE_AT + 1..=last {
        for sub in 0..1 + random.below(2) as u32 {
            let at = (Revision(at), sub);
            let key = key(random.below(keys));
            let writer = match random.percent(10) {
                true => random.below(STORES),
                false if at.0.0 < BASE_AT + writes as i64 / 2 => owner_in(&before, &key),
                false => owner_in(&owners, &key),
            };
            let key = key.as_bytes();
            let owner = &mut expected[owner_in(&owners, std::str::from_utf8(key).expect("text"))];
            if random.percent(20) {
                owner.delete(at, key);
                batches[writer].delete(at, key);
            } else {
                let known = owner.newest(key);
                let (create, number) = known.map_or((at.0, 1), |v| (v.create, v.version + 1));
                owner.install_put(at, key, b"value", create, number, LeaseId::NONE);
                batches[writer].put(at, key, b"value", (create, number), LeaseId::NONE);
            }
        }
        if random.percent(5) {
            for (draft, batch) in drafts.iter_mut().zip(&mut batches) {
                draft.install_all(std::mem::take(batch));
            }
        }
    }
    for (draft, batch) in drafts.iter_mut().zip(batches) {
        draft.install_all(batch);
    }

    let wrong = |draft: usize, store: &Store| {
        let others = owners.iter().filter(|(_, owner)| *owner != draft);
        others.into_iter().any(|(range, _)| store.first_key(range).is_some())
    };
    let moves = drafts.iter().enumerate().any(|(number, draft)| wrong(number, draft));
    let numbered = owners.iter().map(|(range, owner)| (range.clone(), *owner as u16));
    let numbered: Vec<_> = numbered.collect();
    let mut dealt: Vec<_> = drafts.iter_mut().collect();
    assert_eq!(Store::deal(&mut dealt, &numbered).contains(&true), moves, "seed {seed}");
    assert_eq!(Store::deal(&mut dealt, &numbered), [false; STORES], "seed {seed}");

    for (number, (mut draft, mut expected)) in drafts.into_iter().zip(expected).enumerate() {
        let own: Vec<_> = owners.iter().filter(|(_, owner)| *owner == number).cloned().collect();
        for store in [&mut draft, &mut expected] {
            store.own(own.iter().map(|(range, _)| range.clone()).collect());
        }
        let compare = |draft: &Store, expected: &Store| {
            let all = KeyRange::all();
            for at in [None, Some(last - 3), Some(last - writes as i64 / 2), Some(BASE_AT)] {
                let name = format!("seed {seed}, store {number} at {at:?}");
                assert_eq!(scan(draft, &all, at), scan(expected, &all, at), "{name}");
            }
            let of = |store: &Store| {
                let story = history(store, &all, 1, last);
                let counts = (store.count(&all, None), store.versions(), store.bytes_in_use());
                (story, counts, store.median_key(&all))
            };
            assert_eq!(of(draft), of(expected), "seed {seed}, store {number}");
            assert!(draft.highest() >= expected.highest());
        };
        compare(&draft, &expected);
        let mid = BASE_AT + writes as i64 / 2;
        for store in [&mut draft, &mut expected] {
            collect_all(store, mid);
        }
        compare(&draft, &expected);
        // All that was added is taken away again.
        for store in [&mut draft, &mut expected] {
            store.drop_above(Revision(mid));
        }
        compare(&draft, &expected);
    }
}

#[test]
fn whose_keys_are_dealt_has_what_it_would_have_had() {
    for seed in 0..200 {
        run(seed, [3, 20][seed as usize % 2], 60);
    }
    for seed in 200..204 {
        run(seed, 2_000, 3_000);
    }
}
