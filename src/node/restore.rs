//! Makes the data directory of a new member that begins with the state of a backup: an image, as if the
//! member had made its first checkpoint, and an identity. Logs come with the first start.
//!
//! It knows neither backups nor keys: whoever calls it fills the image. The identity is written last, so
//! what was interrupted is no data directory, and no member starts on it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::checkpoints::{DIRECTORY, block_file, manifest_file};
use super::files::{DIRECTORY_MODE, FILE_MODE, sync_directory};
use super::home::Home;
use super::{Failure, LANES_DEFAULT_MAX};
use crate::checkpoint::{ALIGN_BYTES, Manifest};
use crate::config::Config;
use crate::keys::Revision;
use crate::lane::Cut;
use crate::mvcc::base::BlockRef;
use crate::mvcc::build::Sink;

/// The number of the first checkpoint, and of its file of blocks.
const NUMBER: u64 = 1;

/// What a member begins with, beside its keys.
#[derive(Debug)]
pub struct Beginning {
    /// The revision.
    pub at: Revision,
    /// History below is gone.
    pub compacted: Revision,
    /// Redo records of the control state.
    pub control: Vec<u8>,
    /// Something of the backup, so that its cluster is not taken for the one that was backed up: all
    /// members that are restored from the same backup agree on it.
    pub mark: u64,
}

/// Who was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The number of the new cluster.
    pub cluster: u64,
    /// The number of the member.
    pub member: u64,
}

/// Makes `config.data_dir`, which is missing or empty. `fill` gives all blocks to the file and returns their
/// rows.
///
/// # Errors
/// Those of `fill`, [`Failure::Directory`] and [`Failure::Locked`]; what was made is removed then.
pub fn restore<E: From<Failure>>(
    config: &Config,
    beginning: Beginning,
    fill: impl FnOnce(&mut Blocks) -> Result<Vec<BlockRef>, E>,
) -> Result<Restored, E> {
    let existed = config.data_dir.is_dir();
    let mut of_backup = config.clone();
    of_backup.cluster_token += &format!("\0{:016x}", beginning.mark);
    let mut home = Home::found(&of_backup, LANES_DEFAULT_MAX)?;
    let directory = config.data_dir.join(DIRECTORY);
    let done = write(&mut home, &directory, beginning, fill);
    if done.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_dir_all(&directory);
        let _ = home.abandon(existed);
    }
    done
}

fn write<E: From<Failure>>(
    home: &mut Home,
    directory: &Path,
    beginning: Beginning,
    fill: impl FnOnce(&mut Blocks) -> Result<Vec<BlockRef>, E>,
) -> Result<Restored, E> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::Directory { path, source }
    };
    DirBuilder::new().mode(DIRECTORY_MODE).create(directory).map_err(failed(directory))?;
    let path = block_file(directory, NUMBER);
    let mut blocks = Blocks::create(&path).map_err(failed(&path))?;
    let rows = fill(&mut blocks)?;
    let bytes = blocks.finish().map_err(failed(&path))?;
    if bytes == 0 {
        fs::remove_file(&path).map_err(failed(&path))?;
    }
    let identity = home.identity().clone();
    let Beginning { at, compacted, control, .. } = beginning;
    let manifest = Manifest {
        number: NUMBER,
        cluster: identity.cluster,
        member: identity.member,
        at,
        compacted,
        // No lane has an entry yet.
        cuts: vec![Cut::default(); usize::from(identity.lanes)],
        control,
        blocks: rows,
    };
    let path = manifest_file(directory, NUMBER);
    let publish = || -> io::Result<()> {
        let mut file = create(&path)?;
        file.write_all(&manifest.encode())?;
        file.sync_all()?;
        sync_directory(directory)
    };
    publish().map_err(failed(&path))?;
    home.note_checkpoint();
    home.write()?;
    Ok(Restored { cluster: identity.cluster, member: identity.member })
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// The file of blocks that is being written.
#[derive(Debug)]
pub struct Blocks {
    file: BufWriter<File>,
    at: u64,
}

impl Blocks {
    fn create(path: &Path) -> io::Result<Blocks> {
        Ok(Blocks { file: BufWriter::with_capacity(1 << 20, create(path)?), at: 0 })
    }

    /// Makes it durable and returns its length.
    fn finish(mut self) -> io::Result<u64> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(self.at)
    }
}

impl Sink for Blocks {
    type Error = io::Error;

    fn block(&mut self, bytes: &[u8]) -> io::Result<(u64, u64)> {
        let offset = self.at;
        self.file.write_all(bytes)?;
        let end = offset + bytes.len() as u64;
        self.at = end.next_multiple_of(ALIGN_BYTES);
        let zeros = [0; ALIGN_BYTES as usize];
        self.file.write_all(&zeros[..(self.at - end) as usize])?;
        Ok((NUMBER, offset))
    }
}
