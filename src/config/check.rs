//! Whether the values of the flags make sense together, and the [`Config`] they make.

use std::path::PathBuf;
use std::time::Duration;

use super::read::{Note, Values};
use super::url::{self, Scheme, Url};
use super::{Config, Error, Level, LogConfig, Retention, value};

/// `--quota-backend-bytes 0`.
const QUOTA_DEFAULT_BYTES: i64 = 2 << 30;

/// Above this etcd warns of a slow start and a long recovery.
const QUOTA_RECOMMENDED_MAX_BYTES: i64 = 8 << 30;

/// Above this a request is likely a mistake.
const REQUEST_BYTES_RECOMMENDED_MAX: u64 = 10 << 20;

/// The most a request may have: its record must fit into a segment of the log with others.
const REQUEST_BYTES_MAX: u64 = 16 << 20;

/// The most lanes: their carried states must fit into the head of a segment.
const LANES_MAX: u64 = 256;

/// etcd's least time between progress notifications.
const PROGRESS_MIN: Duration = Duration::from_millis(100);

pub(super) fn config(values: &Values, cpus: usize, notes: &mut Vec<Note>) -> Result<Config, Error> {
    let name = values.text("name").to_owned();
    let data_dir = PathBuf::from(values.text("data-dir").replace("${name}", &name));
    let wal_dir = match values.text("wal-dir") {
        "" => data_dir.join("wal"),
        dir => PathBuf::from(dir),
    };
    let (heartbeat, election) = election(values)?;
    let log = log(values)?;
    let listen_client_urls = listen(values, "listen-client-urls")?;
    let advertise_peer_urls = urls(values, "initial-advertise-peer-urls");
    if values.is_set("listen-client-urls") && !values.is_set("advertise-client-urls") {
        return Err(Error::AdvertiseUnset);
    }
    cluster(values, &name)?;
    warn(values, notes);
    let quota_bytes = quota(values, notes);
    let max_request_bytes = within(values, "max-request-bytes", 0, REQUEST_BYTES_MAX)?;
    let max_txn_ops = count(values, "max-txn-ops");
    let streams = count(values, "max-concurrent-streams").min(u32::MAX.into());
    let cpus = (cpus as u64).clamp(1, u16::MAX.into());
    let cores = match within(values, "cores", 0, cpus)? {
        0 => cpus,
        cores => cores,
    };
    let lanes = within(values, "lanes", 0, LANES_MAX)?;
    Ok(Config {
        name,
        data_dir,
        wal_dir,
        listen_client_urls,
        advertise_client_urls: urls(values, "advertise-client-urls"),
        listen_peer_urls: listen(values, "listen-peer-urls")?,
        advertise_peer_urls,
        cluster_token: values.text("initial-cluster-token").to_owned(),
        max_request_bytes: usize::try_from(max_request_bytes).expect("at most 16 MiB"),
        max_txn_ops: usize::try_from(max_txn_ops).unwrap_or(usize::MAX),
        max_concurrent_streams: u32::try_from(streams).expect("just limited"),
        quota_bytes,
        auto_compaction: auto_compaction(values)?,
        heartbeat,
        election,
        keepalive_min_time: duration(values, "grpc-keepalive-min-time"),
        keepalive_interval: duration(values, "grpc-keepalive-interval"),
        keepalive_timeout: duration(values, "grpc-keepalive-timeout"),
        watch_progress_interval: duration(values, "watch-progress-notify-interval")
            .max(PROGRESS_MIN),
        metrics_extensive: values.text("metrics") == "extensive",
        log,
        cores: u16::try_from(cores).expect("at most the CPUs"),
        lanes: u16::try_from(lanes).ok().filter(|lanes| *lanes > 0),
        checkpoint_wal_bytes: count(values, "checkpoint-wal-bytes"),
        spin: duration(values, "spin"),
    })
}

/// The quota, and what etcd logs of it at every start.
fn quota(values: &Values, notes: &mut Vec<Note>) -> i64 {
    let asked = value::number(values.text("quota-backend-bytes")).unwrap_or(0);
    let bytes = if asked == 0 { QUOTA_DEFAULT_BYTES } else { asked };
    let mut note = |level, text| {
        notes.push(Note { level, text, key: "quota-size-bytes", value: bytes.to_string() });
    };
    match asked {
        ..0 => note(Level::Info, "disabled backend quota"),
        0 => note(Level::Info, "enabled backend quota with default value"),
        _ => {
            if bytes > QUOTA_RECOMMENDED_MAX_BYTES {
                note(Level::Warn, "quota exceeds the maximum value");
            }
            note(Level::Info, "enabled backend quota");
        }
    }
    bytes
}

/// A bare number counts hours or revisions, anything else is a duration. In etcd a duration counts
/// nanoseconds when it is revisions that are kept, which nobody can mean; here it is refused.
fn auto_compaction(values: &Values) -> Result<Option<Retention>, Error> {
    let text = values.text("auto-compaction-retention");
    let wrong = || Error::CompactionRetention(text.to_owned());
    let number = value::number(text).ok().filter(|number| *number >= 0);
    match values.text("auto-compaction-mode") {
        "periodic" => {
            let period = match number {
                Some(hours) => Duration::try_from_secs_f64(hours as f64 * 3600.0).ok(),
                None => value::duration(text).ok(),
            };
            let ms = period.and_then(|period| u64::try_from(period.as_millis()).ok());
            let ms = ms.ok_or_else(wrong)?;
            Ok((ms > 0).then_some(Retention::Period { ms }))
        }
        "revision" => {
            let revisions = number.ok_or_else(wrong)?;
            Ok((revisions > 0).then_some(Retention::Revisions(revisions)))
        }
        "" => Err(Error::CompactionModeUnset),
        mode => Err(Error::CompactionMode(mode.to_owned())),
    }
}

fn election(values: &Values) -> Result<(Duration, Duration), Error> {
    let [heartbeat, election] = ["heartbeat-interval", "election-timeout"].map(|flag| {
        let ms = count(values, flag);
        if ms == 0 { Err(Error::NotPositive(flag)) } else { Ok(Duration::from_millis(ms)) }
    });
    let (heartbeat, election) = (heartbeat?, election?);
    let (heartbeat_ms, election_ms) = (heartbeat.as_millis(), election.as_millis());
    if 5 * heartbeat_ms > election_ms {
        return Err(Error::ElectionTooShort { election_ms, heartbeat_ms });
    }
    if election_ms > 50_000 {
        return Err(Error::ElectionTooLong(election_ms));
    }
    Ok((heartbeat, election))
}

fn log(values: &Values) -> Result<LogConfig, Error> {
    if values.text("logger") != "zap" {
        return Err(Error::Logger(values.text("logger").to_owned()));
    }
    let level = match values.text("log-level") {
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" | "dpanic" | "panic" | "fatal" => Level::Error,
        other => return Err(Error::LogLevel(other.to_owned())),
    };
    let json = match values.text("log-format") {
        "json" => true,
        "console" => false,
        other => return Err(Error::LogFormat(other.to_owned())),
    };
    let mut outputs: Vec<String> = Vec::new();
    for output in values.text("log-outputs").split(',').filter(|output| !output.is_empty()) {
        let output = match output {
            "default" => "stderr",
            "systemd/journal" => {
                return Err(Error::Unsupported("--log-outputs systemd/journal".to_owned()));
            }
            output => output,
        };
        if !outputs.iter().any(|known| known == output) {
            outputs.push(output.to_owned());
        }
    }
    Ok(LogConfig { level, outputs, json })
}

/// URLs to bind: addresses of this machine, for now without TLS.
fn listen(values: &Values, flag: &'static str) -> Result<Vec<Url>, Error> {
    let urls = urls(values, flag);
    for url in &urls {
        if url.scheme != Scheme::Http {
            return Err(Error::Unsupported(format!("--{flag} {url}")));
        }
        if url.address().is_none() {
            return Err(Error::NotAnAddress(url.clone()));
        }
    }
    Ok(urls)
}

/// A cluster of this member alone.
fn cluster(values: &Values, name: &str) -> Result<(), Error> {
    let cluster = values.text("initial-cluster");
    if cluster.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = cluster
        .split(',')
        .filter_map(|member| member.split_once('='))
        .map(|(name, _)| name.trim())
        .collect();
    names.sort_unstable();
    names.dedup();
    if !names.contains(&name) {
        return Err(Error::NotInCluster(name.to_owned()));
    }
    if names.len() > 1 {
        return Err(Error::Cluster(names.len()));
    }
    Ok(())
}

fn warn(values: &Values, notes: &mut Vec<Note>) {
    let mut warn = |text, key, value: &str| {
        notes.push(Note { level: Level::Warn, text, key, value: value.to_owned() });
    };
    if !values.is_set("name") {
        warn(
            "it isn't recommended to use default name, please set a value for --name",
            "name",
            values.text("name"),
        );
    }
    if count(values, "max-request-bytes") > REQUEST_BYTES_RECOMMENDED_MAX {
        warn(
            "exceeded recommended request limit",
            "max-request-bytes",
            values.text("max-request-bytes"),
        );
    }
    if !matches!(values.text("metrics"), "basic" | "extensive") {
        warn("unknown value, showing basic metrics", "metrics", values.text("metrics"));
    }
}

/// The values were checked when they were read, so a wrong one can not come this far.
fn count(values: &Values, flag: &str) -> u64 {
    value::count(values.text(flag)).expect("checked when it was read")
}

fn duration(values: &Values, flag: &str) -> Duration {
    value::duration(values.text(flag)).expect("checked when it was read")
}

fn urls(values: &Values, flag: &str) -> Vec<Url> {
    url::parse_list(values.text(flag)).expect("checked when it was read")
}

fn within(values: &Values, flag: &'static str, min: u64, max: u64) -> Result<u64, Error> {
    let value = count(values, flag);
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Error::Bounds { flag, value, min, max })
    }
}
