//! The index against a sorted list.

use super::super::slots::{Entry, Slots};
use super::super::tests::Random;
use super::{Bits, Finger, Index, Sum, Visit};

struct Both {
    slots: Slots,
    index: Index,
    list: Vec<(Vec<u8>, Bits)>,
}

impl Both {
    fn new() -> Both {
        Both { slots: Slots::new(), index: Index::new(), list: Vec::new() }
    }

    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        self.list.binary_search_by(|(k, _)| k[..].cmp(key))
    }

    fn insert(&mut self, key: &[u8], live: bool) {
        self.insert_over(key, Bits { live, below: false });
    }

    fn insert_over(&mut self, key: &[u8], bits: Bits) {
        let Err(at) = self.place(key) else { return };
        let place = self.index.place(key, &self.slots).expect_err("a key that is not in the list");
        let slot = self.slots.insert(Entry::new(key));
        self.index.insert(&place, slot, bits, &self.slots);
        assert_eq!(self.index.place(key, &self.slots).ok(), Some(slot));
        self.list.insert(at, (key.to_vec(), bits));
    }

    fn remove(&mut self, key: &[u8]) {
        let Ok(at) = self.place(key) else { return };
        let slot = self.index.find(key, &self.slots).expect("a key of the list");
        let bits = self.index.remove(key, &self.slots);
        self.slots.take(slot);
        assert_eq!(self.list.remove(at).1, bits);
    }

    fn cut(&mut self, start: &[u8], end: Option<&[u8]>) {
        let from = self.place(start).unwrap_or_else(|at| at);
        let to = end.map_or(self.list.len(), |end| self.place(end).unwrap_or_else(|at| at));
        let mut gone = Vec::new();
        self.index.cut(start, end, &self.slots, &mut |slot, bits| gone.push((slot, bits)));
        let gone: Vec<_> = gone
            .into_iter()
            .map(|(slot, bits)| (self.slots.take(slot).key().to_vec(), bits))
            .collect();
        assert_eq!(self.list.drain(from..to.max(from)).collect::<Vec<_>>(), gone);
    }

    fn turn(&mut self, key: &[u8]) {
        let Ok(at) = self.place(key) else { return };
        let bits = &mut self.list[at].1;
        bits.live = !bits.live;
        self.index.set_live(key, bits.live, &self.slots);
    }

    fn sum(&self, before: usize) -> Sum {
        let count = |counts: fn(&Bits) -> bool| {
            self.list[..before].iter().filter(|(_, bits)| counts(bits)).count() as u32
        };
        Sum { keys: before as u32, live: count(|bits| bits.live), below: count(|bits| bits.below) }
    }

    fn visited(&self, start: &[u8], end: Option<&[u8]>, relevant_only: bool) -> Vec<&[u8]> {
        let mut keys = Vec::new();
        let visit = Visit { slots: &self.slots, end, relevant_only };
        self.index.visit(start, visit, &mut |slot| {
            keys.push(self.slots.key(slot));
            true
        });
        let mut walked = Vec::new();
        let mut cursor = self.index.cursor(start, visit);
        while let Some(slot) = cursor.peek() {
            walked.push(self.slots.key(slot));
            cursor.advance();
        }
        assert_eq!(walked, keys, "a cursor goes where a visit goes");
        keys
    }

    /// Everything about one key, which may be absent.
    fn check_key(&self, key: &[u8]) {
        let found = self.index.find(key, &self.slots).map(|slot| self.slots.key(slot));
        assert_eq!(found, self.place(key).ok().map(|_| key));
        if let Ok(at) = self.place(key) {
            assert_eq!(self.index.is_below(key, &self.slots), self.list[at].1.below);
        }
        let before = self.place(key).unwrap_or_else(|at| at);
        assert_eq!(self.index.rank(key, &self.slots), self.sum(before), "{key:?}");
    }

    fn check_range(&self, start: &[u8], end: Option<&[u8]>) {
        let from = self.place(start).unwrap_or_else(|at| at);
        let to = end.map_or(self.list.len(), |end| self.place(end).unwrap_or_else(|at| at));
        let list = &self.list[from..to.max(from)];
        let all: Vec<_> = list.iter().map(|(key, _)| &key[..]).collect();
        let relevant = list.iter().filter(|(_, bits)| bits.live || bits.below);
        let relevant: Vec<_> = relevant.map(|(key, _)| &key[..]).collect();
        assert_eq!(self.visited(start, end, false), all);
        assert_eq!(self.visited(start, end, true), relevant);
    }

    fn check_all(&self) {
        self.check_range(b"", None);
        assert_eq!(self.index.sum(), self.sum(self.list.len()));
        let live: Vec<_> = self.list.iter().filter(|(_, bits)| bits.live).collect();
        for rank in (0..live.len()).step_by(1 + live.len() / 50) {
            let slot = self.index.nth_live(rank as u32).expect("a rank in bounds");
            assert_eq!(self.slots.key(slot), live[rank].0);
        }
        assert_eq!(self.index.nth_live(live.len() as u32), None);
    }
}

/// Keys that are hard to tell apart: long shared beginnings, zeros at the end, beginnings of others.
fn key(random: &mut Random) -> Vec<u8> {
    match random.below(6) {
        0 => vec![b'a'; random.below(40)],
        1 => [&[b'a'; 3][..], &vec![0; random.below(12)]].concat(),
        2 => format!("/registry/pods/default/pod-{}", random.below(2000)).into_bytes(),
        3 => format!("/registry/leases/{:x}", random.below(500)).into_bytes(),
        4 => (random.below(3000) as u64 * 977).to_be_bytes().to_vec(),
        _ => (0..random.below(5)).map(|_| [0, 1, b'a', 255][random.below(4)]).collect(),
    }
}

#[test]
fn equals_a_sorted_list_under_random_changes() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let mut both = Both::new();
        for step in 0..12_000 {
            // Grows, stays, shrinks.
            let share = [75, 50, 15][step / 4_000];
            let key_now = key(&mut random);
            if random.percent(20) {
                both.turn(&key_now);
            } else if random.percent(share) {
                let (live, below) = (random.percent(70), random.percent(30));
                both.insert_over(&key_now, Bits { live, below });
            } else if random.percent(50) && !both.list.is_empty() {
                let at = random.below(both.list.len());
                both.remove(&both.list[at].0.clone());
            } else {
                both.remove(&key_now);
            }
            if step % 40 == 0 {
                both.check_key(&key_now);
                both.check_key(&key(&mut random));
                both.check_range(&key_now, Some(&key(&mut random)));
            }
            if step % 1_000 == 0 {
                both.check_all();
            }
        }
        both.check_all();
        while let Some((key, _)) = both.list.last().cloned() {
            both.remove(&key);
        }
        both.check_all();
        assert_eq!(both.index.nodes, 1, "an empty index is one leaf");
    }
}

#[test]
fn ranges_are_cut_out() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut both = Both::new();
        for _ in 0..30 {
            for _ in 0..random.below(1_000) {
                let (live, below) = (random.percent(70), random.percent(30));
                both.insert_over(&key(&mut random), Bits { live, below });
            }
            for _ in 0..random.below(4) {
                let start = key(&mut random);
                let end = match random.below(5) {
                    0 => None,
                    // One key, or none.
                    1 => Some([&start[..], &[0]].concat()),
                    _ => Some(key(&mut random)),
                };
                both.cut(&start, end.as_deref());
                both.check_key(&start);
                both.check_range(&start, end.as_deref());
            }
            both.check_all();
        }
        both.cut(b"", None);
        both.check_all();
        assert_eq!(both.index.nodes, 1, "an empty index is one leaf");
        both.insert(b"again", true);
        both.check_all();
    }
}

#[test]
fn a_finger_finds_what_a_search_finds() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let mut both = Both::new();
        for _ in 0..60 {
            let mut batch: Vec<_> = (0..random.below(500)).map(|_| key(&mut random)).collect();
            batch.sort();
            let mut finger = Finger::default();
            for key in batch {
                match both.index.place_behind(&mut finger, &key, &both.slots) {
                    Ok(slot) => assert_eq!(both.slots.key(slot), key),
                    Err(place) => {
                        let at = both.place(&key).expect_err("it was not found");
                        let slot = both.slots.insert(Entry::new(&key));
                        let bits = Bits { live: true, below: false };
                        both.index.insert(&place, slot, bits, &both.slots);
                        both.list.insert(at, (key, bits));
                    }
                }
            }
            both.check_all();
        }
        assert!(both.index.nodes > 40, "deep enough to lose the way");
    }
}

#[test]
fn keys_in_order_fill_the_leaves() {
    let mut both = Both::new();
    for n in 0..20_000_u32 {
        both.insert(format!("/config/service/{n:08}").as_bytes(), true);
    }
    both.check_all();
    both.check_key(b"/config/service/00010000");
    both.check_key(b"/config/service/1");
    both.check_key(b"/config/");
    let per_key = both.index.bytes() as f64 / 20_000.0;
    assert!(per_key < 9.0, "{per_key} bytes a key");
}

#[test]
fn keys_in_falling_order_and_taken_from_the_front() {
    let mut both = Both::new();
    for n in (0..20_000_u32).rev() {
        both.insert(&n.to_be_bytes(), n % 3 != 0);
    }
    both.check_all();
    for n in 0..19_900_u32 {
        both.remove(&n.to_be_bytes());
        if n % 500 == 0 {
            both.check_key(&(n + 1).to_be_bytes());
            both.check_range(&[], Some(&(n + 700).to_be_bytes()));
        }
    }
    both.check_all();
    assert!(both.index.nodes < 10, "emptied nodes leave");
}
