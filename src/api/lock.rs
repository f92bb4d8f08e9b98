//! The Lock service: waits in line for its caller. It is a client of this server like any other,
//! built on transactions, ranges and watches; like etcd's it passes their errors on with the code
//! Unknown.

use bytes::Bytes;
use cored_proto::Method;
use cored_proto::etcdserverpb as pb;
use cored_proto::v3lockpb as lockpb;
use pb::request_op::Request as Op;

use super::status::Status;
use super::turn::{Leave, Line, made_at, read_at};
use super::{Api, check, decode, encode};
use crate::engine::Request;
use crate::keys::{LeaseId, Revision};

impl Api {
    pub(super) async fn lock_service(
        &self,
        method: &Method,
        request: Bytes,
    ) -> Result<Bytes, Status> {
        match method.name {
            "Lock" => {
                let lock = decode(request)?;
                self.lock(lock).await.map(|response| encode(&response))
            }
            "Unlock" => {
                let unlock = decode(request)?;
                self.unlock(unlock).await.map(|response| encode(&response))
            }
            name => return Err(Status::unimplemented(name)),
        }
        .map_err(Status::into_unknown)
    }

    async fn lock(&self, request: lockpb::LockRequest) -> Result<lockpb::LockResponse, Status> {
        let lease = self.session(LeaseId(request.lease)).await?;
        let line = Line::new(&request.name);
        let key = line.place(lease);
        // One round when nobody else is in the line: take a place, or find the one that this lease
        // has, and see who is first.
        let put = pb::PutRequest { key: key.clone(), lease: lease.0, ..Default::default() };
        let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let response = self
            .checked_txn(pb::TxnRequest {
                compare: vec![made_at(&key, 0)],
                success: vec![op(Op::RequestPut(put)), op(Op::RequestRange(line.first()))],
                failure: vec![op(Op::RequestRange(get)), op(Op::RequestRange(line.first()))],
            })
            .await?;
        let taken = response.header.map_or(0, |header| header.revision);
        let mine = match read_at(&response, 0) {
            Some(kv) if !response.succeeded => kv.create_revision,
            _ => taken,
        };
        if read_at(&response, 1).is_none_or(|first| first.create_revision == mine) {
            return Ok(lockpb::LockResponse { header: response.header, key });
        }

        let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
        let leave = Leave::unless_it_stays(&self.door, Request::DeleteRange(delete));
        self.my_turn(&line, Revision(mine)).await?;
        // The turn is worth nothing if the lease ran out meanwhile.
        let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let (revision, kv) = self.read_one(get).await?;
        leave.stay();
        match kv {
            Some(_) => Ok(lockpb::LockResponse { header: Some(self.door.header(revision.0)), key }),
            None => Err(Status::LOCK_SESSION_EXPIRED),
        }
    }

    async fn unlock(
        &self,
        request: lockpb::UnlockRequest,
    ) -> Result<lockpb::UnlockResponse, Status> {
        let delete = pb::DeleteRangeRequest { key: request.key, ..Default::default() };
        check::delete_range(&delete)?;
        let header = self.delete_range(delete).await?.header;
        Ok(lockpb::UnlockResponse { header })
    }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests;
