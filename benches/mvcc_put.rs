//! What does a put cost the store? New keys and overwritten ones, in a store of a million keys.

use criterion::{BatchSize, Criterion};

use cored::keys::{LeaseId, Revision};
use cored::mvcc::Store;

const KEYS: u64 = 1_000_000;
/// Puts a sample, so that the store stays about as large as its name says.
const PUTS: u64 = 1_000;

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

fn puts(c: &mut Criterion) {
    let mut store = store();
    let mut revision = store.highest();
    let mut group = c.benchmark_group("mvcc_put");
    group.throughput(criterion::Throughput::Elements(PUTS));
    let mut next = 0;
    group.bench_function("overwrite", |b| {
        b.iter(|| {
            for _ in 0..PUTS {
                revision = revision.next();
                // A step that shares no factor with the number of keys reaches all of them.
                next = (next + 7_919) % KEYS;
                store.put((revision, 0), &key(next), &[8; 256], LeaseId::NONE);
            }
            // As a server that compacts: the history does not grow without end.
            store.compact(revision);
            while store.collect(revision, 4_096) {}
        });
    });
    let mut next = KEYS;
    group.bench_function("new_key_taken_back", |b| {
        b.iter_batched(
            || (),
            |()| {
                let kept = revision;
                let mut at = revision;
                for _ in 0..PUTS {
                    at = at.next();
                    next += 1;
                    store.put((at, 0), &key(next), &[9; 256], LeaseId::NONE);
                }
                store.drop_above(kept);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    puts(&mut criterion);
    criterion.final_summary();
}
