//! What a client could tell, step by step.

use bytes::Bytes;

use super::super::{Digest, HashWalk, Store, VersionRef};
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::redo::Change;

pub(super) const NONE: LeaseId = LeaseId::NONE;

pub(super) fn range(start: &str, end: &str) -> KeyRange {
    KeyRange::from_request(start.as_bytes(), end.as_bytes())
}

/// `key=value create/modified/version`, or `-key modified` for a tombstone.
pub(super) fn show(v: VersionRef<'_>) -> String {
    let (key, value) = (String::from_utf8_lossy(v.key), String::from_utf8_lossy(v.value));
    if v.is_tombstone() {
        assert!(v.value.is_empty() && v.create == Revision::ZERO && v.lease == NONE);
        return format!("-{key} {}", v.modified);
    }
    format!("{key}={value} {}/{}/{}", v.create, v.modified, v.version)
}

pub(super) fn scan(store: &Store, keys: &KeyRange, at: Option<i64>) -> String {
    let mut rows = Vec::new();
    store.scan(keys, at.map(Revision), &mut |v| {
        rows.push(show(v));
        true
    });
    let count = store.count(keys, at.map(Revision));
    assert_eq!(count, rows.len(), "the count of {keys:?} at {at:?}");
    rows.join(", ")
}

pub(super) fn history(store: &Store, keys: &KeyRange, from: i64, through: i64) -> String {
    let mut rows = Vec::new();
    store.history(keys, Revision(from), Revision(through), &mut |v| {
        rows.push(show(v));
        true
    });
    rows.join(", ")
}

pub(super) fn put(store: &mut Store, at: i64, key: &str, value: &str) -> (i64, i64) {
    let (create, version) = store.put((Revision(at), 0), key.as_bytes(), value.as_bytes(), NONE);
    (create.0, version)
}

pub(super) fn delete(store: &mut Store, at: i64, key: &str) {
    store.delete((Revision(at), 0), key.as_bytes());
}

pub(super) fn collect_all(store: &mut Store, upto: i64) {
    store.compact(Revision(upto));
    while store.collect(Revision(upto), 1) {}
}

#[test]
fn versions_count_from_the_first_put_of_a_life() {
    let mut store = Store::new();
    assert_eq!(put(&mut store, 2, "a", "1"), (2, 1));
    assert_eq!(put(&mut store, 3, "a", "1"), (2, 2));
    delete(&mut store, 4, "a");
    assert_eq!(store.newest(b"a"), None);
    assert_eq!(put(&mut store, 5, "a", ""), (5, 1));
    assert_eq!(scan(&store, &range("a", ""), None), "a= 5/5/1");
    assert_eq!(scan(&store, &range("a", ""), Some(4)), "");
    assert_eq!(scan(&store, &range("a", ""), Some(3)), "a=1 2/3/2");
    assert_eq!(store.get_at(b"a", Revision(2)).map(show).unwrap(), "a=1 2/2/1");
    assert_eq!(store.get_at(b"a", Revision(1)), None);
    assert_eq!((store.keys(), store.versions(), store.highest()), (1, 4, Revision(5)));
}

#[test]
fn a_record_is_installed_as_it_says() {
    let mut store = Store::new();
    let change = Change::Put {
        value: Bytes::from_static(b"x"),
        create: Revision(3),
        version: 7,
        lease: LeaseId(-9),
    };
    store.install((Revision(9), 4), b"k", &change);
    let version = store.newest(b"k").unwrap();
    assert_eq!((version.create, version.version), (Revision(3), 7));
    assert_eq!((version.position(), version.lease), ((Revision(9), 4), LeaseId(-9)));
    assert_eq!(put(&mut store, 10, "k", "y"), (3, 8));
    assert_eq!(store.newest(b"k").unwrap().lease, NONE);
    store.install((Revision(11), 0), b"k", &Change::Delete);
    assert_eq!(store.newest(b"k"), None);
}

#[test]
fn ranges_have_etcds_forms() {
    let mut store = Store::new();
    for (at, key) in [(2, "b"), (3, "a"), (4, "bb"), (5, "c")] {
        put(&mut store, at, key, "v");
    }
    delete(&mut store, 6, "c");
    assert_eq!(scan(&store, &range("b", ""), None), "b=v 2/2/1");
    assert_eq!(scan(&store, &range("b", "c"), None), "b=v 2/2/1, bb=v 4/4/1");
    assert_eq!(scan(&store, &range("c", "a"), None), "");
    assert_eq!(scan(&store, &range("bb", "\0"), Some(5)), "bb=v 4/4/1, c=v 5/5/1");
    assert_eq!(scan(&store, &range("\0", "\0"), Some(3)), "a=v 3/3/1, b=v 2/2/1");
    assert_eq!(store.first_key(&range("bc", "\0")), Some(&b"c"[..]), "a tombstone is a version");
    assert_eq!(store.first_key(&range("d", "\0")), None);
    let mut seen = 0;
    store.scan(&KeyRange::all(), None, &mut |_| {
        seen += 1;
        seen < 2
    });
    assert_eq!(seen, 2, "the reader says when it is enough");
}

#[test]
fn history_is_in_order_of_writing() {
    let mut store = Store::new();
    for at in 2..600 {
        put(&mut store, at, if at % 100 == 0 { "rare" } else { "busy" }, "v");
    }
    delete(&mut store, 600, "rare");
    assert_eq!(
        history(&store, &range("rare", ""), 300, 600),
        "rare=v 100/300/3, rare=v 100/400/4, rare=v 100/500/5, -rare 600"
    );
    assert_eq!(
        history(&store, &range("a", "z"), 599, 600),
        "busy=v 2/599/593, -rare 600",
        "few revisions: by revision"
    );
    let rare = history(&store, &range("q", "z"), 100, 599);
    assert_eq!(rare.matches("rare").count(), 5, "few keys: by key");
    let all = history(&store, &range("a", "z"), 1, 1_000);
    assert_eq!(all.matches('=').count(), 598);
    let revisions: Vec<i64> =
        all.split(", ").filter_map(|row| row.split('/').nth(1)?.parse().ok()).collect();
    assert!(revisions.is_sorted());
    assert_eq!(history(&store, &range("z", "a"), 1, 600), "");
    assert_eq!(history(&store, &range("a", "z"), 601, 600), "");
}

#[test]
fn an_event_shows_what_it_replaced() {
    let mut store = Store::new();
    put(&mut store, 2, "a", "1");
    put(&mut store, 3, "a", "2");
    delete(&mut store, 4, "a");
    put(&mut store, 5, "a", "3");
    let before = |store: &Store, at| store.before(b"a", (Revision(at), 0)).map(show);
    assert_eq!(before(&store, 2), None);
    assert_eq!(before(&store, 3).unwrap(), "a=1 2/2/1");
    assert_eq!(before(&store, 4).unwrap(), "a=2 2/3/2");
    assert_eq!(before(&store, 5), None, "a tombstone was replaced");
    store.compact(Revision(3));
    assert_eq!(before(&store, 3), None, "compacted, though not collected yet");
    assert_eq!(before(&store, 4).unwrap(), "a=2 2/3/2");
    collect_all(&mut store, 3);
    assert_eq!(before(&store, 3), None);
    assert_eq!(before(&store, 4).unwrap(), "a=2 2/3/2");
}

#[test]
fn what_a_revision_replaced_is_what_stood_before_it() {
    // A range delete and a put of one transaction may meet in a key.
    let mut store = Store::new();
    put(&mut store, 2, "b", "old");
    store.delete((Revision(3), 0), b"b");
    assert_eq!(store.put((Revision(3), 1), b"b", b"new", NONE), (Revision(3), 1));
    for sub in [0, 1] {
        let before = store.before(b"b", (Revision(3), sub)).map(show);
        assert_eq!(before.unwrap(), "b=old 2/2/1");
    }
    assert_eq!(scan(&store, &range("a", "z"), Some(3)), "b=new 3/3/1");
    assert_eq!(scan(&store, &range("a", "z"), Some(2)), "b=old 2/2/1");
}

#[test]
fn compaction_keeps_the_newest_version_and_a_tombstone_at_its_revision() {
    let mut store = Store::new();
    put(&mut store, 2, "a", "1");
    put(&mut store, 3, "a", "2");
    put(&mut store, 4, "b", "1");
    delete(&mut store, 5, "b");
    put(&mut store, 6, "c", "1");
    delete(&mut store, 7, "c");
    put(&mut store, 8, "a", "3");
    assert_eq!(store.compacted(), Revision::ZERO);
    assert!(!store.collect(Revision(7), 100), "nothing is garbage before a compaction");
    assert_eq!(store.versions(), 7);
    collect_all(&mut store, 7);
    assert_eq!(store.compacted(), Revision(7));
    assert_eq!(history(&store, &KeyRange::all(), 1, 8), "a=2 2/3/2, -c 7, a=3 2/8/3");
    assert_eq!(scan(&store, &KeyRange::all(), Some(7)), "a=2 2/3/2");
    put(&mut store, 9, "d", "1");
    collect_all(&mut store, 8);
    assert_eq!(history(&store, &KeyRange::all(), 1, 9), "a=3 2/8/3, d=1 9/9/1");
    assert_eq!(store.first_key(&range("b", "d")), None);
    collect_all(&mut store, 3);
    assert_eq!(store.compacted(), Revision(8), "a compaction is not taken back");
}

#[test]
fn collection_goes_in_steps_and_no_further_than_told() {
    let mut store = Store::new();
    for at in 2..1_002 {
        put(&mut store, at, "busy", "v");
    }
    store.compact(Revision(1_001));
    assert!(store.collect(Revision(501), 100));
    assert!(store.versions() >= 900, "a step is bounded");
    while store.collect(Revision(501), 100) {}
    assert_eq!(store.versions(), 501, "a reader may be pinned at 501");
    assert_eq!(scan(&store, &range("busy", ""), Some(501)), "busy=v 2/501/500");
    while store.collect(Revision(1_001), 100) {}
    assert_eq!(store.versions(), 1);
}

#[test]
fn an_epoch_that_ended_leaves_nothing() {
    let mut store = Store::new();
    put(&mut store, 2, "a", "1");
    put(&mut store, 3, "b", "1");
    let (keys, bytes) = (store.keys(), store.bytes_in_use());
    put(&mut store, 4, "a", "2");
    put(&mut store, 5, "long key that has no place in its slot", "1");
    delete(&mut store, 6, "b");
    delete(&mut store, 7, "a");
    store.drop_above(Revision(3));
    assert_eq!(scan(&store, &KeyRange::all(), None), "a=1 2/2/1, b=1 3/3/1");
    assert_eq!((store.keys(), store.versions(), store.highest()), (keys, 2, Revision(3)));
    assert_eq!(store.bytes_in_use(), bytes);
    // The numbers are given out again.
    assert_eq!(put(&mut store, 4, "a", "3"), (2, 2));
    store.drop_above(Revision(10));
    assert_eq!(store.highest(), Revision(4));
}

#[test]
fn keys_move_in_pieces_with_their_history() {
    let (mut from, mut to) = (Store::new(), Store::new());
    for at in 2..102 {
        put(&mut from, at, "busy", "some value");
    }
    for at in 102..152 {
        from.put((Revision(at), 0), b"leased", b"v", LeaseId(at - 144));
    }
    put(&mut from, 153, "stays", "v");
    delete(&mut from, 154, "busy");
    let keys = range("a", "m");
    let mut pieces = 0;
    while from.first_key(&keys).is_some() {
        let piece = from.export(&keys, 500);
        assert!(!piece.is_empty() && piece.bytes() < 1_000, "{piece:?}");
        to.import(piece);
        pieces += 1;
    }
    assert!(pieces > 5, "{pieces} pieces");
    assert_eq!(to.newest(b"leased").unwrap().lease, LeaseId(7));
    assert!(from.export(&keys, 500).is_empty());
    assert_eq!(scan(&from, &KeyRange::all(), None), "stays=v 153/153/1");
    assert_eq!(scan(&to, &KeyRange::all(), Some(50)), "busy=some value 2/50/49");
    assert_eq!(scan(&to, &KeyRange::all(), None), "leased=v 102/151/50");
    assert_eq!((from.versions(), to.versions()), (1, 151));
    assert_eq!(to.highest(), Revision(154));
    // What arrives is collected as what was here.
    let mut collected = Store::new();
    collect_all(&mut collected, 154);
    while to.first_key(&keys).is_some() {
        collected.import(to.export(&keys, 500));
    }
    assert_eq!(history(&collected, &KeyRange::all(), 1, 200), "leased=v 102/151/50, -busy 154");
    assert_eq!((to.versions(), to.bytes_in_use()), (0, 0));
}

#[test]
fn hashkv_equals_etcds_known_answers() {
    let hash = |store: &Store, at: i64, compacted: i64| {
        let (at, compacted) = (Revision(at), Revision(compacted));
        let mut digest = Digest::new();
        let mut walk = HashWalk::new(at, at, compacted);
        store.hash_records(&mut walk, usize::MAX, &mut |_, record| digest.add(record));
        assert_eq!(walk.reached(), at);
        digest.value()
    };
    let mut store = Store::new();
    assert_eq!(hash(&store, 1, 0), 1_084_519_789);
    put(&mut store, 2, "a", "1");
    assert_eq!(hash(&store, 2, 0), 2_587_454_935);
    delete(&mut store, 3, "a");
    assert_eq!(hash(&store, 3, 0), 3_520_211_144);
    assert_eq!(hash(&store, 2, 0), 2_587_454_935, "also at an old revision");

    let mut store = Store::new();
    put(&mut store, 2, "a", "0");
    store.put((Revision(3), 0), b"a", b"1", NONE);
    store.put((Revision(3), 1), b"b", b"2", NONE);
    put(&mut store, 4, "c", "1");
    put(&mut store, 5, "c", "2");
    put(&mut store, 6, "c", "3");
    store.put((Revision(7), 0), b"c", b"4", LeaseId(11));
    delete(&mut store, 8, "c");
    delete(&mut store, 9, "a");
    put(&mut store, 10, "a", "9");
    assert_eq!(hash(&store, 10, 5), 3_369_015_073, "before collection");
    store.compact(Revision(5));
    while store.collect(Revision(5), 1) {
        assert_eq!(hash(&store, 10, 5), 3_369_015_073, "while it runs");
    }
    assert_eq!(hash(&store, 10, 5), 3_369_015_073, "and after");
}

#[test]
fn hashkv_counts_what_compaction_kept_when_no_key_lives() {
    let mut store = Store::new();
    put(&mut store, 2, "a", "1");
    collect_all(&mut store, 2);
    delete(&mut store, 3, "a");
    let mut digest = Digest::new();
    let compacted = store.compacted();
    let mut walk = HashWalk::new(Revision(3), compacted, compacted);
    store.hash_records(&mut walk, usize::MAX, &mut |_, record| digest.add(record));
    assert_eq!(digest.value(), 3_520_211_144, "both records, as without a compaction");
}

#[test]
fn the_balancer_finds_keys_by_rank() {
    let mut store = Store::new();
    for at in 0..1_000 {
        put(&mut store, at + 2, &format!("/load/{at:04}"), "v");
    }
    for at in 0..500 {
        delete(&mut store, 2_000 + at, &format!("/load/{at:04}"));
    }
    let all = KeyRange::all();
    assert_eq!(store.median_key(&all).unwrap(), b"/load/0750");
    assert_eq!(store.median_key(&range("/load/0900", "/load/0902")).unwrap(), b"/load/0901");
    assert_eq!(store.median_key(&range("/load/0100", "/load/0300")), None);
    assert_eq!(store.key_at(&all, 0), Some(&b"/load/0500"[..]));
    assert_eq!(store.key_at(&all, 499), Some(&b"/load/0999"[..]));
    assert_eq!(store.key_at(&all, 500), None);
    assert_eq!(store.key_at(&range("b", "a"), 0), None);
}

#[test]
fn a_key_of_one_version_costs_little() {
    let mut store = Store::new();
    for n in 0..100_000_u64 {
        let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        store.put((Revision(n as i64 + 2), 0), &key, &[7; 256], NONE);
    }
    let per_key = store.bytes() / 100_000;
    assert!(per_key < 365, "{per_key} bytes a key of 8 and a value of 256 bytes");
    assert!(store.bytes_in_use() <= store.bytes());
}

#[test]
#[should_panic(expected = "positions of a key ascend")]
fn a_position_below_the_newest_of_its_key_is_refused() {
    let mut store = Store::new();
    put(&mut store, 5, "a", "1");
    put(&mut store, 4, "a", "2");
}
