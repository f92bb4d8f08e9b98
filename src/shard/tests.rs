use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;

use super::{Context, Outgoing, Shard};
use crate::keys::{LaneId, LeaseId, Revision};
use crate::lease::Table;

/// The first key that is ever bound, in a transaction that takes it away again: `\0` as the end of
/// a range means "all from here", which the check for keys written twice does not see, as in etcd.
#[test]
fn a_key_that_its_own_transaction_deletes_hangs_on_no_lease() {
    let mut shard = Shard::new(LaneId(0));
    let mut leases = Table::default();
    leases.grant(LeaseId(1), 60);
    let x = Bytes::from_static(b"x");
    let put = pb::PutRequest { key: x.clone(), lease: 1, ..Default::default() };
    let range_end = Bytes::from_static(b"\0");
    let delete = pb::DeleteRangeRequest { key: x, range_end, ..Default::default() };
    let ops = [Op::RequestPut(put), Op::RequestDeleteRange(delete)];
    let success = ops.map(|op| pb::RequestOp { request: Some(op) }).to_vec();
    let txn = pb::TxnRequest { success, ..Default::default() };

    let context = Context { leases: &leases, compacted: Revision::ZERO, current: Revision::FIRST };
    let (mut batch, mut outgoing) = (Vec::new(), Outgoing::default());
    let outcome = shard.txn(&txn, context, &mut || Revision(2), &mut batch, &mut outgoing);
    assert_eq!(outcome.expect("taken as etcd takes it").revision, Some(Revision(2)));
    assert_eq!(shard.store().newest(b"x").map(|version| version.modified), None);
    assert!(shard.keys_of(LeaseId(1)).is_empty(), "the end of the lease would delete the next x");
}
