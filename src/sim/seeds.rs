//! Many seeds, on every core: schedules share nothing.

use std::ops::Range;
use std::sync::Mutex;
use std::thread;

use super::{Outcome, Plan, run};

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which one, to be run again.
    pub seed: u64,
    /// The promise.
    pub promise: String,
}

/// Runs the schedules of `seeds`, each by `plan` [with its own troubles](Plan::of), and adds up what
/// they came to: answers and crashes, and the traces in one that is the same when each of them is.
///
/// # Errors
/// [`Broken`] for the lowest seed whose schedule broke a promise. An assertion that failed, of which the
/// panic has told by then, is one too.
pub fn run_all(seeds: Range<u64>, plan: Plan) -> Result<Outcome, Broken> {
    struct State {
        next: Range<u64>,
        total: Outcome,
        broken: Option<Broken>,
    }
    let state = Mutex::new(State { next: seeds, total: Outcome::default(), broken: None });
    let locked = || state.lock().expect("no schedule runs under the lock");
    let work = || loop {
        let seed = {
            let mut state = locked();
            match state.next.next() {
                // Whoever has a lower one is still at it, and tells of it too.
                Some(seed) if state.broken.is_none() => seed,
                _ => return,
            }
        };
        let ended = std::panic::catch_unwind(|| run(seed, plan.of(seed)));
        let mut state = locked();
        let promise = match ended {
            Ok(Ok(Outcome { trace, answered, crashes })) => {
                state.total.trace ^= trace;
                state.total.answered += answered;
                state.total.crashes += crashes;
                continue;
            }
            Ok(Err(violation)) => violation.to_string(),
            Err(_) => "an assertion failed".to_owned(),
        };
        if state.broken.as_ref().is_none_or(|lowest| seed < lowest.seed) {
            state.broken = Some(Broken { seed, promise });
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..workers).for_each(|_| {
            scope.spawn(work);
        });
    });
    let State { total, broken, .. } = state.into_inner().expect("as above");
    broken.map_or(Ok(total), Err)
}
