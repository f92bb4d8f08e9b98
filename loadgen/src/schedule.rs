//! When operations are due in an open loop, decided before anything is sent, so that a slow server
//! cannot slow down its own examination. Nanoseconds since the start of the load; no clock in here.

use crate::random::Random;

/// How the arrivals of an open loop are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    #[value(name = "uniform")]
    Even,
    /// At random, as from many independent callers; the gaps are exponential.
    Poisson,
}

/// The due times of one thread's share of an open loop, in order, without end.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    rate_per_s: f64,
    offset_ns: f64,
    taken: u64,
    next_ns: u64,
    poisson_ns: f64,
    random: Random,
}

impl Schedule {
    /// `share` of `shares` equal parts of `rate_per_s` operations a second. Even shares interleave: together
    /// they are evenly spaced too.
    #[must_use]
    pub fn new(
        arrivals: Arrivals,
        rate_per_s: f64,
        share: u32,
        shares: u32,
        random: Random,
    ) -> Self {
        let offset_ns = f64::from(share) * 1e9 / rate_per_s;
        let mut schedule = Schedule {
            arrivals,
            rate_per_s: rate_per_s / f64::from(shares),
            offset_ns,
            taken: 0,
            next_ns: 0,
            poisson_ns: 0.0,
            random,
        };
        schedule.advance();
        schedule
    }

    /// When the next operation is due.
    #[must_use]
    pub fn next_due_ns(&self) -> u64 {
        self.next_ns
    }

    /// Takes the next operation if it is due at `now_ns`, with the time at which it was due.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        if self.next_ns > now_ns {
            return None;
        }
        let due_ns = self.next_ns;
        self.taken += 1;
        self.advance();
        Some(due_ns)
    }

    fn advance(&mut self) {
        self.next_ns = match self.arrivals {
            // From the count and not from the time before it, so that rounding never adds up.
            Arrivals::Even => (self.offset_ns + self.taken as f64 * 1e9 / self.rate_per_s) as u64,
            Arrivals::Poisson => {
                self.poisson_ns += -(1.0 - self.random.unit()).ln() * 1e9 / self.rate_per_s;
                self.poisson_ns as u64
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(mut schedule: Schedule, until_ns: u64) -> Vec<u64> {
        std::iter::from_fn(|| schedule.take(until_ns)).collect()
    }

    #[test]
    fn even_arrivals_do_not_drift() {
        let schedule = Schedule::new(Arrivals::Even, 3.0, 0, 1, Random::new(0, 0));
        let dues = dues(schedule, 1_000_000 * 1_000_000_000);
        assert_eq!(dues.len(), 3_000_001);
        assert_eq!(dues[3_000_000], 1_000_000 * 1_000_000_000);
    }

    #[test]
    fn shares_interleave_to_the_whole_rate() {
        let mut all: Vec<u64> = (0..4)
            .flat_map(|share| {
                let schedule = Schedule::new(Arrivals::Even, 1000.0, share, 4, Random::new(0, 0));
                dues(schedule, 999_999_999)
            })
            .collect();
        all.sort_unstable();
        let expected: Vec<u64> = (0..1000).map(|i| i * 1_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_uneven_gaps() {
        let schedule = Schedule::new(Arrivals::Poisson, 10_000.0, 0, 1, Random::new(5, 0));
        let dues = dues(schedule, 10_000_000_000);
        assert!((98_500..101_500).contains(&dues.len()), "{}", dues.len());
        let short = dues.windows(2).filter(|w| w[1] - w[0] < 50_000).count();
        // A gap is below half the mean with probability 1 − e^−0.5.
        let share = short as f64 / dues.len() as f64;
        assert!((0.38..0.41).contains(&share), "{share}");
    }

    /// Coordinated omission: a server that answers in 1 ms but stops for a second once must not look like
    /// one that was slow for a single request. Everything due during the stop has waited.
    #[test]
    fn a_stop_of_the_server_is_paid_by_everything_that_was_due_meanwhile() {
        let mut schedule = Schedule::new(Arrivals::Even, 1000.0, 0, 1, Random::new(0, 0));
        let (mut now_ns, mut waited_over_100_ms, mut service_over_100_ms) = (0_u64, 0, 0);
        while now_ns < 5_000_000_000 {
            let Some(due_ns) = schedule.take(now_ns) else {
                now_ns = schedule.next_due_ns();
                continue;
            };
            let begun_ns = now_ns;
            // One request at a time; it takes 0.5 ms, but the one at 2 s takes a second.
            now_ns += if begun_ns == 2_000_000_000 { 1_000_000_000 } else { 500_000 };
            service_over_100_ms += u32::from(now_ns - begun_ns > 100_000_000);
            waited_over_100_ms += u32::from(now_ns - due_ns > 100_000_000);
        }
        assert_eq!(service_over_100_ms, 1, "the closed view: one slow request");
        // 1,000 were due in the stop; the backlog shrinks at 1,000 a second until 100 are left.
        assert!((1_750..=1_850).contains(&waited_over_100_ms), "{waited_over_100_ms}");
    }
}
