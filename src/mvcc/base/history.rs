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
    merge: Merge,
}

/// Where a [`History`] stands: what is left of it, to go on with later, on the same base.
#[derive(Debug)]
pub struct Merge {
    ranges: Vec<KeyRange>,
    from: Revision,
    through: Revision,
    /// Where each source stands: the position of its next version, or, before its block is opened, one
    /// that is not behind it.
    next: BinaryHeap<Reverse<(Position, usize)>>,
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    block: usize,
    /// `None` before the block is opened.
    walk: Option<Walk>,
}

#[derive(Debug)]
enum Walk {
    /// All versions from this place on in the block's order, of which those with these numbers count.
    Order { place: usize, wanted: Vec<Range<usize>> },
    /// The numbers of the versions still to come, the next one last.
    Picked(Vec<usize>),
}

impl Merge {
    pub(super) fn new(
        base: &Base,
        ranges: &[KeyRange],
        from: Revision,
        through: Revision,
    ) -> Merge {
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
        Merge {
            from,
            through,
            next: if from > through { BinaryHeap::new() } else { next.collect() },
            sources: blocks.iter().map(|block| Source { block: *block, walk: None }).collect(),
            ranges,
        }
    }

    /// Finds what there is of the ranges in a block, and where it begins.
    fn walk(&self, view: View<'_>) -> Walk {
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
        if count < view.versions() / PICKED_SHARE {
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
        }
    }

    /// The source at the top of the heap stands somewhere else now.
    fn settle(&mut self, view: View<'_>) {
        let Some(Reverse((_, at))) = self.next.pop() else { return };
        let walk = self.sources[at].walk.as_mut();
        if let Some(v) = walk.and_then(|walk| walk.settle(view))
            && let Some(position) = view.position(v)
            && position.0 <= self.through
        {
            self.next.push(Reverse((position, at)));
        }
    }
}

impl<'a> History<'a> {
    pub(super) fn new(base: &'a Base, merge: Merge) -> History<'a> {
        History { base, merge }
    }

    /// Where it stands.
    #[must_use]
    pub fn pause(self) -> Merge {
        self.merge
    }

    /// The next version, without going on. After an error the block is left out.
    pub fn peek(&mut self) -> Option<Result<VersionRef<'a>, Corrupt>> {
        loop {
            let Reverse((_, at)) = *self.merge.next.peek()?;
            let view = match self.base.view(self.merge.sources[at].block) {
                Ok(view) => view,
                Err(corrupt) => {
                    self.merge.next.pop();
                    return Some(Err(corrupt));
                }
            };
            match &self.merge.sources[at].walk {
                Some(walk) => {
                    let v = walk.current(view);
                    match v.and_then(|v| view.version(view.key_of(v), v)) {
                        Some(version) => return Some(Ok(version)),
                        None => self.advance(),
                    }
                }
                None => {
                    self.merge.sources[at].walk = Some(self.merge.walk(view));
                    self.merge.settle(view);
                }
            }
        }
    }

    /// Goes on behind the version that [`History::peek`] has shown.
    pub fn advance(&mut self) {
        let Some(Reverse((_, at))) = self.merge.next.peek() else { return };
        let source = &mut self.merge.sources[*at];
        let (Some(walk), Ok(view)) = (&mut source.walk, self.base.view(source.block)) else {
            return;
        };
        walk.advance();
        self.merge.settle(view);
    }
}

impl<'a> Iterator for History<'a> {
    type Item = Result<VersionRef<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        let shown = self.peek()?;
        if shown.is_ok() {
            self.advance();
        }
        Some(shown)
    }
}

impl Walk {
    /// The number of the version where it stands.
    fn current(&self, view: View<'_>) -> Option<usize> {
        match self {
            Walk::Picked(picked) => picked.last().copied(),
            Walk::Order { place, .. } => view.ordered(*place),
        }
    }

    fn advance(&mut self) {
        match self {
            Walk::Picked(picked) => drop(picked.pop()),
            Walk::Order { place, .. } => *place += 1,
        }
    }

    /// Passes over what is not in the ranges, and says where it stands then.
    fn settle(&mut self, view: View<'_>) -> Option<usize> {
        loop {
            let v = self.current(view)?;
            let Walk::Order { place, wanted } = self else { return Some(v) };
            let behind = wanted.partition_point(|versions| versions.end <= v);
            if wanted.get(behind).is_some_and(|versions| versions.contains(&v)) {
                return Some(v);
            }
            *place += 1;
        }
    }
}
