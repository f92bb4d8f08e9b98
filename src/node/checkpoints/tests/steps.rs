//! A checkpoint that ends at each of its steps on the disk: because the disk is full there, or because
//! the process is killed. What was there before is there after, and the next attempt works.

use std::process::Command;

use super::*;
use crate::node::files::steps::{self, Happens};

const KEYS: usize = 3_000;

/// Directory and step of a child that is to be killed.
const CHILD: &str = "CORED_TEST_KILLED_AT";

/// The second checkpoint of a directory: some blocks are new, some are named again.
fn second(checkpoints: &Checkpoints) -> Build {
    changes(checkpoints, [0, KEYS - 1, KEYS], 2, true)
}

/// The first or second checkpoint, whichever a start would find.
fn assert_whole(disk: &Disk) -> u64 {
    let found = Checkpoints::read(disk.directory.path(), &disk.identity).expect("a checkpoint");
    let Found { manifest, base } = newest(&found);
    assert_eq!(base.touch(&KeyRange::all()), Ok(()));
    let is_second = manifest.at > Revision(KEYS as i64 + 1);
    let expected = if is_second { [Some(2), Some(1), Some(2)] } else { [Some(1), Some(1), None] };
    assert_eq!([0, 1, KEYS].map(|number| value(newest(&found), number)), expected);
    manifest.number
}

#[test]
fn a_disk_that_is_full_at_any_step_changes_nothing_and_the_next_attempt_works() {
    for first in [true, false] {
        let mut failed = 0;
        for step in 0.. {
            let (disk, mut checkpoints) = if first {
                let disk = Disk::new();
                let checkpoints = disk.open();
                (disk, checkpoints)
            } else {
                Disk::with(KEYS)
            };
            let build =
                if first { changes(&checkpoints, 0..KEYS, 1, true) } else { second(&checkpoints) };
            steps::plan(Some((step, Happens::Full)));
            let built = checkpoints.build(&build);
            let taken = steps::taken();
            steps::plan(None);
            if let Err(error) = &built {
                assert!(error.is_full(), "step {step}: {error}");
                failed += 1;
                let left = disk.names();
                // What has its name stays, if only the identity could not be written.
                let named = left.iter().any(|name| name == MANIFEST_1) || !first;
                assert_eq!(left.len(), if named { 2 } else { 0 }, "step {step}: {left:?}");
                if !first {
                    assert_eq!(assert_whole(&disk), 1, "step {step}");
                }
                checkpoints.build(&build).unwrap_or_else(|error| panic!("step {step}: {error}"));
            }
            if first {
                assert_eq!(newest(&disk.open()).base.keys(), KEYS as u64);
            } else {
                assert!(assert_whole(&disk) > 1, "step {step}");
            }
            drop(checkpoints);
            assert_eq!(newest(&disk.open()).base.touch(&KeyRange::all()), Ok(()));
            if taken <= step {
                break;
            }
        }
        assert!(failed > 8, "only {failed} steps");
    }
}

#[test]
fn child_that_is_killed_at_a_step() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (step, path) = told.split_once(' ').expect("a step and a directory");
    let identity = Disk::new().identity;
    let mut checkpoints = Checkpoints::open(Path::new(path), &identity).expect("a directory");
    let build = match checkpoints.newest() {
        Some(_) => second(&checkpoints),
        None => changes(&checkpoints, 0..KEYS, 1, true),
    };
    steps::plan(Some((step.parse().expect("a number"), Happens::Killed)));
    checkpoints.build(&build).expect("a checkpoint");
    drop(build);
    checkpoints.tidy_up();
}

#[test]
fn a_process_that_is_killed_at_any_step_leaves_the_old_checkpoint_or_the_new_one() {
    let mut found = [0; 3];
    for step in 0.. {
        let (disk, checkpoints) = Disk::with(KEYS);
        drop(checkpoints);
        let path = disk.directory.path().display();
        let mut child = Command::new(std::env::current_exe().expect("a program"));
        let name = "node::checkpoints::tests::steps::child_that_is_killed_at_a_step";
        child.args(["--exact", name, "--nocapture"]).env(CHILD, format!("{step} {path}"));
        let output = child.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let killed = output.status.code() == Some(9);
        assert!(killed || output.status.success(), "step {step}: {said}");
        found[assert_whole(&disk) as usize] += 1;
        // A start clears up and goes on.
        let mut again = disk.open();
        again.tidy_up();
        assert_eq!(disk.names().iter().filter(|name| name.ends_with(MANIFEST)).count(), 1);
        let build = second(&again);
        again.build(&build).unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_whole(&disk);
        if !killed {
            break;
        }
    }
    assert!(found[1] > 6 && found[2] > 0, "old and new were found {found:?} times");
}
