//! The log on real files: what is written is read back by the next process, files are prepared and
//! recycled in the background, and what is not ours or not possible is refused by name.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cored_wal::disk::direct::{DirectDisk, Directory};
use cored_wal::{Error, Log, Options, Recovered};
use tempfile::TempDir;

/// A directory on the file system of the build, since a temporary one may be memory.
fn scratch() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test")
}

fn small() -> Options {
    Options { segment_bytes: 64 << 10, group_bytes_max: 8 << 10, salt: 7, ..Options::default() }
}

fn open(
    directory: &Arc<Directory>,
    options: &Options,
) -> (Log<DirectDisk>, Recovered, Vec<Vec<u8>>) {
    let disk = DirectDisk::open(directory, options.log).expect("a disk");
    let mut records = Vec::new();
    let (log, recovered) = Log::open(disk, options.clone(), |record| {
        if !record.carry {
            records.push(record.payload.to_vec());
        }
    })
    .expect("the log opens");
    (log, recovered, records)
}

fn names(directory: &Directory) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).expect("readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Lets what is under way come to its end, and looks after each step of it.
fn let_end(log: &mut Log<DirectDisk>, mut look: impl FnMut()) {
    while log.is_busy() {
        log.wait(Duration::from_secs(60)).unwrap();
        log.complete().unwrap();
        look();
    }
}

#[test]
fn records_survive_many_segments_and_reopening() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("a/wal")).unwrap();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for round in 0..5_u8 {
        let (mut log, recovered, records) = open(&directory, &small());
        assert_eq!(records, expected, "round {round}");
        assert!(recovered.torn.is_none());
        for number in 0..100_u8 {
            let payload = vec![number ^ round; 1000 + usize::from(number) * 30];
            log.append(3, 1, &[&payload]);
            log.submit().unwrap();
            expected.push(payload);
            if number % 10 == 0 {
                log.flush().unwrap();
            }
        }
        log.close().unwrap();
    }
    assert!(names(&directory).len() > 20, "it took many segments");
}

#[test]
fn waiting_ends_with_the_write_and_does_not_begin_without_one() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let (mut log, ..) = open(&directory, &small());
    // Opening prepares segments; that ends by itself and is not waited for below.
    let_end(&mut log, || {});
    log.wait(Duration::from_secs(3600)).unwrap();
    let last = log.append(0, 1, &[b"alone"]);
    log.submit().unwrap();
    assert!(log.is_busy());
    while log.durable() < last {
        log.wait(Duration::from_secs(60)).unwrap();
        log.complete().unwrap();
    }
    assert_eq!(log.in_flight(), 0);
}

#[test]
fn a_directory_belongs_to_one_process() {
    let scratch = scratch();
    let path = scratch.path().join("wal");
    let directory = Directory::open(&path).unwrap();
    let error = Directory::open(&path).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }));
    assert!(error.to_string().contains("another process is using it"), "{error}");
    let disk = DirectDisk::open(&directory, 0).unwrap();
    drop(directory);
    assert!(Directory::open(&path).is_err(), "a disk keeps it locked");
    drop(disk);
    Directory::open(&path).expect("free again");
}

#[test]
fn only_the_owner_reads_it() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("deep/wal")).unwrap();
    let (mut log, ..) = open(&directory, &small());
    log.append(0, 0, &[b"secret"]);
    log.close().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(directory.path()), 0o700);
    let files = names(&directory);
    assert!(!files.is_empty());
    for name in files {
        assert_eq!(mode(&directory.path().join(name)), 0o600);
    }
}

#[test]
fn logs_share_a_directory_and_are_found_again() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    assert_eq!(directory.logs().unwrap(), []);
    for log in [0, 7, 3] {
        let options = Options { log, ..small() };
        let (mut opened, ..) = open(&directory, &options);
        opened.append(log, 1, &[&log.to_le_bytes()]);
        opened.close().unwrap();
    }
    fs::write(directory.path().join("00009-000000000001.new"), b"unfinished").unwrap();
    fs::write(directory.path().join("somebody's"), b"note").unwrap();
    assert_eq!(directory.logs().unwrap(), [0, 3, 7]);
    for log in [0, 3, 7] {
        let (_, _, records) = open(&directory, &Options { log, ..small() });
        assert_eq!(records, [log.to_le_bytes()]);
    }
    assert!(directory.path().join("somebody's").exists(), "what is not ours stays");
}

#[test]
fn retired_segments_are_used_again_and_few_are_kept() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let (mut log, ..) = open(&directory, &small());
    let mut inodes = BTreeSet::new();
    for _ in 0..30 {
        let until = log.position().segment + 2;
        while log.position().segment < until {
            log.append(0, 1, &[&[5; 7000]]);
            log.flush().unwrap();
        }
        log.recycle_below(log.position().segment).unwrap();
        log.flush().unwrap();
        for name in names(&directory) {
            // A file may be renamed between the two calls.
            let found = fs::metadata(directory.path().join(name));
            inodes.extend(found.map(|found| found.ino()));
        }
    }
    assert!(log.position().segment > 60);
    log.close().unwrap();
    let files = names(&directory);
    assert!(files.len() <= 8, "{files:?}");
    assert!(inodes.len() < 30, "{} files were made", inodes.len());
    let (log, _, records) = open(&directory, &small());
    assert!(!records.is_empty());
    log.close().unwrap();
}

#[test]
fn more_retired_segments_than_spares_are_removed() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let (mut log, ..) = open(&directory, &small());
    while log.position().segment < 9 {
        log.append(0, 1, &[&[5; 7000]]);
        log.flush().unwrap();
    }
    assert_eq!(log.recycle_below(9).unwrap(), 8);
    // To close it waits for the background.
    log.close().unwrap();
    let files = names(&directory);
    assert!(!files.iter().any(|name| name.ends_with("000008.wal")), "{files:?}");
    assert!(files.len() <= 6, "{files:?}");
    let (log, recovered, _) = open(&directory, &small());
    assert_eq!(recovered.oldest_segment, 9);
    log.close().unwrap();
}

/// A log of segments large enough to be given back in many steps, near the end of the 17th.
fn with_large_segments(directory: &Arc<Directory>) -> Log<DirectDisk> {
    let large = Options { segment_bytes: 8 << 20, group_bytes_max: 4 << 20, ..small() };
    let (mut log, ..) = open(directory, &large);
    while log.position().segment < 17 || log.position().offset_bytes < 6 << 20 {
        log.append(0, 1, &[&[5; 3 << 20]]);
        log.flush().unwrap();
    }
    log
}

/// Bytes of the files that are on their way out, on the disk and by their length.
fn going(directory: &Directory) -> Vec<(u64, u64)> {
    let names = names(directory).into_iter().filter(|name| name.ends_with(".new"));
    let found = names.filter_map(|name| fs::metadata(directory.path().join(name)).ok());
    let sizes = found.map(|found| (found.blocks() * 512, found.len()));
    sizes.filter(|(_, len)| *len == 8 << 20).collect()
}

#[test]
fn what_is_removed_gives_its_blocks_back_a_little_at_a_time() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let mut log = with_large_segments(&directory);
    assert_eq!(log.recycle_below(17).unwrap(), 16);
    let mut seen = BTreeSet::new();
    let_end(&mut log, || {
        seen.extend(going(&directory).into_iter().map(|(bytes, _)| bytes >> 20));
    });
    assert!((1..8).filter(|mib| seen.contains(mib)).count() >= 3, "{seen:?}");
    assert!(going(&directory).is_empty());
    let files = names(&directory);
    assert!(files.len() <= 6, "{files:?}");
    log.close().unwrap();
}

#[test]
fn a_segment_that_is_wanted_does_not_wait_for_those_that_go() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let mut log = with_large_segments(&directory);
    assert_eq!(log.recycle_below(17).unwrap(), 16);
    // The first two are kept, and one of them becomes the segment after the next.
    log.append(0, 1, &[&[5; 3 << 20]]);
    log.flush().unwrap();
    assert_eq!(log.position().segment, 18);
    while !names(&directory).iter().any(|name| name.ends_with("000019.wal")) {
        log.wait(Duration::from_secs(60)).unwrap();
        log.complete().unwrap();
    }
    assert!(!going(&directory).is_empty(), "all gone before: {:?}", names(&directory));
    log.close().unwrap();
}

#[test]
fn without_room_files_go_at_once() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let mut log = with_large_segments(&directory);
    log.keep_spares(false).unwrap();
    assert_eq!(log.recycle_below(17).unwrap(), 16);
    let_end(&mut log, || {
        let partly = going(&directory).into_iter().find(|(bytes, len)| bytes < len);
        // One that has just been unlinked may show no blocks any more.
        assert!(partly.is_none_or(|(bytes, _)| bytes == 0), "{partly:?}");
    });
    let files = names(&directory);
    assert!(!files.iter().any(|name| name.ends_with(".new")), "{files:?}");
    assert!(files.len() <= 4, "{files:?}");
    log.close().unwrap();
}

#[test]
fn remains_of_an_unfinished_preparation_are_removed() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let (mut log, ..) = open(&directory, &small());
    log.append(0, 1, &[b"kept"]);
    log.close().unwrap();
    let file = |name: &str| directory.path().join(name);
    fs::write(file("00000-000000000002.new"), vec![1; 5000]).unwrap();
    fs::write(file("00000-000000000000.new"), b"a probe").unwrap();
    for number in 90..99 {
        fs::write(file(&format!("00000-{number:012}.spare")), vec![9; 64 << 10]).unwrap();
    }
    let (log, _, records) = open(&directory, &small());
    assert_eq!(records, [b"kept"]);
    let files = names(&directory);
    assert!(!files.iter().any(|name| name.ends_with(".new")), "{files:?}");
    assert_eq!(files.iter().filter(|name| name.ends_with(".spare")).count(), 2);
    log.close().unwrap();
}

#[test]
fn the_eventfd_tells_of_a_completion() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let (mut log, ..) = open(&directory, &small());
    let wake = log.wake_fd().expect("real files have one");
    for number in 1..200 {
        let sequence = log.append(0, 1, &[&[7; 900]]);
        log.submit().unwrap();
        while log.durable() < sequence {
            // Blocks until the kernel says that something ended: polling would not need it.
            let mut count = [0_u8; 8];
            // SAFETY: eight bytes for an eventfd that the log keeps open.
            let read = unsafe { libc::read(wake, count.as_mut_ptr().cast(), 8) };
            assert_eq!(read, 8);
            log.complete().unwrap();
        }
        assert_eq!(log.durable().0, number);
    }
    log.close().unwrap();
}

#[test]
fn a_log_opened_on_one_thread_runs_on_another() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    for round in 0..10_usize {
        let directory = directory.clone();
        let opened = thread::spawn(move || {
            let (mut log, _, records) = open(&directory, &small());
            assert_eq!(records.len(), round * 20);
            for _ in 0..10 {
                log.append(0, 1, &[&[1; 6000]]);
                log.submit().unwrap();
            }
            // Writes and a preparation are under way when this thread ends.
            log
        });
        let mut log = opened.join().unwrap();
        for _ in 0..10 {
            log.append(0, 1, &[&[1; 6000]]);
            log.submit().unwrap();
        }
        log.close().unwrap();
    }
}

#[test]
fn a_file_that_was_cut_is_refused_by_name() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("wal")).unwrap();
    let (mut log, ..) = open(&directory, &small());
    log.append(0, 1, &[&[1; 6000]]);
    log.close().unwrap();
    let path = directory.path().join("00000-000000000001.wal");
    for bytes in [0, 100, 4096, 4097, 60_000] {
        let content = fs::read(&path).unwrap();
        fs::write(&path, &content[..bytes]).unwrap();
        let disk = DirectDisk::open(&directory, 0).unwrap();
        let error = Log::open(disk, small(), |_| {}).unwrap_err();
        assert!(
            matches!(&error, Error::Corrupt { file, .. } if file == "00000-000000000001.wal"),
            "{error}"
        );
        fs::write(&path, &content).unwrap();
    }
    assert_eq!(open(&directory, &small()).2.len(), 1);
}

#[test]
fn a_directory_that_can_not_be_made_is_named() {
    let scratch = scratch();
    let file = scratch.path().join("file");
    fs::write(&file, b"in the way").unwrap();
    let error = Directory::open(file.join("wal")).unwrap_err();
    assert!(error.to_string().contains("file/wal"), "{error}");
}

/// Lets a system call fail with `errno` for the rest of the calling thread's life, if `flags` is zero
/// or any of its bits is set in the third argument.
fn forbid(call: i64, flags: u32, errno: i32) {
    let step = |code: u32, jump: u8, value: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: jump,
        k: value,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let compare = if flags == 0 { libc::BPF_JGE } else { libc::BPF_JSET };
    let mut filter = [
        step(load, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 3, call as u32),
        step(load, 0, 32),
        step(libc::BPF_JMP | compare | libc::BPF_K, 1, flags),
        step(libc::BPF_RET, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls change only the calling thread; the program outlives the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &program), 0);
    }
}

#[test]
fn what_the_machine_lacks_is_named() {
    let direct = libc::O_DIRECT as u32;
    for (call, flags, errno, words) in [
        (libc::SYS_io_uring_setup, 0, libc::ENOSYS, "io_uring (this kernel has none)"),
        (libc::SYS_io_uring_setup, 0, libc::EPERM, "io_uring (forbidden"),
        (libc::SYS_io_uring_setup, 0, libc::ENOMEM, "memlock"),
        (libc::SYS_openat, direct, libc::EINVAL, "O_DIRECT does not work"),
    ] {
        let scratch = scratch();
        let directory = Directory::open(scratch.path().join("wal")).unwrap();
        let error = thread::spawn(move || {
            forbid(call, flags, errno);
            DirectDisk::open(&directory, 0).unwrap_err()
        });
        let error = error.join().unwrap();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(words), "{text}");
        assert!(text.contains(&scratch.path().display().to_string()), "{text}");
    }
}

const CHILD: &str = "CORED_WAL_TEST_DIRECTORY";

/// Not a test but the process that the next one kills: appends for ever and tells what is durable.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let directory = Directory::open(path).unwrap();
    let (mut log, ..) = open(&directory, &small());
    let mut out = std::io::stdout();
    loop {
        for _ in 0..5 {
            let next = log.append(2, 1, &[&[0; 8]]).0 + 1;
            log.append(2, 1, &[&next.to_le_bytes(), &vec![next as u8; (next % 5000) as usize]]);
        }
        log.submit().unwrap();
        if let Some(durable) = log.complete().unwrap() {
            writeln!(out, "\ndurable {}", durable.0).unwrap();
        }
    }
}

#[test]
fn what_a_killed_process_reported_is_there() {
    let scratch = scratch();
    let path = scratch.path().join("wal");
    let mut reported = 0;
    for round in 1..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_appends_until_it_is_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut durable = lines.map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("durable ").map(|number| number.parse::<u64>().unwrap())
        });
        let told = durable.by_ref().take(round * 3).last();
        reported = told.expect("the child reports").max(reported);
        child.kill().unwrap();
        child.wait().unwrap();
        let directory = Directory::open(&path).expect("the lock died with the process");
        let (log, recovered, records) = open(&directory, &small());
        assert!(recovered.newest.0 >= reported, "round {round}");
        assert_eq!(records.len() as u64, recovered.records);
        for record in records.iter().filter(|record| record.len() > 8) {
            let (head, body) = record.split_first_chunk::<8>().unwrap();
            let number = u64::from_le_bytes(*head);
            assert_eq!(body, vec![number as u8; (number % 5000) as usize]);
        }
        drop(log);
    }
}
