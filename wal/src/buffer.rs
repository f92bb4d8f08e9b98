//! Memory that a direct write may come from: aligned to a block and never uninitialised. It knows
//! nothing of frames; it is a byte vector whose address and capacity are multiples of 4 KiB.
//!
//! Small ones come from the allocator. Those of whole segments are mapped: the kernel's pages are zero
//! without being filled, and go back to it at the moment the buffer goes, whatever the allocator
//! would keep.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::{self, NonNull};
use std::slice;

/// The unit of every write and of the end of every group: 4 KiB suits the disks with 512-byte
/// sectors and those with 4 KiB sectors alike.
pub const BLOCK_BYTES: usize = 4096;

/// Buffers of this size and above are mapped.
const MAPPED_BYTES_MIN: usize = 4 << 20;

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
        let start = if capacity_bytes >= MAPPED_BYTES_MIN {
            map(capacity_bytes)
        } else {
            // SAFETY: the layout has a size above zero.
            NonNull::new(unsafe { alloc_zeroed(layout) })
        };
        let Some(start) = start else { handle_alloc_error(layout) };
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

    /// Gives the memory behind byte `at` back, if it is mapped, which reads as zero from then on. For
    /// whoever knows that nobody uses it.
    pub(crate) fn forget_behind(&self, at: usize) {
        let kept_bytes = at.next_multiple_of(BLOCK_BYTES);
        if self.capacity_bytes >= MAPPED_BYTES_MIN && kept_bytes < self.capacity_bytes {
            // SAFETY: a mapping of ours from a page boundary to its end, of which nobody holds a
            // slice. Its pages read as zero, so nothing is uninitialised. A failure only keeps them.
            unsafe {
                let behind = self.start.as_ptr().add(kept_bytes);
                libc::madvise(behind.cast(), self.capacity_bytes - kept_bytes, libc::MADV_DONTNEED);
            }
        }
    }

    /// Where its memory begins.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
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
        // SAFETY: the memory holds `capacity_bytes` initialised bytes (it was zeroed), the
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
        // SAFETY: made in `with_capacity` in the same way and with the same layout, freed once.
        unsafe {
            if self.capacity_bytes >= MAPPED_BYTES_MIN {
                libc::munmap(self.start.as_ptr().cast(), self.capacity_bytes);
            } else {
                dealloc(self.start.as_ptr(), layout(self.capacity_bytes));
            }
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

// SAFETY: a Buffer owns its memory alone, like a Vec.
unsafe impl Send for Buffer {}
// SAFETY: a shared one is only read.
unsafe impl Sync for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Buffer({} of {})", self.len_bytes, self.capacity_bytes)
    }
}

fn map(capacity_bytes: usize) -> Option<NonNull<u8>> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping touches no memory that is in use.
    let start = unsafe { libc::mmap(ptr::null_mut(), capacity_bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    // No huge pages are asked for: a virtual machine that reports its free memory gives just those
    // back to its host, and to get them again took two to three times as long as small ones.
    NonNull::new(start.cast())
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
    fn a_large_buffer_is_zero_and_gives_back_what_is_cut_off() {
        let bytes = MAPPED_BYTES_MIN + 3 * BLOCK_BYTES;
        let mut buffer = Buffer::zeroed(bytes);
        assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
        assert!(buffer.iter().all(|byte| *byte == 0));
        buffer.fill(7);
        buffer.forget_behind(BLOCK_BYTES + 1);
        assert!(buffer[..2 * BLOCK_BYTES].iter().all(|byte| *byte == 7));
        assert!(buffer[2 * BLOCK_BYTES..].iter().all(|byte| *byte == 0));
    }

    #[test]
    #[should_panic(expected = "too small")]
    fn what_does_not_fit_is_refused() {
        Buffer::with_capacity(1).extend(&[1; BLOCK_BYTES + 1]);
    }
}
