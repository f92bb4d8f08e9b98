//! Which keys of one shard hang on which lease. Does not know whether the lease still exists.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::keys::{KeyRange, LeaseId};

/// A key, and the lease that holds it.
pub type Binding = (Arc<[u8]>, LeaseId);

/// The keys that leases hold, of one shard.
///
/// Both ways, so that neither a write nor a move has to ask the store, whose base may be on disk, for
/// the lease of a key. The two share each key's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    keys: BTreeMap<LeaseId, BTreeSet<Arc<[u8]>>>,
    leases: BTreeMap<Arc<[u8]>, LeaseId>,
}

impl Index {
    /// From now on `key` is bound to `lease` and to no other, or to none at all. O(log keys).
    pub fn bind(&mut self, key: &[u8], lease: LeaseId) {
        let before = self.lease(key);
        if before == lease {
            return;
        }
        if before.is_some() {
            self.leases.remove(key);
            self.forget(before, key);
        }
        if lease.is_some() {
            let key: Arc<[u8]> = key.into();
            self.keys.entry(lease).or_default().insert(key.clone());
            self.leases.insert(key, lease);
        }
    }

    /// Whether no lease holds any key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The lease that holds `key`.
    #[must_use]
    pub fn lease(&self, key: &[u8]) -> LeaseId {
        self.leases.get(key).copied().unwrap_or(LeaseId::NONE)
    }

    /// The keys that a lease holds, in key order.
    pub fn keys(&self, lease: LeaseId) -> impl Iterator<Item = &[u8]> + '_ {
        self.keys.get(&lease).into_iter().flatten().map(AsRef::as_ref)
    }

    /// Takes out the bindings of the first keys of `range`, at most `most` of them; whether those were
    /// all.
    pub fn take(&mut self, range: &KeyRange, most: usize) -> (Vec<Binding>, bool) {
        if range.is_empty() {
            return (Vec::new(), true);
        }
        let start = Bound::Included(range.start.as_slice());
        let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut inside = self.leases.range::<[u8], _>((start, end));
        let taken = inside.by_ref().take(most).map(|(key, lease)| (key.clone(), *lease));
        let taken: Vec<_> = taken.collect();
        let all = inside.next().is_none();
        for (key, _) in &taken {
            self.bind(key, LeaseId::NONE);
        }
        (taken, all)
    }

    fn forget(&mut self, lease: LeaseId, key: &[u8]) {
        if let Some(keys) = self.keys.get_mut(&lease) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&lease);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_order_and_leave_no_trace() {
        let (one, two) = (LeaseId(1), LeaseId(-2));
        let mut index = Index::default();
        ["b", "a", "c", "a"].iter().for_each(|key| index.bind(key.as_bytes(), one));
        assert_eq!(index.keys(one).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        index.bind(b"b", two);
        assert_eq!(index.keys(one).collect::<Vec<_>>(), [b"a", b"c"], "a key has one lease");
        assert_eq!([b"a", b"b", b"z"].map(|key| index.lease(key)), [one, two, LeaseId::NONE]);

        ["a", "c", "b", "never bound"]
            .iter()
            .for_each(|key| index.bind(key.as_bytes(), LeaseId::NONE));
        assert_eq!(index, Index::default());
    }

    #[test]
    fn bindings_of_a_range_leave_in_steps() {
        let mut index = Index::default();
        for (n, key) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            index.bind(key.as_bytes(), LeaseId(1 + n as i64 % 2));
        }
        let range = KeyRange::from_request(b"b", b"e");
        let (taken, all) = index.take(&range, 2);
        let taken: Vec<_> = taken.iter().map(|(key, lease)| (&key[..], lease.0)).collect();
        assert_eq!((taken, all), (vec![(&b"b"[..], 2), (&b"c"[..], 1)], false));
        let (taken, all) = index.take(&range, 2);
        assert_eq!((taken.len(), all), (1, true));
        assert_eq!(index.take(&range, 2), (Vec::new(), true));
        assert_eq!(index.take(&KeyRange::from_request(b"e", b"b"), 2), (Vec::new(), true));
        assert_eq!(index.keys(LeaseId(1)).collect::<Vec<_>>(), [b"a", b"e"]);
        assert_eq!(index.keys(LeaseId(2)).count(), 0);
    }
}
