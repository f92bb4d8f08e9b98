use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;

use super::{Context, Outgoing, Shard};
use crate::keys::{KeyRange, LaneId, LeaseId, Revision};
use crate::lane::redo::SeenChange;
use crate::lease::Table;
use crate::mvcc::base::{Base, Mapped};
use crate::mvcc::build::{Memory, image};

/// Runs a transaction at revision 2.
fn txn(shard: &mut Shard, ops: [Op; 2]) {
    let mut leases = Table::default();
    leases.grant(LeaseId(1), 60);
    let success = ops.map(|op| pb::RequestOp { request: Some(op) }).to_vec();
    let txn = pb::TxnRequest { success, ..Default::default() };
    let context = Context { leases: &leases, compacted: Revision::ZERO, current: Revision::FIRST };
    let (mut batch, mut outgoing) = (Vec::new(), Outgoing::default());
    let outcome = shard.txn(&txn, context, &mut || Revision(2), &mut batch, &mut outgoing);
    assert_eq!(outcome.expect("taken as etcd takes it").revision, Some(Revision(2)));
}

fn put_leased() -> Op {
    Op::RequestPut(pb::PutRequest { key: "x".into(), lease: 1, ..Default::default() })
}

/// `\0` as the end of a range means "all from here", which the check for keys written twice does not
/// see, as in etcd.
fn delete_from_x() -> Op {
    let (key, range_end) = ("x".into(), Bytes::from_static(b"\0"));
    Op::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, ..Default::default() })
}

#[test]
fn a_key_that_its_own_transaction_deletes_hangs_on_no_lease() {
    let mut shard = Shard::new(LaneId(0));
    txn(&mut shard, [put_leased(), delete_from_x()]);
    assert_eq!(shard.store().newest(b"x").map(|version| version.modified), None);
    assert!(shard.keys_of(LeaseId(1)).is_empty(), "the end of the lease would delete the next x");
}

#[test]
fn a_key_that_its_own_transaction_deletes_and_binds_again_goes_with_its_lease() {
    let mut shard = Shard::new(LaneId(0));
    put(&mut shard, 1, "x", 1, 1);
    txn(&mut shard, [delete_from_x(), put_leased()]);
    assert_eq!(shard.store().newest(b"x").map(|version| version.lease), Some(LeaseId(1)));
    assert_eq!(shard.keys_of(LeaseId(1)), ["x"]);
}

fn put(shard: &mut Shard, at: i64, key: &str, version: i64, lease: i64) {
    let (create, lease) = (Revision(at + 1 - version), LeaseId(lease));
    let change = SeenChange::Put { value: b"v", create, version, lease };
    shard.replay((Revision(at), 0), key.as_bytes(), change);
}

fn to_letter(end: &str) -> KeyRange {
    KeyRange { start: Vec::new(), end: Some(end.as_bytes().to_vec()) }
}

fn from_letter(start: &str) -> KeyRange {
    KeyRange { start: start.as_bytes().to_vec(), end: None }
}

/// `a` to `f`, one lease on every second; all in the base at revision 7.
fn checkpoint() -> Arc<Base> {
    let mut shard = Shard::new(LaneId(0));
    for (at, key) in (2..).zip(["a", "b", "c", "d", "e", "f"]) {
        put(&mut shard, at, key, 1, at % 2 * 9);
    }
    shard.freeze(Revision(7));
    let frozen = shard.store().frozen().expect("just frozen").clone();
    let mut file = Memory::new(1);
    let blocks = image(&mut file, None, &[&*frozen], Revision::ZERO).expect("one block");
    let files: BTreeMap<u64, Mapped> = [(1, Arc::new(file.bytes) as Mapped)].into();
    let base = Arc::new(Base::open(Revision(7), blocks, files).expect("what was just built"));
    shard.swap(base.clone());
    assert_eq!(shard.keys_of(LeaseId(9)), ["b", "d", "f"], "a checkpoint changes no binding");
    base
}

#[test]
fn a_lease_holds_keys_that_only_the_base_has() {
    let base = checkpoint();
    let mut low = Shard::new(LaneId(0));
    let mut high = Shard::new(LaneId(1));
    low.set_base(base.clone(), vec![to_letter("c")]).expect("whole");
    high.set_base(base, vec![from_letter("c")]).expect("whole");
    assert_eq!(low.keys_of(LeaseId(9)), ["b"], "each shard has its own");
    assert_eq!(high.keys_of(LeaseId(9)), ["d", "f"]);

    // Another lease, none, and a lease for the first time.
    put(&mut high, 8, "d", 2, 5);
    put(&mut high, 9, "f", 2, 0);
    put(&mut high, 10, "e", 2, 9);
    assert_eq!(high.keys_of(LeaseId(9)), ["e"]);
    assert_eq!(high.keys_of(LeaseId(5)), ["d"]);
    assert_eq!(high.keys_of_at(LeaseId(9), Revision(10)), ["e"]);
    assert_eq!(high.keys_of_at(LeaseId(9), Revision(8)), ["f"]);
    assert_eq!(high.keys_of_at(LeaseId(9), Revision(7)), ["d", "f"]);

    high.replay((Revision(11), 0), b"e", SeenChange::Delete);
    assert!(high.keys_of(LeaseId(9)).is_empty());
}

#[test]
fn a_binding_moves_also_when_its_key_needs_not() {
    let base = checkpoint();
    let (mut from, mut to) = (Shard::new(LaneId(0)), Shard::new(LaneId(1)));
    from.set_base(base.clone(), vec![KeyRange::all()]).expect("whole");
    to.set_base(base, Vec::new()).expect("whole");
    put(&mut from, 8, "e", 2, 9);
    let (moving, last) = from.export(&from_letter("d"), 1 << 20);
    assert!(last);
    assert_eq!(moving.leases.len(), 3, "d, f and what is in memory");
    from.own(vec![to_letter("d")]);
    to.own(vec![from_letter("d")]);
    to.import(moving);
    assert_eq!(from.keys_of(LeaseId(9)), ["b"]);
    assert_eq!(to.keys_of(LeaseId(9)), ["d", "e", "f"]);
    let keys = |shard: &Shard| shard.store().count(&KeyRange::all(), None);
    assert_eq!((keys(&from), keys(&to)), (3, 3));
    assert_eq!(to.store().newest(b"e").map(|v| v.version), Some(2));
    assert_eq!(from.store().newest(b"e"), None);
}
