//! Checkpoints on the simulated machine: they are built when the seed says so, or are not, and what was
//! published survives every crash.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::Manifest;
use crate::engine::{Build, Ground};
use crate::keys::Revision;
use crate::mvcc::base::{Base, Image, Mapped};
use crate::mvcc::build::Memory;

/// The checkpoint directory.
#[derive(Default)]
pub(super) struct Images {
    building: Option<Box<Build>>,
    manifest: Option<Vec<u8>>,
    files: BTreeMap<u64, Arc<Vec<u8>>>,
    next: u64,
}

impl Images {
    pub(super) fn begin(&mut self, build: Box<Build>) {
        assert!(self.building.is_none(), "one image is built at a time");
        self.building = Some(build);
    }

    pub(super) fn is_building(&self) -> bool {
        self.building.is_some()
    }

    /// The revision of the image that is being built.
    pub(super) fn building_at(&self) -> Option<Revision> {
        self.building.as_ref().map(|build| build.at)
    }

    /// What was being built is not finished.
    pub(super) fn fail(&mut self) {
        self.building = None;
    }

    /// Finishes and publishes what is being built.
    pub(super) fn finish(&mut self) -> Arc<Base> {
        let build = self.building.take().expect("something is being built");
        self.next += 1;
        let mut file = Memory::new(self.next);
        let rows = build.image(&mut file).expect("memory takes everything and rots nowhere");
        self.files.insert(file.file, Arc::new(file.bytes));
        let manifest = build.manifest(self.next, 1, 1, rows);
        self.files.retain(|number, _| manifest.blocks.iter().any(|row| row.file == *number));
        self.manifest = Some(manifest.encode());
        self.load().1.expect("published just now")
    }

    /// What a start finds.
    pub(super) fn load(&self) -> (Ground, Option<Arc<Base>>) {
        let Some(bytes) = &self.manifest else { return (Ground::default(), None) };
        let manifest = Manifest::decode(bytes).expect("as it was written");
        let ground = Ground::of(&manifest).expect("records of this release");
        let mapped = |(number, bytes): (&u64, &Arc<Vec<u8>>)| {
            let mapped: Mapped = Arc::new(File(Arc::clone(bytes)));
            (*number, mapped)
        };
        let files = self.files.iter().map(mapped).collect();
        let base = Base::open(manifest.at, manifest.blocks, files).expect("all files are there");
        (ground, Some(Arc::new(base)))
    }
}

struct File(Arc<Vec<u8>>);

impl Image for File {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}
