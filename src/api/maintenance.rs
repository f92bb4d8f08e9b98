//! The Maintenance service: how the member is, which alarms are raised, and digests of what it
//! holds. A checkpoint is all there is to a defragmentation, and nobody is blocked by it.

use std::borrow::Cow;

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
            "Alarm" => Ok(encode(&self.alarm(decode(request)?).await?)),
            "Defragment" => {
                let pb::DefragmentRequest {} = decode(request)?;
                // What nobody can read any more stays behind in the old checkpoint.
                self.done(Request::Checkpoint).await?;
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
        errors.extend(status.alarms.iter().map(described));
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

    /// What everything that lets the store grow is refused with, if an alarm is raised.
    pub(super) async fn alarmed(&self) -> Result<Option<Status>, Status> {
        let (_, StatusReply { alarms, .. }) = self.ask_status().await?;
        let refusals =
            [(pb::AlarmType::Corrupt, Status::CORRUPT), (pb::AlarmType::Nospace, Status::NO_SPACE)];
        let mut raised = refusals.into_iter().filter(|(kind, _)| is_raised(&alarms, *kind));
        Ok(raised.next().map(|(_, status)| status))
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

    /// Tells the alarms, raises one or ends one. (An unknown action makes etcd 3.7 panic, at every
    /// restart again.)
    async fn alarm(&self, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Status> {
        if AlarmAction::try_from(request.action).is_err() {
            return Err(Status::fixed(Code::InvalidArgument, "unknown alarm action"));
        }
        let answer = self.door.ask(Request::Alarm(request)).await?;
        let Answer { revision, reply: Reply::Alarms(alarms) } = answer else {
            unreachable!("a request about alarms is answered with alarms")
        };
        Ok(pb::AlarmResponse { header: Some(self.door.header(revision.0)), alarms })
    }
}

/// Whether an alarm of this kind is among them.
pub(super) fn is_raised(alarms: &[pb::AlarmMember], kind: pb::AlarmType) -> bool {
    alarms.iter().any(|alarm| alarm.alarm == kind as i32)
}

/// An alarm as Go prints it, in which a member 0 and a kind 0 do not show.
fn described(alarm: &pb::AlarmMember) -> String {
    let member = (alarm.member_id != 0).then(|| format!("memberID:{}", alarm.member_id));
    let kind = (alarm.alarm != 0).then(|| format!("alarm:{}", alarm_name(alarm.alarm)));
    member.into_iter().chain(kind).collect::<Vec<_>>().join(" ")
}

/// The name of a kind of alarm; its number if etcd has no name for it.
pub(super) fn alarm_name(alarm: i32) -> Cow<'static, str> {
    match pb::AlarmType::try_from(alarm) {
        Ok(known) => known.as_str_name().into(),
        Err(_) => alarm.to_string().into(),
    }
}
