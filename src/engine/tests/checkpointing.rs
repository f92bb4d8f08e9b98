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
