//! Runs the simulation over seeds: `sim [--seed N] [--seeds N] [--steps N]`. Prints the violation of the
//! lowest seed that has one, and exits with 1. An assertion that fails is a violation too.

use std::process::ExitCode;

use cored::sim::{Broken, Outcome, Plan, run_all};

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
    match run_all(first..first.saturating_add(seeds), plan) {
        Ok(Outcome { trace, answered, crashes }) => {
            println!("trace {trace:016x}");
            println!("{seeds} seeds, {answered} answers, {crashes} crashes: no violation");
            0.into()
        }
        Err(Broken { seed, promise }) => {
            println!("seed {seed}: {promise}");
            1.into()
        }
    }
}
