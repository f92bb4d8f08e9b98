//! Where blocks begin and end, and what a compaction leaves.

use std::collections::BTreeMap;
use std::fmt;

use super::Memory;
use super::*;
use crate::keys::{KeyRange, LeaseId};
use crate::mvcc::Store;
use crate::mvcc::base::{Base, Why};
use crate::mvcc::tests::{Images, Random};

fn version<'a>(key: &'a [u8], modified: i64, sub: u32, value: Option<&'a [u8]>) -> VersionRef<'a> {
    let modified = Revision(modified);
    let (create, version) = if value.is_some() { (modified, 1) } else { (Revision::ZERO, 0) };
    let value = value.unwrap_or_default();
    VersionRef { key, value, create, modified, sub, version, lease: LeaseId::NONE }
}

#[test]
fn the_lowest_compaction_that_removes_something_is_known() {
    let mut random = Random::new(5);
    for _ in 0..5_000 {
        let (mut at, mut sub, mut versions) = (1, 0, Vec::new());
        for _ in 0..1 + random.below(4) {
            let next = at + random.below(4) as i64;
            sub = if next == at { sub + 1 } else { 0 };
            at = next;
            versions.push(version(b"k", at, sub, random.percent(60).then_some(&b"v"[..])));
        }
        let removes = |c: &i64| kept(&versions, Revision(*c)).len() < versions.len();
        let lowest = (0..at + 3).find(removes).map_or(Revision::MAX, Revision);
        let tally = Tally::of(b"k", versions.iter().copied());
        assert_eq!(tally.garbage_from, lowest, "{versions:?}");
        // And every later one removes something too.
        assert!((lowest.0.min(at + 3)..at + 3).all(|c| removes(&c)), "{versions:?}");
    }
}

/// A store with keys `numbers`, values of `len` bytes, written from revision `at` on.
fn store(numbers: impl IntoIterator<Item = usize>, len: usize, at: i64) -> Store {
    let mut store = Store::new();
    for (n, number) in numbers.into_iter().enumerate() {
        let key = format!("key-{number:08}");
        store.put((Revision(at + n as i64), 0), key.as_bytes(), &vec![1; len], LeaseId::NONE);
    }
    store
}

fn small(base: &Base) -> usize {
    base.blocks().iter().filter(|row| (row.len as usize) < BLOCK_BYTES / 4).count()
}

#[test]
fn blocks_are_of_about_the_same_size_and_stay_so() {
    let mut images = Images::default();
    let mut at = 2;
    let mut write = |images: &mut Images, numbers: Vec<usize>, len: usize| {
        let layer = store(numbers.iter().copied(), len, at);
        at += numbers.len() as i64;
        images.build(Revision(at), &[&layer.active], Revision(at))
    };
    let base = write(&mut images, (0..40_000).map(|n| n * 10).collect(), 256);
    assert!(base.blocks().len() > 30);
    assert!(base.blocks().iter().all(|row| row.len as usize <= BLOCK_BYTES + BLOCK_BYTES / 4));
    assert_eq!(small(&base), 0);
    // What is between, behind and in front.
    for round in 1..8 {
        let base = write(&mut images, (0..1_000).map(|n| n * 13 + round).collect(), 100);
        assert_eq!(small(&base), 0);
        let base = write(&mut images, (0..50).map(|n| 400_000 + round * 100 + n).collect(), 256);
        assert_eq!(small(&base), 0);
    }
    // A block that shrinks joins its neighbour, though that did not change.
    let mut layer = Store::new();
    let rows = images.base().expect("built").blocks().to_vec();
    let range = KeyRange { start: rows[5].first_key.clone(), end: Some(rows[6].first_key.clone()) };
    let base = images.base().expect("built").clone();
    let mut cursor = base.cursor(&range);
    let mut left = 3;
    while let Some(key) = cursor.peek().expect("whole") {
        if left == 0 {
            layer.delete((Revision(at), 0), key.key());
            at += 1;
        } else {
            left -= 1;
        }
        cursor.advance();
    }
    let base = images.build(Revision(at), &[&layer.active], Revision(at));
    assert_eq!(small(&base), 0);
    assert_eq!(base.blocks().len(), rows.len() - 1);
    let reused = base.blocks().iter().filter(|row| rows.contains(row)).count();
    assert_eq!(reused, rows.len() - 2);
}

#[test]
fn large_values_have_blocks_of_their_own_size() {
    let mut store = Store::new();
    for n in 0..40_i64 {
        let len = if n % 2 == 0 { 1 << 20 } else { 50 };
        let key = format!("key-{n:04}");
        store.put((Revision(n + 2), 0), key.as_bytes(), &vec![1; len], LeaseId::NONE);
    }
    let base = Images::default().build(Revision(42), &[&store.active], Revision::ZERO);
    // Each with the small one before it; the last small one is alone.
    assert_eq!((base.blocks().len(), base.versions()), (21, 40));
    assert_eq!(base.touch(&KeyRange::all()), Ok(()));
}

#[test]
fn an_image_costs_little_more_than_what_it_holds() {
    let mut store = Store::new();
    for n in 0..20_000_u64 {
        let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        store.put((Revision(n as i64 + 2), 0), &key, &[7; 256], LeaseId::NONE);
    }
    let mut memory = Memory::new(1);
    let rows = image(&mut memory, None, &[&store.active], Revision::ZERO).expect("memory");
    let logical: u64 = rows.iter().map(|row| row.bytes).sum();
    assert_eq!(logical, 20_000 * (8 + 256));
    let share = memory.bytes.len() as f64 / logical as f64;
    assert!(share < 1.13, "{share} of the logical bytes");
}

/// Fails at the block with this number.
struct Full(usize);

#[derive(Debug)]
struct NoSpace;

impl fmt::Display for NoSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no space")
    }
}

impl std::error::Error for NoSpace {}

impl Sink for Full {
    type Error = NoSpace;

    fn block(&mut self, _bytes: &[u8]) -> Result<(u64, u64), NoSpace> {
        self.0 = self.0.checked_sub(1).ok_or(NoSpace)?;
        Ok((1, 0))
    }
}

#[test]
fn a_sink_that_fails_fails_the_image() {
    let store = store(0..5_000, 256, 2);
    let blocks =
        image(&mut Full(usize::MAX), None, &[&store.active], Revision::ZERO).expect("room").len();
    for room in 0..blocks {
        let result = image(&mut Full(room), None, &[&store.active], Revision::ZERO);
        assert!(matches!(result, Err(Error::Sink(NoSpace))));
    }
}

#[test]
fn a_damaged_block_fails_the_image_that_needs_it_and_no_other() {
    let below = store(0..5_000, 256, 2);
    let mut memory = Memory::new(1);
    let rows = image(&mut memory, None, &[&below.active], Revision::ZERO).expect("memory");
    memory.bytes[rows[1].offset as usize + 9] ^= 4;
    let files = BTreeMap::from([(1, std::sync::Arc::new(memory.bytes) as _)]);
    let base = Base::open(Revision(5_001), rows.clone(), files).expect("in order");

    let elsewhere = store([0], 256, 6_000);
    let made = image(&mut Memory::new(2), Some(&base), &[&elsewhere.active], Revision::ZERO);
    assert_eq!(made.expect("block 1 is not read")[1], rows[1]);
    let inside = store([1_000], 256, 6_000);
    let failed = image(&mut Memory::new(2), Some(&base), &[&inside.active], Revision::ZERO);
    let Err(Error::Corrupt(corrupt)) = failed else { panic!("{failed:?}") };
    assert_eq!((corrupt.block, corrupt.why), (1, Why::Checksum));
}
