//! Runs the simulation over seeds, on every core: `sim [--seed N] [--seeds N] [--steps N]`. Prints the
//! violation of the lowest seed that has one, and exits with 1. An assertion that fails is a violation too.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use cored::sim::{Plan, run};

/// What all seeds together came to.
#[derive(Default)]
struct Tally {
    /// The next seed to run.
    next: AtomicU64,
    answered: AtomicUsize,
    crashes: AtomicUsize,
    /// Those of all runs in one: equal when every run was the same.
    trace: AtomicU64,
    /// The lowest seed that broke a promise, and which.
    broken: Mutex<Option<(u64, String)>>,
}

impl Tally {
    /// Runs seeds until there are no more, or one below them broke a promise.
    fn work(&self, end: u64, plan: Plan) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let is_over = self.broken.lock().expect("no panic").is_some() || seed >= end;
            if is_over {
                return;
            }
            let violation = match std::panic::catch_unwind(|| run(seed, plan.of(seed))) {
                Ok(Ok(outcome)) => {
                    self.trace.fetch_xor(outcome.trace, Ordering::Relaxed);
                    self.answered.fetch_add(outcome.answered, Ordering::Relaxed);
                    self.crashes.fetch_add(outcome.crashes, Ordering::Relaxed);
                    continue;
                }
                Ok(Err(violation)) => violation.to_string(),
                Err(_) => "an assertion failed".to_owned(),
            };
            // Seeds are taken in order: whoever has a lower one is still at it, and comes here too.
            let mut broken = self.broken.lock().expect("no panic");
            if broken.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                *broken = Some((seed, violation));
            }
        }
    }
}

fn main() -> ExitCode {
    let mut first = 0_u64;
    let mut seeds = 1000_u64;
    let mut plan = Plan::default();
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().and_then(|value| value.parse().ok());
        let Some(value) = value else {
            eprintln!("usage: sim [--seed FIRST] [--seeds HOW_MANY] [--steps STEPS]");
            return 2.into();
        };
        match flag.as_str() {
            "--seed" => (first, seeds) = (value, 1),
            "--seeds" => seeds = value,
            "--steps" => plan.steps = value,
            _ => {
                eprintln!("unknown flag {flag}");
                return 2.into();
            }
        }
    }
    let tally = Tally { next: first.into(), ..Tally::default() };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..workers).for_each(|_| {
            scope.spawn(|| tally.work(first + seeds, plan));
        });
    });
    if let Some((seed, violation)) = tally.broken.into_inner().expect("no panic") {
        println!("seed {seed}: {violation}");
        return 1.into();
    }
    let (answered, crashes) = (tally.answered.into_inner(), tally.crashes.into_inner());
    println!("trace {:016x}", tally.trace.into_inner());
    println!("{seeds} seeds, {answered} answers, {crashes} crashes: no violation");
    0.into()
}
