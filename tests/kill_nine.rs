//! kill -9 at any moment under four writers: what was acknowledged is there with its revision,
//! revisions have no gaps and none is given out twice for anything a client ever saw, and a watch
//! goes on where it was cut off. `CORED_KILLS` says how often (CI: 200). Most of the time checkpoints
//! are made all along, so the kills hit them too.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use common::http::{Lines, b64, number, text};
use common::{Http, Server};

const WRITERS: usize = 4;
/// Keys of one writer; few, so that they are overwritten and deleted again and again.
const KEYS: u64 = 40;

/// Bytes of log after which a checkpoint is made: a fraction of a second's writing.
const CHECKPOINT_BYTES: &str = "32768";

/// What happened to one key at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    key: String,
    /// `None` when it was deleted.
    value: Option<String>,
}

/// Revision to what happened there, in the order of the events.
type History = BTreeMap<i64, Vec<Change>>;

/// Repeatable noise: the moments of the kills, the mix of the writes.
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What one writer knows: acknowledged changes by revision.
#[derive(Default)]
struct Acknowledged(Mutex<History>);

impl Acknowledged {
    fn note(&self, revision: i64, changes: Vec<Change>) {
        let before = self.0.lock().unwrap().insert(revision, changes.clone());
        assert!(
            before.is_none(),
            "revision {revision} was acknowledged for {before:?} and {changes:?}"
        );
    }
}

/// Writes until the server is gone. Every value is written once in the whole test, so that a write
/// which happened twice would show.
fn write(port: u16, writer: usize, serial: &AtomicU64, acknowledged: &Acknowledged, seed: u64) {
    let Ok(mut http) = Http::try_connect(port) else { return };
    let mut noise = Noise(seed);
    loop {
        let n = serial.fetch_add(1, Ordering::Relaxed);
        let key = |i: u64| format!("kill/{}/{writer}", i % KEYS);
        let value = format!("{writer}-{n}");
        let put = |i| Change { key: key(i), value: Some(value.clone()) };
        let done = match noise.below(10) {
            0 => delete(&mut http, &key(noise.below(KEYS))),
            // Keys of all writers interleave, so three neighbours lie apart.
            1 | 2 => transaction(&mut http, vec![put(n), put(n + 13), put(n + 29)]),
            _ => http.put(&key(n), &value).map(|answer| {
                let revision =
                    answer.unwrap_or_else(|refusal| panic!("a put is refused: {refusal}"));
                Some((revision, vec![put(n)]))
            }),
        };
        match done {
            Ok(Some((revision, changes))) => acknowledged.note(revision, changes),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

type Done = io::Result<Option<(i64, Vec<Change>)>>;

fn delete(http: &mut Http, key: &str) -> Done {
    let (status, answer) = http.call("/v3/kv/deleterange", &json!({"key": b64(key)}))?;
    assert_eq!(status, 200, "{answer}");
    let happened = number(&answer["deleted"]) == 1;
    let change = Change { key: key.to_owned(), value: None };
    Ok(happened.then(|| (number(&answer["header"]["revision"]), vec![change])))
}

fn transaction(http: &mut Http, changes: Vec<Change>) -> Done {
    let put = |c: &Change| json!({"request_put": {"key": b64(&c.key), "value": b64(c.value.as_ref().expect("a put"))}});
    let success: Vec<Value> = changes.iter().map(put).collect();
    let (status, answer) = http.call("/v3/kv/txn", &json!({ "success": success }))?;
    assert_eq!(status, 200, "{answer}");
    Ok(Some((number(&answer["header"]["revision"]), changes)))
}

/// A watch of everything that outlives the server: it goes on behind the last revision it saw.
#[derive(Default)]
struct Watcher {
    seen: History,
    last: i64,
}

impl Watcher {
    fn open(&self, port: u16) -> io::Result<Lines> {
        let from = self.last.max(1) + 1;
        Http::try_connect(port)?.stream(
            "/v3/watch",
            &json!({"create_request": {"key": b64("kill/"), "range_end": b64("kill0"), "start_revision": from.to_string()}}),
        )
    }

    /// Follows until the connection breaks or `upto` was seen.
    fn follow(&mut self, mut lines: Lines, upto: i64) -> io::Result<()> {
        while self.last < upto {
            let Some(message) = lines.next()? else { return Ok(()) };
            let result = &message["result"];
            assert_ne!(result["canceled"], true, "the watch is canceled: {message}");
            for event in result["events"].as_array().into_iter().flatten() {
                self.take(event);
            }
        }
        Ok(())
    }

    fn take(&mut self, event: &Value) {
        let revision = number(&event["kv"]["mod_revision"]);
        assert!(
            revision == self.last + 1 || revision == self.last || self.last == 0,
            "the watch goes from revision {} to {revision}",
            self.last
        );
        self.last = revision;
        let deleted = event["type"] == "DELETE";
        let value = (!deleted).then(|| text(&event["kv"]["value"]));
        let change = Change { key: text(&event["kv"]["key"]), value };
        self.seen.entry(revision).or_default().push(change);
    }
}

fn current(server: &Server) -> i64 {
    let (status, answer) = server.call("/v3/kv/range", &json!({"key": b64("?")}));
    assert_eq!(status, 200, "{answer}");
    number(&answer["header"]["revision"])
}

/// Everything the server says has ever happened.
fn told(server: &Server, upto: i64) -> History {
    let mut watcher = Watcher::default();
    let lines = watcher.open(server.place.client).expect("a watch");
    watcher.follow(lines, upto).expect("the whole history");
    watcher.seen
}

#[test]
fn nothing_acknowledged_is_lost() {
    let kills = common::count("CORED_KILLS", 12);
    let mut noise = Noise(common::count("CORED_SEED", 1) as u64);
    let mut server = Server::start();
    let port = server.place.client;
    let serial = Arc::new(AtomicU64::new(1));
    let acknowledged = Arc::new(Acknowledged::default());
    let watcher = Arc::new(Mutex::new(Watcher::default()));
    for kill in 0..kills {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (serial, acknowledged) = (serial.clone(), acknowledged.clone());
                let seed = noise.below(u64::MAX >> 33);
                std::thread::spawn(move || write(port, writer, &serial, &acknowledged, seed))
            })
            .collect();
        let watching = {
            let watcher = watcher.clone();
            std::thread::spawn(move || {
                let mut watcher = watcher.lock().unwrap();
                if let Ok(lines) = watcher.open(port) {
                    let _ = watcher.follow(lines, i64::MAX);
                }
            })
        };
        std::thread::sleep(Duration::from_millis(20 + noise.below(250)));
        server.process.kill();
        for thread in writers {
            thread.join().expect("a writer saw nothing wrong");
        }
        watching.join().expect("the watch saw nothing wrong");
        let checkpoints = |command: &mut Command| {
            if kill % 3 != 2 && !common::stand_in() {
                command.args(["--checkpoint-wal-bytes", CHECKPOINT_BYTES]);
            }
        };
        if kill % 7 == 3 {
            kill_while_starting(&mut server, &mut noise, checkpoints);
        }
        server.start_again_with(checkpoints);
        check(&server, &acknowledged, &mut watcher.lock().unwrap());
    }
    let upto = current(&server);
    let history = told(&server, upto);
    assert_eq!(
        history,
        watcher.lock().unwrap().seen,
        "the watch saw another history than there is"
    );
    assert_values_once(&history);
    let checkpoints = newest_checkpoint(&server);
    assert!(common::stand_in() || kills < 6 || checkpoints > 0, "no checkpoint was made");
    println!(
        "{kills} kills, {} acknowledged, revision {upto}, {checkpoints} checkpoints",
        acknowledged.0.lock().unwrap().len()
    );
}

/// Names of the files in a part of the data directory, in order.
fn files(server: &Server, part: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(server.place.data().join(part)).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(extension)).collect();
    names.sort();
    names
}

/// The number of the newest checkpoint; 0 if there is none.
fn newest_checkpoint(server: &Server) -> u64 {
    let manifests = files(server, "checkpoint", ".manifest");
    manifests.last().map_or(0, |name| name[..12].parse().expect("a number"))
}

#[test]
fn logs_stay_short_however_much_is_written() {
    if common::stand_in() {
        return;
    }
    const MEGABYTES: usize = 400;
    let small = |command: &mut Command| {
        command.args(["--cores", "1", "--checkpoint-wal-bytes", "1048576"]);
    };
    let mut server = Server::start_with(small);
    let value = |n: usize| format!("{n:08}").repeat(1 << 17);
    let put = |server: &Server, n: usize| server.put(&format!("log/{}", n % 8), &value(n));
    let mut most = 0;
    for n in 0..MEGABYTES {
        let revision = put(&server, n);
        if n % 16 == 15 {
            let compact = json!({"revision": revision.to_string(), "physical": true});
            let (status, answer) = server.call("/v3/kv/compaction", &compact);
            assert_eq!(status, 200, "{answer}");
            most = most.max(files(&server, "wal", ".wal").len());
        }
    }
    // All of it would fill seven segments of 64 MiB. One is written, one is ready, one may wait to go.
    let made = newest_checkpoint(&server);
    assert!(most <= 5, "{most} segments at once, {made} checkpoints");
    server.process.kill();
    server.start_again_with(small);
    for n in MEGABYTES - 8..MEGABYTES {
        assert!(
            server.get(&format!("log/{}", n % 8)).as_deref() == Some(&*value(n)),
            "{n} is lost"
        );
    }
    println!("{MEGABYTES} MB, at most {most} segments, {made} checkpoints");
}

/// A crash in the middle of a recovery must not harm the next one.
fn kill_while_starting(server: &mut Server, noise: &mut Noise, change: impl FnOnce(&mut Command)) {
    let mut command = server.place.command();
    change(&mut command);
    let mut process = common::Process::spawn(&mut command);
    std::thread::sleep(Duration::from_millis(noise.below(120)));
    process.kill();
}

/// After a restart: the watch goes on without a gap, and what was acknowledged is what it saw.
fn check(server: &Server, acknowledged: &Acknowledged, watcher: &mut Watcher) {
    let upto = current(server);
    assert!(upto >= watcher.last, "revision {upto} after the watch saw {}", watcher.last);
    let lines = watcher.open(server.place.client).expect("a watch");
    watcher.follow(lines, upto).expect("the watch goes on");
    for (revision, changes) in acknowledged.0.lock().unwrap().iter() {
        assert_eq!(
            watcher.seen.get(revision),
            Some(changes),
            "revision {revision} was acknowledged for the right side"
        );
    }
}

/// No write happened twice, acknowledged or not.
fn assert_values_once(history: &History) {
    let mut values = BTreeMap::new();
    for (revision, changes) in history {
        for value in changes.iter().filter_map(|change| change.value.as_ref()) {
            let before = values.insert(value, revision).filter(|before| *before != revision);
            assert_eq!(before, None, "{value} was written again at revision {revision}");
        }
    }
}
