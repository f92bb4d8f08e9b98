//! Damage to a log that was closed in order: everything in it is acknowledged and sealed, so
//! whatever happens to a byte, opening gives every record or refuses.

use cored_wal::disk::memory::{Crash, MemoryDisk};
use cored_wal::{Error, Options};

use crate::model::{Model, open, options, refusal, written};

/// Opens a copy and insists on all records or a refusal. Returns the place of the refusal.
fn all_or_refusal(
    disk: &MemoryDisk,
    model: &Model,
    options: &Options,
    what: &str,
) -> Option<(u64, u64)> {
    let result = open(disk, options);
    let place = refusal(&result);
    if let Ok(opened) = &result {
        let mut model = model.clone();
        model.judge(opened).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
        assert_eq!(opened.items, model.items, "{what}");
    }
    place
}

fn copy(disk: &MemoryDisk) -> MemoryDisk {
    disk.crash(Crash::Kill)
}

/// 64 KiB of log, in four segments of 16 KiB.
fn sixty_four_kib() -> (MemoryDisk, Model, Options) {
    let options = Options { segment_bytes: 16 << 10, group_bytes_max: 4 << 10, ..options() };
    let mut records = 40;
    loop {
        let (disk, model) = written(11, &options, records);
        if disk.segments().len() >= 4 {
            return (disk, model, options);
        }
        records += 5;
    }
}

#[test]
fn every_bit_of_64_kib_flipped() {
    let (disk, model, options) = sixty_four_kib();
    let mut refused = 0_u64;
    for segment in disk.segments().into_iter().take(4) {
        for bit in 0..(16_usize << 10) * 8 {
            let copy = copy(&disk);
            copy.edit(segment, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let what = format!("segment {segment}, byte {}, bit {}", bit / 8, bit % 8);
            if let Some((named, offset)) = all_or_refusal(&copy, &model, &options, &what) {
                refused += 1;
                assert_eq!(named, segment, "{what}");
                assert!(offset <= bit as u64 / 8, "{what}: names byte {offset}");
                assert_eq!(copy.content(segment).len(), 16 << 10);
            }
        }
    }
    assert!(refused > 100_000, "most bits hold something: {refused}");
}

#[test]
fn a_refusal_changes_nothing() {
    let (disk, _, options) = sixty_four_kib();
    let copy = copy(&disk);
    copy.edit(2, |bytes| bytes[5000] ^= 1);
    let before: Vec<Vec<u8>> = copy.segments().iter().map(|&it| copy.content(it)).collect();
    for _ in 0..3 {
        assert!(refusal(&open(&copy, &options)).is_some());
    }
    let after: Vec<Vec<u8>> = copy.segments().iter().map(|&it| copy.content(it)).collect();
    assert!(before == after);
}

#[test]
fn cut_at_every_byte() {
    let (disk, model, options) = sixty_four_kib();
    for segment in disk.segments() {
        for cut in 0..16_usize << 10 {
            let copy = copy(&disk);
            copy.edit(segment, |bytes| bytes.truncate(cut));
            let result = open(&copy, &options);
            assert!(
                matches!(result, Err(Error::Corrupt { segment: named, .. }) if named == segment),
                "segment {segment} cut at {cut}: {result:?}"
            );
        }
    }
    drop(model);
}

#[test]
fn zeros_or_garbage_from_every_sector_on() {
    let (disk, model, options) = sixty_four_kib();
    // Where the seal is gone with what it seals, nobody can know.
    let end = open(&copy(&disk), &options).unwrap().log.position();
    let seal = end.offset_bytes as usize - 4096;
    for segment in disk.segments() {
        for sector in 0..32 {
            for garbage in [false, true] {
                for sectors in [1, 4, 8, 32] {
                    if segment == end.segment && (sector + sectors) * 512 > seal {
                        continue;
                    }
                    let copy = copy(&disk);
                    copy.edit(segment, |bytes| {
                        let end = bytes.len().min((sector + sectors) * 512);
                        for (index, byte) in bytes[sector * 512..end].iter_mut().enumerate() {
                            *byte = if garbage { (index * 7 + 13) as u8 } else { 0 };
                        }
                    });
                    let what = format!("segment {segment}, sector {sector}, {sectors} sectors");
                    all_or_refusal(&copy, &model, &options, &what);
                }
            }
        }
    }
}

/// With room for more than what is under way, the segment behind the end is looked at only at its head.
#[test]
fn all_zero_or_garbage_behind_every_block() {
    let options = Options { segment_bytes: 64 << 10, group_bytes_max: 4 << 10, ..options() };
    let (disk, model) = written(12, &options, 120);
    // In the last segment the seal would be gone with what it seals.
    let last = open(&copy(&disk), &options).unwrap().log.position().segment;
    assert!(last >= 4);
    for segment in 1..last {
        for block in 1..16 {
            for garbage in [false, true] {
                let copy = copy(&disk);
                copy.edit(segment, |bytes| {
                    for (index, byte) in bytes[block * 4096..].iter_mut().enumerate() {
                        *byte = if garbage { (index * 7 + 13) as u8 } else { 0 };
                    }
                });
                let what = format!("segment {segment} from block {block} on");
                assert!(all_or_refusal(&copy, &model, &options, &what).is_some(), "{what}: opened");
            }
        }
    }
}

/// Where nothing is for long the rest is looked at only here and there.
#[test]
fn a_hole_of_any_size_in_a_large_segment() {
    let options = Options { segment_bytes: 1 << 20, group_bytes_max: 4 << 10, ..options() };
    let (disk, model) = written(13, &options, 330);
    let end = open(&copy(&disk), &options).unwrap().log.position();
    let end = (end.segment == 1).then_some(end.offset_bytes as usize / 4096).expect("one segment");
    assert!((120..180).contains(&end), "{end}");
    for first in [1, 2, 9, end / 2] {
        for blocks in [1, 5, 63, 64, 65, 66, 90] {
            // What is left of the log is at least as long as the places lie apart.
            if first + blocks + 16 < end {
                let copy = copy(&disk);
                copy.edit(1, |bytes| bytes[first * 4096..][..blocks * 4096].fill(0));
                let what = format!("{blocks} blocks from block {first} on");
                let place = all_or_refusal(&copy, &model, &options, &what);
                assert!(
                    place.is_some_and(|(_, at)| at <= first as u64 * 4096),
                    "{what}: {place:?}"
                );
            }
        }
    }
    // Nothing is behind the end, and what is left there of an older use of the file does not count.
    let copy = copy(&disk);
    copy.edit(1, |bytes| bytes[(end + 70) * 4096..].fill(0x55));
    assert_eq!(all_or_refusal(&copy, &model, &options, "old bytes"), None);
}

#[test]
fn a_block_that_was_written_to_another_place() {
    let (disk, model, options) = sixty_four_kib();
    let segments = disk.segments();
    for &from in &segments {
        for &to in &segments {
            for place in 0..16 {
                let (source, target) = (place / 4 * 4096, place % 4 * 4096);
                let block = disk.content(from)[source..source + 4096].to_vec();
                let copy = copy(&disk);
                copy.edit(to, |bytes| bytes[target..target + 4096].copy_from_slice(&block));
                let what = format!("block {source} of {from} at {target} of {to}");
                all_or_refusal(&copy, &model, &options, &what);
            }
        }
    }
}

#[test]
fn a_missing_segment_is_named() {
    let (disk, _, options) = sixty_four_kib();
    let segments = disk.segments();
    for &segment in &segments[1..segments.len() - 1] {
        let copy = copy(&disk);
        copy.remove(segment);
        let Err(Error::Missing { file }) = open(&copy, &options) else {
            panic!("segment {segment} was not missed");
        };
        assert_eq!(file, format!("00003-{segment:012}.wal"));
    }
}

#[test]
fn logs_of_others_are_refused() {
    let (disk, _, options) = sixty_four_kib();
    let mut other = options.clone();
    other.owner.member += 1;
    assert!(matches!(open(&disk, &other), Err(Error::Foreign { .. })));
    let mut other = options;
    other.log += 1;
    assert!(matches!(open(&disk, &other), Err(Error::WrongLog { .. })));
}
