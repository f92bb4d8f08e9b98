use super::*;
use crate::api::status::Code;
use crate::api::tests::double::World;
use crate::engine::Error;

const LOCK: &str = "v3lockpb.Lock/Lock";
const UNLOCK: &str = "v3lockpb.Lock/Unlock";

fn with_leases(ids: &[i64]) -> World {
    let mut world = World::new();
    for &id in ids {
        let grant = pb::LeaseGrantRequest { id, ttl: 60 };
        let _: pb::LeaseGrantResponse =
            world.call("etcdserverpb.Lease/LeaseGrant", &grant).expect("grants");
    }
    world
}

fn named(name: &str, lease: i64) -> lockpb::LockRequest {
    lockpb::LockRequest { name: name.to_owned().into(), lease }
}

fn locked(answer: Result<Bytes, Status>) -> lockpb::LockResponse {
    use prost::Message;
    lockpb::LockResponse::decode(answer.expect("a lock")).expect("decodes")
}

fn unlock(world: &mut World, key: &str) -> Result<lockpb::UnlockResponse, Status> {
    world.call(UNLOCK, &lockpb::UnlockRequest { key: key.to_owned().into() })
}

#[test]
fn the_key_of_a_lock_is_its_name_and_the_lease_in_hexadecimal() {
    for (lease, key) in [(0xab, "l/ab"), (-7, "l/-7"), (i64::MIN, "l/-8000000000000000")] {
        let mut world = with_leases(&[lease]);
        let lock: lockpb::LockResponse = world.call(LOCK, &named("l", lease)).expect("locks");
        assert_eq!(lock.key, key);
        assert_eq!(lock.header.map(|header| header.revision), Some(2));
        assert_eq!(world.model.keys(), [key]);
    }
}

#[test]
fn who_holds_a_lock_gets_it_again() {
    let mut world = with_leases(&[1]);
    let first: lockpb::LockResponse = world.call(LOCK, &named("l", 1)).expect("locks");
    let second: lockpb::LockResponse = world.call(LOCK, &named("l", 1)).expect("locks");
    assert_eq!(first, second);
    assert_eq!(world.model.revision(), 2, "nothing was written for it");
}

#[test]
fn a_lock_without_a_lease_gets_one_of_a_minute() {
    let mut world = World::new();
    let lock: lockpb::LockResponse = world.call(LOCK, &named("l", 0)).expect("locks");
    let granted = world.model.asked.iter().find_map(|request| match request {
        Request::LeaseGrant { id, ttl_s } => Some((*id, *ttl_s)),
        _ => None,
    });
    let (id, ttl_s) = granted.expect("a lease");
    assert_eq!((lock.key, ttl_s), (Line::new(b"l").place(id), 60));
}

#[test]
fn waiters_get_the_lock_in_the_order_of_their_coming() {
    let mut world = with_leases(&[1, 2, 3]);
    let calls: Vec<_> = [1, 2, 3].map(|id| world.start(LOCK, &named("l", id))).into();
    let held = |world: &World| -> Vec<bool> {
        calls.iter().map(|call| world.outcome(call).is_some()).collect()
    };
    assert_eq!(held(&world), [true, false, false]);
    unlock(&mut world, "l/1").expect("unlocks");
    assert_eq!(held(&world), [true, true, false]);
    unlock(&mut world, "l/2").expect("unlocks");
    assert_eq!(held(&world), [true, true, true]);
    // Later waiters learn at which revision they had the lock.
    let third = locked(world.outcome(&calls[2]).expect("held"));
    assert_eq!(third.header.map(|header| header.revision), Some(world.model.revision()));
    assert_eq!(world.model.keys(), ["l/3"]);
}

#[test]
fn a_departure_wakes_the_next_and_nobody_else() {
    let mut world = with_leases(&[1, 2, 3]);
    for id in [1, 2, 3] {
        world.start(LOCK, &named("l", id));
    }
    let asked = world.model.asked.len();
    unlock(&mut world, "l/1").expect("unlocks");
    // The unlocking, the second's look for others before it, and its look for its own key.
    assert_eq!(world.model.asked.len() - asked, 3);
}

#[test]
fn a_lock_of_another_name_is_another_lock() {
    let mut world = with_leases(&[1, 2]);
    for (name, lease) in [("l", 1), ("ll", 2), ("l/l", 2), ("", 2), ("l0", 2)] {
        let call = world.start(LOCK, &named(name, lease));
        // "l/l" + "/2" stands in the line of "l", as in etcd, but its own line is empty.
        assert!(world.outcome(&call).is_some(), "{name:?}");
    }
}

#[test]
fn a_waiter_that_goes_leaves_the_line() {
    let mut world = with_leases(&[1, 2, 3]);
    let calls: Vec<_> = [1, 2, 3].map(|id| world.start(LOCK, &named("l", id))).into();
    world.cancel(&calls[1]);
    assert_eq!(world.model.keys(), ["l/1", "l/3"]);
    assert!(world.outcome(&calls[2]).is_none());
    unlock(&mut world, "l/1").expect("unlocks");
    assert!(world.outcome(&calls[2]).is_some());
    assert_eq!(world.model.closed, 3, "no watch is left behind");
}

#[test]
fn who_holds_the_lock_keeps_it_when_the_call_is_over() {
    let mut world = with_leases(&[1, 2]);
    let first = world.start(LOCK, &named("l", 1));
    world.cancel(&first);
    let second = world.start(LOCK, &named("l", 2));
    assert!(world.outcome(&second).is_none());
    unlock(&mut world, "l/1").expect("unlocks");
    assert!(world.outcome(&second).is_some());
    world.cancel(&second);
    assert_eq!(world.model.keys(), ["l/2"]);
}

#[test]
fn a_lease_that_ends_gives_the_lock_on_and_ends_its_waiter() {
    let mut world = with_leases(&[1, 2, 3]);
    let calls: Vec<_> = [1, 2, 3].map(|id| world.start(LOCK, &named("l", id))).into();
    let revoke = |world: &mut World, id| {
        let path = "etcdserverpb.Lease/LeaseRevoke";
        let _: pb::LeaseRevokeResponse =
            world.call(path, &pb::LeaseRevokeRequest { id }).expect("revokes");
    };
    // The second waits on, without knowing that its place is gone, until its turn.
    revoke(&mut world, 2);
    assert!(world.outcome(&calls[1]).is_none());
    revoke(&mut world, 1);
    assert_eq!(world.outcome(&calls[1]), Some(Err(Status::LOCK_SESSION_EXPIRED)));
    assert!(world.outcome(&calls[2]).is_some_and(|answer| answer.is_ok()));
}

#[test]
fn a_wait_survives_the_compaction_of_what_it_waits_for() {
    let mut world = with_leases(&[1, 2]);
    world.start(LOCK, &named("l", 1));
    let second = world.start(LOCK, &named("l", 2));
    let compact = pb::CompactionRequest { revision: 3, physical: false };
    let _: pb::CompactionResponse =
        world.call("etcdserverpb.KV/Compact", &compact).expect("compacts");
    unlock(&mut world, "l/1").expect("unlocks");
    assert!(world.outcome(&second).is_some_and(|answer| answer.is_ok()));
}

/// All texts and codes as seen on etcd 3.7.3.
#[test]
fn errors_pass_through_with_the_code_unknown() {
    let mut world = World::new();
    let unknown = |text| Some(Status::fixed(Code::Unknown, text));
    let refused = world.call::<lockpb::LockResponse>(LOCK, &named("l", 77));
    assert_eq!(refused.err(), unknown("etcdserver: requested lease not found"));
    assert_eq!(unlock(&mut world, "").err(), unknown("etcdserver: key is not provided"));
    let unlocked = unlock(&mut world, "nobody holds this").expect("no error");
    assert_eq!(unlocked.header.map(|header| header.revision), Some(1));
    world.model.refuses = Some(Error::NoLeader);
    let refused = world.call::<lockpb::LockResponse>(LOCK, &named("l", 77));
    assert_eq!(refused.err(), unknown("etcdserver: no leader"));
    // Only the call itself fails otherwise: a message that is none is no error of the server's.
    let refused = world.call_bytes(LOCK, Bytes::from_static(b"\xff"));
    assert!(refused.is_err());
}

#[test]
fn a_waiter_is_told_when_the_member_stops() {
    let mut world = with_leases(&[1, 2]);
    world.start(LOCK, &named("l", 1));
    let second = world.start(LOCK, &named("l", 2));
    world.door.close(Error::Stopped);
    world.run();
    assert_eq!(world.outcome(&second), Some(Err(Status::STOPPED.into_unknown())));
}
