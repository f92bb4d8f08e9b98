//! Keeps the executors awake. glommio can park with runnable work when its preempt timer fires at
//! the wrong moment (glommio/glommio#53), and then sleeps until unrelated I/O arrives. With a preempt
//! timer of an hour that is rare but not impossible, for instance after the process was stopped, so
//! a plain thread looks at each core's pulse and wakes a core whose pulse is late from outside: a
//! waker of another thread always reaches a parked executor, a timer of its own need not.
//! It knows no engine: only who beats, and who has something waiting.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock::Clock;

/// How often a core beats at least: its tick.
pub(super) const BEAT_MS: u64 = 100;

/// How often the watchdog looks.
const LOOK_MS: u64 = 20;

/// A beat later than this is late. Half a tick of grace, since timers are never early.
const LATE_MS: u64 = BEAT_MS + BEAT_MS / 2;

/// When the watchdog itself slept this much too long, the whole process stood still: it was stopped,
/// or its virtual machine was.
const STILL_MS: u64 = 60;

/// For so many looks after that every core is kicked, however it looks. This is when executors are
/// most likely to park with work to do, a beat may have come just before they did, and the next one
/// would be late only much later. A kick that was not needed costs a turn.
const LOOKS_AFTER: u32 = 10;

/// At most one line in the log in this time; kicks are counted all the same.
const QUIET_MS: u64 = 1000;

/// The sign of life of one core.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Pulse {
    turns: AtomicU64,
    beat_ms: AtomicU64,
    /// The drive loop of the core; none before it began and after it ended.
    drive: Mutex<Option<Waker>>,
    kicks: AtomicU64,
}

impl Pulse {
    /// One more turn. Only the core itself calls it.
    pub(super) fn beat(&self, now_ms: u64) {
        self.turns.store(self.turns.load(Relaxed) + 1, Relaxed);
        self.beat_ms.store(now_ms, Relaxed);
    }

    /// From now on `drive` is woken when beats are late; `None` ends it.
    pub(super) fn watch(&self, drive: Option<Waker>, now_ms: u64) {
        self.beat_ms.store(now_ms, Relaxed);
        *self.drive.lock().unwrap_or_else(PoisonError::into_inner) = drive;
    }

    /// How often this core was woken from outside.
    pub(super) fn kicks(&self) -> u64 {
        self.kicks.load(Relaxed)
    }

    fn kick(&self) -> bool {
        let nudged = self.nudge();
        if nudged {
            self.kicks.fetch_add(1, Relaxed);
        }
        nudged
    }

    /// Wakes the core as a kick does, without a reason that counts.
    fn nudge(&self) -> bool {
        let drive = self.drive.lock().unwrap_or_else(PoisonError::into_inner);
        drive.as_ref().map(Waker::wake_by_ref).is_some()
    }
}

/// Whether the process stood still a moment ago.
#[derive(Default)]
struct Still {
    looked_ms: Option<u64>,
    looks_left: u32,
}

impl Still {
    fn look(&mut self, now_ms: u64) -> bool {
        let slept_ms = now_ms - self.looked_ms.replace(now_ms).unwrap_or(now_ms);
        if slept_ms > LOOK_MS + STILL_MS {
            self.looks_left = LOOKS_AFTER;
        }
        let after = self.looks_left > 0;
        self.looks_left = self.looks_left.saturating_sub(1);
        after
    }
}

/// What the watchdog remembers of a core between two looks.
#[derive(Clone, Copy, Default)]
struct Seen {
    turns: u64,
    /// Something waited for the core at the last look.
    waiting: bool,
}

impl Seen {
    /// Looks again: whether the core must be kicked.
    fn look(&mut self, pulse: &Pulse, now_ms: u64, waiting: bool) -> bool {
        let turns = pulse.turns.load(Relaxed);
        let stands = turns == self.turns;
        let late = now_ms.saturating_sub(pulse.beat_ms.load(Relaxed)) > LATE_MS;
        let neglects = self.waiting && waiting && stands;
        *self = Seen { turns, waiting };
        late || neglects
    }
}

/// The running thread; it ends when this is dropped.
pub(super) struct Watchdog {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts to watch. `is_waiting` says whether something is queued for the core of this number.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start(
        pulses: Arc<[Pulse]>,
        clock: Clock,
        is_waiting: impl Fn(usize) -> bool + Send + 'static,
    ) -> std::io::Result<Watchdog> {
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let watch = move || {
            let mut seen = vec![Seen::default(); pulses.len()];
            let (mut told_ms, mut still) = (0, Still::default());
            while !ends.load(Relaxed) {
                std::thread::park_timeout(Duration::from_millis(LOOK_MS));
                let now_ms = clock.now_ms();
                let after_still = still.look(now_ms);
                for (core, pulse) in pulses.iter().enumerate() {
                    let kick = seen[core].look(pulse, now_ms, is_waiting(core));
                    if after_still && !kick {
                        pulse.nudge();
                    }
                    if kick && pulse.kick() && now_ms.saturating_sub(told_ms) >= QUIET_MS {
                        told_ms = now_ms;
                        let late_ms = now_ms.saturating_sub(pulse.beat_ms.load(Relaxed));
                        let kicks = pulse.kicks();
                        tracing::warn!(core, late_ms, kicks, "woke a core whose pulse was late");
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(watch)?;
        Ok(Watchdog { over, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Its panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_beats_is_left_alone() {
        let (pulse, mut seen) = (Pulse::default(), Seen::default());
        for now_ms in (0..1000).step_by(20) {
            if now_ms % BEAT_MS == 0 {
                pulse.beat(now_ms);
            }
            assert!(!seen.look(&pulse, now_ms, false), "at {now_ms}");
        }
    }

    #[test]
    fn a_late_beat_is_seen_without_anything_waiting() {
        let (pulse, mut seen) = (Pulse::default(), Seen::default());
        pulse.beat(100);
        assert!(!seen.look(&pulse, 240, false));
        assert!(seen.look(&pulse, 260, false));
    }

    #[test]
    fn waiting_work_and_no_turn_between_two_looks_is_neglect() {
        let (pulse, mut seen) = (Pulse::default(), Seen::default());
        pulse.beat(0);
        assert!(!seen.look(&pulse, 0, true), "it may have come just now");
        assert!(seen.look(&pulse, 20, true));
        pulse.beat(30);
        assert!(!seen.look(&pulse, 40, true), "there was a turn");
    }

    #[test]
    fn for_a_while_after_a_standstill_every_look_counts() {
        let mut still = Still::default();
        let looks = |still: &mut Still, first_ms: u64| {
            (0..20).filter(|n| still.look(first_ms + n * LOOK_MS)).count()
        };
        assert_eq!(looks(&mut still, 0), 0);
        assert_eq!(looks(&mut still, 700), LOOKS_AFTER as usize);
        assert_eq!(looks(&mut still, 700 + 20 * LOOK_MS), 0);
    }

    #[test]
    fn only_a_watched_core_is_kicked() {
        let pulse = Pulse::default();
        assert!(!pulse.kick());
        pulse.watch(Some(Waker::noop().clone()), 7);
        assert!(pulse.kick());
        assert_eq!(pulse.kicks(), 1);
        pulse.watch(None, 8);
        assert!(!pulse.kick());
    }
}
