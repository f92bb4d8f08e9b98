use std::io::Cursor;

use super::*;

fn of_etcd() -> &'static [u8] {
    let bytes = include_bytes!("../fixtures/etcd-3.7.snap");
    &bytes[..bytes.len() - 32]
}

fn copied(snapshot: &Snapshot<'_>) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).expect("memory");
    let mut keys = writer.keys();
    for version in snapshot.versions() {
        keys.put(&version.expect("sound")).expect("ascending");
    }
    keys.finish().expect("memory");
    writer.finish(&snapshot.backup).expect("memory").0.into_inner()
}

fn versions<'a>(snapshot: &Snapshot<'a>) -> Vec<VersionRef<'a>> {
    snapshot.versions().collect::<Result<_, _>>().expect("sound")
}

/// HashKV at the revision of the backup.
fn hash(versions: &[VersionRef<'_>], compacted: Revision) -> u32 {
    let newest: std::collections::BTreeMap<&[u8], Position> =
        versions.iter().map(|version| (version.key, version.position())).collect();
    let is_shadowed = |version: &VersionRef<'_>| {
        version.is_tombstone() || newest[version.key] != version.position()
    };
    let mut digest = crate::mvcc::Digest::new();
    for version in versions {
        if version.modified <= compacted && is_shadowed(version) {
            continue;
        }
        let mut record = Vec::new();
        crate::mvcc::push_record(version, &mut record);
        digest.add(&record);
    }
    digest.value()
}

#[test]
fn reads_a_backup_of_etcd() {
    let snapshot = Snapshot::open(of_etcd()).expect("sound");
    snapshot.check().expect("sound");
    let Backup { revision, compacted, leases, alarms, auth } = &snapshot.backup;
    assert_eq!((*revision, *compacted), (Revision(21), Revision(14)));
    assert_eq!(snapshot.version.as_deref(), Some("3.7.0"));
    let ttls: Vec<i64> = leases.iter().map(|lease| lease.ttl).collect();
    assert_eq!((ttls, alarms.len()), (vec![3600, 7000], 0));
    assert!(!auth.enabled && auth.revision > 1);
    let names = |records: &crate::lane::redo::Named| -> Vec<String> {
        records.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    };
    assert_eq!(names(&auth.users), ["ann", "root"]);
    assert_eq!(names(&auth.roles), ["reader"]);

    let versions = versions(&snapshot);
    let newest = |key: &str| {
        *versions.iter().rev().find(|version| version.key == key.as_bytes()).expect("a key")
    };
    assert_eq!(newest("key-3").value, b"again");
    assert_eq!((newest("key-3").version, newest("key-3").create), (2, Revision(4)));
    assert_eq!(newest("key-7").version, 1);
    assert_eq!(newest("tx/b").position(), (newest("tx/a").modified, 1));
    assert!(newest("key-6").is_tombstone() && newest("empty").value.is_empty());
    assert_eq!(newest("large").value.len(), 9000);
    assert_eq!(newest("bound").lease, leases[1].id);
    // What the member that was backed up answered.
    assert_eq!(hash(&versions, *compacted), 1_266_446_069);
}

#[test]
fn writes_what_it_read() {
    let snapshot = Snapshot::open(of_etcd()).expect("sound");
    let bytes = copied(&snapshot);
    let copy = Snapshot::open(&bytes).expect("sound");
    copy.check().expect("sound");
    assert_eq!(copy.backup, snapshot.backup);
    assert_eq!(versions(&copy), versions(&snapshot));
    assert_eq!(copied(&copy), bytes);
}

#[test]
fn sorts_by_key() {
    let snapshot = Snapshot::open(of_etcd()).expect("sound");
    let mut sorted = versions(&snapshot);
    sorted.sort_by(|a, b| (a.key, a.position()).cmp(&(b.key, b.position())));
    let mut by_key = snapshot.by_key().expect("sound");
    let (mut found, mut of_one, mut previous) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(key) = by_key.next_into(&mut of_one) {
        assert!(key > previous.as_slice());
        previous = key.to_vec();
        assert!(!of_one.is_empty() && of_one.iter().all(|version| version.key == previous));
        found.extend_from_slice(&of_one);
    }
    assert_eq!(found, sorted);
}

#[test]
fn an_empty_store() {
    let mut writer = Writer::new(Cursor::new(Vec::new())).expect("memory");
    writer.keys().finish().expect("memory");
    let bytes = writer.finish(&Backup::default()).expect("memory").0.into_inner();
    let snapshot = Snapshot::open(&bytes).expect("sound");
    assert_eq!(snapshot.backup, Backup { revision: Revision::FIRST, ..Backup::default() });
    assert!(snapshot.by_key().expect("sound").next_into(&mut Vec::new()).is_none());
}

#[test]
fn a_moved_revision_is_no_version() {
    let snapshot = Snapshot::open(of_etcd()).expect("sound");
    let mut file = bbolt::Writer::new(Cursor::new(Vec::new())).expect("memory");
    for (name, extra) in [("key", Some(revision(1021, 0))), ("meta", None)] {
        let mut tree = file.bucket(name);
        let bucket = snapshot.database.bucket(name.as_bytes()).expect("sound").expect("there");
        for entry in bucket.entries() {
            let entry = entry.expect("sound");
            tree.put(entry.key, entry.value).expect("ascending");
        }
        if let Some(key) = extra {
            tree.put(&key, b"").expect("ascending");
        }
        tree.finish().expect("memory");
    }
    let bytes = file.finish().expect("memory").0.into_inner();
    let moved = Snapshot::open(&bytes).expect("sound");
    assert_eq!(moved.backup.revision, Revision(1021));
    assert_eq!(versions(&moved), versions(&snapshot));
}

#[test]
fn entries_that_make_no_sense() {
    let put = b"\x0a\x01a\x10\x02\x18\x02\x20\x01";
    let cases: [(&[u8], &[u8], &str); 9] = [
        (b"short", put, "not a revision"),
        (&revision(0, 0), put, "not a revision"),
        (&revision(u64::MAX, 0), put, "not a revision"),
        (&revision(2, 1 << 32), put, "not a revision"),
        (&[&revision(2, 0)[..], b"x"].concat(), put, "not a revision"),
        (&revision(2, 0), b"\x0a\x07a", "the value is no mvccpb.KeyValue"),
        (&revision(2, 0), b"\x18\x02\x20\x01", "a version without a key"),
        (&revision(3, 0), put, "key and value name two revisions"),
        (&revision(2, 0), b"\x0a\x01a\x10\x03\x18\x02\x20\x01", "the value's counts can not be"),
    ];
    for (key, value, expected) in cases {
        let mut file = bbolt::Writer::new(Cursor::new(Vec::new())).expect("memory");
        let mut tree = file.bucket("key");
        tree.put(key, value).expect("one");
        tree.put(&[0xff; 17], put).expect("two");
        tree.finish().expect("memory");
        file.bucket("meta").finish().expect("memory");
        let bytes = file.finish().expect("memory").0.into_inner();
        let database = Database::open(&bytes).expect("sound");
        let keys = database.bucket(b"key").expect("sound").expect("there");
        let mut versions = Versions { entries: keys.entries(), previous: (Revision::ZERO, 0) };
        let why = match versions.next() {
            Some(Err(Error::Entry { bucket: "key", why, .. })) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why, expected);
        assert!(versions.next().is_none(), "an error is the end");
    }
    let bytes = bbolt::Writer::new(Cursor::new(Vec::new())).expect("memory").finish();
    let bytes = bytes.expect("memory").0.into_inner();
    assert_eq!(Snapshot::open(&bytes).map(drop), Err(Error::NoBucket("key")));
}

#[test]
fn survives_every_damaged_byte() {
    let whole = of_etcd();
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << (at % 8);
        if let Ok(snapshot) = Snapshot::open(&bytes) {
            let sound = snapshot.check().is_ok();
            let sorted = snapshot.by_key().is_ok();
            assert!(sorted || !sound, "byte {at}");
        }
    }
}

fn revision(main: u64, sub: u64) -> [u8; 17] {
    let mut key = [b'_'; 17];
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[9..].copy_from_slice(&sub.to_be_bytes());
    key
}
