//! How long clients may rely on their leases: from the moment that a grant or a renewal is
//! acknowledged, a lease lives for its whole time, unless somebody asks to revoke it. What was not
//! acknowledged, or met a revocation on its way, promises nothing.

use std::collections::BTreeMap;

use super::check::Violation;
use crate::keys::LeaseId;

/// A moment: the time, and its place in the order of everything that is asked and told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now_ms: u64,
    pub(super) order: u64,
}

/// What is known of one lease.
#[derive(Default)]
struct Life {
    /// It lives at least until then.
    until_ms: Option<u64>,
    /// Revocations under way.
    revoking: usize,
    /// When the last revocation was asked for or came to its end.
    disturbed: u64,
}

/// What is known of all leases.
#[derive(Default)]
pub(super) struct Leases(BTreeMap<LeaseId, Life>);

impl Leases {
    pub(super) fn revoke_asked(&mut self, id: LeaseId, now: Moment) {
        let life = self.0.entry(id).or_default();
        life.until_ms = None;
        life.revoking += 1;
        life.disturbed = now.order;
    }

    /// A revocation was carried out, refused, or died with the node.
    pub(super) fn revoke_ended(&mut self, id: LeaseId, now: Moment) {
        let life = self.0.entry(id).or_default();
        life.revoking -= 1;
        life.disturbed = now.order;
    }

    /// A grant or a renewal that was asked for at `asked` is acknowledged.
    pub(super) fn lives(&mut self, id: LeaseId, ttl_s: i64, asked: Moment) {
        let life = self.0.entry(id).or_default();
        if life.revoking == 0 && life.disturbed < asked.order {
            let until_ms = asked.now_ms + 1000 * ttl_s as u64;
            life.until_ms = life.until_ms.max(Some(until_ms));
        }
    }

    /// Until when a lease lives at least, for somebody who asks about it now.
    pub(super) fn until_ms(&self, id: LeaseId) -> Option<u64> {
        self.0.get(&id)?.until_ms
    }

    /// Somebody who asked at `asked`, when the lease was known to live until `until_ms`, is told
    /// that it has `left_s` seconds left, or that it is gone.
    pub(super) fn told(
        &self,
        id: LeaseId,
        left_s: Option<i64>,
        until_ms: Option<u64>,
        asked: Moment,
        now: Moment,
    ) -> Result<(), Violation> {
        let Some(until_ms) = until_ms else { return Ok(()) };
        let left_ms = until_ms.saturating_sub(now.now_ms);
        let is_enough = match left_s {
            None => left_ms == 0,
            Some(left_s) => left_s >= (left_ms / 1000) as i64,
        };
        if is_enough || self.0[&id].disturbed > asked.order {
            return Ok(());
        }
        Err(Violation::new(format!("{id:?} has {left_s:?} s left, and was to have {left_ms} ms")))
    }
}
