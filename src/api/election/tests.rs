use prost::Message;

use super::*;
use crate::api::Caller;
use crate::api::status::Code;
use crate::api::tests::double::{Call, Stream, World};

const CAMPAIGN: &str = "v3electionpb.Election/Campaign";

fn with_leases(ids: &[i64]) -> World {
    let mut world = World::new();
    for &id in ids {
        let grant = pb::LeaseGrantRequest { id, ttl: 60 };
        let _: pb::LeaseGrantResponse =
            world.call("etcdserverpb.Lease/LeaseGrant", &grant).expect("grants");
    }
    world
}

fn campaign(world: &mut World, lease: i64, value: &str) -> Call {
    let (name, value) = ("e".into(), value.to_owned().into());
    world.start(CAMPAIGN, &electionpb::CampaignRequest { name, lease, value })
}

/// The proof of leadership, once there is one.
fn elected(world: &World, call: &Call) -> Option<electionpb::LeaderKey> {
    let answer = world.outcome(call)?.expect("no error");
    electionpb::CampaignResponse::decode(answer).expect("decodes").leader
}

fn leader(world: &mut World) -> Result<String, Status> {
    let path = "v3electionpb.Election/Leader";
    let response: electionpb::LeaderResponse =
        world.call(path, &electionpb::LeaderRequest { name: "e".into() })?;
    Ok(value_of(response))
}

fn value_of(response: electionpb::LeaderResponse) -> String {
    let kv = response.kv.expect("a leader has a key");
    String::from_utf8(kv.value.to_vec()).expect("text")
}

fn proclaim(
    world: &mut World,
    leader: Option<electionpb::LeaderKey>,
    value: &str,
) -> Result<electionpb::ProclaimResponse, Status> {
    let value = value.to_owned().into();
    let path = "v3electionpb.Election/Proclaim";
    world.call(path, &electionpb::ProclaimRequest { leader, value })
}

fn resign(
    world: &mut World,
    leader: Option<electionpb::LeaderKey>,
) -> Result<electionpb::ResignResponse, Status> {
    world.call("v3electionpb.Election/Resign", &electionpb::ResignRequest { leader })
}

fn observe(world: &mut World) -> Stream {
    let stream = world.open("v3electionpb.Election/Observe", Caller::default());
    world.send(&stream, &electionpb::LeaderRequest { name: "e".into() });
    stream
}

fn told(world: &mut World, stream: &mut Stream) -> Option<String> {
    world.receive(stream).map(value_of)
}

#[test]
fn candidates_lead_one_after_the_other() {
    let mut world = with_leases(&[1, 2, 3]);
    let calls: Vec<_> = [1, 2, 3].map(|id| campaign(&mut world, id, &format!("c{id}"))).into();
    let first = elected(&world, &calls[0]).expect("elected");
    assert_eq!(
        (&first.name[..], &first.key[..], first.rev, first.lease),
        (&b"e"[..], &b"e/1"[..], 2, 1)
    );
    assert_eq!(leader(&mut world), Ok("c1".to_owned()));
    assert_eq!((elected(&world, &calls[1]), elected(&world, &calls[2])), (None, None));
    resign(&mut world, Some(first)).expect("resigns");
    let second = elected(&world, &calls[1]).expect("elected");
    assert_eq!(second.rev, 3);
    assert_eq!(elected(&world, &calls[2]), None);
    assert_eq!(leader(&mut world), Ok("c2".to_owned()));
}

#[test]
fn a_leader_proclaims_until_it_leads_no_more() {
    let mut world = with_leases(&[1]);
    let call = campaign(&mut world, 1, "old");
    let key = elected(&world, &call);
    let done = proclaim(&mut world, key.clone(), "new").expect("proclaims");
    assert_eq!(done.header.map(|header| header.revision), Some(3));
    assert_eq!(leader(&mut world), Ok("new".to_owned()));
    resign(&mut world, key.clone()).expect("resigns");
    let not_leader = Status::fixed(Code::Unknown, "election: not leader");
    assert_eq!(proclaim(&mut world, key.clone(), "more"), Err(not_leader));
    // Resigning again is no mistake, and changes nothing.
    let again = resign(&mut world, key).expect("resigns");
    assert_eq!(again.header.map(|header| header.revision), Some(4));
}

#[test]
fn who_leads_already_campaigns_with_a_new_value() {
    let mut world = with_leases(&[1]);
    let first = campaign(&mut world, 1, "old");
    let again = campaign(&mut world, 1, "new");
    assert_eq!(elected(&world, &first), elected(&world, &again));
    assert_eq!(leader(&mut world), Ok("new".to_owned()));
    let revision = world.model.revision();
    campaign(&mut world, 1, "new");
    assert_eq!(world.model.revision(), revision, "the same value is not written again");
}

#[test]
fn a_candidate_that_goes_is_none_any_more() {
    let mut world = with_leases(&[1, 2, 3]);
    let calls: Vec<_> = [1, 2, 3].map(|id| campaign(&mut world, id, "c")).into();
    world.cancel(&calls[1]);
    assert_eq!(world.model.keys(), ["e/1", "e/3"]);
    let first = elected(&world, &calls[0]);
    resign(&mut world, first).expect("resigns");
    assert!(elected(&world, &calls[2]).is_some());
}

/// All texts and codes as seen on etcd 3.7.3.
#[test]
fn errors_are_etcds() {
    let mut world = World::new();
    let unknown = |text| Some(Status::fixed(Code::Unknown, text));
    assert_eq!(leader(&mut world).err(), unknown("election: no leader"));
    let missing = r#""leader" field must be provided"#;
    assert_eq!(proclaim(&mut world, None, "v").err(), unknown(missing));
    assert_eq!(resign(&mut world, None).err(), unknown(missing));
    let empty = Some(electionpb::LeaderKey::default());
    let no_key = "etcdserver: key is not provided";
    assert_eq!(proclaim(&mut world, empty.clone(), "v").err(), unknown(no_key));
    assert_eq!(resign(&mut world, empty).err(), unknown(no_key));
    let call = campaign(&mut world, 77, "v");
    let refused = world.outcome(&call).and_then(Result::err);
    assert_eq!(refused, unknown("etcdserver: requested lease not found"));
    let stranger = electionpb::LeaderKey { key: "e/9".into(), rev: 9, ..Default::default() };
    assert_eq!(proclaim(&mut world, Some(stranger), "v").err(), unknown("election: not leader"));
}

#[test]
fn an_observer_hears_every_leader_and_every_proclamation() {
    let mut world = with_leases(&[1, 2]);
    let mut stream = observe(&mut world);
    assert_eq!(told(&mut world, &mut stream), None, "nobody leads yet");
    let first = campaign(&mut world, 1, "one");
    assert_eq!(told(&mut world, &mut stream), Some("one".to_owned()));
    let second = campaign(&mut world, 2, "two");
    assert_eq!(told(&mut world, &mut stream), None, "a candidate is no leader");
    let first = elected(&world, &first);
    proclaim(&mut world, first.clone(), "one again").expect("proclaims");
    let response: electionpb::LeaderResponse = world.receive(&mut stream).expect("told");
    assert_eq!(response.header.map(|header| header.revision), Some(4));
    assert_eq!(value_of(response), "one again");
    resign(&mut world, first).expect("resigns");
    assert_eq!(told(&mut world, &mut stream), Some("two".to_owned()));
    let second = elected(&world, &second);
    resign(&mut world, second).expect("resigns");
    assert_eq!(told(&mut world, &mut stream), None);
    campaign(&mut world, 1, "three");
    assert_eq!(told(&mut world, &mut stream), Some("three".to_owned()));
}

#[test]
fn an_observer_that_goes_leaves_nothing_behind() {
    let mut world = with_leases(&[1]);
    for leads in [false, true] {
        if leads {
            campaign(&mut world, 1, "one");
        }
        let closed = world.model.closed;
        let mut stream = observe(&mut world);
        world.close_send(&mut stream);
        assert!(world.serves(&stream), "the client has said all it has to say, and listens");
        stream.responses = None;
        world.run();
        assert!(!world.serves(&stream));
        assert_eq!(world.model.closed, closed + 1);
    }
}
