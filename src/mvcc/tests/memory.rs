//! Files of blocks that are only memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::keys::Revision;
use crate::mvcc::base::{Base, Mapped};
use crate::mvcc::build::{Builder, Memory, Sizes, Sorted, feed};

/// The files of all images so far, and the newest image.
#[derive(Default)]
pub(in crate::mvcc) struct Images {
    files: BTreeMap<u64, Mapped>,
    base: Option<Arc<Base>>,
    sizes: Option<Sizes>,
}

impl Images {
    /// Images of blocks that are smaller than those of a node.
    pub(in crate::mvcc) fn of(sizes: Sizes) -> Images {
        Images { sizes: Some(sizes), ..Images::default() }
    }

    pub(in crate::mvcc) fn base(&self) -> Option<&Arc<Base>> {
        self.base.as_ref()
    }

    /// Makes the next image, at `at`, out of `layers` and the one before.
    pub(in crate::mvcc) fn build<L: Sorted + ?Sized>(
        &mut self,
        at: Revision,
        layers: &[&L],
        compacted: Revision,
    ) -> Arc<Base> {
        let mut memory = Memory::new(self.files.len() as u64 + 1);
        let builder = match self.sizes {
            None => Builder::new(&mut memory, compacted),
            Some(sizes) => Builder::with_sizes(&mut memory, compacted, sizes),
        };
        let rows = feed(builder, self.base.as_deref(), layers, compacted);
        let rows = rows.expect("memory keeps what it gets");
        self.files.insert(memory.file, Arc::new(memory.bytes));
        let base =
            Base::open(at, rows, self.files.clone()).expect("the builder's rows are in order");
        self.base = Some(Arc::new(base));
        self.base.clone().expect("just made")
    }
}
