//! The Maintenance service: how the member is, and digests of what it holds. There are no alarms
//! to raise and there is nothing to defragment: memory that versions leave is used again at once.

use bytes::Bytes;
use cored_proto::Method;
use cored_proto::etcdserverpb as pb;
use pb::alarm_request::AlarmAction;

use super::status::{Code, Status};
use super::{Api, ETCD_CLUSTER_VERSION, ETCD_VERSION, decode, encode};
use crate::engine::{Answer, Reply, Request, StatusReply};

impl Api {
    pub(super) async fn maintenance(
        &self,
        method: &Method,
        request: Bytes,
    ) -> Result<Bytes, Status> {
        match method.name {
            "Status" => {
                let pb::StatusRequest {} = decode(request)?;
                Ok(encode(&self.status().await?))
            }
            "HashKV" => {
                let pb::HashKvRequest { revision } = decode(request)?;
                Ok(encode(&self.hash(Request::HashKv { revision }).await?))
            }
            "Hash" => {
                let pb::HashRequest {} = decode(request)?;
                let pb::HashKvResponse { header, hash, .. } = self.hash(Request::Hash).await?;
                Ok(encode(&pb::HashResponse { header, hash }))
            }
            "Alarm" => self.alarm(decode(request)?).await,
            "Defragment" => {
                let pb::DefragmentRequest {} = decode(request)?;
                // As in etcd, without a header.
                Ok(encode(&pb::DefragmentResponse { header: None }))
            }
            name => Err(Status::unimplemented(name)),
        }
    }

    async fn status(&self) -> Result<pb::StatusResponse, Status> {
        let (header, status) = self.ask_status().await?;
        let leader = if status.serves { header.member_id } else { 0 };
        let mut errors = Vec::new();
        if !status.serves {
            errors.push(Status::NO_LEADER.message.into_owned());
        }
        Ok(pb::StatusResponse {
            header: Some(header),
            version: ETCD_VERSION.to_owned(),
            db_size: status.db_bytes,
            leader,
            raft_index: status.raft_index,
            raft_term: status.raft_term,
            raft_applied_index: status.raft_applied_index,
            errors,
            db_size_in_use: status.db_in_use_bytes,
            is_learner: false,
            storage_version: ETCD_CLUSTER_VERSION.to_owned(),
            db_size_quota: self.settings.quota_bytes,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        })
    }

    /// What the engine says of itself, also while it does not serve.
    pub(super) async fn ask_status(&self) -> Result<(pb::ResponseHeader, StatusReply), Status> {
        let answer = self.door.ask(Request::Status).await?;
        let Answer { revision, reply: Reply::Status(status) } = answer else {
            unreachable!("a question for the status is answered with the status")
        };
        Ok((self.door.header(revision.0), status))
    }

    async fn hash(&self, request: Request) -> Result<pb::HashKvResponse, Status> {
        let answer = self.door.ask(request).await?;
        let Answer { revision, reply: Reply::Hash { hash, compact_revision, hash_revision } } =
            answer
        else {
            unreachable!("a question for a digest is answered with one")
        };
        let header = Some(self.door.header(revision.0));
        Ok(pb::HashKvResponse { header, hash, compact_revision, hash_revision })
    }

    /// No alarm is ever raised: the list is empty, and ending one that is not there is done. (An
    /// unknown action makes etcd 3.7 panic, at every restart again.)
    async fn alarm(&self, request: pb::AlarmRequest) -> Result<Bytes, Status> {
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get | AlarmAction::Deactivate) => {}
            Ok(AlarmAction::Activate) => return Err(Status::unimplemented("Alarm")),
            Err(_) => return Err(Status::fixed(Code::InvalidArgument, "unknown alarm action")),
        }
        let header = Some(self.door.header(self.current().await?.0));
        Ok(encode(&pb::AlarmResponse { header, alarms: Vec::new() }))
    }
}
