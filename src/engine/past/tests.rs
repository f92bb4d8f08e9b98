use super::*;
use crate::keys::KeyRange;
use crate::lane::StoredKind;
use crate::lane::redo::{self, Change, Write};
use crate::shard::Shard;

/// The log of one lane, written entry by entry.
#[derive(Clone, Default)]
struct Lane {
    records: Vec<(u8, Bytes)>,
    index: u64,
}

impl Lane {
    fn from(index: u64) -> Lane {
        Lane { index: index - 1, ..Lane::default() }
    }

    fn entry(mut self, records: &[Record]) -> Lane {
        self.index += 1;
        let fields = [self.index, 1, self.index, 0];
        let mut bytes: Vec<u8> = fields.into_iter().flat_map(u64::to_le_bytes).collect();
        records.iter().for_each(|record| redo::encode(&mut bytes, record));
        self.records.push((StoredKind::Entry as u8, bytes.into()));
        self
    }
}

fn put(revision: i64, key: &str) -> Record {
    let change = Change::Put {
        value: Bytes::copy_from_slice(revision.to_string().as_bytes()),
        create: Revision(revision),
        version: 1,
        lease: LeaseId::NONE,
    };
    let key = Bytes::copy_from_slice(key.as_bytes());
    Record::Write { revision: Revision(revision), writes: vec![Write { key, change }] }
}

fn control(stamp: i64, control: Control) -> Record {
    Record::Control { stamp: Revision(stamp), control }
}

fn grant(stamp: i64, lease: i64) -> Record {
    control(stamp, Control::Grant { lease: LeaseId(lease), ttl_s: 100 + stamp })
}

fn epoch(epoch: u64, cut: i64, barriers: &[u64]) -> EpochRecord {
    let barriers = barriers.iter().map(|&index| (index, 1)).collect();
    EpochRecord { epoch, cut: Revision(cut), barriers }
}

fn recorded(of: EpochRecord) -> Record {
    Record::Epoch { epoch: of.epoch, cut: of.cut, barriers: of.barriers }
}

fn ground(at: i64, cuts: &[u64], epoch: Option<EpochRecord>) -> Ground {
    let lanes = cuts.iter().map(|&index| Cut { index, term: 1 }).collect();
    Ground { at: Revision(at), lanes, epoch, control: PastControl::default() }
}

fn read(lanes: Vec<Lane>, ground: &Ground) -> Result<Past, RecoverError> {
    recover(lanes.into_iter().map(|lane| lane.records).collect(), ground).map(|r| r.past)
}

/// What the next epoch installs, and the control state it begins with.
fn replayed(past: &Past) -> (String, PastControl) {
    let record = epoch(past.next_epoch(), past.cut().0, &[1000, 1000]);
    let stepwise = |bytes_max| {
        let mut seen = Vec::new();
        let mut replay = past.clone().replay(&record);
        let mut show = |revision: Revision, _, writes: Writes<'_>| {
            for (key, _) in writes {
                seen.push(format!("{}@{}", String::from_utf8_lossy(key), revision.0));
            }
        };
        while replay.step(bytes_max, &mut show) {}
        assert!(replay.lanes.iter().all(|(pieces, _)| pieces.is_empty()), "memory is let go");
        seen.join(" ")
    };
    let at_once = stepwise(usize::MAX);
    assert_eq!(stepwise(1), at_once);
    (at_once, past.control(&record))
}

fn two_lanes() -> Vec<Lane> {
    let first = Lane::default()
        .entry(&[Record::Barrier { epoch: 1 }])
        .entry(&[recorded(epoch(1, 1, &[1, 1]))])
        .entry(&[put(2, "a"), put(3, "b")])
        .entry(&[put(5, "c")]);
    let second = Lane::default()
        .entry(&[Record::Barrier { epoch: 1 }])
        .entry(&[put(4, "x"), put(6, "y")])
        .entry(&[put(8, "z")]);
    vec![first, second]
}

#[test]
fn lanes_become_one_order_up_to_the_first_gap() {
    let past = read(two_lanes(), &Ground::default()).expect("sound");
    assert_eq!((past.cut(), past.next_epoch()), (Revision(6), 2));
    assert_eq!(replayed(&past).0, "a@2 b@3 x@4 c@5 y@6");
}

#[test]
fn what_the_checkpoint_holds_is_not_installed_again() {
    let all = ["b@3 x@4 c@5 y@6", "x@4 c@5 y@6", "c@5 y@6", "y@6", ""];
    for (at, expected) in (2..).zip(all) {
        for cuts in [[0, 0], [2, 1]] {
            let past = read(two_lanes(), &ground(at, &cuts, None)).expect("sound");
            assert_eq!((past.cut(), replayed(&past).0.as_str()), (Revision(6), expected), "{at}");
        }
    }
    // A gap that the checkpoint fills is none.
    let past = read(two_lanes(), &ground(7, &[4, 2], None)).expect("sound");
    assert_eq!((past.cut(), replayed(&past).0.as_str()), (Revision(8), "z@8"));
}

#[test]
fn the_checkpoints_epoch_is_the_first() {
    let base = ground(6, &[4, 2], Some(epoch(7, 6, &[6, 4])));
    // Revision 8 of epoch 6 was void before the checkpoint was made; epoch 7 gave 8 out again.
    let lanes = || {
        let first = Lane::from(5).entry(&[]).entry(&[Record::Barrier { epoch: 7 }]);
        let second = Lane::from(3)
            .entry(&[put(8, "void")])
            .entry(&[Record::Barrier { epoch: 7 }])
            .entry(&[put(7, "u"), put(8, "v")]);
        (first, second)
    };
    let (first, second) = lanes();
    let past = read(vec![first, second], &base).expect("sound");
    assert_eq!((past.next_epoch(), past.cut()), (8, Revision(8)));
    assert_eq!(replayed(&past).0, "u@7 v@8");
    // Its record may be in the lane as well, behind the cut.
    let (first, second) = lanes();
    let first = first.entry(&[recorded(epoch(7, 6, &[6, 4]))]);
    let past = read(vec![first, second], &base).expect("sound");
    assert_eq!(past.next_epoch(), 8);
    assert_eq!(replayed(&past).0, "u@7 v@8");
    // Without any log at all the next epoch is still the next.
    let past = read(vec![Lane::default(), Lane::default()], &base).expect("sound");
    assert_eq!((past.next_epoch(), past.cut()), (8, Revision(6)));
}

#[test]
fn control_records_above_the_cut_take_effect_once_more() {
    let lane = Lane::default()
        .entry(&[grant(1, 1)])
        .entry(&[grant(1, 2), control(1, Control::Remaining(vec![(LeaseId(1), 3)]))])
        .entry(&[put(2, "a"), control(2, Control::Compact(Revision(2)))])
        .entry(&[Record::Revoke { at: Revision(2), lease: LeaseId(2), writes: vec![] }])
        .entry(&[grant(2, 3)]);
    let records = lane.records;
    let recover = |ground: &Ground| recover(vec![records.clone()], ground).expect("sound").past;
    let (_, whole) = replayed(&recover(&Ground::default()));
    assert_eq!(whole.compacted, Revision(2));
    assert_eq!(whole.leases.keys().map(|lease| lease.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(whole.leases[&LeaseId(1)], (101, 3));
    // Wherever the cut is, and whatever above it the checkpoint has already.
    for cut in 0..=5 {
        let mut upto = PastControl::default();
        let base = ground(2, &[cut], None);
        for (number, (_, bytes)) in (1..).zip(&records) {
            if number > cut {
                let base = Ground { control: upto.clone(), ..base.clone() };
                assert_eq!(replayed(&recover(&base)).1, whole, "cut {cut}, known to {number}");
            }
            let mut reader = Reader::new(&bytes[crate::lane::HEAD_BYTES..]);
            while let Some(seen) = reader.record().expect("well-formed") {
                match seen {
                    Seen::Other(record) => upto.apply(&record),
                    Seen::Revoke { at, lease, .. } => {
                        upto.apply(&Record::Revoke { at, lease, writes: vec![] });
                    }
                    Seen::Write { .. } => {}
                }
            }
        }
        let base = Ground { control: upto, ..base };
        assert_eq!(replayed(&recover(&base)).1, whole, "cut {cut}, all known");
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let refused = |lanes, ground: &Ground| match read(lanes, ground) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let old = ground(3, &[3, 1], Some(epoch(4, 5, &[9, 9])));
    let lanes = vec![Lane::from(4), Lane::from(2)];
    assert!(refused(lanes, &old).starts_with("revisions up to 5 were served"));
    let newer = ground(6, &[1, 1], Some(epoch(1, 6, &[2, 2])));
    assert_eq!(refused(two_lanes(), &newer), "epoch 1 can not follow epoch 1");
    let lanes = vec![Lane::from(4).entry(&[put(9, "a")]).entry(&[put(7, "b")])];
    assert_eq!(
        refused(lanes, &ground(6, &[3], None)),
        "lane 0, entry 5: revision 7 is not above those before it"
    );
    let lanes = vec![Lane::from(5).entry(&[put(7, "a")])];
    assert_eq!(refused(lanes, &ground(6, &[3], None)), "lane 0: entry 5 follows entry 3");
}

/// Lane 1 owns everything from "x" on.
fn split(at: i64, cuts: &[u64]) -> Ground {
    let ranges = vec![(Bytes::new(), LaneId(0)), (Bytes::from_static(b"x"), LaneId(1))];
    let control = PastControl { map: RangeMap::new(1, ranges), ..PastControl::default() };
    Ground { control, ..ground(at, cuts, None) }
}

fn leased(revision: i64, key: &str, lease: i64) -> Record {
    let Record::Write { revision, mut writes } = put(revision, key) else { unreachable!() };
    let Change::Put { lease: of, .. } = &mut writes[0].change else { unreachable!() };
    *of = LeaseId(lease);
    Record::Write { revision, writes }
}

/// What the shards of both lanes hold when the next epoch begins with drafts, if there are any: keys with
/// revision and value, and the keys that lease 5 holds.
fn drafted(lanes: Vec<Lane>, ground: &Ground) -> Option<(String, Vec<Bytes>)> {
    let records = lanes.into_iter().map(|lane| lane.records).collect();
    let recovery = recover_drafted(records, ground, None).expect("sound")?;
    let past = recovery.past;
    let map = past.control(&epoch(past.next_epoch(), past.cut().0, &[1000, 1000])).map;
    let (mut seen, mut held) = (Vec::new(), Vec::new());
    for (lane, past) in (0..).map(LaneId).zip(recovery.lanes) {
        let (draft, mut shard) = (past.draft.expect("all have one"), Shard::new(lane));
        assert!(draft.knows(&map));
        assert!(draft.begin(&mut shard, map.of_lane(lane).collect()));
        let mut of_lane = Vec::new();
        shard.store().history(&KeyRange::all(), Revision::ZERO, Revision::MAX, &mut |version| {
            let (key, value) = (version.key.escape_ascii(), version.value.escape_ascii());
            of_lane.push(format!("{key}@{}={value}", version.modified.0));
            true
        });
        seen.push(of_lane.join(" "));
        held.extend(shard.keys_of(LeaseId(5)));
    }
    Some((seen.join(" | "), held))
}

#[test]
fn a_draft_is_what_a_replay_installs() {
    let all = ["a@2=2 b@3=3 c@5=5 | x@4=4 y@6=6", "c@5=5 | x@4=4 y@6=6", " | y@6=6"];
    for (at, expected) in [1, 3, 5].into_iter().zip(all) {
        for cuts in [[0, 0], [2, 1]] {
            // 8 is above the first gap, so it is void.
            let (seen, _) = drafted(two_lanes(), &split(at, &cuts)).expect("drafts");
            assert_eq!(seen, expected, "above {at}");
        }
    }
}

#[test]
fn what_is_taken_back_gives_its_lease_back() {
    let second = Lane::default()
        .entry(&[Record::Barrier { epoch: 1 }])
        .entry(&[leased(2, "x", 5), leased(3, "y", 6)])
        .entry(&[leased(5, "x", 6), leased(6, "y", 5), leased(7, "z", 5)]);
    let lanes = vec![Lane::default().entry(&[Record::Barrier { epoch: 1 }]), second];
    let (seen, held) = drafted(lanes, &split(1, &[0, 0])).expect("drafts");
    assert_eq!((seen.as_str(), held), (" | x@2=2 y@3=3", vec![Bytes::from_static(b"x")]));
}

#[test]
fn keys_that_several_lanes_wrote_come_together() {
    let map = |stamp, version, first: &'static str| {
        let ranges = vec![(Bytes::new(), LaneId(0)), (Bytes::from(first), LaneId(1))];
        control(stamp, Control::Map { version, ranges })
    };
    // "n" goes to lane 1 and comes back, "x" goes the other way; a transaction of lane 1 writes "a".
    let first = Lane::default()
        .entry(&[Record::Barrier { epoch: 1 }, map(1, 1, "x")])
        .entry(&[put(2, "n"), leased(3, "n", 5), map(3, 2, "m")])
        .entry(&[map(5, 3, "z")])
        .entry(&[put(7, "n"), put(8, "x")]);
    let second = Lane::default()
        .entry(&[Record::Barrier { epoch: 1 }])
        .entry(&[leased(4, "n", 6), leased(5, "x", 5)])
        .entry(&[put(6, "a")]);
    let lanes = || vec![first.clone(), second.clone()];
    let (seen, held) = drafted(lanes(), &split(1, &[0, 0])).expect("drafts");
    assert_eq!(seen, "n@2=2 n@3=3 n@4=4 x@5=5 a@6=6 n@7=7 x@8=8 | ");
    assert!(held.is_empty(), "{held:?}");
    let unfinished = lanes().into_iter().map(|mut lane| {
        lane.records.truncate(3);
        lane
    });
    let (seen, held) = drafted(unfinished.collect(), &split(1, &[0, 0])).expect("drafts");
    assert_eq!(seen, "n@2=2 n@3=3 n@4=4 x@5=5 a@6=6 | ");
    assert_eq!(held, vec![Bytes::from_static(b"x")]);
}

#[test]
fn there_are_no_drafts_where_an_epoch_voided_something() {
    let sound = split(1, &[0, 0]);
    let first = || Lane::default().entry(&[Record::Barrier { epoch: 1 }]);
    let second = || Lane::default().entry(&[Record::Barrier { epoch: 1 }]).entry(&[put(2, "x")]);
    assert!(drafted(vec![first(), second()], &sound).is_some());
    let lost = Lane { index: 1, ..second() }.entry(&[put(2, "x")]);
    assert!(drafted(vec![first(), lost], &sound).is_none(), "an entry was overwritten");
    // Epoch 2 voids revision 4, and gives it to the other lane or to this one.
    let second = || second().entry(&[put(4, "x")]).entry(&[Record::Barrier { epoch: 2 }]);
    let first = first().entry(&[Record::Barrier { epoch: 2 }, recorded(epoch(2, 2, &[2, 4]))]);
    let again = second().entry(&[put(4, "y")]);
    for (first, second) in [(first.clone().entry(&[put(3, "a")]), second()), (first, again)] {
        assert!(drafted(vec![first, second], &sound).is_none(), "void");
    }
}
