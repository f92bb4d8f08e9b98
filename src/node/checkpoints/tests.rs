//! Directories of checkpoints as they may be found, and what building leaves in them.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::keys::{KeyRange, LeaseId, Revision};
use crate::lane::Cut;
use crate::mvcc::Store;

mod steps;

const LANES: u16 = 2;
/// So that four keys make up a kilobyte, and a thousand of them a block.
const VALUE_BYTES: usize = 256;

/// A data directory beside the test program: on a disk, where a temporary directory may not be.
struct Disk {
    directory: tempfile::TempDir,
    identity: Identity,
}

impl Disk {
    fn new() -> Disk {
        let program = std::env::current_exe().expect("a program");
        let beside = program.parent().expect("it is in a directory");
        Disk {
            directory: tempfile::tempdir_in(beside).expect("a temporary directory"),
            identity: Identity {
                cluster: 7,
                member: 9,
                lanes: LANES,
                checkpoint: false,
                logs: 1,
                name: "n".to_owned(),
            },
        }
    }

    fn try_open(&self) -> Result<Checkpoints, Failure> {
        Checkpoints::open(self.directory.path(), &self.identity)
    }

    fn open(&self) -> Checkpoints {
        self.try_open().expect("a directory that can be used")
    }

    /// A directory with one checkpoint of keys 0 to `keys`.
    fn with(keys: usize) -> (Disk, Checkpoints) {
        let disk = Disk::new();
        let mut checkpoints = disk.open();
        write(&mut checkpoints, 0..keys, 1).expect("a checkpoint");
        (disk, checkpoints)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(DIRECTORY).join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join(DIRECTORY)).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Changes a file.
    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file(name)).expect("readable");
        change(&mut bytes);
        fs::write(self.file(name), bytes).expect("written");
    }

    /// Changes the manifest of checkpoint 1 as if it had been written so.
    fn rewrite(&self, change: impl FnOnce(&mut Manifest)) {
        self.change(MANIFEST_1, |bytes| {
            let mut manifest = Manifest::decode(bytes).expect("a manifest");
            change(&mut manifest);
            *bytes = manifest.encode();
        });
    }

    /// How an open fails: the exit code and the message.
    fn refusal(&self) -> (u8, String) {
        match self.try_open() {
            Err(failure) => (failure.code(), failure.to_string()),
            Ok(_) => panic!("it opens"),
        }
    }

    fn assert_refused(&self, code: u8, parts: &[&str]) {
        let (found, message) = self.refusal();
        assert_eq!(found, code, "{message}");
        for part in parts {
            assert!(message.contains(part), "no word of {part:?} in: {message}");
        }
    }
}

const MANIFEST_1: &str = "000000000001.manifest";
const BLOCKS_1: &str = "000000000001.blocks";

fn key(number: usize) -> String {
    format!("key-{number:08}")
}

/// What a checkpoint is built from when these keys were written since the newest one.
fn changes(
    checkpoints: &Checkpoints,
    keys: impl IntoIterator<Item = usize>,
    value: u8,
    compact: bool,
) -> Build {
    let newest = checkpoints.newest();
    let mut at = newest.map_or(Revision(1), |found| found.manifest.at);
    let mut store = Store::new();
    for number in keys {
        at = at.next();
        store.put((at, 0), key(number).as_bytes(), &[value; VALUE_BYTES], LeaseId::NONE);
    }
    store.freeze(at);
    Build {
        at,
        compacted: if compact { at } else { Revision::ZERO },
        cuts: vec![Cut { index: at.0 as u64, term: 1 }; usize::from(LANES)].into(),
        control: Vec::new(),
        layers: store.frozen().cloned().into_iter().collect(),
        base: newest.map(|found| Arc::clone(&found.base)),
    }
}

/// Makes the next checkpoint, in which these keys have this value and no history, as the thread that builds
/// them does.
fn write(
    checkpoints: &mut Checkpoints,
    keys: impl IntoIterator<Item = usize>,
    value: u8,
) -> Result<Found, BuildError> {
    let build = changes(checkpoints, keys, value, true);
    let found = checkpoints.build(&build);
    drop(build);
    checkpoints.tidy_up();
    found
}

fn value(found: &Found, number: usize) -> Option<u8> {
    let newest = found.base.newest(key(number).as_bytes()).expect("a whole block");
    newest.map(|version| version.value[0])
}

fn newest(checkpoints: &Checkpoints) -> &Found {
    checkpoints.newest().expect("a checkpoint")
}

#[test]
fn what_was_built_is_found_again() {
    let disk = Disk::new();
    let mut checkpoints = disk.open();
    assert!(checkpoints.newest().is_none());
    assert_eq!(checkpoints.ground().expect("nothing"), Ground::default());
    let built = write(&mut checkpoints, 0..5_000, 1).expect("a checkpoint");
    assert_eq!(disk.names(), [BLOCKS_1, MANIFEST_1]);
    for name in disk.names() {
        let mode = fs::metadata(disk.file(&name)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE, "{name}");
    }
    drop(checkpoints);

    let again = disk.open();
    assert_eq!(newest(&again).manifest, built.manifest);
    let ground = again.ground().expect("sense");
    assert_eq!((ground.at, ground.lanes), (Revision(5_001), built.manifest.cuts.clone()));
    assert_eq!(newest(&again).base.touch(&KeyRange::all()), Ok(()));
    assert_eq!((value(newest(&again), 0), value(newest(&again), 4_999)), (Some(1), Some(1)));
    assert_eq!(value(newest(&again), 5_000), None);
}

#[test]
fn nothing_is_a_checkpoint_too() {
    let (disk, checkpoints) = Disk::with(0);
    assert_eq!(newest(&checkpoints).base.keys(), 0);
    assert_eq!(disk.names(), [MANIFEST_1], "a file without a block does not stay");
    assert_eq!(newest(&disk.open()).manifest, newest(&checkpoints).manifest);
}

#[test]
fn a_damaged_manifest_is_never_passed_over() {
    let (disk, _) = Disk::with(2_000);
    let whole = fs::read(disk.file(MANIFEST_1)).expect("readable");
    for len in (0..whole.len()).step_by(7) {
        disk.change(MANIFEST_1, |bytes| bytes.truncate(len));
        disk.assert_refused(19, &[MANIFEST_1, "the logs no longer hold what it holds"]);
        fs::write(disk.file(MANIFEST_1), &whole).expect("written");
    }
    for bit in 0..whole.len() * 8 {
        disk.change(MANIFEST_1, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        disk.assert_refused(19, &[MANIFEST_1]);
        fs::write(disk.file(MANIFEST_1), &whole).expect("written");
    }
    // An older one in the directory does not help: the logs reach back to the newest only.
    fs::write(disk.file("000000000002.manifest"), &whole[..100]).expect("written");
    disk.assert_refused(19, &["000000000002.manifest"]);
    assert_eq!(disk.names(), [BLOCKS_1, MANIFEST_1, "000000000002.manifest"], "nothing is removed");
}

#[test]
fn a_manifest_that_is_not_this_members_is_refused() {
    let (disk, _) = Disk::with(100);
    let whole = fs::read(disk.file(MANIFEST_1)).expect("readable");
    let back = || fs::write(disk.file(MANIFEST_1), &whole).expect("written");

    disk.change(MANIFEST_1, |bytes| {
        bytes[12] = 9;
        let crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    });
    disk.assert_refused(16, &[MANIFEST_1, "has format 9", "reads up to 1"]);
    back();
    disk.rewrite(|manifest| manifest.cluster = 0xabc);
    disk.assert_refused(15, &["member 0000000000000009 of cluster 0000000000000abc"]);
    back();
    disk.rewrite(|manifest| manifest.member = 0xdef);
    disk.assert_refused(15, &["member 0000000000000def"]);
    back();
    disk.rewrite(|manifest| manifest.cuts.truncate(1));
    disk.assert_refused(19, &[MANIFEST_1, "it is of 1 lanes"]);
    back();
    disk.rewrite(|manifest| manifest.control = vec![0xff; 9]);
    let ground = disk.open().ground().expect_err("control records of no kind");
    assert_eq!(ground.code(), 19, "{ground}");
    back();
    disk.open();
}

#[test]
fn a_file_of_blocks_that_is_missing_or_cut_is_told_at_once() {
    let (disk, _) = Disk::with(5_000);
    let whole = fs::read(disk.file(BLOCKS_1)).expect("readable");
    disk.change(BLOCKS_1, |bytes| bytes.truncate(bytes.len() / 2));
    disk.assert_refused(19, &[MANIFEST_1, "of file 1: it ends behind the end of the file"]);
    fs::write(disk.file(BLOCKS_1), []).expect("written");
    disk.assert_refused(19, &[MANIFEST_1]);
    fs::remove_file(disk.file(BLOCKS_1)).expect("removed");
    disk.assert_refused(19, &[MANIFEST_1, "No such file"]);
    fs::write(disk.file(BLOCKS_1), whole).expect("written");
    assert_eq!(newest(&disk.open()).base.touch(&KeyRange::all()), Ok(()));
}

#[test]
fn a_damaged_block_is_told_when_it_is_touched_and_can_not_be_built_upon() {
    let (disk, _) = Disk::with(5_000);
    disk.change(BLOCKS_1, |bytes| bytes[1_000] ^= 1);
    let mut checkpoints = disk.open();
    let base = Arc::clone(&newest(&checkpoints).base);
    assert_eq!(value(newest(&checkpoints), 4_999), Some(1));
    let corrupt = base.newest(key(0).as_bytes()).expect_err("a flipped bit");
    assert_eq!((corrupt.file, corrupt.block, corrupt.offset), (1, 0, 0));
    let error = write(&mut checkpoints, [0], 2).expect_err("it has to be read");
    assert!(matches!(&error, BuildError::Corrupt(found) if *found == corrupt), "{error}");
    // Where nothing changes, nothing is read.
    let found = write(&mut checkpoints, [4_999], 2).expect("other blocks");
    assert_eq!(value(&found, 4_999), Some(2));
    assert_eq!(found.base.newest(key(0).as_bytes()).expect_err("still").offset, 0);
}

#[test]
fn what_an_interrupted_process_left_is_removed_at_a_start() {
    let (disk, checkpoints) = Disk::with(100);
    let before = newest(&checkpoints).manifest.clone();
    drop(checkpoints);
    let whole = fs::read(disk.file(MANIFEST_1)).expect("readable");
    fs::write(disk.file("000000000002.blocks"), vec![7; 10_000]).expect("written");
    fs::write(disk.file("000000000002.manifest.new"), &whole[..50]).expect("written");
    fs::write(disk.file("000000000000.manifest"), "older, and not read").expect("written");
    fs::write(disk.file("notes.txt"), "somebody's").expect("written");
    let reading = Checkpoints::read(disk.directory.path(), &disk.identity).expect("whole");
    assert_eq!((newest(&reading).manifest.clone(), disk.names().len()), (before.clone(), 6));

    let mut again = disk.open();
    assert_eq!(newest(&again).manifest, before);
    again.tidy_up();
    assert_eq!(disk.names(), [BLOCKS_1, MANIFEST_1, "notes.txt"]);
    // The number that was begun is not given out again.
    write(&mut again, [5], 2).expect("a checkpoint");
    assert_eq!(newest(&disk.open()).manifest.number, 3);
}

#[test]
fn blocks_that_did_not_change_are_named_and_not_copied() {
    let (disk, mut checkpoints) = Disk::with(10_000);
    let first = newest(&checkpoints).manifest.clone();
    let found = write(&mut checkpoints, [5_000], 2).expect("a checkpoint");
    let reused = found.manifest.blocks.iter().filter(|row| first.blocks.contains(row)).count();
    let new = found.manifest.blocks.iter().filter(|row| row.file == 2).count();
    assert!(reused >= first.blocks.len() - 2 && (1..=2).contains(&new), "{reused} and {new}");
    let written = fs::metadata(disk.file("000000000002.blocks")).expect("a file").len();
    assert!(written <= 2 << 20, "{written} bytes for one key");
    assert_eq!(
        disk.names(),
        [BLOCKS_1, "000000000002.blocks", "000000000002.manifest"],
        "the older manifest is gone"
    );
    drop(checkpoints);
    let again = disk.open();
    assert_eq!(newest(&again).base.touch(&KeyRange::all()), Ok(()));
    assert_eq!((value(newest(&again), 5_000), value(newest(&again), 5_001)), (Some(2), Some(1)));
    // All of it changed: the first file has nothing left.
    let mut checkpoints = again;
    let reader = Arc::clone(&newest(&checkpoints).base);
    write(&mut checkpoints, 0..10_000, 3).expect("a checkpoint");
    assert_eq!(reader.touch(&KeyRange::all()), Ok(()), "what somebody reads is not cut away");
    drop(reader);
    checkpoints.tidy_up();
    assert_eq!(disk.names(), ["000000000003.blocks", "000000000003.manifest"]);
}

/// Makes two attempts fail, which must change nothing that a start finds; the next one works. Each has a
/// number of its own, so each finds something in the way of its file of this `kind`.
fn assert_survives(kind: &str) {
    let (disk, mut checkpoints) = Disk::with(3_000);
    let before = newest(&checkpoints).manifest.clone();
    let build = changes(&checkpoints, [0, 2_999, 3_000], 2, true);
    for number in 2..4 {
        let name = format!("{number:012}.{kind}");
        fs::create_dir(disk.file(&name)).expect("a directory where a file should be");
        let error = checkpoints.build(&build).expect_err("it can not be built");
        let message = error.to_string();
        assert!(message.contains(&format!("{number:012}.")), "no word of the file in: {message}");
        assert_eq!(newest(&checkpoints).manifest, before);
        let found = Checkpoints::read(disk.directory.path(), &disk.identity).expect("the old one");
        assert_eq!(newest(&found).manifest, before);
        assert_eq!(newest(&found).base.touch(&KeyRange::all()), Ok(()));
        fs::remove_dir(disk.file(&name)).expect("empty");
    }
    let found = checkpoints.build(&build).expect("nothing is in the way now");
    assert_eq!((found.manifest.number, value(&found, 3_000)), (4, Some(2)));
    let again = disk.open();
    assert_eq!(newest(&again).manifest, found.manifest);
    assert_eq!(newest(&again).base.touch(&KeyRange::all()), Ok(()));
}

#[test]
fn an_attempt_that_fails_leaves_the_old_checkpoint() {
    assert_survives("blocks");
    assert_survives("manifest.new");
}

#[test]
fn a_checkpoint_counts_though_what_is_left_over_can_not_be_removed() {
    let (disk, mut checkpoints) = Disk::with(3_000);
    let stays = disk.file("000000000000.manifest.new");
    fs::create_dir(&stays).expect("a directory where a file should be");
    write(&mut checkpoints, 0..3_000, 2).expect("it is durable");
    write(&mut checkpoints, [1], 3).expect("and built upon");
    fs::remove_dir(&stays).expect("empty");
    let found = write(&mut checkpoints, 0..3_000, 4).expect("a checkpoint");
    assert_eq!(disk.names(), ["000000000004.blocks", "000000000004.manifest"]);
    assert_eq!(newest(&disk.open()).manifest, found.manifest);
}

/// Bytes that a file takes on the disk.
fn taken(disk: &Disk, name: &str) -> u64 {
    fs::metadata(disk.file(name)).expect("a file").blocks() * 512
}

#[test]
fn dead_blocks_become_holes_when_nobody_can_read_them() {
    let (disk, mut checkpoints) = Disk::with(20_000);
    let len = fs::metadata(disk.file(BLOCKS_1)).expect("a file").len();
    let whole = taken(&disk, BLOCKS_1);
    assert!(whole >= len / 2, "{whole} of {len}");
    let reader = Arc::clone(&newest(&checkpoints).base);
    write(&mut checkpoints, 0..10_000, 2).expect("a checkpoint");
    assert_eq!(taken(&disk, BLOCKS_1), whole, "somebody still reads the older image");
    assert_eq!(reader.touch(&KeyRange::all()), Ok(()));

    drop(reader);
    write(&mut checkpoints, [1], 3).expect("a checkpoint");
    let left = taken(&disk, BLOCKS_1);
    assert!(left < whole * 2 / 3, "{left} of {whole} bytes are left");
    assert_eq!(fs::metadata(disk.file(BLOCKS_1)).expect("a file").len(), len);
    drop(checkpoints);
    let again = disk.open();
    assert_eq!(newest(&again).base.touch(&KeyRange::all()), Ok(()));
    assert_eq!((value(newest(&again), 1), value(newest(&again), 2)), (Some(3), Some(2)));
    assert_eq!(value(newest(&again), 19_999), Some(1));
}

#[test]
fn a_start_makes_the_holes_that_a_reader_prevented() {
    let (disk, mut checkpoints) = Disk::with(20_000);
    let whole = taken(&disk, BLOCKS_1);
    let reader = Arc::clone(&newest(&checkpoints).base);
    write(&mut checkpoints, 0..10_000, 2).expect("a checkpoint");
    drop((checkpoints, reader));
    disk.open().tidy_up();
    assert!(taken(&disk, BLOCKS_1) < whole * 2 / 3);
}

#[test]
fn files_do_not_become_many() {
    let (disk, mut checkpoints) = Disk::with(60_000);
    // Each writes a block or two that no later one changes.
    for round in 0..FILES_MAX + 8 {
        write(&mut checkpoints, [round * 1_400], 2).expect("a checkpoint");
        let files = disk.names().iter().filter(|name| name.ends_with(BLOCKS)).count();
        assert!(files <= FILES_MAX + 1, "{files} files after {round} changes");
    }
    let files = disk.names().len() - 1;
    assert!(files > FILES_MAX / 2, "{files} files: the limit was never near");
    drop(checkpoints);
    let again = disk.open();
    assert_eq!(newest(&again).base.touch(&KeyRange::all()), Ok(()));
    for round in 0..FILES_MAX + 8 {
        assert_eq!(value(newest(&again), round * 1_400), Some(2));
        assert_eq!(value(newest(&again), round * 1_400 + 1), Some(1));
    }
}

#[test]
fn a_damaged_block_is_not_gathered() {
    let (disk, mut checkpoints) = Disk::with(60_000);
    for round in 0..FILES_MAX {
        write(&mut checkpoints, [round * 1_400], 2).expect("a checkpoint");
    }
    drop(checkpoints);
    // The file with the fewest bytes is among those that would be gathered next.
    let files: Vec<_> = disk.names().into_iter().filter(|name| name.ends_with(BLOCKS)).collect();
    for name in &files[1..] {
        disk.change(name, |bytes| bytes[100] ^= 1);
    }
    let mut checkpoints = disk.open();
    let before = newest(&checkpoints).manifest.clone();
    let failed = (0..8).find_map(|n| write(&mut checkpoints, [45_000 + n * 1_400], 2).err());
    assert!(matches!(failed, Some(BuildError::Corrupt(_))), "{failed:?} after {}", before.number);
    assert!(newest(&disk.open()).manifest.number >= before.number);
}

#[test]
fn reading_the_disk_through_finds_what_rotted() {
    let (disk, checkpoints) = Disk::with(3_000);
    let blocks = newest(&checkpoints).manifest.blocks.clone();
    for number in 0..blocks.len() {
        assert!(checkpoints.scrub(number).expect("whole"));
    }
    assert!(!checkpoints.scrub(blocks.len()).expect("no such block"));
    assert_eq!(newest(&checkpoints).base.fault(), None);

    let at = blocks[1].offset as usize + 100;
    let mut bytes = fs::read(disk.file(BLOCKS_1)).expect("readable");
    bytes[at] ^= 4;
    fs::write(disk.file(BLOCKS_1), bytes).expect("writable");
    assert!(checkpoints.scrub(0).expect("whole"));
    let error = checkpoints.scrub(1).expect_err("a bit has flipped").to_string();
    assert!(error.contains(BLOCKS_1) && error.contains(&blocks[1].offset.to_string()), "{error}");
    assert!(newest(&checkpoints).base.fault().is_some());
    assert_eq!(newest(&checkpoints).base.bad_reads(), 1);
}

#[test]
fn what_reads_back_differently_is_refused() {
    let (disk, checkpoints) = Disk::with(3_000);
    let blocks = newest(&checkpoints).manifest.blocks.clone();
    let path = disk.file(BLOCKS_1);
    checkpoints.read_back(&path, blocks.iter()).expect("as it was written");
    let last = blocks.last().expect("some");
    disk.change(BLOCKS_1, |bytes| bytes[last.offset as usize] ^= 1);
    let error = checkpoints.read_back(&path, blocks.iter()).expect_err("a bit has flipped");
    assert!(matches!(error, BuildError::ReadBack { offset, .. } if offset == last.offset));
}
