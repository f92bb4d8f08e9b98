//! A block read by hand, as `docs/formats.md` tells it: what is on disks must not change unnoticed.

use super::*;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The columns of a block, in the order of the fields of its root.
fn columns(block: &[u8]) -> Vec<&[u8]> {
    let root = block.len() - 62;
    let mut end = 0;
    let sizes = [1, 4, 8, 4, 16, 4, 4];
    let columns = sizes.iter().enumerate().map(|(field, size)| {
        let at = root + 8 * field;
        let start = (at as i64 + i64::from(u32_at(block, at) as i32)) as usize;
        let len = u32_at(block, at + 4) as usize * size;
        if len == 0 {
            return &[][..];
        }
        assert_eq!(start, end, "no gap before column {field}");
        end = start + len;
        &block[start..end]
    });
    let columns = columns.collect();
    assert_eq!(end, root);
    columns
}

#[test]
fn every_byte_is_where_it_is_documented() {
    let mut model = Model::default();
    let mut version = |key: &str, value: &str, create, at: Position, version, lease| {
        let (key, value) = (key.into(), value.into());
        let (create, lease) = (Revision(create), LeaseId(lease));
        model.push(Row { key, value, create, at, version, lease });
    };
    version("/a/1", "one", 5, (Revision(5), 0), 1, 0);
    version("/a/2", "old", 3, (Revision(3), 0), 1, 0);
    version("/a/2", "new", 3, (Revision(4), 1), 2, 7);
    version("/a/3", "", 0, (Revision(4), 0), 0, 0);
    let (rows, block) = blocks(&model, SIZES_AS_WRITTEN);
    assert_eq!((rows.len(), rows[0].len as usize), (1, block.len()));

    let number = |n: i64| n.to_le_bytes();
    let entries: [&[&[u8]]; 4] = [
        &[&[4, 0, 0, 0], b"/a/1", &[2], b"one"],
        &[&[4, 0, 0, 0], b"/a/2", &[2], b"old"],
        &[&[4], &number(3), &number(2), &number(7), b"new"],
        &[&[4, 0, 0, 0], b"/a/3", &[1]],
    ];
    let entries = entries.map(<[&[u8]]>::concat);
    let places = [(5_i64, 0_u32, 0_u32), (3, 0, 12), (4, 1, 24), (4, 0, 52)];
    let places: Vec<u8> = places
        .iter()
        .flat_map(|(modified, sub, at)| {
            [&modified.to_le_bytes()[..], &sub.to_le_bytes(), &at.to_le_bytes()].concat()
        })
        .collect();
    let numbers =
        |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
    let expected: [&[u8]; 7] = [
        &entries.concat(),
        &numbers(&[1, 3, 2, 0]),
        &0b011_u64.to_le_bytes(),
        &numbers(&[0, 1, 3]),
        &places,
        &numbers(&[u32::from(b'1') << 24, u32::from(b'2') << 24, u32::from(b'3') << 24]),
        &[],
    ];
    assert_eq!(columns(&block), expected);
    assert_eq!(block[block.len() - 6..], [3, 0, 0, 0, 0, 0]);
}

#[test]
fn columns_that_may_be_left_out() {
    let mut model = Model::default();
    for n in 0..100 {
        let (key, at) = (format!("{n:03}").into_bytes(), (Revision(n + 2), 0));
        let (create, lease) = (at.0, LeaseId::NONE);
        model.push(Row { key, value: Vec::new(), create, at, version: 1, lease });
    }
    let (_, block) = blocks(&model, SIZES_AS_WRITTEN);
    let columns = columns(&block);
    let hints: Vec<u32> = columns[5].chunks(4).map(|hint| u32_at(hint, 0)).collect();
    let tops: Vec<u32> = columns[6].chunks(4).map(|top| u32_at(top, 0)).collect();
    assert_eq!(
        (columns[3].len(), hints.len(), tops),
        (0, 100, vec![hints[31], hints[63], hints[95]])
    );
}
