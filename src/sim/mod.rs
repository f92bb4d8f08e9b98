//! A whole node in one thread, driven by one seed: its cores, their logs on disks that tear and
//! fail, clients, crashes. Every choice (who runs next, which write ends, when the power goes) comes
//! from the seed, so a failure is replayed by its number. What clients were told is checked against
//! a model afterwards (`check`); nothing in here knows how the engine works inside.
//!
//! A core's turn is cut into the steps between which other cores can run in production too: begin,
//! take and think, then each effect by itself. That is where orders between cores break.

mod check;
mod client;
mod images;
mod leases;
mod machine;
mod random;
mod seeds;
mod watched;

pub use check::Violation;
pub use machine::{Plan, World};
pub use random::Random;
pub use seeds::{Broken, run_all};

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of every step that was taken: equal seeds give equal traces.
    pub trace: u64,
    /// Requests answered.
    pub answered: usize,
    /// Crashes survived.
    pub crashes: usize,
}

/// Runs the schedule of one seed to its end and checks everything that clients saw.
///
/// # Errors
/// [`Violation`] names the first promise that was broken.
pub fn run(seed: u64, plan: Plan) -> Result<Outcome, Violation> {
    World::new(seed, plan).run()
}

#[cfg(test)]
mod tests;
