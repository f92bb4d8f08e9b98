//! Which keys of one shard hang on which lease. Does not know whether the lease still exists.

use std::collections::{BTreeMap, BTreeSet};

use crate::keys::LeaseId;

/// The keys that leases hold, of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index(BTreeMap<LeaseId, BTreeSet<Box<[u8]>>>);

impl Index {
    /// A key is bound to a lease. O(log leases + log its keys).
    pub fn attach(&mut self, lease: LeaseId, key: &[u8]) {
        self.0.entry(lease).or_default().insert(key.into());
    }

    /// A key is no longer bound to a lease; nothing happens if it was not.
    pub fn detach(&mut self, lease: LeaseId, key: &[u8]) {
        if let Some(keys) = self.0.get_mut(&lease) {
            keys.remove(key);
            if keys.is_empty() {
                self.0.remove(&lease);
            }
        }
    }

    /// The keys that a lease holds, in key order.
    pub fn keys(&self, lease: LeaseId) -> impl Iterator<Item = &[u8]> + '_ {
        self.0.get(&lease).into_iter().flatten().map(AsRef::as_ref)
    }

    /// Whether no key is bound to any lease.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_order_and_leave_no_trace() {
        let (one, two) = (LeaseId(1), LeaseId(-2));
        let mut index = Index::default();
        ["b", "a", "c", "a"].iter().for_each(|key| index.attach(one, key.as_bytes()));
        index.attach(two, b"b");
        assert_eq!(index.keys(one).collect::<Vec<_>>(), [b"a", b"b", b"c"]);

        index.detach(one, b"b");
        index.detach(one, b"never bound");
        assert_eq!(index.keys(one).collect::<Vec<_>>(), [b"a", b"c"]);
        assert_eq!(index.keys(two).collect::<Vec<_>>(), [b"b"], "another lease's binding stays");

        [("a", one), ("c", one), ("b", two)]
            .iter()
            .for_each(|(key, lease)| index.detach(*lease, key.as_bytes()));
        assert!(index.is_empty());
        assert_eq!(index.keys(one).count(), 0);
    }
}
