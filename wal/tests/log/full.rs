//! A disk without room for the next segment: the log goes on in the one that it has, and in the next
//! as soon as there is room.

use cored_wal::disk::memory::{Crash, Fault, MemoryDisk, Pace};
use cored_wal::{Error, Log};

use crate::model::{DATA, Model, open, options};

/// Appends until the disk has refused a segment, then for as long as the current one has room.
fn fill(log: &mut Log<MemoryDisk>, model: &mut Model) -> u64 {
    let mut since = 0;
    while !log.is_stuck() {
        model.append(log, 1, DATA, vec![7; 1000]);
        log.submit().unwrap();
        while log.in_flight() > 0 {
            log.complete().unwrap();
        }
        log.complete().unwrap();
        model.acknowledge(log.durable());
        since += u64::from(log.is_refused());
    }
    since
}

fn full(segments: u64) -> (MemoryDisk, Model, Log<MemoryDisk>) {
    let disk = MemoryDisk::new(4);
    disk.set_capacity(Some(segments * options().segment_bytes));
    let mut model = Model::default();
    let mut log = open(&disk, &options()).unwrap().log;
    let since = fill(&mut log, &mut model);
    assert!(since > 5, "only {since} records after the disk was full");
    (disk, model, log)
}

#[test]
fn a_log_goes_on_when_there_is_room_again() {
    let (disk, mut model, mut log) = full(3);
    let refused = log.stats().segments_refused;
    assert!((2..12).contains(&refused), "asked {refused} times: again, but not all the time");
    let before = log.durable();
    log.try_again().unwrap();
    log.complete().unwrap();
    assert!(log.is_stuck() && log.durable() == before, "nothing is reported that is not there");
    disk.set_capacity(Some(4 * options().segment_bytes));
    log.try_again().unwrap();
    log.flush().unwrap();
    assert!(!log.is_refused() && log.durable() > before);
    model.acknowledge(log.durable());
    model.judge(&open(&disk.crash(Crash::Power), &options()).unwrap()).unwrap();
}

#[test]
fn recycling_makes_room() {
    let (disk, mut model, mut log) = full(3);
    let current = log.position().segment;
    model.let_go_below(&log, current);
    assert!(log.recycle_below(current).unwrap() > 0);
    log.flush().unwrap();
    assert!(!log.is_refused());
    model.acknowledge(log.durable());
    model.judge(&open(&disk.crash(Crash::Power), &options()).unwrap()).unwrap();
}

#[test]
fn spares_that_are_not_kept_are_room() {
    let disk = MemoryDisk::new(4);
    let mut model = Model::default();
    let mut log = open(&disk, &options()).unwrap().log;
    while log.position().segment < 5 {
        model.append(&mut log, 1, DATA, vec![7; 1000]);
        log.flush().unwrap();
    }
    log.recycle_below(log.position().segment).unwrap();
    log.complete().unwrap();
    // What there is now, spares and all: the log has its next segment from a spare.
    disk.set_capacity(Some(4 * options().segment_bytes));
    log.keep_spares(false).unwrap();
    log.complete().unwrap();
    let room = |log: &mut Log<MemoryDisk>, disk: &MemoryDisk| {
        let before = log.stats().segments_refused;
        fill(log, &mut Model::default());
        (disk.segments().len(), log.stats().segments_refused > before)
    };
    assert_eq!(room(&mut log, &disk), (4, true), "all the room there is holds segments");
}

#[test]
fn a_log_that_gives_up_has_failed_and_lost_nothing() {
    let (disk, mut model, mut log) = full(2);
    let error = log.give_up().unwrap_err();
    assert!(error.is_full() && matches!(error, Error::Io { op: "prepare", .. }), "{error}");
    assert_eq!(log.try_again().unwrap_err().to_string(), error.to_string());
    assert_eq!(log.flush().unwrap_err().to_string(), error.to_string());
    let found = disk.crash(Crash::Kill);
    found.set_capacity(None);
    model.judge(&open(&found, &options()).unwrap()).unwrap();
    let mut log = open(&disk.crash(Crash::Kill), &options());
    assert!(log.as_mut().err().is_none_or(|error| error.is_full()));
}

#[test]
fn other_failures_of_a_segment_end_the_log_and_so_does_a_write_without_room() {
    let (disk, _, mut log) = full(3);
    disk.plan(disk.operations(), Fault::Failed);
    log.try_again().unwrap();
    assert!(!log.complete().unwrap_err().is_full());

    let disk = MemoryDisk::new(6);
    let mut log = open(&disk, &options()).unwrap().log;
    disk.set_pace(Pace::Stepwise);
    log.append(0, DATA, &[b"torn"]);
    disk.plan(disk.operations(), Fault::Full);
    log.submit().unwrap();
    disk.finish_all();
    let error = log.complete().unwrap_err();
    assert!(error.is_full() && matches!(error, Error::Io { op: "write", .. }), "{error}");
    assert!(log.try_again().is_err(), "the first failed write is the last");
}
