//! Keys of the base in order, each with all its versions.
//!
//! Knows no other layer: whoever merges several asks each for its next key.

use std::cmp::Ordering;

use super::block::View;
use super::{Base, Corrupt};
use crate::keys::{KeyRange, Revision};

use super::super::version::VersionRef;

/// A place between the keys of a range. Peeking costs no allocation, and a step inside a block touches nothing
/// of it.
pub struct Cursor<'a> {
    base: &'a Base,
    /// The block of the next key.
    block: usize,
    open: Option<Open<'a>>,
    /// A block was opened.
    begun: bool,
    /// The first block that has no key of the range.
    end: usize,
    range: KeyRange,
}

/// A block, the number of its next key, and where its keys of the range end.
struct Open<'a> {
    view: View<'a>,
    next: usize,
    end: usize,
    /// How many of its keys were read, and how many passed over unread.
    read: usize,
    passed: usize,
}

/// A key of the base with all its versions, at least one. None of them is read before it is asked for, nor is
/// the key itself.
#[derive(Clone, Copy)]
pub struct KeyRef<'a> {
    base: &'a Base,
    /// The newest block that has versions of it.
    block: usize,
    view: View<'a>,
    number: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(base: &'a Base, range: &KeyRange) -> Cursor<'a> {
        let blocks = base.blocks_of(range);
        let range = range.clone();
        Cursor { base, block: blocks.start, open: None, begun: false, end: blocks.end, range }
    }

    /// The next key; `None` behind the last.
    ///
    /// # Errors
    /// [`Corrupt`] if its block is. [`Cursor::advance`] passes over such a block.
    pub fn peek(&mut self) -> Result<Option<KeyRef<'a>>, Corrupt> {
        let found = self.settle()?.map(|open| (open.view, open.next));
        let (base, block) = (self.base, self.block);
        Ok(found.map(|(view, number)| KeyRef { base, block, view, number }))
    }

    /// How the next key stands to `key`; `None` behind the last.
    ///
    /// It says so without reading the next key where it can. That is nearly always if the caller knows that
    /// `key` is one of the keys from here on, `is_ahead`.
    ///
    /// # Errors
    /// As [`Cursor::peek`].
    #[inline]
    pub fn compare(&mut self, key: &[u8], is_ahead: bool) -> Result<Option<Ordering>, Corrupt> {
        Ok(self.settle()?.map(|open| open.view.compare(open.next, key, is_ahead)))
    }

    /// Steps over the key that [`Cursor::peek`] shows, or over the block that it cannot read.
    pub fn advance(&mut self) {
        match &mut self.open {
            Some(open) => {
                open.next += 1;
                open.read += 1;
            }
            None => {
                while self.base.blocks.get(self.block).is_some_and(|row| row.keys == 0) {
                    self.block += 1;
                }
                self.block += 1;
            }
        }
    }

    /// As [`Cursor::advance`], over a key of which nothing is read.
    #[inline]
    pub fn pass(&mut self) {
        if let Some(open) = &mut self.open {
            open.next += 1;
            open.passed += 1;
        }
    }

    /// Goes on to the block of the next key, if there is one.
    #[inline]
    fn settle(&mut self) -> Result<Option<&Open<'a>>, Corrupt> {
        while self.open.as_ref().is_none_or(|open| open.next >= open.end) {
            let before = self.open.take();
            self.block += usize::from(before.is_some());
            if self.block >= self.end {
                return Ok(None);
            }
            // Who has read more of one than he passed over reads on.
            if before.is_some_and(|before| before.read > before.passed) {
                self.base.will_read(self.block);
            }
            self.open_block()?;
        }
        Ok(self.open.as_ref())
    }

    /// Opens the block; of a key in several blocks all of them.
    fn open_block(&mut self) -> Result<(), Corrupt> {
        while self.base.blocks[self.block].keys == 0 {
            self.base.view(self.block)?;
            self.block += 1;
        }
        let view = self.base.view(self.block)?;
        // Only the first block can begin before the range, and only the last one go on behind it.
        let next = if self.begun { 0 } else { view.lower_bound(&self.range.start) };
        let end = match &self.range.end {
            Some(end) if self.block + 1 == self.end => view.lower_bound(end),
            _ => view.keys(),
        };
        self.begun = true;
        self.open = Some(Open { view, next, end, read: 0, passed: 0 });
        Ok(())
    }
}

impl<'a> KeyRef<'a> {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.view.key(self.number)
    }

    /// How many versions the key has.
    #[must_use]
    pub fn len(&self) -> usize {
        let own = self.view.versions_of(self.number).len();
        own + self.earlier().map(|block| self.base.blocks[block].versions as usize).sum::<usize>()
    }

    /// Never: a key without a version is not in the base.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A version by its number, the oldest first; `None` behind the last.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<VersionRef<'a>> {
        let mut index = index;
        for block in self.earlier() {
            let versions = self.base.blocks[block].versions as usize;
            if index < versions {
                return self.base.view(block).ok()?.version(0, index);
            }
            index -= versions;
        }
        let own = self.view.versions_of(self.number);
        if index < own.len() { self.view.version(self.number, own.start + index) } else { None }
    }

    /// All versions, the oldest first.
    pub fn versions(&self) -> impl Iterator<Item = VersionRef<'a>> {
        let key = *self;
        (0..key.len()).map_while(move |index| key.get(index))
    }

    /// The newest version, a tombstone too.
    #[must_use]
    pub fn newest(&self) -> Option<VersionRef<'a>> {
        self.view.newest(self.number)
    }

    /// The newest version that is not above `at`, a tombstone too.
    #[must_use]
    pub fn at(&self, at: Revision) -> Option<VersionRef<'a>> {
        self.view.at(self.number, at).or_else(|| {
            let views = self.earlier().rev().filter_map(|block| self.base.view(block).ok());
            views.into_iter().find_map(|view| view.at(0, at))
        })
    }

    /// The blocks before that hold older versions of the key, in order; all of them are checked.
    fn earlier(&self) -> std::ops::Range<usize> {
        let mut first = self.block;
        if self.number == 0 {
            while self.base.continues(first) {
                first -= 1;
            }
        }
        first..self.block
    }
}
