//! Latches: key ranges and leases of one shard that wait for an operation across shards (R9).
//!
//! An operation that needs claims on several shards takes them one after the other in ascending key
//! order, no two of them overlapping, leases with the first. A claim waits for what others hold and
//! it meets. An operation's *first* claim also waits for claims that came before it and meet it, so
//! that nobody starves; a later one does not, since those before it may wait for what its own
//! operation holds already.
//!
//! Why no cycle can form: whoever holds nothing is waited for by nobody that holds something. Among
//! operations that hold something, each waits for a key that lies beyond all it holds, at the place
//! of another's latch; and that other waits for a key beyond *its* latches. So the keys waited for
//! ascend along any chain. Only this order is decided here; what is done under a latch is not known.

use std::collections::BTreeMap;

use crate::keys::{CoreId, KeyRange, LeaseId};

/// Names the operation that holds or wants a claim: its core, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClaimId {
    /// Core of the coordinator.
    pub core: CoreId,
    /// The coordinator's number for the operation.
    pub number: u64,
}

/// What an operation must have to itself on one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Key ranges that nobody else may write or claim.
    pub ranges: Vec<KeyRange>,
    /// A lease about to be revoked: nobody may bind a key to it.
    pub revokes: Option<LeaseId>,
    /// Leases that keys will be bound to: they may not be revoked meanwhile.
    pub binds: Vec<LeaseId>,
}

impl Claim {
    fn meets(&self, other: &Claim) -> bool {
        let revokes = |a: &Claim, b: &Claim| {
            a.revokes.is_some_and(|lease| b.binds.contains(&lease) || b.revokes == Some(lease))
        };
        revokes(self, other)
            || revokes(other, self)
            || self.ranges.iter().any(|mine| other.ranges.iter().any(|its| mine.overlaps(its)))
    }
}

/// The answer to a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granted {
    /// Held from now on.
    Now,
    /// Queued; [`Latches::release`] of another claim names it when its turn has come.
    Later,
}

/// The claims of one shard. `W` is what waits with a claim and is handed back when it is granted.
#[derive(Debug)]
pub struct Latches<W> {
    held: BTreeMap<ClaimId, Vec<Claim>>,
    /// In order of arrival.
    waiting: Vec<Waiting<W>>,
}

#[derive(Debug)]
struct Waiting<W> {
    /// `None`: a write of this shard alone, which holds nothing afterwards.
    id: Option<ClaimId>,
    claim: Claim,
    turn: Turn,
    waiter: W,
}

/// Where in its operation a claim stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The operation holds nothing yet.
    First,
    /// The operation holds latches, here or on other shards.
    Later,
}

impl<W> Default for Latches<W> {
    fn default() -> Latches<W> {
        Latches { held: BTreeMap::new(), waiting: Vec::new() }
    }
}

impl<W> Latches<W> {
    /// Whether nothing is held and nothing waits: then any write may pass without asking.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    /// Claims for `id`; `waiter` is called for only if the claim must wait.
    pub fn claim(
        &mut self,
        id: ClaimId,
        claim: Claim,
        turn: Turn,
        waiter: impl FnOnce() -> W,
    ) -> Granted {
        if self.is_free(&claim, Some(id), turn, self.waiting.len()) {
            self.held.entry(id).or_default().push(claim);
            return Granted::Now;
        }
        self.waiting.push(Waiting { id: Some(id), claim, turn, waiter: waiter() });
        Granted::Later
    }

    /// Whether a write of this shard alone may run now.
    #[must_use]
    pub fn may_pass(&self, claim: &Claim) -> bool {
        self.is_idle() || self.is_free(claim, None, Turn::First, self.waiting.len())
    }

    /// Queues a write of this shard alone that may not run now.
    pub fn wait(&mut self, claim: Claim, waiter: W) {
        self.waiting.push(Waiting { id: None, claim, turn: Turn::First, waiter });
    }

    /// Whether some operation revokes, or waits to revoke, one of `leases`.
    #[must_use]
    pub fn is_revoking(&self, leases: &[LeaseId]) -> bool {
        let revokes = |claim: &Claim| claim.revokes.is_some_and(|lease| leases.contains(&lease));
        self.held.values().flatten().any(revokes)
            || self.waiting.iter().any(|waiting| revokes(&waiting.claim))
    }

    /// Gives back everything `id` holds, and its place in the queue.
    pub fn release(&mut self, id: ClaimId) {
        self.held.remove(&id);
        self.waiting.retain(|waiting| waiting.id != Some(id));
    }

    /// Takes the next waiter whose turn has come; its claim, if it has an id, is now held.
    /// To be called until it returns `None` after every release.
    pub fn next_granted(&mut self) -> Option<(Option<ClaimId>, W)> {
        let at = (0..self.waiting.len()).find(|&at| {
            let Waiting { id, claim, turn, .. } = &self.waiting[at];
            self.is_free(claim, *id, *turn, at)
        })?;
        let Waiting { id, claim, waiter, .. } = self.waiting.remove(at);
        if let Some(id) = id {
            self.held.entry(id).or_default().push(claim);
        }
        Some((id, waiter))
    }

    /// How many claims and writes wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Forgets everything, at the end of an epoch (R6); returns what waited.
    pub fn clear(&mut self) -> impl Iterator<Item = W> + use<W> {
        self.held.clear();
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.waiter)
    }

    fn is_free(&self, claim: &Claim, id: Option<ClaimId>, turn: Turn, before: usize) -> bool {
        let others_hold = self
            .held
            .iter()
            .filter(|(holder, _)| Some(**holder) != id)
            .flat_map(|(_, claims)| claims)
            .any(|held| held.meets(claim));
        let earlier = match turn {
            Turn::First => &self.waiting[..before],
            Turn::Later => &[],
        };
        !others_hold && !earlier.iter().any(|waiting| waiting.claim.meets(claim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Claim {
        let ranges = keys.iter().map(|key| KeyRange::single(key.as_bytes())).collect();
        Claim { ranges, ..Claim::default() }
    }

    fn id(number: u64) -> ClaimId {
        ClaimId { core: CoreId(0), number }
    }

    #[test]
    fn claims_wait_only_for_what_they_meet_and_in_order() {
        let mut latches = Latches::default();
        assert_eq!(latches.claim(id(1), keys(&["a", "b"]), Turn::First, || 1), Granted::Now);
        assert_eq!(latches.claim(id(2), keys(&["b", "c"]), Turn::First, || 2), Granted::Later);
        assert_eq!(
            latches.claim(id(3), keys(&["c"]), Turn::First, || 3),
            Granted::Later,
            "2 came first"
        );
        assert_eq!(latches.claim(id(4), keys(&["d"]), Turn::First, || 4), Granted::Now);
        assert!(!latches.may_pass(&keys(&["c"])));
        assert_eq!(latches.next_granted(), None);
        latches.release(id(1));
        assert_eq!(latches.next_granted(), Some((Some(id(2)), 2)));
        assert_eq!(latches.next_granted(), None);
        latches.release(id(2));
        assert_eq!(latches.next_granted(), Some((Some(id(3)), 3)));
    }

    #[test]
    fn an_operation_under_way_does_not_wait_for_those_that_wait_for_it() {
        let mut latches = Latches::default();
        latches.claim(id(1), keys(&["a"]), Turn::First, || 1);
        latches.claim(id(2), keys(&["a", "n"]), Turn::First, || 2);
        assert_eq!(latches.claim(id(1), keys(&["n"]), Turn::Later, || 1), Granted::Now);
        assert_eq!(latches.claim(id(3), keys(&["n"]), Turn::First, || 3), Granted::Later);
        latches.release(id(1));
        assert_eq!(latches.next_granted(), Some((Some(id(2)), 2)));
    }

    #[test]
    fn who_leaves_the_queue_holds_nobody_up() {
        let mut latches = Latches::default();
        latches.claim(id(1), keys(&["a"]), Turn::First, || 1);
        latches.claim(id(2), keys(&["a", "b"]), Turn::First, || 2);
        latches.wait(keys(&["b"]), 3);
        latches.release(id(2));
        assert_eq!(latches.next_granted(), Some((None, 3)));
    }

    #[test]
    fn a_lease_is_bound_or_revoked_but_not_both() {
        let lease = LeaseId(5);
        let revoke = Claim { revokes: Some(lease), ..Claim::default() };
        let bind = Claim { binds: vec![lease], ..Claim::default() };
        let mut latches = Latches::default();
        assert_eq!(latches.claim(id(1), bind.clone(), Turn::First, || ()), Granted::Now);
        assert!(latches.may_pass(&bind), "two may bind");
        assert_eq!(latches.claim(id(2), revoke, Turn::First, || ()), Granted::Later);
        assert!(latches.is_revoking(&[lease]));
        assert!(!latches.may_pass(&bind));
        latches.release(id(1));
        assert_eq!(latches.next_granted(), Some((Some(id(2)), ())));
    }
}
