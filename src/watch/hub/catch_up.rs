//! How a watcher gets from where it stands to the events of now: history in chunks, then
//! registration with the shards; and back, when its client does not keep up.

use super::super::watcher::Phase;
use super::super::{Event, WatcherId};
use super::{Action, Hub, pb, send};
use crate::keys::Revision;

/// Reads under way that may bring much: with their size they bound what they hold in memory.
const READS_MAX: usize = 16;

/// Events that a registering watcher may hold back before it gives up and reads history instead.
const HELD_BYTES_MAX: usize = 1 << 20;

impl Hub {
    /// Answers [`Action::History`]: all events from the revision asked for through `through`, in
    /// position order. `through` is not above the published watermark. Shards that were not cut
    /// short may have told more: what is above `through` is not complete and will be read again.
    pub fn history(
        &mut self,
        watcher: WatcherId,
        mut events: Vec<Event>,
        through: Revision,
        out: &mut Vec<Action>,
    ) {
        self.reads.remove(&watcher.number);
        if let Some(index) = self.watchers.find(watcher.number) {
            events.retain(|event| event.revision <= through);
            self.send_events(index, &events, through.max(self.w), out);
            let entry = self.watchers.at(index);
            entry.next = entry.next.max(through.next());
            match entry.phase {
                Phase::Reading { until } if through >= until => self.register(index, true, out),
                _ => self.queue(index, out),
            }
        }
        self.start_reads(out);
    }

    /// Answers [`Action::Register`]: every shard has added the watcher. `events` is what they had
    /// from the revision asked for on, in position order; what came later arrives, or has arrived,
    /// by [`Hub::matched`].
    pub fn registered(&mut self, watcher: WatcherId, events: Vec<Event>, out: &mut Vec<Action>) {
        self.reads.remove(&watcher.number);
        let Some(index) = self.watchers.find(watcher.number) else {
            out.push(Action::Unregister { watcher });
            return self.start_reads(out);
        };
        let entry = self.watchers.at(index);
        let Phase::Registering { held, .. } = std::mem::replace(&mut entry.phase, Phase::Live)
        else {
            unreachable!("the number of a registration is the watcher's until it is answered")
        };
        let w = self.w;
        let (mut due, later): (Vec<Event>, Vec<Event>) =
            held.into_iter().chain(events).partition(|event| event.revision <= w);
        due.sort_by_key(Event::position);
        self.send_events(index, &due, w, out);
        for event in later {
            self.add_pending(event, &[watcher.number]);
        }
        self.start_reads(out);
    }

    /// Answers [`Action::Register`]: some shard has too much history to hand out in one piece.
    pub fn too_far(&mut self, watcher: WatcherId, out: &mut Vec<Action>) {
        self.reads.remove(&watcher.number);
        // Other shards may have added it.
        out.push(Action::Unregister { watcher });
        if let Some(index) = self.watchers.find(watcher.number) {
            self.queue(index, out);
        }
        self.start_reads(out);
    }

    /// Answers [`Action::Register`] and [`Action::History`]: what was asked for is gone, as a shard
    /// knows that may have heard of a compaction before this core has; `compacted` is what this core
    /// knows.
    pub fn compacted(&mut self, watcher: WatcherId, compacted: Revision, out: &mut Vec<Action>) {
        self.reads.remove(&watcher.number);
        self.hear_compaction(compacted, out);
        let index = self.watchers.find(watcher.number);
        let phase = index.map(|index| &self.watchers.at(index).phase);
        if !matches!(phase, Some(Phase::Reading { .. })) {
            out.push(Action::Unregister { watcher });
        }
        if let Some(index) = index {
            if self.watchers.at(index).next < self.compacted {
                self.cancel_compacted(index, out);
            } else {
                let number = self.watchers.renumber(index);
                self.watchers.at(index).phase = Phase::Compacted;
                self.awaiting_compaction.push(number);
            }
        }
        self.start_reads(out);
    }

    /// Answers [`Action::Register`] and [`Action::History`]: some of it can not be read any more, so the
    /// watcher ends with `reason`.
    pub fn unreadable(&mut self, watcher: WatcherId, reason: &str, out: &mut Vec<Action>) {
        self.reads.remove(&watcher.number);
        let index = self.watchers.find(watcher.number);
        let phase = index.map(|index| &self.watchers.at(index).phase);
        if !matches!(phase, Some(Phase::Reading { .. })) {
            out.push(Action::Unregister { watcher });
        }
        if let Some(index) = index {
            let canceled = pb::WatchResponse {
                cancel_reason: reason.to_owned(),
                ..pb::WatchResponse::default()
            };
            self.end_watcher(index, canceled, out);
        }
        self.start_reads(out);
    }

    /// This core may have heard of a compaction: those whose shards knew of it sooner go on.
    pub(super) fn hear_compaction(&mut self, compacted: Revision, out: &mut Vec<Action>) {
        if compacted <= self.compacted {
            return;
        }
        self.compacted = compacted;
        for number in std::mem::take(&mut self.awaiting_compaction) {
            if let Some(index) = self.watchers.find(number) {
                self.queue(index, out);
            }
        }
    }

    /// Registers a watcher with the shards from where it stands.
    pub(super) fn register(&mut self, index: usize, brings_much: bool, out: &mut Vec<Action>) {
        let number = self.watchers.renumber(index);
        if brings_much {
            self.reads.insert(number);
        }
        let watcher = self.name(number);
        let entry = self.watchers.at(index);
        entry.phase = Phase::Registering { held: Vec::new(), held_bytes: 0 };
        out.push(Action::Register {
            watcher,
            range: entry.range.clone(),
            from: entry.next,
            prev_kv: entry.wants.previous,
        });
    }

    /// Holds an event back for a watcher that is registering.
    pub(super) fn hold(&mut self, index: usize, event: &Event, out: &mut Vec<Action>) {
        let Phase::Registering { held, held_bytes } = &mut self.watchers.at(index).phase else {
            unreachable!("seen by the caller")
        };
        *held_bytes += event.bytes();
        held.push(event.clone());
        if *held_bytes > HELD_BYTES_MAX {
            // The answer will find nobody and so take the registration back.
            self.queue(index, out);
        }
    }

    /// Lets a watcher read history when its turn has come.
    pub(super) fn queue(&mut self, index: usize, out: &mut Vec<Action>) {
        let number = self.watchers.renumber(index);
        self.watchers.at(index).phase = Phase::Queued;
        self.queued.push_back(number);
        self.start_reads(out);
    }

    /// Starts as many reads as may be under way at once.
    pub(super) fn start_reads(&mut self, out: &mut Vec<Action>) {
        while self.reads.len() < READS_MAX
            && let Some(number) = self.queued.pop_front()
        {
            if let Some(index) = self.watchers.find(number) {
                self.start_read(index, out);
            }
        }
    }

    fn start_read(&mut self, index: usize, out: &mut Vec<Action>) {
        let entry = self.watchers.at(index);
        let stream = self.streams.get_mut(&entry.stream).expect("a watcher's stream is open");
        if entry.next < self.compacted {
            return self.cancel_compacted(index, out);
        }
        if stream.waiting_bytes > self.config.waiting_bytes_max {
            stream.stalled.insert(index);
            entry.phase = Phase::Stalled;
            return;
        }
        entry.phase = Phase::Reading { until: self.w };
        let (range, from) = (entry.range.clone(), entry.next);
        let prev_kv = entry.wants.previous;
        let number = self.watchers.renumber(index);
        self.reads.insert(number);
        let max_bytes = self.config.history_bytes;
        let watcher = self.name(number);
        out.push(Action::History { watcher, range, from, prev_kv, max_bytes });
    }

    /// A live watcher's client reads too slowly: it leaves the hot path before the event at `next`.
    pub(super) fn stall(&mut self, index: usize, next: Revision, out: &mut Vec<Action>) {
        let number = self.watchers.number(index);
        out.push(Action::Unregister { watcher: self.name(number) });
        self.watchers.renumber(index);
        let entry = self.watchers.at(index);
        entry.next = next;
        entry.phase = Phase::Stalled;
        let stream = self.streams.get_mut(&entry.stream).expect("a watcher's stream is open");
        stream.stalled.insert(index);
    }

    /// What the watcher needs next is gone: etcd says so without a revision and without a reason.
    fn cancel_compacted(&mut self, index: usize, out: &mut Vec<Action>) {
        let canceled = pb::WatchResponse {
            compact_revision: self.compacted.0,
            ..pb::WatchResponse::default()
        };
        self.end_watcher(index, canceled, out);
    }

    /// Drops a watcher and tells its client why.
    fn end_watcher(&mut self, index: usize, why: pb::WatchResponse, out: &mut Vec<Action>) {
        let entry = self.watchers.at(index);
        let (stream, watch_id) = (entry.stream, entry.id);
        let canceled = pb::WatchResponse { watch_id, canceled: true, ..why };
        self.drop_watcher(index, out);
        let bytes = self.head(Revision::ZERO).control(&canceled);
        send(&mut self.streams, stream, bytes, out);
    }
}
