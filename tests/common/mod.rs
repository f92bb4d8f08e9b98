//! A server under test: the real binary, started on free loopback ports in a directory of its own,
//! and small clients to talk to it: HTTP/1.1 with JSON over plain sockets, and unary gRPC. It knows
//! the outside of the server only: flags, the ready line, signals, exit codes.
//!
//! `CORED_TEST_BINARY=/path/to/etcd` runs the same tests against another server, which tells a
//! wrong expectation from a wrong server.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod grpc;
pub mod http;

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use http::Http;

/// How long a server may take to start, to stop and to answer before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The line that scripts wait for.
pub const READY: &str = "ready to serve client requests";

/// The server's binary.
pub fn binary() -> PathBuf {
    std::env::var_os("CORED_TEST_BINARY").map_or(env!("CARGO_BIN_EXE_cored").into(), PathBuf::from)
}

/// Whether another server than cored stands in.
pub fn stand_in() -> bool {
    std::env::var_os("CORED_TEST_BINARY").is_some()
}

/// A number from the environment, so that the same test can run long.
pub fn count(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// A port nobody listens on, below those that the kernel gives to outgoing connections.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + (std::process::id() as u16).wrapping_mul(37) % 20_000;
    for _ in 0..2_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (start - 10_000 + step) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("2,000 ports in a row are taken");
}

/// An empty directory on a real disk, removed at the end. The system's temporary directory may be
/// in memory, where O_DIRECT does not work.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory")
}

/// What a process has printed so far, and whoever waits for a line of it.
#[derive(Clone, Default)]
pub struct Output(Arc<(Mutex<Printed>, Condvar)>);

#[derive(Default)]
struct Printed {
    text: String,
    open: usize,
}

impl Output {
    /// Reads a pipe to its end on a thread, so that the process never blocks on it.
    fn follow(&self, pipe: impl Read + Send + 'static) {
        self.0.0.lock().unwrap().open += 1;
        let output = self.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                output.0.0.lock().unwrap().text.push_str(&String::from_utf8_lossy(&line));
                output.0.1.notify_all();
                line.clear();
            }
            output.0.0.lock().unwrap().open -= 1;
            output.0.1.notify_all();
        });
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.0.0.lock().unwrap().text.clone()
    }

    /// Waits until `part` was printed after the byte `from`; false when the process closed its
    /// output without it, or nothing came in time.
    pub fn wait_for(&self, part: &str, from: usize) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut printed = self.0.0.lock().unwrap();
        loop {
            if printed.text[from..].contains(part) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if printed.open == 0 || left.is_zero() {
                return false;
            }
            printed = self.0.1.wait_timeout(printed, left).unwrap().0;
        }
    }

    fn wait_for_end(&self) {
        let mut printed = self.0.0.lock().unwrap();
        while printed.open > 0 {
            printed = self.0.1.wait(printed).unwrap();
        }
    }
}

/// A process with its output followed.
pub struct Process {
    pub child: Child,
    pub output: Output,
}

impl Process {
    /// Starts a command.
    pub fn spawn(command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server's binary starts");
        let output = Output::default();
        output.follow(child.stdout.take().expect("piped"));
        output.follow(child.stderr.take().expect("piped"));
        Process { child, output }
    }

    /// Waits for the end and returns the status with everything printed; kills it when it stays.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                self.output.wait_for_end();
                return (status, self.output.text());
            }
            if Instant::now() > deadline {
                self.kill();
                panic!("the process did not end; it printed:\n{}", self.output.text());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process number");
        // SAFETY: plain system call; the child has not been waited for, so the number is still its.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "signal {signal}");
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a server lives: the directory and ports that it keeps over restarts.
pub struct Place {
    pub directory: tempfile::TempDir,
    pub client: u16,
    pub peer: u16,
}

impl Place {
    /// A new directory and free ports.
    pub fn new() -> Place {
        Place { directory: directory(), client: free_port(), peer: free_port() }
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data.etcd")
    }

    /// The command that starts a server here.
    pub fn command(&self) -> Command {
        command(&self.data(), self.client, self.peer)
    }
}

/// The command of a server with these ports and this data directory.
pub fn command(data: &Path, client: u16, peer: u16) -> Command {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new(binary());
    command.env_clear().args(["--name", "under-test", "--data-dir"]).arg(data).args([
        "--listen-client-urls",
        &client,
        "--advertise-client-urls",
        &client,
        "--listen-peer-urls",
        &peer,
        "--initial-advertise-peer-urls",
        &peer,
        "--initial-cluster",
        &format!("under-test={peer}"),
    ]);
    command
}

/// A server that runs, until it is dropped.
pub struct Server {
    pub place: Place,
    pub process: Process,
}

impl Server {
    /// Starts a server in a new place and waits until it serves.
    pub fn start() -> Server {
        Server::start_with(|_| ())
    }

    /// The same with a changed command.
    pub fn start_with(change: impl FnOnce(&mut Command)) -> Server {
        Server::start_in(Place::new(), change)
    }

    /// The same in a place that was chosen.
    pub fn start_in(place: Place, change: impl FnOnce(&mut Command)) -> Server {
        let process = launch(&place, change);
        Server { place, process }
    }

    /// Ends the process without warning, then starts another in the same place.
    pub fn crash(&mut self) {
        self.process.kill();
        self.process = launch(&self.place, |_| ());
    }

    /// Stops as an operator does, and returns how it ended.
    pub fn stop(&mut self) -> (ExitStatus, String) {
        self.process.signal(libc::SIGTERM);
        self.process.end()
    }

    /// Starts again after [`Server::stop`] or a kill.
    pub fn start_again(&mut self) {
        self.start_again_with(|_| ());
    }

    /// The same with a changed command.
    pub fn start_again_with(&mut self, change: impl FnOnce(&mut Command)) {
        self.process = launch(&self.place, change);
    }

    /// The client address.
    pub fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.place.client)
    }

    /// A connection for HTTP/1.1.
    pub fn http(&self) -> Http {
        Http::connect(self.place.client)
    }

    /// A plain connection.
    pub fn socket(&self) -> TcpStream {
        http::socket(self.place.client)
    }

    /// One call of the JSON gateway on a connection of its own: status and body.
    pub fn call(&self, path: &str, body: &Value) -> (u16, Value) {
        self.http().call(path, body).expect("an answer")
    }

    /// Writes a key; the revision.
    pub fn put(&self, key: &str, value: &str) -> i64 {
        self.http().put(key, value).expect("an answer").expect("a put is accepted")
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<String> {
        self.http().get(key).expect("an answer")
    }

    /// Panics with the server's log unless it still runs and serves, on a new connection.
    pub fn assert_serves(&mut self) {
        if let Some(status) = self.process.child.try_wait().expect("a child") {
            panic!("the server ended ({status}):\n{}", self.process.output.text());
        }
        self.put("tests/serves", "yes");
        assert_eq!(self.get("tests/serves").as_deref(), Some("yes"));
    }

    /// Bytes of memory that the process holds now.
    pub fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.process.child.id());
        let text = std::fs::read_to_string(path).expect("the server runs");
        let pages: u64 = text.split(' ').nth(1).expect("resident pages").parse().expect("a number");
        // SAFETY: plain system call.
        pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
    }
}

fn launch(place: &Place, change: impl FnOnce(&mut Command)) -> Process {
    let mut command = place.command();
    change(&mut command);
    let mut process = Process::spawn(&mut command);
    if !process.output.wait_for(READY, 0) {
        process.kill();
        panic!("the server did not become ready:\n{}", process.output.text());
    }
    process
}
