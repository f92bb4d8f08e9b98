//! What lies behind the end of the chain: nothing, a torn tail, or the proof that something is missing.

use super::{Chain, Found, Torn, Void, Window, read};
use crate::buffer::{BLOCK_BYTES, Buffer};
use crate::disk::Disk;
use crate::error::Error;
use crate::options::Options;
use crate::record::{self, FRAME_ALIGN, HEADER_BYTES};
use crate::segment::{self, SegmentHeader};

/// What lies behind the end of the chain.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Index of the first segment that does not continue the chain.
    pub(super) missing: Option<usize>,
    /// The highest `acked_through` of any valid frame.
    pub(super) acked_through: u64,
    pub(super) voids: Vec<Void>,
    /// Where a reader would look first: segment, offset and what the frame there says of its lane.
    pub(super) suspect: Option<(u64, u64, Option<u16>)>,
}

impl Tail {
    /// Reads so much of a segment, from `from` on, a block's beginning, and looks at every place of it.
    pub(super) fn search_at<D: Disk>(
        &mut self,
        disk: &mut D,
        options: &Options,
        header: &SegmentHeader,
        from: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        let bytes = bytes.min(header.segment_bytes - from);
        let mut buffer = Buffer::zeroed(usize::try_from(bytes).expect("at most 1 GiB"));
        let read = read(disk, options, header.segment, from, &mut buffer)?;
        let from_bytes = usize::try_from(from).expect("at most 1 GiB");
        let window = Window { from: from_bytes, bytes: &mut buffer[..read] };
        self.search(&window, header, from);
        Ok(())
    }

    /// Looks at every place of a segment from `end` on where a frame can begin.
    pub(super) fn search(&mut self, window: &Window<'_>, header: &SegmentHeader, end: u64) {
        let (key, from) = (header.key(), window.from);
        let end = usize::try_from(end).expect("at most 1 GiB");
        let block = end.next_multiple_of(BLOCK_BYTES);
        let mut marked_to = end;
        let mut at = end;
        while at + HEADER_BYTES <= from + window.bytes.len() {
            if !record::is_marked(window.bytes, at - from, key) {
                at += FRAME_ALIGN;
                continue;
            }
            let frame = record::decode(window.bytes, at - from, key);
            let frame_bytes = frame.map_or(HEADER_BYTES, |frame| {
                self.acked_through = self.acked_through.max(frame.header.acked_through);
                record::frame_bytes(frame.payload.len())
            });
            at += frame_bytes;
            marked_to = at;
        }
        self.suspect(window, header, end, marked_to > end);
        let to = marked_to.next_multiple_of(BLOCK_BYTES);
        if to > block {
            self.voids.push(Void {
                segment: header.segment,
                from_bytes: block as u64,
                to_bytes: to as u64,
            });
        }
    }

    /// Names the place where the next frame should have been: behind the last one if something is
    /// there, else at the next block, else at the head of the next segment.
    fn suspect(&mut self, window: &Window<'_>, header: &SegmentHeader, end: usize, marked: bool) {
        if self.suspect.is_some() {
            return;
        }
        let block = end.next_multiple_of(BLOCK_BYTES);
        let remains = window.get(end..block.min(end + HEADER_BYTES));
        let at = if remains.iter().any(|&byte| byte != 0) {
            end
        } else if marked {
            block
        } else {
            return;
        };
        let here = at - window.from;
        let lane = record::is_marked(window.bytes, here, header.key())
            .then(|| record::header(&window.bytes[here..]).lane);
        self.suspect = Some((header.segment, at as u64, lane));
    }

    /// # Errors
    /// [`Error::Corrupt`] if anything that was reported durable is missing.
    pub(super) fn judge(
        &self,
        chain: &Chain,
        found: &Found,
        options: &Options,
    ) -> Result<(), Error> {
        // A log is recycled only up to a segment whose head is whole and durable.
        let oldest = found.headers.first().map_or(1, |header| header.segment);
        let headless = oldest > 1 && chain.headed == 0;
        if !headless && self.acked_through < chain.missing() {
            return Ok(());
        }
        let current = found.headers[found.current].segment;
        let (segment, offset_bytes, lane) =
            self.suspect.unwrap_or((current, found.offset_bytes, None));
        Err(Error::Corrupt {
            file: segment::file_name(options.log, segment),
            segment,
            offset_bytes,
            lane,
        })
    }

    pub(super) fn torn(&self, options: &Options) -> Option<Torn> {
        let (segment, offset_bytes, _) = self.suspect?;
        Some(Torn { file: segment::file_name(options.log, segment), offset_bytes })
    }
}
