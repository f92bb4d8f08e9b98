//! Tells all connections of a core that the member stops, and whether any is left. It does not know
//! what they do about it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Not at all.
    #[default]
    Serving,
    /// No new calls; those that run may finish.
    Draining,
    /// No more waiting: connections close as they are.
    Cut,
}

/// The end of a core's serving. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stage: Cell<Stage>,
    next: Cell<u64>,
    /// One entry for each connection, with its waker once it was polled.
    live: RefCell<HashMap<u64, Option<Waker>>>,
    empty: RefCell<Option<Waker>>,
}

impl Stop {
    /// A connection joins those that must hear of the end, until the ticket is dropped.
    pub(super) fn join(&self) -> Ticket {
        let id = self.0.next.replace(self.0.next.get() + 1);
        self.0.live.borrow_mut().insert(id, None);
        Ticket { shared: Rc::clone(&self.0), id, registered: None }
    }

    pub(super) fn drain(&self) {
        self.advance(Stage::Draining);
    }

    pub(super) fn cut(&self) {
        self.advance(Stage::Cut);
    }

    /// Ready when no connection is left.
    pub(super) fn poll_empty(&self, cx: &Context<'_>) -> Poll<()> {
        if self.0.live.borrow().is_empty() {
            return Poll::Ready(());
        }
        *self.0.empty.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn advance(&self, stage: Stage) {
        self.0.stage.set(stage);
        for waker in self.0.live.borrow_mut().values_mut().filter_map(Option::take) {
            waker.wake();
        }
    }
}

/// A connection's place among those that hear of the end.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Rc<Shared>,
    id: u64,
    /// The stage at which the waker was left: it is not needed twice.
    registered: Option<Stage>,
}

impl Ticket {
    /// The stage now; the task of `cx` is woken when it changes. A ticket is polled by one task
    /// alone, so the waker is left only once a stage.
    pub(super) fn stage(&mut self, cx: &Context<'_>) -> Stage {
        let stage = self.shared.stage.get();
        if self.registered != Some(stage) {
            self.registered = Some(stage);
            self.shared.live.borrow_mut().insert(self.id, Some(cx.waker().clone()));
        }
        stage
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut live = self.shared.live.borrow_mut();
        live.remove(&self.id);
        if live.is_empty()
            && let Some(waker) = self.shared.empty.borrow_mut().take()
        {
            waker.wake();
        }
    }
}
