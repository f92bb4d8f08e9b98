//! Many versions at once, as a start finds them: put in the order of their keys, so that what a search
//! needs is where the search before has just been. One thread can fill a batch while another one installs
//! the batch before.

use std::sync::Arc;

use super::Store;
use super::index::{Finger, shared};
use super::layer::Beneath;
use super::version::{Counted, Pack, Position, Version};
use crate::keys::{LeaseId, Revision};

/// Changes of keys in ascending order of their positions.
#[derive(Debug, Default)]
pub struct Batch {
    keys: Vec<u8>,
    versions: Pack,
    changes: Vec<Change>,
    /// Numbers of the changes by key, those of one key ascending, once that was asked for.
    order: Vec<u32>,
    bytes: usize,
    binds: bool,
}

/// A change, by where its key and its version lie.
#[derive(Clone, Copy, Debug)]
struct Change {
    at: Position,
    key_at: u32,
    key_len: u32,
    version_at: u32,
    /// So that to install it takes no look at the version itself.
    counted: Counted,
    /// It gives a key that had none a value.
    is_first: bool,
}

impl Batch {
    /// With room for versions of so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Batch {
        Batch { versions: Pack::with_capacity(bytes), ..Batch::default() }
    }

    /// Adds a version that gives `key` a value.
    pub fn put(
        &mut self,
        at: Position,
        key: &[u8],
        value: &[u8],
        (create, version): (Revision, i64),
        lease: LeaseId,
    ) {
        self.bytes += value.len();
        self.binds |= lease.is_some();
        let place = self.versions.put(at, create, version, lease, value);
        self.push(at, key, place, version == 1);
    }

    /// Adds a tombstone of `key`.
    pub fn delete(&mut self, at: Position, key: &[u8]) {
        let place = self.versions.tombstone(at);
        self.push(at, key, place, false);
    }

    fn push(
        &mut self,
        at: Position,
        key: &[u8],
        (version_at, counted): (u32, Counted),
        is_first: bool,
    ) {
        self.bytes += key.len();
        let (key_at, key_len) = (self.keys.len() as u32, key.len() as u32);
        self.keys.extend_from_slice(key);
        self.changes.push(Change { at, key_at, key_len, version_at, counted, is_first });
    }

    /// Key and value bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether any change binds a key to a lease.
    #[must_use]
    pub fn binds(&self) -> bool {
        self.binds
    }

    /// Finds the order in which it will be installed, which [`Store::install_all`] does otherwise.
    pub fn sort(&mut self) {
        let Some(first) = self.changes.first() else { return };
        if !self.order.is_empty() {
            return;
        }
        let key = |number: u32| self.key(&self.changes[number as usize]);
        let first = self.key(first);
        let skip = self
            .changes
            .iter()
            .fold(first.len(), |skip, change| shared(&first[..skip], self.key(change)));
        // As numbers they are compared in one step: the hint, then the change.
        let hinted = |number: u32| (hint(&key(number)[skip..]), number);
        let order = (0..self.changes.len() as u32).map(hinted);
        let mut order: Vec<u128> =
            order.map(|(hint, number)| u128::from(hint) << 32 | u128::from(number)).collect();
        order.sort_unstable();
        let mut order: Vec<u32> = order.into_iter().map(|of| of as u32).collect();
        let is_hinted_alike = |a: &u32, b: &u32| hinted(*a).0 == hinted(*b).0;
        for alike in order.chunk_by_mut(is_hinted_alike).filter(|alike| alike.len() > 1) {
            alike.sort_unstable_by(|a, b| key(*a).cmp(key(*b)).then(a.cmp(b)));
        }
        self.order = order;
    }

    fn key(&self, change: &Change) -> &[u8] {
        &self.keys[change.key_at as usize..][..change.key_len as usize]
    }
}

impl Store {
    /// Adds versions as redo records have them. Their memory stays as long as any of them.
    pub fn install_all(&mut self, mut batch: Batch) {
        let Some(first) = batch.changes.first() else { return };
        assert!(first.at.0 > self.floor(), "{:?} belongs to a layer that is closed", first.at);
        batch.sort();
        batch.versions.shrink();
        let pack = Arc::new(std::mem::take(&mut batch.versions));
        let mut slots = vec![0; batch.order.len()];
        let mut finger = Finger::default();
        for &number in &batch.order {
            let change = &batch.changes[number as usize];
            let key = batch.key(change);
            let found = self.active.place_behind(&mut finger, key);
            let beneath = match found {
                Ok(_) => Beneath::NOTHING,
                Err(_) if change.is_first => Beneath::NOTHING,
                Err(_) if change.counted.live => self.beneath_unread(key),
                Err(_) => Beneath::of(self.beneath(key)),
            };
            let version = Version::Shared(change.version_at, Arc::clone(&pack));
            let version = (version, change.counted);
            slots[number as usize] =
                self.active.push_unordered(change.at, key, found, version, beneath);
        }
        for (change, slot) in batch.changes.iter().zip(slots) {
            self.active.revisions.insert(change.at, slot);
            self.highest = self.highest.max(change.at.0);
        }
    }
}

/// The first eight bytes, filled up with zeros: smaller hint, smaller key.
fn hint(key: &[u8]) -> u64 {
    let mut eight = [0; 8];
    let len = key.len().min(8);
    eight[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(eight)
}
