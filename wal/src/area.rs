//! Memory into which a segment is read, and of which the part that has arrived is looked at and handed
//! out while the disk still fills the rest. It knows nothing of frames.

use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use bytes::Bytes;

use crate::buffer::Buffer;

/// Room for a segment.
///
/// From its beginning it is in three parts: what was handed out, which nobody writes to any more;
/// what has arrived, which its reader has alone; and the rest, which is the disk's.
pub struct Area {
    /// Only its address is used, never a slice of all of it: parts of it belong to others.
    memory: Arc<Buffer>,
    start: NonNull<u8>,
    given: usize,
}

impl Area {
    /// Room for `bytes`, all zero.
    #[must_use]
    pub fn new(bytes: usize) -> Area {
        let mut buffer = Buffer::zeroed(bytes);
        let start = NonNull::new(buffer.as_mut_ptr()).expect("memory of a buffer");
        Area { memory: Arc::new(buffer), start, given: 0 }
    }

    /// Room for `bytes` for the next segment: this memory, when it is as large and nobody holds a part of
    /// it, with whatever an earlier use left there; else new.
    #[must_use]
    pub(crate) fn again(mut self, bytes: usize) -> Area {
        if self.capacity() != bytes || Arc::get_mut(&mut self.memory).is_none() {
            return Area::new(bytes);
        }
        self.given = 0;
        self
    }

    /// How many bytes it has room for, in whole blocks.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Where the disk may write from byte `from` on. Nothing is written through it before that.
    pub(crate) fn target(&mut self, from: usize) -> *mut u8 {
        assert!((self.given..=self.capacity()).contains(&from), "handed out or outside");
        self.start.as_ptr().wrapping_add(from)
    }

    /// Copies `bytes` to `from`.
    pub(crate) fn fill(&mut self, from: usize, bytes: &[u8]) {
        assert!(bytes.len() <= self.capacity() - from, "the area is too small");
        let to = self.target(from);
        // SAFETY: inside the memory, behind what was handed out, and `self` is borrowed alone.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// What has arrived, if that is everything up to byte `upto`.
    ///
    /// # Safety
    /// Nobody writes to the memory below `upto` any more.
    pub(crate) unsafe fn arrived(&mut self, upto: usize) -> Arrived<'_> {
        assert!((self.given..=self.capacity()).contains(&upto), "less than was handed out");
        Arrived { area: self, upto }
    }
}

impl std::fmt::Debug for Area {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Area({} handed out of {})", self.given, self.capacity())
    }
}

// SAFETY: it has its memory to itself but for what was handed out, which is only read.
unsafe impl Send for Area {}

/// The part of an [`Area`] that has arrived and was not handed out.
#[derive(Debug)]
pub struct Arrived<'a> {
    area: &'a mut Area,
    upto: usize,
}

impl Arrived<'_> {
    /// Where it begins and ends, in bytes from the beginning of the area.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.area.given..self.upto
    }

    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        let range = self.range();
        // SAFETY: the memory is initialised, the range lies in it, and by the promise that this was
        // made with and the borrow nobody else has it.
        unsafe { slice::from_raw_parts_mut(self.area.start.as_ptr().add(range.start), range.len()) }
    }

    /// Hands out its beginning, up to byte `to` of the area. The memory of the whole area goes when
    /// the last such part does.
    pub fn give(&mut self, to: usize) -> Bytes {
        assert!(self.range().contains(&to) || to == self.upto, "it has not arrived");
        let range = self.area.given..to;
        self.area.given = to;
        Bytes::from_owner(Part { memory: Arc::clone(&self.area.memory), range })
    }

    /// Says that everything has arrived and nothing behind byte `at` is needed any more, which gives
    /// that memory back.
    pub(crate) fn cut(&mut self, at: usize) {
        assert!(at >= self.area.given, "it was handed out");
        self.area.memory.forget_behind(at);
    }
}

/// A part that was handed out.
struct Part {
    memory: Arc<Buffer>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: inside the memory, which is initialised; what was handed out is only read.
        unsafe {
            let start = self.memory.start().as_ptr().add(self.range.start);
            slice::from_raw_parts(start, self.range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_while_the_rest_is_filled() {
        let mut area = Area::new(6000);
        assert_eq!(area.capacity(), 8192);
        area.fill(0, b"one two ");
        // SAFETY: nobody writes but this test.
        let mut arrived = unsafe { area.arrived(8) };
        arrived.bytes()[..3].make_ascii_uppercase();
        let one = arrived.give(4);
        assert_eq!((arrived.range(), &*arrived.bytes()), (4..8, &b"two "[..]));
        area.fill(8, b"three");
        // SAFETY: as above.
        let mut arrived = unsafe { area.arrived(13) };
        let rest = arrived.give(13);
        drop(area);
        assert_eq!((&one[..], &rest[..]), (&b"ONE "[..], &b"two three"[..]));
    }

    #[test]
    fn memory_is_used_again_when_nobody_has_a_part() {
        let mut area = Area::new(4096);
        area.fill(0, b"one");
        // SAFETY: nobody writes but this test.
        let one = unsafe { area.arrived(3) }.give(3);
        let mut area = area.again(4096);
        area.fill(0, b"two");
        assert_eq!(&one[..], b"one");
        let start = area.target(0);
        let mut area = area.again(4096);
        assert_eq!(area.target(0), start);
    }

    #[test]
    #[should_panic(expected = "handed out")]
    fn what_was_handed_out_is_not_filled_again() {
        let mut area = Area::new(10);
        // SAFETY: nobody writes but this test.
        let _given = unsafe { area.arrived(5) }.give(5);
        area.fill(4, b"x");
    }
}
