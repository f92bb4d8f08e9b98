//! Segments that are let go and used again: old content never comes back, carried state never
//! goes.

use cored_wal::disk::memory::{Crash, Fault, MemoryDisk, Pace};
use cored_wal::{Error, Log, Options};

use crate::model::{DATA, Model, Random, STATE, open, options};

/// Appends until `segments` more were begun.
fn fill(log: &mut Log<MemoryDisk>, model: &mut Model, random: &mut Random, segments: u64) {
    let until = log.position().segment + segments;
    while log.position().segment < until {
        let len_bytes = 100 + random.below(3000);
        model.append(log, 0, DATA, random.bytes(len_bytes as usize));
        log.flush().unwrap();
    }
    model.acknowledge(log.durable());
}

fn recycle_all(log: &mut Log<MemoryDisk>, model: &mut Model) -> usize {
    let current = log.position().segment;
    model.let_go_below(log, current);
    let gone = log.recycle_below(current).unwrap();
    log.flush().unwrap();
    gone
}

#[test]
fn recycled_segments_never_show_their_old_records() {
    let mut stale = 0;
    for seed in 0..20 {
        let disk = MemoryDisk::new(seed);
        let mut random = Random(seed);
        let mut model = Model::default();
        let mut log = open(&disk, &options()).unwrap().log;
        for _ in 0..6 {
            fill(&mut log, &mut model, &mut random, 2);
            assert!(recycle_all(&mut log, &mut model) > 0);
            let found = disk.crash(Crash::Power);
            let mut model = model.clone();
            model.judge(&open(&found, &options()).unwrap()).unwrap();
        }
        let remains = disk.segments().len();
        assert!(remains <= 3, "{remains} segments are left");
        let content = disk.content(log.position().segment);
        let end = log.position().offset_bytes as usize;
        stale += u32::from(content[end..].iter().any(|&byte| byte != 0));
    }
    assert!(stale > 0, "old content was there to be shown");
}

#[test]
fn carried_state_survives_recycling() {
    let disk = MemoryDisk::new(3);
    let mut random = Random(3);
    let mut model = Model::default();
    let mut opened = open(&disk, &options()).unwrap();
    let log = &mut opened.log;
    for lane in 0..5 {
        model.append(log, lane, STATE, vec![lane as u8; 30 + usize::from(lane)]);
    }
    assert_eq!(log.recycle_below(99).unwrap(), 0, "no head repeats it yet");
    fill(log, &mut model, &mut random, 2);
    model.append(log, 4, STATE, b"changed".to_vec());
    fill(log, &mut model, &mut random, 2);
    assert!(recycle_all(log, &mut model) >= 3);
    for _ in 0..3 {
        let found = disk.crash(Crash::Power);
        let mut opened = open(&found, &options()).unwrap();
        model.judge(&opened).unwrap();
        assert_eq!(opened.states.len(), 5);
        assert_eq!(opened.states[&4], b"changed");
        // Not set again: what a head repeated stays known.
        fill(&mut opened.log, &mut model.clone(), &mut random, 2);
    }
}

#[test]
fn a_crash_between_retirements_leaves_no_gap() {
    for failing in 0..4 {
        let disk = MemoryDisk::new(failing);
        let mut random = Random(failing);
        let mut model = Model::default();
        let mut log = open(&disk, &options()).unwrap().log;
        fill(&mut log, &mut model, &mut random, 6);
        disk.plan(disk.operations() + failing, Fault::Failed);
        let current = log.position().segment;
        let result = log.recycle_below(current).and_then(|_| log.complete());
        assert!(matches!(result, Err(Error::Io { op: "retire", .. })));
        model.floor = model.acknowledged;
        let found = disk.crash(Crash::Power);
        model.judge(&open(&found, &options()).unwrap()).unwrap();
    }
}

#[test]
fn a_head_that_a_crash_tore_is_no_head() {
    let mut torn = 0;
    for seed in 0..300 {
        let disk = MemoryDisk::new(seed);
        let mut random = Random(seed);
        let mut model = Model::default();
        let mut log = open(&disk, &options()).unwrap().log;
        for lane in 0..4 {
            model.append(&mut log, lane, STATE, random.bytes(700));
        }
        fill(&mut log, &mut model, &mut random, 1);
        disk.set_pace(Pace::Stepwise);
        let head = log.position().segment + 1;
        while log.position().segment < head {
            model.append(&mut log, 0, DATA, random.bytes(2000));
            log.submit().unwrap();
            if log.position().segment < head {
                disk.finish_all();
                log.complete().unwrap();
            }
        }
        model.acknowledge(log.durable());
        let found = disk.crash(Crash::Power);
        found.set_pace(Pace::AtOnce);
        let mut opened = open(&found, &options()).unwrap();
        model.judge(&opened).unwrap();
        torn += u32::from(opened.recovered.torn.is_some());
        recycle_all(&mut opened.log, &mut model);
        let opened = open(&found.crash(Crash::Power), &options()).unwrap();
        model.judge(&opened).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        assert_eq!(opened.states.len(), 4, "seed {seed}: a state was recycled");
    }
    assert!(torn > 50, "heads were torn: {torn}");
}

#[test]
fn an_oldest_segment_without_its_head_is_refused() {
    let disk = MemoryDisk::new(3);
    let mut random = Random(3);
    let mut model = Model::default();
    let mut log = open(&disk, &options()).unwrap().log;
    model.append(&mut log, 0, STATE, vec![1; 600]);
    fill(&mut log, &mut model, &mut random, 2);
    recycle_all(&mut log, &mut model);
    let oldest = log.oldest_segment();
    let found = disk.crash(Crash::Power);
    for segment in found.segments().into_iter().filter(|&it| it >= oldest) {
        // Only the carried state at the head is left of everything.
        let kept = if segment == oldest { 4096 + 640 } else { 4096 };
        found.edit(segment, |bytes| bytes[kept..].fill(0));
    }
    assert!(
        matches!(open(&found, &options()), Err(Error::Corrupt { segment, .. }) if segment == oldest)
    );
}

#[test]
fn segments_made_for_smaller_options_are_made_again() {
    let disk = MemoryDisk::new(3);
    let mut random = Random(3);
    let mut model = Model::default();
    let mut log = open(&disk, &options()).unwrap().log;
    while disk.segments().len() < 2 {
        model.append(&mut log, 0, DATA, random.bytes(1000));
        log.flush().unwrap();
    }
    model.acknowledge(log.durable());
    assert_eq!(log.position().segment, 1, "the second one waits");
    log.close().unwrap();
    let larger = Options { segment_bytes: 256 << 10, group_bytes_max: 128 << 10, ..options() };
    let mut opened = open(&disk, &larger).unwrap();
    model.judge(&opened).unwrap();
    model.append(&mut opened.log, 0, DATA, random.bytes(100_000));
    model.acknowledge(opened.log.flush().unwrap());
    opened.log.close().unwrap();
    for options in [larger, options()] {
        model.judge(&open(&disk, &options).unwrap()).unwrap();
    }
    assert!(
        disk.segments().iter().all(|&it| [32 << 10, 256 << 10].contains(&disk.content(it).len()))
    );
}
