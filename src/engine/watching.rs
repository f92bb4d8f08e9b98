//! The watch streams of this core's clients: what the hub asks of the shards, and what they answer.

use super::message::Message;
use super::{Effects, Engine};
use crate::keys::{CoreId, Revision};
use crate::watch::{Action, Event, Matched, Now, StreamId, WatchInput, WatcherId};

/// What a watcher is told when its history can not be read, in etcd's words for the alarm.
const CORRUPT: &str = "etcdserver: corrupt cluster";

impl Engine {
    pub(super) fn watch_input(&mut self, stream: StreamId, input: WatchInput, fx: &mut Effects) {
        if !self.serving {
            // What there is to watch is not known yet.
            return self.early_watch.push((stream, input));
        }
        let now = self.hub_now(self.order.watermark());
        let mut actions = Vec::new();
        self.hub.input(stream, input, now, &mut actions);
        self.watch_actions(actions, fx);
    }

    fn hub_now(&self, watermark: Revision) -> Now {
        Now { watermark, compacted: self.control.compacted, now_ms: self.now_ms }
    }

    /// Releases the events that the watermark at the begin of this turn covers: every one of them
    /// was in this core's queue by then (R11).
    pub(super) fn advance_hub(&mut self, fx: &mut Effects) {
        if !self.serving {
            return;
        }
        self.hub.set_term(self.term());
        let now = self.hub_now(self.turn_watermark);
        let mut actions = Vec::new();
        self.hub.advance(now, &mut actions);
        self.watch_actions(actions, fx);
    }

    fn watch_actions(&mut self, actions: Vec<Action>, fx: &mut Effects) {
        for action in actions {
            match action {
                Action::Register { watcher, range, from, prev_kv } => {
                    self.begin_register(watcher, &range, from, prev_kv, fx);
                }
                Action::Unregister { watcher } => self.unregister_everywhere(watcher, fx),
                Action::History { watcher, range, from, prev_kv, max_bytes } => {
                    self.begin_history(watcher, &range, from, prev_kv, max_bytes, fx);
                }
                Action::Send { stream, bytes } => fx.watch.push((stream, bytes)),
            }
        }
    }

    fn unregister_everywhere(&mut self, watcher: WatcherId, fx: &mut Effects) {
        for core in (0..self.cores).map(CoreId) {
            self.send(core, Message::Unregister { watcher }, fx);
        }
    }

    pub(super) fn unregister(&mut self, watcher: WatcherId) {
        self.seats.iter_mut().for_each(|seat| seat.shard.registry().remove(watcher));
    }

    pub(super) fn registered(&mut self, watcher: WatcherId, events: Vec<Event>, fx: &mut Effects) {
        let mut actions = Vec::new();
        self.hub.registered(watcher, events, &mut actions);
        self.watch_actions(actions, fx);
    }

    /// There is too much history to register at once.
    pub(super) fn not_registered(&mut self, watcher: WatcherId, fx: &mut Effects) {
        let mut actions = Vec::new();
        self.hub.too_far(watcher, &mut actions);
        self.watch_actions(actions, fx);
    }

    /// What a watcher wants to begin with is gone.
    pub(super) fn watch_compacted(&mut self, watcher: WatcherId, at: Revision, fx: &mut Effects) {
        let mut actions = Vec::new();
        self.hub.compacted(watcher, at, &mut actions);
        self.watch_actions(actions, fx);
    }

    /// What a watcher needs lies in a damaged block.
    pub(super) fn watch_unreadable(&mut self, watcher: WatcherId, fx: &mut Effects) {
        let mut actions = Vec::new();
        self.hub.unreadable(watcher, CORRUPT, &mut actions);
        self.watch_actions(actions, fx);
    }

    pub(super) fn history_read(
        &mut self,
        watcher: WatcherId,
        events: Vec<Event>,
        through: Revision,
        fx: &mut Effects,
    ) {
        let mut actions = Vec::new();
        self.hub.history(watcher, events, through, &mut actions);
        self.watch_actions(actions, fx);
    }

    /// Sends the events of what was installed to the cores that watch it.
    pub(super) fn send_events(&mut self, fx: &mut Effects) {
        let mut per_core: Vec<Vec<Matched>> = Vec::new();
        for (core, matched) in self.outgoing.events.drain(..) {
            let at = usize::from(core.0);
            if per_core.len() <= at {
                per_core.resize_with(at + 1, Vec::new);
            }
            per_core[at].push(matched);
        }
        for (core, events) in (0..).map(CoreId).zip(per_core) {
            if events.is_empty() {
                continue;
            }
            if core == self.core {
                self.hub.matched(events);
            } else {
                fx.mesh.push((core, Message::Events(events)));
            }
        }
    }
}
