//! Opens the logs of a member and puts its past together. All logs that the member ever wrote are
//! read, whatever the number of cores is now: a lane may have lived on another core, and so in
//! another log. Logs beyond the present cores are read, sealed and kept.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cored_wal::disk::direct::{DirectDisk, Directory};
use cored_wal::{Log, Options, Owner};

use super::failure::Failure;
use super::home::Home;
use crate::engine::{Draft, Ground, LaneRead, LaneReader, Recovery, join, join_drafts};
use crate::keys::LaneId;
use crate::lane::{Retained, entry_index};
use crate::mvcc::Batch;
use crate::mvcc::base::Base;

/// A log per core, and what all logs hold.
pub(super) struct Logs {
    /// Log n is core n's.
    pub open: Vec<Log<DirectDisk>>,
    /// For each open log what its segments hold.
    pub retained: Vec<Retained>,
    /// The past of the lanes.
    pub recovery: Recovery,
    /// Records read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A log, how many records were found in it and of what size, and what its segments hold.
type Opened = (Log<DirectDisk>, (u64, u64), Retained);

/// What was read of a lane, and its draft.
type Drafted = (LaneRead, Draft);

/// Opens one log for each of `cores`, and reads all there are above `ground`, whose image is `base`.
///
/// # Errors
/// A log is missing, damaged, not this member's, or can not be used; nothing was changed in it then.
pub(super) fn open(
    home: &mut Home,
    path: &Path,
    cores: u16,
    ground: &Ground,
    base: Option<&Arc<Base>>,
) -> Result<Logs, Failure> {
    let (directory, found) = all(home, path)?;
    let count = found.last().map_or(0, |newest| newest + 1).max(cores);
    let drafted = {
        let (opened, read) = read_drafting(&directory, home, count, ground, base)?;
        join_drafts(read, ground)?.map(|recovery| (opened, recovery))
    };
    let (opened, recovery) = match drafted {
        Some(drafted) => drafted,
        None => {
            tracing::info!("the logs are read once more, in the order of their revisions");
            // As if this process had ended there and another one had started.
            let (opened, read) = read_keeping(&directory, home, count, ground)?;
            (opened, join(read, ground)?)
        }
    };

    let mut logs = Logs { open: Vec::new(), retained: Vec::new(), recovery, records: 0, bytes: 0 };
    for (number, (mut log, (records, bytes), retained)) in (0..).zip(opened) {
        logs.records += records;
        logs.bytes += bytes;
        if number < cores {
            logs.open.push(log);
            logs.retained.push(retained);
        } else {
            // Nobody writes to it any more, so it is now or never.
            if let Some(first) = retained.below(&ground.lanes) {
                log.recycle_below(first).map_err(|source| Failure::Log { log: number, source })?;
            }
            log.close().map_err(|source| Failure::Log { log: number, source })?;
        }
    }
    home.note_logs(count)?;
    Ok(logs)
}

/// The directory and the numbers of its logs, of which none that the member wrote is missing.
fn all(home: &Home, path: &Path) -> Result<(Arc<Directory>, Vec<u16>), Failure> {
    let on_directory = |source| match source {
        cored_wal::Error::Locked { .. } => Failure::Locked { path: path.to_owned(), pid: None },
        cored_wal::Error::Io { source, .. } => Failure::Directory {
            path: path.to_owned(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
        source => Failure::Log { log: 0, source },
    };
    let directory = Directory::open(path).map_err(on_directory)?;
    let found = directory.logs().map_err(on_directory)?;
    match (0..home.identity().logs).find(|log| !found.contains(log)) {
        Some(log) => Err(Failure::LogMissing { path: path.to_owned(), log }),
        None => Ok((directory, found)),
    }
}

/// Reads all logs to their ends and changes nothing in them. Returns how many records there are, and
/// their bytes.
///
/// # Errors
/// As [`open`].
pub(super) fn verify(home: &Home, path: &Path) -> Result<(u64, u64), Failure> {
    let (mut records, mut bytes) = (0, 0);
    if home.identity().logs == 0 && !path.exists() {
        return Ok((records, bytes));
    }
    let (directory, found) = all(home, path)?;
    for number in found {
        let failed = |source| Failure::Log { log: number, source };
        let disk = DirectDisk::open(&directory, number).map_err(failed)?;
        let read = Log::verify(disk, options(home, number), |_| ()).map_err(failed)?;
        records += read.records;
        bytes += read.bytes;
    }
    Ok((records, bytes))
}

/// Reads logs 0 to `count`, each in a thread of its own, and at the same time installs what they say, each
/// lane in a thread of its own.
fn read_drafting(
    directory: &Arc<Directory>,
    home: &Home,
    count: u16,
    ground: &Ground,
    base: Option<&Arc<Base>>,
) -> Result<(Vec<Opened>, Vec<Drafted>), Failure> {
    std::thread::scope(|scope| {
        let (mut readers, mut drafts, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        for lane in (0..home.identity().lanes).map(LaneId) {
            let (sender, received) = mpsc::channel::<Batch>();
            let waiting = Arc::new(AtomicUsize::new(0));
            batches.push(Batches { sender, waiting: Arc::clone(&waiting) });
            readers.push(Mutex::new(LaneReader::drafting(lane, ground)));
            drafts.push(scope.spawn(move || {
                let mut draft = Draft::new(base);
                for batch in received {
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    draft.install(batch);
                }
                Ok(draft)
            }));
        }
        let lanes = Lanes { readers: &readers, batches };
        let opened = read_all(directory, home, count, &lanes)?;
        (0..readers.len()).for_each(|lane| lanes.end(lane));
        // Every draft ends when nobody has more for it.
        drop(lanes);
        let drafts = all_of(drafts)?;
        Ok((opened, finish(readers)?.into_iter().zip(drafts).collect()))
    })
}

/// Reads logs 0 to `count`, each in a thread of its own, and keeps what they say.
fn read_keeping(
    directory: &Arc<Directory>,
    home: &Home,
    count: u16,
    ground: &Ground,
) -> Result<(Vec<Opened>, Vec<LaneRead>), Failure> {
    let lanes = (0..home.identity().lanes).map(LaneId);
    let readers: Vec<_> = lanes.map(|lane| Mutex::new(LaneReader::new(lane, ground))).collect();
    let opened = read_all(directory, home, count, &Lanes { readers: &readers, batches: vec![] })?;
    Ok((opened, finish(readers)?))
}

fn read_all(
    directory: &Arc<Directory>,
    home: &Home,
    count: u16,
    lanes: &Lanes<'_, '_>,
) -> Result<Vec<Opened>, Failure> {
    std::thread::scope(|scope| {
        let spawn = |number| scope.spawn(move || read(directory, home, number, lanes));
        all_of((0..count).map(spawn).collect())
    })
}

fn finish(readers: Vec<Mutex<LaneReader<'_>>>) -> Result<Vec<LaneRead>, Failure> {
    let ended = |reader: Mutex<LaneReader<'_>>| {
        Ok(reader.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?)
    };
    readers.into_iter().map(ended).collect()
}

/// Waits for all, and gives what they made or the first failure.
fn all_of<T>(threads: Vec<ScopedJoinHandle<'_, Result<T, Failure>>>) -> Result<Vec<T>, Failure> {
    let ended = threads.into_iter().zip(0..);
    let ended = ended.map(|(thread, number)| thread.join().unwrap_or(Err(Failure::Defect(number))));
    ended.collect::<Vec<_>>().into_iter().collect()
}

/// Who reads the lanes, and who installs what they write.
struct Lanes<'a, 'ground> {
    readers: &'a [Mutex<LaneReader<'ground>>],
    /// To each lane's draft, if there are any.
    batches: Vec<Batches>,
}

/// What a draft will install.
struct Batches {
    sender: Sender<Batch>,
    /// How many it has not begun with.
    waiting: Arc<AtomicUsize>,
}

impl Batches {
    /// Whoever is ahead, reader or draft, finds the batch's order.
    fn send(&self, mut batch: Batch) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) > 0 {
            batch.sort();
        }
        // Who does not listen any more has panicked, which is noticed when it is joined.
        let _ = self.sender.send(batch);
    }
}

impl Lanes<'_, '_> {
    /// A record of a lane that exists.
    fn record(&self, lane: usize, kind: u8, bytes: Bytes) {
        self.install(lane, |reader| reader.record(kind, bytes));
    }

    /// There are no more.
    fn end(&self, lane: usize) {
        self.install(lane, |reader| reader.rest());
    }

    fn install(&self, lane: usize, read: impl FnOnce(&mut LaneReader<'_>) -> Option<Batch>) {
        // Sent under the lock, so that batches come in order.
        let mut reader = self.readers[lane].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = read(&mut reader) {
            self.batches[lane].send(batch);
        }
    }
}

fn read(
    directory: &Arc<Directory>,
    home: &Home,
    number: u16,
    lanes: &Lanes<'_, '_>,
) -> Result<Opened, Failure> {
    let failed = |source| Failure::Log { log: number, source };
    let (mut count, mut bytes) = (0, 0);
    let mut retained = Retained::default();
    let mut stranger = None;
    let disk = DirectDisk::open(directory, number).map_err(failed)?;
    let opened = Log::open(disk, options(home, number), |record| {
        if usize::from(record.lane) >= lanes.readers.len() {
            return stranger = Some(record.lane);
        }
        if let Some(index) = entry_index(record.kind, record.payload) {
            retained.append(record.segment, LaneId(record.lane), index);
        }
        count += 1;
        bytes += record.payload.len() as u64;
        lanes.record(usize::from(record.lane), record.kind, record.payload.clone());
    });
    let (log, _) = opened.map_err(failed)?;
    match stranger {
        Some(lane) => Err(Failure::Lane { log: number, lane, lanes: home.identity().lanes }),
        None => Ok((log, (count, bytes), retained)),
    }
}

fn options(home: &Home, log: u16) -> Options {
    let identity = home.identity();
    let owner = Owner { cluster: identity.cluster, member: identity.member };
    Options { log, owner, salt: salt(log), ..Options::default() }
}

/// Something that no client can know: checksums of new segments are mixed with it, and
/// lease numbers that the API makes up begin with it.
pub(super) fn salt(log: u16) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // The keys of a `RandomState` come from the operating system's random numbers.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u16(log);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    hasher.write_u128(since.as_nanos());
    hasher.finish()
}
