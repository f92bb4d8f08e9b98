//! One thread of load: its connections, its clients and what they measure. It knows the plan and the common
//! times; it does not know who reads its record.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cored_proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse};
use prost::Message;
use tokio::task::JoinHandle;

use crate::client::{CallError, Caller, Connection, Rpc, Stream};
use crate::framing::frame;
use crate::pace::{Pace, Pacer, Timeline};
use crate::random::Random;
use crate::record::Record;
use crate::schedule::{Arrivals, Schedule};
use crate::verify::Acknowledged;
use crate::workload::{Kind, Operation, Settings, Workload, Write};

/// How requests are spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pacing {
    /// Each client sends when it has its answer.
    Closed,
    /// All clients together follow a schedule.
    Open {
        /// Requests a second.
        rate_per_s: f64,
        /// How they are spaced.
        arrivals: Arrivals,
    },
}

/// The load, as all threads need to know it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to; connections take them in turn.
    pub endpoints: Vec<String>,
    /// Connections, of all threads together.
    pub conns: u32,
    /// Requests in flight at most, of all threads together.
    pub clients: u32,
    /// Threads.
    pub threads: u32,
    /// Closed or open.
    pub pacing: Pacing,
    /// Load before measuring begins.
    pub warmup: Duration,
    /// Measuring, unless a number of requests ends it.
    pub duration: Option<Duration>,
    /// Requests in the window, unless time ends it.
    pub requests: Option<u64>,
    /// How long to wait for answers after the end.
    pub patience: Duration,
    /// Fixes keys, values and random arrivals.
    pub seed: u64,
    /// Whether clients note what was acknowledged.
    pub verify: bool,
    /// Time to live of the leases that keepalives renew, in seconds.
    pub lease_ttl_s: i64,
    /// What to send.
    pub settings: Arc<Settings>,
}

/// What a thread shows while it runs.
#[derive(Debug)]
pub struct Board {
    record: Mutex<Record>,
    answered: AtomicU64,
    written_at: AtomicI64,
}

impl Board {
    /// An empty board for a mix of `kinds` kinds.
    #[must_use]
    pub fn new(kinds: usize) -> Board {
        Board {
            record: Mutex::new(Record::new(kinds)),
            answered: AtomicU64::new(0),
            written_at: AtomicI64::new(0),
        }
    }

    /// What was measured since the coordinator last took it.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        // A thread that panicked ends the run anyway; its numbers are whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests answered well so far, warm-up included.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// The highest revision that a write was given so far; 0 before the first.
    #[must_use]
    pub fn written_at(&self) -> i64 {
        self.written_at.load(Ordering::Relaxed)
    }

    /// Exchanges what was measured for an empty record.
    pub fn take(&self, empty: &mut Record) {
        std::mem::swap(&mut *self.record(), empty);
    }
}

/// What a thread leaves when it ends.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Notes for the check, when they were wanted.
    pub acknowledged: Acknowledged,
    /// Requests still without an answer when patience ended.
    pub unanswered: u64,
    /// Requests that were due and never sent.
    pub unsent: u64,
}

/// A thread's clients, connected and ready.
#[derive(Debug)]
pub struct Crew {
    plan: Arc<Plan>,
    index: u32,
    board: Arc<Board>,
    clients: Vec<Client>,
}

impl Crew {
    /// Connects this thread's share of the clients, and gives each a lease if the load needs one.
    ///
    /// # Errors
    /// The first failure: a load that cannot begin as planned should not begin.
    pub async fn assemble(
        plan: Arc<Plan>,
        index: u32,
        board: Arc<Board>,
    ) -> Result<Crew, CallError> {
        let streams_max = plan.clients.div_ceil(plan.conns.max(1)) as usize;
        let mut connections = Vec::new();
        for conn in (index..plan.conns).step_by(plan.threads as usize) {
            let endpoint = &plan.endpoints[conn as usize % plan.endpoints.len()];
            let connection = Connection::new(endpoint, streams_max).map_err(CallError::NotGrpc)?;
            connection.establish().await?;
            connections.push(connection);
        }
        let needs_lease = plan.settings.mix.kinds().any(|kind| kind == Kind::LeaseKeepalive);
        let mut clients = Vec::new();
        for id in (index..plan.clients).step_by(plan.threads as usize) {
            let connection = Rc::clone(&connections[clients.len() % connections.len()]);
            let mut client = Client {
                caller: Caller::new(connection),
                keepalive: None,
                workload: Workload::new(Arc::clone(&plan.settings), plan.seed, id),
                board: Arc::clone(&board),
                notes: Rc::default(),
                verify: plan.verify,
            };
            if needs_lease {
                client.take_lease(plan.lease_ttl_s).await?;
            }
            clients.push(client);
        }
        Ok(Crew { plan, index, board, clients })
    }

    /// Runs the load to its end and waits, within patience, for the last answers.
    ///
    /// # Errors
    /// When the kernel refuses a timer.
    pub async fn run(
        self,
        timeline: Timeline,
        left: Option<Arc<AtomicI64>>,
    ) -> std::io::Result<Outcome> {
        let Crew { plan, index, board, clients } = self;
        let pacer = match plan.pacing {
            Pacing::Closed => None,
            Pacing::Open { rate_per_s, arrivals } => {
                // Streams of the generator above the clients' own.
                let random = Random::new(plan.seed, u64::from(u32::MAX) + u64::from(index));
                let schedule = Schedule::new(arrivals, rate_per_s, index, plan.threads, random);
                Some(Pacer::new(timeline, left.clone(), schedule))
            }
        };
        let pace = match &pacer {
            Some(pacer) => Pace::Open(Rc::clone(pacer)),
            None => Pace::Closed { timeline, left },
        };
        // A closed loop has no schedule that would keep it from starting too early.
        tokio::time::sleep_until(timeline.load_start.into()).await;
        let mut notes = Vec::with_capacity(clients.len());
        let tasks: Vec<JoinHandle<()>> = clients
            .into_iter()
            .map(|client| {
                notes.push(Rc::clone(&client.notes));
                tokio::task::spawn_local(client.run(pace.clone(), timeline))
            })
            .collect();
        if let Some(pacer) = &pacer {
            pacer.run().await?;
        }
        wait_for_all(tasks, timeline.window_end, plan.patience).await;

        let mut outcome = Outcome::default();
        for notes in notes {
            let mut notes = notes.take();
            if let Some((key, write)) = notes.in_flight {
                outcome.unanswered += 1;
                notes.acknowledged.unanswered(key, write);
            }
            outcome.acknowledged.merge(notes.acknowledged);
        }
        if let Some(pacer) = pacer {
            let mut record = board.record();
            pacer.drain_unsent(|age| {
                outcome.unsent += 1;
                record.unsent(0, age.as_nanos() as u64);
            });
        }
        Ok(outcome)
    }
}

/// Waits for the tasks until `patience` after the end of the window; what is not done then is dropped.
async fn wait_for_all(tasks: Vec<JoinHandle<()>>, window_end: Instant, patience: Duration) {
    let deadline = tokio::time::Instant::from_std(window_end + patience);
    for task in tasks {
        let abort = task.abort_handle();
        match tokio::time::timeout_at(deadline, task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) | Err(_) => abort.abort(),
        }
    }
}

/// What a client knows that must outlive it when it is dropped in the middle of a request.
#[derive(Debug, Default)]
struct Notes {
    acknowledged: Acknowledged,
    in_flight: Option<(u64, Write)>,
}

#[derive(Debug)]
struct Client {
    caller: Caller,
    keepalive: Option<Stream>,
    workload: Workload,
    board: Arc<Board>,
    notes: Rc<RefCell<Notes>>,
    verify: bool,
}

impl Client {
    async fn take_lease(&mut self, ttl_s: i64) -> Result<(), CallError> {
        let request = LeaseGrantRequest { ttl: ttl_s, id: 0 };
        let reply = self.caller.unary(Rpc::LeaseGrant, frame(&request)).await?;
        self.workload.set_lease(LeaseGrantResponse::decode(reply)?.id);
        Ok(())
    }

    async fn run(mut self, pace: Pace, timeline: Timeline) {
        let Timeline { load_start, window_start, .. } = timeline;
        while let Some(due) = pace.next().await {
            let due_ns = due.saturating_duration_since(load_start).as_nanos() as u64;
            let Some(operation) = self.workload.next(due_ns) else { return };
            self.notes.borrow_mut().in_flight = Some((operation.key, operation.write));
            let begun = Instant::now();
            let reply = self.call(&operation).await;
            let ended = Instant::now();
            // In a closed loop a request is due when it is sent; `due` was read a moment earlier.
            let due = if matches!(pace, Pace::Closed { .. }) { begun } else { due };
            let counts = due >= window_start;
            self.note(&operation, reply, counts, ended - due, ended - begun);
        }
    }

    async fn call(&mut self, operation: &Operation) -> Result<Bytes, CallError> {
        // Cheap: the buffer is shared.
        let framed = operation.framed.clone();
        if operation.rpc != Rpc::LeaseKeepAlive {
            return self.caller.unary(operation.rpc, framed).await;
        }
        let mut stream = match self.keepalive.take() {
            Some(stream) => stream,
            None => self.caller.open(Rpc::LeaseKeepAlive).await?,
        };
        stream.send(framed)?;
        let reply = stream.next().await?;
        self.keepalive = Some(stream);
        reply.ok_or_else(|| CallError::NotGrpc("the keepalive stream was ended".to_owned()))
    }

    fn note(
        &mut self,
        operation: &Operation,
        reply: Result<Bytes, CallError>,
        counts: bool,
        response: Duration,
        service: Duration,
    ) {
        let answer = reply.and_then(|reply| Ok(self.workload.answered(operation, reply)?));
        let mut notes = self.notes.borrow_mut();
        notes.in_flight = None;
        if self.verify && operation.write != Write::None {
            match &answer {
                Ok(answer) => {
                    if let Some(revision) = answer.written_at {
                        notes.acknowledged.written(operation.key, operation.write, revision);
                    }
                }
                // Some errors say that nothing happened, but none needs to be believed.
                Err(_) => notes.acknowledged.unanswered(operation.key, operation.write),
            }
        }
        if let Ok(answer) = &answer {
            self.board.answered.fetch_add(1, Ordering::Relaxed);
            if let Some(revision) = answer.written_at {
                self.board.written_at.fetch_max(revision, Ordering::Relaxed);
            }
        }
        if !counts {
            return;
        }
        let mut record = self.board.record();
        match answer {
            Ok(answer) => record.answered(
                operation.kind,
                response.as_nanos() as u64,
                service.as_nanos() as u64,
                &answer,
            ),
            Err(error) => record.failed(operation.kind, &error.to_string()),
        }
    }
}
