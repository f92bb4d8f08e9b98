//! The receiving side of a watch fan-out: many watchers on few streams, each of which must be told of every
//! write, once and in order. It reads from each event's value when its write was due, and knows nothing of the writers.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cored_proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use prost::Message;
use tokio::sync::watch::Receiver;

use crate::client::{CallError, Caller, Connection, Rpc, Stream};
use crate::framing::frame;
use crate::pace::Timeline;
use crate::verify::read_tag;
use crate::worker::Board;

/// The position of puts in the record of a fan-out.
pub const PUTS: usize = 0;
/// The position of events there.
pub const EVENTS: usize = 1;

/// The watchers, as all threads need to know them.
#[derive(Clone, Debug)]
pub struct WatchPlan {
    /// Where to; connections take them in turn.
    pub endpoints: Vec<String>,
    /// Connections, of all threads together.
    pub conns: u32,
    /// Streams, of all threads together.
    pub streams: u32,
    /// Watchers, of all threads together.
    pub watchers: u32,
    /// Threads.
    pub threads: u32,
    /// What they watch.
    pub key: Bytes,
    /// Up to where; empty for the one key.
    pub range_end: Bytes,
    /// How long the last events may take after the last write.
    pub patience: Duration,
}

/// What the writers did in the end, and so what the watchers must have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The highest revision of a write.
    pub revision: i64,
    /// Acknowledged writes. A write without an answer may have happened, so there may be more events.
    pub writes: u64,
}

/// What some watchers were told, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Watchers.
    pub watchers: u64,
    /// Events, those of the warm-up included.
    pub events: u64,
    /// Events that some watcher never saw though their write was acknowledged.
    pub missed: u64,
    /// Responses that went back to a revision that the watcher had already passed.
    pub out_of_order: u64,
}

impl Tally {
    /// Adds another thread's.
    pub fn add(&mut self, other: Tally) {
        self.watchers += other.watchers;
        self.events += other.events;
        self.missed += other.missed;
        self.out_of_order += other.out_of_order;
    }

    /// Everybody saw everything in order.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.missed == 0 && self.out_of_order == 0
    }
}

/// One thread's streams, their watchers created.
#[derive(Debug)]
pub struct Audience(Vec<WatchStream>);

impl Audience {
    /// Opens this thread's share of the streams and waits until the server has created their watchers.
    ///
    /// # Errors
    /// The first failure, or a watcher that the server did not want.
    pub async fn assemble(
        plan: Arc<WatchPlan>,
        index: u32,
        board: Arc<Board>,
    ) -> Result<Audience, CallError> {
        let mut connections = Vec::new();
        for conn in (index..plan.conns).step_by(plan.threads as usize) {
            let endpoint = &plan.endpoints[conn as usize % plan.endpoints.len()];
            let streams_max = plan.streams.div_ceil(plan.conns) as usize;
            let connection = Connection::new(endpoint, streams_max).map_err(CallError::NotGrpc)?;
            connection.establish().await?;
            connections.push(connection);
        }
        let mut streams = Vec::new();
        for id in (index..plan.streams).step_by(plan.threads as usize) {
            let connection = connections[streams.len() % connections.len()].clone();
            let watchers = (id..plan.watchers).step_by(plan.streams as usize).len();
            let stream = Caller::new(connection).open(Rpc::Watch).await?;
            let mut stream =
                WatchStream { stream, seen: vec![Seen::default(); watchers], board: board.clone() };
            stream.create(&plan).await?;
            streams.push(stream);
        }
        Ok(Audience(streams))
    }

    /// Listens until the goal is known and reached, or patience with the rest has ended.
    pub async fn run(
        self,
        timeline: Timeline,
        goal: Receiver<Option<Goal>>,
        patience: Duration,
    ) -> Tally {
        let streams: Vec<_> = self
            .0
            .into_iter()
            .map(|stream| tokio::task::spawn_local(stream.listen(timeline, goal.clone(), patience)))
            .collect();
        let mut tally = Tally::default();
        for stream in streams {
            match stream.await {
                Ok(one) => tally.add(one),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        tally
    }
}

/// What one watcher was told so far.
#[derive(Clone, Debug, Default)]
struct Seen {
    revision: i64,
    events: u64,
    out_of_order: u64,
}

/// A stream with its watchers; number `i` of them has the watch id `i + 1`.
#[derive(Debug)]
struct WatchStream {
    stream: Stream,
    seen: Vec<Seen>,
    board: Arc<Board>,
}

impl WatchStream {
    async fn create(&mut self, plan: &WatchPlan) -> Result<(), CallError> {
        for watch_id in 1..=self.seen.len() as i64 {
            let create = WatchCreateRequest {
                key: plan.key.clone(),
                range_end: plan.range_end.clone(),
                watch_id,
                ..WatchCreateRequest::default()
            };
            let union = Some(RequestUnion::CreateRequest(create));
            self.stream.send(frame(&WatchRequest { request_union: union }))?;
        }
        let mut created = 0;
        while created < self.seen.len() {
            let Some(message) = self.stream.next().await? else { return Err(ended()) };
            let response = WatchResponse::decode(message)?;
            if response.canceled {
                return Err(canceled(&response));
            }
            created += usize::from(response.created);
        }
        Ok(())
    }

    async fn listen(
        mut self,
        timeline: Timeline,
        mut goal: Receiver<Option<Goal>>,
        patience: Duration,
    ) -> Tally {
        let mut deadline = None;
        loop {
            let known = *goal.borrow_and_update();
            if let Some(goal) = known {
                deadline.get_or_insert_with(|| tokio::time::Instant::now() + patience);
                if self.seen.iter().all(|seen| seen.revision >= goal.revision) {
                    break;
                }
            }
            let end_of_patience = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => pending().await,
                }
            };
            let message = tokio::select! {
                biased;
                message = self.stream.next() => message,
                changed = goal.changed(), if known.is_none() => match changed {
                    Ok(()) => continue,
                    // Nobody will tell any more: the run was given up.
                    Err(_) => break,
                },
                () = end_of_patience => break,
            };
            let heard = match message {
                Ok(Some(message)) => self.hear(message, timeline),
                Ok(None) => Err(ended()),
                Err(error) => Err(error),
            };
            if let Err(error) = heard {
                self.board.record().failed(EVENTS, &error.to_string());
                break;
            }
        }
        self.tally(*goal.borrow())
    }

    /// Notes a response and all that arrived with it.
    fn hear(&mut self, first: Bytes, timeline: Timeline) -> Result<(), CallError> {
        let now = Instant::now();
        let now_ns = (now.saturating_duration_since(timeline.load_start)).as_nanos() as u64;
        let window_ns = (timeline.window_start - timeline.load_start).as_nanos() as u64;
        let board = Arc::clone(&self.board);
        let mut record = board.record();
        // Most watchers see the same event one after the other: their latencies are noted together.
        let (mut due_ns, mut times) = (0, 0);
        let mut message = Some(first);
        while let Some(response) = message {
            let response = WatchResponse::decode(response)?;
            if response.canceled {
                return Err(canceled(&response));
            }
            self.note_order(&response)?;
            for event in &response.events {
                let tag = event.kv.as_ref().and_then(|kv| read_tag(&kv.value));
                let Some(tag) = tag.filter(|&tag| tag >= window_ns) else { continue };
                if tag != due_ns && times > 0 {
                    record.seen(EVENTS, now_ns.saturating_sub(due_ns), times);
                    times = 0;
                }
                due_ns = tag;
                times += 1;
            }
            message = self.stream.arrived()?;
        }
        if times > 0 {
            record.seen(EVENTS, now_ns.saturating_sub(due_ns), times);
        }
        Ok(())
    }

    fn note_order(&mut self, response: &WatchResponse) -> Result<(), CallError> {
        let revisions =
            || response.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision));
        let (Some(first), Some(last)) = (revisions().next(), revisions().last()) else {
            return Ok(());
        };
        let seen = usize::try_from(response.watch_id - 1).ok().and_then(|i| self.seen.get_mut(i));
        let Some(seen) = seen else {
            let id = response.watch_id;
            return Err(CallError::NotGrpc(format!("an event for watch id {id}, never created")));
        };
        seen.out_of_order += u64::from(first <= seen.revision || !revisions().is_sorted());
        seen.revision = seen.revision.max(last);
        seen.events += response.events.len() as u64;
        Ok(())
    }

    fn tally(&self, goal: Option<Goal>) -> Tally {
        let writes = goal.map_or(0, |goal| goal.writes);
        let mut tally = Tally { watchers: self.seen.len() as u64, ..Tally::default() };
        for seen in &self.seen {
            tally.events += seen.events;
            tally.missed += writes.saturating_sub(seen.events);
            tally.out_of_order += seen.out_of_order;
        }
        tally
    }
}

fn ended() -> CallError {
    CallError::NotGrpc("the server ended the watch stream".to_owned())
}

fn canceled(response: &WatchResponse) -> CallError {
    CallError::NotGrpc(format!(
        "watcher {} cancelled: {}",
        response.watch_id, response.cancel_reason
    ))
}
