//! Opens the logs of a member and puts its past together. All logs that the member ever wrote are
//! read, whatever the number of cores is now: a lane may have lived on another core, and so in
//! another log. Logs beyond the present cores are read, sealed and kept.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cored_wal::disk::direct::{DirectDisk, Directory};
use cored_wal::{Log, Options, Owner};

use super::failure::Failure;
use super::home::Home;
use crate::engine::{Ground, Recovery, join, read_lane};
use crate::keys::LaneId;
use crate::lane::{Retained, entry_index};

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

/// What one log held, by lane: kinds and bytes.
type Records = Vec<Vec<(u8, Bytes)>>;

/// A log, and what was found in it.
type Opened = (Log<DirectDisk>, Records, Retained);

/// Opens one log for each of `cores`, and reads all there are above `ground`.
///
/// # Errors
/// A log is missing, damaged, not this member's, or can not be used; nothing was changed in it then.
pub(super) fn open(
    home: &mut Home,
    path: &Path,
    cores: u16,
    ground: &Ground,
) -> Result<Logs, Failure> {
    let (directory, found) = all(home, path)?;
    let count = found.last().map_or(0, |newest| newest + 1).max(cores);
    let opened = read_all(&directory, home, count)?;

    let mut logs = Logs {
        open: Vec::new(),
        retained: Vec::new(),
        recovery: Recovery::default(),
        records: 0,
        bytes: 0,
    };
    let mut lanes: Records = vec![Vec::new(); usize::from(home.identity().lanes)];
    for (number, (mut log, records, retained)) in (0..).zip(opened) {
        for (lane, mut records) in records.into_iter().enumerate() {
            logs.records += records.len() as u64;
            logs.bytes += records.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
            lanes[lane].append(&mut records);
        }
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
    logs.recovery = recover(lanes, ground)?;
    Ok(logs)
}

/// Puts the lanes together, each in a thread of its own.
fn recover(lanes: Records, ground: &Ground) -> Result<Recovery, Failure> {
    let read = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..)
            .zip(lanes)
            .map(|(lane, records)| {
                let read = move || read_lane(LaneId(lane), records, ground);
                (lane, scope.spawn(move || read().map_err(Failure::from)))
            })
            .collect();
        let ended = readers
            .into_iter()
            .map(|(lane, reader)| reader.join().unwrap_or(Err(Failure::Defect(lane))));
        ended.collect::<Result<Vec<_>, _>>()
    })?;
    Ok(join(read, ground)?)
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

/// Reads logs 0 to `count`, each in a thread of its own.
fn read_all(directory: &Arc<Directory>, home: &Home, count: u16) -> Result<Vec<Opened>, Failure> {
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..count).map(|number| scope.spawn(move || read(directory, home, number))).collect();
        readers
            .into_iter()
            .zip(0..)
            .map(|(reader, number)| reader.join().unwrap_or(Err(Failure::Defect(number))))
            .collect()
    })
}

fn read(directory: &Arc<Directory>, home: &Home, number: u16) -> Result<Opened, Failure> {
    let failed = |source| Failure::Log { log: number, source };
    let identity = home.identity();
    let mut records: Records = vec![Vec::new(); usize::from(identity.lanes)];
    let mut retained = Retained::default();
    let mut stranger = None;
    let disk = DirectDisk::open(directory, number).map_err(failed)?;
    let opened = Log::open(disk, options(home, number), |record| {
        let Some(lane) = records.get_mut(usize::from(record.lane)) else {
            return stranger = Some(record.lane);
        };
        if let Some(index) = entry_index(record.kind, record.payload) {
            retained.append(record.segment, LaneId(record.lane), index);
        }
        lane.push((record.kind, record.payload.clone()));
    });
    let (log, _) = opened.map_err(failed)?;
    match stranger {
        Some(lane) => Err(Failure::Lane { log: number, lane, lanes: identity.lanes }),
        None => Ok((log, records, retained)),
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
