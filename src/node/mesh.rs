//! The only way from one core to another: a queue per core that takes whole turns' messages, and a
//! wake-up. It knows no message; what is sent, and that nothing here ever has to wait for room, is
//! the engine's business: requests are bounded by what connections may have in flight, and
//! everything else answers a request.
//!
//! Order: messages from one core to another arrive as they were sent, and a message is in its queue
//! before [`Mesh::send`] goes on to the next one, whatever its destination. A receiver that loads the
//! watermark and then takes *everything* therefore holds all that was sent before that watermark was
//! published (R11).

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Poll, Waker};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use concurrent_queue::ConcurrentQueue;

use super::wakeup::{Ended, Wakeup};
use crate::keys::CoreId;

/// Consecutive messages of one turn from one core to another.
struct Parcel<M> {
    from: CoreId,
    messages: Vec<M>,
}

/// What one core receives by. On cache lines of its own: every core writes to it.
#[repr(align(128))]
struct Post<M> {
    queue: ConcurrentQueue<Parcel<M>>,
    /// A turn is wanted though no message says so: a revision that was waited for is covered.
    poked: AtomicBool,
    waker: AtomicWaker,
    /// The core waits in place, where its waker does not reach it.
    listens: AtomicBool,
    wakeup: Wakeup,
}

/// One core's end of the mesh.
pub(super) struct Mesh<M> {
    core: CoreId,
    posts: Arc<[Post<M>]>,
    /// Reused by [`Mesh::send`]: who got something in this turn.
    reached: Vec<CoreId>,
}

/// Wakes cores from outside: the watchdog, and whoever stops the node.
pub(super) struct Bell<M>(Arc<[Post<M>]>);

/// Hears what comes for a core while that core waits in place.
pub(super) struct Ear<M> {
    core: CoreId,
    posts: Arc<[Post<M>]>,
}

impl<M> Mesh<M> {
    /// The ends of a mesh of `cores` cores, one each.
    pub(super) fn new(cores: u16) -> Vec<Mesh<M>> {
        let post = |_| Post {
            queue: ConcurrentQueue::unbounded(),
            poked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            listens: AtomicBool::new(false),
            wakeup: Wakeup::new(),
        };
        let posts: Arc<[Post<M>]> = (0..cores).map(post).collect();
        (0..cores)
            .map(|core| Mesh { core: CoreId(core), posts: Arc::clone(&posts), reached: Vec::new() })
            .collect()
    }

    /// For threads that are no core.
    pub(super) fn bell(&self) -> Bell<M> {
        Bell(Arc::clone(&self.posts))
    }

    /// Queues the messages in this very order and wakes those who got some.
    pub(super) fn send(&mut self, messages: &mut Vec<(CoreId, M)>) {
        let mut messages = messages.drain(..).peekable();
        while let Some((to, first)) = messages.next() {
            let mut parcel = Parcel { from: self.core, messages: vec![first] };
            while let Some((_, next)) = messages.next_if(|(next, _)| *next == to) {
                parcel.messages.push(next);
            }
            let pushed = self.post(to).queue.push(parcel);
            assert!(pushed.is_ok(), "queues between cores have no bound and are never closed");
            if !self.reached.contains(&to) {
                self.reached.push(to);
            }
        }
        drop(messages);
        while let Some(core) = self.reached.pop() {
            self.post(core).wake();
        }
    }

    /// Asks `core` for a turn.
    pub(super) fn poke(&self, core: CoreId) {
        let post = self.post(core);
        post.poked.store(true, Ordering::SeqCst);
        post.wake();
    }

    /// For a core that waits in place.
    pub(super) fn ear(&self) -> Ear<M> {
        Ear { core: self.core, posts: Arc::clone(&self.posts) }
    }

    /// Takes everything that was sent to this core until now.
    pub(super) fn take(&self, mut visit: impl FnMut(CoreId, M)) {
        let post = self.post(self.core);
        post.poked.store(false, Ordering::SeqCst);
        // Parcels that arrive meanwhile may come along. There is no end to that only if the others
        // produce faster than a queue is emptied, so what one turn takes stops at what was there.
        for _ in 0..post.queue.len() {
            let Ok(parcel) = post.queue.pop() else { break };
            parcel.messages.into_iter().for_each(|message| visit(parcel.from, message));
        }
    }

    /// Whether this core has something to take; if not, `waker` is woken when it has.
    pub(super) fn poll_arrived(&self, waker: &Waker) -> Poll<()> {
        let post = self.post(self.core);
        if post.has_something() {
            return Poll::Ready(());
        }
        post.waker.register(waker);
        // What came between the look and the registration woke nobody.
        if post.has_something() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn post(&self, core: CoreId) -> &Post<M> {
        &self.posts[usize::from(core.0)]
    }
}

impl<M> Post<M> {
    fn has_something(&self) -> bool {
        !self.queue.is_empty() || self.poked.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        self.waker.wake();
        // Either a core that begins to listen sees what was queued, or we see that it listens.
        fence(Ordering::SeqCst);
        if self.listens.load(Ordering::SeqCst) {
            self.wakeup.give();
        }
    }
}

impl<M> Ear<M> {
    /// Blocks until `fd` can be read, something comes for this core, or `at_most` is over.
    pub(super) fn wait_for(&self, fd: RawFd, at_most: Duration) -> Ended {
        let post = &self.posts[usize::from(self.core.0)];
        post.listens.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let ended = match post.has_something() {
            true => Ended::Woken,
            false => post.wakeup.wait_for(fd, at_most),
        };
        post.listens.store(false, Ordering::SeqCst);
        ended
    }
}

impl<M> Bell<M> {
    /// Asks every core for a turn.
    pub(super) fn ring(&self) {
        for post in self.0.iter() {
            post.poked.store(true, Ordering::SeqCst);
            post.wake();
        }
    }

    /// Whether something waits for `core` to take it.
    pub(super) fn is_waiting(&self, core: usize) -> bool {
        self.0[core].has_something()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU64;
    use std::task::Wake;
    use std::time::Instant;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn taken(mesh: &Mesh<u64>) -> Vec<(u16, u64)> {
        let mut taken = Vec::new();
        mesh.take(|from, message| taken.push((from.0, message)));
        taken
    }

    #[test]
    fn messages_arrive_in_order_and_only_where_they_were_sent() {
        let mut ends = Mesh::new(3);
        let mut messages = vec![(CoreId(1), 1), (CoreId(1), 2), (CoreId(2), 3), (CoreId(1), 4)];
        ends[0].send(&mut messages);
        ends[2].send(&mut vec![(CoreId(1), 5)]);
        assert!(messages.is_empty());
        assert_eq!(taken(&ends[1]), [(0, 1), (0, 2), (0, 4), (2, 5)]);
        assert_eq!(taken(&ends[2]), [(0, 3)]);
        assert_eq!(taken(&ends[0]), []);
    }

    #[test]
    fn whoever_sleeps_is_woken_once_by_a_turn_and_by_a_poke() {
        let mut ends: Vec<Mesh<u64>> = Mesh::new(2);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(ends[1].poll_arrived(&waker).is_pending());
        ends[0].send(&mut vec![(CoreId(1), 1), (CoreId(0), 2), (CoreId(1), 3)]);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(ends[1].poll_arrived(&waker).is_ready());
        assert_eq!(taken(&ends[1]), [(0, 1), (0, 3)]);
        assert!(ends[1].poll_arrived(&waker).is_pending());
        ends[0].poke(CoreId(1));
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert!(ends[1].poll_arrived(&waker).is_ready(), "a poke wants a turn");
        assert_eq!(taken(&ends[1]), []);
        assert!(ends[1].poll_arrived(&waker).is_pending(), "and only one");
    }

    #[test]
    fn whoever_waits_in_place_hears_messages_pokes_and_the_bell() {
        const LONG: Duration = Duration::from_secs(60);
        let (client, socket) = UnixStream::pair().expect("a socket");
        let fd = socket.as_raw_fd();
        let mut ends: Vec<Mesh<u64>> = Mesh::new(2);
        let (mut other, mine) = (ends.pop().expect("two"), ends.pop().expect("two"));
        let (ear, bell) = (mine.ear(), mine.bell());
        let listens = |posts: &[Post<u64>]| posts[0].listens.load(Ordering::SeqCst);
        let began = Instant::now();
        for call in 0..300 {
            std::thread::scope(|scope| {
                let (other, bell) = (&mut other, &bell);
                scope.spawn(move || {
                    // Before, while and after the core begins to listen.
                    while call % 2 == 0 && !listens(&other.posts) {
                        std::thread::yield_now();
                    }
                    match call % 3 {
                        0 => other.send(&mut vec![(CoreId(0), call)]),
                        1 => other.poke(CoreId(0)),
                        _ => bell.ring(),
                    }
                });
                while !mine.posts[0].has_something() {
                    assert_eq!(ear.wait_for(fd, LONG), Ended::Woken);
                }
            });
            taken(&mine);
        }
        assert!(began.elapsed() < LONG, "a call was not heard");
        drop(client);
        while ear.wait_for(fd, LONG) != Ended::Readable {
            assert!(began.elapsed() < LONG, "a socket that was closed is to be read");
        }
    }

    #[test]
    fn what_precedes_a_published_number_is_there_when_the_number_is_seen() {
        const ROUNDS: u64 = 20_000;
        let mut ends: Vec<Mesh<u64>> = Mesh::new(3);
        let receiver = ends.remove(0);
        let published: Arc<[AtomicU64; 2]> = Arc::default();
        let senders: Vec<_> = ends
            .into_iter()
            .enumerate()
            .map(|(at, mut end)| {
                let published = Arc::clone(&published);
                std::thread::spawn(move || {
                    for n in 1..=ROUNDS {
                        end.send(&mut vec![(CoreId(0), n)]);
                        published[at].store(n, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let mut newest = [0, 0];
        while newest != [ROUNDS; 2] {
            let seen = [0, 1].map(|at| published[at].load(Ordering::SeqCst));
            receiver.take(|from, n| {
                let at = usize::from(from.0) - 1;
                assert_eq!(n, newest[at] + 1);
                newest[at] = n;
            });
            assert!(newest[0] >= seen[0] && newest[1] >= seen[1], "{newest:?} behind {seen:?}");
            std::thread::yield_now();
        }
        senders.into_iter().for_each(|sender| sender.join().expect("a sender failed"));
    }
}
