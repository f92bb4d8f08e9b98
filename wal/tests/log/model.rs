//! What a log must hold, kept beside it: every record that was appended, how many of them were
//! reported durable, and what the carried state of each lane is. It judges what opening gives.

use std::collections::BTreeMap;

use cored_wal::disk::memory::MemoryDisk;
use cored_wal::{Error, Log, Options, Owner, Recovered, Sequence};

/// Ordinary records.
pub const DATA: u8 = 1;
/// Records that are also carried.
pub const STATE: u8 = 2;

/// SplitMix64, as in the disk but with a stream of its own.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, len_bytes: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len_bytes + 8);
        while bytes.len() < len_bytes {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len_bytes);
        bytes
    }
}

/// Small segments and groups, so that little work crosses many boundaries.
pub fn options() -> Options {
    Options {
        log: 3,
        owner: Owner { cluster: 10, member: 20 },
        segment_bytes: 32 << 10,
        group_bytes_max: 8 << 10,
        second_write_bytes: 1 << 10,
        salt: 0x5a17,
        ..Options::default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub sequence: u64,
    pub lane: u16,
    pub kind: u8,
    pub payload: Vec<u8>,
}

/// What opening gave.
#[derive(Debug)]
pub struct Opened {
    pub log: Log<MemoryDisk>,
    pub recovered: Recovered,
    pub items: Vec<Item>,
    /// Per lane the last state, carried or not.
    pub states: BTreeMap<u16, Vec<u8>>,
}

pub fn open(disk: &MemoryDisk, options: &Options) -> Result<Opened, Error> {
    let mut items = Vec::new();
    let mut states = BTreeMap::new();
    let (log, recovered) = Log::open(disk.clone(), options.clone(), |record| {
        if record.kind == STATE {
            states.insert(record.lane, record.payload.to_vec());
        }
        if !record.carry {
            items.push(Item {
                sequence: record.sequence.0,
                lane: record.lane,
                kind: record.kind,
                payload: record.payload.to_vec(),
            });
        }
    })?;
    Ok(Opened { log, recovered, items, states })
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub items: Vec<Item>,
    pub acknowledged: u64,
    /// Records below this may be gone: their segments were let go.
    pub floor: u64,
}

impl Model {
    pub fn append(&mut self, log: &mut Log<MemoryDisk>, lane: u16, kind: u8, payload: Vec<u8>) {
        // In two parts, as a caller with a head and a body does.
        let (head, body) = payload.split_at(payload.len() / 3);
        let sequence = log.append(lane, kind, &[head, &[], body]).0;
        if kind == STATE {
            log.set_carry(lane, kind, &payload);
        }
        self.items.push(Item { sequence, lane, kind, payload });
    }

    pub fn acknowledge(&mut self, durable: Sequence) {
        assert!(durable.0 >= self.acknowledged, "durable never goes back");
        self.acknowledged = durable.0;
    }

    /// Notes that records that begin below `segment` may be gone from now on.
    pub fn let_go_below(&mut self, log: &Log<MemoryDisk>, segment: u64) {
        let begins = |item: &&Item| log.segment_of(Sequence(item.sequence));
        let gone = self.items.iter().rev().find(|it| begins(it).is_none_or(|it| it < segment));
        self.floor = self.floor.max(gone.map_or(0, |item| item.sequence + 1));
    }

    /// Accepts what opening gave as the truth from now on, or says what is wrong with it.
    pub fn judge(&mut self, opened: &Opened) -> Result<(), String> {
        let newest = opened.recovered.newest.0;
        if opened.log.durable().0 != newest {
            return Err(format!("durable is {:?}, newest {newest}", opened.log.durable()));
        }
        let first = opened.items.first().map_or(newest + 1, |item| item.sequence);
        if first > self.floor.max(1)
            && self.items.iter().any(|it| it.sequence < first && it.sequence >= self.floor)
        {
            return Err(format!("begins at {first}, the floor is {}", self.floor));
        }
        let kept = self.items.iter().filter(|item| item.sequence >= first);
        let expected: Vec<&Item> = kept.take(opened.items.len()).collect();
        if expected != opened.items.iter().collect::<Vec<_>>() {
            return Err("the records are not a prefix of what was appended".into());
        }
        let lost = self
            .items
            .iter()
            .find(|item| item.sequence <= self.acknowledged && item.sequence > newest);
        if let Some(lost) = lost {
            return Err(format!("record {} was acknowledged, newest is {newest}", lost.sequence));
        }
        self.items.retain(|item| item.sequence <= newest);
        for item in self.items.iter().rev().filter(|item| item.kind == STATE) {
            let newest_of_lane =
                self.items.iter().rev().find(|it| it.kind == STATE && it.lane == item.lane);
            let state = newest_of_lane.map(|it| &it.payload);
            if opened.states.get(&item.lane) != state {
                return Err(format!("the state of lane {} is not the last one", item.lane));
            }
        }
        self.acknowledged = newest;
        Ok(())
    }

    /// Sets again what opening found, as a caller must.
    pub fn carry_again(&self, opened: &mut Opened) {
        for (&lane, state) in &opened.states {
            opened.log.set_carry(lane, STATE, state);
        }
    }
}

/// The place that opening names, or `None` if it opened.
pub fn refusal(result: &Result<Opened, Error>) -> Option<(u64, u64)> {
    match result {
        Ok(_) => None,
        Err(Error::Corrupt { segment, offset_bytes, .. }) => Some((*segment, *offset_bytes)),
        Err(Error::Missing { .. }) => Some((0, 0)),
        Err(other) => panic!("refused without a place: {other}"),
    }
}

/// A log of several segments, closed in order, with its model.
pub fn written(seed: u64, options: &Options, records: u64) -> (MemoryDisk, Model) {
    let disk = MemoryDisk::new(seed);
    let mut opened = open(&disk, options).expect("a new log");
    let mut model = Model::default();
    let mut random = Random(seed);
    for number in 0..records {
        let lane = random.below(3) as u16;
        let (kind, len_bytes) = match random.below(8) {
            0 => (STATE, random.below(60)),
            1 => (DATA, random.below(3 * options.group_bytes_max as u64)),
            _ => (DATA, random.below(700)),
        };
        let payload = random.bytes(len_bytes as usize);
        model.append(&mut opened.log, lane, kind, payload);
        if number % 3 == 0 {
            opened.log.submit().unwrap();
            opened.log.complete().unwrap();
        }
    }
    opened.log.flush().unwrap();
    model.acknowledge(opened.log.durable());
    opened.log.close().unwrap();
    (disk, model)
}
