use super::*;

#[test]
fn the_same_seed_is_the_same_run() {
    let one = run(7, Plan::default()).expect("no violation");
    let two = run(7, Plan::default()).expect("no violation");
    assert_eq!(one, two);
    assert_ne!(one.trace, run(8, Plan::default()).expect("no violation").trace);
    assert!(one.answered > 50, "{one:?}");
}

#[test]
fn no_seed_breaks_a_promise() {
    let seeds = std::env::var("COREDSIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    match run_all(0..seeds, Plan::default()) {
        Ok(outcome) => assert!(outcome.crashes > 0),
        Err(broken) => panic!("seed {}: {}", broken.seed, broken.promise),
    }
}
