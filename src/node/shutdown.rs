//! How the cores of a node stop together. A core may not leave while another still needs its answers,
//! so each stage begins when all cores have ended the one before:
//!
//! 1. asked: no new connections, what is in flight is finished;
//! 2. fronts closed: the engines stop and come to rest;
//! 3. drained: nothing is under way anywhere, the logs can be closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Where the stopping of a node stands.
pub(super) struct Shutdown {
    asked: AtomicBool,
    forced: AtomicBool,
    fronts_closed: Box<[AtomicBool]>,
    drained: Box<[AtomicBool]>,
    /// Wakes every core: it may go on to the next stage.
    ring: Box<dyn Fn() + Send + Sync>,
}

impl Shutdown {
    /// Nobody has asked yet. `ring` must give every core a turn.
    pub(super) fn new(cores: u16, ring: impl Fn() + Send + Sync + 'static) -> Arc<Shutdown> {
        let flags = || (0..cores).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Shutdown {
            asked: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            fronts_closed: flags(),
            drained: flags(),
            ring: Box::new(ring),
        })
    }

    /// Begins to stop.
    pub(super) fn ask(&self) {
        self.asked.store(true, SeqCst);
        (self.ring)();
    }

    /// Ends the stages: what is still in flight is given up. Nothing that was answered depends on it.
    pub(super) fn force(&self) {
        self.forced.store(true, SeqCst);
        self.ask();
    }

    /// Whether the node stops.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(SeqCst)
    }

    /// This core has no connection any more.
    pub(super) fn front_is_closed(&self, core: usize) {
        self.pass(&self.fronts_closed, core);
    }

    /// Whether no core has.
    pub(super) fn are_fronts_closed(&self) -> bool {
        self.fronts_closed.iter().all(|closed| closed.load(SeqCst))
    }

    /// This core's engine has come to rest. With no connection left it gets no new work.
    pub(super) fn is_drained(&self, core: usize) {
        self.pass(&self.drained, core);
    }

    /// Whether the cores may leave.
    pub(super) fn is_over(&self) -> bool {
        self.forced.load(SeqCst) || self.drained.iter().all(|drained| drained.load(SeqCst))
    }

    fn pass(&self, stage: &[AtomicBool], core: usize) {
        if !stage[core].swap(true, SeqCst) && stage.iter().all(|passed| passed.load(SeqCst)) {
            (self.ring)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn each_stage_waits_for_all_cores_and_rings_once() {
        let rings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&rings);
        let shutdown = Shutdown::new(2, move || {
            counted.fetch_add(1, SeqCst);
        });
        assert!(!shutdown.is_asked());
        shutdown.ask();
        assert!(shutdown.is_asked() && !shutdown.are_fronts_closed());
        shutdown.front_is_closed(1);
        shutdown.front_is_closed(1);
        assert!(!shutdown.are_fronts_closed());
        shutdown.front_is_closed(0);
        assert!(shutdown.are_fronts_closed() && !shutdown.is_over());
        shutdown.is_drained(0);
        assert!(!shutdown.is_over());
        shutdown.is_drained(1);
        assert!(shutdown.is_over());
        assert_eq!(rings.load(SeqCst), 3, "one for the question and one for each stage");
    }

    #[test]
    fn force_ends_all_stages_at_once() {
        let shutdown = Shutdown::new(3, || {});
        shutdown.force();
        assert!(shutdown.is_asked() && shutdown.is_over());
    }
}
