//! A disk that is really full: a small file system of its own, filled by clients and by a stranger.
//! Nothing that was acknowledged is lost, the alarm is raised, what does not grow goes on, and there is
//! a way back without a restart. Needs root, for `mount`, and a disk that is not shared with a busy neighbour:
//! how long a checkpoint takes there is bounded by the patience of its clients.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::http::{b64, number, text};
use common::{Http, Place, Server};

const DISK_BYTES: u64 = 768 << 20;
const WRITERS: usize = 4;
const VALUE_BYTES: usize = 64 << 10;

/// Keys that were acknowledged, with their revisions.
type Known = Mutex<BTreeMap<String, i64>>;

/// A small file system of its own, while this lives.
struct Disk {
    at: PathBuf,
    _image: tempfile::TempDir,
}

impl Disk {
    fn new() -> Disk {
        let directory = common::directory();
        let (image, at) = (directory.path().join("image"), directory.path().join("disk"));
        fs::File::create(&image).expect("made").set_len(DISK_BYTES).expect("its size");
        fs::create_dir(&at).expect("made");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Disk { at, _image: directory }
    }

    /// A stranger takes all the room that there is, to the last block.
    fn fill(&self) {
        let mut options = fs::OpenOptions::new();
        let mut file = options.append(true).create(true).open(self.stranger()).expect("made");
        for piece in [1 << 20, 4096] {
            while file.write_all(&vec![7; piece]).and_then(|()| file.sync_all()).is_ok() {}
        }
    }

    fn stranger(&self) -> PathBuf {
        self.at.join("stranger")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}; it needs root and loop devices");
}

fn flags(command: &mut Command) {
    command.args(["--cores", "2", "--checkpoint-wal-bytes", "67108864"]);
}

fn start(disk: &Disk) -> Server {
    let directory = tempfile::tempdir_in(&disk.at).expect("a directory");
    let place = Place { directory, client: common::free_port(), peer: common::free_port() };
    Server::start_in(place, flags)
}

fn value(key: &str) -> String {
    let mut value = key.repeat(VALUE_BYTES / key.len() + 1);
    value.truncate(VALUE_BYTES);
    value
}

/// Puts new keys until nothing more is taken; adds the acknowledged ones to what is known.
fn put_until_full(server: &Server, round: &str, known: &Known) {
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut http = server.http();
                for n in 0.. {
                    let key = format!("{round}/{writer}/{n:06}");
                    match http.put(&key, &value(&key)).expect("an answer") {
                        Ok(revision) => drop(known.lock().unwrap().insert(key, revision)),
                        Err(refusal) => return assert_no_space(&refusal),
                    }
                }
            });
        }
    });
}

fn assert_no_space(refusal: &Value) {
    assert_eq!(refusal["message"], "etcdserver: mvcc: database space exceeded", "{refusal}");
}

/// Every key that was acknowledged has its value and revision.
fn assert_all_there(server: &Server, known: &Known) {
    let mut http = server.http();
    for (key, revision) in known.lock().unwrap().iter() {
        let (status, answer) =
            http.call("/v3/kv/range", &json!({"key": b64(key)})).expect("an answer");
        assert_eq!(status, 200, "{key}: {answer}");
        let found = &answer["kvs"][0];
        assert_eq!(number(&found["mod_revision"]), *revision, "{key}");
        assert_eq!(text(&found["value"]), value(key), "{key}");
    }
}

fn call(server: &Server, path: &str, body: &Value) -> Value {
    let (status, answer) = server.call(path, body);
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

fn is_raised(server: &Server) -> bool {
    let answer = call(server, "/v3/maintenance/alarm", &json!({"action": "GET"}));
    answer["alarms"][0]["alarm"] == "NOSPACE"
}

fn disarm(server: &Server) {
    let answer = call(server, "/v3/maintenance/alarm", &json!({"action": "GET"}));
    let member = &answer["alarms"][0]["memberID"];
    let body = json!({"action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE"});
    call(server, "/v3/maintenance/alarm", &body);
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + 2 * common::PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill_and_start(server: &mut Server) {
    server.process.kill();
    server.start_again_with(flags);
}

fn reserve(server: &Server) -> PathBuf {
    server.place.data().join("reserve")
}

fn is_deletable(http: &mut Http, key: &str) -> i64 {
    let (status, answer) =
        http.call("/v3/kv/deleterange", &json!({"key": b64(key)})).expect("an answer");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(number(&answer["deleted"]), 1, "{key}");
    number(&answer["header"]["revision"])
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_disk_that_clients_fill_takes_no_more_and_loses_nothing() {
    let disk = Disk::new();
    let mut server = start(&disk);
    assert!(reserve(&server).exists(), "there is room for a reserve");
    let known = Known::default();
    put_until_full(&server, "a", &known);
    assert!(known.lock().unwrap().len() > 1_000, "a few hundred MiB fit");
    assert!(is_raised(&server));
    assert!(server.process.output.wait_for("the disk is full; gave the reserve back", 0));
    assert_all_there(&server, &known);
    kill_and_start(&mut server);
    assert!(is_raised(&server), "an alarm outlives a restart");
    assert_no_space(&server.http().put("more", "v").expect("an answer").expect_err("full"));
    assert_all_there(&server, &known);

    // The way back: most of it goes, and its history. What stays must fit beside the image before.
    let kept = |n: usize| n.is_multiple_of(8);
    let keys = known.lock().unwrap().keys().cloned().enumerate().collect::<Vec<_>>();
    let gone: Vec<String> = keys.into_iter().filter(|(n, _)| !kept(*n)).map(|(_, k)| k).collect();
    let mut revision = 0;
    let mut http = server.http();
    for key in &gone {
        known.lock().unwrap().remove(key);
        revision = is_deletable(&mut http, key);
    }
    call(&server, "/v3/kv/compaction", &json!({"revision": revision, "physical": true}));
    call(&server, "/v3/maintenance/defragment", &json!({}));
    wait_until("a reserve again", || reserve(&server).exists());
    disarm(&server);
    for n in 0..20 {
        let key = format!("back/{n}");
        let revision = server.put(&key, &value(&key));
        known.lock().unwrap().insert(key, revision);
    }
    assert!(!is_raised(&server));
    // And to the brim once more, on the same logs.
    put_until_full(&server, "b", &known);
    assert!(is_raised(&server));
    kill_and_start(&mut server);
    assert_all_there(&server, &known);
    assert!(server.stop().0.success());
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_disk_that_a_stranger_fills_is_started_on_and_the_alarm_stays_until_there_is_room() {
    let disk = Disk::new();
    let mut server = start(&disk);
    let known = Known::default();
    for n in 0..50 {
        let key = format!("key/{n}");
        let revision = server.put(&key, &value(&key));
        known.lock().unwrap().insert(key, revision);
    }
    disk.fill();
    // The reserve is there for this; and when it is gone too, what exists is enough to start.
    for _ in 0..2 {
        kill_and_start(&mut server);
        wait_until("the alarm", || is_raised(&server));
        assert_all_there(&server, &known);
        assert_no_space(&server.http().put("more", "v").expect("an answer").expect_err("full"));
        let mut http = server.http();
        let key = known.lock().unwrap().keys().next().cloned().expect("a key");
        known.lock().unwrap().remove(&key);
        is_deletable(&mut http, &key);
        // What the reserve gave back is taken too.
        disk.fill();
    }
    disarm(&server);
    wait_until("the alarm comes back", || is_raised(&server));
    fs::remove_file(disk.stranger()).expect("removed");
    wait_until("a reserve again", || reserve(&server).exists());
    disarm(&server);
    server.put("more", "v");
    assert_all_there(&server, &known);
    assert!(server.stop().0.success());
}
