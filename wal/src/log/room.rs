//! A log on a disk that is full. Segments are made ahead, before a record is written to them, so a
//! disk without room for the next one has harmed nothing: the log goes on in the segment that it
//! has, and asks again. It knows neither whose fault it is nor how there can be room again.

use super::Log;
use crate::disk::Disk;
use crate::error::Error;

/// The next segment is asked for again whenever the present one has grown by so much of itself.
const AGAIN_PART: u64 = 8;

/// The next segment could not be made: the disk has no room.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    error: Error,
    /// How full the current segment was.
    offset_bytes: u64,
}

impl<D: Disk> Log<D> {
    /// Whether the disk has no room for the next segment. Records are written as before as long as
    /// the current one has room.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether what waits can not be written before there is room on the disk.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.is_refused() && self.preparing.is_none() && self.pending() && self.in_flight.is_empty()
    }

    /// There may be room again: asks for a segment that was refused.
    ///
    /// # Errors
    /// [`Error::Io`]; the log has failed then.
    pub fn try_again(&mut self) -> Result<(), Error> {
        self.check()?;
        if self.is_refused() { self.prepare_next() } else { Ok(()) }
    }

    /// Waits no longer for room that does not come. The log has failed then, with the error returned:
    /// that of the disk. What was appended and is not durable was never reported.
    ///
    /// # Errors
    /// Always, for a log that [is refused](Log::is_refused).
    pub fn give_up(&mut self) -> Result<(), Error> {
        self.check()?;
        let refused = self.refused.clone();
        self.latch(refused.map_or(Ok(()), |refused| Err(refused.error)))
    }

    /// Whether files of segments that go are kept for those to come, which is how a log usually spares
    /// itself the filling. On a full disk others need their room: those that there are go then too.
    ///
    /// # Errors
    /// [`Error::Io`]; the log has failed then.
    pub fn keep_spares(&mut self, keep: bool) -> Result<(), Error> {
        self.check()?;
        let result = self.disk.keep_spares(keep);
        self.io("remove a spare of", self.current.header.segment, 0, result)
    }

    /// Notes that the disk has no room for the next segment.
    pub(super) fn refuse(&mut self, error: Error) {
        let offset_bytes = self.current.offset_bytes;
        self.preparing = None;
        self.stats.segments_refused += 1;
        self.refused = Some(Refused { error, offset_bytes });
    }

    /// Whether to ask for the next segment now: not all the time when it was refused.
    pub(super) fn may_ask(&self) -> bool {
        let grown = self.current.header.segment_bytes / AGAIN_PART;
        self.refused.as_ref().is_none_or(|at| self.current.offset_bytes >= at.offset_bytes + grown)
    }
}
