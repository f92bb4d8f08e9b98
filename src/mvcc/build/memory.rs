//! A file of blocks that is only memory: for the simulation, tests and benches.

use std::convert::Infallible;

use super::Sink;

/// One file, of as many blocks as it is given.
#[derive(Debug)]
pub struct Memory {
    /// Its number.
    pub file: u64,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Memory {
    /// An empty file with this number.
    #[must_use]
    pub fn new(file: u64) -> Memory {
        Memory { file, bytes: Vec::new() }
    }
}

impl Sink for Memory {
    type Error = Infallible;

    fn block(&mut self, bytes: &[u8]) -> Result<(u64, u64), Infallible> {
        let offset = self.bytes.len().next_multiple_of(4096);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(bytes);
        Ok((self.file, offset as u64))
    }
}
