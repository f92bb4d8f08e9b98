//! What alarms forbid, and how long they stay.

use super::*;
use pb::AlarmType;
use pb::alarm_request::AlarmAction;

fn alarm(node: &mut Node, core: usize, action: AlarmAction, alarm: i32, member_id: u64) -> String {
    let request = pb::AlarmRequest { action: action as i32, member_id, alarm };
    let answer = node.ask(core, Request::Alarm(request)).expect("an answer");
    let Reply::Alarms(alarms) = answer.reply else { panic!("alarms") };
    let texts = alarms.iter().map(|alarm| format!("{}:{}", alarm.member_id, alarm.alarm));
    texts.collect::<Vec<_>>().join(" ")
}

fn get(node: &mut Node, core: usize) -> String {
    alarm(node, core, AlarmAction::Get, 0, 0)
}

fn request_put(key: &str) -> Request {
    Request::Put(pb::PutRequest { key: key.to_owned().into(), ..Default::default() })
}

fn request_delete(start: &str, end: &str) -> Request {
    let (key, range_end) = (start.to_owned().into(), end.to_owned().into());
    Request::DeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: false })
}

fn txn_of(requests: Vec<pb::request_op::Request>) -> Request {
    let op = |request| pb::RequestOp { request: Some(request) };
    let success = requests.into_iter().map(op).collect();
    Request::Txn(pb::TxnRequest { success, ..Default::default() })
}

fn put_op(key: &str) -> pb::request_op::Request {
    let put = pb::PutRequest { key: key.to_owned().into(), ..Default::default() };
    pb::request_op::Request::RequestPut(put)
}

fn delete_op(key: &str) -> pb::request_op::Request {
    let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    pb::request_op::Request::RequestDeleteRange(delete)
}

/// In the order of a running etcd 3.7.3's answers.
#[test]
fn alarms_are_raised_listed_and_ended_as_in_etcd() {
    use AlarmAction::{Activate, Deactivate, Get};
    let mut node = two();
    let no_space = AlarmType::Nospace as i32;
    assert_eq!(get(&mut node, 1), "");
    assert_eq!(alarm(&mut node, 1, Activate, no_space, 0), "0:1");
    assert_eq!(alarm(&mut node, 0, Activate, no_space, 0), "0:1", "raised already");
    assert_eq!(alarm(&mut node, 0, Activate, no_space, 5), "5:1");
    assert_eq!(alarm(&mut node, 0, Activate, 0, 5), "", "no kind of alarm");
    assert_eq!(alarm(&mut node, 0, Activate, 7, 9), "9:7", "a kind nobody knows");
    assert_eq!(get(&mut node, 1), "0:1 5:1 9:7");
    assert_eq!(alarm(&mut node, 0, Get, no_space, 77), "0:1 5:1", "whatever the member");
    assert_eq!(alarm(&mut node, 0, Get, AlarmType::Corrupt as i32, 0), "");
    assert_eq!(alarm(&mut node, 0, Deactivate, 0, 0), "", "0 does not stand for all here");
    assert_eq!(alarm(&mut node, 1, Deactivate, no_space, 0), "0:1");
    assert_eq!(alarm(&mut node, 1, Deactivate, no_space, 0), "", "nothing to end");
    let noted = |note: &Note| match note {
        Note::Alarm { alarm, on } => (alarm.member_id, alarm.alarm, *on),
        other => panic!("{other:?}"),
    };
    let noted: Vec<_> = node.notes.iter().map(noted).collect();
    assert_eq!(noted, [(0, 1, true), (5, 1, true), (9, 7, true), (0, 1, false)]);
    let mut node = node.restart();
    assert_eq!(get(&mut node, 1), "5:1 9:7");
    let answer = node.ask(1, Request::Status).expect("a status");
    let Reply::Status(status) = answer.reply else { panic!("a status") };
    assert_eq!(status.alarms.len(), 2);
}

#[test]
fn a_full_store_takes_nothing_that_makes_it_grow() {
    let mut node = two();
    for key in ["a", "b", "x"] {
        node.put(0, key, "1");
    }
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 }).expect("a grant");
    alarm(&mut node, 0, AlarmAction::Activate, AlarmType::Nospace as i32, 1);
    let mut node = node.restart();
    let full = Some(Error::NoSpace);
    for core in [0, 1] {
        assert_eq!(node.ask(core, request_put("a")).err(), full);
        assert_eq!(node.ask(core, txn_of(vec![put_op("a")])).err(), full);
        assert_eq!(node.ask(core, txn_of(vec![delete_op("a"), put_op("x")])).err(), full);
        let grant = Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 };
        assert_eq!(node.ask(core, grant).err(), full, "before it is seen that it exists");
        let unknown = node.put_leased(core, "a", "1", 99);
        assert_eq!(unknown.err(), full, "before it is seen that its lease does not");
    }
    assert_eq!(node.all(1), "a=1@2 b=1@3 x=1@4");
    node.ask(1, txn_of(vec![delete_op("a"), delete_op("x")])).expect("deletes");
    node.ask(1, request_delete("b", "c")).expect("a delete");
    node.ask(0, Request::LeaseRevoke { id: LeaseId(7) }).expect("revoked");
    node.ask(0, Request::Compact { revision: 6, physical: true }).expect("compacted");
    alarm(&mut node, 0, AlarmAction::Deactivate, AlarmType::Nospace as i32, 1);
    assert_eq!(node.put(1, "x", "2"), 7);
}

#[test]
fn a_damaged_store_is_only_read() {
    let mut node = two();
    node.put(0, "a", "1");
    node.ask(0, Request::LeaseGrant { id: LeaseId(7), ttl_s: 2 }).expect("a grant");
    node.put_leased(0, "x", "1", 7).expect("bound");
    for kind in [AlarmType::Nospace, AlarmType::Corrupt] {
        alarm(&mut node, 0, AlarmAction::Activate, kind as i32, 1);
    }
    let refused = [
        request_put("a"),
        request_delete("a", "z"),
        txn_of(vec![delete_op("a")]),
        txn_of(vec![delete_op("a"), delete_op("x")]),
        Request::Compact { revision: 99, physical: false },
        Request::LeaseGrant { id: LeaseId(7), ttl_s: 10 },
        Request::LeaseRevoke { id: LeaseId(8) },
    ];
    for (core, request) in refused.into_iter().enumerate() {
        assert_eq!(node.ask(core % 2, request).err(), Some(Error::Corrupt));
    }
    let read = pb::request_op::Request::RequestRange(everything());
    node.ask(1, txn_of(vec![read])).expect("it only reads");
    node.ask(1, Request::HashKv { revision: 0 }).expect("a digest");
    for _ in 0..100 {
        node.tick(100);
    }
    assert_eq!(node.all(1), "a=1@2 x=1@3", "leases stay as well");
    alarm(&mut node, 1, AlarmAction::Deactivate, AlarmType::Corrupt as i32, 1);
    for _ in 0..10 {
        node.tick(100);
    }
    assert_eq!(node.all(1), "a=1@2");
}

#[test]
fn an_answer_about_an_alarm_does_not_overtake_the_change_before_it() {
    let mut node = two();
    let request = |action: AlarmAction| {
        Request::Alarm(pb::AlarmRequest { action: action as i32, member_id: 1, alarm: 1 })
    };
    let ids = [AlarmAction::Activate, AlarmAction::Activate, AlarmAction::Deactivate]
        .map(|action| node.send(0, request(action)));
    node.settle();
    for id in ids {
        let answer = node.answers.remove(&id).expect("answered").expect("done");
        assert!(matches!(answer.reply, Reply::Alarms(alarms) if alarms.len() == 1));
    }
    assert_eq!(get(&mut node, 1), "");
}

#[test]
fn what_is_in_use_is_stated_for_the_quota_after_every_turn() {
    let mut node = two();
    let in_use = |node: &Node| {
        let sizes: usize = node.engines.iter().map(|engine| engine.sizes().bytes_in_use).sum();
        assert_eq!(node.order.usage().bytes_in_use(), sizes as i64);
        sizes
    };
    let empty = in_use(&node);
    let value = "v".repeat(1000);
    for n in 0..100 {
        node.put(n % 2, ["a", "x"][n % 2], &value);
    }
    assert!(in_use(&node) > empty + 100_000);
    node.move_range("a", Some("z"), 1);
    node.settle();
    let mut node = node.restart();
    let full = in_use(&node);
    assert!(full > empty + 100_000);
    node.ask(0, request_delete("a", "z")).expect("a delete");
    node.ask(0, Request::Compact { revision: 102, physical: true }).expect("compacted");
    assert!(in_use(&node) < empty + 10_000, "deleting and compacting is enough");
    let collected: u64 = node.engines.iter().map(|engine| engine.sizes().collected).sum();
    assert_eq!(collected, 100, "all but the two tombstones of the compacted revision");
}

#[test]
fn a_full_disk_raises_the_alarm_again_and_again_and_makes_one_checkpoint() {
    use AlarmAction::Deactivate;
    let mut node = two();
    node.put(0, "a", "1");
    let full = |node: &mut Node| {
        node.turn(0, vec![Input::Full]);
        node.settle();
    };
    full(&mut node);
    let no_space = AlarmType::Nospace as i32;
    let member = node.engines[0].member_id;
    let raised = format!("{member}:{no_space}");
    assert_eq!(get(&mut node, 1), raised);
    assert_eq!(node.builds, 1, "the logs are to give back what they hold");
    full(&mut node);
    assert_eq!((get(&mut node, 1), node.builds), (raised.clone(), 1), "it is raised already");
    assert_eq!(node.ask(1, request_put("b")).err(), Some(Error::NoSpace));
    assert!(node.ask(1, request_delete("a", "")).is_ok(), "what does not grow goes on");
    assert_eq!(node.all(1), "");
    alarm(&mut node, 1, Deactivate, no_space, member);
    assert!(node.ask(1, request_put("b")).is_ok());
    full(&mut node);
    assert_eq!(get(&mut node, 0), raised, "the disk is full all the same");
    let mut node = node.restart();
    assert_eq!(get(&mut node, 1), raised);
    assert_eq!(node.ask(1, request_put("c")).err(), Some(Error::NoSpace));
}
