//! Simulated loads: what all lanes do in a second, what they report, what moves.

use super::*;

/// A little generator with a state of its own.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % n
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 30) as f64 / (1 << 30) as f64
    }
}

fn key(n: u64) -> Vec<u8> {
    format!("/registry/pods/{n:08}").into_bytes()
}

struct Node {
    map: RangeMap,
    samplers: Vec<Sampler>,
    balancer: Balancer,
    moves: usize,
    /// Operations of each lane in the last second.
    operations: Vec<u64>,
}

impl Node {
    fn new(lanes: u16) -> Node {
        Node {
            map: RangeMap::default(),
            samplers: (0..lanes).map(|_| Sampler::default()).collect(),
            balancer: Balancer::new(lanes, lanes),
            moves: 0,
            operations: Vec::new(),
        }
    }

    /// One second of `operations` on the keys that `next` gives; then at most two moves.
    fn second(&mut self, operations: u64, next: &mut dyn FnMut() -> Vec<u8>) {
        for _ in 0..operations {
            let key = next();
            self.samplers[usize::from(self.map.lane_of(&key).0)].note(&key);
        }
        self.operations.clear();
        for (lane, sampler) in (0..).map(LaneId).zip(&mut self.samplers) {
            let load = sampler.load(lane);
            self.operations.push(load.operations);
            self.balancer.report(load);
        }
        for _ in 0..2 {
            if let Some(Move { range, to }) = self.balancer.decide(&self.map) {
                let from = self.map.sole_owner(&range).expect("one lane owns what moves");
                assert_ne!(from, to);
                self.map = self.map.moved(&range, to);
                self.moves += 1;
            }
        }
    }

    /// The busiest and the idlest lane of the last second, as parts of the average one.
    fn extremes(&self) -> (f64, f64) {
        let average = self.operations.iter().sum::<u64>() as f64 / self.operations.len() as f64;
        let part = |n: Option<&u64>| *n.expect("lanes") as f64 / average;
        (part(self.operations.iter().max()), part(self.operations.iter().min()))
    }
}

#[test]
fn a_load_under_one_prefix_keeps_all_lanes_busy_within_ten_seconds() {
    for lanes in [2, 4, 8, 16] {
        let mut dice = Dice(1);
        let mut node = Node::new(lanes);
        for _ in 0..10 {
            node.second(20_000, &mut || key(dice.below(100_000)));
        }
        let (most, least) = node.extremes();
        assert!(most < 1.4 && least > 0.5, "{lanes} lanes: {:?}", node.operations);

        let moves = node.moves;
        for _ in 0..60 {
            node.second(20_000, &mut || key(dice.below(100_000)));
        }
        assert!(node.moves <= moves + 2, "{lanes} lanes: {moves}, then {}", node.moves);
        assert!(node.map.starts().len() <= 3 * usize::from(lanes));
    }
}

#[test]
fn skewed_keys_are_spread_as_far_as_keys_can_be() {
    let mut dice = Dice(2);
    // Zipf-like: the weight of rank r falls with 1/r, ranks scattered over the keys.
    let mut zipf = move || {
        let rank = (100_000_f64.powf(dice.unit()) as u64).min(99_999);
        key(rank.wrapping_mul(7_919) % 100_000)
    };
    let mut node = Node::new(4);
    (0..10).for_each(|_| node.second(20_000, &mut zipf));
    let (most, least) = node.extremes();
    assert!(most < 1.4 && least > 0.5, "{:?}", node.operations);
    let moves = node.moves;
    (0..60).for_each(|_| node.second(20_000, &mut zipf));
    assert!(node.moves <= moves + 2, "{moves}, then {}", node.moves);
}

#[test]
fn a_cycle_through_few_keys_is_spread() {
    let mut at = 0;
    let mut cycle = move || {
        at = (at + 1) % 10_000;
        key(at)
    };
    let mut node = Node::new(4);
    (0..10).for_each(|_| node.second(20_000, &mut cycle));
    let (most, least) = node.extremes();
    assert!(most < 1.3 && least > 0.6, "{:?}", node.operations);
}

#[test]
fn ascending_inserts_do_not_move_things_for_nothing() {
    let mut at = 0;
    let mut node = Node::new(4);
    for _ in 0..120 {
        node.second(20_000, &mut || {
            at += 1;
            key(at)
        });
    }
    assert!(node.moves <= 8, "{} moves in two minutes", node.moves);
}

#[test]
fn a_single_hot_key_stays_where_it_is() {
    let mut node = Node::new(4);
    (0..60).for_each(|_| node.second(20_000, &mut || key(7)));
    assert!(node.moves <= 1, "{} moves", node.moves);

    // What is beside it goes elsewhere, and then there is peace.
    let mut dice = Dice(3);
    let mut node = Node::new(2);
    let mut mixed = || if dice.below(10) < 6 { key(5_000) } else { key(dice.below(10_000)) };
    (0..10).for_each(|_| node.second(20_000, &mut mixed));
    let (most, _) = node.extremes();
    assert!(most < 1.45, "{:?}", node.operations);
    let moves = node.moves;
    (0..60).for_each(|_| node.second(20_000, &mut mixed));
    assert!(node.moves <= moves + 1, "{moves}, then {}", node.moves);
}

#[test]
fn an_idle_store_never_moves() {
    let mut dice = Dice(4);
    let mut node = Node::new(4);
    (0..60).for_each(|_| node.second(150, &mut || key(dice.below(1000))));
    (0..60).for_each(|_| node.second(0, &mut || key(0)));
    assert_eq!(node.moves, 0);
}

#[test]
fn what_the_clients_of_one_core_use_gathers_there_when_there_is_little_to_do() {
    let mut node = Node::new(2);
    let mut dice = Dice(5);
    for _ in 0..12 {
        node.second(60_000, &mut || key(dice.below(1000)));
    }
    let share = |node: &Node| {
        let operations = &node.operations;
        operations[1] as f64 / operations.iter().sum::<u64>() as f64
    };
    assert!((0.3..0.7).contains(&share(&node)), "{:?}", node.operations);
    // Clients of both cores: it stays as it is.
    let moves = node.moves;
    for _ in 0..12 {
        node.balancer.asked(CoreId(0), 1000);
        node.balancer.asked(CoreId(1), 500);
        node.second(1500, &mut || key(dice.below(1000)));
    }
    assert_eq!(node.moves, moves);
    // Those of one core only: it comes to them, and no more happens once it is there.
    for home in [1, 0] {
        for _ in 0..12 {
            node.balancer.asked(CoreId(home), 1500);
            node.balancer.asked(CoreId(1 - home), 0);
            node.second(1500, &mut || key(dice.below(1000)));
        }
        let at_one = if home == 1 { share(&node) } else { 1.0 - share(&node) };
        assert!(at_one > 0.98, "on core {home}: {:?}", node.operations);
        let moves = node.moves;
        for _ in 0..20 {
            node.balancer.asked(CoreId(home), 1500);
            node.balancer.asked(CoreId(1 - home), 3);
            node.second(1500, &mut || key(dice.below(1000)));
        }
        assert_eq!(node.moves, moves, "it came to rest");
    }
    // And with much to do it spreads again, whoever asks.
    for _ in 0..12 {
        node.balancer.asked(CoreId(0), 60_000);
        node.balancer.asked(CoreId(1), 0);
        node.second(60_000, &mut || key(dice.below(1000)));
    }
    assert!((0.3..0.7).contains(&share(&node)), "{:?}", node.operations);
}

#[test]
fn a_load_that_moves_elsewhere_is_followed() {
    let mut dice = Dice(5);
    let mut node = Node::new(4);
    (0..15).for_each(|_| node.second(20_000, &mut || key(dice.below(1000))));
    (0..25).for_each(|_| node.second(20_000, &mut || key(50_000 + dice.below(1000))));
    let (most, least) = node.extremes();
    assert!(most < 1.4 && least > 0.5, "{:?}", node.operations);
}

#[test]
fn a_map_of_many_ranges_is_not_cut_further() {
    let mut dice = Dice(6);
    let mut node = Node::new(2);
    for n in 0..2 * RANGES_PER_LANE_MAX as u64 {
        let range = KeyRange { start: key(2 * n + 1), end: Some(key(2 * n + 2)) };
        node.map = node.map.moved(&range, LaneId(1));
    }
    let before = node.map.starts().len();
    // All load on ranges of lane 0.
    (0..30).for_each(|_| node.second(20_000, &mut || key(2 * dice.below(50))));
    let (most, _) = node.extremes();
    assert!(most < 1.3 && node.map.starts().len() <= before, "{:?}", node.operations);
}

#[test]
fn a_sample_is_even_bounded_and_repeatable() {
    let run = || {
        let mut sampler = Sampler::default();
        // 64 keys in turn: a sampler of every 64th operation would see one of them.
        (0..1_000_000_u64).for_each(|n| sampler.note(&key(n % 64)));
        sampler.load(LaneId(0))
    };
    let load = run();
    assert_eq!(load, run());
    assert_eq!(load.operations, 1_000_000);
    assert!((SAMPLES_MAX / 2..=SAMPLES_MAX).contains(&load.keys.len()));
    let distinct: std::collections::BTreeSet<_> = load.keys.iter().collect();
    assert!(distinct.len() > 32, "{} of 64 keys", distinct.len());

    let mut sampler = Sampler::default();
    sampler.note(&[b'k'; 100_000]);
    assert_eq!(sampler.load(LaneId(0)).keys[0].len(), SAMPLE_BYTES_MAX);
    assert_eq!(sampler.load(LaneId(0)), LaneLoad::default(), "each load tells what is new");
}
