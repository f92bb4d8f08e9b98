use super::redo::{self, Change, Control, Reader, Record, Seen, Write};
use super::*;
use crate::keys::{LeaseId, Revision};

/// A lane on a perfect disk: everything stored is at once durable.
fn settle(group: &mut Group, disk: &mut Vec<(u8, Bytes)>) -> Vec<Committed> {
    let mut committed = Vec::new();
    loop {
        let mut out = Output::default();
        group.drain(&mut out);
        let Some(ready) = out.ready else { return committed };
        for stored in out.stored {
            let bytes = [&stored.head[..], &stored.body].concat();
            disk.push((stored.kind as u8, bytes.into()));
        }
        group.persisted(ready);
        committed.append(&mut out.committed);
    }
}

#[test]
fn a_lone_voter_leads_commits_and_continues_after_a_restart() {
    let mut disk = Vec::new();
    let mut group = Group::new(LaneId(3), 7, Recovered::default());
    group.propose(b"too early".to_vec()).expect_err("nobody leads yet");
    group.campaign();
    settle(&mut group, &mut disk);
    assert!(group.is_leader());
    let index = group.propose(b"one".to_vec()).expect("leads");
    let committed = settle(&mut group, &mut disk);
    assert_eq!(committed.last().map(|c| (c.index, &c.data[..])), Some((index, &b"one"[..])));
    group.applied(index);
    let term = group.term();

    let mut again =
        Group::new(LaneId(3), 7, Recovered::assemble(disk.clone(), Cut::default()).expect("whole"));
    again.campaign();
    let committed = settle(&mut again, &mut disk);
    assert!(again.is_leader() && again.term() > term);
    assert!(committed.iter().any(|c| c.index == index && c.data == b"one"[..]));
}

#[test]
fn nothing_is_committed_before_it_is_durable() {
    let mut disk = Vec::new();
    let mut group = Group::new(LaneId(0), 1, Recovered::default());
    group.campaign();
    settle(&mut group, &mut disk);
    group.propose(b"x".to_vec()).expect("leads");
    let mut out = Output::default();
    group.drain(&mut out);
    assert!(out.committed.is_empty() && !out.stored.is_empty());
    group.persisted(out.ready.expect("a ready"));
    let mut out = Output::default();
    group.drain(&mut out);
    assert_eq!(out.committed.len(), 1);
}

fn samples() -> Vec<Record> {
    let put = |key: &'static [u8], value: &'static [u8], lease| Write {
        key: Bytes::from_static(key),
        change: Change::Put {
            value: Bytes::from_static(value),
            create: Revision(2),
            version: 300,
            lease: LeaseId(lease),
        },
    };
    let delete = Write { key: Bytes::from_static(b"gone"), change: Change::Delete };
    vec![
        Record::Write { revision: Revision(200), writes: vec![put(b"a", b"", -5), delete.clone()] },
        Record::Revoke { at: Revision(9), lease: LeaseId(77), writes: vec![delete] },
        Record::Revoke { at: Revision(9), lease: LeaseId(78), writes: vec![] },
        Record::Control {
            stamp: Revision(3),
            control: Control::Grant { lease: LeaseId(i64::MAX), ttl_s: 60 },
        },
        Record::Control {
            stamp: Revision(3),
            control: Control::Remaining(vec![(LeaseId(1), 5), (LeaseId(2), 0)]),
        },
        Record::Control { stamp: Revision(4), control: Control::Compact(Revision(4)) },
        Record::Control {
            stamp: Revision(4),
            control: Control::Alarm { member: u64::MAX, alarm: -7, on: true },
        },
        Record::Control {
            stamp: Revision(4),
            control: Control::Auth(redo::Auth {
                enabled: true,
                revision: 300,
                users: vec![(Bytes::from_static(b"root"), Bytes::from_static(b"\n\x04root"))],
                roles: vec![(Bytes::from_static(b"r"), Bytes::new()), Default::default()],
            }),
        },
        Record::Control {
            stamp: Revision(4),
            control: Control::Map {
                version: 2,
                ranges: vec![(Bytes::new(), LaneId(0)), (Bytes::from_static(b"m"), LaneId(1))],
            },
        },
        Record::Barrier { epoch: 4 },
        Record::Epoch { epoch: 4, cut: Revision(199), barriers: vec![(5, 2), (900, 3)] },
    ]
}

fn owned(seen: Seen<'_>) -> Record {
    match seen {
        Seen::Write { revision, writes } => Record::Write { revision, writes: writes.to_vec() },
        Seen::Revoke { at, lease, writes } => Record::Revoke { at, lease, writes: writes.to_vec() },
        Seen::Other(record) => record,
    }
}

#[test]
fn a_batch_reads_back_as_it_was_written() {
    let records = samples();
    let mut bytes = Vec::new();
    records.iter().for_each(|record| redo::encode(&mut bytes, record));
    let mut reader = Reader::new(&bytes);
    for record in records {
        let seen = reader.record().expect("well-formed").expect("not the end");
        assert_eq!(owned(seen), record);
    }
    assert_eq!(reader.record(), Ok(None));
}

#[test]
fn a_cut_batch_is_malformed_and_never_a_panic() {
    for record in samples() {
        let mut bytes = Vec::new();
        redo::encode(&mut bytes, &record);
        for cut in 1..bytes.len() {
            let read = Reader::new(&bytes[..cut]).record();
            assert!(read.is_err(), "{record:?} cut at {cut}");
        }
    }
}

/// A record as a lane's log has it.
fn stored(kind: StoredKind, sequence: u64, term: u64, index: u64) -> (u8, Bytes) {
    let mut bytes: Vec<u8> =
        [sequence, term, index, 0].into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.extend_from_slice(format!("{index}@{term}").as_bytes());
    (kind as u8, bytes.into())
}

fn entries(of: &[(u64, u64, u64)]) -> Vec<(u8, Bytes)> {
    of.iter().map(|&(s, term, index)| stored(StoredKind::Entry, s, term, index)).collect()
}

fn kept(records: &[(u64, u64, u64)], index: u64, term: u64) -> Result<String, String> {
    let recovered = Recovered::assemble(entries(records), Cut { index, term });
    let recovered = recovered.map_err(|damaged| damaged.to_string())?;
    let kept = recovered.entries().map(|(index, data)| {
        let data = std::str::from_utf8(data).expect("text").to_owned();
        assert!(data.starts_with(&format!("{index}@")));
        data
    });
    Ok(kept.collect::<Vec<_>>().join(" "))
}

#[test]
fn what_a_checkpoint_holds_is_left_out_and_may_be_missing() {
    let log = [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 4)];
    assert_eq!(kept(&log, 0, 0).as_deref(), Ok("1@1 2@1 3@1 4@2"));
    assert_eq!(kept(&log, 2, 1).as_deref(), Ok("3@1 4@2"));
    assert_eq!(kept(&log[1..], 2, 1).as_deref(), Ok("3@1 4@2"));
    assert_eq!(kept(&log[2..], 2, 1).as_deref(), Ok("3@1 4@2"));
    assert_eq!(kept(&log, 4, 2).as_deref(), Ok(""));
    assert_eq!(kept(&log, 9, 2).as_deref(), Ok(""), "a checkpoint that came from elsewhere");
    assert_eq!(kept(&[], 9, 2).as_deref(), Ok(""));
    assert_eq!(kept(&log[3..], 2, 1), Err("entry 4 follows entry 2".to_owned()));
    assert_eq!(kept(&log[1..], 0, 0), Err("entry 2 follows entry 0".to_owned()));
    let hole = [log[0], log[1], log[3]];
    assert_eq!(kept(&hole, 1, 1), Err("entry 4 follows entry 2".to_owned()));
    assert!(kept(&log, 3, 2).expect_err("another term").contains("entry 3 has term 1"));
}

#[test]
fn an_overwritten_tail_stays_overwritten_whatever_is_left_of_it() {
    let log = [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 1, 4), (5, 2, 2), (6, 2, 3)];
    assert_eq!(kept(&log, 0, 0).as_deref(), Ok("1@1 2@2 3@2"));
    // The first segments are gone; what is left of the old tail does not follow the cut.
    assert_eq!(kept(&log[3..], 1, 1).as_deref(), Ok("2@2 3@2"));
    assert_eq!(kept(&log[2..], 2, 2).as_deref(), Ok("3@2"));
    assert_eq!(kept(&log[2..5], 2, 2).as_deref(), Ok(""), "nothing of term 1 comes back");
}

#[test]
fn a_lane_goes_on_from_a_checkpoint() {
    let cut = Cut { index: 10, term: 4 };
    for log in [vec![], vec![stored(StoredKind::HardState, 1, 3, 2)], entries(&[(7, 4, 11)])] {
        let recovered = Recovered::assemble(log, cut).expect("sound");
        let sequence = recovered.sequence;
        let last = cut.index + recovered.entries().count() as u64;
        let mut group = Group::new(LaneId(0), 1, recovered);
        assert!(group.commit_index() >= cut.index);
        assert_eq!((group.last_index(), group.is_leader()), (last, false));
        group.campaign();
        let mut disk = Vec::new();
        let committed = settle(&mut group, &mut disk);
        assert!(group.is_leader() && group.term() > cut.term);
        assert_eq!(committed[0].index, cut.index + 1, "nothing of the checkpoint comes again");
        assert_eq!(group.commit_index(), last + 1);
        assert!(disk.iter().all(|(_, bytes)| bytes[..8] > sequence.to_le_bytes()[..]));
    }
}
