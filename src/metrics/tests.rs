//! What a scraper sees.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::text::number;
use super::*;

fn lines(facts: &Facts, cores: &[Arc<Core>]) -> Vec<String> {
    page(cores, facts).lines().map(str::to_owned).collect()
}

fn has(lines: &[String], line: &str) -> bool {
    lines.iter().any(|found| found == line)
}

#[test]
fn numbers_look_as_gos_client_writes_them() {
    let table = [
        (0.0, "0"),
        (1.0, "1"),
        (-1.0, "-1"),
        (0.001, "0.001"),
        (8.192, "8.192"),
        (0.0001, "0.0001"),
        (0.00005, "5e-05"),
        (999_999.0, "999999"),
        (8_388_608.0, "8.388608e+06"),
        (2_147_483_648.0, "2.147483648e+09"),
        (f64::INFINITY, "+Inf"),
        (f64::NAN, "NaN"),
    ];
    for (value, text) in table {
        assert_eq!(number(value), text);
    }
}

#[test]
fn cores_are_summed_and_labels_are_etcds() {
    let cores = [Arc::new(Core::default()), Arc::new(Core::default())];
    let put = METHODS.iter().position(|m| m.name == "Put").expect("KV has Put");
    for core in &cores {
        core.puts.add(2);
        core.calls[put].started.add(3);
        core.calls[put].handled[0].add(1);
    }
    let lines = lines(&Facts { member_id: 0xab, serves: true, ..Facts::default() }, &cores);
    assert!(has(&lines, "etcd_mvcc_put_total 4"));
    assert!(has(&lines, "etcd_server_has_leader 1"));
    assert!(has(&lines, "etcd_server_id{server_id=\"ab\"} 1"));
    let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    assert!(has(&lines, &format!("grpc_server_started_total{{{labels}}} 6")));
    assert!(has(&lines, &format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 2")));
}

#[test]
fn every_method_is_there_before_its_first_call() {
    let lines = lines(&Facts::default(), &[Arc::new(Core::default())]);
    let started = lines.iter().filter(|line| line.starts_with("grpc_server_started_total{"));
    assert_eq!(started.count(), METHODS.len());
    let handled = lines.iter().filter(|line| line.starts_with("grpc_server_handled_total{"));
    assert_eq!(handled.count(), METHODS.len() * CODES);
    assert!(!lines.iter().any(|line| line.contains("handling_seconds")));
}

#[test]
fn extensive_metrics_time_the_calls() {
    let cores = [Arc::new(Core::default())];
    cores[0].calls[0].took.observe(Duration::from_millis(7));
    let lines = lines(&Facts { extensive: true, ..Facts::default() }, &cores);
    let name = METHODS[0].name;
    let find = |part: &str| {
        lines
            .iter()
            .find(|line| line.contains(&format!("_{part}{{grpc_method=\"{name}\"")))
            .map(|line| line.rsplit_once(' ').expect("a value").1.to_owned())
    };
    assert_eq!(find("count").as_deref(), Some("1"));
    assert_eq!(find("sum").as_deref(), Some("0.007"));
}

#[test]
fn buckets_are_cumulative_and_a_bound_belongs_to_its_bucket() {
    let cores = [Arc::new(Core::default())];
    for us in [900, 1000, 1001, 9_000_000] {
        cores[0].wal_fsync.observe(Duration::from_micros(us));
    }
    let lines = lines(&Facts::default(), &cores);
    let bucket = |le: &str| format!("etcd_disk_wal_fsync_duration_seconds_bucket{{le=\"{le}\"}}");
    assert!(has(&lines, &format!("{} 2", bucket("0.001"))));
    assert!(has(&lines, &format!("{} 3", bucket("0.002"))));
    assert!(has(&lines, &format!("{} 3", bucket("8.192"))));
    assert!(has(&lines, &format!("{} 4", bucket("+Inf"))));
    assert!(has(&lines, "etcd_disk_wal_fsync_duration_seconds_count 4"));
}

#[test]
fn the_page_is_well_formed() {
    let lines = lines(&Facts { extensive: true, ..Facts::default() }, &[Arc::default()]);
    let (mut families, mut family) = (BTreeSet::new(), String::new());
    for line in &lines {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().expect("a name").to_owned();
            assert!(families.insert(family.clone()), "{family} twice");
        } else if !line.starts_with("# TYPE ") {
            assert!(line.starts_with(&family), "{line} under {family}");
            let value = line.rsplit_once(' ').expect("a value").1;
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    let sorted: Vec<_> = families.iter().cloned().collect();
    let seen: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("# HELP "))
        .map(|help| help.split(' ').next().expect("a name").to_owned())
        .collect();
    assert_eq!(seen, sorted, "families are in alphabetical order");
}

#[test]
fn compactions_clients_and_checks_are_counted_under_etcds_names() {
    let cores = [Arc::new(Core::default()), Arc::new(Core::default())];
    let none = lines(&Facts::default(), &cores);
    assert!(has(&none, "etcd_debugging_mvcc_compact_revision -1"));
    assert!(!none.iter().any(|line| line.starts_with("etcd_server_healthchecks_total{")));
    for core in &cores {
        core.compacted.set(7);
        core.collected.set(5);
        core.keys.set(3);
        core.clients.count(Some("3.7"), false);
        core.health.error.add(1);
        core.checks[1].success.add(1);
    }
    let lines = lines(&Facts::default(), &cores);
    for line in [
        "etcd_debugging_mvcc_compact_revision 7",
        "etcd_debugging_mvcc_db_compaction_keys_total 10",
        "etcd_debugging_mvcc_keys_total 6",
        "etcd_server_client_requests_total{client_api_version=\"3.7\",type=\"unary\"} 2",
        "etcd_server_health_failures 2",
        "etcd_server_health_success 0",
        "etcd_server_healthchecks_total{name=\"data_corruption\",status=\"success\",type=\"readyz\"} 2",
    ] {
        assert!(has(&lines, line), "{line}");
    }
}
