//! Deadlines of connections. hyper wants sleeps that are `Send` and `Sync`, and glommio's timers
//! are neither and are meant to be few; so all deadlines of a core live in one ordered map, driven
//! by one glommio timer that is armed for the earliest. A core whose connections are quiet is not
//! woken at all. It knows nothing of what the deadlines are for.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::or;

/// Deadlines are met up to this much late, so that many of them share one wake-up.
const TICK: Duration = Duration::from_millis(50);

/// A clock of one core. Clones share it. The lock is there for hyper's `Send` bound only: nobody
/// contends for it.
#[derive(Clone, Debug)]
pub(super) struct Clock(Arc<Mutex<Deadlines>>);

#[derive(Debug, Default)]
struct Deadlines {
    /// At most one for each sleep that was polled; a connection has two or three.
    waiting: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    /// Wakes [`Clock::run`] when an earlier deadline comes in.
    runner: Option<Waker>,
    /// What the runner sleeps for.
    armed: Option<Instant>,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock(Arc::default())
    }

    /// Completes when `duration` is over.
    pub(super) fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { clock: self.clone(), deadline, key: None }
    }

    /// Wakes sleepers for ever: a task of its own.
    pub(super) async fn run(&self) {
        loop {
            let first = self.lock().waiting.keys().next().map(|key| key.0);
            self.lock().armed = first;
            match first {
                None => self.earlier().await,
                Some(deadline) => {
                    let wait = deadline.saturating_duration_since(Instant::now()) + TICK;
                    or(glommio::timer::sleep(wait), self.earlier()).await;
                }
            }
            self.fire(Instant::now());
        }
    }

    /// Waits until there is a deadline before the one that is armed.
    async fn earlier(&self) {
        poll_fn(|cx| {
            let mut deadlines = self.lock();
            let first = deadlines.waiting.keys().next().map(|key| key.0);
            match (first, deadlines.armed) {
                (Some(_), None) => return Poll::Ready(()),
                (Some(first), Some(armed)) if first < armed => return Poll::Ready(()),
                _ => deadlines.runner = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }

    fn fire(&self, now: Instant) {
        let due = {
            let mut deadlines = self.lock();
            let later = deadlines.waiting.split_off(&(now, u64::MAX));
            std::mem::replace(&mut deadlines.waiting, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Deadlines> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }
}

impl hyper::rt::Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Clock::sleep(self, duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Clock::sleep_until(self, deadline))
    }
}

/// Waits for one deadline.
#[derive(Debug)]
pub(super) struct Sleep {
    clock: Clock,
    deadline: Instant,
    /// Where its waker is kept, once it was polled.
    key: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let clock = self.clock.clone();
        let mut deadlines = clock.lock();
        let key = *self.key.get_or_insert_with(|| {
            deadlines.next += 1;
            (deadline, deadlines.next)
        });
        deadlines.waiting.insert(key, cx.waker().clone());
        if deadlines.armed.is_none_or(|armed| deadline < armed)
            && let Some(runner) = deadlines.runner.take()
        {
            runner.wake();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.lock().waiting.remove(&key);
        }
    }
}

impl hyper::rt::Sleep for Sleep {}
