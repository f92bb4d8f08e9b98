//! Histograms with fixed bounds, written by one core. The bounds of the series that etcd has are
//! etcd's, since alerts and dashboards name them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds in nanoseconds, ascending; everything above the last counts as infinite.
pub type Buckets = [u64];

const MS: u64 = 1_000_000;

/// 1 ms doubled 13 times: etcd's disk series.
pub const DISK: [u64; 14] = doubled(MS);

/// 1 µs doubled 23 times, up to 8.4 s: for an engine that needs less than a millisecond.
pub const FINE: [u64; 24] = doubled(1000);

/// The default bounds of Prometheus clients: `grpc_server_handling_seconds`.
pub const GRPC: [u64; 11] = [
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    1000 * MS,
    2500 * MS,
    5000 * MS,
    10_000 * MS,
];

const fn doubled<const N: usize>(first: u64) -> [u64; N] {
    let mut bounds = [first; N];
    let mut at = 1;
    while at < N {
        bounds[at] = bounds[at - 1] * 2;
        at += 1;
    }
    bounds
}

/// How often durations fell into each bucket, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Buckets,
    /// One more than there are bounds; not cumulative.
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: &'static Buckets) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum_ns: AtomicU64::new(0) }
    }

    /// Counts one duration. Only one core may call it.
    pub fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = self.bounds.partition_point(|bound| *bound < ns);
        let count = &self.counts[at];
        count.store(count.load(Relaxed) + 1, Relaxed);
        self.sum_ns.store(self.sum_ns.load(Relaxed).wrapping_add(ns), Relaxed);
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// The bounds, the cumulative counts (the last one is the whole count) and the sum in seconds
    /// of several histograms of one kind. `None` if there are none.
    pub(super) fn sum<'a>(parts: impl IntoIterator<Item = &'a Histogram>) -> Option<Summed> {
        let mut parts = parts.into_iter().peekable();
        let bounds = parts.peek()?.bounds;
        let mut counts = vec![0; bounds.len() + 1];
        let mut sum_ns = 0_u64;
        for part in parts {
            for (sum, count) in counts.iter_mut().zip(&part.counts) {
                *sum += count.load(Relaxed);
            }
            sum_ns = sum_ns.wrapping_add(part.sum_ns.load(Relaxed));
        }
        let mut below = 0;
        for count in &mut counts {
            below += *count;
            *count = below;
        }
        Some(Summed { bounds, counts, sum_s: sum_ns as f64 / 1e9 })
    }
}

/// Several histograms as one.
#[derive(Debug, PartialEq)]
pub(super) struct Summed {
    pub bounds: &'static Buckets,
    pub counts: Vec<u64>,
    pub sum_s: f64,
}
