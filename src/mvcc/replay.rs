//! Many versions at once, as a start finds them: put in the order of their keys, so that what a search
//! needs is where the search before has just been. One thread can prepare a batch while another one
//! installs the batch before.

use std::ops::Range;

use bytes::Bytes;

use super::Store;
use super::index::shared;
use super::layer::Beneath;
use super::version::{Position, Version};
use crate::keys::{LeaseId, Revision};

/// Changes of keys in ascending order of their positions, each in the memory in which it was read.
#[derive(Debug, Default)]
pub struct Batch {
    parts: Vec<Bytes>,
    changes: Vec<Change>,
    bytes: usize,
    binds: bool,
}

/// A change, by where its bytes lie in a part.
#[derive(Clone, Debug)]
struct Change {
    at: Position,
    part: u32,
    key: Range<u32>,
    to: To,
}

/// What becomes of a key.
#[derive(Clone, Debug)]
enum To {
    Value { value: Range<u32>, create: Revision, version: i64, lease: LeaseId },
    Gone,
}

/// A [`Batch`] that is ready to be installed.
#[derive(Debug)]
pub struct Sorted {
    batch: Batch,
    /// Numbers of the changes: by key, those of one key ascending.
    order: Vec<u32>,
}

impl Batch {
    /// Adds a version that gives `key` a value. Both lie in `part`, which has less than 4 GiB.
    pub fn put(
        &mut self,
        at: Position,
        key: &[u8],
        value: &[u8],
        (create, version): (Revision, i64),
        lease: LeaseId,
        part: &Bytes,
    ) {
        self.bytes += value.len();
        self.binds |= lease.is_some();
        // An empty slice may lie anywhere.
        let value = if value.is_empty() { 0..0 } else { within(value, part) };
        self.push(at, key, To::Value { value, create, version, lease }, part);
    }

    /// Adds a tombstone of `key`, which lies in `part`.
    pub fn delete(&mut self, at: Position, key: &[u8], part: &Bytes) {
        self.push(at, key, To::Gone, part);
    }

    fn push(&mut self, at: Position, key: &[u8], to: To, part: &Bytes) {
        if self.parts.last().is_none_or(|last| last.as_ptr() != part.as_ptr()) {
            self.parts.push(part.clone());
        }
        self.bytes += key.len();
        let (key, part) = (within(key, part), self.parts.len() as u32 - 1);
        self.changes.push(Change { at, part, key, to });
    }

    /// Key and value bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Finds the order of the keys.
    #[must_use]
    pub fn sorted(self) -> Sorted {
        let Some(first) = self.changes.first().map(|change| self.key(change)) else {
            return Sorted { batch: self, order: Vec::new() };
        };
        let skip = self
            .changes
            .iter()
            .fold(first.len(), |skip, change| shared(&first[..skip], self.key(change)));
        let hints = self.changes.iter().map(|change| hint(&self.key(change)[skip..]));
        let mut order: Vec<(u64, u32)> = hints.zip(0..).collect();
        let key = |number: u32| self.key(&self.changes[number as usize]);
        order.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| key(a.1).cmp(key(b.1))).then(a.1.cmp(&b.1))
        });
        let order = order.into_iter().map(|(_, number)| number).collect();
        Sorted { batch: self, order }
    }

    fn key(&self, change: &Change) -> &[u8] {
        &self.parts[change.part as usize][range(&change.key)]
    }
}

impl Sorted {
    /// Whether any change binds a key to a lease.
    #[must_use]
    pub fn binds(&self) -> bool {
        self.batch.binds
    }
}

impl Store {
    /// Adds versions as redo records have them. Values are not copied: their memory stays as long as the
    /// versions.
    pub fn install_all(&mut self, Sorted { batch, order }: &Sorted) {
        let Some(first) = batch.changes.first() else { return };
        assert!(first.at.0 > self.floor(), "{:?} belongs to a layer that is closed", first.at);
        let mut slots = vec![0; order.len()];
        for &number in order {
            let change = &batch.changes[number as usize];
            let (at, key) = (change.at, batch.key(change));
            let found = self.active.place(key);
            let (version, beneath) = match &change.to {
                To::Value { value, create, version, lease } => {
                    let beneath = match found {
                        Err(_) if *version > 1 => self.beneath_unread(key),
                        _ => Beneath::NOTHING,
                    };
                    let value = batch.parts[change.part as usize].slice(range(value));
                    (Version::share(at, *create, *version, *lease, value), beneath)
                }
                To::Gone => {
                    let beneath = if found.is_ok() { None } else { self.beneath(key) };
                    (Version::tombstone(at), Beneath::of(beneath))
                }
            };
            slots[number as usize] = self.active.push_unordered(at, key, found, version, beneath);
        }
        for (change, slot) in batch.changes.iter().zip(slots) {
            self.active.revisions.insert(change.at, slot);
            self.highest = self.highest.max(change.at.0);
        }
    }
}

/// Where in `part` these bytes of it lie.
fn within(bytes: &[u8], part: &Bytes) -> Range<u32> {
    let from = bytes.as_ptr().addr() - part.as_ptr().addr();
    from as u32..(from + bytes.len()) as u32
}

fn range(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// The first eight bytes, filled up with zeros: smaller hint, smaller key.
fn hint(key: &[u8]) -> u64 {
    let mut eight = [0; 8];
    let len = key.len().min(8);
    eight[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(eight)
}
