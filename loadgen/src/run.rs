//! Coordination of a run: starts the threads, gives all of them the same times, empties their records once a second
//! and adds everything up. It knows no request and prints nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;

use crate::client::CallError;
use crate::pace::Timeline;
use crate::record::Record;
use crate::usage::{Spent, Usage, resident_kib};
use crate::watch::{Audience, Goal, Tally, WatchPlan};
use crate::worker::{Board, Crew, Outcome, Plan};

/// Between "go" and the first request, so that every thread has heard it.
const LEAD: Duration = Duration::from_millis(20);
/// The end of a load that a number of requests ends, or a full key space.
const FAR_AWAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Between two progress reports.
const INTERVAL: Duration = Duration::from_secs(1);

/// Everything that is to run at the same time.
#[derive(Clone, Debug)]
pub struct Job {
    /// Requests.
    pub plan: Arc<Plan>,
    /// Watchers of what they write.
    pub watch: Option<Arc<WatchPlan>>,
    /// Servers on this machine whose processor time and memory are to be told.
    pub server_pids: Vec<u32>,
}

impl Job {
    /// What is recorded, in the order of the records' kinds.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let kinds = self.plan.settings.mix.kinds().map(|kind| kind.name());
        kinds.chain(self.watch.iter().map(|_| "event")).collect()
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The load could not begin as planned.
    #[error("the load cannot begin: {0}")]
    Begin(#[source] CallError),
    /// The machine refuses what we need.
    #[error("{what}: {source}")]
    Machine {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread panicked, and has said why.
    #[error("a load thread failed")]
    Panicked,
}

/// What happened since the last report.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Since the load began.
    pub since_start: Duration,
    /// How long ago the last report was.
    pub interval: Duration,
    /// Whether this still is the warm-up: then nothing is recorded.
    pub warming_up: bool,
    /// Requests answered well in the interval, warm-up included.
    pub answered: u64,
    /// What was recorded in it.
    pub record: &'a Record,
}

/// What a run has shown.
#[derive(Debug)]
pub struct Measured {
    /// Everything that was due in the window.
    pub record: Record,
    /// How long the window was.
    pub window: Duration,
    /// Processor time in the window; `None` when a server was gone at its end.
    pub spent: Option<Spent>,
    /// Resident memory of the servers at the end and at its highest, in KiB.
    pub resident_kib: Vec<Option<(u64, u64)>>,
    /// What the threads left.
    pub outcome: Outcome,
    /// What the watchers saw.
    pub tally: Option<Tally>,
}

/// What a thread does.
#[derive(Clone, Debug)]
enum Post {
    Clients(Arc<Plan>, u32),
    Watchers(Arc<WatchPlan>, u32),
}

/// What a thread is told when all are ready.
struct Go {
    timeline: Timeline,
    left: Option<Arc<AtomicI64>>,
    goal: watch::Receiver<Option<Goal>>,
}

/// What a thread tells.
enum News {
    Ready,
    Refused(CallError),
    Done(Box<Outcome>),
    Heard(Tally),
    Failed(io::Error),
    Panicked,
}

/// Runs `job` to its end; `report` is called about once a second and once more at the end.
///
/// # Errors
/// See [`RunError`]. Failed requests are not errors but part of the result.
pub fn run(
    job: &Job,
    report: &mut dyn FnMut(&Progress) -> io::Result<()>,
) -> Result<Measured, RunError> {
    let kinds = job.names().len();
    let clients = (0..job.plan.threads).map(|i| Post::Clients(Arc::clone(&job.plan), i));
    let watchers = job
        .watch
        .iter()
        .flat_map(|plan| (0..plan.threads).map(|i| Post::Watchers(Arc::clone(plan), i)));
    let posts: Vec<Post> = clients.chain(watchers).collect();

    let (tell, news) = channel();
    let (mut boards, mut starts) = (Vec::new(), Vec::new());
    for post in posts {
        let board = Arc::new(Board::new(kinds));
        let (start, started) = oneshot::channel();
        let line = Line { tell: tell.clone(), is_done: false };
        boards.push(Arc::clone(&board));
        starts.push(start);
        thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || man(post, board, line, started))
            .map_err(|source| RunError::Machine { what: "start a thread", source })?;
    }
    for _ in &starts {
        match news.recv() {
            Ok(News::Ready) => {}
            Ok(News::Refused(error)) => return Err(RunError::Begin(error)),
            Ok(News::Failed(source)) => {
                return Err(RunError::Machine { what: "start a thread's executor", source });
            }
            Ok(_) | Err(_) => return Err(RunError::Panicked),
        }
    }
    Watch::new(job, boards, news).observe(starts, report)
}

/// The coordinator while the load runs.
struct Watch<'a> {
    job: &'a Job,
    timeline: Timeline,
    boards: Vec<Arc<Board>>,
    news: Receiver<News>,
    goal: watch::Sender<Option<Goal>>,
    total: Record,
    /// Lent to the boards in turn.
    scratch: Record,
    reported_at: Instant,
    answered: u64,
    opened: Option<Usage>,
    closed: Option<Usage>,
    closed_at: Option<Instant>,
}

impl<'a> Watch<'a> {
    fn new(job: &'a Job, boards: Vec<Arc<Board>>, news: Receiver<News>) -> Watch<'a> {
        let kinds = job.names().len();
        let load_start = Instant::now() + LEAD;
        let window_start = load_start + job.plan.warmup;
        let window_end = window_start + job.plan.duration.unwrap_or(FAR_AWAY);
        Watch {
            job,
            timeline: Timeline { load_start, window_start, window_end },
            boards,
            news,
            goal: watch::channel(None).0,
            total: Record::new(kinds),
            scratch: Record::new(kinds),
            reported_at: load_start,
            answered: 0,
            opened: None,
            closed: None,
            closed_at: None,
        }
    }

    fn observe(
        mut self,
        starts: Vec<oneshot::Sender<Go>>,
        report: &mut dyn FnMut(&Progress) -> io::Result<()>,
    ) -> Result<Measured, RunError> {
        let left = self.job.plan.requests.map(|n| Arc::new(AtomicI64::new(n.cast_signed())));
        let threads = starts.len();
        for start in starts {
            let go =
                Go { timeline: self.timeline, left: left.clone(), goal: self.goal.subscribe() };
            // A thread that is gone is missed below.
            drop(start.send(go));
        }
        let write_error = |source| RunError::Machine { what: "write a report", source };
        let (mut outcome, mut tally) = (Outcome::default(), None);
        let (mut crews_done, mut done) = (0, 0);
        while done < threads {
            match self.news.recv_timeout(self.until_next()) {
                Ok(News::Done(one)) => {
                    outcome.add(*one);
                    (crews_done, done) = (crews_done + 1, done + 1);
                    if crews_done == self.job.plan.threads {
                        self.writers_are_done();
                    }
                }
                Ok(News::Heard(one)) => {
                    tally.get_or_insert_with(Tally::default).add(one);
                    done += 1;
                }
                Ok(News::Failed(source)) => {
                    return Err(RunError::Machine { what: "run the load", source });
                }
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(RunError::Panicked),
                Err(RecvTimeoutError::Timeout) => self.read_clocks(),
            }
            if self.reported_at + INTERVAL <= Instant::now() {
                self.report(report).map_err(write_error)?;
            }
        }
        self.close();
        self.report(report).map_err(write_error)?;
        let closed_at = self.closed_at.unwrap_or_else(Instant::now);
        let spent = self.opened.zip(self.closed).map(|(a, b)| Spent::between(&a, &b));
        Ok(Measured {
            record: self.total,
            window: closed_at.saturating_duration_since(self.timeline.window_start),
            spent,
            resident_kib: self.job.server_pids.iter().map(|&pid| resident_kib(pid)).collect(),
            outcome,
            tally,
        })
    }

    /// How long until the next thing that the clock decides.
    fn until_next(&self) -> Duration {
        let mut next = self.reported_at + INTERVAL;
        if self.opened.is_none() {
            next = next.min(self.timeline.window_start);
        }
        if self.closed_at.is_none() {
            next = next.min(self.timeline.window_end);
        }
        next.saturating_duration_since(Instant::now())
    }

    fn read_clocks(&mut self) {
        let now = Instant::now();
        if self.opened.is_none() && now >= self.timeline.window_start {
            self.opened = Usage::read(&self.job.server_pids).ok();
        }
        // The events of a fan-out trail behind the writes, and their cost must be counted too.
        if self.job.watch.is_none() && now >= self.timeline.window_end {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.closed_at.is_none() {
            self.closed = Usage::read(&self.job.server_pids).ok();
            self.closed_at = Some(Instant::now());
        }
    }

    fn writers_are_done(&mut self) {
        if self.job.watch.is_none() {
            self.close();
        }
        let revision = self.boards.iter().map(|board| board.written_at()).max().unwrap_or(0);
        let writes = self.boards.iter().map(|board| board.answered()).sum();
        self.goal.send_replace(Some(Goal { revision, writes }));
    }

    fn report(&mut self, report: &mut dyn FnMut(&Progress) -> io::Result<()>) -> io::Result<()> {
        let mut fresh = Record::new(self.total.kinds.len());
        for board in &self.boards {
            self.scratch.clear();
            board.take(&mut self.scratch);
            fresh.add(&self.scratch);
        }
        let answered: u64 = self.boards.iter().map(|board| board.answered()).sum();
        let now = Instant::now();
        report(&Progress {
            since_start: now.saturating_duration_since(self.timeline.load_start),
            interval: now.saturating_duration_since(self.reported_at),
            warming_up: now < self.timeline.window_start,
            answered: answered - self.answered,
            record: &fresh,
        })?;
        self.total.add(&fresh);
        self.answered = answered;
        self.reported_at = now;
        Ok(())
    }
}

/// A thread's way to tell, which also tells when the thread panics.
struct Line {
    tell: Sender<News>,
    is_done: bool,
}

impl Line {
    fn tell(&mut self, news: News) {
        self.is_done = !matches!(news, News::Ready);
        // Nobody listens any more when another thread has failed.
        drop(self.tell.send(news));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_done {
            drop(self.tell.send(News::Panicked));
        }
    }
}

/// The life of a thread.
fn man(post: Post, board: Arc<Board>, mut line: Line, started: oneshot::Receiver<Go>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return line.tell(News::Failed(error)),
    };
    let work = async {
        match post {
            Post::Clients(plan, index) => match Crew::assemble(plan, index, board).await {
                Ok(crew) => {
                    line.tell(News::Ready);
                    let Ok(go) = started.await else { return };
                    match crew.run(go.timeline, go.left).await {
                        Ok(outcome) => line.tell(News::Done(Box::new(outcome))),
                        Err(error) => line.tell(News::Failed(error)),
                    }
                }
                Err(error) => line.tell(News::Refused(error)),
            },
            Post::Watchers(plan, index) => {
                let patience = plan.patience;
                match Audience::assemble(plan, index, board).await {
                    Ok(audience) => {
                        line.tell(News::Ready);
                        let Ok(go) = started.await else { return };
                        let tally = audience.run(go.timeline, go.goal, patience).await;
                        line.tell(News::Heard(tally));
                    }
                    Err(error) => line.tell(News::Refused(error)),
                }
            }
        }
    };
    LocalSet::new().block_on(&runtime, work);
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.acknowledged.merge(other.acknowledged);
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
    }
}

#[cfg(test)]
mod tests;
