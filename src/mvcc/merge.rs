//! The keys of all layers as one sequence.
//!
//! Knows which layer is newer, and that the newest one with a version at or below a revision has the
//! answer for it.

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
    next: Row<'a>,
}

/// The next key of each layer; of a row that is shown, those that are its key.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    active: Option<&'a Entry>,
    frozen: Option<&'a Entry>,
    base: Option<KeyRef<'a>>,
}

impl<'a> Merge<'a> {
    /// With `relevant_only`, keys of the layers in memory that have no value there and hide none are
    /// passed over; only a reader of the newest versions may want that.
    pub(super) fn new(store: &'a Store, range: &'a KeyRange, relevant_only: bool) -> Merge<'a> {
        let active = store.active.cursor(range, relevant_only);
        let frozen = store.frozen().map(|layer| layer.cursor(range, relevant_only));
        let mut base = store.base.keys(range);
        let next = Row {
            active: active.peek(),
            frozen: frozen.as_ref().and_then(Cursor::peek),
            base: base.peek(),
        };
        Merge { active, frozen, base, next }
    }

    pub(super) fn next(&mut self) -> Option<Row<'a>> {
        let mut row = self.next;
        let active = row.active.map(Entry::key);
        let frozen = row.frozen.map(Entry::key);
        let base = row.base.map(|key| key.key);
        let first = [active, frozen, base].into_iter().flatten().min()?;
        if active == Some(first) {
            self.active.advance();
            self.next.active = self.active.peek();
        } else {
            row.active = None;
        }
        if frozen == Some(first) {
            let cursor = self.frozen.as_mut().expect("it has a key");
            cursor.advance();
            self.next.frozen = cursor.peek();
        } else {
            row.frozen = None;
        }
        if base == Some(first) {
            self.base.advance();
            self.next.base = self.base.peek();
        } else {
            row.base = None;
        }
        Some(row)
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
