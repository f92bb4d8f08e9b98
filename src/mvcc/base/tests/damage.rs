//! Whatever happens to the bytes: an answer is right or an error, and nothing panics.

use super::*;
use crate::mvcc::base::Why;

const SIZES: Sizes = Sizes { block: 3_000, part: 1_000 };

/// A history with tombstones, leases, several blocks, and a key in several of them.
fn sample(seed: u64, revisions: i64, keys: usize) -> (Model, Revision) {
    let (mut model, mut random) = (Model::default(), Random::new(seed));
    for revision in 2..revisions {
        model.write(&mut random, Revision(revision), keys);
    }
    for revision in revisions..revisions + 20 {
        model.put(&mut random, b"k-with-a-long-history", (Revision(revision), 0));
    }
    (model, Revision(revisions + 20))
}

/// Blocks where every key is in one, and their revision.
fn without_parts() -> (Vec<BlockRef>, Vec<u8>, Revision) {
    let (model, at) = sample(2, 200, 100);
    let (rows, bytes) = blocks(&model, Sizes { part: 1 << 20, ..SIZES });
    assert!(rows.len() > 3 && rows.iter().all(|row| row.keys > 0));
    (rows, bytes, at)
}

/// What a base says of these keys, method by method; `None` where it says that it is corrupt.
fn answers(base: &Base, keys: &[Vec<u8>], at: Revision) -> Vec<Option<Vec<Row>>> {
    let one = |found: Result<Option<VersionRef<'_>>, Corrupt>| {
        found.ok().map(|found| found.map(row).into_iter().collect::<Vec<Row>>())
    };
    let number = |n: u64| vec![Row { at: (Revision(n as i64), 0), ..nothing() }];
    let mut all = Vec::new();
    for key in keys {
        all.push(one(base.newest(key)));
        all.push(one(base.get_at(key, at)));
        all.push(one(base.version_at(key, (at, 0))));
        all.push(base.rank(key).ok().map(number));
    }
    let range = KeyRange { start: keys[keys.len() / 3].clone(), end: None };
    for range in [range, KeyRange::all()] {
        let mut rows = Some(Vec::new());
        let mut cursor = base.cursor(&range);
        loop {
            match cursor.peek() {
                Ok(None) => break,
                Ok(Some(key)) => {
                    let seen = [key.newest(), key.at(at)].into_iter().flatten();
                    let seen: Vec<Row> = key.versions().chain(seen).map(row).collect();
                    rows.iter_mut().for_each(|rows| rows.extend(seen.clone()));
                }
                Err(_) => rows = None,
            }
            cursor.advance();
        }
        all.push(rows);
        for from in [Revision::ZERO, at] {
            let ranges = [range.clone()];
            let history = base.history(&ranges, from, Revision::MAX);
            all.push(history.map(|v| v.map(row)).collect::<Result<_, _>>().ok());
        }
    }
    for rank in 0..=base.live() {
        let key = base.nth_live(rank).map(|key| key.map(<[u8]>::to_vec));
        all.push(key.ok().map(|key| vec![Row { key: key.unwrap_or_default(), ..nothing() }]));
    }
    let mut leased = Vec::new();
    let mut each = |key: &[u8], lease| leased.push(Row { key: key.to_vec(), lease, ..nothing() });
    let whole = base.leased(&mut each).is_ok();
    all.push(whole.then_some(leased));
    all
}

fn nothing() -> Row {
    let (key, value, lease) = (Vec::new(), Vec::new(), LeaseId::NONE);
    Row { key, value, create: Revision::ZERO, at: (Revision::ZERO, 0), version: 0, lease }
}

fn some_keys(model: &Model) -> Vec<Vec<u8>> {
    let known = model.keys.keys().cloned();
    known.clone().chain(known.step_by(7).map(|key| [&key[..], b"~"].concat())).collect()
}

/// How many answers are missing; none may be wrong.
fn missing(right: &[Option<Vec<Row>>], now: &[Option<Vec<Row>>]) -> usize {
    assert_eq!(right.len(), now.len());
    for (right, now) in right.iter().zip(now) {
        assert!(now.is_none() || now == right, "{now:?} is not {right:?}");
    }
    now.iter().filter(|answer| answer.is_none()).count()
}

#[test]
fn every_flipped_bit_of_a_small_image_is_found() {
    let (model, at) = sample(1, 90, 60);
    let (rows, bytes) = blocks(&model, SIZES);
    assert!(rows.len() > 3 && rows.iter().any(|row| row.keys == 0), "several kinds of blocks");
    let keys = some_keys(&model);
    let right = answers(&open(at, rows.clone(), bytes.clone()).expect("whole"), &keys, at);
    assert_eq!(missing(&right, &right), 0);
    for row in &rows {
        let start = row.offset as usize;
        for bit in 0..row.len as usize * 8 {
            let mut bytes = bytes.clone();
            bytes[start + bit / 8] ^= 1 << (bit % 8);
            let base = open(at, rows.clone(), bytes).expect("no block is touched");
            // Everything is asked where that is new; the block alone where it is not.
            if bit % 61 == 0 {
                assert!(missing(&right, &answers(&base, &keys, at)) > 0);
            } else {
                assert!(base.touch(&KeyRange::single(&row.first_key)).is_err());
            }
            let fault = base.fault().expect("it stays");
            assert_eq!((fault.offset, fault.why), (row.offset, Why::Checksum));
        }
    }
}

/// Flips bits of an image of 256 KiB, each `step`th, and asks for a key of the block.
fn flip_large(step: usize) {
    let (mut model, mut random) = (Model::default(), Random::new(3));
    for n in 0..900 {
        let at = (Revision(n + 2), 0);
        let (create, lease) = (at.0, LeaseId(n % 3));
        let value = (0..256).map(|_| random.below(256) as u8).collect();
        let key = format!("/registry/pods/{n:05}").into_bytes();
        model.push(Row { key, value, create, at, version: 1, lease });
    }
    let at = Revision(1_000);
    let (rows, bytes) = blocks(&model, SIZES_AS_WRITTEN);
    assert_eq!(rows.len(), 1);
    assert!(rows[0].len > 256 << 10);
    let mut random = Random::new(step as u64);
    let mut bytes = bytes;
    for bit in (0..bytes.len() * 8).step_by(step) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let base = open(at, rows.clone(), std::mem::take(&mut bytes)).expect("not touched");
        let key = format!("/registry/pods/{:05}", random.below(900)).into_bytes();
        let why = base.newest(&key).map_err(|corrupt| corrupt.why);
        assert_eq!(why, Err(Why::Checksum));
        bytes = base.files[0].bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn flipped_bits_of_a_large_image_are_found() {
    flip_large(1_009);
}

#[test]
#[ignore = "takes minutes: every one of two million bits"]
fn every_flipped_bit_of_a_large_image_is_found() {
    flip_large(1);
}

#[test]
fn blocks_with_a_right_checksum_and_wrong_content_harm_nobody() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..4 {
        let (model, at) = sample(seed, 40, 25);
        let (rows, bytes) = blocks(&model, SIZES);
        let keys = some_keys(&model);
        for number in 0..rows.len() {
            let start = rows[number].offset as usize;
            let end = start + rows[number].len as usize;
            for bit in (start * 8..end * 8).step_by(if seed == 0 { 1 } else { 13 }) {
                let (mut rows, mut bytes) = (rows.clone(), bytes.clone());
                bytes[bit / 8] ^= 1 << (bit % 8);
                rows[number].crc = crc32c::crc32c(&bytes[start..end]);
                let base = open(at, rows, bytes).expect("not touched");
                match base.check_block(number) {
                    Ok(()) => accepted += 1,
                    Err(corrupt) => {
                        assert_ne!(corrupt.why, Why::Checksum);
                        refused += 1;
                    }
                }
                // A value may differ. That every method ends, without panic, is all there is to ask.
                if bit % 11 == 0 {
                    answers(&base, &keys, at);
                }
            }
        }
    }
    // Bits of values, of most keys and of leases cannot be told by the content.
    assert!(accepted > 0 && refused > accepted / 2, "{refused} refused, {accepted} accepted");
}

#[test]
fn random_bytes_are_no_block() {
    let mut random = Random::new(11);
    let (model, at) = sample(1, 90, 60);
    let (rows, bytes) = blocks(&model, SIZES);
    for _ in 0..3_000 {
        let (mut rows, mut bytes) = (rows.clone(), bytes.clone());
        let number = random.below(rows.len());
        let (start, len) = (rows[number].offset as usize, rows[number].len as usize);
        // The root of the archive is at its end: mostly that is hit.
        let most = if random.percent(80) { len.min(100) } else { len };
        for _ in 0..1 + random.below(8) {
            let byte = start + len - 1 - random.below(most);
            bytes[byte] = [0, 1, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(6)];
        }
        rows[number].crc = crc32c::crc32c(&bytes[start..start + len]);
        let base = open(at, rows, bytes).expect("not touched");
        answers(&base, &some_keys(&model), at);
    }
}

#[test]
fn blocks_that_are_elsewhere_are_refused() {
    let (model, at) = sample(2, 200, 100);
    let (rows, bytes) = blocks(&model, SIZES);
    let keys = some_keys(&model);
    let right = answers(&open(at, rows.clone(), bytes.clone()).expect("whole"), &keys, at);

    // Another block's place, with its checksum.
    for a in 0..rows.len() {
        for b in (0..rows.len()).filter(|b| *b != a) {
            let mut wrong = rows.clone();
            (wrong[a].offset, wrong[a].len) = (rows[b].offset, rows[b].len);
            let base = open(at, wrong.clone(), bytes.clone()).expect("not touched");
            assert_eq!(base.check_block(a).map_err(|c| c.why), Err(Why::Checksum));
            wrong[a].crc = rows[b].crc;
            let base = open(at, wrong, bytes.clone()).expect("not touched");
            assert!(base.check_block(a).is_err());
            assert!(missing(&right, &answers(&base, &keys, at)) > 0);
        }
    }

    // Rows in another order.
    let mut wrong = rows.clone();
    wrong.swap(0, 1);
    assert_eq!(open(at, wrong, bytes.clone()).map_err(|c| c.why).err(), Some(Why::OutOfOrder));

    // Half of a key.
    let part = rows.iter().position(|row| row.keys == 0).expect("a key in several blocks");
    let wrong = rows[..=part].to_vec();
    assert_eq!(open(at, wrong, bytes.clone()).map_err(|c| c.why).err(), Some(Why::OutOfOrder));

    // Zeros, and a shorter file.
    for row in &rows {
        let mut zeros = bytes.clone();
        zeros[row.offset as usize..][..row.len as usize].fill(0);
        let base = open(at, rows.clone(), zeros).expect("not touched");
        assert!(missing(&right, &answers(&base, &keys, at)) > 0);
        let short = bytes[..row.offset as usize + row.len as usize - 1].to_vec();
        assert_eq!(open(at, rows.clone(), short).map_err(|c| c.why).err(), Some(Why::Truncated));
    }
    let mut far = rows.clone();
    far[0].offset = u64::MAX - 5;
    assert_eq!(open(at, far, bytes.clone()).map_err(|c| c.why).err(), Some(Why::Truncated));
    let mut other = rows.clone();
    other[1].file = 2;
    let corrupt = open(at, other, bytes).expect_err("no such file");
    assert_eq!(corrupt.to_string(), "block 1 at byte 4096 of file 2: the file is missing");
}

#[test]
fn a_row_that_lies_is_found() {
    type Lie = fn(&mut BlockRef);
    let lies: &[Lie] = &[
        |row| row.keys += 1,
        |row| row.live += 1,
        |row| row.live -= 1,
        |row| row.versions += 1,
        |row| row.leased ^= 1,
        |row| row.bytes += 1,
        |row| row.oldest.0 -= 1,
        |row| row.newest.0 += 1,
        |row| row.garbage_from = row.garbage_from.next(),
        |row| row.first_key.push(0),
        |row| _ = row.first_key.pop(),
    ];
    let (rows, bytes, at) = without_parts();
    for lie in lies {
        let mut rows = rows.clone();
        lie(&mut rows[1]);
        match open(at, rows, bytes.clone()) {
            Err(corrupt) => assert_eq!(corrupt.why, Why::OutOfOrder),
            Ok(base) => assert!(base.check_block(1).is_err()),
        }
    }
    // A base that claims to be older than what it holds.
    let base = open(Revision(30), rows, bytes).expect("not touched");
    assert!((0..base.blocks().len()).any(|n| base.check_block(n).is_err()));
}

#[test]
fn a_fault_stays_and_is_the_first() {
    let (rows, mut bytes, at) = without_parts();
    for row in [&rows[0], &rows[2]] {
        bytes[row.offset as usize + 5] ^= 1;
    }
    let base = open(at, rows.clone(), bytes).expect("not touched");
    assert_eq!((base.fault(), base.touch(&KeyRange::single(&rows[1].first_key))), (None, Ok(())));
    let third = base.check_block(2).expect_err("damaged");
    let first = base.touch(&KeyRange::all()).expect_err("damaged");
    assert_eq!((third.block, first.block), (2, 0));
    assert_eq!(base.fault(), Some(third));
    // The same block says the same again, and a cursor passes over it.
    assert_eq!(base.newest(&rows[0].first_key).err(), Some(first.clone()));
    let mut cursor = base.cursor(&KeyRange::all());
    assert_eq!(cursor.peek().err(), Some(first));
    cursor.advance();
    let next = cursor.peek().expect("whole").expect("a key");
    assert_eq!(next.key(), rows[1].first_key);
}
