//! What can go wrong with an operation, how often, and the numbers that decide it. It knows no
//! files.

use std::io;

/// What goes wrong with one operation of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused at once with EIO; nothing happened.
    Refused,
    /// It ends with EIO. Of a write, any of the sectors may have been written.
    Failed,
    /// It ends with ENOSPC. Of a write, the beginning may have been written.
    Full,
    /// A write ends early and says so. Other operations fail.
    Short,
    /// A write is reported as done and never was. Other operations fail.
    Lost,
    /// A write is reported as done and went to another place. Other operations fail.
    Misdirected,
    /// One bit of what is written, or of what is read, is wrong. Other operations fail.
    Flipped,
}

impl Fault {
    /// Every kind, for tests that try each.
    pub const ALL: [Fault; 7] = [
        Fault::Refused,
        Fault::Failed,
        Fault::Full,
        Fault::Short,
        Fault::Lost,
        Fault::Misdirected,
        Fault::Flipped,
    ];

    /// Whether the disk says that something went wrong. What it does not say, it may lose.
    #[must_use]
    pub fn is_told(self) -> bool {
        !matches!(self, Fault::Lost | Fault::Misdirected | Fault::Flipped)
    }

    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Fault::Full => libc::ENOSPC,
            _ => libc::EIO,
        })
    }
}

/// How often operations go wrong by themselves: each number is out of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    /// [`Fault::Refused`].
    pub refused: u32,
    /// [`Fault::Failed`].
    pub failed: u32,
    /// [`Fault::Full`].
    pub full: u32,
    /// [`Fault::Short`].
    pub short: u32,
    /// [`Fault::Lost`].
    pub lost: u32,
    /// [`Fault::Misdirected`].
    pub misdirected: u32,
    /// [`Fault::Flipped`].
    pub flipped: u32,
}

impl Odds {
    pub(super) fn draw(&self, random: &mut Random) -> Option<Fault> {
        let odds = [
            self.refused,
            self.failed,
            self.full,
            self.short,
            self.lost,
            self.misdirected,
            self.flipped,
        ];
        if odds == [0; 7] {
            return None;
        }
        let mut drawn = random.below(1_000_000);
        for (odds, fault) in odds.into_iter().zip(Fault::ALL) {
            match drawn.checked_sub(u64::from(odds)) {
                None => return Some(fault),
                Some(rest) => drawn = rest,
            }
        }
        None
    }
}

/// SplitMix64: small, fast, and the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero and small enough for the bias not to matter.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & (1 << 40) != 0
    }
}
