//! When a checkpoint is made, and when it is waited for.

use super::*;

/// More than these bytes of log are never above an image, half of which would be more.
fn small() -> Node {
    let mut node = two();
    for engine in &mut node.engines {
        (engine.checkpoint_bytes, engine.checkpoint_bytes_max) = (u64::MAX, 1000);
    }
    node
}

fn fill(node: &mut Node, puts: usize) {
    for n in 0..puts {
        node.put(n % 2, &format!("key{n}"), &"v".repeat(100));
    }
    // The cores tell the keeper once a second what they have logged, and it looks with the next tick.
    node.tick(1000);
    node.tick(1000);
}

#[test]
fn memory_bounds_the_log_however_large_the_image_is() {
    let mut node = small();
    fill(&mut node, 5);
    assert!(node.build.is_none());
    fill(&mut node, 10);
    assert_eq!(node.build.map(|build| build.at), Some(Revision(16)));
}

/// What is void by a recorded epoch makes the next start read the logs twice, and it stays until they are
/// recycled.
#[test]
fn an_image_is_made_where_something_in_the_logs_is_void() {
    let mut node = two();
    node.put(0, "a", "1");
    let torn = node.log[1].len();
    node.put(0, "x", "2");
    node.put(0, "a", "3");
    let mut whole = Node::start(2, 2, node.log.clone());
    whole.tick(100);
    assert_eq!((whole.all(0).as_str(), whole.builds), ("a=3@4 x=2@3", 0));

    node.log[1].truncate(torn);
    for _ in 0..2 {
        node = node.restart();
        assert_eq!((node.all(0).as_str(), node.builds), ("a=1@2", 0));
        node.tick(100);
        assert_eq!(node.builds, 1);
    }
    let build = node.build.take().expect("asked for");
    node.turn(0, vec![Input::Built(Some(image_of(&build, |_, _| ())))]);
    node.settle();
    node.tick(100);
    assert_eq!(node.builds, 1, "once is enough");
}

#[test]
fn an_image_is_waited_for_when_the_next_one_is_due() {
    let mut node = small();
    fill(&mut node, 15);
    assert!(node.build.take().is_some());
    fill(&mut node, 5);
    assert_eq!(node.hurried, 0);
    fill(&mut node, 10);
    assert!(node.hurried > 0);
    // It is the same image; the next one comes when this one is there.
    assert!(node.build.is_none());
}

#[test]
fn writers_wait_for_an_image_when_they_outrun_it() {
    let mut node = small();
    fill(&mut node, 15);
    let build = node.build.take().expect("asked for");
    fill(&mut node, 20);
    let waits = node.send(0, put("a", "1"));
    node.settle();
    assert!(!node.answers.contains_key(&waits));
    let delete = pb::DeleteRangeRequest { key: "key0".into(), ..Default::default() };
    node.ask(1, Request::DeleteRange(delete)).expect("what lets nothing grow goes on");
    assert_eq!(node.range(0, everything()).expect("reads too").count, 19);

    node.turn(0, vec![Input::Built(Some(image_of(&build, |_, _| ())))]);
    node.settle();
    assert!(node.answers.remove(&waits).expect("answered").is_ok());
}

#[test]
fn nobody_waits_for_an_image_that_can_not_be_built() {
    let mut node = small();
    fill(&mut node, 15);
    fill(&mut node, 20);
    let waits = [0, 1].map(|core| node.send(core, put("a", "1")));
    node.settle();
    assert!(waits.iter().all(|id| !node.answers.contains_key(id)));
    node.turn(0, vec![Input::Built(None)]);
    node.settle();
    assert!(waits.iter().all(|id| node.answers[id].is_ok()));
}

#[test]
fn who_stops_answers_those_that_wait() {
    let mut node = small();
    fill(&mut node, 15);
    fill(&mut node, 20);
    let waits = node.send(1, put("a", "1"));
    node.settle();
    (0..2).for_each(|core| node.turn(core, vec![Input::Stop]));
    node.settle();
    assert_eq!(node.answers.remove(&waits).expect("answered").err(), Some(Error::Stopped));
}

/// More wait than one turn takes up, and the keeper, which still serves, has word under way.
#[test]
fn who_stops_is_held_up_no_more() {
    let mut node = small();
    fill(&mut node, 15);
    fill(&mut node, 20);
    let waits: Vec<_> = (0..100).map(|_| node.send(1, put("a", "1"))).collect();
    node.turn(1, vec![Input::Stop]);
    assert!(waits.iter().any(|id| !node.answers.contains_key(id)));
    node.mesh[1].push_back((CoreId(0), Message::Hold(true)));
    node.settle();
    for id in waits {
        assert_eq!(node.answers.remove(&id).expect("answered").err(), Some(Error::Stopped));
    }
}

fn put(key: &str, value: &str) -> Request {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Request::Put(pb::PutRequest { key, value, ..Default::default() })
}
