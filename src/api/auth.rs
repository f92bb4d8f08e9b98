//! The Auth service, while everybody may do everything: it says so. Users and roles cannot be made
//! yet.

use bytes::Bytes;
use cored_proto::Method;
use cored_proto::etcdserverpb as pb;

use super::status::Status;
use super::{Api, decode, encode};

impl Api {
    pub(super) async fn auth(&self, method: &Method, request: Bytes) -> Result<Bytes, Status> {
        match method.name {
            "AuthStatus" => {
                let pb::AuthStatusRequest {} = decode(request)?;
                let header = Some(self.door.header(self.current().await?.0));
                // A store whose users and roles never changed stands at 1.
                let auth_revision = 1;
                Ok(encode(&pb::AuthStatusResponse { header, enabled: false, auth_revision }))
            }
            "Authenticate" => {
                let _: pb::AuthenticateRequest = decode(request)?;
                Err(Status::AUTH_NOT_ENABLED)
            }
            name => Err(Status::unimplemented(name)),
        }
    }
}
