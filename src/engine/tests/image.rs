//! Nodes over an image that is damaged.

use super::*;
use crate::txn::Refusal;
use pb::AlarmType;
use pb::alarm_request::AlarmAction;

/// Makes a checkpoint of everything, and rots the first of its blocks on the way to the disk.
fn go_over_to_a_damaged_image(node: &mut Node) {
    let asked = node.send(0, Request::Checkpoint);
    node.settle();
    let base = build_damaged_image(node);
    node.turn(0, vec![Input::Built(Some(base))]);
    node.settle();
    assert!(node.answers.remove(&asked).expect("answered").is_ok());
}

/// The image that was asked for, with a bit of its first block flipped.
fn build_damaged_image(node: &mut Node) -> Arc<Base> {
    let build = node.build.take().expect("asked for");
    image_of(&build, |bytes, rows| bytes[rows[0].offset as usize + 40] ^= 1)
}

fn alarms(node: &mut Node, action: AlarmAction) -> usize {
    let alarm = AlarmType::Corrupt as i32;
    let request = pb::AlarmRequest { action: action as i32, member_id: 0, alarm };
    let answer = node.ask(0, Request::Alarm(request)).expect("an answer");
    let Reply::Alarms(alarms) = answer.reply else { panic!("alarms") };
    alarms.len()
}

#[test]
fn the_alarm_of_a_damaged_block_can_be_ended_and_comes_back_when_it_is_met_again() {
    let mut node = Node::new(2, 2);
    for n in 0..100 {
        node.put(0, &format!("key-{n}"), "value");
    }
    go_over_to_a_damaged_image(&mut node);
    assert_eq!(alarms(&mut node, AlarmAction::Get), 0, "nobody has met it");
    for _ in 0..2 {
        assert_eq!(node.range(1, everything()).err(), Some(Error::Corrupt));
        node.tick(100);
        assert_eq!(alarms(&mut node, AlarmAction::Get), 1);
        assert_eq!(node.put_leased(0, "other", "value", 0).err(), Some(Error::Corrupt));
        node.tick(100);
        assert_eq!(alarms(&mut node, AlarmAction::Deactivate), 1);
        for _ in 0..5 {
            node.tick(100);
        }
        assert_eq!(alarms(&mut node, AlarmAction::Get), 0, "nobody has met it since");
    }
}

#[test]
fn a_damaged_store_writes_nothing_by_itself() {
    let mut node = Node::new(1, 1);
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 4000 }).expect("a lease");
    node.put_leased(0, "a", "value", 7).expect("a put");
    go_over_to_a_damaged_image(&mut node);
    assert_eq!(node.range(0, everything()).err(), Some(Error::Corrupt));
    node.tick(100);
    assert_eq!(alarms(&mut node, AlarmAction::Get), 1);
    let entries = node.log[0].len();
    // Long enough for leases to be noted, and to end.
    for _ in 0..1000 {
        node.tick(10_000);
    }
    node.turn(0, vec![Input::Stop]);
    assert_eq!(node.log[0].len(), entries);
}

#[test]
fn no_lease_ends_while_it_is_unknown_which_keys_it_holds() {
    let mut before = Node::new(2, 2);
    before.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 2 }).expect("a lease");
    before.put_leased(0, "a", "value", 7).expect("a put");
    before.send(0, Request::Checkpoint);
    before.settle();
    let base = build_damaged_image(&mut before);

    let mut node = Node::new(2, 2);
    for engine in &mut node.engines {
        engine.begin_shards(Some(&base));
    }
    node.tick(100);
    assert_eq!(alarms(&mut node, AlarmAction::Get), 1, "the start has met the block");
    assert_eq!(alarms(&mut node, AlarmAction::Deactivate), 1);
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 2 }).expect("a lease");
    for _ in 0..100 {
        node.tick(1000);
    }
    assert_eq!(alarms(&mut node, AlarmAction::Get), 0, "it is the start that counts");
    for core in [0, 1] {
        let ask = |keys| Request::LeaseTimeToLive { id: LeaseId(7), keys };
        assert_eq!(node.ask(core, ask(true)).err(), Some(Error::Corrupt), "no list has a gap");
        assert!(node.ask(core, ask(false)).is_ok());
        let revoke = Request::LeaseRevoke { id: LeaseId(7) };
        assert_eq!(node.ask(core, revoke).err(), Some(Error::Corrupt));
        let unknown = Request::LeaseRevoke { id: LeaseId(8) };
        assert_eq!(node.ask(core, unknown).err(), Some(Refusal::LeaseNotFound.into()));
    }
    let answer = node.ask(0, Request::LeaseLeases).expect("leases");
    assert!(
        matches!(answer.reply, Reply::Leases(leases) if leases == [LeaseId(7)]),
        "it never ended"
    );
}
