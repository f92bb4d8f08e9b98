//! The Election service: a line like that of a lock, whose first place says something. Like the
//! lock service a client of this server, with etcd's errors of its own.

use bytes::Bytes;
use cored_proto::Method;
use cored_proto::etcdserverpb as pb;
use cored_proto::mvccpb::{KeyValue, event::EventType};
use cored_proto::v3electionpb as electionpb;
use pb::request_op::Request as Op;

use super::status::Status;
use super::stream::Responses;
use super::turn::{Leave, Line, made_at, read_at};
use super::{Api, decode, encode};
use crate::engine::Request;
use crate::keys::{LeaseId, Revision};

impl Api {
    pub(super) async fn election(&self, method: &Method, request: Bytes) -> Result<Bytes, Status> {
        match method.name {
            "Campaign" => {
                let campaign = decode(request)?;
                self.campaign(campaign).await.map(|response| encode(&response))
            }
            "Proclaim" => {
                let proclaim: electionpb::ProclaimRequest = decode(request)?;
                self.proclaim(proclaim.leader, proclaim.value)
                    .await
                    .map(|header| encode(&electionpb::ProclaimResponse { header: Some(header) }))
            }
            "Leader" => {
                let electionpb::LeaderRequest { name } = decode(request)?;
                self.leader(&name).await.map(|response| encode(&response))
            }
            "Resign" => {
                let electionpb::ResignRequest { leader } = decode(request)?;
                self.resign(leader)
                    .await
                    .map(|header| encode(&electionpb::ResignResponse { header: Some(header) }))
            }
            name => return Err(Status::unimplemented(name)),
        }
        .map_err(Status::into_unknown)
    }

    async fn campaign(
        &self,
        request: electionpb::CampaignRequest,
    ) -> Result<electionpb::CampaignResponse, Status> {
        let electionpb::CampaignRequest { name, lease, value } = request;
        let lease = self.session(LeaseId(lease)).await?;
        let line = Line::new(&name);
        let key = line.place(lease);
        let put = put(&key, &value, lease);
        let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let response = self
            .checked_txn(pb::TxnRequest {
                compare: vec![made_at(&key, 0)],
                success: vec![put],
                failure: vec![op(Op::RequestRange(get))],
            })
            .await?;
        let header = response.header.unwrap_or_default();
        let found = read_at(&response, 0).filter(|_| !response.succeeded);
        let rev = found.map_or(header.revision, |kv| kv.create_revision);
        let leader = electionpb::LeaderKey { name, key, rev, lease: lease.0 };

        // Whoever fails or goes before it is elected is a candidate no longer.
        let leave = Leave::unless_it_stays(&self.door, Request::Txn(resignation(&leader)));
        if found.is_some_and(|kv| kv.value != value) {
            self.proclaim(Some(leader.clone()), value).await?;
        }
        self.my_turn(&line, Revision(rev)).await?;
        leave.stay();
        Ok(electionpb::CampaignResponse { header: Some(header), leader: Some(leader) })
    }

    async fn proclaim(
        &self,
        leader: Option<electionpb::LeaderKey>,
        value: Bytes,
    ) -> Result<pb::ResponseHeader, Status> {
        let leader = leader.ok_or(Status::ELECTION_LEADER_MISSING)?;
        let response = self
            .checked_txn(pb::TxnRequest {
                compare: vec![made_at(&leader.key, leader.rev)],
                success: vec![put(&leader.key, &value, LeaseId(leader.lease))],
                failure: Vec::new(),
            })
            .await?;
        if !response.succeeded {
            return Err(Status::ELECTION_NOT_LEADER);
        }
        Ok(response.header.unwrap_or_default())
    }

    async fn leader(&self, name: &[u8]) -> Result<electionpb::LeaderResponse, Status> {
        let (revision, kv) = self.read_one(Line::new(name).first()).await?;
        let kv = kv.ok_or(Status::ELECTION_NO_LEADER)?;
        Ok(electionpb::LeaderResponse { header: Some(self.door.header(revision.0)), kv: Some(kv) })
    }

    async fn resign(
        &self,
        leader: Option<electionpb::LeaderKey>,
    ) -> Result<pb::ResponseHeader, Status> {
        let leader = leader.ok_or(Status::ELECTION_LEADER_MISSING)?;
        // Resigning from what one has lost already is no mistake.
        let response = self.checked_txn(resignation(&leader)).await?;
        Ok(response.header.unwrap_or_default())
    }

    /// Tells the present leader's value and each later one, in order; a leader that came and went
    /// between two looks may be missed.
    pub(super) async fn observe(
        &self,
        request: electionpb::LeaderRequest,
        responses: &Responses,
    ) -> Result<(), Status> {
        let line = Line::new(&request.name);
        loop {
            let (revision, first) = self.read_one(line.first()).await?;
            let (revision, leader) = match first {
                Some(kv) => (revision, kv),
                None => match self.first_put(&line, revision).await? {
                    Some(kv) => (Revision(kv.mod_revision), kv),
                    // Compacted before it could be read: look again.
                    None => continue,
                },
            };
            let key = leader.key.clone();
            let header = self.door.header(revision.0);
            if !tell(responses, header, leader).await {
                return Ok(());
            }
            let mut changes = self.changes(key, Bytes::new(), revision.next(), false);
            'led: while let Some((header, events)) = changes.next().await? {
                for event in events {
                    if event.r#type() == EventType::Delete {
                        break 'led;
                    }
                    let Some(kv) = event.kv else { continue };
                    if !tell(responses, header, kv).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Waits for somebody to stand in an empty line; `None` if that is not to be known.
    async fn first_put(&self, line: &Line, since: Revision) -> Result<Option<KeyValue>, Status> {
        let (key, range_end) = line.range();
        let mut changes = self.changes(key, range_end, since.next(), false);
        while let Some((_, events)) = changes.next().await? {
            let mut puts = events.into_iter().filter(|event| event.r#type() == EventType::Put);
            if let Some(kv) = puts.find_map(|event| event.kv) {
                return Ok(Some(kv));
            }
        }
        Ok(None)
    }
}

/// Returns whether anybody still listens.
async fn tell(responses: &Responses, header: pb::ResponseHeader, kv: KeyValue) -> bool {
    let (header, kv) = (Some(header), Some(kv));
    responses.push(encode(&electionpb::LeaderResponse { header, kv }));
    responses.ready().await
}

fn resignation(leader: &electionpb::LeaderKey) -> pb::TxnRequest {
    let delete = pb::DeleteRangeRequest { key: leader.key.clone(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![made_at(&leader.key, leader.rev)],
        success: vec![op(Op::RequestDeleteRange(delete))],
        failure: Vec::new(),
    }
}

fn put(key: &Bytes, value: &Bytes, lease: LeaseId) -> pb::RequestOp {
    let (key, value) = (key.clone(), value.clone());
    op(Op::RequestPut(pb::PutRequest { key, value, lease: lease.0, ..Default::default() }))
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests;
