//! What the process ends with, so that a supervisor can tell a wrong flag from a broken disk, and
//! what it counts while it runs. The table is in `docs/operations.md`.

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use common::http::b64;
use common::{Place, Process, Server};

/// The code with which a command ends, and what it printed.
fn ends(command: &mut Command) -> (Option<i32>, String) {
    let (status, text) = Process::spawn(command).end();
    (status.code(), text)
}

/// Runs a command to its end, which must have this code and say this.
fn assert_ends(command: &mut Command, code: i32, part: &str) {
    let (found, text) = ends(command);
    assert_eq!(found, Some(code), "{text}");
    assert!(text.contains(part), "no word of {part:?} in:\n{text}");
}

/// Lowers a limit of the process that the command becomes.
fn limited(command: &mut Command, resource: libc::__rlimit_resource_t, most: u64) -> &mut Command {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    let lower = move || {
        // SAFETY: it reads a number of our own; between fork and exec that is allowed.
        match unsafe { libc::setrlimit(resource, &raw const limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(lower) }
}

#[test]
fn wrong_flags_are_1_and_2() {
    if common::stand_in() {
        return;
    }
    let place = Place::new();
    assert_ends(place.command().arg("--nope"), 2, "flag provided but not defined: -nope\nUsage:\n");
    assert_ends(place.command().arg("--name"), 2, "flag needs an argument: -name\n");
    assert_ends(place.command().arg("more"), 1, "\\\"more\\\" is not a valid flag");
    assert!(!place.data().exists(), "nothing was made");
}

#[test]
fn limits_of_the_machine_are_11() {
    if common::stand_in() {
        return;
    }
    let place = Place::new();
    let mut files = place.command();
    assert_ends(limited(&mut files, libc::RLIMIT_NOFILE, 40), 11, "RLIMIT_NOFILE");
    let mut memory = place.command();
    assert_ends(limited(&mut memory, libc::RLIMIT_MEMLOCK, 64 << 10), 11, "RLIMIT_MEMLOCK");
}

#[test]
fn what_another_process_has_is_12_and_13() {
    if common::stand_in() {
        return;
    }
    let place = Place::new();
    let taken = TcpListener::bind(("127.0.0.1", place.client)).expect("a free port");
    assert_ends(&mut place.command(), 12, "can not listen on http://127.0.0.1:");
    drop(taken);
    let server = Server::start();
    let first = format!("locked by another process (process {})", server.process.child.id());
    let elsewhere = Place::new();
    let mut second = common::command(&server.place.data(), elsewhere.client, elsewhere.peer);
    assert_ends(&mut second, 13, &first);
}

#[test]
fn directories_that_can_not_be_used_are_14_and_15() {
    if common::stand_in() {
        return;
    }
    let place = Place::new();
    let file = place.directory.path().join("file");
    fs::write(&file, "").expect("written");
    let mut below = common::command(&file.join("below"), place.client, place.peer);
    assert_ends(&mut below, 14, "file/below");
    fs::create_dir_all(place.data().join("member/snap")).expect("made");
    assert_ends(&mut place.command(), 15, "data of etcd");
}

#[test]
fn a_directory_that_does_not_fit_is_16_to_19() {
    if common::stand_in() {
        return;
    }
    let mut server = Server::start_with(|command| {
        command.args(["--lanes", "2"]);
    });
    server.put("k", "v");
    assert!(server.stop().0.success());
    let place = &server.place;
    assert_ends(place.command().args(["--lanes", "3"]), 17, "--lanes 3 differs from the 2 lanes");
    let elsewhere = place.directory.path().join("elsewhere");
    assert_ends(place.command().arg("--wal-dir").arg(&elsewhere), 18, "lacks log 0");

    let identity = place.data().join("identity");
    let ours = fs::read(&identity).expect("readable");
    fs::write(&identity, "cored: member\nformat: 9\n").expect("written");
    assert_ends(&mut place.command(), 16, "has format 9");
    fs::write(&identity, &ours).expect("written");

    damage(&place.data().join("wal"));
    assert_ends(&mut place.command(), 19, "damaged at byte");
}

/// Overwrites the first records of every segment, which were acknowledged long ago.
fn damage(wal: &Path) {
    for segment in fs::read_dir(wal).expect("readable") {
        let segment = segment.expect("readable").path();
        if segment.extension().is_some_and(|extension| extension == "wal") {
            let mut bytes = fs::read(&segment).expect("readable");
            bytes[4096..8192].fill(0xff);
            fs::write(&segment, bytes).expect("written");
        }
    }
}

/// Keys of twenty kilobytes that make up several blocks, all of them in a checkpoint; it is stopped.
fn with_a_checkpoint() -> Server {
    let mut server = Server::start();
    let value = "v".repeat(20_000);
    for n in 0..60 {
        server.put(&format!("key{n:02}"), &value);
    }
    let (status, answer) = server.call("/v3/maintenance/defragment", &json!({}));
    assert_eq!(status, 200, "{answer}");
    assert!(server.stop().0.success());
    server
}

/// Flips the lowest bit of a byte of the only file in the checkpoint with this extension; its name.
fn flip(server: &Server, extension: &str, byte: usize) -> String {
    let entries = fs::read_dir(server.place.data().join("checkpoint")).expect("readable");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut paths = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    let path = paths.next().expect("a checkpoint");
    assert_eq!(paths.next(), None, "one checkpoint");
    let mut bytes = fs::read(&path).expect("readable");
    bytes[byte] ^= 1;
    fs::write(&path, bytes).expect("written");
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn a_flipped_bit_in_the_manifest_of_a_checkpoint_is_19() {
    if common::stand_in() {
        return;
    }
    let mut server = with_a_checkpoint();
    let name = flip(&server, "manifest", 70);
    assert_ends(&mut server.place.command(), 19, &name);
    assert_ends(&mut server.place.command(), 19, "its checksum is wrong");
    flip(&server, "manifest", 70);
    server.start_again();
    assert_eq!(server.get("key59").map(|value| value.len()), Some(20_000));
}

#[test]
fn a_flipped_bit_in_a_block_fails_its_keys_and_ends_all_writing() {
    if common::stand_in() {
        return;
    }
    let corrupt = json!({"code": 15, "message": "etcdserver: corrupt cluster"});
    let mut server = with_a_checkpoint();
    flip(&server, "blocks", 1_000);
    server.start_again();
    // Nobody knows yet, and where the block is not in the way nobody needs to.
    assert_eq!(server.get("key59").map(|value| value.len()), Some(20_000));
    let get = |key: &str| server.call("/v3/kv/range", &json!({"key": b64(key)}));
    assert_eq!(get("key00"), (500, corrupt.clone()));
    let raised = || {
        let (status, answer) = server.call("/v3/maintenance/alarm", &json!({"action": "GET"}));
        assert_eq!(status, 200, "{answer}");
        answer["alarms"][0]["alarm"] == "CORRUPT"
    };
    // The alarm is logged before it is told.
    let deadline = Instant::now() + common::PATIENCE;
    while !raised() {
        assert!(Instant::now() < deadline, "no alarm");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(server.process.output.wait_for("found a damaged checkpoint", 0));
    let put = |server: &Server, key: &str| {
        server.call("/v3/kv/put", &json!({"key": b64(key), "value": b64("new")}))
    };
    for key in ["key00", "key59", "new"] {
        assert_eq!(put(&server, key), (500, corrupt.clone()), "{key}");
    }
    assert_eq!(get("key00"), (500, corrupt.clone()));
    assert_eq!(server.get("key59").map(|value| value.len()), Some(20_000));
    assert_eq!(server.get("new"), None);
    let health = server.http().request("GET", "/health", b"").expect("an answer").text();
    assert!(health.contains("ALARM CORRUPT"), "{health}");
    // Nobody who starts it again gets around that.
    server.crash();
    assert_eq!(put(&server, "new"), (500, corrupt));
    assert_eq!(server.get("key59").map(|value| value.len()), Some(20_000));
}

#[test]
fn a_page_of_the_image_that_can_not_be_read_is_20() {
    if common::stand_in() {
        return;
    }
    let mut server = with_a_checkpoint();
    server.start_again();
    let checkpoint = fs::read_dir(server.place.data().join("checkpoint")).expect("readable");
    let mut paths = checkpoint.map(|entry| entry.expect("readable").path());
    let blocks = paths.find(|path| path.extension().is_some_and(|found| found == "blocks"));
    let blocks = blocks.expect("a file of blocks");
    let file = fs::OpenOptions::new().write(true).open(&blocks).expect("writable");
    file.set_len(0).expect("cut");
    let asked = server.http().call("/v3/kv/range", &json!({"key": b64("key00")}));
    assert!(asked.is_err(), "{asked:?}");
    let (status, text) = server.process.end();
    assert_eq!(status.code(), Some(20), "{text}");
    let part = format!("cored: {}: the disk can not read the page at byte ", blocks.display());
    assert!(text.contains(&part), "{text}");
}

#[test]
fn extensive_metrics_time_the_calls_and_basic_ones_do_not() {
    if common::stand_in() {
        return;
    }
    let metrics = |server: &Server| {
        server.put("k", "v");
        server.http().request("GET", "/metrics", b"").expect("an answer").text()
    };
    let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    let basic = metrics(&Server::start());
    assert!(basic.contains(&format!("grpc_server_started_total{{{put}}} 1\n")), "{basic}");
    assert!(basic.contains("etcd_mvcc_put_total 1\n") && !basic.contains("handling_seconds"));
    let extensive = metrics(&Server::start_with(|command| {
        command.args(["--metrics", "extensive"]);
    }));
    let count = format!("grpc_server_handling_seconds_count{{{put}}} 1\n");
    assert!(extensive.contains(&count), "{extensive}");
}
