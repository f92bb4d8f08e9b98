//! What a caller decides about a log, with the bounds that make the decisions fit together. It
//! knows no command line and no file: the caller brings the numbers.

use std::fmt;

use crate::buffer::BLOCK_BYTES;
use crate::error::Error;

/// The smallest segment: room for a header, the carried state and one group.
pub const SEGMENT_BYTES_MIN: u64 = 16 * 1024;
/// The largest segment: recovery holds one segment in memory.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Whose log this is. Files of another owner are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Owner {
    /// The cluster.
    pub cluster: u64,
    /// The member of that cluster.
    pub member: u64,
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "member {:x} of cluster {:x}", self.member, self.cluster)
    }
}

/// What the caller decides about a log.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of this log among those in its directory.
    pub log: u16,
    /// Whose log this is.
    pub owner: Owner,
    /// Size of each new segment file; existing files keep theirs. A multiple of 4 KiB.
    pub segment_bytes: u64,
    /// The largest single write, less the carried state at the head of a segment. A multiple of
    /// 4 KiB, at most half a segment. Longer records are split.
    pub group_bytes_max: usize,
    /// Writes in flight, 1 or 2. The second starts only when enough is waiting (next field).
    pub in_flight_max: usize,
    /// A second write starts beside the first when at least this many bytes wait for it. Below
    /// that, what waits is better off in one fuller group.
    pub second_write_bytes: usize,
    /// A random number of the caller's, mixed into the checksums of segments made from now on, so
    /// that no client can put bytes into a record that would pass for a frame of this log.
    pub salt: u64,
    /// How long an idle log waits before it writes its seal, in milliseconds.
    pub seal_after_ms: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            log: 0,
            owner: Owner::default(),
            segment_bytes: 64 << 20,
            group_bytes_max: 256 << 10,
            in_flight_max: 2,
            second_write_bytes: 16 << 10,
            salt: 0,
            seal_after_ms: 10,
        }
    }
}

impl Options {
    /// The most bytes of carried state (see `Log::set_carry`): a quarter of a segment, frame
    /// headers included, so that the head of a segment always fits with one whole group.
    #[must_use]
    pub fn carry_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX)
    }

    /// # Errors
    /// [`Error::Options`] names the rule that is broken.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let block = BLOCK_BYTES as u64;
        let group = self.group_bytes_max as u64;
        let rules = [
            (
                (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes),
                "segment_bytes must lie between 16 KiB and 1 GiB",
            ),
            (
                self.segment_bytes.is_multiple_of(block) && group.is_multiple_of(block),
                "segment_bytes and group_bytes_max must be multiples of 4 KiB",
            ),
            (
                group >= block && group <= self.segment_bytes / 2,
                "group_bytes_max must lie between 4 KiB and half a segment",
            ),
            ((1..=2).contains(&self.in_flight_max), "in_flight_max must be 1 or 2"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(Error::Options(rule)))
    }
}
