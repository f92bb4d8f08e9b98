pub(super) mod double;

use std::collections::HashMap;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use cored_proto::grpc::health::v1 as healthpb;
use prost::Message;

use super::status::{Code, Status};
use super::{Api, Caller};
use crate::engine::{Error, Request};
use crate::txn::Refusal;
use double::{IDENTITY, Stream, TERM, World, settings};

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: IDENTITY.cluster_id,
        member_id: IDENTITY.member_id,
        revision,
        raft_term: TERM,
    })
}

fn put(world: &mut World, key: &str, lease: i64) {
    let put = pb::PutRequest { key: key.to_owned().into(), lease, ..Default::default() };
    let _: pb::PutResponse = world.call("etcdserverpb.KV/Put", &put).expect("puts");
}

/// Every status that the engine can cause, as clients must see it.
#[test]
fn the_engines_errors_have_etcds_codes_and_texts() {
    let cases = [
        (Error::Refused(Refusal::KeyNotFound), Code::InvalidArgument, "etcdserver: key not found"),
        (
            Error::Refused(Refusal::LeaseNotFound),
            Code::NotFound,
            "etcdserver: requested lease not found",
        ),
        (
            Error::Refused(Refusal::Compacted),
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (
            Error::Refused(Refusal::FutureRevision),
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (Error::LeaseExists, Code::FailedPrecondition, "etcdserver: lease already exists"),
        (Error::TooManyRequests, Code::Unknown, "etcdserver: too many requests"),
        (Error::NoLeader, Code::Unavailable, "etcdserver: no leader"),
        (Error::Stopped, Code::Unavailable, "etcdserver: server stopped"),
        (Error::Timeout, Code::Unavailable, "etcdserver: request timed out"),
    ];
    for (error, code, text) in cases {
        let mut world = World::new();
        world.model.refuses = Some(error);
        let put = pb::PutRequest { key: "a".into(), ..Default::default() };
        let refused = world.call::<pb::PutResponse>("etcdserverpb.KV/Put", &put);
        assert_eq!(refused, Err(Status::fixed(code, text)));
    }
}

/// The texts of the checks, which their own tests know by name only.
#[test]
fn the_checks_have_etcds_codes_and_texts() {
    let invalid = [
        (Status::EMPTY_KEY, "etcdserver: key is not provided"),
        (Status::KEY_NOT_FOUND, "etcdserver: key not found"),
        (Status::VALUE_PROVIDED, "etcdserver: value is provided"),
        (Status::LEASE_PROVIDED, "etcdserver: lease is provided"),
        (Status::TOO_MANY_OPS, "etcdserver: too many operations in txn request"),
        (Status::DUPLICATE_KEY, "etcdserver: duplicate key given in txn request"),
        (Status::INVALID_SORT_OPTION, "etcdserver: invalid sort option"),
        (Status::INVALID_CLIENT_API_VERSION, "etcdserver: invalid client api version"),
        (Status::REQUEST_TOO_LARGE, "etcdserver: request is too large"),
    ];
    for (status, text) in invalid {
        assert_eq!(status, Status::fixed(Code::InvalidArgument, text));
    }
    let too_large = Status::fixed(Code::OutOfRange, "etcdserver: too large lease TTL");
    assert_eq!(Status::LEASE_TTL_TOO_LARGE, too_large);
    let text = "RangeStream does not support custom sort orders";
    assert_eq!(Status::STREAM_SORTED, Status::fixed(Code::Unimplemented, text));
    let text = "RangeStream does not support revision filters";
    assert_eq!(Status::STREAM_FILTERED, Status::fixed(Code::Unimplemented, text));
}

#[test]
fn what_is_not_served_yet_says_so() {
    let mut world = World::new();
    for path in [
        "etcdserverpb.Cluster/MemberAdd",
        "etcdserverpb.Cluster/MemberRemove",
        "etcdserverpb.Cluster/MemberUpdate",
        "etcdserverpb.Cluster/MemberPromote",
        "etcdserverpb.Maintenance/MoveLeader",
        "etcdserverpb.Maintenance/Downgrade",
        "etcdserverpb.Auth/AuthEnable",
        "etcdserverpb.Auth/UserAdd",
        "etcdserverpb.Auth/RoleGrantPermission",
    ] {
        let refused = world.call_bytes(path, Bytes::new()).expect_err(path);
        let (_, name) = path.split_once('/').expect("a path");
        assert_eq!(refused.code, Code::Unimplemented);
        assert_eq!(refused.message, format!("method {name} not implemented"));
    }
    let mut stream = world.open("etcdserverpb.Maintenance/Snapshot", Caller::default());
    world.send(&stream, &pb::SnapshotRequest {});
    assert_eq!(world.receive_or_end::<pb::SnapshotResponse>(&mut stream), None);
    assert_eq!(stream.end.map(|end| end.code), Some(Code::Unimplemented));
}

#[test]
fn every_method_answers_garbage_with_an_error() {
    for method in cored_proto::METHODS {
        let path = format!("{}/{}", method.service, method.name);
        if method.kind == cored_proto::Kind::Unary {
            let refused = World::new().call_bytes(&path, Bytes::from_static(b"\xff"));
            let code = refused.expect_err(&path).code;
            assert!(matches!(code, Code::Internal | Code::Unknown | Code::Unimplemented), "{path}");
        } else {
            let mut world = World::new();
            let mut stream = world.open(&path, Caller::default());
            world.send_bytes(&stream, Bytes::from_static(b"\xff"));
            assert_eq!(world.receive_or_end::<pb::ResponseHeader>(&mut stream), None, "{path}");
            assert!(stream.end.is_some(), "{path}");
        }
    }
}

#[test]
fn the_one_member_is_listed() {
    let mut world = World::new();
    let path = "etcdserverpb.Cluster/MemberList";
    let list = |world: &mut World, linearizable| {
        world.call::<pb::MemberListResponse>(path, &pb::MemberListRequest { linearizable })
    };
    let listed = list(&mut world, false).expect("lists");
    assert_eq!(listed.header, header(0));
    let member = &listed.members[0];
    assert_eq!((listed.members.len(), member.id), (1, IDENTITY.member_id));
    assert_eq!(member.name, settings().name);
    assert_eq!(member.peer_ur_ls, settings().peer_urls);
    assert_eq!(member.client_ur_ls, settings().client_urls);
    // Only the linearizable list needs a leader.
    world.model.refuses = Some(Error::NoLeader);
    assert!(list(&mut world, false).is_ok());
    assert_eq!(list(&mut world, true), Err(Status::NO_LEADER));
}

#[test]
fn the_status_tells_version_sizes_and_leader() {
    let mut world = World::new();
    let path = "etcdserverpb.Maintenance/Status";
    let status: pb::StatusResponse = world.call(path, &pb::StatusRequest {}).expect("tells");
    assert_eq!(status.header, header(1));
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.7.3", "3.7.0"));
    assert_eq!((status.db_size, status.db_size_in_use), (4096, 1024));
    assert_eq!((status.raft_index, status.raft_applied_index, status.raft_term), (12, 11, TERM));
    assert_eq!((status.leader, status.db_size_quota), (IDENTITY.member_id, 2 << 30));
    assert_eq!(status.errors, Vec::<String>::new());
    assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));

    world.model.serves = false;
    let status: pb::StatusResponse = world.call(path, &pb::StatusRequest {}).expect("tells");
    assert_eq!((status.leader, status.errors), (0, vec!["etcdserver: no leader".to_owned()]));
}

#[test]
fn digests_alarms_and_defragmentation() {
    let mut world = World::new();
    put(&mut world, "a", 0);
    let path = "etcdserverpb.Maintenance/HashKV";
    let hash: pb::HashKvResponse =
        world.call(path, &pb::HashKvRequest { revision: 0 }).expect("digests");
    let expected =
        pb::HashKvResponse { header: header(2), hash: 7, compact_revision: -1, hash_revision: 2 };
    assert_eq!(hash, expected);
    let future = world.call::<pb::HashKvResponse>(path, &pb::HashKvRequest { revision: 9 });
    assert_eq!(future, Err(Status::FUTURE_REVISION));
    let path = "etcdserverpb.Maintenance/Hash";
    let hash: pb::HashResponse = world.call(path, &pb::HashRequest {}).expect("digests");
    assert_eq!(hash, pb::HashResponse { header: header(2), hash: 8 });

    let alarm = |world: &mut World, action| {
        let request = pb::AlarmRequest { action, ..Default::default() };
        world.call::<pb::AlarmResponse>("etcdserverpb.Maintenance/Alarm", &request)
    };
    let none = Ok(pb::AlarmResponse { header: header(2), alarms: Vec::new() });
    assert_eq!(alarm(&mut world, 0), none);
    world.model.alarms.set(1, 9, true);
    world.model.alarms.set(7, 0, true);
    let [full, odd] =
        [(9, 1), (0, 7)].map(|(member_id, alarm)| pb::AlarmMember { member_id, alarm });
    let both = Ok(pb::AlarmResponse { header: header(2), alarms: vec![full, odd] });
    assert_eq!(alarm(&mut world, 0), both);
    let path = "etcdserverpb.Maintenance/Status";
    let status = world.call::<pb::StatusResponse>(path, &pb::StatusRequest {}).expect("a status");
    assert_eq!(status.errors, ["memberID:9 alarm:NOSPACE", "alarm:7"]);
    let code = |answer: Result<_, Status>| answer.map_err(|status| status.code);
    // An unknown action is what makes etcd 3.7.3 panic at once and at every restart.
    assert_eq!(code(alarm(&mut world, 5)), Err(Code::InvalidArgument));

    let path = "etcdserverpb.Maintenance/Defragment";
    let done = world.call::<pb::DefragmentResponse>(path, &pb::DefragmentRequest {});
    assert_eq!(done, Ok(pb::DefragmentResponse { header: None }));
    assert_eq!(world.model.asked.last(), Some(&Request::Checkpoint));
}

#[test]
fn authentication_is_off_and_says_so() {
    let mut world = World::new();
    let path = "etcdserverpb.Auth/AuthStatus";
    let status = world.call::<pb::AuthStatusResponse>(path, &pb::AuthStatusRequest {});
    let off = pb::AuthStatusResponse { header: header(1), enabled: false, auth_revision: 1 };
    assert_eq!(status, Ok(off));
    let path = "etcdserverpb.Auth/Authenticate";
    let refused = world.call::<pb::AuthenticateResponse>(path, &pb::AuthenticateRequest::default());
    let text = "etcdserver: authentication is not enabled";
    assert_eq!(refused, Err(Status::fixed(Code::FailedPrecondition, text)));
    // A text that is none.
    let refused = world.call_bytes(path, Bytes::from_static(b"\x0a\x01\xff"));
    let text = "grpc: error unmarshalling request: string field contains invalid UTF-8";
    assert_eq!(refused, Err(Status::fixed(Code::Internal, text)));
}

#[test]
fn the_server_as_a_whole_is_healthy() {
    let mut world = World::new();
    let check = |service: &str| healthpb::HealthCheckRequest { service: service.to_owned() };
    let path = "grpc.health.v1.Health/Check";
    let serving = healthpb::HealthCheckResponse { status: 1 };
    assert_eq!(world.call(path, &check("")), Ok(serving));
    let unknown = world.call::<healthpb::HealthCheckResponse>(path, &check("etcdserverpb.KV"));
    assert_eq!(unknown, Err(Status::fixed(Code::NotFound, "unknown service")));
    let path = "grpc.health.v1.Health/List";
    let list: healthpb::HealthListResponse =
        world.call(path, &healthpb::HealthListRequest {}).expect("lists");
    assert_eq!(list.statuses, HashMap::from([(String::new(), serving)]));
    for (service, status) in [("", 1), ("etcdserverpb.KV", 3)] {
        let mut stream = world.open("grpc.health.v1.Health/Watch", Caller::default());
        world.send(&stream, &check(service));
        let told: Option<healthpb::HealthCheckResponse> = world.receive(&mut stream);
        assert_eq!(told.map(|told| told.status), Some(status));
        assert!(world.serves(&stream));
        stream.responses = None;
        world.run();
        assert!(!world.serves(&stream), "the client went");
    }
}

fn grant(world: &mut World, id: i64, ttl: i64) -> Result<pb::LeaseGrantResponse, Status> {
    world.call("etcdserverpb.Lease/LeaseGrant", &pb::LeaseGrantRequest { id, ttl })
}

#[test]
fn leases_are_granted_renewed_looked_at_and_revoked() {
    let mut world = World::new();
    let granted = grant(&mut world, -7, 1).expect("grants");
    assert_eq!((granted.header, granted.id, granted.ttl), (header(1), -7, 2));
    assert_eq!(grant(&mut world, -7, 5), Err(Status::LEASE_EXISTS));
    assert_eq!(grant(&mut world, -7, i64::MAX), Err(Status::LEASE_TTL_TOO_LARGE));
    put(&mut world, "held", -7);

    let path = "etcdserverpb.Lease/LeaseTimeToLive";
    let ask = |id| pb::LeaseTimeToLiveRequest { id, keys: true };
    let left: pb::LeaseTimeToLiveResponse = world.call(path, &ask(-7)).expect("tells");
    assert_eq!((left.id, left.ttl, left.granted_ttl), (-7, 1, 2));
    assert_eq!(left.keys, ["held"]);
    let none: pb::LeaseTimeToLiveResponse = world.call(path, &ask(8)).expect("tells");
    assert_eq!((none.id, none.ttl, none.granted_ttl, none.header), (8, -1, 0, header(2)));

    let path = "etcdserverpb.Lease/LeaseLeases";
    let all: pb::LeaseLeasesResponse = world.call(path, &pb::LeaseLeasesRequest {}).expect("lists");
    assert_eq!(all.leases, [pb::LeaseStatus { id: -7 }]);

    let path = "etcdserverpb.Lease/LeaseRevoke";
    let revoked = world.call::<pb::LeaseRevokeResponse>(path, &pb::LeaseRevokeRequest { id: -7 });
    assert_eq!(revoked, Ok(pb::LeaseRevokeResponse { header: header(3) }));
    assert_eq!(world.model.keys(), Vec::<String>::new());
    let again = world.call::<pb::LeaseRevokeResponse>(path, &pb::LeaseRevokeRequest { id: -7 });
    assert_eq!(again, Err(Status::LEASE_NOT_FOUND));
}

#[test]
fn generated_lease_numbers_are_positive_new_and_never_a_clash() {
    let mut world = World::new();
    let ids: std::collections::BTreeSet<i64> =
        (0..1000).map(|_| grant(&mut world, 0, 60).expect("grants").id).collect();
    assert_eq!(ids.len(), 1000);
    assert!(ids.iter().all(|id| *id > 0));
    // An API with the same salt generates the same numbers: they are passed over.
    world.api = Api::new(settings(), std::rc::Rc::clone(&world.door), None, Default::default(), 42);
    let next = grant(&mut world, 0, 60).expect("grants").id;
    assert!(!ids.contains(&next));
}

#[test]
fn keepalives_are_answered_in_order_and_an_unknown_lease_ends_nothing() {
    let mut world = World::new();
    grant(&mut world, 5, 60).expect("grants");
    let mut stream = world.open("etcdserverpb.Lease/LeaseKeepAlive", Caller::default());
    for id in [5, 6, 5] {
        world.send(&stream, &pb::LeaseKeepAliveRequest { id });
    }
    for (id, ttl) in [(5, 60), (6, 0), (5, 60)] {
        let kept: Option<pb::LeaseKeepAliveResponse> = world.receive(&mut stream);
        assert_eq!(kept, Some(pb::LeaseKeepAliveResponse { header: header(1), id, ttl }));
    }
    assert!(world.serves(&stream));
    world.close_send(&mut stream);
    assert_eq!(world.receive_or_end::<pb::LeaseKeepAliveResponse>(&mut stream), None);
    assert_eq!(stream.end, None, "a clean end");
}

#[test]
fn a_keepalive_that_the_engine_refuses_ends_its_stream() {
    let mut world = World::new();
    let mut stream = world.open("etcdserverpb.Lease/LeaseKeepAlive", Caller::default());
    world.model.refuses = Some(Error::NoLeader);
    world.send(&stream, &pb::LeaseKeepAliveRequest { id: 5 });
    assert_eq!(world.receive_or_end::<pb::LeaseKeepAliveResponse>(&mut stream), None);
    assert_eq!(stream.end, Some(Status::NO_LEADER));
}

fn watch_all(world: &mut World, caller: Caller) -> Stream {
    use pb::watch_request::RequestUnion;
    let stream = world.open("etcdserverpb.Watch/Watch", caller);
    let create =
        pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let request_union = Some(RequestUnion::CreateRequest(create));
    world.send(&stream, &pb::WatchRequest { request_union });
    stream
}

#[test]
fn a_watch_goes_on_after_the_client_has_said_its_last_word() {
    let mut world = World::new();
    let mut stream = watch_all(&mut world, Caller::default());
    world.close_send(&mut stream);
    let created: pb::WatchResponse = world.receive(&mut stream).expect("created");
    assert!(created.created);
    put(&mut world, "a", 0);
    put(&mut world, "b", 0);
    let mut sent = created.encoded_len();
    for key in ["a", "b"] {
        let response: pb::WatchResponse = world.receive(&mut stream).expect("an event");
        sent += response.encoded_len();
        assert_eq!(response.events[0].kv.as_ref().map(|kv| &kv.key[..]), Some(key.as_bytes()));
    }
    assert_eq!(world.model.sent_bytes, sent, "what was passed on is reported");
    assert_eq!(world.model.closed, 0);
    stream.responses = None;
    world.run();
    assert_eq!((world.serves(&stream), world.model.closed), (false, 1));
}

#[test]
fn a_watcher_that_does_not_read_is_neither_served_nor_heard() {
    use pb::watch_request::RequestUnion;
    let mut world = World::new();
    let mut stream = watch_all(&mut world, Caller::default());
    let value = Bytes::from(vec![0; 100 << 10]);
    for _ in 0..10 {
        let put = pb::PutRequest { key: "a".into(), value: value.clone(), ..Default::default() };
        let _: pb::PutResponse = world.call("etcdserverpb.KV/Put", &put).expect("puts");
    }
    let held = world.model.sent_bytes;
    assert!(held < 500 << 10, "{held} bytes passed on to nobody");
    let request_union = Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    world.send(&stream, &pb::WatchRequest { request_union });
    // Once the client reads, everything arrives in order, its question answered last.
    let responses: Vec<pb::WatchResponse> =
        std::iter::from_fn(|| world.receive(&mut stream)).collect();
    assert_eq!(responses.len(), 12);
    assert!(responses[0].created);
    let revisions: Vec<i64> =
        responses[1..11].iter().map(|r| r.header.unwrap_or_default().revision).collect();
    assert_eq!(revisions, (2..12).collect::<Vec<i64>>());
    assert_eq!(responses[11].watch_id, -1);
}

#[test]
fn a_watch_that_requires_a_leader_is_refused_without_one() {
    let mut world = World::new();
    world.model.refuses = Some(Error::NoLeader);
    let caller = Caller { requires_leader: true, ..Caller::default() };
    let mut stream = watch_all(&mut world, caller);
    assert_eq!(world.receive_or_end::<pb::WatchResponse>(&mut stream), None);
    assert_eq!(stream.end, Some(Status::NO_LEADER));
    let patient = watch_all(&mut world, Caller::default());
    assert!(world.serves(&patient));
}

#[test]
fn when_the_member_stops_watches_end_so_that_clients_come_back() {
    let mut world = World::new();
    let mut stream = watch_all(&mut world, Caller::default());
    world.door.close(Error::Stopped);
    world.run();
    let created: pb::WatchResponse = world.receive(&mut stream).expect("created");
    assert!(created.created);
    assert_eq!(world.receive_or_end::<pb::WatchResponse>(&mut stream), None);
    assert_eq!(stream.end, Some(Status::STOPPED));
}

#[test]
fn a_caller_that_goes_is_forgotten_by_the_door() {
    let mut world = World::new();
    world.door.tell(Request::ReadIndex);
    world.run();
    assert_eq!(world.model.asked, [Request::ReadIndex]);
    assert_eq!(world.door.in_flight(), 0, "nobody waits for what was only told");
    world.door.close(Error::Stopped);
    world.door.tell(Request::ReadIndex);
    assert!(world.door.take().is_empty());
}
