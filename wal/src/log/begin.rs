//! What opening a log does to the disk before the first record, waiting for each thing: a new log gets its
//! first segment, an old one is made safe.

use super::short_is_failed;
use crate::buffer::Buffer;
use crate::disk::{Completion, Disk};
use crate::error::Error;
use crate::options::Options;
use crate::recover::{Found, Void};
use crate::segment::{self, SegmentHeader};

/// Zeros for dropped tails are written in pieces of at most this.
const VOID_BYTES_MAX: u64 = 1 << 20;

/// Makes the first segment of a new log, waiting for it.
pub(super) fn first_segment<D: Disk>(
    disk: &mut D,
    options: &Options,
    epoch: u64,
) -> Result<SegmentHeader, Error> {
    let header = SegmentHeader::new(options, 1, epoch);
    let failed = |source| Error::io("prepare", segment::file_name(options.log, 1), 0, source);
    disk.prepare(1, header.segment_bytes, header.encode()).map_err(failed)?;
    match disk.reap(true).map_err(failed)? {
        Some(Completion::Prepared { result, .. }) => result.map_err(failed)?,
        other => unreachable!("only a segment was asked for, not {other:?}"),
    }
    Ok(header)
}

/// Makes what was recovered durable and overwrites what was dropped, waiting for both.
pub(super) fn make_safe<D: Disk>(
    disk: &mut D,
    options: &Options,
    found: &Found,
) -> Result<(), Error> {
    // Two writes may have been in flight, and the later may have opened a segment.
    let current = found.current;
    for header in &found.headers[current.saturating_sub(1)..=current] {
        disk.sync(header.segment).map_err(|source| {
            Error::io("sync", segment::file_name(options.log, header.segment), 0, source)
        })?;
    }
    found.voids.iter().try_for_each(|void| overwrite(disk, options, void))
}

/// Takes away the segments behind the end, which are empty now, if they were made for other
/// options: a head need not fit into them. The last goes first, so that no gap ever shows.
pub(super) fn retire_misfits<D: Disk>(
    disk: &mut D,
    options: &Options,
    found: &mut Found,
) -> Result<(), Error> {
    let ready = &found.headers[found.current + 1..];
    if ready.iter().all(|header| header.segment_bytes == options.segment_bytes) {
        return Ok(());
    }
    for header in found.headers.drain(found.current + 1..).rev() {
        let segment = header.segment;
        let failed =
            |source| Error::io("retire", segment::file_name(options.log, segment), 0, source);
        disk.retire(segment).map_err(failed)?;
        match disk.reap(true).map_err(failed)? {
            Some(Completion::Retired { result, .. }) => result.map_err(failed)?,
            other => unreachable!("only a retirement was asked for, not {other:?}"),
        }
    }
    Ok(())
}

fn overwrite<D: Disk>(disk: &mut D, options: &Options, void: &Void) -> Result<(), Error> {
    let mut at = void.from_bytes;
    while at < void.to_bytes {
        let bytes = (void.to_bytes - at).min(VOID_BYTES_MAX) as usize;
        let failed = |source| {
            Error::io("overwrite", segment::file_name(options.log, void.segment), at, source)
        };
        disk.write(0, void.segment, at, Buffer::zeroed(bytes)).map_err(failed)?;
        match disk.reap(true).map_err(failed)? {
            Some(Completion::Written { result, .. }) => {
                result.and_then(|written| short_is_failed(written, bytes)).map_err(failed)?
            }
            other => unreachable!("only a write was asked for, not {other:?}"),
        }
        at += bytes as u64;
    }
    Ok(())
}
