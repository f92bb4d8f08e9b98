//! Walks over an image of several blocks, beneath a layer that has some of its keys.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::super::Store;
use super::super::base::{Base, BlockRef, Image};
use super::transcripts::{put, scan};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::mvcc::build::{Builder, Memory, Sizes, feed};

const AT: i64 = 9;

/// A file that remembers what was announced.
struct Watched {
    bytes: Vec<u8>,
    announced: Mutex<Vec<Range<usize>>>,
}

impl Image for Watched {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn will_read(&self, part: Range<usize>) {
        self.announced.lock().unwrap().push(part);
    }
}

/// An image of these keys at [`AT`], each put once, in blocks of about so many bytes.
fn image(keys: &[(&str, &str)], block: usize) -> (Vec<BlockRef>, Vec<u8>) {
    let mut store = Store::new();
    for (sub, (key, value)) in (0..).zip(keys) {
        store.put((Revision(AT), sub), key.as_bytes(), value.as_bytes(), LeaseId::NONE);
    }
    store.freeze(Revision(AT));
    let mut memory = Memory::new(1);
    let builder = Builder::with_sizes(&mut memory, Revision::ZERO, Sizes { block, part: 1 << 20 });
    let layer = store.frozen().expect("just made");
    let rows = feed(builder, None, &[&**layer], Revision::ZERO).expect("memory keeps it");
    (rows, memory.bytes)
}

/// A store over an image.
fn over(rows: Vec<BlockRef>, bytes: Vec<u8>) -> (Store, Arc<Watched>) {
    let file = Arc::new(Watched { bytes, announced: Mutex::default() });
    let files = BTreeMap::from([(1, Arc::clone(&file) as Arc<dyn Image>)]);
    let mut store = Store::new();
    store.set_base(Arc::new(Base::open(Revision(AT), rows, files).expect("in order")));
    (store, file)
}

#[test]
fn a_damaged_block_hides_its_own_keys_and_no_others() {
    // The second block's keys share five bytes, and its first has the same four behind those as the first
    // block's.
    let (long, short) = ("v".repeat(2000), "base");
    let keys = [
        ("k/0001/long-a", &*long),
        ("k/0001/long-b", short),
        ("k/0002/long-a", short),
        ("k/0009/long-a", short),
    ];
    let (rows, mut bytes) = image(&keys, 1000);
    let counts: Vec<u32> = rows.iter().map(|row| row.keys).collect();
    assert_eq!(counts, [1, 3]);
    bytes[rows[0].offset as usize] ^= 1;

    let (mut store, _) = over(rows, bytes);
    // The log says that the key had a value, so nobody looks at the block before the walk.
    let (create, lease) = (Revision(AT), LeaseId::NONE);
    store.install_put((Revision(AT + 1), 0), b"k/0001/long-a", b"new", create, 2, lease);
    assert_eq!(store.fault(), None);
    assert_eq!(
        scan(&store, &KeyRange::all(), None),
        "k/0001/long-a=new 9/10/2, k/0001/long-b=base 9/9/1, k/0002/long-a=base 9/9/1, k/0009/long-a=base 9/9/1"
    );
    assert!(store.fault().is_some());
}

#[test]
fn blocks_that_will_be_read_are_announced_and_others_are_not() {
    let keys: Vec<String> = (0..100).map(|number| format!("key/{number:04}")).collect();
    let values: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "base")).collect();
    let (rows, bytes) = image(&values, 300);
    let behind_first: Vec<Range<usize>> = rows[1..].iter().map(BlockRef::part).collect();
    assert!(behind_first.len() > 5);
    let (mut store, file) = over(rows, bytes);
    let all = KeyRange::all();
    store.touch(&all).expect("whole");
    let walk = |store: &Store, at| {
        file.announced.lock().unwrap().clear();
        let shown = scan(store, &all, at);
        (shown.split(", ").count(), file.announced.lock().unwrap().clone())
    };
    assert_eq!(walk(&store, None), (100, behind_first.clone()));
    for (revision, key) in (AT + 1..).zip(&keys) {
        put(&mut store, revision, key, "new");
    }
    assert_eq!(walk(&store, None), (100, Vec::new()), "all of it lies above");
    assert_eq!(walk(&store, Some(AT)), (100, behind_first), "the past lies in the image");
}
