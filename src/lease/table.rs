//! Which leases there are, and for how many seconds they were granted: a copy on every core. Says
//! nothing of the time they have left.

use std::collections::BTreeMap;

use crate::keys::LeaseId;

/// The leases there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<LeaseId, i64>);

impl Table {
    /// A lease begins.
    pub fn grant(&mut self, lease: LeaseId, ttl_s: i64) {
        self.0.insert(lease, ttl_s);
    }

    /// A lease ends; nothing happens if there is none of that number.
    pub fn revoke(&mut self, lease: LeaseId) {
        self.0.remove(&lease);
    }

    /// Whether there is such a lease.
    #[must_use]
    pub fn contains(&self, lease: LeaseId) -> bool {
        self.0.contains_key(&lease)
    }

    /// For how many seconds it was granted.
    #[must_use]
    pub fn ttl_s(&self, lease: LeaseId) -> Option<i64> {
        self.0.get(&lease).copied()
    }

    /// Their numbers, ascending.
    pub fn ids(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.0.keys().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
