//! When to compact without being asked: etcd's two schedules. It is told the time and the current
//! revision, says what to compact, and is told what came of it; it compacts nothing itself.

use std::collections::VecDeque;

use crate::config::Retention;
use crate::keys::Revision;

/// The revision schedule looks so often.
const REVISIONS_INTERVAL_MS: u64 = 5 * 60 * 1000;

/// A longer period does not make the periodic schedule compact more seldom.
const PERIOD_INTERVAL_MAX_MS: u64 = 60 * 60 * 1000;

/// Samples of the current revision in one interval.
const SAMPLES: u64 = 10;

/// A schedule.
#[derive(Debug)]
pub(super) struct AutoCompact {
    retention: Retention,
    /// When it looks next; `None` before the first time.
    due_ms: Option<u64>,
    running: bool,
    /// The last revision that it compacted.
    last: Revision,
    /// Periodic only: when it last compacted, or began.
    last_ms: u64,
    /// Periodic only: the first compaction waits for a whole period, later ones an interval.
    wait_ms: u64,
    /// Periodic only: the current revision as it was, oldest first; over one period when full.
    samples: VecDeque<Revision>,
}

impl AutoCompact {
    /// A schedule that begins when it is asked first.
    pub(super) fn new(retention: Retention) -> AutoCompact {
        let wait_ms = match retention {
            Retention::Period { ms } => ms,
            Retention::Revisions(_) => 0,
        };
        AutoCompact {
            retention,
            due_ms: None,
            running: false,
            last: Revision::ZERO,
            last_ms: 0,
            wait_ms,
            samples: VecDeque::new(),
        }
    }

    /// What it goes by.
    pub(super) fn retention(&self) -> Retention {
        self.retention
    }

    /// The revision to compact now, if there is one. [`AutoCompact::ended`] is owed then.
    pub(super) fn due(&mut self, now_ms: u64, current: Revision) -> Option<Revision> {
        if self.running {
            return None;
        }
        let Some(due_ms) = self.due_ms else {
            self.last_ms = now_ms;
            self.look_again(now_ms, current);
            return None;
        };
        if now_ms < due_ms {
            return None;
        }
        let at = match self.retention {
            Retention::Period { .. } => {
                let oldest = self.samples.front().copied();
                oldest.filter(|_| now_ms - self.last_ms >= self.wait_ms)
            }
            Retention::Revisions(kept) => {
                Some(Revision(current.0.saturating_sub(kept))).filter(|at| *at > Revision::ZERO)
            }
        };
        match at.filter(|at| *at != self.last) {
            Some(at) => {
                self.wait_ms = self.wait_ms.min(PERIOD_INTERVAL_MAX_MS);
                self.running = true;
                Some(at)
            }
            None => {
                self.look_again(now_ms, current);
                None
            }
        }
    }

    /// What it wanted compacted is compacted, by whomever, or could not be.
    pub(super) fn ended(&mut self, at: Revision, done: bool, now_ms: u64, current: Revision) {
        self.running = false;
        if done {
            (self.last, self.last_ms) = (at, now_ms);
        }
        self.look_again(now_ms, current);
    }

    /// Milliseconds between two looks: how soon a compaction that failed is tried again.
    pub(super) fn interval_ms(&self) -> u64 {
        match self.retention {
            Retention::Period { ms } => (ms.min(PERIOD_INTERVAL_MAX_MS) / SAMPLES).max(1),
            Retention::Revisions(_) => REVISIONS_INTERVAL_MS,
        }
    }

    fn look_again(&mut self, now_ms: u64, current: Revision) {
        let interval_ms = self.interval_ms();
        // From now and not from when it was due: samples must never be closer than an interval, or
        // the oldest would be younger than the period.
        self.due_ms = Some(now_ms + interval_ms);
        if let Retention::Period { ms } = self.retention {
            self.samples.push_back(current);
            if self.samples.len() as u64 > ms / interval_ms + 1 {
                self.samples.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_MS: u64 = 1000;
    const MINUTE_MS: u64 = 60 * SECOND_MS;
    const HOUR_MS: u64 = 60 * MINUTE_MS;

    /// Asks every `step_ms` while the revision grows by one a step and every compaction succeeds;
    /// when it compacted what.
    fn run(schedule: &mut AutoCompact, step_ms: u64, steps: u64) -> Vec<(u64, i64)> {
        let mut compacted = Vec::new();
        for step in 0..=steps {
            let (now_ms, current) = (step * step_ms, Revision(1 + step as i64));
            if let Some(at) = schedule.due(now_ms, current) {
                assert_eq!(schedule.due(now_ms, current), None, "one at a time");
                schedule.ended(at, true, now_ms, current);
                compacted.push((now_ms, at.0));
            }
        }
        compacted
    }

    #[test]
    fn a_short_period_is_kept_and_is_the_interval_too() {
        let period = Retention::Period { ms: 10 * SECOND_MS };
        let compacted = run(&mut AutoCompact::new(period), SECOND_MS, 40);
        // After one period what was current at its begin; later, as in etcd, one sample older.
        let seconds = |s: u64| s * SECOND_MS;
        let expected = [(10, 1), (20, 10), (30, 20), (40, 30)].map(|(s, at)| (seconds(s), at));
        assert_eq!(compacted, expected);
    }

    #[test]
    fn a_long_period_compacts_every_hour_after_the_first() {
        let period = Retention::Period { ms: 24 * HOUR_MS };
        let compacted = run(&mut AutoCompact::new(period), 6 * MINUTE_MS, 260);
        let expected = [(24, 1), (25, 10), (26, 20)].map(|(hours, at)| (hours * HOUR_MS, at));
        assert_eq!(compacted, expected);
    }

    #[test]
    fn nothing_new_is_nothing_to_compact() {
        let mut schedule = AutoCompact::new(Retention::Period { ms: 10 * SECOND_MS });
        let mut compacted = Vec::new();
        for step in 0..100 {
            let current = Revision(if step < 45 { 5 } else { 6 });
            if let Some(at) = schedule.due(step * SECOND_MS, current) {
                schedule.ended(at, true, step * SECOND_MS, current);
                compacted.push((step, at.0));
            }
        }
        assert_eq!(compacted, [(10, 5), (56, 6)], "6 has to be ten seconds old");
    }

    #[test]
    fn a_compaction_that_failed_is_tried_again_a_tenth_later() {
        let mut schedule = AutoCompact::new(Retention::Period { ms: 10 * SECOND_MS });
        let mut tried = Vec::new();
        for step in 0..15 {
            let now_ms = step * SECOND_MS;
            if let Some(at) = schedule.due(now_ms, Revision(1 + step as i64)) {
                schedule.ended(at, false, now_ms, Revision(1 + step as i64));
                tried.push((step, at.0));
            }
        }
        assert_eq!(tried, [(10, 1), (11, 1), (12, 2), (13, 3), (14, 4)]);
    }

    #[test]
    fn late_looks_keep_more_history_and_never_less() {
        let mut schedule = AutoCompact::new(Retention::Period { ms: SECOND_MS });
        let mut now_ms = 0;
        for step in 0..200_u64 {
            now_ms += 40 + step % 7 * 60;
            // The revision is the time, so a sample tells its age.
            let current = Revision(now_ms as i64);
            if let Some(at) = schedule.due(now_ms, current) {
                assert!(at.0 as u64 + SECOND_MS <= now_ms, "{at:?} at {now_ms}");
                schedule.ended(at, true, now_ms, current);
            }
        }
    }

    #[test]
    fn the_revision_schedule_keeps_so_many_and_looks_every_five_minutes() {
        let mut schedule = AutoCompact::new(Retention::Revisions(4));
        let compacted = run(&mut schedule, MINUTE_MS, 11);
        assert_eq!(compacted, [(5 * MINUTE_MS, 2), (10 * MINUTE_MS, 7)]);
        assert_eq!(schedule.due(15 * MINUTE_MS, Revision(11)), None, "7 is compacted already");
        let mut young = AutoCompact::new(Retention::Revisions(100));
        assert_eq!(run(&mut young, MINUTE_MS, 60), []);
    }
}
