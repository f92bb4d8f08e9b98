//! The Cluster service: who the members are. A member alone is the whole list; the list cannot be
//! changed yet.

use bytes::Bytes;
use cored_proto::Method;
use cored_proto::etcdserverpb as pb;

use super::status::Status;
use super::{Api, Caller, decode, encode};

impl Api {
    pub(super) async fn cluster(
        &self,
        method: &Method,
        caller: &Caller,
        request: Bytes,
    ) -> Result<Bytes, Status> {
        if method.name != "MemberList" {
            return Err(Status::unimplemented(method.name));
        }
        let list: pb::MemberListRequest = decode(request)?;
        if list.linearizable || caller.requires_leader {
            self.current().await?;
        }
        let myself = pb::Member {
            id: self.door.identity().member_id,
            name: self.settings.name.clone(),
            peer_ur_ls: self.settings.peer_urls.clone(),
            client_ur_ls: self.settings.client_urls.clone(),
            is_learner: false,
        };
        // The list is no part of the key space, so the header has no revision.
        let header = Some(self.door.header(0));
        Ok(encode(&pb::MemberListResponse { header, members: vec![myself] }))
    }
}
