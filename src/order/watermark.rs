//! The sequencer and the watermark: the one piece of memory that all cores of a node share.
//!
//! A revision is handed out by [`Order::take`], logged in some lane, and shown once the
//! [watermark](Order::watermark) covers it: everything up to the watermark is committed, installed
//! and queued for watchers, without a gap. The rules are R1, R2 and R5 of `docs/design.md`.
//! Nothing here knows what a revision holds, or waits for anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

use super::usage::Usage;
use crate::keys::{CoreId, LaneId, Revision};

/// Keeps what two cores write on two cache lines (128 bytes: x86 fetches lines in pairs).
#[repr(align(128))]
#[derive(Debug)]
struct Apart<T>(T);

/// What all cores of a node share. Every access is sequentially consistent: the proof of R2 needs
/// one order over the counter, the lanes' bounds and the published watermark.
#[derive(Debug)]
pub struct Order {
    /// The newest revision handed out.
    counter: Apart<AtomicI64>,
    /// The published watermark W.
    watermark: Apart<AtomicI64>,
    /// The epoch that is being served, 0 while none is.
    epoch: Apart<AtomicU64>,
    /// Per lane a lower bound of the revisions it has taken and not yet left; `i64::MAX` for none.
    oldest_inflight: Box<[Apart<AtomicI64>]>,
    /// Per core the smallest revision it waits for; `i64::MAX` for none.
    awaited: Box<[Apart<AtomicI64>]>,
    usage: Arc<Usage>,
}

impl Order {
    /// The order of an empty store: everything at revision 1, nothing served.
    #[must_use]
    pub fn new(lanes: u16, cores: u16) -> Order {
        let line = |n: u16| (0..n).map(|_| Apart(AtomicI64::new(i64::MAX))).collect();
        Order {
            counter: Apart(AtomicI64::new(Revision::FIRST.0)),
            watermark: Apart(AtomicI64::new(Revision::FIRST.0)),
            epoch: Apart(AtomicU64::new(0)),
            oldest_inflight: line(lanes),
            awaited: line(cores),
            usage: Arc::default(),
        }
    }

    /// The revision up to which everything may be shown.
    #[must_use]
    pub fn watermark(&self) -> Revision {
        Revision(self.watermark.0.load(SeqCst))
    }

    /// The newest revision handed out: the stamp of a control record proposed now.
    #[must_use]
    pub fn counter(&self) -> Revision {
        Revision(self.counter.0.load(SeqCst))
    }

    /// The epoch being served, 0 when none is.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.0.load(SeqCst)
    }

    /// Hands out the next revision to `lane`, which must log it in this very turn (R3).
    ///
    /// The lane's bound is lowered *before* the counter moves, so no moment exists in which a
    /// revision is out and no lane answers for it.
    #[must_use]
    pub fn take(&self, lane: LaneId) -> Revision {
        let bound = &self.oldest_inflight[usize::from(lane.0)].0;
        let next = self.counter.0.load(SeqCst) + 1;
        // Only this lane's core writes the bound, so load and store need not be one step.
        bound.store(bound.load(SeqCst).min(next), SeqCst);
        Revision(self.counter.0.fetch_add(1, SeqCst) + 1)
    }

    /// States the oldest revision that `lane` has taken and not left; `None` when it holds none.
    pub fn hold(&self, lane: LaneId, oldest: Option<Revision>) {
        let oldest = oldest.map_or(i64::MAX, |revision| revision.0);
        self.oldest_inflight[usize::from(lane.0)].0.store(oldest, SeqCst);
    }

    /// Publishes as much of the order as the lanes allow and returns the watermark.
    ///
    /// The counter is loaded before the bounds: a revision taken in between is above the counter
    /// that was read, whatever its lane's bound said.
    pub fn publish(&self) -> Revision {
        let counter = self.counter.0.load(SeqCst);
        let oldest =
            self.oldest_inflight.iter().map(|bound| bound.0.load(SeqCst)).fold(i64::MAX, i64::min);
        let computed = counter.min(oldest.saturating_sub(1));
        Revision(self.watermark.0.fetch_max(computed, SeqCst).max(computed))
    }

    /// Says up to which revision `core` waits, before it looks at the watermark a last time and
    /// sleeps; `None` when it waits for nothing.
    pub fn await_from(&self, core: CoreId, revision: Option<Revision>) {
        let revision = revision.map_or(i64::MAX, |revision| revision.0);
        self.awaited[usize::from(core.0)].0.store(revision, SeqCst);
    }

    /// Whether `core` waits for something that the watermark now covers.
    #[must_use]
    pub fn is_awaited(&self, core: CoreId) -> bool {
        self.awaited[usize::from(core.0)].0.load(SeqCst) <= self.watermark.0.load(SeqCst)
    }

    /// Begins to serve `epoch` with everything up to `cut` and nothing in flight (R5, last step).
    pub fn serve(&self, epoch: u64, cut: Revision) {
        for bound in &self.oldest_inflight {
            bound.0.store(i64::MAX, SeqCst);
        }
        self.counter.0.store(cut.0, SeqCst);
        self.watermark.0.store(cut.0, SeqCst);
        self.epoch.0.store(epoch, SeqCst);
    }

    /// How many bytes the store has in use.
    #[must_use]
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Ends the epoch for the whole node, before anything else learns of it (R6).
    pub fn end_epoch(&self) {
        self.epoch.0.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LaneId = LaneId(0);
    const B: LaneId = LaneId(1);

    #[test]
    fn the_watermark_is_the_gap_free_prefix() {
        let order = Order::new(2, 1);
        order.serve(1, Revision(1));
        let (two, three) = (order.take(A), order.take(B));
        assert_eq!((two, three), (Revision(2), Revision(3)));
        order.hold(B, None);
        assert_eq!(order.publish(), Revision(1), "2 is not committed yet");
        order.hold(A, None);
        assert_eq!(order.publish(), Revision(3));
    }

    #[test]
    fn a_second_batch_does_not_hide_the_first() {
        let order = Order::new(2, 1);
        order.serve(1, Revision(1));
        let first = order.take(A);
        let _second = order.take(A);
        assert_eq!(order.publish(), first.prev());
    }

    #[test]
    fn a_bound_that_comes_back_does_not_lower_the_watermark() {
        let order = Order::new(2, 1);
        order.serve(1, Revision(9));
        order.hold(B, Some(Revision(4)));
        assert_eq!(order.publish(), Revision(9));
        assert_eq!(order.watermark(), Revision(9));
    }
}
