//! What a client could tell of layers, which is nothing, step by step.

use std::sync::Arc;

use super::super::Store;
use super::super::base::{Base, Mapped};
use super::Images;
use super::transcripts::{NONE, collect_all, delete, history, put, range, scan};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::Change;

/// Three keys: `a` is written before and after revision 5, `b` goes after it, `c` went before it.
fn frozen_at_5() -> Store {
    let mut store = Store::new();
    put(&mut store, 2, "a", "1");
    put(&mut store, 3, "b", "1");
    put(&mut store, 4, "c", "1");
    delete(&mut store, 5, "c");
    put(&mut store, 6, "a", "2");
    put(&mut store, 7, "a", "3");
    store.freeze(Revision(5));
    delete(&mut store, 8, "b");
    store
}

#[test]
fn readers_see_no_layers() {
    let mut store = frozen_at_5();
    let all = KeyRange::all();
    assert_eq!(store.frozen().map(|layer| layer.versions()), Some(4));
    assert_eq!(store.versions(), 7);
    assert_eq!(scan(&store, &all, None), "a=3 2/7/3");
    assert_eq!(scan(&store, &all, Some(7)), "a=3 2/7/3, b=1 3/3/1");
    assert_eq!(scan(&store, &all, Some(6)), "a=2 2/6/2, b=1 3/3/1");
    assert_eq!(scan(&store, &all, Some(5)), "a=1 2/2/1, b=1 3/3/1");
    assert_eq!(scan(&store, &all, Some(4)), "a=1 2/2/1, b=1 3/3/1, c=1 4/4/1");
    assert_eq!(scan(&store, &range("b", "z"), Some(3)), "b=1 3/3/1");
    assert_eq!(
        history(&store, &all, 1, 9),
        "a=1 2/2/1, b=1 3/3/1, c=1 4/4/1, -c 5, a=2 2/6/2, a=3 2/7/3, -b 8"
    );
    assert_eq!(history(&store, &range("a", ""), 2, 6), "a=1 2/2/1, a=2 2/6/2");
    assert_eq!(put(&mut store, 9, "a", "4"), (2, 4));
    assert_eq!(put(&mut store, 10, "b", "2"), (10, 1), "a new life");
    assert_eq!(put(&mut store, 11, "c", "2"), (11, 1), "and after one that ended beneath");
    assert_eq!(scan(&store, &all, None), "a=4 2/9/4, b=2 10/10/1, c=2 11/11/1");
    assert_eq!(store.median_key(&all).unwrap(), b"b");
}

#[test]
fn what_an_epoch_took_back_shows_what_lies_beneath() {
    let mut store = frozen_at_5();
    store.drop_above(Revision(5));
    assert_eq!(scan(&store, &KeyRange::all(), None), "a=1 2/2/1, b=1 3/3/1");
    assert_eq!(put(&mut store, 6, "a", "5"), (2, 2));
}

#[test]
fn a_tombstone_stays_while_it_hides_a_value() {
    let mut store = frozen_at_5();
    put(&mut store, 9, "d", "1");
    delete(&mut store, 10, "d");
    collect_all(&mut store, 11);
    assert_eq!(scan(&store, &KeyRange::all(), None), "a=3 2/7/3");
    // `a` and the tombstone of `b`; `d` hid nothing.
    assert_eq!(store.versions() - 4, 2);
    assert_eq!(put(&mut store, 12, "b", "2"), (12, 1));
    collect_all(&mut store, 12);
    assert_eq!(scan(&store, &KeyRange::all(), None), "a=3 2/7/3, b=2 12/12/1");
}

#[test]
fn what_is_hidden_for_good_is_not_in_use() {
    let mut store = Store::new();
    store.put((Revision(2), 0), b"a", &[0; 999], NONE);
    store.put((Revision(3), 0), b"b", &[0; 99], NONE);
    store.freeze(Revision(3));
    delete(&mut store, 4, "a");
    put(&mut store, 5, "b", "123");
    assert_eq!(store.bytes_in_use(), 1_000 + 100 + 1 + 4, "readers at 3 are allowed");
    collect_all(&mut store, 4);
    assert_eq!(store.bytes_in_use(), 1 + 100 + 4);
    collect_all(&mut store, 5);
    assert_eq!(store.bytes_in_use(), 1 + 4, "a tombstone that hides a value, and a value");
    assert_eq!(store.versions(), 4, "all are still there");
}

#[test]
#[should_panic(expected = "is collected")]
fn a_state_that_is_no_longer_whole_is_not_frozen() {
    let mut store = Store::new();
    put(&mut store, 2, "a", "1");
    put(&mut store, 3, "a", "2");
    collect_all(&mut store, 3);
    store.freeze(Revision(2));
}

/// `frozen_at_5` after its checkpoint.
fn based_at_5() -> Store {
    let mut store = frozen_at_5();
    let frozen = store.frozen().expect("frozen").clone();
    let base = Images::default().build(Revision(5), &[&*frozen], Revision::ZERO);
    assert!(Arc::ptr_eq(&store.swap(base).layer, &frozen));
    assert!(store.frozen().is_none());
    store
}

#[test]
fn a_checkpoint_changes_no_answer() {
    let (before, mut after) = (frozen_at_5(), based_at_5());
    assert_eq!(after.versions(), 3, "the rest left memory");
    let all = KeyRange::all();
    for at in 2..9 {
        assert_eq!(scan(&after, &all, Some(at)), scan(&before, &all, Some(at)));
        assert_eq!(history(&after, &all, at, 9), history(&before, &all, at, 9));
    }
    assert_eq!(put(&mut after, 9, "b", "2"), (9, 1));
    assert_eq!(put(&mut after, 10, "c", "2"), (10, 1));
    collect_all(&mut after, 8);
    assert_eq!(scan(&after, &all, None), "a=3 2/7/3, b=2 9/9/1, c=2 10/10/1");
    assert_eq!(scan(&after, &all, Some(8)), "a=3 2/7/3");
}

#[test]
fn replay_reads_no_base() {
    let store = based_at_5();
    let mut unread = Store::new();
    let base = store.base().expect("based");
    let rotten: Mapped = Arc::new(vec![0_u8; base.blocks()[0].len as usize]);
    let files = [(base.blocks()[0].file, rotten)].into();
    let base = Base::open(base.at(), base.blocks().to_vec(), files).expect("rows are fine");
    unread.set_base(Arc::new(base));
    for (at, version) in [(6, 2), (7, 3)] {
        let (value, create, lease) = (bytes::Bytes::new(), Revision(2), LeaseId::NONE);
        let change = Change::Put { value, create, version, lease };
        unread.install((Revision(at), 0), b"a", &change);
    }
    assert_eq!(unread.touch(&KeyRange::single(b"a")), Ok(()), "its newest version is in memory");
    assert_eq!(unread.fault(), None);
}

#[test]
fn a_corrupt_block_is_a_fault_and_no_value() {
    let store = based_at_5();
    let base = store.base().expect("based");
    let row = base.blocks()[0].clone();
    let mut rotten = Store::new();
    // Each byte in its turn would be the base's own test; here it is about what the store says.
    let bytes: Mapped = Arc::new(vec![7_u8; row.len as usize]);
    let files = [(row.file, bytes)].into();
    rotten.set_base(Arc::new(Base::open(base.at(), vec![row], files).expect("rows are fine")));
    assert_eq!(rotten.fault(), None, "nobody looked");
    assert!(rotten.touch(&range("a", "b")).is_err());
    assert!(rotten.fault().is_some(), "and it stays");
    assert_eq!(rotten.newest(b"a"), None);
    rotten.scan(&KeyRange::all(), None, &mut |version| panic!("{version:?}"));
    assert_eq!(rotten.count(&KeyRange::all(), None), 2, "the manifest says so, and it is true");
    assert_eq!(history(&rotten, &KeyRange::all(), 1, 9), "");
    assert_eq!(put(&mut rotten, 6, "a", "1"), (6, 1), "which must not leave the node");
}

#[test]
fn of_the_base_a_store_shows_what_it_owns() {
    let mut store = based_at_5();
    store.own(vec![range("b", "c"), range("c", "d")]);
    store.drop_above(Revision(5));
    assert_eq!(scan(&store, &KeyRange::all(), Some(4)), "b=1 3/3/1, c=1 4/4/1");
    assert_eq!(scan(&store, &KeyRange::all(), None), "b=1 3/3/1");
    assert_eq!(store.newest(b"a"), None);
    assert_eq!(history(&store, &KeyRange::all(), 1, 5), "b=1 3/3/1, c=1 4/4/1, -c 5");
    store.own(Vec::new());
    assert_eq!(scan(&store, &KeyRange::all(), None), "");
    assert_eq!(store.bytes_in_use(), 0);
}

#[test]
fn what_a_checkpoint_replaces_is_handed_over() {
    let mut store = based_at_5();
    let before = Arc::downgrade(store.base().expect("based"));
    store.freeze(Revision(5));
    let frozen = store.frozen().expect("frozen").clone();
    let base = Images::default().build(Revision(5), &[&*frozen], Revision::ZERO);
    let replaced = store.swap(base);
    assert!(Arc::ptr_eq(&replaced.layer, &frozen));
    assert_eq!(before.strong_count(), 1, "whoever drops it is the last");
    drop(replaced);
    assert_eq!(before.strong_count(), 0);
}

#[test]
fn garbage_of_the_base_is_not_in_use_though_it_waits_for_the_next_checkpoint() {
    let mut store = Store::new();
    for at in 2..12 {
        store.put((Revision(at), 0), b"a", &[0; 99], NONE);
        store.put((Revision(at), 1), b"b", &[0; 99], NONE);
    }
    store.freeze(Revision(11));
    let frozen = store.frozen().expect("frozen").clone();
    store.swap(Images::default().build(Revision(11), &[&*frozen], Revision::ZERO));
    assert_eq!(store.bytes_in_use(), 2_000);
    collect_all(&mut store, 11);
    assert_eq!(store.bytes_in_use(), 200);
    delete(&mut store, 12, "a");
    assert_eq!(store.bytes_in_use(), 201);
    collect_all(&mut store, 12);
    assert_eq!(store.bytes_in_use(), 101);
}
