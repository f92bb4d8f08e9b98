//! Keys of several stores dealt anew, all in one go: what lanes wrote is dealt to those that own it.
//!
//! A [`Piece`](super::Piece) leaves a store that is in use, a few keys at a time, and each key and each
//! version is looked for. Here nobody uses the stores yet, so that whole ranges are cut out of the indexes,
//! and keys go with all their versions as they are.

use super::Store;
use super::index::Finger;
use super::layer::{Going, Layer};
use super::slots::SlotId;
use super::version::Position;
use crate::keys::{KeyRange, Revision};

/// No number among the keys that are given.
const STAYS: u32 = u32::MAX;

impl Store {
    /// Moves every key to the store whose number stands behind its range in `owners`; the ranges are all keys,
    /// in order. Of a key that several have, the owner gets all versions. Which
    /// stores got any.
    ///
    /// O(log n) a key that moves, and O(n) in the versions of a store that gives any.
    ///
    /// # Panics
    /// If a store has a layer that is closed or collected: what it has is more than versions then.
    pub fn deal(stores: &mut [&mut Store], owners: &[(KeyRange, u16)]) -> Vec<bool> {
        for store in &*stores {
            assert!(store.frozen.is_none() && store.collected() == Revision::ZERO, "in use");
        }
        let mut came: Vec<Vec<(Position, SlotId)>> = vec![Vec::new(); stores.len()];
        for from in 0..stores.len() {
            let mut going = stores[from].active.dismiss(|to| usize::from(to) != from, owners);
            if going.is_empty() {
                continue;
            }
            // Of each slot that is given the number among all that are.
            let mut given = vec![STAYS; stores[from].active.slots.end()];
            let mut fingers: Vec<_> = stores.iter().map(|_| Finger::default()).collect();
            for (number, going) in (0..).zip(&mut going) {
                given[going.slot as usize] = number;
                let to = usize::from(going.to);
                let (entry, beneath) = stores[from].active.give(going);
                going.slot = stores[to].active.take_in(&mut fingers[to], entry, beneath);
            }
            stores[from].active.revisions.retain(|position, slot| {
                let number = given[slot as usize];
                if number != STAYS {
                    let Going { to, slot, .. } = going[number as usize];
                    came[usize::from(to)].push((position, slot));
                }
                number == STAYS
            });
        }
        let got = came.iter().map(|came| !came.is_empty()).collect();
        for (store, came) in stores.iter_mut().zip(came) {
            let highest = came.iter().map(|(position, _)| position.0).max();
            store.highest = store.highest.max(highest.unwrap_or(Revision::ZERO));
            store.active.revisions.extend(came);
            if store.active.keys() == 0 {
                // Gives the memory back.
                store.active = Layer::new();
            }
        }
        got
    }
}
