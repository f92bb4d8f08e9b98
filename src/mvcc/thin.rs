//! Bytes on the heap behind a pointer of eight bytes: how many there are stands in front of them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;

/// What the length takes.
pub(super) const LENGTH_BYTES: usize = size_of::<u32>();

/// Bytes that never change. A `Box<[u8]>` would carry its length beside the pointer.
pub(super) struct Thin(NonNull<u8>);

impl Thin {
    /// One part behind the other, together less than 4 GiB.
    pub(super) fn concat(first: &[u8], second: &[u8]) -> Thin {
        let len = first.len() + second.len();
        let layout = layout(len);
        let length = u32::try_from(len).expect("less than 4 GiB").to_ne_bytes();
        // SAFETY: the layout is not empty, and the memory has room for the length and both parts, which
        // lie elsewhere.
        unsafe {
            let Some(start) = NonNull::new(alloc(layout)) else { handle_alloc_error(layout) };
            let mut at = start.as_ptr();
            for part in [&length[..], first, second] {
                at.copy_from_nonoverlapping(part.as_ptr(), part.len());
                at = at.add(part.len());
            }
            Thin(start)
        }
    }

    #[inline]
    fn length(&self) -> usize {
        // SAFETY: every one begins with its length.
        let length = unsafe { self.0.cast::<[u8; LENGTH_BYTES]>().read() };
        u32::from_ne_bytes(length) as usize
    }
}

impl Deref for Thin {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes stand behind the length, written when it was made and never since.
        unsafe { slice::from_raw_parts(self.0.as_ptr().add(LENGTH_BYTES), self.length()) }
    }
}

impl Drop for Thin {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layout, and freed once.
        unsafe { dealloc(self.0.as_ptr(), layout(self.length())) }
    }
}

// SAFETY: it owns its memory alone, like a `Box`.
unsafe impl Send for Thin {}
// SAFETY: a shared one is only read.
unsafe impl Sync for Thin {}

fn layout(len: usize) -> Layout {
    Layout::from_size_align(LENGTH_BYTES + len, align_of::<u32>()).expect("less than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_was_made_of() {
        let parts: [&[u8]; 4] = [b"", b"a", b"four", &[7; 5000]];
        for (first, second) in parts.iter().flat_map(|a| parts.iter().map(move |b| (a, b))) {
            assert_eq!(Thin::concat(first, second)[..], [*first, *second].concat());
        }
    }
}
