//! A table whose entries are found by index, and by numbers that can be taken back: an entry has one
//! current number, and every number it had before finds nobody. Knows nothing of what it holds.

/// Low bits of a number that are the index; the others count the numbers given out for that index.
const INDEX_BITS: u32 = 24;

#[derive(Debug)]
struct Slot<T> {
    count: u64,
    entry: Option<T>,
}

/// Entries of one kind.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Takes an entry in; it has no number yet.
    pub(super) fn insert(&mut self, entry: T) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { count: 0, entry: None });
            self.slots.len() - 1
        });
        assert!(index < 1 << INDEX_BITS, "more entries than numbers can tell apart");
        let slot = &mut self.slots[index];
        slot.count += 1;
        slot.entry = Some(entry);
        index
    }

    /// Gives the entry at `index` a new number; the one it had before finds nobody from now on.
    pub(super) fn renumber(&mut self, index: usize) -> u64 {
        let slot = &mut self.slots[index];
        slot.count += 1;
        slot.count << INDEX_BITS | index as u64
    }

    /// The current number of the entry at `index`.
    pub(super) fn number(&self, index: usize) -> u64 {
        self.slots[index].count << INDEX_BITS | index as u64
    }

    /// The index of the entry whose current number this is.
    #[inline]
    pub(super) fn find(&self, number: u64) -> Option<usize> {
        let index = (number & ((1 << INDEX_BITS) - 1)) as usize;
        let slot = self.slots.get(index)?;
        (slot.count == number >> INDEX_BITS && slot.entry.is_some()).then_some(index)
    }

    /// The entry at `index`, which must be there.
    #[inline]
    pub(super) fn at(&mut self, index: usize) -> &mut T {
        self.slots[index].entry.as_mut().expect("an index is kept no longer than its entry")
    }

    /// As [`Slots::at`], to look at.
    pub(super) fn get(&self, index: usize) -> &T {
        self.slots[index].entry.as_ref().expect("an index is kept no longer than its entry")
    }

    /// Takes the entry at `index` out.
    pub(super) fn remove(&mut self, index: usize) -> T {
        self.free.push(index);
        self.slots[index].entry.take().expect("an index is kept no longer than its entry")
    }

    /// All entries, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_number_finds_nobody() {
        let mut slots = Slots::default();
        let a = slots.insert('a');
        let first = slots.renumber(a);
        assert_eq!(slots.find(first), Some(a));
        let second = slots.renumber(a);
        assert_eq!((slots.find(first), slots.find(second)), (None, Some(a)));

        assert_eq!(slots.remove(a), 'a');
        assert_eq!(slots.find(second), None);
        let b = slots.insert('b');
        assert_eq!(b, a, "indexes are used again");
        assert_eq!(slots.find(second), None, "numbers are not");
        let third = slots.renumber(b);
        assert_eq!(slots.find(third).map(|index| *slots.at(index)), Some('b'));
        assert_eq!(slots.find(u64::MAX), None);
    }
}
