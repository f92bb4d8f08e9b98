//! Power cuts and kills at any moment, also with two writes in flight and in the middle of
//! recycling, again and again on the same disk.

use cored_wal::disk::memory::{Crash, MemoryDisk, Odds, Pace};
use cored_wal::{Log, Options, Sequence};

use crate::model::{DATA, Model, Opened, Random, STATE, open, options, refusal};

#[test]
fn two_writes_in_flight_and_every_end_of_them() {
    for seed in 0..600 {
        let disk = MemoryDisk::new(seed);
        let mut model = Model::default();
        let mut log = open(&disk, &options()).unwrap().log;
        let mut random = Random(seed);
        for _ in 0..random.below(8) {
            model.append(&mut log, 0, DATA, random.bytes(2000));
            log.flush().unwrap();
        }
        model.acknowledge(log.durable());
        disk.set_pace(Pace::Stepwise);
        for lane in 1..3 {
            model.append(&mut log, lane, DATA, random.bytes(7000));
            log.submit().unwrap();
        }
        assert!(log.in_flight() == 2 || log.stats().segment_waits > 0);
        if seed % 3 > 0 {
            disk.finish(seed as usize % 2);
            log.complete().unwrap();
            model.acknowledge(log.durable());
        }
        let how = if seed % 4 < 2 { Crash::Power } else { Crash::Kill };
        let found = disk.crash(how);
        let opened = open(&found, &options()).unwrap_or_else(|error| panic!("{seed}: {error}"));
        model.judge(&opened).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        // What opening handed out is there whatever happens next.
        let found = found.crash(Crash::Power);
        let opened = open(&found, &options()).unwrap_or_else(|error| panic!("{seed}: {error}"));
        model.judge(&opened).unwrap_or_else(|wrong| panic!("seed {seed}, second: {wrong}"));
    }
}

/// One life of a log: some work that ends at a random moment.
fn live(opened: Opened, disk: &MemoryDisk, model: &mut Model, random: &mut Random) -> Option<()> {
    let mut opened = opened;
    model.carry_again(&mut opened);
    let mut log = opened.log;
    disk.set_pace(if random.below(4) == 0 { Pace::AtOnce } else { Pace::Stepwise });
    let mut now_ms = 0;
    for _ in 0..random.below(120) {
        match random.below(10) {
            0..4 => append_some(&mut log, model, random),
            4..6 => log.submit().ok()?,
            6..8 => {
                let choices = disk.under_way().len() as u64;
                if choices > 0 {
                    disk.finish(random.below(choices) as usize);
                }
                let completed = log.complete();
                model.acknowledge(log.durable());
                completed.ok()?;
            }
            8 => {
                now_ms += random.below(12);
                log.tick(now_ms).ok()?;
            }
            _ => recycle_some(&mut log, model, random)?,
        }
    }
    if random.below(5) == 0 {
        let flushed = log.flush();
        model.acknowledge(log.durable());
        flushed.ok()?;
        log.close().ok()?;
    }
    Some(())
}

fn append_some(log: &mut Log<MemoryDisk>, model: &mut Model, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let lane = random.below(3) as u16;
        let (kind, len_bytes) = match random.below(10) {
            0..2 => (STATE, random.below(80)),
            2 => (DATA, random.below(25_000)),
            _ => (DATA, random.below(900)),
        };
        let payload = random.bytes(len_bytes as usize);
        model.append(log, lane, kind, payload);
    }
}

fn recycle_some(log: &mut Log<MemoryDisk>, model: &mut Model, random: &mut Random) -> Option<()> {
    if random.below(3) > 0 {
        return Some(());
    }
    // A caller lets go of what it knows to be safe elsewhere, which is nothing unacknowledged.
    let needed = model.items.iter().find(|item| item.sequence > model.acknowledged);
    let needed = needed.and_then(|item| log.segment_of(Sequence(item.sequence)));
    let (oldest, current) = (log.oldest_segment(), log.position().segment);
    let limit = oldest + random.below(needed.unwrap_or(current) - oldest + 1);
    model.let_go_below(log, limit);
    log.recycle_below(limit).ok().map(drop)
}

/// Lives and crashes on one disk. Returns whether it ended in a refusal.
fn many_lives(seed: u64, lives: u64, odds: Odds) -> bool {
    let mut random = Random(seed ^ 0xfeed);
    let mut disk = MemoryDisk::new(seed);
    let mut model = Model::default();
    let silent = odds.lost + odds.misdirected + odds.flipped > 0;
    // With small groups most segments have room for more than what is under way.
    let group_bytes_max = if seed.is_multiple_of(2) { 8 << 10 } else { 4 << 10 };
    let options = Options { group_bytes_max, ..options() };
    for life in 0..lives {
        disk.set_odds(Odds::default());
        let result = open(&disk, &options);
        if silent && refusal(&result).is_some() {
            return true;
        }
        let opened = result.unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
        if silent {
            // What was lost in silence and never proven is beyond knowledge; what comes back must
            // still be right.
            model.acknowledged = model.acknowledged.min(opened.recovered.newest.0);
        }
        let judged = model.judge(&opened);
        judged.unwrap_or_else(|wrong| panic!("seed {seed}, life {life}: {wrong}"));
        disk.set_odds(odds);
        let _failed_or_not = live(opened, &disk, &mut model, &mut random);
        let how = if random.below(2) == 0 { Crash::Power } else { Crash::Kill };
        disk = disk.crash(how);
    }
    false
}

/// How many seeds are tried; more on request.
fn seeds() -> u64 {
    let asked = std::env::var("CORED_WAL_SEEDS").ok();
    asked.map_or(400, |asked| asked.parse().expect("CORED_WAL_SEEDS is a number"))
}

#[test]
fn random_lives_with_power_cuts_and_kills() {
    for seed in 0..seeds() {
        many_lives(seed, 12, Odds::default());
    }
}

#[test]
fn random_lives_on_a_disk_that_fails() {
    let odds = Odds { refused: 2_000, failed: 5_000, full: 2_000, short: 2_000, ..Odds::default() };
    for seed in 0..seeds() {
        many_lives(seed, 12, odds);
    }
}

#[test]
fn random_lives_on_a_disk_that_lies() {
    let odds = Odds { lost: 3_000, misdirected: 3_000, flipped: 3_000, ..Odds::default() };
    let refused = (0..seeds()).filter(|&seed| many_lives(seed, 12, odds)).count();
    assert!(refused > 20, "damage is found: {refused}");
}

#[test]
fn reopened_a_thousand_times() {
    many_lives(77, 1000, Odds::default());
    let mut model = Model::default();
    let disk = MemoryDisk::new(1);
    for life in 0..1000_u64 {
        let mut opened = open(&disk, &options()).unwrap();
        model.judge(&opened).unwrap();
        assert_eq!(opened.items.len() as u64, life, "each life adds one");
        model.append(&mut opened.log, 0, DATA, life.to_le_bytes().to_vec());
        model.acknowledge(opened.log.flush().unwrap());
        if life % 2 == 0 {
            opened.log.close().unwrap();
        }
    }
}
