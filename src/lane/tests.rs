use super::redo::{self, Batch, Change, Control, Record, Write};
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

    let mut again = Group::new(LaneId(3), 7, Recovered::assemble(disk.clone()).expect("whole"));
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
            control: Control::Map {
                version: 2,
                ranges: vec![(Bytes::new(), LaneId(0)), (Bytes::from_static(b"m"), LaneId(1))],
            },
        },
        Record::Barrier { epoch: 4 },
        Record::Epoch { epoch: 4, cut: Revision(199), barriers: vec![(5, 2), (900, 3)] },
    ]
}

#[test]
fn a_batch_reads_back_as_it_was_written() {
    let records = samples();
    let mut bytes = Vec::new();
    records.iter().for_each(|record| redo::encode(&mut bytes, record));
    let mut batch = Batch::new(bytes.into());
    for record in records {
        assert_eq!(batch.record(), Ok(Some(record)));
    }
    assert_eq!(batch.record(), Ok(None));
}

#[test]
fn a_cut_batch_is_malformed_and_never_a_panic() {
    for record in samples() {
        let mut bytes = Vec::new();
        redo::encode(&mut bytes, &record);
        for cut in 1..bytes.len() {
            let mut batch = Batch::new(bytes[..cut].to_vec().into());
            assert!(batch.record().is_err(), "{record:?} cut at {cut}");
        }
    }
}
