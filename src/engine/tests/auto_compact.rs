//! History leaves by itself, and the log says so.

use super::*;
use crate::config::Retention;
use crate::engine::auto_compact::AutoCompact;

fn keeping(retention: Retention) -> Node {
    let mut node = two();
    let keeper = node.engines[0].keeper.as_mut().expect("the keeper's core");
    keeper.auto_compact = Some(AutoCompact::new(retention));
    node
}

fn compacted(node: &Node) -> [i64; 2] {
    [0, 1].map(|core| node.engines[core].control.compacted.0)
}

fn steps(node: &mut Node) -> Vec<(i64, Step)> {
    let step = |note| match note {
        Note::AutoCompaction { at, step, .. } => Some((at.0, step)),
        Note::Alarm { .. } | Note::Corrupt { .. } => None,
    };
    node.notes.drain(..).filter_map(step).collect()
}

#[test]
fn a_period_of_history_is_kept() {
    let retention = Retention::Period { ms: 2000 };
    let mut node = keeping(retention);
    for n in 0..60 {
        node.put(n % 2, ["a", "x"][n % 2], "1");
        node.tick(100);
    }
    let completed = Step::Completed { took_ms: 0 };
    let both = |at| [(at, Step::Starting), (at, completed)];
    assert_eq!(steps(&mut node), [both(2), both(20)].concat());
    assert_eq!(compacted(&node), [20, 20]);
    assert_eq!(node.all(1), "a=1@60 x=1@61", "the newest stays");
}

#[test]
fn what_somebody_compacted_already_is_done() {
    let mut node = keeping(Retention::Period { ms: 1000 });
    for _ in 0..5 {
        node.put(0, "a", "1");
        node.tick(100);
    }
    node.ask(1, Request::Compact { revision: 6, physical: false }).expect("compacted");
    for _ in 0..8 {
        node.tick(100);
    }
    assert_eq!(steps(&mut node), [(2, Step::Starting), (2, Step::Completed { took_ms: 0 })]);
    assert_eq!(compacted(&node), [6, 6]);
}

#[test]
fn a_number_of_revisions_is_kept() {
    let mut node = keeping(Retention::Revisions(10));
    for n in 0..30 {
        node.put(n % 2, "a", "1");
    }
    node.tick(100);
    node.tick(5 * 60 * 1000);
    assert_eq!(compacted(&node), [21, 21]);
    node.tick(5 * 60 * 1000);
    assert_eq!(steps(&mut node).len(), 2, "nothing new, nothing to do");
}

#[test]
fn a_damaged_store_keeps_its_history() {
    let mut node = keeping(Retention::Period { ms: 1000 });
    let alarm = pb::AlarmRequest { action: 1, member_id: 1, alarm: pb::AlarmType::Corrupt as i32 };
    node.put(0, "a", "1");
    node.ask(0, Request::Alarm(alarm)).expect("raised");
    for _ in 0..12 {
        node.tick(100);
    }
    let failed = Step::Failed { error: Error::Corrupt, retry_ms: 100 };
    assert_eq!(
        steps(&mut node),
        [(2, Step::Starting), (2, failed), (2, Step::Starting), (2, failed)]
    );
    assert_eq!(compacted(&node), [0, 0]);
}
