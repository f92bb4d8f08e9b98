//! Writers that outrun the building of an image wait for it: what was written since the last one fills as
//! much memory as there is for it. When that is so, the keeper finds out; each core holds back the
//! requests of its own clients.

use std::collections::VecDeque;

use super::alarms::cost_bytes;
use super::{Effects, Engine, Request, RequestId};

/// Requests that were held back, of which one turn takes up so many.
const HELD_BUDGET: usize = 64;

/// The keeper hears of so much log at once; of less once a second.
const REPORT_BYTES: u64 = 4 << 20;

/// Whether nothing may grow now, and what waits until it may: as many requests as clients have under way.
#[derive(Default)]
pub(super) struct Hold {
    on: bool,
    waiting: VecDeque<(RequestId, Request)>,
}

impl Hold {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, id: RequestId, request: Request) {
        self.waiting.push_back((id, request));
    }
}

impl Engine {
    /// Lets nothing grow, or lets things grow again; who stops lets nobody wait any more.
    pub(super) fn hold(&mut self, on: bool) {
        self.hold.on = on && !self.stopping;
        self.again = true;
    }

    /// Whether a request has to wait: it lets the store grow, and nothing may.
    pub(super) fn must_wait(&self, request: &Request) -> bool {
        self.hold.on && cost_bytes(request).is_some_and(|bytes| bytes > 0)
    }

    /// Takes up requests that had to wait, some at a turn.
    pub(super) fn ask_held(&mut self, fx: &mut Effects) {
        for _ in 0..HELD_BUDGET {
            if self.hold.on {
                return;
            }
            let Some((id, request)) = self.hold.waiting.pop_front() else { return };
            self.request(id, request, fx);
        }
        self.again |= !self.hold.is_empty();
    }

    /// Tells the keeper at once when this core has logged much.
    pub(super) fn report_much(&mut self, fx: &mut Effects) {
        if self.logged_bytes >= REPORT_BYTES && !self.stopping {
            self.report_log(false, fx);
        }
    }
}
