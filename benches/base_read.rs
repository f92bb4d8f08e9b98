//! What does a read cost the base? One key, a thousand, counts, the first touch of a block and opening, over
//! a million keys whose blocks lie in memory, as the kernel's cache would have them.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion};

use cored::keys::{KeyRange, LeaseId, Revision};
use cored::mvcc::base::{Base, BlockRef, Mapped};
use cored::mvcc::build::{Memory, image};
use cored::mvcc::{Store, VersionRef};

const KEYS: u64 = 1_000_000;

/// Spread over the whole key space: neighbours in time are no neighbours in the image.
fn key(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

fn blocks() -> (Vec<BlockRef>, Mapped) {
    let mut store = Store::new();
    for n in 0..KEYS {
        store.put((Revision(n as i64 + 2), 0), &key(n), &[7; 256], LeaseId::NONE);
    }
    store.freeze(store.highest());
    let layer = store.frozen().expect("just frozen");
    let mut memory = Memory { file: 1, bytes: Vec::with_capacity(300 << 20) };
    let Ok(rows) = image(&mut memory, None, &[&**layer], Revision::ZERO) else {
        unreachable!("memory keeps what it gets, and there is no older base")
    };
    let logical: u64 = rows.iter().map(|row| row.bytes).sum();
    println!("{} blocks, {} bytes for {logical}", rows.len(), memory.bytes.len());
    (rows, Arc::new(memory.bytes))
}

fn open(rows: &[BlockRef], file: &Mapped) -> Base {
    let files = BTreeMap::from([(1, file.clone())]);
    Base::open(Revision(KEYS as i64 + 2), rows.to_vec(), files).expect("rows in order")
}

/// Shows `limit` keys from `start` on and adds up what it saw.
fn scan(base: &Base, start: &[u8], at: Revision, limit: usize) -> usize {
    let mut cursor = base.cursor(&KeyRange { start: start.to_vec(), end: None });
    let (mut keys, mut bytes) = (0, 0);
    while keys < limit
        && let Some(key) = cursor.peek().expect("whole")
    {
        bytes += key.at(at).map_or(0, |version: VersionRef<'_>| version.value.len());
        keys += 1;
        cursor.advance();
    }
    bytes
}

fn reads(c: &mut Criterion) {
    let (rows, file) = blocks();
    let base = open(&rows, &file);
    base.touch(&KeyRange::all()).expect("whole");
    let at = base.at();
    let mut group = c.benchmark_group("base_read");
    let mut next = 0;
    let mut key_of_next = || {
        next = (next + 7_919) % KEYS;
        key(next)
    };
    group.bench_function("newest", |b| {
        b.iter(|| {
            let version = base.newest(&key_of_next()).expect("whole");
            black_box(version.map(|version| (version.value.len(), version.value.first().copied())))
        });
    });
    group.bench_function("get_at", |b| {
        b.iter(|| {
            let version = base.get_at(&key_of_next(), at).expect("whole");
            black_box(version.map(|version| (version.value.len(), version.value.first().copied())))
        });
    });
    group.bench_function("newest_absent", |b| {
        b.iter(|| {
            let mut key = key_of_next();
            key[7] ^= 1;
            black_box(base.newest(&key).expect("whole").is_none())
        });
    });
    group.bench_function("scan_10", |b| {
        b.iter(|| black_box(scan(&base, &key_of_next(), at, 10)));
    });
    group.bench_function("scan_1000", |b| {
        b.iter(|| black_box(scan(&base, &key_of_next(), at, 1_000)));
    });
    group.bench_function("rank", |b| {
        b.iter(|| black_box(base.rank(&key_of_next()).expect("whole")));
    });
    group.bench_function("nth_live", |b| {
        b.iter(|| {
            next_rank(&mut key_of_next, |rank| {
                black_box(base.nth_live(rank).expect("whole")).is_some()
            })
        });
    });
    group.bench_function("history_1000", |b| {
        b.iter(|| {
            let from = Revision(i64::from(key_of_next()[0]) * 3_000 + 2);
            let history = base.history(&[KeyRange::all()], from, Revision(from.0 + 999));
            black_box(history.map(|version| version.expect("whole").value.len()).sum::<usize>())
        });
    });
    group.bench_function("check_block", |b| {
        let mut number = 0;
        b.iter(|| {
            number = (number + 7) % base.blocks().len();
            base.check_block(number).expect("whole");
        });
    });
    group.bench_function("open", |b| {
        let files = || (rows.clone(), BTreeMap::from([(1, file.clone())]));
        b.iter_batched(files, |(rows, files)| Base::open(at, rows, files), BatchSize::LargeInput);
    });
    group.finish();
}

fn next_rank(key_of_next: &mut impl FnMut() -> [u8; 8], read: impl Fn(u64) -> bool) -> bool {
    read(u64::from_be_bytes(key_of_next()) % KEYS)
}

fn builds(c: &mut Criterion) {
    let mut store = Store::new();
    for n in 0..KEYS / 10 {
        store.put((Revision(n as i64 + 2), 0), &key(n), &[7; 256], LeaseId::NONE);
    }
    store.freeze(store.highest());
    let layer = store.frozen().expect("just frozen");
    let mut group = c.benchmark_group("base_build");
    group.sample_size(10);
    group.bench_function("100000_keys", |b| {
        let memory = || Memory { file: 1, bytes: Vec::with_capacity(40 << 20) };
        b.iter_batched_ref(
            memory,
            |memory| image(memory, None, &[&**layer], Revision::ZERO).map(|rows| rows.len()).ok(),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    reads(&mut criterion);
    builds(&mut criterion);
    criterion.final_summary();
}
