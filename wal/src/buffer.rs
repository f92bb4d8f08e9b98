//! Memory that a direct write may come from: aligned to a block and never uninitialised. It knows
//! nothing of frames; it is a byte vector whose address and capacity are multiples of 4 KiB.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::slice;

/// The unit of every write and of the end of every group: 4 KiB suits the disks with 512-byte
/// sectors and those with 4 KiB sectors alike.
pub const BLOCK_BYTES: usize = 4096;

/// A byte vector whose address and capacity are multiples of [`BLOCK_BYTES`].
pub struct Buffer {
    start: NonNull<u8>,
    capacity_bytes: usize,
    len_bytes: usize,
}

impl Buffer {
    /// An empty buffer with room for at least `bytes`, rounded up to whole blocks, at least one.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Buffer {
        let capacity_bytes = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        let layout = layout(capacity_bytes);
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Buffer { start, capacity_bytes, len_bytes: 0 }
    }

    /// A buffer of `bytes` zeros.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Buffer {
        let mut buffer = Buffer::with_capacity(bytes);
        buffer.len_bytes = bytes;
        buffer
    }

    /// How many bytes it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity_bytes
    }

    /// Forgets the content, keeps the memory.
    pub fn clear(&mut self) {
        self.len_bytes = 0;
    }

    /// Appends `bytes`. Panics when they do not fit: the callers compute the room first.
    pub fn extend(&mut self, bytes: &[u8]) {
        let start = self.len_bytes;
        self.grow_to(start + bytes.len());
        self[start..].copy_from_slice(bytes);
    }

    /// Appends zeros up to the next multiple of `unit`.
    pub fn pad_to(&mut self, unit: usize) {
        let start = self.len_bytes;
        self.grow_to(start.next_multiple_of(unit));
        self[start..].fill(0);
    }

    /// Sets the length; bytes that appear are whatever an earlier use left there.
    pub(crate) fn grow_to(&mut self, len_bytes: usize) {
        assert!(len_bytes <= self.capacity_bytes, "the buffer is too small");
        self.len_bytes = len_bytes;
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the allocation holds `capacity_bytes` initialised bytes (it was zeroed), the
        // length never exceeds it, and only `self` owns it.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len_bytes) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the borrow of `self` is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len_bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `with_capacity` with the same layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), layout(self.capacity_bytes)) }
    }
}

// SAFETY: a Buffer owns its memory alone, like a Vec.
unsafe impl Send for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Buffer({} of {})", self.len_bytes, self.capacity_bytes)
    }
}

fn layout(capacity_bytes: usize) -> Layout {
    Layout::from_size_align(capacity_bytes, BLOCK_BYTES)
        .expect("a capacity is a multiple of the block and far below isize::MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_capacity_and_padding_are_aligned() {
        let mut buffer = Buffer::with_capacity(5000);
        assert_eq!(buffer.capacity(), 2 * BLOCK_BYTES);
        assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
        buffer.extend(b"abc");
        buffer.pad_to(8);
        assert_eq!(&buffer[..], b"abc\0\0\0\0\0");
        buffer.clear();
        buffer.extend(b"z");
        buffer.pad_to(8);
        assert_eq!(&buffer[..], b"z\0\0\0\0\0\0\0", "old bytes never show");
    }

    #[test]
    #[should_panic(expected = "too small")]
    fn what_does_not_fit_is_refused() {
        Buffer::with_capacity(1).extend(&[1; BLOCK_BYTES + 1]);
    }
}
