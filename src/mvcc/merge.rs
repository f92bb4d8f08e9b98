//! The keys of all layers as one sequence.
//!
//! Knows which layer is newer, and that the newest one with a version at or below a revision has the
//! answer for it.

use std::cmp::Ordering;

use super::layer::Cursor;
use super::owned::Keys;
use super::{Store, VersionRef};
use crate::keys::{KeyRange, Revision};

/// A walk over the keys of a range in order, each once, with what every layer has of it.
pub(super) struct Merge<'a> {
    active: Cursor<'a>,
    frozen: Option<Cursor<'a>>,
    base: Keys<'a>,
}

impl<'a> Merge<'a> {
    /// With `relevant_only`, keys of the layers in memory that have no value there and hide none are
    /// passed over; only a reader of the newest versions may want that.
    pub(super) fn new(store: &'a Store, range: &'a KeyRange, relevant_only: bool) -> Merge<'a> {
        Merge {
            active: store.active.cursor(range, relevant_only),
            frozen: store.frozen().map(|layer| layer.cursor(range, relevant_only)),
            base: store.base.keys(range),
        }
    }

    /// The version of the next key that readers at `at` see, when that gives it a value; `None` behind the last
    /// key.
    pub(super) fn next(&mut self, at: Revision) -> Option<Option<VersionRef<'a>>> {
        let active = self.active.peek();
        let frozen = self.frozen.as_ref().and_then(Cursor::peek);
        let (first, active, frozen) = match (active, frozen) {
            (None, None) => return self.next_of_base(at),
            (Some(active), None) => (active, Some(active), None),
            (None, Some(frozen)) => (frozen, None, Some(frozen)),
            (Some(active), Some(frozen)) => match active.key().cmp(frozen.key()) {
                Ordering::Less => (active, Some(active), None),
                Ordering::Equal => (active, Some(active), Some(frozen)),
                Ordering::Greater => (frozen, None, Some(frozen)),
            },
        };
        // Whether the base has a value for it is what the lowest layer above says.
        let is_ahead = match &self.frozen {
            Some(cursor) if frozen.is_some() => cursor.is_below(),
            _ => self.active.is_below(),
        };
        let order = self.base.compare(first.key(), is_ahead);
        if order == Some(Ordering::Less) {
            return self.next_of_base(at);
        }
        if active.is_some() {
            self.active.advance();
        }
        if let Some(cursor) = self.frozen.as_mut().filter(|_| frozen.is_some()) {
            cursor.advance();
        }
        let in_base = order == Some(Ordering::Equal);
        let mut entries = [active, frozen].into_iter().flatten();
        let Some(version) = entries.find_map(|entry| entry.versions.at(at)) else {
            return if in_base { self.next_of_base(at) } else { Some(None) };
        };
        if in_base {
            debug_assert_eq!(self.base.peek().map(|key| key.key()), Some(first.key()));
            self.base.pass();
        }
        Some(version.is_live().then(|| version.view(first.key())))
    }

    /// As [`Merge::next`], of the base's next key, which no other layer has an answer for.
    fn next_of_base(&mut self, at: Revision) -> Option<Option<VersionRef<'a>>> {
        let version = self.base.peek()?.at(at);
        self.base.advance();
        Some(version.filter(|version| !version.is_tombstone()))
    }
}
