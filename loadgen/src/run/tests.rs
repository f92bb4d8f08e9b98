//! Whole runs against a server whose honesty is known.

use super::*;
use crate::args::Args;
use crate::fake::{Fake, Faults};
use crate::readback::{Question, read_back};
use crate::report::Report;
use crate::verify::Verdict;
use crate::workload::Tag;
use clap::Parser;

struct Run {
    job: Job,
    measured: Measured,
    verdict: Option<Verdict>,
    /// Seconds' worth of reports.
    reports: usize,
}

impl Run {
    fn report(&self) -> Report<'_> {
        Report { job: &self.job, measured: &self.measured, verdict: self.verdict.as_ref() }
    }
}

/// Runs a command line against a server with `faults`.
fn drive(faults: Faults, line: &str) -> Run {
    let server = Fake::start(faults);
    let endpoint = server.address.to_string();
    let words = ["cored-loadgen", "--endpoints", &endpoint].into_iter().chain(line.split(' '));
    let args = Args::parse_from(words);
    let job = args.job().unwrap();
    let mut reports = 0;
    let measured = run(&job, &mut |_| {
        reports += 1;
        Ok(())
    })
    .unwrap();
    let verdict = args.verify.then(|| check(&args, &job, &measured));
    Run { job, measured, verdict, reports }
}

fn check(args: &Args, job: &Job, measured: &Measured) -> Verdict {
    let settings = &job.plan.settings;
    let question = Question {
        endpoint: &args.endpoints[0],
        names: &settings.names,
        value_len_bytes: settings.value_len_bytes,
        tagged: settings.tag == Tag::Number,
        patience: Duration::ZERO,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, read_back(question, &measured.outcome.acknowledged)).unwrap()
}

#[test]
fn an_honest_server_passes_every_load() {
    for (line, count) in [
        ("put --requests 500 --clients 20 --conns 4 --threads 2 --keys 50 --verify", 500),
        ("txn-cas --requests 300 --clients 5 --keys 3 --verify", 300),
        ("delete --requests 100 --clients 5 --keys 10 --verify", 100),
        (
            "mix --mix put=40,range=20,txn-cas=20,delete=20 --requests 500 --clients 9 --keys 20 --verify",
            500,
        ),
        ("range --requests 50 --range-keys 10 --keys 100", 50),
        ("lease-keepalive --requests 200 --clients 7 --conns 2", 200),
        ("put --requests 100 --rate 2000 --clients 3 --arrivals poisson --verify", 100),
    ] {
        let run = drive(Faults::default(), line);
        let total = run.measured.record.total();
        assert_eq!((total.ok, total.failed), (count, 0), "{line}");
        assert_eq!(total.response.len(), count, "{line}");
        assert_eq!(run.report().exit_code(), 0, "{line}: {}", run.report().table());
        assert!(run.reports > 0, "{line}");
    }
}

#[test]
fn a_fill_writes_all_keys_and_reads_all_back() {
    let run = drive(Faults::default(), "fill --keys 2345 --fill-txn 100 --clients 4 --verify");
    assert_eq!(run.measured.record.total().ok, 24);
    assert_eq!(run.verdict.as_ref().map(|verdict| verdict.keys), Some(2345));
    assert_eq!(run.report().exit_code(), 0);
}

#[test]
fn a_lost_acknowledgement_is_found() {
    let faults = Faults { lose_puts: 100, ..Faults::default() };
    let line = "put --requests 500 --clients 4 --keys 100000 --key-space sequential --verify";
    let run = drive(faults, line);
    let verdict = run.verdict.as_ref().unwrap();
    assert_eq!((verdict.keys, verdict.lost, verdict.wrong), (500, 5, 0));
    assert_eq!(verdict.examples.len(), 5);
    assert_eq!(run.report().exit_code(), 4);
}

#[test]
fn errors_are_counted_by_their_text() {
    let faults = Faults { refuse_puts: 50, ..Faults::default() };
    let run = drive(faults, "put --requests 500 --clients 4 --verify");
    let total = run.measured.record.total();
    assert_eq!((total.ok, total.failed), (490, 10));
    let text = "etcdserver: too many requests (code 8)";
    assert_eq!(run.measured.record.errors.get(text), Some(&10));
    assert!(run.verdict.as_ref().unwrap().is_good());
    assert_eq!(run.report().exit_code(), 3);
    assert!(run.report().table().contains(text));
}

#[test]
fn a_request_without_an_answer_is_told_and_ends_with_patience() {
    let faults = Faults { hang_puts: 200, ..Faults::default() };
    let line = "put --duration 300ms --warmup 0s --patience 200ms --clients 2 --verify --keys 5";
    let run = drive(faults, line);
    // Both clients hang in the end, or one does and the other was faster than 199 more puts.
    assert!((1..=2).contains(&run.measured.outcome.unanswered));
    assert!(run.verdict.as_ref().unwrap().is_good(), "{:?}", run.verdict);
    assert_eq!(run.report().exit_code(), 3);
}

#[test]
fn an_open_loop_counts_what_it_could_not_send() {
    let faults = Faults { hang_puts: 10, ..Faults::default() };
    let line = "put --rate 1000 --duration 300ms --warmup 0s --patience 100ms --clients 1";
    let run = drive(faults, line);
    let total = run.measured.record.total();
    assert_eq!((total.ok, run.measured.outcome.unanswered), (9, 1));
    assert_eq!(total.ok + 1 + run.measured.outcome.unsent, 300);
    assert_eq!(total.response.len(), 9 + run.measured.outcome.unsent);
    assert!(total.response.value_at_quantile(0.5) > 100_000_000, "they have waited");
}

#[test]
fn watchers_see_every_write_once() {
    for line in [
        "watch --requests 200 --watchers 20 --streams 4",
        "watch --requests 200 --watchers 20 --streams 4 --threads 2 --conns 3 --keys 10 --clients 5",
        "watch --requests 100 --rate 2000 --clients 5 --watchers 3 --streams 10",
    ] {
        let run = drive(Faults::default(), line);
        let tally = run.measured.tally.unwrap();
        let [puts, events] = &run.measured.record.kinds[..] else { panic!("{line}") };
        assert_eq!(tally.events, puts.ok * tally.watchers, "{line}");
        assert_eq!(events.ok, tally.events, "{line}");
        assert_eq!((tally.missed, tally.out_of_order), (0, 0), "{line}");
        assert_eq!(run.report().exit_code(), 0, "{line}");
    }
}

#[test]
fn a_watcher_that_misses_or_repeats_something_is_found() {
    let line = "watch --requests 150 --watchers 5 --streams 2 --patience 200ms";
    let run = drive(Faults { drop_events: 50, ..Faults::default() }, line);
    assert_eq!(run.measured.tally.map(|tally| tally.missed), Some(3));
    assert_eq!(run.report().exit_code(), 4);
    let run = drive(Faults { repeat_events: 50, ..Faults::default() }, line);
    assert_eq!(run.measured.tally.map(|tally| tally.out_of_order), Some(3));
    assert_eq!(run.report().exit_code(), 4);
}

#[test]
fn without_a_server_the_load_does_not_begin() {
    let address = Fake::start(Faults::default()).address.to_string();
    let args = Args::parse_from(["cored-loadgen", "--endpoints", &address, "put"]);
    let result = run(&args.job().unwrap(), &mut |_| Ok(()));
    assert!(matches!(result, Err(RunError::Begin(CallError::Connect { .. }))), "{result:?}");
}

#[test]
fn the_json_holds_what_scripts_read() {
    let run = drive(Faults::default(), "put --requests 100 --clients 4 --verify");
    let json = run.report().json();
    assert_eq!(json["kinds"]["put"]["ok"], 100);
    assert_eq!(json["verify"]["good"], true);
    for path in
        ["/kinds/put/per_s", "/kinds/put/response_ms/p999", "/cpu/own_us_per_op", "/window_s"]
    {
        assert!(json.pointer(path).is_some_and(serde_json::Value::is_number), "{path}: {json:#}");
    }
}
