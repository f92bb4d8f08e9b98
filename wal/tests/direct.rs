//! The log on real files: what is written is read back by the next process, files are prepared and
//! recycled in the background, and what is not ours or not possible is refused by name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use cored_wal::disk::direct::{DirectDisk, Directory};
use cored_wal::{Error, Log, Options, Recovered};
use tempfile::TempDir;

/// A directory on the file system of the build, since a temporary one may be memory.
fn scratch() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test")
}

fn small() -> Options {
    Options { segment_bytes: 64 << 10, group_bytes_max: 8 << 10, salt: 7, ..Options::default() }
}

fn open(
    directory: &Arc<Directory>,
    options: &Options,
) -> (Log<DirectDisk>, Recovered, Vec<Vec<u8>>) {
    let disk = DirectDisk::open(directory, options.log).expect("a disk");
    let mut records = Vec::new();
    let (log, recovered) = Log::open(disk, options.clone(), |record| {
        if !record.carry {
            records.push(record.payload.to_vec());
        }
    })
    .expect("the log opens");
    (log, recovered, records)
}

fn names(directory: &Directory) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).expect("readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn records_survive_many_segments_and_reopening() {
    let scratch = scratch();
    let directory = Directory::open(scratch.path().join("a/wal")).unwrap();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for round in 0..5_u8 {
        let (mut log, recovered, records) = open(&directory, &small());
        assert_eq!(records, expected, "round {round}");
        assert!(recovered.torn.is_none());
        for number in 0..100_u8 {
            let payload = vec![number ^ round; 1000 + usize::from(number) * 30];
            log.append(3, 1, &[&payload]);
            log.submit().unwrap();
            expected.push(payload);
            if number % 10 == 0 {
                log.flush().unwrap();
            }
        }
        log.close().unwrap();
    }
    assert!(names(&directory).len() > 20, "it took many segments");
}
