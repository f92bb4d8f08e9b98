//! Where key ranges should live: samples of busy keys, and the next move (R10). When there is much to do
//! lanes become even; when there is little, and the clients of one core ask for nearly all of it, what they
//! use gathers there, since then a hop between cores costs more than it could relieve. Decides only;
//! moving is done elsewhere. No clock: a report stands for about a second.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RangeMap;
use crate::keys::{CoreId, KeyRange, LaneId};

/// Keys that one report holds at most.
const SAMPLES_MAX: usize = 128;

/// Keys longer than this are sampled by their first bytes: enough to tell ranges apart.
const SAMPLE_BYTES_MAX: usize = 256;

/// Reports of each lane that count: long enough to see through noise, short enough to follow.
const REPORTS: usize = 8;

/// Operations a second of all lanes together below which nothing is made even: one core answers
/// many times as many.
const TOTAL_MIN: f64 = 8000.0;

/// Seconds that must have been calm, each with less than that, before ranges gather.
const CALM: usize = 3;

/// Operations in those seconds below which it does not matter where ranges are.
const CALM_MIN: f64 = 100.0;

/// The part of all requests that the clients of one core must ask for.
const HOME_SHARE: f64 = 0.9;

/// The part of all operations that a range must have to be worth gathering.
const GATHER_SHARE: f64 = 0.02;

/// Keys that are read at once and cost about as much as one more operation.
const KEYS_PER_OPERATION: usize = 16;

/// How far above the average a lane must be to give something away: 20 %.
const IMBALANCE: f64 = 1.2;

/// What a move must take off the busier of its two lanes, as a part of the average lane.
const GAIN_MIN: f64 = 0.1;

/// The same for a move that leaves no more ranges than there were: such moves come to an end.
const WHOLE_GAIN_MIN: f64 = 0.02;

/// How much less such a move may bring than one that cuts, and still be preferred.
const WHOLE_BONUS: f64 = 0.05;

/// Ranges there may be for each lane before moves must not cut any more of them.
const RANGES_PER_LANE_MAX: usize = 32;

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

    /// The operation that was noted last has read so many keys.
    #[inline]
    pub fn read(&mut self, keys: usize) {
        self.operations += (keys / KEYS_PER_OPERATION) as u64;
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

/// Load in each of the last seconds, the newest first.
type Seconds = [f64; REPORTS];

/// Decides which range moves next, on the core that keeps control state.
///
/// Samples are attributed to lanes by the map of now, so what is known stays true after a move and
/// the next one can follow at once. A move is judged second by second: splitting a load that walks
/// through the keys (as ascending inserts do) would look even over all seconds and help in none.
#[derive(Debug)]
pub struct Balancer {
    /// Per lane its newest reports, the newest first.
    reports: Vec<VecDeque<LaneLoad>>,
    /// Per core how many requests its clients made in the last seconds, the newest first.
    asked: Vec<VecDeque<u64>>,
}

impl Balancer {
    /// For so many lanes on so many cores: lane k is on core k modulo their number.
    #[must_use]
    pub fn new(lanes: u16, cores: u16) -> Balancer {
        Balancer {
            reports: vec![VecDeque::new(); usize::from(lanes)],
            asked: vec![VecDeque::new(); usize::from(cores)],
        }
    }

    /// How many requests the clients of a core made in the last second.
    pub fn asked(&mut self, core: CoreId, requests: u64) {
        let Some(asked) = self.asked.get_mut(usize::from(core.0)) else { return };
        asked.truncate(CALM - 1);
        asked.push_front(requests);
    }

    /// What a lane did in the last second.
    pub fn report(&mut self, load: LaneLoad) {
        let Some(reports) = self.reports.get_mut(usize::from(load.lane.0)) else { return };
        reports.truncate(REPORTS - 1);
        reports.push_front(load);
    }

    /// The next move, if one is worth it. To be called about once a second while no move is under
    /// way, and at once when one has ended.
    #[must_use]
    pub fn decide(&self, map: &RangeMap) -> Option<Move> {
        let (loads, mut samples) = self.attribute(map);
        if is_calm(&loads)
            && let Some(home) = self.home()
        {
            return self.gather(map, &samples, home);
        }
        let seconds = self.reports.iter().map(VecDeque::len).max().unwrap_or(0).max(1);
        let averages: Vec<f64> =
            loads.iter().map(|load| load.iter().sum::<f64>() / seconds as f64).collect();
        let total: f64 = averages.iter().sum();
        if total < TOTAL_MIN {
            return None;
        }
        let average = total / averages.len() as f64;
        let may_cut = map.starts().len() < RANGES_PER_LANE_MAX * averages.len();
        let mut lanes: Vec<usize> = (0..averages.len()).collect();
        // Stable: of equals the first, whatever the numbers.
        lanes.sort_by(|a, b| averages[*b].total_cmp(&averages[*a]));
        let to = *lanes.last()?;
        let busy = lanes.into_iter().take_while(|lane| averages[*lane] > IMBALANCE * average);
        let mut moves = busy.filter(|from| *from != to).filter_map(|from| {
            let ask = Ask {
                from: LaneId(from as u16),
                to: LaneId(to as u16),
                pair: (&loads[from], &loads[to]),
                seconds,
                average,
                may_cut,
            };
            let range = ask.best_cut(map, std::mem::take(&mut samples[from]))?;
            Some(Move { range, to: ask.to })
        });
        moves.next()
    }

    /// The core whose clients ask for nearly everything, if there is one that has a lane.
    fn home(&self) -> Option<CoreId> {
        let asked = |core: &VecDeque<u64>| core.iter().sum::<u64>();
        let total: u64 = self.asked.iter().map(asked).sum();
        let core =
            self.asked.iter().position(|core| asked(core) as f64 > HOME_SHARE * total as f64)?;
        (core < self.reports.len()).then_some(CoreId(core as u16))
    }

    /// The busiest range that does not live on core `home`, if it is worth moving there.
    fn gather(&self, map: &RangeMap, samples: &[Vec<Sample<'_>>], home: CoreId) -> Option<Move> {
        let recent = |sample: &&Sample<'_>| sample.second < CALM;
        let weight = |sample: &Sample<'_>| sample.weight;
        let total: f64 = samples.iter().flatten().filter(recent).map(weight).sum();
        let mut best: Option<(f64, KeyRange)> = None;
        for (lane, samples) in samples.iter().enumerate() {
            if lane % self.asked.len() == usize::from(home.0) {
                continue;
            }
            for range in map.of_lane(LaneId(lane as u16)) {
                let inside = samples.iter().filter(recent).filter(|s| range.contains(s.key));
                let load: f64 = inside.map(weight).sum();
                if load >= GATHER_SHARE * total
                    && best.as_ref().is_none_or(|(most, _)| load > *most)
                {
                    best = Some((load, range));
                }
            }
        }
        // The first lane of a core has its number.
        best.map(|(_, range)| Move { range, to: LaneId(home.0) })
    }

    /// Whose load it would be by `map`: per lane its load in each second, and its samples.
    fn attribute(&self, map: &RangeMap) -> (Vec<Seconds>, Vec<Vec<Sample<'_>>>) {
        let mut loads = vec![[0.0; REPORTS]; self.reports.len()];
        let mut samples = vec![Vec::new(); self.reports.len()];
        for reports in &self.reports {
            for (second, report) in reports.iter().enumerate() {
                let weight = report.operations as f64 / report.keys.len().max(1) as f64;
                for key in &report.keys {
                    let lane = usize::from(map.lane_of(key).0);
                    if lane < loads.len() {
                        loads[lane][second] += weight;
                        samples[lane].push(Sample { key, second, weight });
                    }
                }
            }
        }
        (loads, samples)
    }
}

/// Whether every one of the last seconds had a little to do.
fn is_calm(loads: &[Seconds]) -> bool {
    (0..CALM).all(|second| {
        let total: f64 = loads.iter().map(|load| load[second]).sum();
        (CALM_MIN..TOTAL_MIN).contains(&total)
    })
}

/// One sampled key and how many operations of which second it stands for.
#[derive(Clone, Copy)]
struct Sample<'a> {
    key: &'a Bytes,
    second: usize,
    weight: f64,
}

/// Which part of one lane's load should another get?
struct Ask<'a> {
    from: LaneId,
    to: LaneId,
    /// Their loads.
    pair: (&'a Seconds, &'a Seconds),
    /// How many seconds are known.
    seconds: usize,
    /// The average lane's load.
    average: f64,
    /// Whether a range may be cut in two.
    may_cut: bool,
}

impl Ask<'_> {
    /// The best move, if one is worth it.
    fn best_cut(&self, map: &RangeMap, mut samples: Vec<Sample<'_>>) -> Option<KeyRange> {
        samples.sort_by(|a, b| a.key.cmp(b.key));
        let mut best: Option<(f64, KeyRange)> = None;
        let mut offer = |moving: &Seconds, cuts: bool, range: &dyn Fn() -> KeyRange| {
            let gain = gain(self.pair, moving, self.seconds) / self.average;
            let (least, bonus) = if cuts { (GAIN_MIN, 0.0) } else { (WHOLE_GAIN_MIN, WHOLE_BONUS) };
            if gain >= least
                && (self.may_cut || !cuts)
                && best.as_ref().is_none_or(|(most, _)| gain + bonus > *most)
            {
                best = Some((gain + bonus, range()));
            }
        };
        for slot in map.of_lane(self.from) {
            let first = samples.partition_point(|sample| sample.key.as_ref() < &slot.start[..]);
            let len = samples[first..].partition_point(|sample| slot.contains(sample.key));
            let inside = &samples[first..first + len];
            let (joins_left, joins_right) = neighbours(map, &slot, self.to);
            let mut whole = [0.0; REPORTS];
            inside.iter().for_each(|sample| whole[sample.second] += sample.weight);
            offer(&whole, false, &|| slot.clone());
            let mut left = [0.0; REPORTS];
            for (at, sample) in inside.iter().enumerate() {
                if at > 0 && inside[at - 1].key != sample.key {
                    let key = || sample.key.to_vec();
                    let right = std::array::from_fn(|second| whole[second] - left[second]);
                    offer(&left, !joins_left, &|| KeyRange {
                        start: slot.start.clone(),
                        end: Some(key()),
                    });
                    offer(&right, !joins_right, &|| KeyRange {
                        start: key(),
                        end: slot.end.clone(),
                    });
                }
                left[sample.second] += sample.weight;
            }
        }
        best.map(|(_, range)| range)
    }
}

/// How much less the busier of two lanes has to do when `moving` goes from the first to the second:
/// what at least half of the seconds gain.
fn gain(pair: (&Seconds, &Seconds), moving: &Seconds, seconds: usize) -> f64 {
    let mut gains: Seconds = std::array::from_fn(|second| {
        let (from, to, moving) = (pair.0[second], pair.1[second], moving[second]);
        from.max(to) - (from - moving).max(to + moving)
    });
    let gains = &mut gains[..seconds];
    gains.sort_by(f64::total_cmp);
    gains[(seconds - 1) / 2]
}

/// Whether `lane` owns what lies just before `slot`, and just after it.
fn neighbours(map: &RangeMap, slot: &KeyRange, lane: LaneId) -> (bool, bool) {
    let starts = map.starts();
    let at = starts.partition_point(|(start, _)| start.as_ref() < &slot.start[..]);
    let before = at.checked_sub(1).is_some_and(|before| starts[before].1 == lane);
    let after = starts.get(at + 1).is_some_and(|(_, owner)| *owner == lane);
    (before, after)
}

#[cfg(test)]
mod tests;
