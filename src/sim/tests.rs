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
    let mut crashes = 0;
    for seed in 0..seeds {
        match run(seed, Plan::default().of(seed)) {
            Ok(outcome) => crashes += outcome.crashes,
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    assert!(crashes > 0);
}
