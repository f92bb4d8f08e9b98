//! Leases and their keys, on several shards.

use super::*;

fn revoke(lease: i64) -> Request {
    Request::LeaseRevoke { id: LeaseId(lease) }
}

fn with_keys(lease: i64) -> Request {
    Request::LeaseTimeToLive { id: LeaseId(lease), keys: true }
}

#[test]
fn a_lease_takes_its_keys_with_it_in_one_revision() {
    let mut node = two();
    let grant = Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 };
    node.ask(1, grant.clone()).expect("a grant");
    assert_eq!(node.ask(0, grant).err(), Some(Error::LeaseExists));
    node.put_leased(0, "a", "1", 7).expect("bound");
    node.put_leased(0, "x", "1", 7).expect("bound");
    node.put(0, "y", "1");
    let error = node.put_leased(0, "z", "1", 8).expect_err("no such lease");
    assert_eq!(error, Error::Refused(crate::txn::Refusal::LeaseNotFound));
    let answer = node.ask(1, with_keys(7)).expect("known");
    let Reply::TimeToLive { keys, granted_s, .. } = answer.reply else { panic!("a time") };
    assert_eq!((keys.len(), granted_s), (2, 10));
    let mut node = node.restart();
    for _ in 0..300 {
        node.tick(100);
    }
    assert_eq!(node.all(0), "y=1@4");
    assert_eq!(node.put(0, "w", "1"), 6, "both keys went in one revision");
    let gone = node.ask(0, revoke(7)).err();
    assert_eq!(gone, Some(Error::Refused(crate::txn::Refusal::LeaseNotFound)));
}

#[test]
fn a_lease_without_keys_is_revoked_without_a_revision() {
    let mut node = two();
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 }).expect("a grant");
    node.ask(1, revoke(7)).expect("revoked");
    let answer = node.ask(1, Request::LeaseLeases).expect("leases");
    assert!(matches!(answer.reply, Reply::Leases(leases) if leases.is_empty()));
    assert_eq!(node.put(0, "a", "1"), 2);
}

/// A transaction claims the lease on the shard of its lowest key alone: on lane 1 here. The revocation
/// asks lane 0 first, which has no key of the lease yet.
#[test]
fn a_key_bound_while_its_lease_is_being_revoked_goes_with_it() {
    let mut node = Node::new(2, 2);
    node.move_range("", Some("m"), 1);
    node.settle();
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 }).expect("a grant");
    let success = vec![put_op("a", 0), put_op("x", 7)];
    let txn = pb::TxnRequest { success, ..Default::default() };
    let txn = node.send(0, Request::Txn(txn));
    let revoke = node.send(0, revoke(7));
    node.settle();
    let revisions = [txn, revoke].map(|id| node.answers.remove(&id).unwrap().unwrap().revision.0);
    assert_eq!(revisions, [2, 3]);
    assert_eq!(node.all(0), "a=t@2");
}

/// A node where a lease is granted, which core 1 is slow to confirm: what it said is held back.
fn half_granted() -> (Node, (u16, u64), VecDeque<(CoreId, Message)>) {
    let mut node = two();
    let grant = node.send(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 });
    while !node.engines[0].control.leases.contains(LeaseId(7)) {
        node.turn_of_disk(0);
    }
    node.turn(1, Vec::new());
    let said = std::mem::take(&mut node.mesh[0]);
    let is_done = |message: &Message| matches!(message, Message::ControlDone { .. });
    let (done, others) = said.into_iter().partition::<VecDeque<_>, _>(|(_, m)| is_done(m));
    assert_eq!(done.len(), 1);
    node.mesh[0] = others;
    (node, grant, done)
}

#[test]
fn a_lease_is_there_as_soon_as_a_key_can_be_bound_to_it() {
    let (mut node, ..) = half_granted();
    node.put_leased(1, "x", "1", 7).expect("bound");
    let answer = node.ask(0, with_keys(7)).expect("an answer");
    let Reply::TimeToLive { ttl_s, keys, .. } = answer.reply else { panic!("a time") };
    assert_eq!((ttl_s, keys), (10, vec![Bytes::from("x")]));
}

#[test]
fn a_lease_that_is_revoked_before_its_grant_is_told_is_gone() {
    let (mut node, grant, done) = half_granted();
    node.put_leased(0, "a", "1", 7).expect("bound");
    node.ask(0, revoke(7)).expect("revoked");
    node.mesh[0].extend(done);
    node.settle();
    assert!(node.answers.remove(&grant).expect("answered").is_ok());
    let answer = node.ask(0, Request::LeaseKeepAlive { id: LeaseId(7) }).expect("an answer");
    assert!(matches!(answer.reply, Reply::Ttl(0)), "{answer:?}");
}

/// Core 1 is slow to confirm the end of a lease, and its number is taken again meanwhile.
#[test]
fn a_lease_of_the_same_number_outlives_the_one_before() {
    let mut node = two();
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 }).expect("a grant");
    node.send(0, revoke(7));
    for _ in 0..20 {
        node.turn_of_disk(0);
        if !node.engines[0].control.leases.contains(LeaseId(7)) {
            break;
        }
        node.turn(1, Vec::new());
    }
    node.send(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 20 });
    node.settle();
    let answer = node.ask(1, with_keys(7)).expect("an answer");
    let Reply::TimeToLive { ttl_s, .. } = answer.reply else { panic!("a time") };
    assert_eq!(ttl_s, 20);
    let answer = node.ask(1, Request::LeaseKeepAlive { id: LeaseId(7) }).expect("an answer");
    assert!(matches!(answer.reply, Reply::Ttl(20)), "{answer:?}");
}

/// Lane 0 has two ranges with keys of the lease. When the first is claimed, the shard tells of keys in
/// both.
#[test]
fn a_key_that_leaves_its_lease_while_that_is_being_revoked_stays() {
    let mut node = Node::new(2, 2);
    node.move_range("m", Some("x"), 1);
    node.settle();
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 }).expect("a grant");
    for key in ["a", "n", "y"] {
        node.put_leased(0, key, "1", 7).expect("bound");
    }
    node.send(0, revoke(7));
    for _ in 0..2 {
        // Lane 1 is claimed, then asked for its keys.
        node.turn(1, Vec::new());
        node.turn(0, Vec::new());
    }
    // Now its key is being claimed; that of lane 0 beyond it is not yet.
    assert_eq!(node.put(0, "y", "2"), 5);
    assert_eq!(node.all(0), "y=2@5");
}

/// No range can move while an image is built, which takes as long as it takes; what waits for a move
/// that has not begun does not wait for that.
#[test]
fn the_end_of_a_lease_waits_for_no_image() {
    let mut node = two();
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 }).expect("a grant");
    node.put_leased(0, "a", "1", 7).expect("bound");
    node.send(0, Request::Checkpoint);
    // Now every shard says how far it is; what follows comes in just before the keeper hears of it.
    node.turn(1, Vec::new());
    let range = KeyRange { start: b"a".to_vec(), end: Some(b"b".to_vec()) };
    node.turn(
        0,
        vec![
            Input::Request(RequestId(100), with_keys(7)),
            Input::Move { range, to: LaneId(1) },
            Input::Request(RequestId(101), revoke(7)),
        ],
    );
    node.settle();
    assert!(node.build.is_some(), "and nobody builds it");
    assert!(node.answers[&(0, 100)].is_ok());
    assert_eq!(node.answers.get(&(0, 101)).map(Result::is_ok), Some(true));
    assert_eq!(node.all(1), "");
}
