//! Waits in place for the next request of a core's only client.
//!
//! To park and to be woken takes the executor some ten system calls, and a client on the same CPU does not even
//! run before it has parked. A client that was just answered often sends its next request within a few dozen
//! microseconds; to wait for its socket alone takes one system call. What other cores send ends the wait;
//! everything else of this core waits with it, so it is short, and not tried often where it does not pay.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::mesh::Ear;
use super::wakeup::Ended;
use crate::api::door::Door;

/// How long a client may think.
const LINGER: Duration = Duration::from_micros(100);

/// After so much time without a look at its rings the executor has one, however busy its only client is. What it
/// would find there, a timer or a new connection, waits no longer than this and a little.
const VISIT_AFTER: Duration = Duration::from_millis(1);

/// After each wait in vain twice as many chances are left out, at most so many.
const LEFT_OUT_MAX: u32 = 64;

/// One core's waiting in place.
pub(super) struct Linger<M> {
    ear: Ear<M>,
    door: Rc<Door>,
    at_most: Duration,
    visit_after: Duration,
    /// The drive loop waits for something to do, with nothing under way.
    idle: Cell<bool>,
    /// When the executor was last known to look at its rings.
    visited: Cell<Instant>,
    /// Chances to leave out now, and after the next wait in vain.
    left_out: Cell<u32>,
    next_left_out: Cell<u32>,
}

impl<M> Linger<M> {
    pub(super) fn new(ear: Ear<M>, door: Rc<Door>) -> Linger<M> {
        Linger {
            ear,
            door,
            at_most: LINGER,
            visit_after: VISIT_AFTER,
            idle: Cell::new(false),
            visited: Cell::new(Instant::now()),
            left_out: Cell::new(0),
            next_left_out: Cell::new(1),
        }
    }

    /// Waits until `fd` can be read, and says whether it can; no at once if there is anything else to do.
    pub(super) fn wait_for(&self, fd: RawFd) -> bool {
        if !self.idle.get() || !self.door.is_quiet() {
            return false;
        }
        let left_out = self.left_out.get();
        if left_out > 0 {
            self.left_out.set(left_out - 1);
            return false;
        }
        if self.visited.get().elapsed() >= self.visit_after {
            self.visits();
            return false;
        }
        match self.ear.wait_for(fd, self.at_most) {
            Ended::Readable => {
                self.next_left_out.set(1);
                return true;
            }
            Ended::Woken => {}
            Ended::InVain => {
                let next = self.next_left_out.get();
                self.left_out.set(next);
                self.next_left_out.set(LEFT_OUT_MAX.min(2 * next));
            }
        }
        self.visits();
        false
    }

    /// Says whether the drive loop has nothing to do and nothing under way.
    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.set(idle);
    }

    /// Notes that the executor looks at its rings, or has just looked.
    pub(super) fn visits(&self) {
        self.visited.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::api::door::Identity;
    use crate::node::mesh::Mesh;
    use crate::shard::request::Request;

    /// One that never looks at rings, of a core that is idle.
    fn linger(at_most: Duration) -> Linger<()> {
        let mesh = Mesh::new(1).remove(0);
        let (visit_after, idle) = (Duration::MAX, Cell::new(true));
        let door = Door::new(Identity::default());
        Linger { at_most, visit_after, idle, ..Linger::new(mesh.ear(), door) }
    }

    #[test]
    fn waits_in_vain_leave_more_and_more_chances_out() {
        let linger = linger(Duration::from_micros(10));
        let (mut client, socket) = UnixStream::pair().expect("a socket");
        let fd = socket.as_raw_fd();
        let try_once = |()| linger.wait_for(fd);
        assert!(!try_once(()), "nothing was sent");
        client.write_all(b"x").expect("sent");
        assert_eq!([(); 3].map(try_once), [false, true, true]);
        socket.set_nonblocking(true).expect("a socket");
        std::io::Read::read(&mut &socket, &mut [0; 8]).expect("one byte");
        assert!(!try_once(()), "one in vain after one that paid");
        // One is left out, the next is in vain again, so two are.
        assert!(![(); 2].map(try_once).contains(&true));
        client.write_all(b"x").expect("sent");
        assert_eq!([(); 3].map(try_once), [false, false, true]);
    }

    #[test]
    fn the_executor_comes_to_its_rings_however_busy_the_client_is() {
        let linger = Linger { visit_after: Duration::ZERO, ..linger(LINGER) };
        let (mut client, socket) = UnixStream::pair().expect("a socket");
        client.write_all(b"x").expect("sent");
        assert!(!linger.wait_for(socket.as_raw_fd()));
    }

    #[test]
    fn who_has_asked_is_not_made_to_wait_for_the_next() {
        let linger = linger(LINGER);
        let (mut client, socket) = UnixStream::pair().expect("a socket");
        client.write_all(b"x").expect("sent");
        let fd = socket.as_raw_fd();
        assert!(linger.wait_for(fd));
        let stream = linger.door.watch();
        assert!(!linger.wait_for(fd), "a watcher");
        drop(stream);
        assert!(!linger.wait_for(fd), "its end is not taken yet");
        drop(linger.door.take());
        assert!(linger.wait_for(fd));
        linger.set_idle(false);
        assert!(!linger.wait_for(fd), "a write may be under way");
        linger.set_idle(true);
        linger.door.tell(Request::LeaseLeases);
        assert!(!linger.wait_for(fd), "a request");
    }
}
