//! The command line, and what it asks for: checked once, here, so that everything behind it may trust it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, ValueEnum};

use crate::keyspace::{KeyNames, KeyPicker, Shape};
use crate::run::Job;
use crate::schedule::Arrivals;
use crate::verify::TAG_BYTES;
use crate::watch::WatchPlan;
use crate::worker::{Pacing, Plan};
use crate::workload::{Kind, Mix, Settings, Tag};

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// Write single keys
    Put,
    /// Read a key, or --range-keys neighbours
    Range,
    /// Write a key if it is as this client saw it last, else look at it
    TxnCas,
    /// Delete single keys
    Delete,
    /// Renew leases, one a client
    LeaseKeepalive,
    /// Several of these, as --mix says
    Mix,
    /// Write each of --keys once, then stop
    Fill,
    /// Put while --watchers watch all of it (one key unless --keys says more)
    Watch,
}

/// Load for any etcd v3 endpoint, measured without looking away.
///
/// Exit code: 0 all is well, 1 the load could not run, 2 wrong command line, 3 some requests failed or were never
/// answered, 4 something acknowledged was lost, changed, out of order or not told to a watcher.
#[derive(Clone, Debug, Parser)]
#[command(name = "cored-loadgen", version)]
pub struct Args {
    /// What to send
    #[arg(value_enum)]
    pub load: Load,

    /// Where to, as host:port; connections take them in turn
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub endpoints: Vec<String>,

    /// Requests in flight at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub clients: u32,

    /// HTTP/2 connections that the clients share [default: 10, or one a client if they are fewer]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub conns: Option<u32>,

    /// Threads that send; each has its own connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,

    /// Open loop: requests a second, due whether earlier ones are answered or not
    #[arg(long)]
    pub rate: Option<f64>,

    /// How the requests of an open loop are spaced
    #[arg(long, value_enum, default_value = "uniform")]
    pub arrivals: Arrivals,

    /// How long to measure, as 10s, 500ms, 2m [default: 10s unless --requests is given]
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// How many requests to measure
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_u64 << 62))]
    pub requests: Option<u64>,

    /// Load before measuring begins [default: 2s; 0s with --requests and for fill]
    #[arg(long, value_parser = parse_duration)]
    pub warmup: Option<Duration>,

    /// How long to wait for the last answers, and for the server when reading back
    #[arg(long, value_parser = parse_duration, default_value = "10s")]
    pub patience: Duration,

    /// Shares of a mix, as put=60,range=40
    #[arg(long)]
    pub mix: Option<Mix>,

    /// Length of a key in bytes, the prefix included
    #[arg(long, default_value_t = 8)]
    pub key_size: usize,

    /// What every key begins with
    #[arg(long, default_value = "")]
    pub key_prefix: String,

    /// Length of a value in bytes
    #[arg(long, default_value_t = 256)]
    pub val_size: usize,

    /// How many keys there are [default: 100000; 1 for watch]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_u64 << 52))]
    pub keys: Option<u64>,

    /// Which keys are drawn.
    // Brackets in the help would be links in the documentation.
    #[arg(
        long,
        default_value = "uniform",
        help = "Which are drawn: uniform, zipf[:exponent], sequential, hot-prefix[:percent[:keys]]"
    )]
    pub key_space: Shape,

    /// Keys that a range covers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub range_keys: u64,

    /// Keys that a range returns at most; 0 for all
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub limit: i64,

    /// Read without a leader's confirmation
    #[arg(long)]
    pub serializable: bool,

    /// Read without values
    #[arg(long)]
    pub keys_only: bool,

    /// Read the number of keys only
    #[arg(long)]
    pub count_only: bool,

    /// Keys in one transaction of a fill
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub fill_txn: u64,

    /// Time to live of the leases, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(i64).range(1..))]
    pub lease_ttl: i64,

    /// Watchers; they get connections (as many as --conns) and threads (as many as --threads) of their own
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub watchers: u32,

    /// Streams that the watchers share
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub streams: u32,

    /// Fixes keys, values and random arrivals
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Read everything back that was acknowledged
    #[arg(long)]
    pub verify: bool,

    /// Servers on this machine whose processor time and memory are to be told
    #[arg(long, value_delimiter = ',')]
    pub server_pid: Vec<u32>,

    /// Write the result to this file as JSON (- for standard output, without the table)
    #[arg(long)]
    pub json: Option<PathBuf>,

    /// Write a histogram a second to this file
    #[arg(long)]
    pub hlog: Option<PathBuf>,

    /// No progress line a second
    #[arg(long)]
    pub quiet: bool,
}

impl Args {
    /// The job that these arguments describe.
    ///
    /// # Errors
    /// A sentence for the user when they contradict each other.
    pub fn job(&self) -> Result<Job, String> {
        self.check()?;
        let settings = Arc::new(self.settings()?);
        let is_fill = self.load == Load::Fill;
        let ends_by_count = is_fill || self.requests.is_some();
        let default_duration = (!ends_by_count).then_some(Duration::from_secs(10));
        let default_warmup = Duration::from_secs(if ends_by_count { 0 } else { 2 });
        let conns = self.conns.unwrap_or(10).min(self.clients);
        let plan = Plan {
            endpoints: self.endpoints.clone(),
            conns,
            clients: self.clients,
            threads: self.threads.min(conns),
            pacing: match self.rate {
                Some(rate_per_s) => Pacing::Open { rate_per_s, arrivals: self.arrivals },
                None => Pacing::Closed,
            },
            warmup: self.warmup.unwrap_or(default_warmup),
            duration: self.duration.or(default_duration),
            requests: self.requests,
            patience: self.patience,
            seed: self.seed,
            verify: self.verify,
            lease_ttl_s: self.lease_ttl,
            settings,
        };
        let watch = (self.load == Load::Watch).then(|| Arc::new(self.watch_plan(&plan.settings)));
        Ok(Job { plan: Arc::new(plan), watch, server_pids: self.server_pid.clone() })
    }

    fn keys(&self) -> u64 {
        self.keys.unwrap_or(if self.load == Load::Watch { 1 } else { 100_000 })
    }

    fn check(&self) -> Result<(), String> {
        let writes = match (self.load, &self.mix) {
            (Load::Mix, None) => return Err("a mix needs --mix, as put=60,range=40".to_owned()),
            (Load::Mix, Some(mix)) => {
                mix.kinds().any(|kind| !matches!(kind, Kind::Range | Kind::LeaseKeepalive))
            }
            (_, Some(_)) => return Err("--mix is for the load named mix".to_owned()),
            (load, None) => !matches!(load, Load::Range | Load::LeaseKeepalive),
        };
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e9)) {
            return Err("--rate must be above 0 and at most 1000000000".to_owned());
        }
        if self.load == Load::Fill
            && (self.rate.is_some() || self.requests.is_some() || self.warmup.is_some())
        {
            return Err("a fill ends with the last of --keys and goes as fast as it can: \
                        no --rate, --requests or --warmup"
                .to_owned());
        }
        if self.range_keys > self.keys() {
            return Err("--range-keys is more than --keys".to_owned());
        }
        if self.verify && !writes {
            return Err("--verify needs a load that writes".to_owned());
        }
        if self.load == Load::Watch && (self.verify || self.val_size < TAG_BYTES) {
            return Err(format!(
                "watchers check by themselves what they are told (no --verify), and read from its value \
                 how old an event is: --val-size must be at least {TAG_BYTES}"
            ));
        }
        Ok(())
    }

    fn settings(&self) -> Result<Settings, String> {
        let mix = match self.load {
            Load::Put | Load::Watch => Mix::only(Kind::Put),
            Load::Range => Mix::only(Kind::Range),
            Load::TxnCas => Mix::only(Kind::TxnCas),
            Load::Delete => Mix::only(Kind::Delete),
            Load::LeaseKeepalive => Mix::only(Kind::LeaseKeepalive),
            Load::Fill => Mix::only(Kind::Fill),
            Load::Mix => self.mix.clone().ok_or("a mix needs --mix")?,
        };
        let shape = if self.load == Load::Fill { Shape::Sequential } else { self.key_space };
        Ok(Settings {
            mix,
            names: KeyNames::new(&self.key_prefix, self.key_size, self.keys())?,
            picker: KeyPicker::new(shape, self.keys()),
            value_len_bytes: self.val_size,
            range_keys: self.range_keys,
            limit: self.limit,
            serializable: self.serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            fill_keys_per_txn: self.fill_txn,
            tag: match (self.load, self.verify) {
                (Load::Watch, _) => Tag::Due,
                (_, true) => Tag::Number,
                (_, false) => Tag::None,
            },
        })
    }

    fn watch_plan(&self, settings: &Settings) -> WatchPlan {
        let streams = self.streams.min(self.watchers);
        let conns = self.conns.unwrap_or(10).min(streams);
        let keys = self.keys();
        WatchPlan {
            endpoints: self.endpoints.clone(),
            conns,
            streams,
            watchers: self.watchers,
            threads: self.threads.min(conns),
            key: settings.names.name(0).into(),
            range_end: if keys == 1 { Bytes::new() } else { settings.names.name(keys).into() },
            patience: self.patience,
        }
    }
}

/// Reads 500ms, 10s, 2m or 1h.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is not a time such as 500ms, 10s, 2m or 1h");
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit_s = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    // A year is enough, and far from where clocks overflow.
    let seconds = number * unit_s;
    if (0.0..=31_536_000.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(line: &str) -> Result<Job, String> {
        let words = ["cored-loadgen"].into_iter().chain(line.split(' '));
        Args::try_parse_from(words).map_err(|error| error.to_string())?.job()
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_fit_the_load() {
        let put = job("put").unwrap();
        assert_eq!((put.plan.clients, put.plan.conns, put.plan.threads), (1, 1, 1));
        assert_eq!(put.plan.duration, Some(Duration::from_secs(10)));
        assert_eq!(put.plan.warmup, Duration::from_secs(2));
        assert_eq!((put.plan.pacing, put.plan.settings.tag), (Pacing::Closed, Tag::None));

        let counted = job("range --requests 5 --clients 1000 --threads 64").unwrap();
        assert_eq!((counted.plan.duration, counted.plan.warmup), (None, Duration::ZERO));
        assert_eq!((counted.plan.conns, counted.plan.threads), (10, 10));

        let fill = job("fill --keys 7 --key-space uniform --verify").unwrap();
        assert_eq!((fill.plan.duration, fill.plan.settings.tag), (None, Tag::Number));
        assert_eq!(fill.plan.settings.picker.take_run(100), Some(0..7));

        let open = job("put --rate 1000 --arrivals poisson").unwrap();
        let expected = Pacing::Open { rate_per_s: 1000.0, arrivals: Arrivals::Poisson };
        assert_eq!(open.plan.pacing, expected);
    }

    #[test]
    fn watchers_watch_exactly_what_is_written() {
        let one = job("watch --watchers 5").unwrap();
        let plan = one.watch.as_ref().unwrap();
        assert_eq!((&plan.key[..], &plan.range_end[..]), (&b"00000000"[..], &b""[..]));
        assert_eq!((plan.streams, plan.conns), (5, 5));
        assert_eq!(one.names(), ["put", "event"]);
        let many = job("watch --keys 100 --key-prefix w/").unwrap();
        let plan = many.watch.unwrap();
        assert_eq!((&plan.key[..], &plan.range_end[..]), (&b"w/000000"[..], &b"w/000100"[..]));
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "mix",
            "put --mix put=100",
            "mix --mix put=50",
            "put --rate 0",
            "put --rate nan",
            "put --clients 0",
            "put --duration 10",
            "put --duration -1s",
            "put --key-size 4",
            "put --key-space zipf:x",
            "range --keys 10 --range-keys 11",
            "range --verify",
            "mix --mix range=100 --verify",
            "fill --rate 10",
            "watch --val-size 8",
            "watch --verify",
            "get",
        ] {
            assert!(job(line).is_err(), "{line}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "5", "5x", "-1s", "1e99h", "infs"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
