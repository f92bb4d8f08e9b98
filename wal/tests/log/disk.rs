//! The disk in memory itself: the same calls give the same bytes, and each fault does what it says.

use cored_wal::disk::memory::{Crash, Fault, MemoryDisk, Odds, Pace, UnderWay};
use cored_wal::disk::{Completion, Disk};
use cored_wal::{BLOCK_BYTES, Buffer};

fn block(byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(BLOCK_BYTES);
    buffer.fill(byte);
    buffer
}

/// A disk with segment 1 of four blocks.
fn prepared(seed: u64) -> MemoryDisk {
    let mut disk = MemoryDisk::new(seed);
    disk.prepare(1, 4 * BLOCK_BYTES as u64, block(1)).unwrap();
    let end = disk.reap(false).unwrap();
    assert!(matches!(end, Some(Completion::Prepared { segment: 1, result: Ok(()) })));
    disk
}

fn written(disk: &mut MemoryDisk) -> std::io::Result<usize> {
    match disk.reap(false).unwrap() {
        Some(Completion::Written { result, .. }) => result,
        other => panic!("a write ended, not {other:?}"),
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed| {
        let mut disk = prepared(seed);
        disk.set_odds(Odds { lost: 200_000, flipped: 200_000, short: 200_000, ..Odds::default() });
        for number in 0..40_u8 {
            let offset_bytes = BLOCK_BYTES as u64 * u64::from(number % 3 + 1);
            disk.write(0, 1, offset_bytes, block(number)).unwrap();
        }
        disk.set_pace(Pace::Stepwise);
        disk.write(0, 1, 4096, block(77)).unwrap();
        disk.crash(Crash::Power).content(1)
    };
    assert_eq!(run(4), run(4));
    assert!((0..20).any(|seed| run(seed) != run(4)));
}

#[test]
fn each_fault_does_what_it_says() {
    for fault in Fault::ALL {
        for seed in 0..50 {
            let mut disk = prepared(seed);
            disk.plan(disk.operations(), fault);
            let begun = disk.write(9, 1, 8192, block(5));
            assert_eq!(begun.is_err(), fault == Fault::Refused);
            if begun.is_err() {
                continue;
            }
            let result = written(&mut disk);
            let content = disk.content(1);
            let there = &content[8192..12288];
            match fault {
                Fault::Refused => unreachable!("it did not begin"),
                Fault::Failed => assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO)),
                Fault::Full => assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOSPC)),
                Fault::Short => assert!(result.unwrap() < BLOCK_BYTES),
                Fault::Lost => assert!(result.unwrap() == BLOCK_BYTES && there == [0; BLOCK_BYTES]),
                Fault::Misdirected => assert!(result.unwrap() == BLOCK_BYTES && there[0] == 0),
                Fault::Flipped => {
                    let wrong: u32 = there.iter().map(|byte| (byte ^ 5).count_ones()).sum();
                    assert_eq!((result.unwrap(), wrong), (BLOCK_BYTES, 1));
                }
            }
        }
    }
}

#[test]
fn what_a_kill_leaves_is_not_safe_before_it_is_synced() {
    let (mut kept, mut vanished) = (0, 0);
    for seed in 0..100 {
        let mut disk = prepared(seed);
        disk.set_pace(Pace::Stepwise);
        disk.write(1, 1, 4096, block(5)).unwrap();
        let mut killed = disk.crash(Crash::Kill);
        let seen = killed.content(1);
        let after = killed.crash(Crash::Power).content(1);
        kept += u32::from(after == seen);
        vanished += u32::from(after != seen);
        killed.sync(1).unwrap();
        assert_eq!(killed.crash(Crash::Power).content(1), seen);
    }
    assert!(kept > 0 && vanished > 0);
}

#[test]
fn operations_end_when_they_are_told_to() {
    let mut disk = prepared(1);
    disk.set_pace(Pace::Stepwise);
    disk.write(1, 1, 4096, block(5)).unwrap();
    disk.retire(1).unwrap();
    disk.write(2, 1, 8192, block(6)).unwrap();
    disk.prepare(2, 16384, block(1)).unwrap();
    assert!(disk.reap(false).unwrap().is_none());
    let under_way = disk.under_way();
    assert_eq!(under_way.len(), 3, "preparing waits for the retirement: {under_way:?}");
    assert!(matches!(under_way[2], UnderWay::Write { token: 2, .. }));
    assert!(disk.finish(2) && disk.has_completions());
    assert!(matches!(disk.reap(false).unwrap(), Some(Completion::Written { token: 2, .. })));
    disk.finish_all();
    assert_eq!(disk.segments(), [2]);
    assert!(!disk.finish(0));
    assert_eq!(&disk.content(2)[8192..], [block(6).as_ref(), &[0; 4096]].concat(), "used again");
}
