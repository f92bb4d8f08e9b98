//! The words every room shares: revisions, leases, lanes, cores and key ranges.
//!
//! Plain numbers that must not be mixed get a type here. This file knows no storage and no protocol.

use std::fmt;

/// A position in the one global order of write transactions. A fresh store stands at 1; the first
/// write makes 2. Also used for stamps: the place of a control record in that order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl Revision {
    /// Before everything: no version carries it.
    pub const ZERO: Revision = Revision(0);
    /// What an empty store reports, as etcd does.
    pub const FIRST: Revision = Revision(1);
    /// After everything.
    pub const MAX: Revision = Revision(i64::MAX);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }

    /// The revision before this one.
    #[must_use]
    pub fn prev(self) -> Revision {
        Revision(self.0 - 1)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease's number; 0 means no lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// A key with this lease lives until it is deleted.
    pub const NONE: LeaseId = LeaseId(0);

    /// Whether a key with this lease is bound to one.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// One Raft group and its log; also the shard that the lane's records belong to on this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LaneId(pub u16);

/// One pinned executor of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CoreId(pub u16);

/// Keys from `start` up to, not including, `end`; no end means to the last key there is.
///
/// A single key `k` is the range from `k` to `k` followed by a zero byte, so that every request of
/// the API has one form here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyRange {
    /// First key inside.
    pub start: Vec<u8>,
    /// First key outside, or `None` for no bound.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key there can be.
    #[must_use]
    pub fn all() -> KeyRange {
        KeyRange { start: Vec::new(), end: None }
    }

    /// Exactly one key.
    #[must_use]
    pub fn single(key: &[u8]) -> KeyRange {
        let mut end = Vec::with_capacity(key.len() + 1);
        end.extend_from_slice(key);
        end.push(0);
        KeyRange { start: key.to_vec(), end: Some(end) }
    }

    /// The range an etcd request means: no `range_end` is the single key, `\0` is "from `key` on",
    /// both `\0` is everything. An inverted range is legal and holds nothing.
    #[must_use]
    pub fn from_request(key: &[u8], range_end: &[u8]) -> KeyRange {
        match range_end {
            [] => KeyRange::single(key),
            // "\0" is the smallest key that can exist, so a range from it is a range of all.
            [0] if key == [0] => KeyRange::all(),
            [0] => KeyRange { start: key.to_vec(), end: None },
            end => KeyRange { start: key.to_vec(), end: Some(end.to_vec()) },
        }
    }

    /// The key, when the range can hold only one.
    #[must_use]
    pub fn as_single(&self) -> Option<&[u8]> {
        match &self.end {
            Some(end)
                if end.len() == self.start.len() + 1
                    && end.last() == Some(&0)
                    && end.starts_with(&self.start) =>
            {
                Some(&self.start)
            }
            _ => None,
        }
    }

    /// Whether no key can be inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether `key` lies inside.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && self.end.as_ref().is_none_or(|end| key < end.as_slice())
    }

    /// Whether some key could lie in both ranges.
    #[must_use]
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.end.as_ref().is_none_or(|end| other.start < *end)
            && other.end.as_ref().is_none_or(|end| self.start < *end)
    }

    /// Whether every key of `other` lies inside this range.
    #[must_use]
    pub fn covers(&self, other: &KeyRange) -> bool {
        other.is_empty()
            || (self.start <= other.start
                && match (&self.end, &other.end) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(mine), Some(theirs)) => theirs <= mine,
                })
    }

    /// The keys in both ranges, or `None` when there can be none.
    #[must_use]
    pub fn intersect(&self, other: &KeyRange) -> Option<KeyRange> {
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (None, end) | (end, None) => end.clone(),
            (Some(a), Some(b)) => Some(a.min(b).clone()),
        };
        let range = KeyRange { start, end };
        (!range.is_empty()).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_ranges_as_in_etcd() {
        assert_eq!(KeyRange::from_request(b"a", b"").as_single(), Some(&b"a"[..]));
        assert_eq!(KeyRange::from_request(b"\0", b"\0"), KeyRange::all());
        assert!(KeyRange::from_request(b"a", b"\0").contains(b"zzz"));
        assert!(!KeyRange::from_request(b"b", b"\0").contains(b"a"));
        assert!(KeyRange::from_request(b"b", b"a").is_empty());
    }

    #[test]
    fn ranges_meet_where_a_key_can_be_in_both() {
        let ab = KeyRange { start: b"a".to_vec(), end: Some(b"b".to_vec()) };
        let bc = KeyRange { start: b"b".to_vec(), end: Some(b"c".to_vec()) };
        assert!(!ab.overlaps(&bc));
        assert!(KeyRange::all().overlaps(&ab));
        assert!(KeyRange::all().covers(&ab) && !ab.covers(&KeyRange::all()));
        assert_eq!(KeyRange::all().intersect(&bc), Some(bc.clone()));
        assert_eq!(ab.intersect(&bc), None);
    }
}
