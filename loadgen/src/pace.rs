//! When a client may send its next request. In a closed loop: at once. In an open loop: when the schedule
//! says that one is due, or at once if one has been due for a while; then the due time is what latency counts from.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::schedule::Schedule;

/// The times that all threads agree on.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// Load begins.
    pub load_start: Instant,
    /// Measuring begins: what is due from here on counts.
    pub window_start: Instant,
    /// Nothing is due from here on. Far away when the number of requests ends the load.
    pub window_end: Instant,
}

/// Gives clients the time at which their next request was due.
#[derive(Clone, Debug)]
pub enum Pace {
    /// As soon as the last answer is there, up to a number of requests (counted from the window's start).
    Closed {
        /// The common times.
        timeline: Timeline,
        /// Requests that may still be sent, by all threads together.
        left: Option<Arc<AtomicI64>>,
    },
    /// By schedule.
    Open(Rc<Pacer>),
}

impl Pace {
    /// Waits until a request may be sent; `None` when no more are wanted.
    pub async fn next(&self) -> Option<Instant> {
        match self {
            Pace::Closed { timeline, left } => {
                let now = Instant::now();
                let over = now >= timeline.window_end;
                if over || (now >= timeline.window_start && !take_one(left.as_deref())) {
                    return None;
                }
                Some(now)
            }
            Pace::Open(pacer) => pacer.next().await,
        }
    }
}

fn take_one(left: Option<&AtomicI64>) -> bool {
    left.is_none_or(|left| left.fetch_sub(1, Ordering::Relaxed) > 0)
}

/// One thread's open loop: a schedule that its idle clients share.
///
/// Requests that are due while all clients are busy wait in the schedule itself, so the backlog takes no memory.
#[derive(Debug)]
pub struct Pacer {
    timeline: Timeline,
    left: Option<Arc<AtomicI64>>,
    schedule: RefCell<Schedule>,
    idle: Notify,
}

/// While all clients are busy the pacer only looks again after this long; clients that become free help
/// themselves meanwhile.
const BACKLOG_PAUSE: Duration = Duration::from_micros(500);

impl Pacer {
    /// A pacer that follows `schedule` from the timeline's start.
    #[must_use]
    pub fn new(timeline: Timeline, left: Option<Arc<AtomicI64>>, schedule: Schedule) -> Rc<Pacer> {
        Rc::new(Pacer { timeline, left, schedule: RefCell::new(schedule), idle: Notify::new() })
    }

    fn next_due(&self) -> Instant {
        self.timeline.load_start + Duration::from_nanos(self.schedule.borrow().next_due_ns())
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.timeline.window_end
            || self.left.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) <= 0)
    }

    async fn next(&self) -> Option<Instant> {
        loop {
            if self.is_over() {
                return None;
            }
            let now = Instant::now();
            let now_ns = (now - self.timeline.load_start).as_nanos() as u64;
            let taken = self.schedule.borrow_mut().take(now_ns);
            let Some(due_ns) = taken else {
                self.idle.notified().await;
                continue;
            };
            if self.schedule.borrow().next_due_ns() <= now_ns {
                // The pacer wakes one client at a time; each wakes the next while more is due.
                self.idle.notify_one();
            }
            let due = self.timeline.load_start + Duration::from_nanos(due_ns);
            if due >= self.timeline.window_start && !take_one(self.left.as_deref()) {
                return None;
            }
            return Some(due);
        }
    }

    /// Wakes clients when something is due, until the end of the load. To be run beside the clients.
    ///
    /// # Errors
    /// When the kernel refuses a timer.
    pub async fn run(&self) -> io::Result<()> {
        let alarm = Alarm::new()?;
        while !self.is_over() {
            let wait = self.next_due().saturating_duration_since(Instant::now());
            if wait.is_zero() {
                self.idle.notify_one();
                alarm.wait(BACKLOG_PAUSE).await?;
            } else {
                let until_end = self.timeline.window_end.saturating_duration_since(Instant::now());
                alarm.wait(wait.min(until_end)).await?;
                self.idle.notify_one();
            }
        }
        self.idle.notify_waiters();
        Ok(())
    }

    /// The ages, at the end of the load, of the requests that were due in the window and never sent.
    pub fn drain_unsent(&self, mut note: impl FnMut(Duration)) {
        if self.left.is_some() {
            return;
        }
        let end_ns = (self.timeline.window_end - self.timeline.load_start).as_nanos() as u64;
        let window_ns = (self.timeline.window_start - self.timeline.load_start).as_nanos() as u64;
        let mut schedule = self.schedule.borrow_mut();
        while let Some(due_ns) = schedule.take(end_ns.saturating_sub(1)) {
            if due_ns >= window_ns {
                note(Duration::from_nanos(end_ns - due_ns));
            }
        }
    }
}

/// A timer with the kernel's own precision. tokio's has ticks of a millisecond, which would show in every
/// latency of an open loop.
struct Alarm {
    timer: TimerFd,
    readable: AsyncFd<File>,
}

impl Alarm {
    fn new() -> io::Result<Alarm> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let file = File::from(timer.as_fd().try_clone_to_owned()?);
        // SAFETY: the file owns its descriptor, is owned by the `AsyncFd`, and nothing here exchanges it.
        let readable = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?;
        Ok(Alarm { timer, readable })
    }

    async fn wait(&self, time: Duration) -> io::Result<()> {
        // Zero would disarm it.
        let time = TimeSpec::from_duration(time.max(Duration::from_nanos(1)));
        self.timer.set(Expiration::OneShot(time), TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = self.readable.readable().await?;
            let read = ready.try_io(|file| file.get_ref().read(&mut [0; 8]));
            if let Ok(count) = read {
                return count.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::schedule::Arrivals;

    fn run<T>(work: impl Future<Output = T>, beside: impl Future<Output = io::Result<()>>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (done, paced) = runtime.block_on(async { tokio::join!(work, beside) });
        paced.unwrap();
        done
    }

    fn timeline(length: Duration) -> Timeline {
        let now = Instant::now();
        Timeline { load_start: now, window_start: now, window_end: now + length }
    }

    #[test]
    fn an_idle_client_is_woken_close_to_the_due_time() {
        let timeline = timeline(Duration::from_millis(500));
        let schedule = Schedule::new(Arrivals::Even, 1000.0, 0, 1, Random::new(0, 0));
        let pacer = Pacer::new(timeline, None, schedule);
        let mut late: Vec<Duration> = run(
            async {
                let mut late = Vec::new();
                while let Some(due) = pacer.next().await {
                    late.push(Instant::now() - due);
                }
                late
            },
            pacer.run(),
        );
        assert!(late.len() > 400, "{}", late.len());
        late.sort_unstable();
        // Half of them at the least, so that a busy machine does not fail the test.
        assert!(late[late.len() / 2] < Duration::from_millis(1), "{:?}", late[late.len() / 2]);
    }

    #[test]
    fn a_busy_client_gets_the_backlog_with_its_true_due_times_and_the_rest_is_told() {
        let timeline = timeline(Duration::from_millis(100));
        let schedule = Schedule::new(Arrivals::Even, 1000.0, 0, 1, Random::new(0, 0));
        let pacer = Pacer::new(timeline, None, schedule);
        let taken = run(
            async {
                let mut taken = Vec::new();
                while let Some(due) = pacer.next().await {
                    taken.push(due);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                taken
            },
            pacer.run(),
        );
        let first = timeline.load_start;
        for (i, due) in taken.iter().enumerate() {
            assert_eq!(*due, first + Duration::from_millis(i as u64));
        }
        let mut ages = Vec::new();
        pacer.drain_unsent(|age| ages.push(age));
        assert_eq!(taken.len() + ages.len(), 100);
        assert_eq!(ages.last(), Some(&Duration::from_millis(1)));
    }

    #[test]
    fn a_number_of_requests_ends_either_loop() {
        let forever = timeline(Duration::from_secs(3600));
        let left = || Some(Arc::new(AtomicI64::new(3)));
        let closed = Pace::Closed { timeline: forever, left: left() };
        let schedule = Schedule::new(Arrivals::Even, 10_000.0, 0, 1, Random::new(0, 0));
        let pacer = Pacer::new(forever, left(), schedule);
        let open = Pace::Open(Rc::clone(&pacer));
        for pace in [closed, open] {
            let count = run(
                async {
                    let mut count = 0;
                    while pace.next().await.is_some() {
                        count += 1;
                    }
                    count
                },
                async {
                    match &pace {
                        Pace::Open(pacer) => pacer.run().await,
                        Pace::Closed { .. } => Ok(()),
                    }
                },
            );
            assert_eq!(count, 3);
        }
    }
}
