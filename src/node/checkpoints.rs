//! The checkpoints of a data directory: written beside the running node, read back and compared,
//! renamed into place, mapped, and removed when nothing names them any more.
//!
//! ```text
//! NNNNNNNNNNNN.manifest       the newest one is the checkpoint; appears by rename, when all it names is durable
//! NNNNNNNNNNNN.blocks         blocks that checkpoint N wrote; later ones may name them too
//! NNNNNNNNNNNN.manifest.new   not finished; removed at the next start, as are blocks that no manifest names
//! ```
//!
//! Block files never grow or change once a manifest names them, except that blocks which none names any more
//! become holes. A file that the newest manifest does not name goes when nobody has it mapped any more. It knows nothing of keys or of when a checkpoint is wanted.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

use cored_wal::Buffer;
use cored_wal::disk::is_full;

use super::failure::Failure;
use super::files::{self, DIRECTORY_MODE, FILE_MODE, sync_directory};
use super::home::{self, Identity};
use super::mapped::MappedFile;
use crate::checkpoint::{ALIGN_BYTES, Manifest, ManifestError};
use crate::engine::{Build, Ground};
use crate::mvcc::base::{Base, BlockRef, Corrupt, Image, Mapped};
use crate::mvcc::build::{self, Sink};

mod shed;

/// Where they are in the data directory.
pub(super) const DIRECTORY: &str = "checkpoint";

const MANIFEST: &str = "manifest";
const BLOCKS: &str = "blocks";
const NEW: &str = "manifest.new";

/// Bytes of one write of blocks: a group of the log that comes at the same time waits for one of them.
const WRITE_BYTES: usize = 128 << 10;

/// Pauses are this many times as long as the work between them. What a checkpoint takes of disk and CPU it
/// takes from the cores; when those are busy its work takes longer, and so do its pauses.
const PAUSE: u32 = 2;

/// More files than this and what is left of the emptiest moves into the new one.
const FILES_MAX: usize = 32;

/// A checkpoint that can be read.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub manifest: Arc<Manifest>,
    pub base: Arc<Base>,
}

/// Why an image was not made. The one before stays valid.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// The disk refused something.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The image before is damaged where it had to be read.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// What was written is not what the disk gives back.
    #[error("{path}: the block at {offset} reads back differently from what was written")]
    ReadBack {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
}

impl BuildError {
    /// Whether the disk was full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, BuildError::Io { source, .. } if is_full(source))
    }
}

/// A manifest that has its name, its files and what they hold.
type Made = (Manifest, BTreeMap<u64, Mapped>, Base);

/// The checkpoints of one data directory.
pub(super) struct Checkpoints {
    data_dir: PathBuf,
    path: PathBuf,
    identity: Identity,
    newest: Option<Found>,
    next: u64,
    /// The files of the newest image.
    files: BTreeMap<u64, Mapped>,
    /// Images before it that somebody may still read.
    older: Vec<Weak<Base>>,
    /// Files of those that it does not share; what somebody has mapped must not shrink.
    retired: BTreeMap<u64, Weak<dyn Image>>,
    hurry: Hurry,
}

impl Checkpoints {
    /// Opens the directory and the newest checkpoint in it. What an interrupted process left is removed when
    /// somebody [tidies up](Checkpoints::tidy_up): that may take long.
    ///
    /// # Errors
    /// [`Failure::Directory`], [`Failure::Checkpoint`], [`Failure::NewerFormat`], [`Failure::NotOurs`]. A damaged
    /// checkpoint is never passed over: the logs do not hold any more what it holds.
    pub(super) fn open(data_dir: &Path, identity: &Identity) -> Result<Checkpoints, Failure> {
        let path = data_dir.join(DIRECTORY);
        let directory = |source| Failure::Directory { path: path.clone(), source };
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(directory(error));
            }
            _ => sync_directory(data_dir).map_err(directory)?,
        }
        Checkpoints::read(data_dir, identity)
    }

    /// Opens the newest checkpoint of the directory, if it has any, and changes nothing.
    ///
    /// # Errors
    /// As [`Checkpoints::open`].
    pub(super) fn read(data_dir: &Path, identity: &Identity) -> Result<Checkpoints, Failure> {
        let path = data_dir.join(DIRECTORY);
        let names = match list(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|source| Failure::Directory { path: path.clone(), source })?,
        };
        let mut checkpoints = Checkpoints {
            data_dir: data_dir.to_owned(),
            path,
            identity: identity.clone(),
            newest: None,
            next: names.iter().map(|(number, _)| number + 1).max().unwrap_or(1),
            files: BTreeMap::new(),
            older: Vec::new(),
            retired: BTreeMap::new(),
            hurry: Hurry::default(),
        };
        let newest = names.iter().filter(|(_, kind)| kind == MANIFEST).map(|(number, _)| *number);
        match newest.max() {
            Some(number) => checkpoints.newest = Some(checkpoints.load(number)?),
            None if identity.checkpoint => {
                let why = "no manifest is there, though this member has made one".to_owned();
                return Err(Failure::Checkpoint { path: checkpoints.path, why });
            }
            None => {}
        }
        Ok(checkpoints)
    }

    /// What a start stands on.
    ///
    /// # Errors
    /// [`Failure::Checkpoint`] when its control state makes no sense.
    pub(super) fn ground(&self) -> Result<Ground, Failure> {
        let Some(Found { manifest, .. }) = &self.newest else { return Ok(Ground::default()) };
        Ground::of(manifest).map_err(|error| {
            let path = self.name(manifest.number, MANIFEST);
            Failure::Checkpoint { path, why: error.to_string() }
        })
    }

    /// The checkpoint to go on from.
    pub(super) fn newest(&self) -> Option<&Found> {
        self.newest.as_ref()
    }

    fn load(&mut self, number: u64) -> Result<Found, Failure> {
        let path = self.name(number, MANIFEST);
        let damaged = |why: String| Failure::Checkpoint { path: path.clone(), why };
        let bytes =
            fs::read(&path).map_err(|source| Failure::Directory { path: path.clone(), source })?;
        let manifest = Manifest::decode(&bytes).map_err(|error| match error {
            ManifestError::Newer { found } => {
                Failure::NewerFormat { path: path.clone(), found, supported: Manifest::VERSION }
            }
            error => damaged(error.to_string()),
        })?;
        if (manifest.cluster, manifest.member) != (self.identity.cluster, self.identity.member) {
            let why = format!(
                "{} is a checkpoint of member {:016x} of cluster {:016x}",
                path.display(),
                manifest.member,
                manifest.cluster
            );
            return Err(Failure::NotOurs { path: self.path.clone(), why });
        }
        if manifest.cuts.len() != usize::from(self.identity.lanes) {
            return Err(damaged(format!("it is of {} lanes", manifest.cuts.len())));
        }
        let files = self.map(&manifest.blocks).map_err(|error| damaged(error.to_string()))?;
        let base = Base::open(manifest.at, manifest.blocks.clone(), files.clone());
        let base = Arc::new(base.map_err(|error| damaged(error.to_string()))?);
        self.files = files;
        Ok(Found { manifest: Arc::new(manifest), base })
    }

    /// Makes the next checkpoint, durable and read back. May take as long as the disk does. What it makes
    /// needless stays until somebody [tidies up](Checkpoints::tidy_up).
    ///
    /// # Errors
    /// [`BuildError`]; what may be left over goes with what a later one makes needless, or at a start.
    pub(super) fn build(&mut self, build: &Build) -> Result<Found, BuildError> {
        // A number is used once: what a failed attempt left may be named by its manifest already.
        let number = self.next;
        self.next += 1;
        let made = self.make(number, build);
        if made.is_err()
            && let Err(error) = self.discard(number)
        {
            tracing::warn!(%error, number, "can not remove what is left of a checkpoint");
        }
        let (manifest, files, base) = made?;
        if !self.identity.checkpoint {
            // From now on a start without one is refused; the logs still hold everything.
            let noted = Identity { checkpoint: true, ..self.identity.clone() };
            home::write(&self.data_dir, &noted).map_err(at(&self.data_dir))?;
            self.identity = noted;
        }
        for (file, mapped) in std::mem::replace(&mut self.files, files) {
            if !self.files.contains_key(&file) {
                self.retired.insert(file, Arc::downgrade(&mapped));
            }
        }
        let found = Found { manifest: Arc::new(manifest), base: Arc::new(base) };
        if let Some(before) = self.newest.replace(found.clone()) {
            self.older.push(Arc::downgrade(&before.base));
        }
        Ok(found)
    }

    /// Writes a checkpoint under this number, gives it its name, and opens it.
    fn make(&self, number: u64, build: &Build) -> Result<Made, BuildError> {
        let written = self.write(number, &self.name(number, BLOCKS), build)?;
        let Identity { cluster, member, .. } = self.identity;
        let manifest = build.manifest(number, cluster, member, written);
        // What can fail goes before the name: an attempt that has it has not failed.
        files::step().map_err(at(&self.path))?;
        let files = self.map(&manifest.blocks).map_err(at(&self.path))?;
        let base = Base::open(manifest.at, manifest.blocks.clone(), files.clone())?;
        self.publish(&manifest)?;
        Ok((manifest, files, base))
    }

    /// Removes what a failed attempt left: on a full disk the next one needs its room. The manifest goes
    /// first, and for good: a start that finds it wants the blocks.
    fn discard(&self, number: u64) -> io::Result<()> {
        let remove = |kind| match shed::remove(&self.name(number, kind), &mut self.pace()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        remove(MANIFEST)?;
        sync_directory(&self.path)?;
        remove(BLOCKS)?;
        remove(NEW)
    }

    /// Gives back what is not needed any more; that it fails costs room and no more.
    pub(super) fn tidy_up(&mut self) {
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, path = %self.path.display(), "can not tidy up checkpoints");
        }
    }

    /// Writes the blocks that are new, reads them back, and returns the rows of all.
    fn write(&self, number: u64, path: &Path, build: &Build) -> Result<Vec<BlockRef>, BuildError> {
        let mut file = BlockFile::create(number, path.to_owned(), self.pace())?;
        let mut rows = build.image(&mut file).map_err(|error| match error {
            build::Error::Sink(error) => error,
            build::Error::Corrupt(corrupt) => corrupt.into(),
        })?;
        if let Some(base) = &build.base {
            self.gather(&mut rows, base, &mut file)?;
        }
        let any = file.finish()?;
        files::step().map_err(at(path))?;
        if any {
            self.read_back(path, rows.iter().filter(|row| row.file == number))?;
        } else {
            fs::remove_file(path).map_err(at(path))?;
        }
        Ok(rows)
    }

    /// Reads what was just written and compares it. Through the page cache, which has nothing yet of a file that
    /// was written past it: the disk is what is read, and who goes over to the image finds its new blocks in
    /// memory, as most of those were that they replace.
    fn read_back<'a>(
        &self,
        path: &Path,
        rows: impl Iterator<Item = &'a BlockRef>,
    ) -> Result<(), BuildError> {
        let file = File::open(path).map_err(at(path))?;
        files::without_readahead(&file);
        let mut pace = self.pace();
        for row in rows {
            compare(&file, path, row)?;
            pace.pause();
        }
        Ok(())
    }

    /// Reads block `number` of the newest image from the disk itself; whether there was one. What it finds
    /// wrong becomes a fault of the image, although readers may still have a good copy in memory: after a
    /// start they would not.
    ///
    /// # Errors
    /// [`BuildError`]: the block can not be read, or is not what was written.
    pub(super) fn scrub(&self, number: usize) -> Result<bool, BuildError> {
        let Some(Found { manifest, base }) = &self.newest else { return Ok(false) };
        let Some(row) = manifest.blocks.get(number) else { return Ok(false) };
        let path = self.name(row.file, BLOCKS);
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT);
        let file = options.open(&path).map_err(at(&path));
        file.and_then(|file| compare(&file, &path, row)).inspect_err(|_| base.condemn(number))?;
        Ok(true)
    }

    /// Copies blocks that would keep nearly empty files alive.
    fn gather(
        &self,
        rows: &mut [BlockRef],
        base: &Base,
        into: &mut BlockFile,
    ) -> Result<(), BuildError> {
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.file != into.number) {
            *live.entry(row.file).or_default() += u64::from(row.len);
        }
        let mut by_size: Vec<(u64, u64)> =
            live.into_iter().map(|(file, len)| (len, file)).collect();
        by_size.sort_unstable();
        let too_many = by_size.len().saturating_sub(FILES_MAX);
        for (_, file) in by_size.into_iter().take(too_many) {
            let bytes = &self.files[&file];
            for row in rows.iter_mut().filter(|row| row.file == file) {
                bytes.will_read(row.part());
                let block = &bytes.bytes()[row.part()];
                if crc32c::crc32c(block) != row.crc {
                    // Say which block it is in the words of whoever reads it.
                    base.touch(&crate::keys::KeyRange::all())?;
                    return Err(BuildError::ReadBack {
                        path: self.name(file, BLOCKS),
                        offset: row.offset,
                    });
                }
                (row.file, row.offset) = into.block(block)?;
            }
        }
        Ok(())
    }

    /// Gives a manifest its name, when everything that it names is durable.
    fn publish(&self, manifest: &Manifest) -> Result<(), BuildError> {
        let (new, path) = (self.name(manifest.number, NEW), self.name(manifest.number, MANIFEST));
        files::replace(&path, &new, &manifest.encode()).map_err(at(&path))
    }

    /// Maps the files that these blocks are in, or shares the maps that there are.
    fn map(&self, rows: &[BlockRef]) -> io::Result<BTreeMap<u64, Mapped>> {
        let mut files = BTreeMap::new();
        for row in rows {
            if files.contains_key(&row.file) {
                continue;
            }
            let mapped = match self.files.get(&row.file) {
                Some(mapped) => Arc::clone(mapped),
                None => map(&self.name(row.file, BLOCKS))?,
            };
            files.insert(row.file, mapped);
        }
        Ok(files)
    }

    /// Removes files that the newest manifest does not name, and makes holes of blocks that neither it nor an
    /// image that somebody may still read does.
    fn tidy(&mut self) -> io::Result<()> {
        let mut pace = self.pace();
        let newest = self.newest.as_ref().map(|found| &found.manifest);
        self.retired.retain(|_, mapped| mapped.strong_count() > 0);
        for (number, kind) in list(&self.path)? {
            let named = match kind.as_str() {
                MANIFEST => newest.is_some_and(|newest| newest.number == number),
                BLOCKS => self.files.contains_key(&number) || self.retired.contains_key(&number),
                _ => false,
            };
            if !named {
                files::step()?;
                shed::remove(&self.name(number, &kind), &mut pace)?;
            }
        }
        let Some(newest) = newest else { return Ok(()) };
        self.older.retain(|base| base.strong_count() > 0);
        // The image just replaced is always among these: its successor was built upon it.
        let older: Vec<Arc<Base>> = self.older.iter().filter_map(Weak::upgrade).collect();
        let mut used: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for row in older.iter().flat_map(|base| base.blocks()).chain(&newest.blocks) {
            let end = (row.offset + u64::from(row.len)).next_multiple_of(ALIGN_BYTES);
            used.entry(row.file).or_default().push((row.offset, end));
        }
        // Files that only older images name go as a whole.
        used.retain(|number, _| self.files.contains_key(number));
        for (number, mut used) in used {
            used.sort_unstable();
            shed::punch(&self.name(number, BLOCKS), &used, &mut pace)?;
        }
        Ok(())
    }

    /// Whoever waits for what is under way can have the pauses left out by it.
    pub(super) fn hurry(&self) -> Hurry {
        self.hurry.clone()
    }

    fn pace(&self) -> Pace {
        Pace { began: Instant::now(), hurry: self.hurry.clone() }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, number: u64, kind: &str) -> PathBuf {
        named(&self.path, number, kind)
    }
}

fn named(path: &Path, number: u64, kind: &str) -> PathBuf {
    path.join(format!("{number:012}.{kind}"))
}

/// The file of blocks with this number in a directory of checkpoints.
pub(super) fn block_file(path: &Path, number: u64) -> PathBuf {
    named(path, number, BLOCKS)
}

/// The manifest with this number in a directory of checkpoints.
pub(super) fn manifest_file(path: &Path, number: u64) -> PathBuf {
    named(path, number, MANIFEST)
}

/// Number and kind of every file of ours.
fn list(path: &Path) -> io::Result<Vec<(u64, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((number, kind)) = name.split_once('.')
            && let Ok(number) = number.parse()
            && [MANIFEST, BLOCKS, NEW].contains(&kind)
        {
            found.push((number, kind.to_owned()));
        }
    }
    Ok(found)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| BuildError::Io { path, source }
}

fn map(path: &Path) -> io::Result<Mapped> {
    // SAFETY: the data directory is locked by this process, which changes nothing in a file of blocks
    // that a manifest names but the blocks that none names.
    let map = unsafe { MappedFile::open(path) };
    let map =
        map.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(Arc::new(map))
}

/// Reads a block and compares its checksum.
fn compare(file: &File, path: &Path, row: &BlockRef) -> Result<(), BuildError> {
    let len = row.len as usize;
    let mut buffer = Buffer::zeroed(len.next_multiple_of(ALIGN_BYTES as usize));
    file.read_exact_at(&mut buffer, row.offset).map_err(at(path))?;
    if crc32c::crc32c(&buffer[..len]) != row.crc {
        return Err(BuildError::ReadBack { path: path.to_owned(), offset: row.offset });
    }
    Ok(())
}

/// A file of blocks that is being written, past the page cache.
struct BlockFile {
    number: u64,
    path: PathBuf,
    file: File,
    buffer: Buffer,
    /// Where the buffer will be written.
    at: u64,
    pace: Pace,
}

/// Lets others work between pieces of work.
struct Pace {
    began: Instant,
    hurry: Hurry,
}

impl Pace {
    /// A piece of work is done.
    fn pause(&mut self) {
        if !self.hurry.0.iter().any(|reason| reason.load(Relaxed)) {
            thread::sleep(self.began.elapsed() * PAUSE);
        }
        self.began = Instant::now();
    }
}

/// Whether somebody waits: because the node stops and nobody is left whom full speed could hold up, or because
/// the logs grow faster than the image is built.
#[derive(Clone, Debug, Default)]
pub(super) struct Hurry(Arc<[AtomicBool; 2]>);

impl Hurry {
    /// From now on there are no pauses.
    pub(super) fn begin(&self) {
        self.0[0].store(true, Relaxed);
    }

    /// For the image under way there are none.
    pub(super) fn begin_build(&self) {
        self.0[1].store(true, Relaxed);
    }

    /// The next image has its pauses again.
    pub(super) fn end_build(&self) {
        self.0[1].store(false, Relaxed);
    }
}

impl BlockFile {
    fn create(number: u64, path: PathBuf, pace: Pace) -> Result<BlockFile, BuildError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(FILE_MODE);
        files::step().map_err(at(&path))?;
        let file = options.custom_flags(libc::O_DIRECT).open(&path).map_err(at(&path))?;
        let buffer = Buffer::with_capacity(2 * WRITE_BYTES);
        Ok(BlockFile { number, path, file, buffer, at: 0, pace })
    }

    fn write(&mut self) -> Result<(), BuildError> {
        files::step().map_err(at(&self.path))?;
        self.file.write_all_at(&self.buffer, self.at).map_err(at(&self.path))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        self.pace.pause();
        Ok(())
    }

    /// Makes everything durable; whether there was anything.
    fn finish(&mut self) -> Result<bool, BuildError> {
        self.write()?;
        files::step().map_err(at(&self.path))?;
        self.file.sync_all().map_err(at(&self.path))?;
        Ok(self.at > 0)
    }
}

impl Sink for BlockFile {
    type Error = BuildError;

    fn block(&mut self, bytes: &[u8]) -> Result<(u64, u64), BuildError> {
        let offset = self.at + self.buffer.len() as u64;
        let mut left = bytes;
        while !left.is_empty() {
            let room = self.buffer.capacity() - self.buffer.len();
            let (fits, more) = left.split_at(room.min(left.len()));
            self.buffer.extend(fits);
            left = more;
            if self.buffer.len() == self.buffer.capacity() {
                self.write()?;
            }
        }
        self.buffer.pad_to(ALIGN_BYTES as usize);
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok((self.number, offset))
    }
}

#[cfg(test)]
mod tests;
