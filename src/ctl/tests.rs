//! Backups from file to file and into data directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::backup::Backup;
use super::failure::Failure;
use super::file::{BackupFile, Kind};
use super::restore::{Options, restore};
use super::status::{Format, status};
use super::verify::verify;
use super::{etcd, export, own};
use crate::checkpoint::{Manifest, Snapshot};
use crate::config::{self, Config};
use crate::engine::Ground;
use crate::keys::{KeyRange, Revision};
use crate::mvcc::base::Base;
use crate::mvcc::build::{Builder, Memory};

/// What the member answered that the backup of etcd was taken from.
const HASH_KV: u32 = 1_266_446_069;
const REVISION: Revision = Revision(21);
const COMPACTED: Revision = Revision(14);

fn of_etcd() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ctl/fixtures/etcd-3.7.snap")
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The backup of etcd as a member of cored would send it.
fn of_cored() -> Vec<u8> {
    changed_by(|_| ())
}

/// The same, as if the member had had another state beside its keys.
fn changed_by(change: impl FnOnce(&mut Backup)) -> Vec<u8> {
    let file = BackupFile::open(&of_etcd()).expect("a backup");
    let snapshot = etcd::Snapshot::open(file.bytes()).expect("sound");
    let (mut memory, mut versions) = (Memory::new(0), Vec::new());
    let mut builder = Builder::new(&mut memory, COMPACTED);
    let mut by_key = snapshot.by_key().expect("sound");
    while let Some(key) = by_key.next_into(&mut versions) {
        builder.add(key, &versions).expect("memory");
    }
    let blocks = builder.finish().expect("memory");
    let mut backup = snapshot.backup.clone();
    change(&mut backup);
    let manifest = Manifest {
        number: 7,
        cluster: 8,
        member: 9,
        at: REVISION,
        compacted: COMPACTED,
        cuts: Vec::new(),
        control: backup.control(),
        blocks,
    };
    let placed = Snapshot::of(&manifest);
    let mut stream = placed.head();
    for (from, to) in manifest.blocks.iter().zip(&placed.manifest.blocks) {
        stream.resize(to.offset as usize, 0);
        stream.extend_from_slice(&memory.bytes[from.offset as usize..][..from.len as usize]);
    }
    stream.resize(placed.bytes as usize, 0);
    stream
}

fn with_checksum(mut stream: Vec<u8>) -> Vec<u8> {
    let sum = Sha256::digest(&stream);
    stream.extend_from_slice(&sum);
    stream
}

fn flags(data_dir: &Path) -> Config {
    let flags = ["--name=m1".to_owned(), format!("--data-dir={}", data_dir.display())];
    config::read(flags, [], 2).expect("flags").0
}

fn without_auth() -> Options {
    Options { without_auth: true, ..Options::default() }
}

/// What a member would find in the directory.
fn found(data_dir: &Path) -> (Manifest, Base) {
    let directory = data_dir.join("checkpoint");
    let manifest = fs::read(directory.join("000000000001.manifest")).expect("a manifest");
    let manifest = Manifest::decode(&manifest).expect("sound");
    let blocks = fs::read(directory.join("000000000001.blocks")).expect("blocks");
    let files = BTreeMap::from([(1, Arc::new(blocks) as crate::mvcc::base::Mapped)]);
    let base = Base::open(manifest.at, manifest.blocks.clone(), files).expect("sound");
    base.touch(&KeyRange::all()).expect("sound");
    (manifest, base)
}

#[test]
fn a_backup_of_our_own_is_told_exported_and_restored() {
    let directory = temporary();
    let path = directory.path().join("own.snap");
    fs::write(&path, with_checksum(of_cored())).expect("written");
    assert_eq!(BackupFile::open(&path).expect("a backup").kind(), Kind::Own);
    let told = status(&path).expect("sound");
    assert_eq!((told.hash, told.revision, told.keys), (HASH_KV, REVISION, 13));
    assert!(told.show(Format::Simple).ends_with(", cored-1\n"));

    // As etcd's: what etcd had is all there.
    let exported = directory.path().join("etcd.snap");
    export::to_etcd(&BackupFile::open(&path).expect("a backup"), &exported).expect("written");
    assert_eq!(status(&exported).expect("sound").keys, 13);
    let (file, original) = (BackupFile::open(&exported), BackupFile::open(&of_etcd()));
    let (file, original) = (file.expect("a backup"), original.expect("a backup"));
    let back = etcd::Snapshot::open(file.bytes()).expect("sound");
    let original = etcd::Snapshot::open(original.bytes()).expect("sound");
    assert!(!original.backup.auth.users.is_empty() && !original.backup.auth.roles.is_empty());
    assert_eq!(back.backup, original.backup);
    let above = |snapshot: &etcd::Snapshot<'_>| -> Vec<String> {
        let versions = snapshot.versions().map(|version| version.expect("sound"));
        versions.filter(|v| v.modified > COMPACTED).map(|v| format!("{v:?}")).collect()
    };
    assert_eq!(above(&back), above(&original));

    // And as data directories, from each of the three.
    let mut members = Vec::new();
    for (number, path) in [path, exported, of_etcd()].iter().enumerate() {
        let data_dir = directory.path().join(number.to_string());
        let file = BackupFile::open(path).expect("a backup");
        let made = restore(&file, &flags(&data_dir), &Options::default()).expect("restored");
        let (manifest, base) = found(&data_dir);
        assert_eq!((manifest.at, manifest.compacted), (REVISION, COMPACTED));
        assert_eq!((manifest.cluster, manifest.member), (made.cluster, made.member));
        assert_eq!((base.live(), manifest.cuts.len()), (13, 2));
        let backup = Backup::of_control(&manifest.control, REVISION, COMPACTED).expect("sound");
        assert_eq!(backup, original.backup);
        members.push(made);
    }
    assert!(members[0] != members[1] && members[1] != members[2]);
}

#[test]
fn a_lease_keeps_its_time_and_what_was_left_of_it() {
    let directory = temporary();
    let path = directory.path().join("b.snap");
    let mut expected = Vec::new();
    let stream = changed_by(|backup| {
        assert!(backup.leases.len() > 1 && backup.leases[1].ttl > 5);
        (backup.leases[0].remaining, backup.leases[1].remaining) = (0, 5);
        expected = backup.leases.iter().map(|l| (l.id, (l.ttl, l.remaining))).collect();
    });
    fs::write(&path, with_checksum(stream)).expect("written");
    let exported = directory.path().join("etcd.snap");
    export::to_etcd(&BackupFile::open(&path).expect("a backup"), &exported).expect("written");
    for path in [path, exported] {
        let data_dir = path.with_extension("d");
        let file = BackupFile::open(&path).expect("a backup");
        restore(&file, &flags(&data_dir), &Options::default()).expect("restored");
        let ground = Ground::of(&found(&data_dir).0).expect("sound");
        let leases: Vec<_> = ground.control.leases.into_iter().collect();
        assert_eq!(leases, expected, "{path:?}");
    }
}

#[test]
fn what_asks_for_passwords_is_not_restored_unguarded() {
    let directory = temporary();
    let path = directory.path().join("own.snap");
    fs::write(&path, with_checksum(changed_by(|backup| backup.auth.enabled = true)))
        .expect("written");
    let file = BackupFile::open(&path).expect("a backup");
    let data_dir = directory.path().join("d");
    let refused = restore(&file, &flags(&data_dir), &Options::default()).expect_err("refused");
    assert!(refused.code() == 1 && refused.to_string().contains("--without-auth"), "{refused}");
    assert!(!data_dir.exists());
    restore(&file, &flags(&data_dir), &without_auth()).expect("restored");
    let control = found(&data_dir).0.control;
    let backup = Backup::of_control(&control, REVISION, COMPACTED).expect("sound");
    assert!(backup.auth.is_empty() && !backup.leases.is_empty(), "{backup:?}");
    // etcd can check, so what goes there keeps it.
    let exported = directory.path().join("etcd.snap");
    export::to_etcd(&file, &exported).expect("written");
    let exported = BackupFile::open(&exported).expect("a backup");
    let auth = etcd::Snapshot::open(exported.bytes()).expect("sound").backup.auth;
    assert!(auth.enabled && auth.users.len() == 2, "{auth:?}");
}

#[test]
fn a_moved_revision_counts_as_compacted() {
    let directory = temporary();
    let file = BackupFile::open(&of_etcd()).expect("a backup");
    let options = Options { bump_revision: 1000, mark_compacted: true, ..without_auth() };
    let data_dir = directory.path().join("d");
    restore(&file, &flags(&data_dir), &options).expect("restored");
    let (manifest, base) = found(&data_dir);
    assert_eq!((manifest.at, manifest.compacted), (Revision(1021), Revision(1021)));
    assert_eq!((base.keys(), base.versions(), base.live()), (13, 13, 13));
    let backup = Backup::of_control(&manifest.control, manifest.at, Revision::ZERO);
    assert_eq!(backup.expect("sound").compacted, Revision(1021));

    for bump_revision in [1 << 62, u64::MAX] {
        let options = Options { bump_revision, ..options.clone() };
        let error = restore(&file, &flags(&directory.path().join("e")), &options);
        assert!(matches!(error, Err(Failure::Refused(_))), "{error:?}");
    }
}

#[test]
fn nothing_that_exists_is_touched() {
    let directory = temporary();
    let file = BackupFile::open(&of_etcd()).expect("a backup");
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).expect("made");
    let full = directory.path().join("full");
    fs::create_dir(&full).expect("made");
    fs::write(full.join("x"), "x").expect("written");

    let data_dir = directory.path().join("d");
    let refused = |data_dir: &Path, options: &Options| {
        let error = restore(&file, &flags(data_dir), options).expect_err("refused");
        (error.code(), error.to_string())
    };
    let (code, text) = refused(&full, &without_auth());
    assert!(code == 15 && text.ends_with("not empty or could not be read"), "{text}");
    let (code, text) = refused(&full.join("x"), &without_auth());
    assert!(code == 15 && text.ends_with("not empty or could not be read"), "{text}");
    let wal_dir = Options { wal_dir: Some(full.clone()), ..without_auth() };
    let (code, text) = refused(&data_dir, &wal_dir);
    assert!(code == 15 && text.starts_with("wal-dir") && text.ends_with("exists"), "{text}");
    let (code, text) = refused(&data_dir, &Options { bump_revision: 1, ..without_auth() });
    assert_eq!((code, text.as_str()), (2, "--mark-compacted required if --revision-bump > 0"));
    let (code, text) = refused(&data_dir, &Options { mark_compacted: true, ..without_auth() });
    assert_eq!((code, text.as_str()), (2, "--mark-compacted required if --revision-bump > 0"));
    restore(&file, &flags(&empty), &without_auth()).expect("an empty one is as good as none");
}

#[test]
fn a_checksum_that_is_missing_or_wrong() {
    let directory = temporary();
    let data_dir = directory.path().join("d");
    let path = directory.path().join("b.snap");
    let whole = fs::read(of_etcd()).expect("read");
    for (kind, sound) in [("etcd", whole[..whole.len() - 32].to_vec()), ("cored", of_cored())] {
        fs::write(&path, &sound).expect("written");
        let file = BackupFile::open(&path).expect("a backup");
        let error = restore(&file, &flags(&data_dir), &without_auth()).expect_err("refused");
        let text = error.to_string();
        assert_eq!(text, "snapshot missing hash but --skip-hash-check=false", "{kind}");
        status(&path).expect("a status needs none");

        let mut wrong = with_checksum(sound.clone());
        *wrong.last_mut().expect("a byte") ^= 1;
        fs::write(&path, &wrong).expect("written");
        let file = BackupFile::open(&path).expect("a backup");
        let error = restore(&file, &flags(&data_dir), &without_auth()).expect_err("refused");
        assert_eq!(error.code(), 19, "{kind}: {error}");
        assert!(error.to_string().contains("expected sha256"), "{kind}: {error}");
        assert!(!data_dir.exists());
        let skip = Options { skip_hash_check: true, ..without_auth() };
        restore(&file, &flags(&data_dir), &skip).expect("nothing else is wrong");
        fs::remove_dir_all(&data_dir).expect("removed");
    }
}

/// With the checksum any change shows; without it the checksums of the parts remain, for all but the
/// zeros between them.
#[test]
fn damage_to_a_backup_of_our_own_is_found() {
    let directory = temporary();
    let (path, data_dir) = (directory.path().join("b"), directory.path().join("d"));
    let sound = of_cored();
    let zeros = |at: usize| {
        let rest = &sound[at..];
        rest[..rest.len().min(8)].iter().all(|byte| *byte == 0)
    };
    let mut accepted = 0;
    for at in (0..sound.len()).step_by(37) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).expect("written");
        let Ok(file) = BackupFile::open(&path) else { continue };
        match own::Snapshot::open(&file).map(|snapshot| snapshot.check()) {
            Ok(Ok(())) => {
                assert!(zeros(at.saturating_sub(4)), "byte {at}");
                accepted += 1;
            }
            _ => {
                let skip = Options { skip_hash_check: true, ..without_auth() };
                let error = restore(&file, &flags(&data_dir), &skip).expect_err("damaged");
                assert!([16, 19].contains(&error.code()), "byte {at}: {error}");
                assert!(!data_dir.exists(), "byte {at}");
            }
        }
    }
    assert!(accepted < sound.len() / 37 / 2, "{accepted}");
    for len in [8, 100, 4096, 5000, sound.len() - 4096, sound.len() - 1] {
        fs::write(&path, &sound[..len]).expect("written");
        let file = BackupFile::open(&path).expect("it begins as one");
        let error = own::Snapshot::open(&file).expect_err("cut");
        assert_eq!(error.code(), 19, "{len}: {error}");
    }
}

#[test]
fn backups_and_data_directories_are_verified() {
    let directory = temporary();
    let data_dir = directory.path().join("d");
    let file = BackupFile::open(&of_etcd()).expect("a backup");
    restore(&file, &flags(&data_dir), &without_auth()).expect("restored");
    let told = verify(&data_dir, None).expect("sound");
    assert!(told.contains("checkpoint at revision 21: 13 keys in 1 blocks, sound\n"), "{told}");
    assert!(verify(&of_etcd(), None).expect("sound").ends_with("its checksum is right\n"));

    for (name, step, code) in [
        ("checkpoint/000000000001.blocks", 97, 19),
        ("checkpoint/000000000001.manifest", 7, 19),
        ("identity", 5, 15),
    ] {
        let path = data_dir.join(name);
        let sound = fs::read(&path).expect("read");
        // The last block ends before its file does: only zeros follow.
        let end = sound.len() - sound.iter().rev().take_while(|byte| **byte == 0).count();
        for at in (0..end).step_by(step) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).expect("written");
            let error = verify(&data_dir, None).expect_err("damaged");
            // The version's bytes can say that a later release wrote it.
            assert!(error.code() == code || error.code() == 16, "{name} {at}: {error}");
        }
        fs::remove_file(&path).expect("removed");
        verify(&data_dir, None).expect_err("missing");
        fs::write(&path, &sound).expect("written");
    }
    verify(&data_dir, None).expect("as before");
    assert_eq!(verify(directory.path(), None).expect_err("no member's").code(), 15);
    assert_eq!(verify(&directory.path().join("none"), None).expect_err("nothing").code(), 14);
}
