//! The watch streams of one core's clients. The hub decides what each watcher is sent and when:
//! every event once, in revision order, whole revisions, nothing above the watermark; a client that
//! does not keep up reads history later instead of holding anybody up (R11).
//!
//! A watcher reads [history](Action::History) in bounded chunks until it is near the watermark,
//! then [registers](Action::Register) with the shards and is live. When its stream has too much
//! unsent it is [unregistered](Action::Unregister) and starts over from where it stands. The hub
//! knows no shards, no connections and no clock: the engine carries its [actions](Action) out.

mod catch_up;
mod release;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;

use super::response::Head;
use super::slots::Slots;
use super::watcher::{Phase, Stream, Wants, Watcher};
use super::{Matched, StreamId, WatchInput, WatcherId};
use crate::keys::{CoreId, KeyRange, Revision};
use crate::mvcc::Position;

/// The number that stands for no watcher, or for all of a stream.
const NOBODY: i64 = -1;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// Bytes that etcd allows a message beyond `--max-request-bytes`.
const OVERHEAD_BYTES: usize = 512 << 10;

/// What a hub must know of its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// The cluster's number, for headers.
    pub cluster_id: u64,
    /// The member's number, for headers.
    pub member_id: u64,
    /// `--max-request-bytes`: fragments stay below this and an overhead.
    pub max_request_bytes: usize,
    /// `--watch-progress-notify-interval`; each stream adds up to a tenth of it.
    pub progress_notify_ms: u64,
    /// Unsent bytes of one stream above which its watchers fall behind.
    pub waiting_bytes_max: usize,
    /// About how much history one read may bring.
    pub history_bytes: usize,
}

impl Default for HubConfig {
    fn default() -> HubConfig {
        HubConfig {
            cluster_id: 0,
            member_id: 0,
            max_request_bytes: 3 << 19,
            progress_notify_ms: 600_000,
            waiting_bytes_max: 8 << 20,
            history_bytes: 512 << 10,
        }
    }
}

/// Where the world stands when the hub is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For [`Hub::advance`] the watermark that was loaded before this core's queues were drained;
    /// for [`Hub::input`] the newest watermark.
    pub watermark: Revision,
    /// History before this revision is gone.
    pub compacted: Revision,
    /// Milliseconds of a monotonic clock.
    pub now_ms: u64,
}

/// What the hub asks for. Each `Register` and each `History` is owed exactly one answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Tell every shard of the range to send `watcher` all events from now on, and to hand out those
    /// from `from` on that it has already, above the watermark too. To be answered by
    /// [`Hub::registered`], [`Hub::too_far`] or [`Hub::compacted`].
    Register {
        /// Who.
        watcher: WatcherId,
        /// Which keys.
        range: KeyRange,
        /// First revision wanted.
        from: Revision,
        /// Whether events carry the version before.
        prev_kv: bool,
    },
    /// No shard shall send `watcher` anything any more.
    Unregister {
        /// Who.
        watcher: WatcherId,
    },
    /// Read history from `from` on, up to the watermark, at most about `max_bytes` but at least one
    /// revision. To be answered by [`Hub::history`] or [`Hub::compacted`].
    History {
        /// For whom.
        watcher: WatcherId,
        /// Which keys.
        range: KeyRange,
        /// First revision wanted.
        from: Revision,
        /// Whether events carry the version before.
        prev_kv: bool,
        /// About how much.
        max_bytes: usize,
    },
    /// Send an encoded `WatchResponse`; [`WatchInput::Sent`] is owed for its bytes.
    Send {
        /// To whom.
        stream: StreamId,
        /// What.
        bytes: Bytes,
    },
}

/// How many there are of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open streams.
    pub streams: usize,
    /// Watchers.
    pub watchers: usize,
    /// Watchers that are not live.
    pub slow: usize,
    /// Events that wait for the watermark.
    pub pending: usize,
}

/// The watch streams of one core.
#[derive(Debug)]
pub struct Hub {
    core: CoreId,
    config: HubConfig,
    term: u64,
    /// Everything up to here has been released.
    w: Revision,
    compacted: Revision,
    streams: BTreeMap<StreamId, Stream>,
    watchers: Slots<Watcher>,
    /// Events of live and registering watchers that wait for the watermark. Bounded by the writes
    /// that may be in flight.
    pending: BTreeMap<Position, Matched>,
    /// Numbers of watchers that want to read history, in order.
    queued: VecDeque<u64>,
    /// Numbers of reads that are under way and may bring much.
    reads: BTreeSet<u64>,
    /// Numbers of watchers whose history a shard knows to be compacted, and this core does not yet.
    awaiting_compaction: Vec<u64>,
    /// Streams that asked for progress and have not been told.
    asking: BTreeSet<StreamId>,
    /// When to look at which stream's progress.
    progress_due: BTreeSet<(u64, StreamId)>,
}

impl Hub {
    /// A hub without streams.
    #[must_use]
    pub fn new(core: CoreId, config: HubConfig) -> Hub {
        Hub {
            core,
            config,
            term: 0,
            w: Revision::ZERO,
            compacted: Revision::ZERO,
            streams: BTreeMap::new(),
            watchers: Slots::default(),
            pending: BTreeMap::new(),
            queued: VecDeque::new(),
            reads: BTreeSet::new(),
            awaiting_compaction: Vec::new(),
            asking: BTreeSet::new(),
            progress_due: BTreeSet::new(),
        }
    }

    /// The Raft term that headers carry from now on.
    pub fn set_term(&mut self, term: u64) {
        self.term = term;
    }

    /// Takes what happens on a client's stream.
    pub fn input(&mut self, id: StreamId, input: WatchInput, now: Now, out: &mut Vec<Action>) {
        match input {
            WatchInput::Open => self.open(id, now.now_ms),
            WatchInput::Request(request) => self.request(id, request, now, out),
            WatchInput::Sent { bytes } => self.sent(id, bytes, out),
            WatchInput::Close => self.close(id, out),
        }
    }

    /// How many there are of what; walks all watchers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            streams: self.streams.len(),
            watchers: self.watchers.iter().count(),
            slow: self.watchers.iter().filter(|w| !matches!(w.phase, Phase::Live)).count(),
            pending: self.pending.len(),
        }
    }

    fn open(&mut self, id: StreamId, now_ms: u64) {
        let progress_due_ms = now_ms + self.progress_period_ms(id);
        self.progress_due.insert((progress_due_ms, id));
        self.streams.insert(id, Stream { progress_due_ms, ..Stream::default() });
    }

    fn close(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.asking.remove(&id);
        self.progress_due.remove(&(stream.progress_due_ms, id));
        for index in stream.watchers.into_values() {
            self.forget(index, out);
        }
    }

    fn request(
        &mut self,
        id: StreamId,
        request: pb::WatchRequest,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some(stream) = self.streams.get(&id) else { return };
        if stream.waiting_bytes > 2 * self.config.waiting_bytes_max {
            // It asks and asks and reads none of the answers: they would grow without bound.
            return;
        }
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(id, &create, now, out),
            Some(RequestUnion::CancelRequest(cancel)) => {
                self.cancel(id, cancel.watch_id, now.watermark, out);
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.asking.insert(id);
            }
            None => {}
        }
    }

    fn create(
        &mut self,
        stream_id: StreamId,
        request: &pb::WatchCreateRequest,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        // The smallest key there is stands for the empty one.
        let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
        let range = KeyRange::from_request(key, &request.range_end);
        let stream = self.streams.get_mut(&stream_id).expect("just seen");
        let refusal = if request.start_revision < 0 {
            Some(COMPACTED)
        } else if range.is_empty() {
            Some(EMPTY_RANGE)
        } else if request.watch_id != 0 && stream.watchers.contains_key(&request.watch_id) {
            Some(DUPLICATE_ID)
        } else {
            None
        };
        if let Some(reason) = refusal {
            let refused = pb::WatchResponse {
                watch_id: NOBODY,
                created: true,
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..pb::WatchResponse::default()
            };
            return self.send_control(stream_id, now.watermark, &refused, out);
        }
        let watch_id = match request.watch_id {
            0 => pick_id(stream),
            own => own,
        };
        let next = match request.start_revision {
            0 => now.watermark.next(),
            start => Revision(start),
        };
        let filters = |kind: FilterType| request.filters.contains(&(kind as i32));
        let index = self.watchers.insert(Watcher {
            stream: stream_id,
            id: watch_id,
            range,
            wants: Wants {
                puts: !filters(FilterType::Noput),
                deletes: !filters(FilterType::Nodelete),
                previous: request.prev_kv,
                fragments: request.fragment,
                progress: request.progress_notify,
            },
            next,
            phase: Phase::Queued,
            quiet: true,
            batch: Vec::new(),
        });
        stream.watchers.insert(watch_id, index);
        let created = pb::WatchResponse { watch_id, created: true, ..pb::WatchResponse::default() };
        self.send_control(stream_id, now.watermark, &created, out);
        self.hear_compaction(now.compacted, out);
        if next > now.watermark {
            self.register(index, false, out);
        } else {
            self.queue(index, out);
        }
    }

    fn cancel(&mut self, id: StreamId, watch_id: i64, w: Revision, out: &mut Vec<Action>) {
        let stream = self.streams.get(&id).expect("just seen");
        let Some(&index) = stream.watchers.get(&watch_id) else { return };
        self.drop_watcher(index, out);
        let canceled =
            pb::WatchResponse { watch_id, canceled: true, ..pb::WatchResponse::default() };
        self.send_control(id, w, &canceled, out);
    }

    /// Takes a watcher out of its stream and forgets it.
    fn drop_watcher(&mut self, index: usize, out: &mut Vec<Action>) {
        let Watcher { stream, id, .. } = *self.watchers.at(index);
        let stream = self.streams.get_mut(&stream).expect("a watcher's stream is open");
        stream.watchers.remove(&id);
        stream.stalled.remove(&index);
        self.forget(index, out);
    }

    fn forget(&mut self, index: usize, out: &mut Vec<Action>) {
        let number = self.watchers.number(index);
        let watcher = self.watchers.remove(index);
        // One that registers is unregistered when the answer comes: until then parts of its
        // registration may still be on their way to shards.
        if matches!(watcher.phase, Phase::Live) {
            out.push(Action::Unregister { watcher: self.name(number) });
        }
    }

    fn sent(&mut self, id: StreamId, bytes: usize, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.waiting_bytes = stream.waiting_bytes.saturating_sub(bytes);
        if stream.waiting_bytes <= self.config.waiting_bytes_max / 2 {
            for index in std::mem::take(&mut stream.stalled) {
                self.queue(index, out);
            }
        }
    }

    fn send_control(
        &mut self,
        stream: StreamId,
        revision: Revision,
        response: &pb::WatchResponse,
        out: &mut Vec<Action>,
    ) {
        let bytes = self.head(revision).control(response);
        send(&mut self.streams, stream, bytes, out);
    }

    fn head(&self, revision: Revision) -> Head {
        Head::new(self.config.cluster_id, self.config.member_id, self.term, revision)
    }

    fn name(&self, number: u64) -> WatcherId {
        WatcherId { core: self.core, number }
    }

    /// The interval between two looks at a stream's progress: what is configured, and up to a tenth
    /// more, so that streams opened together do not all speak at once.
    fn progress_period_ms(&self, id: StreamId) -> u64 {
        let interval_ms = self.config.progress_notify_ms.max(100);
        let spread = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        interval_ms + spread % (interval_ms / 10 + 1)
    }
}

/// The next free number of a stream, from 0 upward.
fn pick_id(stream: &mut Stream) -> i64 {
    while stream.watchers.contains_key(&stream.next_id) {
        stream.next_id += 1;
    }
    stream.next_id += 1;
    stream.next_id - 1
}

fn send(
    streams: &mut BTreeMap<StreamId, Stream>,
    id: StreamId,
    bytes: Bytes,
    out: &mut Vec<Action>,
) {
    let stream = streams.get_mut(&id).expect("a watcher's stream is open");
    stream.waiting_bytes += bytes.len();
    out.push(Action::Send { stream: id, bytes });
}

#[cfg(test)]
mod tests;
