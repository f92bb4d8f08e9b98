//! Runs the simulation over seeds: `sim [--seed N] [--seeds N] [--steps N]`. Prints the first
//! violation with its seed, and exits with 1. An assertion that fails is a violation too.

use cored::sim::{Plan, run};

fn main() -> std::process::ExitCode {
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
    let (mut answered, mut crashes) = (0, 0);
    for seed in first..first + seeds {
        let plan = Plan { disk_faults: seed % 2 == 0, crashes: seed % 3 > 0, ..plan };
        let outcome = std::panic::catch_unwind(|| run(seed, plan));
        let Ok(outcome) = outcome else {
            println!("seed {seed}: an assertion failed");
            return 1.into();
        };
        match outcome {
            Ok(outcome) => {
                answered += outcome.answered;
                crashes += outcome.crashes;
                if seeds == 1 {
                    println!("trace {:016x}", outcome.trace);
                }
            }
            Err(violation) => {
                println!("seed {seed}: {violation}");
                return 1.into();
            }
        }
    }
    println!("{seeds} seeds, {answered} answers, {crashes} crashes: no violation");
    0.into()
}
