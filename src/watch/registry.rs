//! Who watches which keys of one shard. Watchers of one key are found by look-up, those of ranges
//! in an interval tree. What a watcher has seen is not known here, nor what is sent to it.

use std::collections::BTreeMap;

use super::WatcherId;
use super::intervals::Intervals;
use crate::keys::KeyRange;

/// Watchers of one key or range, and whether each wants the version before.
type Watchers = BTreeMap<WatcherId, bool>;

/// Part of a watcher's range on its way to another shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatcherPiece {
    /// Whose.
    pub watcher: WatcherId,
    /// Which part.
    pub range: KeyRange,
    /// Whether it wants the version before.
    pub prev_kv: bool,
}

/// The watchers of one shard.
#[derive(Debug, Default)]
pub struct Registry {
    singles: BTreeMap<Vec<u8>, Watchers>,
    ranges: Intervals<Watchers>,
    /// What each watcher watches: usually one range, more after parts of it have moved. They do not
    /// overlap.
    pieces: BTreeMap<WatcherId, Vec<KeyRange>>,
}

impl Registry {
    /// Whether nobody watches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many watchers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Adds keys to what a watcher watches. O(log watchers).
    pub fn add(&mut self, watcher: WatcherId, range: KeyRange, prev_kv: bool) {
        if range.is_empty() {
            return;
        }
        let range = self.join(watcher, range);
        match range.as_single() {
            Some(key) => self.singles.entry(key.to_vec()).or_default(),
            None => self.ranges.entry(&range),
        }
        .insert(watcher, prev_kv);
        self.pieces.entry(watcher).or_default().push(range);
    }

    /// Takes a watcher out, with all that it watches; nothing happens if it is not here.
    pub fn remove(&mut self, watcher: WatcherId) {
        for range in self.pieces.remove(&watcher).unwrap_or_default() {
            self.unhook(watcher, &range);
        }
    }

    /// Appends who watches `key`, each once, and whether it wants the version before.
    /// O(log watchers · (1 + found)).
    pub fn matching(&self, key: &[u8], out: &mut Vec<(WatcherId, bool)>) {
        let mut found = |watchers: &Watchers| out.extend(watchers.iter().map(|(w, p)| (*w, *p)));
        if let Some(watchers) = self.singles.get(key) {
            found(watchers);
        }
        self.ranges.holding(key, &mut found);
    }

    /// Takes out what is watched inside `range`: it moves to another shard.
    pub fn export(&mut self, range: &KeyRange) -> Vec<WatcherPiece> {
        let mut hit: Vec<(KeyRange, Watchers)> = Vec::new();
        if !range.is_empty() {
            let singles = self.singles.range(range.start.clone()..);
            let inside = singles.take_while(|(key, _)| range.contains(key));
            hit.extend(inside.map(|(key, of_key)| (KeyRange::single(key), of_key.clone())));
            self.ranges.overlapping(range, &mut |other, watchers| {
                hit.push((other.clone(), watchers.clone()));
            });
        }
        let mut exported = Vec::new();
        for (whole, watchers) in hit {
            let moving = whole.intersect(range).expect("it was found for overlapping");
            for (watcher, prev_kv) in watchers {
                self.take_piece(watcher, &whole);
                let staying = outside(&whole, &moving);
                staying.into_iter().for_each(|part| self.add(watcher, part, prev_kv));
                exported.push(WatcherPiece { watcher, range: moving.clone(), prev_kv });
            }
        }
        exported
    }

    /// Takes in what another shard exported.
    pub fn import(&mut self, pieces: Vec<WatcherPiece>) {
        for WatcherPiece { watcher, range, prev_kv } in pieces {
            self.add(watcher, range, prev_kv);
        }
    }

    /// Joins a piece with those of the same watcher that it touches, which are taken out: a range
    /// that moves to and fro does not fall into ever more pieces.
    fn join(&mut self, watcher: WatcherId, mut range: KeyRange) -> KeyRange {
        loop {
            let pieces = self.pieces.get(&watcher).map_or(&[][..], Vec::as_slice);
            let touches = |other: &&KeyRange| {
                other.overlaps(&range)
                    || other.end.as_ref() == Some(&range.start)
                    || range.end.as_ref() == Some(&other.start)
            };
            let Some(other) = pieces.iter().find(touches).cloned() else { return range };
            self.take_piece(watcher, &other);
            let end = match (range.end, other.end) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
            range = KeyRange { start: range.start.min(other.start), end };
        }
    }

    fn take_piece(&mut self, watcher: WatcherId, range: &KeyRange) {
        let pieces = self.pieces.get_mut(&watcher).expect("each piece has its watcher");
        pieces.retain(|piece| piece != range);
        if pieces.is_empty() {
            self.pieces.remove(&watcher);
        }
        self.unhook(watcher, range);
    }

    fn unhook(&mut self, watcher: WatcherId, range: &KeyRange) {
        if let Some(key) = range.as_single() {
            let of_key = self.singles.get_mut(key).expect("each piece is found by its key");
            of_key.remove(&watcher);
            if of_key.is_empty() {
                self.singles.remove(key);
            }
        } else {
            let of_range = self.ranges.get_mut(range).expect("each piece is found by its range");
            of_range.remove(&watcher);
            if of_range.is_empty() {
                self.ranges.remove(range);
            }
        }
    }
}

/// What of `whole` lies before and after `part`.
fn outside(whole: &KeyRange, part: &KeyRange) -> Vec<KeyRange> {
    let mut parts = vec![KeyRange { start: whole.start.clone(), end: Some(part.start.clone()) }];
    if let Some(end) = &part.end {
        parts.push(KeyRange { start: end.clone(), end: whole.end.clone() });
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::CoreId;

    fn id(number: u64) -> WatcherId {
        WatcherId { core: CoreId((number % 3) as u16), number }
    }

    fn range(start: &[u8], end: &[u8]) -> KeyRange {
        KeyRange { start: start.to_vec(), end: (!end.is_empty()).then(|| end.to_vec()) }
    }

    fn who(registry: &Registry, key: &[u8]) -> Vec<(WatcherId, bool)> {
        let mut found = Vec::new();
        registry.matching(key, &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn a_key_finds_its_watchers_and_those_of_ranges_around_it() {
        let mut registry = Registry::default();
        registry.add(id(1), KeyRange::single(b"b"), true);
        registry.add(id(2), range(b"a", b"c"), false);
        registry.add(id(3), KeyRange::all(), false);
        registry.add(id(4), range(b"c", b"b"), false);
        assert_eq!(registry.len(), 3, "an empty range is nobody's");
        assert_eq!(who(&registry, b"b"), [(id(3), false), (id(1), true), (id(2), false)]);
        assert_eq!(who(&registry, b"c"), [(id(3), false)]);
        [1, 2, 3, 4].into_iter().for_each(|number| registry.remove(id(number)));
        assert!(registry.is_empty() && registry.singles.is_empty() && registry.ranges.is_empty());
    }

    #[test]
    fn a_range_that_moves_to_and_fro_is_whole_again() {
        let (mut here, mut there) = (Registry::default(), Registry::default());
        here.add(id(1), range(b"a", b"z"), true);
        here.add(id(2), KeyRange::single(b"m"), false);
        let moved = here.export(&range(b"g", b"p"));
        assert_eq!(moved.len(), 2);
        there.import(moved);
        assert_eq!(who(&here, b"m"), []);
        assert_eq!(who(&here, b"q"), [(id(1), true)]);
        assert_eq!(who(&there, b"m"), vec![(id(2), false), (id(1), true)].sorted());
        here.import(there.export(&KeyRange::all()));
        assert!(there.is_empty());
        assert_eq!(here.pieces[&id(1)], [range(b"a", b"z")]);
    }

    trait Sorted {
        fn sorted(self) -> Self;
    }

    impl Sorted for Vec<(WatcherId, bool)> {
        fn sorted(mut self) -> Self {
            self.sort_unstable();
            self
        }
    }

    #[test]
    fn two_shards_find_what_plain_lists_find() {
        let mut seed = 5_u64;
        let mut next = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        // Keys of 0..24 belong to either shard; the model knows whole ranges only.
        let mut shards = [Registry::default(), Registry::default()];
        let mut owner = [0_usize; 24];
        let mut model: BTreeMap<u64, (KeyRange, bool)> = BTreeMap::new();
        for number in 0..1_000 {
            let (a, b) = (next(24) as u8, next(30) as u8);
            let some = match next(3) {
                0 => KeyRange::single(&[a]),
                1 => KeyRange { start: vec![a], end: None },
                _ => KeyRange { start: vec![a], end: Some(vec![b]) },
            };
            match next(4) {
                0 | 1 => {
                    let prev_kv = next(2) == 0;
                    for at in 0..24_u8 {
                        if let Some(part) = some.intersect(&range(&[at], &[at + 1])) {
                            shards[owner[usize::from(at)]].add(id(number), part, prev_kv);
                        }
                    }
                    if let Some(part) = some.intersect(&range(&[24], b"")) {
                        shards[0].add(id(number), part, prev_kv);
                    }
                    model.insert(number, (some, prev_kv));
                }
                2 => {
                    let victim = next(number + 1);
                    shards.iter_mut().for_each(|shard| shard.remove(id(victim)));
                    model.remove(&victim);
                }
                _ => {
                    let to = next(2) as usize;
                    let moved = range(&[a], &[a + 1 + next(6) as u8]);
                    let moved = moved.intersect(&range(&[0], &[24])).expect("a is below 24");
                    let pieces = shards[1 - to].export(&moved);
                    shards[to].import(pieces);
                    let hit = (0..24_u8).filter(|at| moved.contains(&[*at]));
                    hit.for_each(|at| owner[usize::from(at)] = to);
                }
            }
            for at in 0..24_u8 {
                let key = [at];
                let expected = model.iter().filter(|(_, (range, _))| range.contains(&key));
                let expected: Vec<_> = expected.map(|(n, (_, p))| (id(*n), *p)).collect();
                assert_eq!(who(&shards[owner[usize::from(at)]], &key), expected.sorted());
                assert_eq!(who(&shards[1 - owner[usize::from(at)]], &key), []);
            }
        }
    }
}
