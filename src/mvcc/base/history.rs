//! Versions of the base in the order in which they were written.
//!
//! Every block has its own order of revisions; here they are merged, a block being opened only when the
//! walk has come to its oldest revision. Knows no other layer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::super::version::{Position, VersionRef};
use super::block::View;
use super::{Base, Corrupt};
use crate::keys::{KeyRange, Revision};

/// Of a block, ranges with fewer than one in this many of its versions are sorted instead of walking all.
const PICKED_SHARE: usize = 8;

/// Versions in order of position. After an error it goes on without the block.
///
/// O(log blocks) a version, and for each block a search in its order of revisions, or a sort of the
/// versions of the ranges when those are few.
pub struct History<'a> {
    base: &'a Base,
    ranges: Vec<KeyRange>,
    from: Revision,
    through: Revision,
    /// Where each source stands: the position of its next version, or one that is not behind it.
    next: BinaryHeap<Reverse<(Position, usize)>>,
    sources: Vec<Source<'a>>,
}

struct Source<'a> {
    block: usize,
    open: Option<Open<'a>>,
}

struct Open<'a> {
    view: View<'a>,
    walk: Walk,
}

enum Walk {
    /// All versions from this place on in the block's order, of which those with these numbers count.
    Order { place: usize, wanted: Vec<Range<usize>> },
    /// The numbers of the versions still to come, the next one last.
    Picked(Vec<usize>),
}

impl<'a> History<'a> {
    pub(super) fn new(
        base: &'a Base,
        ranges: &[KeyRange],
        from: Revision,
        through: Revision,
    ) -> History<'a> {
        let ranges: Vec<KeyRange> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
        let mut blocks: Vec<usize> = ranges.iter().flat_map(|r| base.blocks_of(r)).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks.retain(|number| {
            let row = &base.blocks[*number];
            row.oldest <= through && row.newest >= from
        });
        let next = blocks.iter().enumerate();
        let next = next.map(|(at, n)| Reverse(((base.blocks[*n].oldest.max(from), 0), at)));
        History {
            base,
            from,
            through,
            next: if from > through { BinaryHeap::new() } else { next.collect() },
            sources: blocks.iter().map(|block| Source { block: *block, open: None }).collect(),
            ranges,
        }
    }

    fn open(&self, block: usize) -> Result<Open<'a>, Corrupt> {
        let view = self.base.view(block)?;
        let mut wanted: Vec<Range<usize>> = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            let first = view.lower_bound(&range.start);
            let end = range.end.as_deref().map_or(view.keys(), |end| view.lower_bound(end));
            let versions = view.versions_of(first).start..view.versions_of(end).start;
            if !versions.is_empty() {
                wanted.push(versions);
            }
        }
        wanted.sort_unstable_by_key(|versions| versions.start);
        let count: usize = wanted.iter().map(Range::len).sum();
        let walk = if count < view.versions() / PICKED_SHARE {
            let mut picked: Vec<(Position, usize)> = wanted
                .into_iter()
                .flatten()
                .filter_map(|v| Some((view.position(v)?, v)))
                .filter(|((revision, _), _)| self.from <= *revision && *revision <= self.through)
                .collect();
            picked.sort_unstable_by(|a, b| b.cmp(a));
            Walk::Picked(picked.into_iter().map(|(_, v)| v).collect())
        } else {
            Walk::Order { place: view.older(self.from), wanted }
        };
        Ok(Open { view, walk })
    }
}

impl<'a> Iterator for History<'a> {
    type Item = Result<VersionRef<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Reverse((_, at)) = self.next.pop()?;
            let block = self.sources[at].block;
            let mut shown = None;
            let mut open = match self.sources[at].open.take() {
                Some(mut open) => {
                    shown = open.take();
                    open
                }
                None => match self.open(block) {
                    Ok(open) => open,
                    Err(corrupt) => return Some(Err(corrupt)),
                },
            };
            if let Some(position) = open.position()
                && position.0 <= self.through
            {
                self.next.push(Reverse((position, at)));
                self.sources[at].open = Some(open);
            }
            if let Some(version) = shown {
                return Some(Ok(version));
            }
        }
    }
}

impl<'a> Open<'a> {
    /// Where the next version stands; passes over what is not in the ranges.
    fn position(&mut self) -> Option<Position> {
        match &mut self.walk {
            Walk::Picked(picked) => self.view.position(*picked.last()?),
            Walk::Order { place, wanted } => loop {
                let v = self.view.ordered(*place)?;
                let behind = wanted.partition_point(|versions| versions.end <= v);
                if wanted.get(behind).is_some_and(|versions| versions.contains(&v)) {
                    return self.view.position(v);
                }
                *place += 1;
            },
        }
    }

    /// The version that [`Open::position`] has found.
    fn take(&mut self) -> Option<VersionRef<'a>> {
        let v = match &mut self.walk {
            Walk::Picked(picked) => picked.pop()?,
            Walk::Order { place, .. } => {
                *place += 1;
                self.view.ordered(*place - 1)?
            }
        };
        self.view.version(self.view.key_of(v), v)
    }
}
