//! The log for people and their tools: lines in etcd's form, JSON or for a console, to standard
//! error, standard output or files. Events come through `tracing`; what is logged is the business of
//! whoever logs.
//!
//! ```text
//! {"level":"info","ts":"2026-11-24T15:27:49.136753Z","caller":"node/mod.rs:139","msg":"…","key":…}
//! 2026-11-24T15:27:49.136753Z<tab>info<tab>node/mod.rs:139<tab>…<tab>{"key": …}
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::config::{self, LogConfig};

/// Everything that this process logs from now on goes where `config` says.
///
/// # Errors
/// A file can not be opened, or logging was set up before.
pub fn start(config: &LogConfig) -> io::Result<()> {
    let subscriber = tracing_subscriber::registry().with(Lines::open(config)?);
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)
}

enum Output {
    Stderr,
    Stdout,
    File(Mutex<File>),
}

impl Output {
    fn open(name: &str) -> io::Result<Output> {
        match name {
            "stderr" => Ok(Output::Stderr),
            "stdout" => Ok(Output::Stdout),
            path => {
                let mut options = OpenOptions::new();
                let file = options.append(true).create(true).mode(0o600).open(path);
                let file =
                    file.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
                Ok(Output::File(Mutex::new(file)))
            }
        }
    }

    /// A line that can not be written is lost: there is nobody left to tell.
    fn write(&self, line: &str) {
        let _ = match self {
            Output::Stderr => io::stderr().write_all(line.as_bytes()),
            Output::Stdout => io::stdout().write_all(line.as_bytes()),
            Output::File(file) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
            }
        };
    }
}

struct Lines {
    level: config::Level,
    json: bool,
    outputs: Vec<Output>,
}

impl Lines {
    fn open(config: &LogConfig) -> io::Result<Lines> {
        let outputs =
            config.outputs.iter().map(|name| Output::open(name)).collect::<Result<_, _>>();
        Ok(Lines { level: config.level, json: config.json, outputs: outputs? })
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Other crates speak of their own affairs; only what failed is of interest.
        let ours = metadata.target().starts_with("cored");
        level(metadata.level()) >= self.level && (ours || *metadata.level() <= Level::WARN)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            level: level(event.metadata().level()),
            since_1970_us: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0)),
            caller: caller(event.metadata()),
            message: &fields.message,
            fields: &fields.rest,
        };
        let line = if self.json { line.json() } else { line.console() };
        self.outputs.iter().for_each(|output| output.write(&line));
    }
}

fn level(level: &Level) -> config::Level {
    match *level {
        Level::ERROR => config::Level::Error,
        Level::WARN => config::Level::Warn,
        Level::INFO => config::Level::Info,
        _ => config::Level::Debug,
    }
}

/// The last folder, the file and the line, as zap names callers.
fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("?");
    let folder = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[folder..], metadata.line().unwrap_or(0))
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        let value = value.into();
        match (field.name(), &value) {
            ("message", Value::String(text)) => self.message.clone_from(text),
            // etcd's keys have dashes, Rust's names can not.
            (name, _) => drop(self.rest.insert(name.replace('_', "-"), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, value.to_string());
    }
}

struct Line<'a> {
    level: config::Level,
    since_1970_us: u64,
    caller: String,
    message: &'a str,
    fields: &'a Map<String, Value>,
}

impl Line<'_> {
    fn json(&self) -> String {
        let mut line = Map::new();
        line.insert("level".into(), self.level().into());
        line.insert("ts".into(), timestamp(self.since_1970_us).into());
        line.insert("caller".into(), self.caller.as_str().into());
        line.insert("msg".into(), self.message.into());
        line.extend(self.fields.iter().map(|(key, value)| (key.clone(), value.clone())));
        format!("{}\n", Value::Object(line))
    }

    fn console(&self) -> String {
        let (ts, level) = (timestamp(self.since_1970_us), self.level());
        // A message may hold line ends; a line of the log may not.
        let message = self.message.replace(['\n', '\r', '\t'], " ");
        let mut line = format!("{ts}\t{level}\t{}\t{message}", self.caller);
        if !self.fields.is_empty() {
            let fields = self.fields.iter();
            let fields =
                fields.map(|(key, value)| format!("{}: {value}", Value::from(key.as_str())));
            line.push_str(&format!("\t{{{}}}", fields.collect::<Vec<_>>().join(", ")));
        }
        line.push('\n');
        line
    }

    fn level(&self) -> &'static str {
        match self.level {
            config::Level::Debug => "debug",
            config::Level::Info => "info",
            config::Level::Warn => "warn",
            config::Level::Error => "error",
        }
    }
}

/// RFC 3339 with microseconds, in UTC.
fn timestamp(since_1970_us: u64) -> String {
    let (seconds, us) = (since_1970_us / 1_000_000, since_1970_us % 1_000_000);
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

/// The Gregorian date of a day since 1970. Years are counted from March, so that the leap day is
/// the last one; 400 years have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(message: &'a str, fields: &'a Map<String, Value>) -> Line<'a> {
        let since_1970_us = 1_795_534_069_136_753;
        let (level, caller) = (config::Level::Info, "node/mod.rs:7".to_owned());
        Line { level, since_1970_us, caller, message, fields }
    }

    #[test]
    fn lines_have_zaps_form() {
        let mut fields = Map::new();
        fields.insert("data-dir".into(), "/a \"b\"".into());
        fields.insert("cores".into(), 2.into());
        assert_eq!(
            line("hello\nyou", &fields).json(),
            "{\"level\":\"info\",\"ts\":\"2026-11-24T15:27:49.136753Z\",\
             \"caller\":\"node/mod.rs:7\",\"msg\":\"hello\\nyou\",\
             \"data-dir\":\"/a \\\"b\\\"\",\"cores\":2}\n"
        );
        assert_eq!(
            line("hello\nyou", &fields).console(),
            "2026-11-24T15:27:49.136753Z\tinfo\tnode/mod.rs:7\thello you\t\
             {\"data-dir\": \"/a \\\"b\\\"\", \"cores\": 2}\n"
        );
    }

    #[test]
    fn dates_are_right_around_leap_days_and_centuries() {
        let table = [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_709_164_800, "2024-02-29"),
            (4_107_542_400, "2100-03-01"),
            (1_798_761_599, "2026-12-31"),
        ];
        for (seconds, day) in table {
            assert_eq!(&timestamp(seconds * 1_000_000)[..10], day);
        }
    }

    #[test]
    fn events_reach_every_output_from_their_level_on() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let config = LogConfig {
            level: config::Level::Warn,
            outputs: vec![path("a"), path("b")],
            json: true,
        };
        let lines = Lines::open(&config).expect("files can be made");
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("too quiet");
            tracing::warn!(log_number = 3, path = %"/x", "loud enough");
        });
        for name in ["a", "b"] {
            let text = std::fs::read_to_string(path(name)).expect("written");
            let line: Value = serde_json::from_str(&text).expect("one line of JSON");
            assert_eq!(line["msg"], "loud enough");
            assert_eq!((&line["log-number"], &line["path"]), (&3.into(), &"/x".into()));
            assert!(line["caller"].as_str().expect("text").starts_with("node/logging.rs:"));
        }
    }

    #[test]
    fn an_output_that_can_not_be_opened_is_named() {
        let outputs = vec!["/no/such/directory/log".to_owned()];
        let opened = Lines::open(&LogConfig { outputs, ..LogConfig::default() });
        assert!(opened.is_err_and(|error| error.to_string().contains("/no/such/directory")));
    }
}
