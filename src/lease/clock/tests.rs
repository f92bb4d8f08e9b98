//! Leases over time, alone and against a model with a log that may lose its tail.

use std::collections::{BTreeMap, VecDeque};

use super::*;

const A: LeaseId = LeaseId(10);
const B: LeaseId = LeaseId(-20);

#[test]
fn a_lease_expires_once_until_it_is_revoked_or_tried_again() {
    let mut clock = Clock::default();
    clock.grant(A, 10, 0, 1_000);
    clock.grant(B, 5, 0, 1_000);
    assert_eq!(clock.expired(5_999, 9), []);
    assert_eq!(clock.time_to_live(B, 5_999), Some((5, 0)));
    assert_eq!(clock.expired(20_000, 1), [B], "the longest overdue first");
    assert_eq!(clock.expired(20_000, 9), [A]);
    assert_eq!(clock.expired(20_000, 9), []);
    assert_eq!(clock.renew(A, 20_000), None, "its end is under way");
    clock.retry(A);
    clock.retry(LeaseId(77));
    assert_eq!(clock.expired(20_000, 9), [A]);
    clock.revoke(A);
    clock.revoke(A);
    clock.retry(A);
    assert_eq!(clock.expired(20_000, 9), []);
    assert_eq!(clock.time_to_live(A, 20_000), None);
}

#[test]
fn a_renewal_comes_too_late_when_the_time_is_over() {
    let mut clock = Clock::default();
    clock.grant(A, 10, 0, 0);
    assert_eq!(clock.renew(A, 9_999), Some(Renewed { ttl_s: 10, must_log: false }));
    assert_eq!(clock.renew(A, 19_999), None, "though nobody has ended it yet");
    assert_eq!(clock.renew(B, 0), None);
    assert_eq!(clock.expired(19_999, 9), [A]);
}

#[test]
fn time_lost_is_logged_and_a_renewal_after_that_too() {
    let mut clock = Clock::default();
    clock.grant(A, 100, 0, 0);
    clock.grant(B, 5, 0, 0);
    assert_eq!(clock.checkpoint(9_999, 9), [], "a tenth is not lost yet");
    assert_eq!(clock.checkpoint(10_000, 9), [(A, 90)], "B ends before it is worth a record");
    assert_eq!(clock.checkpoint(10_000, 9), []);
    let must_log = Some(Renewed { ttl_s: 100, must_log: true });
    assert_eq!(clock.renew(A, 10_001), must_log, "what is about to be logged counts");
    clock.logged(&[(A, 90)]);
    assert_eq!(clock.renew(A, 10_002), must_log);
    clock.logged(&[(A, 0)]);
    assert_eq!(clock.renew(A, 10_003), Some(Renewed { ttl_s: 100, must_log: false }));
    assert_eq!(clock.checkpoint(20_002, 9), []);
    assert_eq!(clock.checkpoint(20_003, 9), [(A, 90)]);
    clock.logged(&[(LeaseId(77), 5)]);
}

#[test]
fn a_restart_gives_what_was_logged_last() {
    let mut clock = Clock::default();
    clock.grant(A, 100, 40, 0);
    clock.grant(B, 60, 0, 0);
    assert_eq!(clock.time_to_live(A, 0), Some((100, 40)));
    assert_eq!(clock.all_remaining(3_100), [(B, 57), (A, 37)]);
    clock.logged(&[(A, 37)]);
    clock.restart(50_000);
    assert_eq!(clock.time_to_live(A, 50_000), Some((100, 37)));
    assert_eq!(clock.time_to_live(B, 50_000), Some((60, 60)), "that record was lost");
    assert_eq!(clock.all_remaining(50_000), []);
    clock.grant(A, 9_000_000_000, 0, u64::MAX - 5);
    assert_eq!(clock.expired(u64::MAX - 1, 9), [B], "the end of time is far enough");
}

/// What the model knows of a lease.
#[derive(Clone, Copy)]
struct Known {
    ttl_s: i64,
    deadline_ms: u64,
    /// What a crash right now would leave it.
    durable_s: i64,
    ending: bool,
}

#[test]
fn a_crash_never_shortens_what_was_acknowledged() {
    for seed in 0..30_u64 {
        random_life(seed);
    }
}

fn random_life(seed: u64) {
    let mut state = seed;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % below
    };
    let mut clock = Clock::default();
    let mut model: BTreeMap<LeaseId, Known> = BTreeMap::new();
    // Records on their way to the disk, in order.
    let mut log: VecDeque<(LeaseId, i64)> = VecDeque::new();
    let mut now_ms = 0;
    for _ in 0..2_000 {
        now_ms += next(1_500);
        let id = LeaseId(next(12) as i64);
        match next(8) {
            0 if !model.contains_key(&id) => {
                let ttl_s = 2 + next(120) as i64;
                clock.grant(id, ttl_s, 0, now_ms);
                let deadline_ms = now_ms + ttl_s as u64 * 1000;
                let known = Known { ttl_s, deadline_ms, durable_s: ttl_s, ending: false };
                model.insert(id, known);
            }
            1 if next(4) == 0 => {
                clock.revoke(id);
                model.remove(&id);
                log.retain(|(other, _)| *other != id);
            }
            2 | 3 => {
                let renewed = clock.renew(id, now_ms);
                let known = model.get_mut(&id);
                let Some(known) = known.filter(|k| !k.ending && k.deadline_ms > now_ms) else {
                    assert_eq!(renewed, None);
                    continue;
                };
                known.deadline_ms = now_ms + known.ttl_s as u64 * 1000;
                let Renewed { ttl_s, must_log } = renewed.expect("it lives");
                assert_eq!(ttl_s, known.ttl_s);
                if must_log {
                    log.push_back((id, 0));
                } else {
                    // Acknowledged at once: no crash, now or later, may leave it less.
                    assert_eq!(known.durable_s, known.ttl_s);
                    assert!(log.iter().all(|(other, left_s)| *other != id || *left_s == 0));
                }
            }
            4 => {
                let max = next(4) as usize;
                let mut due: Vec<(u64, LeaseId)> = model
                    .iter()
                    .filter(|(_, known)| !known.ending && known.deadline_ms <= now_ms)
                    .map(|(id, known)| (known.deadline_ms, *id))
                    .collect();
                due.sort_unstable();
                let due: Vec<LeaseId> = due.into_iter().take(max).map(|(_, id)| id).collect();
                assert_eq!(clock.expired(now_ms, max), due);
                for id in due {
                    model.get_mut(&id).expect("just seen").ending = true;
                    if next(2) == 0 {
                        clock.retry(id);
                        model.get_mut(&id).expect("just seen").ending = false;
                    }
                }
            }
            5 if next(20) == 0 => {
                // A crash: what was on its way is lost.
                log.clear();
                clock = Clock::default();
                for (&id, known) in &mut model {
                    clock.grant(id, known.ttl_s, known.durable_s, now_ms);
                    known.deadline_ms = now_ms + known.durable_s as u64 * 1000;
                    known.ending = false;
                }
            }
            _ => {
                for _ in 0..next(4) {
                    let Some((id, left_s)) = log.pop_front() else { break };
                    clock.logged(&[(id, left_s)]);
                    let known = model.get_mut(&id).expect("revoking clears its records");
                    known.durable_s = if left_s == 0 { known.ttl_s } else { left_s };
                }
            }
        }
        for (id, left_s) in clock.checkpoint(now_ms, 100) {
            let known = model[&id];
            let left_ms = known.deadline_ms.saturating_sub(now_ms);
            assert_eq!(left_s, (left_ms.div_ceil(1000) as i64).max(1));
            log.push_back((id, left_s));
        }
        for (id, known) in &model {
            let left_s = (known.deadline_ms.saturating_sub(now_ms) / 1000) as i64;
            assert_eq!(clock.time_to_live(*id, now_ms), Some((known.ttl_s, left_s)));
            if log.iter().any(|(other, _)| other == id) {
                continue;
            }
            // With nothing on its way to the disk, a crash gives little time back.
            let lost_s = known.durable_s - left_s;
            let spare_s = LOST_MIN_S.max(known.ttl_s / LOST_PART) + 1;
            assert!(known.ending || lost_s <= spare_s || left_s < spare_s, "{lost_s} s given back");
        }
    }
}
