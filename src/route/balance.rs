//! Where key ranges should live: samples of busy keys, and the next move that makes lanes even
//! (R10). Decides only; moving is done elsewhere. No clock: a report stands for about a second.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RangeMap;
use crate::keys::{KeyRange, LaneId};

/// Keys that one report holds at most.
const SAMPLES_MAX: usize = 256;

/// Keys longer than this are sampled by their first bytes: enough to tell ranges apart.
const SAMPLE_BYTES_MAX: usize = 256;

/// Reports of each lane that count: long enough to see through noise, short enough to follow.
const REPORTS: usize = 8;

/// Operations a second of all lanes together below which nothing is worth moving.
const TOTAL_MIN: f64 = 200.0;

/// How far above the average the busiest lane must be: 20 %.
const IMBALANCE: f64 = 1.2;

/// What a move must take off the busiest of the two lanes, as a part of the average lane.
const GAIN_MIN: f64 = 0.1;

/// Ranges a lane may have before moves must not cut any more of them.
const RANGES_PER_LANE_MAX: usize = 32;

/// Most decisions that are skipped after moves that brought nothing.
const HOLD_MAX: u32 = 64;

/// What one shard's keys are used for, as a bounded sample. Costs a few instructions for most
/// operations; which are sampled depends on nothing but their sequence.
#[derive(Debug)]
pub struct Sampler {
    operations: u64,
    /// Operations until the next sample.
    until_next: u32,
    /// Average distance of samples: doubles whenever the sample is full.
    distance: u32,
    random: u64,
    keys: Vec<Bytes>,
}

impl Default for Sampler {
    fn default() -> Sampler {
        Sampler { operations: 0, until_next: 1, distance: 1, random: 1, keys: Vec::new() }
    }
}

/// What one lane did since its report before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LaneLoad {
    /// Which lane.
    pub lane: LaneId,
    /// How many operations.
    pub operations: u64,
    /// Their keys, or an even sample of them.
    pub keys: Vec<Bytes>,
}

/// A range that should live elsewhere. One lane owns all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Which keys.
    pub range: KeyRange,
    /// Where to.
    pub to: LaneId,
}

impl Sampler {
    /// An operation on `key`, or on a range that begins there.
    #[inline]
    pub fn note(&mut self, key: &[u8]) {
        self.operations += 1;
        self.until_next -= 1;
        if self.until_next == 0 {
            self.sample(key);
        }
    }

    /// What was noted since the last call.
    #[must_use]
    pub fn load(&mut self, lane: LaneId) -> LaneLoad {
        let load = LaneLoad {
            lane,
            operations: std::mem::take(&mut self.operations),
            keys: std::mem::take(&mut self.keys),
        };
        (self.distance, self.until_next) = (1, 1);
        load
    }

    #[cold]
    fn sample(&mut self, key: &[u8]) {
        if self.keys.len() == SAMPLES_MAX {
            let mut keep = false;
            self.keys.retain(|_| {
                keep = !keep;
                keep
            });
            self.distance *= 2;
        }
        self.keys.push(Bytes::copy_from_slice(&key[..key.len().min(SAMPLE_BYTES_MAX)]));
        // Uneven distances: a load that repeats itself must not meet the sampler in step. A linear
        // congruence is even enough, and the same on every run.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let spread = u64::from(2 * self.distance - 1);
        self.until_next = 1 + ((self.random >> 33) % spread) as u32;
    }
}

/// Decides which range moves next, on the core that keeps control state.
#[derive(Debug)]
pub struct Balancer {
    /// Per lane its newest reports.
    reports: Vec<VecDeque<LaneLoad>>,
    /// What was hoped of the last move, until reports show what became of it.
    trial: Option<Trial>,
    /// Moves in a row that brought nothing.
    failures: u32,
    /// Decisions to skip.
    hold: u32,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    /// Lane that was too busy, and the one that was to help.
    from: LaneId,
    to: LaneId,
    /// The share of all load that the busier of the two was expected to have.
    expected: f64,
    /// The share it had.
    before: f64,
    /// Reports per lane still to come before it is judged.
    reports: u32,
}

impl Balancer {
    /// For so many lanes.
    #[must_use]
    pub fn new(lanes: u16) -> Balancer {
        Balancer {
            reports: vec![VecDeque::new(); usize::from(lanes)],
            trial: None,
            failures: 0,
            hold: 0,
        }
    }

    /// What a lane did in the last second.
    pub fn report(&mut self, load: LaneLoad) {
        let Some(reports) = self.reports.get_mut(usize::from(load.lane.0)) else { return };
        if reports.len() == REPORTS {
            reports.pop_front();
        }
        reports.push_back(load);
    }

    /// The next move, if one is worth it. To be called about once a second while no move is under
    /// way, and at once when one has ended.
    pub fn decide(&mut self, map: &RangeMap) -> Option<Move> {
        let _ = map;
        None
    }

    /// The move that was decided last is done.
    pub fn moved(&mut self) {}
}
