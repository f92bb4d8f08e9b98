//! One file of a disk in memory: what a reader sees, and what of it a power cut would leave. It
//! knows sectors, not operations.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::faults::Random;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// A file.
///
/// Copies are cheap until they are written to.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    safe: Arc<Vec<u8>>,
    /// Sectors that a reader sees but that a power cut may still take, by their number.
    unsafe_sectors: BTreeMap<usize, Vec<u8>>,
}

impl Image {
    pub(super) fn new(bytes: Vec<u8>) -> Image {
        Image { safe: Arc::new(bytes), unsafe_sectors: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.safe.len()
    }

    /// Copies the beginning of the file and returns how much that was.
    pub(super) fn read(&self, to: &mut [u8]) -> usize {
        let bytes = to.len().min(self.len());
        to[..bytes].copy_from_slice(&self.safe[..bytes]);
        for (&sector, content) in &self.unsafe_sectors {
            let at = sector * SECTOR_BYTES;
            if at < bytes {
                let end = bytes.min(at + content.len());
                to[at..end].copy_from_slice(&content[..end - at]);
            }
        }
        bytes
    }

    /// Writes durably. What lies beyond the end of the file is left out.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        for (sector, content) in sectors(at, bytes) {
            self.write_sector(sector, content, true);
        }
    }

    /// Writes what happened to be finished of a write that never ended: nothing, all, a beginning,
    /// or any of the sectors. Without `safe` a power cut may still take it back.
    pub(super) fn tear(&mut self, at: usize, bytes: &[u8], safe: bool, random: &mut Random) {
        let shape = random.below(4);
        let whole_until = random.below(1 + (bytes.len() / SECTOR_BYTES) as u64) as usize;
        for (index, (sector, content)) in sectors(at, bytes).enumerate() {
            let written = match shape {
                0 => false,
                1 => true,
                2 => index < whole_until,
                _ => random.coin(),
            };
            if written {
                self.write_sector(sector, content, safe);
            }
        }
    }

    /// A power cut: each unsafe sector is there or is not.
    pub(super) fn cut_power(&mut self, random: &mut Random) {
        for (sector, content) in std::mem::take(&mut self.unsafe_sectors) {
            if random.coin() {
                self.write_sector(sector, &content, true);
            }
        }
    }

    /// Everything a reader sees is safe from now on.
    pub(super) fn sync(&mut self) {
        for (sector, content) in std::mem::take(&mut self.unsafe_sectors) {
            self.write_sector(sector, &content, true);
        }
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        self.sync();
        change(Arc::make_mut(&mut self.safe));
    }

    fn write_sector(&mut self, sector: usize, content: &[u8], safe: bool) {
        let at = sector * SECTOR_BYTES;
        if at >= self.len() {
            return;
        }
        let end = self.len().min(at + content.len());
        if safe {
            self.unsafe_sectors.remove(&sector);
            Arc::make_mut(&mut self.safe)[at..end].copy_from_slice(&content[..end - at]);
        } else {
            self.unsafe_sectors.insert(sector, content[..end - at].to_vec());
        }
    }
}

/// The sectors of a write, with their numbers. Writes are made of whole blocks.
fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    assert!(at.is_multiple_of(SECTOR_BYTES), "writes begin at a sector");
    bytes
        .chunks(SECTOR_BYTES)
        .enumerate()
        .map(move |(index, content)| (at / SECTOR_BYTES + index, content))
}
