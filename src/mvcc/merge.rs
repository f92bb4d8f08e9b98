//! The keys of all layers as one sequence.
//!
//! Knows which layer is newer, and that the newest one with a version at or below a revision has the
//! answer for it.

use std::cmp::Ordering;

use super::base::KeyRef;
use super::layer::Cursor;
use super::owned::Keys;
use super::slots::Entry;
use super::{Store, VersionRef};
use crate::keys::{KeyRange, Revision};

/// A walk over the keys of a range in order, each once, with what every layer has of it.
pub(super) struct Merge<'a> {
    active: Cursor<'a>,
    frozen: Option<Cursor<'a>>,
    base: Keys<'a>,
}

/// A key, as each layer has it; at least one does.
pub(super) struct Row<'a> {
    active: Option<&'a Entry>,
    frozen: Option<&'a Entry>,
    base: Option<KeyRef<'a>>,
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

    pub(super) fn next(&mut self) -> Option<Row<'a>> {
        let active = self.active.peek();
        let frozen = self.frozen.as_ref().and_then(Cursor::peek);
        let order = match (active, frozen) {
            (Some(active), Some(frozen)) => active.key().cmp(frozen.key()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return self.next_of_base(),
        };
        let active = active.filter(|_| order.is_le());
        let frozen = frozen.filter(|_| order.is_ge());
        let first = active.or(frozen)?;
        // Whether the base has a value for it is what the lowest layer above says.
        let is_ahead = match &self.frozen {
            Some(cursor) if frozen.is_some() => cursor.is_below(),
            _ => self.active.is_below(),
        };
        let base = match self.base.compare(first.key(), is_ahead) {
            Some(Ordering::Less) => return self.next_of_base(),
            Some(Ordering::Equal) => self.base.peek(),
            Some(Ordering::Greater) | None => None,
        };
        if active.is_some() {
            self.active.advance();
        }
        if let Some(cursor) = self.frozen.as_mut().filter(|_| frozen.is_some()) {
            cursor.advance();
        }
        if base.is_some() {
            self.base.pass();
        }
        Some(Row { active, frozen, base })
    }

    /// The base's next key, which no other layer has.
    fn next_of_base(&mut self) -> Option<Row<'a>> {
        let base = Some(self.base.peek()?);
        self.base.advance();
        Some(Row { active: None, frozen: None, base })
    }
}

impl<'a> Row<'a> {
    /// The version that readers at `at` see, when that gives the key a value.
    pub(super) fn live_at(&self, at: Revision) -> Option<VersionRef<'a>> {
        for entry in [self.active, self.frozen].into_iter().flatten() {
            if let Some(version) = entry.versions.at(at) {
                return version.is_live().then(|| version.view(entry.key()));
            }
        }
        self.base?.at(at).filter(|version| !version.is_tombstone())
    }
}
