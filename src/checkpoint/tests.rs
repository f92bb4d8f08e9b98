use super::{Manifest, ManifestError, Snapshot};
use crate::keys::Revision;
use crate::lane::Cut;
use crate::mvcc::base::BlockRef;

fn manifest() -> Manifest {
    let block = |first_key: &[u8]| BlockRef {
        file: 3,
        offset: 4096,
        len: 70_000,
        crc: 0xdead_beef,
        first_key: first_key.into(),
        keys: 10,
        live: 9,
        versions: 12,
        leased: 1,
        bytes: 65_000,
        oldest: Revision(2),
        newest: Revision(40),
        garbage_from: Revision::MAX,
    };
    Manifest {
        number: 7,
        cluster: 1,
        member: 2,
        at: Revision(41),
        compacted: Revision(5),
        cuts: vec![Cut { index: 9, term: 2 }, Cut { index: 0, term: 0 }],
        control: b"records".to_vec(),
        blocks: vec![block(b""), block(b"m")],
    }
}

#[test]
fn what_is_written_is_read() {
    let manifest = manifest();
    assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    let empty = Manifest::default();
    assert_eq!(Manifest::decode(&empty.encode()), Ok(empty));
}

#[test]
fn no_flipped_bit_and_no_cut_passes() {
    let bytes = manifest().encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(Manifest::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(Manifest::decode(&longer).is_err());
}

#[test]
fn a_newer_format_is_named() {
    let mut bytes = manifest().encode();
    bytes[12] = 9;
    let crc = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Newer { found: 9 }));
    assert_eq!(Manifest::decode(b"something else"), Err(ManifestError::Foreign));
}

#[test]
fn a_stream_says_where_its_blocks_are() {
    let snapshot = Snapshot::of(&manifest());
    let head = snapshot.head();
    assert_eq!(Snapshot::decode(&head), Ok(snapshot.clone()));
    let (first, second) = (&snapshot.manifest.blocks[0], &snapshot.manifest.blocks[1]);
    assert_eq!((first.file, first.offset), (0, head.len() as u64));
    assert_eq!(second.offset, (first.offset + 70_000).next_multiple_of(4096));
    assert_eq!(snapshot.bytes, (second.offset + 70_000).next_multiple_of(4096));

    let end = head.iter().rposition(|byte| *byte != 0).expect("not all zero") + 1;
    for bit in 0..end * 8 {
        let mut flipped = head.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Snapshot::decode(&flipped).is_err(), "bit {bit}");
    }
    for len in 0..end {
        assert!(Snapshot::decode(&head[..len]).is_err(), "{len} bytes");
    }
}
