//! What the watermark covers goes out: events of live watchers, whole revisions in order, and word
//! of progress where there is nothing else to say.

use std::ops::Range;

use bytes::Bytes;

use super::super::response::Head;
use super::super::watcher::{Phase, Wants};
use super::super::{Event, Matched, StreamId};
use super::{Action, Hub, NOBODY, Now, OVERHEAD_BYTES, pb, send};
use crate::keys::Revision;

/// About how long one response of several revisions may get: clients that take 4 MiB at most take
/// everything but single revisions beyond that.
const RESPONSE_BYTES: usize = 1 << 20;

/// What the watcher before was sent: the next one often gets the very same bytes, for clients tend
/// to watch the same things under the same number, each on a stream of its own.
struct Before<'a> {
    id: i64,
    wants: Wants,
    batch: Vec<u32>,
    events: Vec<&'a Event>,
    /// Where its responses are among the actions.
    responses: Range<usize>,
}

impl Hub {
    /// Events from shards, in any order.
    pub fn matched(&mut self, events: Vec<Matched>) {
        for Matched { event, watchers } in events {
            self.add_pending(event, &watchers);
        }
    }

    pub(super) fn add_pending(&mut self, event: Event, watchers: &[u64]) {
        let known = self
            .pending
            .entry(event.position())
            .or_insert_with(|| Matched { event: event.clone(), watchers: Vec::new() });
        if event.has_previous() && !known.event.has_previous() {
            known.event = event;
        }
        known.watchers.extend_from_slice(watchers);
    }

    /// Everything up to `now.watermark` is here: releases it, and says who has seen everything.
    pub fn advance(&mut self, now: Now, out: &mut Vec<Action>) {
        self.w = self.w.max(now.watermark);
        self.hear_compaction(now.compacted, out);
        if self.pending.first_key_value().is_some_and(|(at, _)| at.0 <= self.w) {
            self.release(out);
        }
        self.start_reads(out);
        while let Some(&(due_ms, stream)) = self.progress_due.first()
            && due_ms <= now.now_ms
        {
            self.progress_notify(stream, now.now_ms, out);
        }
        if !self.asking.is_empty() {
            self.answer_progress(out);
        }
    }

    /// The smallest revision that somebody here waits for the watermark to reach.
    #[must_use]
    pub fn awaits(&self) -> Option<Revision> {
        let event = self.pending.first_key_value().map(|(at, _)| at.0);
        let asked = self.asking.iter().filter_map(|id| self.synced_at(*id));
        event.into_iter().chain(asked.filter(|at| *at > self.w)).min()
    }

    /// Events above `w` never happened: the epoch that made them has ended (R6).
    pub fn drop_above(&mut self, w: Revision) {
        self.pending.split_off(&(w.next(), 0));
    }

    fn release(&mut self, out: &mut Vec<Action>) {
        let later = self.pending.split_off(&(self.w.next(), 0));
        let due = std::mem::replace(&mut self.pending, later);
        let mut events = Vec::with_capacity(due.len());
        let mut touched = Vec::new();
        let mut strangers = Vec::new();
        for (at, Matched { event, watchers }) in (0_u32..).zip(due.into_values()) {
            for number in watchers {
                let Some(index) = self.watchers.find(number) else {
                    strangers.push(number);
                    continue;
                };
                let watcher = self.watchers.at(index);
                if let Phase::Registering { .. } = watcher.phase {
                    self.hold(index, &event, out);
                } else if event.revision >= watcher.next
                    && watcher.wants.accepts(&event)
                    && watcher.batch.last() != Some(&at)
                {
                    if watcher.batch.is_empty() {
                        touched.push(index);
                    }
                    watcher.batch.push(at);
                }
            }
            events.push(event);
        }
        self.send_batches(&events, &touched, out);
        // They left after the shard had sent this, or the word of it missed a range on the move.
        strangers.sort_unstable();
        strangers.dedup();
        let names = strangers.into_iter().map(|number| self.name(number));
        out.extend(names.map(|watcher| Action::Unregister { watcher }));
    }

    fn send_batches(&mut self, events: &[Event], touched: &[usize], out: &mut Vec<Action>) {
        let head = self.head(self.w);
        let fragment_bytes = self.config.max_request_bytes + OVERHEAD_BYTES;
        let mut before: Option<Before<'_>> = None;
        for &index in touched {
            let watcher = self.watchers.at(index);
            let stream = self.streams.get_mut(&watcher.stream).expect("its stream is open");
            if stream.waiting_bytes > self.config.waiting_bytes_max {
                let first = std::mem::take(&mut watcher.batch)[0];
                self.stall(index, events[first as usize].revision, out);
                continue;
            }
            let (id, wants, begin) = (watcher.id, watcher.wants, out.len());
            let last = before.get_or_insert_with(|| Before::nothing(wants));
            let same_events = last.batch == watcher.batch;
            if !same_events {
                last.batch.clone_from(&watcher.batch);
                last.events.clear();
                last.events.extend(watcher.batch.iter().map(|at| &events[*at as usize]));
            }
            if same_events && last.id == id && last.wants == wants {
                for at in last.responses.clone() {
                    let Action::Send { bytes, .. } = &out[at] else { unreachable!("sent above") };
                    out.push(Action::Send { stream: watcher.stream, bytes: bytes.clone() });
                }
            } else {
                encode(&head, id, wants, &last.events, fragment_bytes, &mut |bytes| {
                    out.push(Action::Send { stream: watcher.stream, bytes });
                });
                (last.id, last.wants) = (id, wants);
            }
            last.responses = begin..out.len();
            for action in &out[begin..] {
                let Action::Send { bytes, .. } = action else { unreachable!("sent above") };
                stream.waiting_bytes += bytes.len();
            }
            watcher.batch.clear();
            watcher.quiet = false;
            watcher.next = self.w.next();
        }
    }

    /// Sends one watcher events that it alone has been waiting for, all it wants of them.
    pub(super) fn send_events(
        &mut self,
        index: usize,
        events: &[Event],
        revision: Revision,
        out: &mut Vec<Action>,
    ) {
        let head = self.head(revision);
        let fragment_bytes = self.config.max_request_bytes + OVERHEAD_BYTES;
        let watcher = self.watchers.at(index);
        let wanted =
            |event: &&Event| event.revision >= watcher.next && watcher.wants.accepts(event);
        let mut chosen: Vec<&Event> = events.iter().filter(wanted).collect();
        chosen.dedup_by_key(|event| event.position());
        let Some(last) = chosen.last() else { return };
        watcher.quiet = false;
        watcher.next = last.revision.next();
        let (stream, streams) = (watcher.stream, &mut self.streams);
        encode(&head, watcher.id, watcher.wants, &chosen, fragment_bytes, &mut |bytes| {
            send(streams, stream, bytes, out);
        });
    }

    /// Tells the quiet watchers of a stream that want it how far they are.
    fn progress_notify(&mut self, id: StreamId, now_ms: u64, out: &mut Vec<Action>) {
        let period_ms = self.progress_period_ms(id);
        let stream = self.streams.get_mut(&id).expect("closing a stream removes its due time");
        self.progress_due.remove(&(stream.progress_due_ms, id));
        stream.progress_due_ms = now_ms + period_ms;
        self.progress_due.insert((stream.progress_due_ms, id));
        if stream.waiting_bytes > self.config.waiting_bytes_max {
            return;
        }
        let mut told = Vec::new();
        for (&watch_id, &index) in &stream.watchers {
            let watcher = self.watchers.at(index);
            if watcher.wants.progress && watcher.quiet && watcher.is_synced(self.w) {
                told.push(watch_id);
            }
            watcher.quiet = true;
        }
        for watch_id in told {
            self.send_progress(id, watch_id, out);
        }
    }

    /// Answers the streams that asked and whose watchers have all seen everything.
    fn answer_progress(&mut self, out: &mut Vec<Action>) {
        for id in self.asking.clone() {
            if self.streams[&id].watchers.is_empty() {
                // As etcd: there is nobody to speak for.
                self.asking.remove(&id);
            } else if self.synced_at(id).is_some_and(|at| at <= self.w) {
                self.asking.remove(&id);
                self.send_progress(id, NOBODY, out);
            }
        }
    }

    /// The watermark at which all watchers of a stream have seen everything, if they are all live.
    fn synced_at(&self, id: StreamId) -> Option<Revision> {
        let watchers = self.streams.get(&id)?.watchers.values();
        watchers
            .map(|&index| self.watchers.get(index).live_from())
            .try_fold(Revision::ZERO, |most, from| Some(most.max(from?.prev())))
    }

    fn send_progress(&mut self, stream: StreamId, watch_id: i64, out: &mut Vec<Action>) {
        let progress = pb::WatchResponse { watch_id, ..pb::WatchResponse::default() };
        self.send_control(stream, self.w, &progress, out);
    }
}

impl Before<'_> {
    /// Nobody was sent anything yet.
    fn nothing(wants: Wants) -> Self {
        Before { id: NOBODY, wants, batch: Vec::new(), events: Vec::new(), responses: 0..0 }
    }
}

fn encode(
    head: &Head,
    id: i64,
    wants: Wants,
    events: &[&Event],
    fragment_bytes: usize,
    send: &mut dyn FnMut(Bytes),
) {
    let fragment_bytes = wants.fragments.then_some(fragment_bytes);
    head.responses(id, events, wants.previous, RESPONSE_BYTES, fragment_bytes, send);
}
