//! What is wrong with a request whatever the state of the store: checked before anything else, in
//! etcd's order, so that a request with two mistakes gets the same answer as there. Pure functions;
//! what depends on state is the engine's to refuse.

use cored_proto::etcdserverpb as pb;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;

use super::status::Status;
use crate::txn;

/// The most seconds a lease can have.
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;

/// etcd measures the log entry that a write becomes: the request and, around one near the limit,
/// this many bytes.
const ENVELOPE_BYTES: usize = 17;

/// Whether a write of this many encoded bytes may pass `--max-request-bytes`. Reads may be longer:
/// they enter no log.
///
/// # Errors
/// [`Status::REQUEST_TOO_LARGE`].
pub fn size(len_bytes: usize, max_request_bytes: usize) -> Result<(), Status> {
    refuse_if(len_bytes + ENVELOPE_BYTES > max_request_bytes, Status::REQUEST_TOO_LARGE)
}

/// A range.
///
/// # Errors
/// [`Status::EMPTY_KEY`], [`Status::INVALID_SORT_OPTION`].
pub fn range(request: &pb::RangeRequest) -> Result<(), Status> {
    refuse_if(request.key.is_empty(), Status::EMPTY_KEY)?;
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    refuse_if(!known, Status::INVALID_SORT_OPTION)
}

/// A range that is answered in pieces, which can only be in the order of the keys.
///
/// # Errors
/// As [`range`]; [`Status::STREAM_SORTED`], [`Status::STREAM_FILTERED`].
pub fn range_stream(request: &pb::RangeRequest) -> Result<(), Status> {
    range(request)?;
    let in_order = match request.sort_order() {
        // Without an order any other target means ascending by that target.
        SortOrder::None | SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    refuse_if(!in_order, Status::STREAM_SORTED)?;
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    refuse_if(filtered, Status::STREAM_FILTERED)
}

/// A put.
///
/// # Errors
/// [`Status::EMPTY_KEY`], [`Status::VALUE_PROVIDED`], [`Status::LEASE_PROVIDED`].
pub fn put(request: &pb::PutRequest) -> Result<(), Status> {
    refuse_if(request.key.is_empty(), Status::EMPTY_KEY)?;
    refuse_if(request.ignore_value && !request.value.is_empty(), Status::VALUE_PROVIDED)?;
    refuse_if(request.ignore_lease && request.lease != 0, Status::LEASE_PROVIDED)
}

/// A deletion.
///
/// # Errors
/// [`Status::EMPTY_KEY`].
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Status> {
    refuse_if(request.key.is_empty(), Status::EMPTY_KEY)
}

/// A transaction: how many operations, each of them, and then whether they get in each other's way.
///
/// # Errors
/// [`Status::TOO_MANY_OPS`], those of the operations, [`Status::KEY_NOT_FOUND`] for an operation
/// that is none, [`Status::DUPLICATE_KEY`].
pub fn txn(request: &pb::TxnRequest, max_txn_ops: usize) -> Result<(), Status> {
    operations(request, max_txn_ops)?;
    refuse_if(txn::has_duplicates(request), Status::DUPLICATE_KEY)
}

fn operations(request: &pb::TxnRequest, max_txn_ops: usize) -> Result<(), Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    // A nested transaction has what its parent leaves.
    let Some(left) = max_txn_ops.checked_sub(longest) else {
        return Err(Status::TOO_MANY_OPS);
    };
    for compare in &request.compare {
        refuse_if(compare.key.is_empty(), Status::EMPTY_KEY)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(nested)) => range(nested)?,
            Some(Request::RequestPut(nested)) => put(nested)?,
            Some(Request::RequestDeleteRange(nested)) => delete_range(nested)?,
            Some(Request::RequestTxn(nested)) => operations(nested, left)?,
            None => return Err(Status::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// The seconds of a new lease: what was asked for, but no less than `min_ttl_s`.
///
/// # Errors
/// [`Status::LEASE_TTL_TOO_LARGE`].
pub fn lease_ttl_s(asked_s: i64, min_ttl_s: i64) -> Result<i64, Status> {
    refuse_if(asked_s > LEASE_TTL_MAX_S, Status::LEASE_TTL_TOO_LARGE)?;
    Ok(asked_s.max(min_ttl_s))
}

fn refuse_if(wrong: bool, status: Status) -> Result<(), Status> {
    if wrong { Err(status) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
