//! The health service of gRPC. Like etcd's it knows the server as a whole, under the empty name,
//! and says that it serves: a server that does not is not reached. Whether the store behind it
//! answers is told by the pages `/health` and `/readyz`.

use std::collections::HashMap;

use bytes::Bytes;
use cored_proto::Method;
use cored_proto::grpc::health::v1 as pb;
use pb::health_check_response::ServingStatus;

use super::status::Status;
use super::stream::Responses;
use super::{decode, encode};

/// The one name that is known.
const WHOLE_SERVER: &str = "";

pub(super) fn unary(method: &Method, request: Bytes) -> Result<Bytes, Status> {
    match method.name {
        "Check" => {
            let check: pb::HealthCheckRequest = decode(request)?;
            match check.service.as_str() {
                WHOLE_SERVER => Ok(encode(&response(ServingStatus::Serving))),
                _ => Err(Status::UNKNOWN_SERVICE),
            }
        }
        "List" => {
            let pb::HealthListRequest {} = decode(request)?;
            let serving = response(ServingStatus::Serving);
            let statuses = HashMap::from([(WHOLE_SERVER.to_owned(), serving)]);
            Ok(encode(&pb::HealthListResponse { statuses }))
        }
        name => Err(Status::unimplemented(name)),
    }
}

/// Says the present status and then waits for the changes that never come, until the client goes.
pub(super) async fn watch(
    check: pb::HealthCheckRequest,
    responses: &Responses,
) -> Result<(), Status> {
    let status = match check.service.as_str() {
        WHOLE_SERVER => ServingStatus::Serving,
        _ => ServingStatus::ServiceUnknown,
    };
    responses.push(encode(&response(status)));
    responses.closed().await;
    Ok(())
}

fn response(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status as i32 }
}
