//! Order of acknowledgement, writes in flight, and the seal of a log that has nothing to do.

use cored_wal::disk::memory::{Crash, MemoryDisk, Pace, UnderWay};
use cored_wal::{Options, Sequence};

use crate::model::{DATA, Model, open, options};

#[test]
fn groups_count_strictly_in_order() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk, &options()).unwrap().log;
    disk.set_pace(Pace::Stepwise);
    let first = log.append(0, DATA, &[&[1; 5000]]);
    log.submit().unwrap();
    let second = log.append(0, DATA, &[&[2; 5000]]);
    log.submit().unwrap();
    assert_eq!(log.in_flight(), 2);
    log.append(0, DATA, &[&[3; 5000]]);
    log.submit().unwrap();
    assert_eq!(log.in_flight(), 2, "never more than two");
    let is_second = |it: &UnderWay| matches!(it, UnderWay::Write { token: 2, .. });
    assert!(disk.finish(disk.under_way().iter().position(is_second).unwrap()));
    assert_eq!(log.complete().unwrap(), None, "the later write alone tells nothing");
    assert_eq!(log.durable(), Sequence(0));
    assert!(disk.finish(0));
    assert_eq!(log.complete().unwrap(), Some(second));
    assert!(first < second);
    assert!(log.pending(), "the third group has started by itself");
}

#[test]
fn small_records_wait_for_a_fuller_group() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk, &options()).unwrap().log;
    disk.set_pace(Pace::Stepwise);
    for _ in 0..10 {
        log.append(0, DATA, &[b"small"]);
        log.submit().unwrap();
    }
    assert_eq!(log.in_flight(), 1);
    disk.finish(0);
    log.complete().unwrap();
    disk.finish(0);
    assert_eq!(log.complete().unwrap(), Some(Sequence(10)));
    assert_eq!(log.stats().groups_finished, 2);
}

#[test]
fn an_idle_log_seals_itself_once() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk, &options()).unwrap().log;
    assert_eq!(log.next_tick_ms(), None, "a new log has nothing to say");
    log.append(0, DATA, &[b"a"]);
    log.submit().unwrap();
    assert_eq!(log.next_tick_ms(), None, "not while a write is in flight");
    log.complete().unwrap();
    assert!(log.next_tick_ms().is_some());
    log.tick(1000).unwrap();
    assert_eq!(log.next_tick_ms(), Some(1010));
    log.tick(1009).unwrap();
    assert_eq!(log.stats().seals, 0);
    log.tick(1010).unwrap();
    log.complete().unwrap();
    assert_eq!(log.stats().seals, 1);
    assert_eq!(log.next_tick_ms(), None);
    log.tick(5000).unwrap();
    assert_eq!(log.stats().seals, 1, "what is sealed stays sealed");
}

#[test]
fn the_seal_waits_for_quiet() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk, &options()).unwrap().log;
    for now_ms in 0..50 {
        log.append(0, DATA, &[b"a"]);
        log.flush().unwrap();
        log.tick(now_ms).unwrap();
    }
    assert_eq!(log.stats().seals, 0);
}

#[test]
fn after_the_seal_damage_to_the_last_record_is_noticed() {
    for sealed in [false, true] {
        let disk = MemoryDisk::new(1);
        let mut log = open(&disk, &options()).unwrap().log;
        log.append(0, DATA, &[b"first"]);
        log.flush().unwrap();
        log.append(0, DATA, &[b"last"]);
        let place = log.position();
        log.flush().unwrap();
        if sealed {
            log.tick(0).unwrap();
            log.tick(10).unwrap();
            log.flush().unwrap();
        }
        let found = disk.crash(Crash::Power);
        found.edit(place.segment, |bytes| bytes[place.offset_bytes as usize + 20] ^= 1);
        let result = open(&found, &options());
        // Without the seal the last group is like one that never ended.
        assert_eq!(result.is_err(), sealed);
        if let Err(error) = result {
            let text = format!("damaged at byte {}, in a frame of lane 0", place.offset_bytes);
            assert!(error.to_string().contains(&text), "{error}");
        }
    }
}

#[test]
fn opening_seals_what_it_hands_out() {
    let disk = MemoryDisk::new(1);
    let mut model = Model::default();
    let mut log = open(&disk, &options()).unwrap().log;
    model.append(&mut log, 5, DATA, vec![1; 300]);
    let place = log.position();
    log.flush().unwrap();
    let found = disk.crash(Crash::Power);
    let opened = open(&found, &options()).unwrap();
    assert_eq!(opened.items.len(), 1);
    drop(opened);
    let found = found.crash(Crash::Power);
    found.edit(place.segment, |bytes| bytes[place.offset_bytes as usize + 50] ^= 1);
    assert!(open(&found, &options()).is_err(), "it was handed out, so it counts as reported");
}

#[test]
fn a_record_longer_than_a_group_comes_back_whole_or_not_at_all() {
    for ended in 0..6 {
        let disk = MemoryDisk::new(ended);
        let mut log = open(&disk, &options()).unwrap().log;
        log.append(1, DATA, &[b"before"]);
        log.flush().unwrap();
        disk.set_pace(Pace::Stepwise);
        let long = log.append(1, DATA, &[&[9; 30_000]]);
        log.submit().unwrap();
        for _ in 0..ended {
            disk.finish(0);
            log.complete().unwrap();
        }
        let whole = log.durable() == long;
        let found = disk.crash(Crash::Power);
        found.set_pace(Pace::AtOnce);
        let mut opened = open(&found, &options()).unwrap();
        assert!(!whole || opened.items.len() == 2);
        opened.log.append(1, DATA, &[b"after"]);
        opened.log.close().unwrap();
        let items = open(&found, &options()).unwrap().items;
        let lens: Vec<usize> = items.iter().map(|item| item.payload.len()).collect();
        assert!(lens == [6, 5] || lens == [6, 30_000, 5], "{lens:?}");
    }
}

#[test]
fn the_next_segment_is_prepared_before_it_is_needed() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk, &options()).unwrap().log;
    disk.set_pace(Pace::Stepwise);
    let mut prepared_at = None;
    while log.position().segment == 1 {
        log.append(0, DATA, &[&[1; 3000]]);
        log.submit().unwrap();
        if disk.under_way().iter().any(|it| matches!(it, UnderWay::Prepare { segment: 2 })) {
            prepared_at.get_or_insert(log.position().offset_bytes);
        }
        disk.finish_all();
        log.complete().unwrap();
    }
    assert!(prepared_at.expect("it was prepared") < options().segment_bytes / 2);
    assert_eq!(log.stats().segment_waits, 0);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let good = options();
    for bad in [
        Options { segment_bytes: 5000, ..good.clone() },
        Options { segment_bytes: 8 << 10, ..good.clone() },
        Options { group_bytes_max: 32 << 10, ..good.clone() },
        Options { group_bytes_max: 0, ..good.clone() },
        Options { in_flight_max: 3, ..good.clone() },
    ] {
        let disk = MemoryDisk::new(1);
        assert!(matches!(open(&disk, &bad), Err(cored_wal::Error::Options(_))));
        assert_eq!(disk.operations(), 0, "nothing was touched");
    }
}
