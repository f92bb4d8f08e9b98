//! What a client could tell of layers, which is nothing, step by step.

use super::super::Store;
use super::transcripts::{NONE, collect_all, delete, history, put, range, scan};
use crate::keys::{KeyRange, Revision};

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
