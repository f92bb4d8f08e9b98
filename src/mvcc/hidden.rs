//! What the keys of a layer hide in the layers beneath, by slot.

use super::slots::SlotId;
use super::version::block_bytes;

/// Slots a chunk: growing never moves what is there.
const CHUNK_SLOTS: usize = 1024;

/// Bytes beneath, for the slots whose keys had a value there.
pub(super) struct Hidden {
    chunks: Vec<Box<[Under; CHUNK_SLOTS]>>,
    garbage_bytes: usize,
}

/// What one key hides; nothing, if that takes no bytes.
#[derive(Clone, Copy, Default)]
struct Under {
    bytes: u32,
    /// The layer has a version of the key that every reader sees.
    is_garbage: bool,
}

impl Hidden {
    pub(super) fn new() -> Hidden {
        Hidden { chunks: Vec::new(), garbage_bytes: 0 }
    }

    /// Of the hidden bytes, those that no reader may ask for any more.
    pub(super) fn garbage_bytes(&self) -> usize {
        self.garbage_bytes
    }

    /// Key and value bytes that a slot's key hides.
    pub(super) fn get(&self, slot: SlotId) -> usize {
        let chunk = self.chunks.get(slot as usize / CHUNK_SLOTS);
        chunk.map_or(0, |chunk| chunk[slot as usize % CHUNK_SLOTS].bytes as usize)
    }

    /// A key came to a slot, and hides so many bytes.
    pub(super) fn insert(&mut self, slot: SlotId, bytes: usize) {
        let (chunk, at) = (slot as usize / CHUNK_SLOTS, slot as usize % CHUNK_SLOTS);
        while self.chunks.len() <= chunk {
            self.chunks.push(Box::new([Under::default(); CHUNK_SLOTS]));
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.chunks[chunk][at] = Under { bytes, is_garbage: false };
    }

    /// The key left its slot.
    pub(super) fn remove(&mut self, slot: SlotId) {
        if let Some(under) = self.get_mut(slot) {
            let was = std::mem::take(under);
            if was.is_garbage {
                self.garbage_bytes -= was.bytes as usize;
            }
        }
    }

    /// What a slot's key hides is garbage.
    pub(super) fn set_garbage(&mut self, slot: SlotId) {
        if let Some(under) = self.get_mut(slot)
            && !under.is_garbage
        {
            under.is_garbage = true;
            self.garbage_bytes += self.get(slot);
        }
    }

    /// Memory of it.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * block_bytes(size_of::<[Under; CHUNK_SLOTS]>())
    }

    fn get_mut(&mut self, slot: SlotId) -> Option<&mut Under> {
        let chunk = self.chunks.get_mut(slot as usize / CHUNK_SLOTS)?;
        Some(&mut chunk[slot as usize % CHUNK_SLOTS])
    }
}
