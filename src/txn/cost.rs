//! What a request costs against the quota, by etcd's estimate: not what it takes here, but what
//! the same request is charged there. Whether it may still run is not decided here.

use cored_proto::etcdserverpb as pb;
use pb::request_op::Request;

/// Bytes that a key is charged beside itself and its value.
const KEY_BYTES: u64 = 256;

/// Bytes that a lease is charged.
pub const LEASE_BYTES: u64 = 64;

/// Bytes that a put is charged.
#[must_use]
pub fn put(put: &pb::PutRequest) -> u64 {
    KEY_BYTES + put.key.len() as u64 + put.value.len() as u64
}

/// Bytes that a transaction is charged: for the branch whose puts, nested ones too, cost more.
/// Nothing when it can not put.
#[must_use]
pub fn txn(txn: &pb::TxnRequest) -> u64 {
    branch(&txn.success).max(branch(&txn.failure))
}

fn branch(ops: &[pb::RequestOp]) -> u64 {
    let cost = |op: &pb::RequestOp| match &op.request {
        Some(Request::RequestPut(nested)) => put(nested),
        Some(Request::RequestTxn(nested)) => txn(nested),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
    };
    ops.iter().map(cost).sum()
}

/// Whether a transaction can only read, and so enters no log. A nested one counts as a write, in
/// etcd's reading.
#[must_use]
pub fn only_reads(txn: &pb::TxnRequest) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    fn put_op(key: &str, value: &str) -> pb::RequestOp {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        op(Request::RequestPut(pb::PutRequest { key, value, ..Default::default() }))
    }

    #[test]
    fn a_transaction_costs_its_dearer_branch() {
        let nested = pb::TxnRequest { success: vec![put_op("ab", "cd")], ..Default::default() };
        let txn_of = |success, failure| pb::TxnRequest { success, failure, ..Default::default() };
        let delete = op(Request::RequestDeleteRange(pb::DeleteRangeRequest::default()));
        let range = op(Request::RequestRange(pb::RangeRequest::default()));
        assert_eq!(txn(&txn_of(vec![delete, range], Vec::new())), 0);
        let dear = vec![put_op("a", "1"), op(Request::RequestTxn(nested))];
        assert_eq!(txn(&txn_of(vec![put_op("a", "1")], dear)), 258 + 260);
    }

    #[test]
    fn an_empty_transaction_only_reads_and_a_nested_one_does_not() {
        assert!(only_reads(&pb::TxnRequest::default()));
        let nested = op(Request::RequestTxn(pb::TxnRequest::default()));
        assert!(!only_reads(&pb::TxnRequest { failure: vec![nested], ..Default::default() }));
    }
}
