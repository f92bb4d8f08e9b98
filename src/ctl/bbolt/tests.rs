use std::io::Cursor;

use super::*;

/// A backup of etcd 3.7.3, without the checksum behind it.
fn of_etcd() -> Vec<u8> {
    let mut bytes = include_bytes!("../fixtures/etcd-3.7.snap").to_vec();
    bytes.truncate(bytes.len() - 32);
    bytes
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Vec<u8>, usize)>, Error> {
    let database = Database::open(bytes)?;
    database.check()?;
    let mut found = Vec::new();
    for entry in database.root().entries() {
        let entry = entry?;
        let inside = entry.bucket(&database)?.entries();
        let count = inside.map(|inner| inner.map(drop)).collect::<Result<Vec<_>, _>>()?.len();
        found.push((entry.key.to_vec(), count));
    }
    Ok(found)
}

/// Two buckets with `count` entries each, of sizes up to `large`.
fn written(count: u64, large: usize) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).expect("memory");
    for name in ["second", "first"] {
        let mut tree = writer.bucket(name);
        for n in 0..count {
            let (key, value) = entry(n, large);
            tree.put(&key, &value).expect("ascending");
        }
        tree.finish().expect("memory");
    }
    writer.bucket("empty").finish().expect("memory");
    let (out, size) = writer.finish().expect("memory");
    let bytes = out.into_inner();
    assert_eq!(bytes.len() as u64, size);
    bytes
}

fn entry(n: u64, large: usize) -> (Vec<u8>, Vec<u8>) {
    let len = (n * 7919) as usize % (large + 1);
    (n.to_be_bytes().to_vec(), vec![n as u8; len])
}

#[test]
fn reads_what_etcd_wrote() {
    let bytes = of_etcd();
    let found = read_all(&bytes).expect("a sound file");
    let names: Vec<&str> =
        found.iter().map(|(name, _)| std::str::from_utf8(name).expect("a name")).collect();
    let all = [
        "alarm",
        "auth",
        "authRoles",
        "authUsers",
        "cluster",
        "key",
        "lease",
        "members",
        "members_removed",
        "meta",
    ];
    assert_eq!(names, all);
    let count = |name| found.iter().find(|(n, _)| n == name).expect("there").1;
    assert_eq!((count(&b"authUsers"[..]), count(b"lease"), count(b"alarm")), (2, 2, 0));
}

#[test]
fn reads_what_it_wrote() {
    for (count, large) in [(0, 0), (1, 0), (1, 100_000), (300, 5000), (40_000, 60)] {
        let bytes = written(count, large);
        let database = Database::open(&bytes).expect("valid");
        database.check().expect("sound");
        assert_eq!(database.size_bytes(), bytes.len() as u64);
        for name in ["first", "second"] {
            let bucket = database.bucket(name.as_bytes()).expect("sound").expect("there");
            let mut expected = 0;
            for found in bucket.entries() {
                let found = found.expect("sound");
                let (key, value) = entry(expected, large);
                assert!(found.key == key && found.value == value, "{name} {expected}");
                assert_eq!(&bytes[found.at as usize..][..key.len()], key);
                expected += 1;
            }
            assert_eq!(expected, count);
            let last = bucket.last().expect("sound").map(|entry| entry.key.to_vec());
            assert_eq!(last, count.checked_sub(1).map(|n| n.to_be_bytes().to_vec()));
        }
        assert!(database.bucket(b"third").expect("sound").is_none());
    }
}

#[test]
fn refuses_keys_that_do_not_ascend() {
    let mut writer = Writer::new(Cursor::new(Vec::new())).expect("memory");
    let mut tree = writer.bucket("b");
    tree.put(b"b", b"").expect("first");
    for key in [&b"b"[..], b"a", b""] {
        assert_eq!(tree.put(key, b"").map_err(|e| e.kind()), Err(std::io::ErrorKind::InvalidInput));
    }
}

/// The file itself has no checksums but in its meta pages, so a changed value may pass here; nothing
/// may panic, hang or lead out of the file.
#[test]
fn survives_every_damaged_byte() {
    for bytes in [of_etcd(), written(300, 300)] {
        let mut refused = 0;
        for at in (0..bytes.len()).step_by(5) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            refused += u32::from(read_all(&bytes).is_err());
        }
        assert!(refused > 20, "{refused}");
    }
}

#[test]
fn survives_every_length() {
    let bytes = written(300, 300);
    for len in (0..bytes.len()).step_by(61) {
        let error = read_all(&bytes[..len]).expect_err("it is cut");
        assert!(matches!(error, Error::Foreign | Error::Damaged { .. }));
    }
    for from in (0..bytes.len()).step_by(1024) {
        let mut bytes = bytes.clone();
        let end = (from + 1024).min(bytes.len());
        bytes[from..end].fill(0);
        let _ = read_all(&bytes);
    }
}

#[test]
fn one_meta_page_is_enough() {
    let whole = written(1000, 50);
    for (lost, kept) in [(0, 1), (1, 0)] {
        let mut bytes = whole.clone();
        bytes[lost * 4096..][..4096].fill(0);
        assert!(Database::is_one(&bytes));
        assert_eq!(read_all(&bytes), read_all(&whole));
        bytes[kept * 4096 + 40] ^= 1;
        assert_eq!(read_all(&bytes), Err(Error::Foreign));
    }
    assert!(!Database::is_one(b"") && !Database::is_one(&[7; 9000]));
}

#[test]
fn pages_in_a_circle_are_damage() {
    let whole = written(40_000, 60);
    let database = Database::open(&whole).expect("valid");
    let first = database.bucket(b"first").expect("sound").expect("there");
    let Root::Page(root) = first.root else { panic!("a large bucket has pages of its own") };
    let at = (root * 4096) as usize;
    // The root's first child becomes the root itself.
    let mut bytes = whole.clone();
    bytes[at + 16 + 8..][..8].copy_from_slice(&root.to_le_bytes());
    assert!(matches!(read_all(&bytes), Err(Error::Damaged { .. })));
    // Two children in each other's place.
    let mut bytes = whole.clone();
    let (a, b) = (at + 16 + 8, at + 32 + 8);
    for i in 0..8 {
        bytes.swap(a + i, b + i);
    }
    assert!(matches!(read_all(&bytes), Err(Error::Damaged { .. })));
}
