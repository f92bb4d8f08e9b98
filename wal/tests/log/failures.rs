//! Every operation fails once, in every way. What the disk admits loses nothing; what it hides is
//! noticed when something later proves that it must have been there.

use cored_wal::disk::memory::{Crash, Fault, MemoryDisk, Odds, Pace};
use cored_wal::{Error, Log};

use crate::model::{DATA, Model, Opened, Random, STATE, open, options, refusal};

/// Some work that crosses segments, recycles, seals and reopens. Ends at the first error.
fn work(disk: &MemoryDisk, model: &mut Model) -> Result<(), Error> {
    let options = options();
    let mut random = Random(5);
    for _ in 0..2 {
        let mut opened = open(disk, &options)?;
        model.judge(&opened).unwrap_or_else(|wrong| panic!("{wrong}"));
        model.carry_again(&mut opened);
        let mut log = opened.log;
        for number in 0..24 {
            let len_bytes = [200, 3000, 20_000][random.below(3) as usize];
            let kind = if number % 5 == 0 { STATE } else { DATA };
            let len_bytes = if kind == STATE { 40 } else { len_bytes };
            model.append(&mut log, number % 2, kind, random.bytes(len_bytes));
            log.submit()?;
            let completed = log.complete();
            model.acknowledge(log.durable());
            completed?;
            if number == 12 {
                recycle(&mut log, model)?;
            }
        }
        finish(log, model)?;
    }
    Ok(())
}

fn recycle(log: &mut Log<MemoryDisk>, model: &mut Model) -> Result<(), Error> {
    let keep = log.position().segment.saturating_sub(1);
    model.let_go_below(log, keep);
    log.recycle_below(keep).map(drop)
}

fn finish(mut log: Log<MemoryDisk>, model: &mut Model) -> Result<(), Error> {
    let flushed = log.flush();
    model.acknowledge(log.durable());
    flushed?;
    log.close()
}

fn operations_of_work() -> u64 {
    let disk = MemoryDisk::new(1);
    work(&disk, &mut Model::default()).expect("nothing fails");
    assert!(disk.segments().len() > 3);
    disk.operations()
}

fn reopen(disk: &MemoryDisk, model: &mut Model) -> Result<Opened, Error> {
    let opened = open(disk, &options())?;
    model.judge(&opened).unwrap_or_else(|wrong| panic!("{wrong}"));
    Ok(opened)
}

#[test]
fn every_operation_fails_once_and_nothing_acknowledged_is_lost() {
    let operations = operations_of_work();
    for pace in [Pace::AtOnce, Pace::Stepwise] {
        for fault in Fault::ALL.into_iter().filter(|fault| fault.is_told()) {
            for operation in 0..operations {
                let disk = MemoryDisk::new(operation);
                disk.set_pace(pace);
                disk.plan(operation, fault);
                let mut model = Model::default();
                let result = work(&disk, &mut model);
                // A segment that finds no room is asked for again.
                let may_go_on = pace == Pace::Stepwise || fault == Fault::Full;
                assert!(
                    matches!(result, Err(Error::Io { .. })) || may_go_on,
                    "{fault:?} of operation {operation} was not told: {result:?}"
                );
                for how in [Crash::Kill, Crash::Power] {
                    let mut model = model.clone();
                    let after = disk.crash(how);
                    let opened = reopen(&after, &mut model);
                    let opened = opened.unwrap_or_else(|error| {
                        panic!("{fault:?} of operation {operation}, {how:?}: {error}")
                    });
                    opened.log.close().unwrap();
                    reopen(&after, &mut model).expect("it opens again");
                }
            }
        }
    }
}

#[test]
fn what_a_disk_hides_is_noticed_after_the_seal() {
    let operations = operations_of_work();
    let mut refused = 0;
    for fault in Fault::ALL.into_iter().filter(|fault| !fault.is_told()) {
        for operation in 0..operations {
            for seed in 0..4 {
                let disk = MemoryDisk::new(seed);
                disk.plan(operation, fault);
                let mut model = Model::default();
                // An error is as good as a refusal: a write into a segment that is not there, or a
                // reopening in the middle that finds the damage.
                if work(&disk, &mut model).is_err() {
                    refused += 1;
                    continue;
                }
                let result = open(&disk.crash(Crash::Power), &options());
                refused += u64::from(refusal(&result).is_some());
                if let Ok(opened) = result {
                    let what = format!("{fault:?} of operation {operation}, seed {seed}");
                    model.judge(&opened).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
                }
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn the_first_error_is_also_the_last() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk, &options()).unwrap().log;
    log.append(0, DATA, &[b"safe"]);
    let durable = log.flush().unwrap();
    disk.plan(disk.operations(), Fault::Short);
    log.append(0, DATA, &[b"short"]);
    log.submit().unwrap();
    let error = log.complete().unwrap_err();
    assert!(matches!(&error, Error::Io { op: "write", .. }), "{error}");
    log.append(0, DATA, &[b"nowhere"]);
    for result in [log.submit(), log.tick(99), log.complete().map(drop), log.flush().map(drop)] {
        assert_eq!(result.unwrap_err().to_string(), error.to_string());
    }
    assert_eq!(log.durable(), durable);
    assert_eq!(log.waiting_bytes(), 0);
    assert!(log.close().is_err());
}

#[test]
fn a_full_disk_stops_who_waits_for_it_and_loses_nothing() {
    let disk = MemoryDisk::new(9);
    disk.set_capacity(Some(3 * options().segment_bytes));
    let mut model = Model::default();
    let mut log = open(&disk, &options()).unwrap().log;
    let error = loop {
        model.append(&mut log, 1, DATA, vec![7; 4000]);
        let result = log.flush();
        model.acknowledge(log.durable());
        if let Err(error) = result {
            break error;
        }
    };
    let Error::Io { op: "prepare", source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(model.acknowledged > 10);
    let found = disk.crash(Crash::Kill);
    assert!(matches!(open(&found, &options()), Err(Error::Io { .. })), "the seal needs room too");
    found.set_capacity(None);
    reopen(&found.crash(Crash::Power), &mut model).expect("it opens when there is room");
}

#[test]
fn failures_while_opening_after_a_crash_lose_nothing() {
    for seed in 0..400 {
        let disk = MemoryDisk::new(seed);
        let mut model = Model::default();
        let mut log = open(&disk, &options()).unwrap().log;
        disk.set_pace(Pace::Stepwise);
        let mut random = Random(seed);
        for _ in 0..random.below(30) {
            model.append(&mut log, 0, DATA, random.bytes(random_len(seed)));
            log.submit().unwrap();
            if random.below(3) > 0 {
                disk.finish(0);
            }
            log.complete().unwrap();
            model.acknowledge(log.durable());
        }
        let odds = Odds { refused: 100_000, failed: 200_000, short: 50_000, ..Odds::default() };
        let mut disk = disk.crash(if seed % 2 == 0 { Crash::Kill } else { Crash::Power });
        disk.set_odds(odds);
        for attempt in 0.. {
            if attempt == 50 {
                disk.set_odds(Odds::default());
            }
            match open(&disk, &options()) {
                Ok(opened) => {
                    model.judge(&opened).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
                    break;
                }
                Err(Error::Io { .. }) => {
                    disk =
                        disk.crash(if random.below(2) == 0 { Crash::Kill } else { Crash::Power });
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
    }
}

fn random_len(seed: u64) -> usize {
    [100, 1500, 9000][(seed % 3) as usize]
}
