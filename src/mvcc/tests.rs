//! The store by transcripts, and against a model.

mod layers;
mod model;
mod random;
mod transcripts;

pub(super) use random::Random;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use super::Layer;
use super::base::{Base, Mapped};
use super::build::{Sink, image};
use crate::keys::Revision;

/// A file of blocks in memory.
#[derive(Default)]
struct File {
    number: u64,
    bytes: Vec<u8>,
}

impl Sink for File {
    type Error = Infallible;

    fn block(&mut self, bytes: &[u8]) -> Result<(u64, u64), Infallible> {
        let offset = self.bytes.len().next_multiple_of(4096);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(bytes);
        Ok((self.number, offset as u64))
    }
}

thread_local! {
    /// The files of all bases that a test made.
    static FILES: RefCell<BTreeMap<u64, Mapped>> = RefCell::default();
}

/// The base at `at` that follows from an older one and what lies upon it.
fn build(at: Revision, old: Option<&Base>, layers: &[&Layer], compacted: Revision) -> Arc<Base> {
    FILES.with_borrow_mut(|files| {
        let number = files.len() as u64;
        let mut file = File { number, bytes: Vec::new() };
        let blocks = image(&mut file, old, layers, compacted).expect("whole blocks");
        files.insert(number, Arc::new(file.bytes));
        Arc::new(Base::open(at, blocks, files.clone()).expect("what was just built"))
    })
}
