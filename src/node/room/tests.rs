//! Reserves as they are made and given back, and what a core makes of that.

use cored_wal::disk::memory::MemoryDisk;

use super::*;

impl Room {
    /// For drive loops on disks in memory.
    pub(in crate::node) fn without_reserve() -> Room {
        Room::of(Vec::new()).0
    }
}

fn directory() -> tempfile::TempDir {
    let program = std::env::current_exe().expect("a program");
    let beside = program.parent().expect("it is in a directory");
    tempfile::tempdir_in(beside).expect("a temporary directory")
}

#[test]
fn a_reserve_takes_real_room_and_gives_it_back_once() {
    let directory = directory();
    let path = directory.path();
    let (room, _minder) = Room::open(path, &path.join("wal"), 2, 1 << 20);
    assert_eq!(fs::read_dir(path).expect("a directory").count(), 0, "nothing is made yet");
    room.state.make();
    assert!(!room.state.short.load(SeqCst));
    let file = fs::metadata(path.join(RESERVE)).expect("a reserve");
    assert_eq!(file.len(), 2 * segment_bytes() + (1 << 20));
    assert!(file.blocks() * 512 >= file.len(), "it has no holes");
    assert!(room.give_back() && !path.join(RESERVE).exists());
    assert!(room.state.short.load(SeqCst));
    assert!(!room.give_back(), "it is given back once");
    room.state.look();
    assert!(!room.state.short.load(SeqCst) && path.join(RESERVE).exists(), "there is room");
}

#[test]
fn a_reserve_with_holes_is_made_anew() {
    let directory = directory();
    let path = directory.path();
    let sparse = fs::File::create(path.join(RESERVE)).expect("a file");
    sparse.set_len(1 << 30).expect("its length");
    let (room, _minder) = Room::open(path, path, 1, 0);
    room.state.make();
    let file = fs::metadata(path.join(RESERVE)).expect("a reserve");
    assert_eq!(file.len(), segment_bytes());
    assert!(file.blocks() * 512 >= file.len(), "it has no holes");
}

/// A log on a disk that has room for its first segment only, and has refused the next one.
fn refused(watcher: &mut Watcher) -> (MemoryDisk, Log<MemoryDisk>) {
    let options = Options { segment_bytes: 1 << 20, ..Options::default() };
    let disk = MemoryDisk::new(1);
    disk.set_capacity(Some(1 << 20));
    let mut log = Log::open(disk.clone(), options, |_| ()).expect("an empty log").0;
    while !log.is_refused() {
        log.append(0, 0, &[&[7; 100_000]]);
        log.flush().expect("there is room for it");
        log.complete().expect("nothing fails");
        watcher.turn(&mut log, 0).expect("nothing fails");
    }
    watcher.turn(&mut log, 0).expect("nothing fails");
    (disk, log)
}

fn fill(log: &mut Log<MemoryDisk>) {
    while !log.is_stuck() {
        log.append(0, 0, &[&[7; 100_000]]);
        log.submit().expect("nothing fails");
        log.complete().expect("nothing fails");
    }
}

#[test]
fn a_log_that_is_refused_has_the_reserve_given_back_and_asks_again() {
    let (room, minder) = Room::of(Vec::new());
    let mut watcher = Watcher::new(room.clone());
    let (disk, mut log) = refused(&mut watcher);
    assert_eq!(minder.full.try_recv(), Ok(()), "the thread hears of it");
    assert!(room.state.wanted.load(SeqCst) && !watcher.is_full());
    assert!(!room.give_back(), "there is none");
    assert_eq!(minder.full.try_recv(), Ok(()), "the thread has to look for room from now on");
    assert!(watcher.is_full() && !watcher.is_full(), "told once");
    fill(&mut log);
    disk.set_capacity(None);
    watcher.turn(&mut log, 0).expect("nothing fails");
    assert!(log.is_stuck(), "nobody said that there is room");
    room.state.look();
    watcher.turn(&mut log, STUCK_MS - 1).expect("there is room");
    log.flush().expect("there is room");
    assert!(!log.is_refused());
    watcher.turn(&mut log, 2 * STUCK_MS).expect("it is not stuck any more");
}

#[test]
fn a_log_that_is_stuck_for_long_ends_with_what_the_disk_said() {
    let mut watcher = Watcher::new(Room::without_reserve());
    let (_disk, mut log) = refused(&mut watcher);
    watcher.turn(&mut log, 0).expect("it has room in its segment");
    watcher.turn(&mut log, 2 * STUCK_MS).expect("it has room in its segment");
    fill(&mut log);
    watcher.turn(&mut log, 100_000).expect("it waits");
    watcher.turn(&mut log, 100_000 + STUCK_MS - 1).expect("it waits");
    let error = watcher.turn(&mut log, 100_000 + STUCK_MS).expect_err("it has waited for long");
    assert!(error.is_full(), "{error}");
    assert!(log.flush().is_err(), "and it has failed");
}

#[test]
fn the_thread_makes_the_reserve_again_whoever_had_it_given_back() {
    let directory = directory();
    let (room, minder) = Room::open(directory.path(), directory.path(), 1, 0);
    let (rung, rings) = mpsc::channel();
    let ring = move || {
        let _ = rung.send(());
    };
    minder.start(ring).expect("a thread");
    let path = directory.path().join(RESERVE);
    let wait_for_one = || {
        while !path.exists() {
            rings.recv_timeout(10 * LOOK).expect("the thread looks");
        }
    };
    wait_for_one();
    assert!(room.give_back() && !path.exists());
    wait_for_one();
    room.found_full();
    rings.recv_timeout(10 * LOOK).expect("the thread hears of it");
    wait_for_one();
}
