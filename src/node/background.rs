//! What takes long and holds nobody up: building images, letting go of large things, looking for blocks that
//! rotted. A plain thread of low priority, since none of it may run on an executor.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use concurrent_queue::ConcurrentQueue;

use super::backups::Newest;
use super::checkpoints::{Checkpoints, Hurry};
use super::room::Room;
use crate::engine::Build;
use crate::mvcc::Replaced;
use crate::mvcc::base::Base;

/// Added to the process's niceness: the cores come first, but on a machine that is busy with them alone
/// this must get its tenth too, or the log grows without end.
const NICENESS: i32 = 10;

/// The disk is read through once in this time, as long as nothing else is to be done.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Pauses between two blocks of that: some 2.5 MB/s.
const SCRUB_PAUSE: Duration = Duration::from_millis(100);

/// Something to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Make the next checkpoint.
    Build(Box<Build>),
    /// Let these go.
    Drop(Vec<Replaced>),
}

/// What came of a [`Job::Build`].
pub(super) type Built = Option<Arc<Base>>;

/// The way to the thread, and back.
#[derive(Clone)]
pub(super) struct Background {
    jobs: Sender<Job>,
    built: Arc<ConcurrentQueue<Built>>,
    newest: Newest,
    hurry: Hurry,
}

impl Background {
    /// Starts the thread. `ring` is called when there is something to [take](Background::take).
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(
        mut checkpoints: Checkpoints,
        room: Room,
        ring: impl Fn() + Send + 'static,
    ) -> io::Result<Background> {
        let (jobs, received) = mpsc::channel();
        let built = Arc::new(ConcurrentQueue::unbounded());
        let queue = Arc::clone(&built);
        let newest = Newest::default();
        newest.set(checkpoints.newest().cloned());
        let publish = newest.clone();
        let hurry = checkpoints.hurry();
        let pace = hurry.clone();
        thread::Builder::new().name("background".to_owned()).spawn(move || {
            // SAFETY: the call takes no memory. On Linux it is about the calling thread alone; that it fails
            // would only cost speed.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
            // What the process before this one left.
            checkpoints.tidy_up();
            let mut scrub = Scrub { block: 0, due: Instant::now() + SCRUB_EVERY };
            loop {
                // A job that comes does not put the next look off.
                let wait = scrub.due.saturating_duration_since(Instant::now());
                let job = match received.recv_timeout(wait) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        scrub.step(&checkpoints);
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                match job {
                    Job::Build(build) => {
                        pace.end_build();
                        let built = run(&mut checkpoints, &build, &room);
                        drop(build);
                        publish.set(checkpoints.newest().cloned());
                        // Nobody listens any more when the process ends anyway.
                        let _ = queue.push(built);
                        ring();
                    }
                    Job::Drop(replaced) => {
                        drop(replaced);
                        // Every core has gone over, so what only the image before named can go.
                        checkpoints.tidy_up();
                    }
                }
            }
        })?;
        Ok(Background { jobs, built, newest, hurry })
    }

    /// The image under way is waited for: it is finished without pauses.
    pub(super) fn hurry_build(&self) {
        self.hurry.begin_build();
    }

    /// The node stops: what is under way and what comes takes no pauses any more.
    pub(super) fn hurry(&self) {
        self.hurry.begin();
    }

    /// The newest checkpoint, for whoever reads its files.
    pub(super) fn newest(&self) -> Newest {
        self.newest.clone()
    }

    /// Hands something over.
    pub(super) fn push(&self, job: Job) {
        // The thread ends only with the process.
        let _ = self.jobs.send(job);
    }

    /// What came of a build, once it is known.
    pub(super) fn take(&self) -> Option<Built> {
        self.built.pop().ok()
    }
}

/// How far the disk has been read through.
struct Scrub {
    /// The next block, by its number in the newest image.
    block: usize,
    due: Instant,
}

impl Scrub {
    fn step(&mut self, checkpoints: &Checkpoints) {
        let more = checkpoints.scrub(self.block).unwrap_or_else(|error| {
            tracing::error!(error = %error, "found a damaged checkpoint");
            true
        });
        (self.block, self.due) = if more {
            (self.block + 1, Instant::now() + SCRUB_PAUSE)
        } else {
            (0, Instant::now() + SCRUB_EVERY)
        };
    }
}

fn run(checkpoints: &mut Checkpoints, build: &Build, room: &Room) -> Built {
    let began = Instant::now();
    let built = match checkpoints.build(build) {
        // With what is given back it may fit now.
        Err(error) if error.is_full() && room.give_back() => checkpoints.build(build),
        built => built,
    };
    match built {
        Ok(found) => {
            tracing::info!(
                revision = found.manifest.at.0,
                compact_revision = found.manifest.compacted.0,
                keys = found.base.keys(),
                versions = found.base.versions(),
                bytes = found.base.file_bytes(),
                took = ?began.elapsed(),
                "made a checkpoint"
            );
            Some(found.base)
        }
        Err(error) => {
            tracing::error!(error = %error, "can not make a checkpoint; the logs are kept and it is tried again");
            None
        }
    }
}
