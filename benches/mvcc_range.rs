//! What does a read cost the store? One key, a thousand, ten of all, and counts, over a million keys.

use std::hint::black_box;

use criterion::Criterion;

use cored::keys::{KeyRange, LeaseId, Revision};
use cored::mvcc::Store;

const KEYS: u64 = 1_000_000;

/// Spread over the whole key space: neighbours in time are no neighbours in the index.
fn key(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

fn store() -> Store {
    let mut store = Store::new();
    for n in 0..KEYS {
        store.put((Revision(n as i64 + 2), 0), &key(n), &[7; 256], LeaseId::NONE);
    }
    store
}

/// Shows `limit` keys of all from `start` on and adds up what it saw.
fn scan(store: &Store, start: &[u8], at: Revision, limit: usize) -> usize {
    let range = KeyRange { start: start.to_vec(), end: None };
    let (mut keys, mut bytes) = (0, 0);
    store.scan(&range, Some(at), &mut |version| {
        keys += 1;
        bytes += version.value.len();
        keys < limit
    });
    bytes
}

fn reads(c: &mut Criterion) {
    let store = store();
    let newest = store.highest();
    // As under load: some versions are installed and not visible yet.
    let visible = Revision(newest.0 - 100);
    let mut group = c.benchmark_group("mvcc_range");
    let mut next = 0;
    let mut key_of_next = || {
        next = (next + 7_919) % KEYS;
        key(next)
    };
    group.bench_function("get", |b| {
        b.iter(|| {
            let version = store.get_at(&key_of_next(), visible);
            black_box(version.map(|version| version.value.len()))
        });
    });
    group.bench_function("get_absent", |b| {
        b.iter(|| {
            let mut key = key_of_next();
            key[7] ^= 1;
            black_box(store.get_at(&key, visible).is_none())
        });
    });
    group.bench_function("scan_10", |b| {
        b.iter(|| black_box(scan(&store, &key_of_next(), visible, 10)));
    });
    group.bench_function("scan_1000", |b| {
        b.iter(|| black_box(scan(&store, &key_of_next(), visible, 1_000)));
    });
    group.bench_function("count_newest", |b| {
        b.iter(|| {
            let range = KeyRange { start: key_of_next().to_vec(), end: None };
            black_box(store.count(&range, Some(newest)))
        });
    });
    group.bench_function("count_100_above", |b| {
        b.iter(|| {
            let range = KeyRange { start: key_of_next().to_vec(), end: None };
            black_box(store.count(&range, Some(visible)))
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    reads(&mut criterion);
    criterion.final_summary();
}
