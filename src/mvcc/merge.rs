//! The keys of all layers as one sequence.
//!
//! Knows which layer is newer, and that the newest one with a version at or below a revision has the
//! answer for it.

use super::layer::Cursor;
use super::slots::Entry;
use super::version::Version;
use super::{Store, VersionRef};
use crate::keys::{KeyRange, Revision};

/// A walk over the keys of a range in order, each once, with what every layer has of it.
pub(super) struct Merge<'a> {
    active: Cursor<'a>,
    frozen: Option<Cursor<'a>>,
}

/// A key, and its versions in the layers that have some.
pub(super) struct Row<'a> {
    active: Option<&'a Entry>,
    frozen: Option<&'a Entry>,
}

impl<'a> Merge<'a> {
    /// With `relevant_only`, keys of the active layer that have no value now and hide none are passed
    /// over; only a reader of the newest versions may want that.
    pub(super) fn new(store: &'a Store, range: &'a KeyRange, relevant_only: bool) -> Merge<'a> {
        Merge {
            active: store.active.cursor(range, relevant_only),
            frozen: store.frozen().map(|layer| layer.cursor(range, relevant_only)),
        }
    }

    pub(super) fn next(&mut self) -> Option<Row<'a>> {
        let mut row =
            Row { active: self.active.peek(), frozen: self.frozen.as_ref().and_then(Cursor::peek) };
        let active = row.active.map(Entry::key);
        let frozen = row.frozen.map(Entry::key);
        let first = [active, frozen].into_iter().flatten().min()?;
        if active == Some(first) {
            self.active.advance();
        } else {
            row.active = None;
        }
        if frozen == Some(first) {
            self.frozen.as_mut().expect("has a key").advance();
        } else {
            row.frozen = None;
        }
        Some(row)
    }
}

impl<'a> Row<'a> {
    /// The version that readers at `at` see, when that gives the key a value.
    pub(super) fn live_at(&self, at: Revision) -> Option<VersionRef<'a>> {
        let newest = |entry: &'a Entry| {
            let version: &Version = entry.versions.at(at)?;
            Some((version, entry))
        };
        let (version, entry) =
            self.active.and_then(newest).or_else(|| self.frozen.and_then(newest))?;
        version.is_live().then(|| version.view(entry.key()))
    }
}
