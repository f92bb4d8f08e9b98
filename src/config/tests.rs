//! Command lines and environments, and what becomes of them.

use std::time::Duration;

use super::*;

fn with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<(Config, Vec<Note>), Stop> {
    let own = |text: &&str| (*text).to_owned();
    read(
        arguments.iter().map(own),
        environment.iter().map(|(name, value)| (own(name), own(value))),
        4,
    )
}

fn config(arguments: &[&str]) -> Config {
    with(arguments, &[]).expect("a valid command line").0
}

fn invalid(arguments: &[&str]) -> String {
    match with(arguments, &[]) {
        Err(Stop::Invalid(error)) => error.to_string(),
        other => panic!("{arguments:?} gave {other:?}"),
    }
}

/// The first line of what a wrong command line is answered with.
fn usage(arguments: &[&str]) -> String {
    match with(arguments, &[]) {
        Err(Stop::Usage(text)) => {
            let (line, rest) = text.split_once('\n').expect("a line and the usage");
            assert_eq!(rest, table::USAGE);
            line.to_owned()
        }
        other => panic!("{arguments:?} gave {other:?}"),
    }
}

#[test]
fn the_defaults_are_etcds() {
    let config = config(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(config.wal_dir, PathBuf::from("default.etcd/wal"));
    assert_eq!(config.listen_client_urls[0].to_string(), "http://localhost:2379");
    assert_eq!(config.max_request_bytes, 1_572_864);
    assert_eq!(config.max_txn_ops, 128);
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.quota_bytes, 2 << 30);
    assert_eq!(config.keepalive_interval, Duration::from_secs(7200));
    assert_eq!(config.watch_progress_interval, Duration::from_secs(600));
    assert_eq!(config.log, LogConfig::default());
    assert_eq!((config.cores, config.lanes), (4, None));
}

#[test]
fn flags_may_be_written_in_each_of_gos_ways() {
    for arguments in [
        &["--name", "a"][..],
        &["-name", "a"],
        &["--name=a"],
        &["-name=a"],
        &["--name", "b", "-name", "a"],
        &["--pre-vote", "--name=a"],
        &["--pre-vote=false", "-name", "a"],
    ] {
        assert_eq!(config(arguments).name, "a", "{arguments:?}");
    }
    assert_eq!(config(&["--name", "-x"]).name, "-x", "a value may begin with a dash");
    assert_eq!(config(&["--name="]).name, "");
    assert_eq!(config(&["--name", "n"]).data_dir, PathBuf::from("n.etcd"));
    assert_eq!(config(&["--data-dir", "d", "--wal-dir=w"]).wal_dir, PathBuf::from("w"));
}

#[test]
fn wrong_command_lines_are_answered_in_gos_words() {
    assert_eq!(usage(&["--nope"]), "flag provided but not defined: -nope");
    assert_eq!(usage(&["-nope=3"]), "flag provided but not defined: -nope");
    assert_eq!(usage(&["-x"]), "flag provided but not defined: -x");
    assert_eq!(usage(&["--name"]), "flag needs an argument: -name");
    assert_eq!(
        usage(&["--heartbeat-interval=x"]),
        "invalid value \"x\" for flag -heartbeat-interval: parse error"
    );
    assert_eq!(
        usage(&["--max-request-bytes", "-1"]),
        "invalid value \"-1\" for flag -max-request-bytes: parse error"
    );
    assert_eq!(
        usage(&["--max-txn-ops", "99999999999999999999999"]),
        "invalid value \"99999999999999999999999\" for flag -max-txn-ops: value out of range"
    );
    assert_eq!(
        usage(&["--pre-vote=maybe"]),
        "invalid boolean value \"maybe\" for -pre-vote: parse error"
    );
    assert_eq!(
        usage(&["--initial-cluster-state=foo"]),
        "invalid value \"foo\" for flag -initial-cluster-state: invalid value"
    );
    assert_eq!(
        usage(&["--listen-client-urls", "127.0.0.1:2379"]),
        "invalid value \"127.0.0.1:2379\" for flag -listen-client-urls: parse \
         \"127.0.0.1:2379\": first path segment in URL cannot contain colon"
    );
}

#[test]
fn what_is_no_flag_is_named() {
    assert_eq!(invalid(&["foo"]), "\"foo\" is not a valid flag");
    assert_eq!(invalid(&["--pre-vote", "false"]), "\"false\" is not a valid flag");
    assert_eq!(invalid(&["--name", "a", "foo", "--nope"]), "\"foo\" is not a valid flag");
}

#[test]
fn values_that_do_not_fit_together_are_refused_in_etcds_words() {
    assert_eq!(
        invalid(&["--election-timeout", "200"]),
        "--election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]"
    );
    assert_eq!(
        invalid(&["--election-timeout", "60000"]),
        "--election-timeout[60000ms] is too long, and should be set less than 50000ms"
    );
    assert_eq!(
        invalid(&["--heartbeat-interval", "0"]),
        "--heartbeat-interval must be >0 (set to 0ms)"
    );
    assert_eq!(
        invalid(&["--listen-client-urls", "http://127.0.0.1:1"]),
        "--advertise-client-urls is required when --listen-client-urls is set explicitly"
    );
    let named = ["--listen-client-urls=http://example.com:1", "--advertise-client-urls=http://a:1"];
    assert_eq!(invalid(&named), "expected IP in URL for binding (http://example.com:1)");
    assert_eq!(
        invalid(&["--log-format", "x"]),
        "unknown log format: x, supported values json, console"
    );
    assert_eq!(invalid(&["--log-level", "foo"]), "unrecognized level: \"foo\"");
    assert_eq!(
        invalid(&["--initial-cluster", "a=http://h:1"]),
        "couldn't find local name \"default\" in the initial cluster configuration"
    );
    assert!(
        invalid(&["--initial-cluster", "default=http://h:1,b=http://i:1"]).contains("2 members")
    );
    assert_eq!(invalid(&["--cores", "5"]), "--cores[5] must be between 0 and 4");
    assert_eq!(invalid(&["--lanes", "257"]), "--lanes[257] must be between 0 and 256");
    let tls = ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"];
    assert!(invalid(&tls).ends_with("is not supported by this release"));
}

#[test]
fn a_flag_wins_over_the_environment_and_our_variable_over_etcds() {
    let both = [("ETCD_NAME", "etcd"), ("CORED_NAME", "cored")];
    let name = |arguments: &[&str], environment: &[(&str, &str)]| {
        with(arguments, environment).expect("valid").0.name
    };
    assert_eq!(name(&[], &both[..1]), "etcd");
    assert_eq!(name(&[], &both), "cored");
    assert_eq!(name(&["--name", "flag"], &both), "flag");
    assert_eq!(name(&[], &[("ETCD_NAME", "")]), "default", "empty is not given");
}

#[test]
fn odd_variables_only_warn() {
    let environment = [
        ("ETCD_FOO", "bar"),
        ("ETCD_CORES", "2"),
        ("CORED_CORES", "1"),
        ("ETCD_VERSION", "3.7"),
        ("HOME", "/"),
    ];
    let (config, notes) = with(&["--name", "n"], &environment).expect("valid");
    assert_eq!(config.cores, 1);
    let warned: Vec<_> = notes
        .iter()
        .filter(|note| note.level == Level::Warn)
        .map(|note| (note.text, note.value.as_str()))
        .collect();
    let text = "unrecognized environment variable";
    assert_eq!(warned, [(text, "ETCD_CORES=2"), (text, "ETCD_FOO=bar")]);
}

#[test]
fn a_variable_of_the_wrong_form_is_named() {
    let stop = with(&[], &[("ETCD_HEARTBEAT_INTERVAL", "zz")]).expect_err("no number");
    let Stop::Invalid(error) = stop else { panic!("{stop:?}") };
    assert_eq!(error.to_string(), "invalid value \"zz\" for ETCD_HEARTBEAT_INTERVAL: parse error");
}

#[test]
fn an_advertised_url_from_the_environment_counts_as_given() {
    let listen = ["--listen-client-urls", "http://0.0.0.0:1"];
    assert!(with(&listen, &[("ETCD_ADVERTISE_CLIENT_URLS", "http://h:1")]).is_ok());
}

#[test]
fn urls_have_a_scheme_a_host_and_a_port() {
    let listen = |urls: &str| {
        usage(&["--initial-advertise-peer-urls", urls])
            .split_once(": ")
            .expect("a reason")
            .1
            .to_owned()
    };
    assert_eq!(listen("ftp://h:1"), "URL scheme must be http, https, unix, or unixs: ftp://h:1");
    assert_eq!(listen("http://h"), "URL address does not have the form \"host:port\": http://h");
    assert_eq!(
        listen("http://h:70000"),
        "URL address does not have the form \"host:port\": http://h:70000"
    );
    assert_eq!(listen("http://h:1/p"), "URL must not contain a path: http://h:1/p");
    let config = config(&["--advertise-client-urls", "http://[::1]:2, http://b:1,unix:///s"]);
    let urls: Vec<String> = config.advertise_client_urls.iter().map(Url::to_string).collect();
    assert_eq!(urls, ["http://[::1]:2", "http://b:1", "unix:///s"].map(str::to_owned).sorted());
    assert!(config.advertise_client_urls.iter().any(|url| url.address().is_some()));
}

/// URLs are kept sorted by scheme, host and port.
trait Sorted {
    fn sorted(self) -> Self;
}

impl<const N: usize> Sorted for [String; N] {
    fn sorted(mut self) -> Self {
        self.sort();
        self
    }
}

#[test]
fn durations_are_read_as_go_reads_them() {
    let spin = |text: &str| with(&["--spin", text], &[]).map(|(config, _)| config.spin);
    assert_eq!(spin("1h30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(spin("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(spin("100us"), Ok(Duration::from_micros(100)));
    assert_eq!(spin("0"), Ok(Duration::ZERO));
    for wrong in ["", "1", "s", "1x", "-1s", "1s2", "99999999999h", "."] {
        assert!(spin(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn outputs_of_the_log_are_named_once() {
    let outputs = |list: &str| config(&["--log-outputs", list]).log.outputs;
    assert_eq!(outputs("default"), ["stderr"]);
    assert_eq!(outputs("stdout,default,stderr,/a/b"), ["stdout", "stderr", "/a/b"]);
}

#[test]
fn help_and_version_are_printed_instead() {
    for arguments in [["--help"], ["-h"], ["-help"]] {
        let Err(Stop::Print(text)) = with(&arguments, &[]) else { panic!("{arguments:?}") };
        for flag in table::FLAGS {
            assert!(text.contains(&format!("--{} ", flag.name)), "{}", flag.name);
        }
    }
    let Err(Stop::Print(text)) = with(&["--version"], &[]) else { panic!("no version") };
    assert!(text.starts_with("etcd Version: 3.7.3\n"));
    assert!(text.contains(&format!("cored Version: {VERSION}\n")));
}

#[test]
fn every_row_of_the_table_is_sound() {
    let mut names: Vec<_> = table::FLAGS.iter().map(|flag| flag.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), table::FLAGS.len(), "a name twice");
    for flag in table::FLAGS {
        assert_eq!(value::check(flag.form, flag.default), Ok(()), "default of {}", flag.name);
    }
}

#[test]
fn history_is_kept_for_hours_times_or_revisions() {
    let kept = |arguments: &[&str]| config(arguments).auto_compaction;
    let retention = "--auto-compaction-retention";
    assert_eq!(kept(&[]), None);
    assert_eq!(kept(&[retention, "0s"]), None);
    let hours = |hours: u64| Some(Retention::Period { ms: hours * 3_600_000 });
    assert_eq!(kept(&[retention, "1"]), hours(1));
    assert_eq!(kept(&[retention, "72h"]), hours(72));
    assert_eq!(kept(&[retention, "500ms"]), Some(Retention::Period { ms: 500 }));
    let revision = "--auto-compaction-mode=revision";
    assert_eq!(kept(&[revision, retention, "1000"]), Some(Retention::Revisions(1000)));
    assert_eq!(kept(&[revision]), None);
    let refused = |value: &str| {
        format!("error parsing CompactionRetention: time: invalid duration {value:?}")
    };
    for value in ["x", "-5", "-5h", ""] {
        assert_eq!(invalid(&[retention, value]), refused(value));
    }
    assert_eq!(invalid(&[revision, retention, "1h"]), refused("1h"));
    assert_eq!(invalid(&["--auto-compaction-mode=foo"]), "unknown auto-compaction-mode \"foo\"");
    let undefined = &["--auto-compaction-mode=", retention, "5"];
    assert_eq!(invalid(undefined), "undefined auto-compaction-mode");
}

#[test]
fn the_log_says_what_quota_holds() {
    let noted = |bytes: &str| {
        let (config, notes) = with(&["--name=n", "--quota-backend-bytes", bytes], &[]).expect("ok");
        let notes = notes.into_iter().filter(|note| note.key == "quota-size-bytes");
        (config.quota_bytes, notes.map(|note| (note.level, note.text)).collect::<Vec<_>>())
    };
    let info = |text| (Level::Info, text);
    let default = info("enabled backend quota with default value");
    assert_eq!(noted("0"), (2 << 30, vec![default]));
    assert_eq!(noted("-1"), (-1, vec![info("disabled backend quota")]));
    assert_eq!(noted("8589934592"), (8 << 30, vec![info("enabled backend quota")]));
    let (bytes, notes) = noted("8589934593");
    assert_eq!(bytes, (8 << 30) + 1);
    let warning = (Level::Warn, "quota exceeds the maximum value");
    assert_eq!(notes, [warning, info("enabled backend quota")]);
}
