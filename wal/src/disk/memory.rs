//! A disk in memory that tears, reorders, drops, misdirects and fails under a seed. It knows no
//! clock and no randomness but its seed: the same calls give the same bytes.
//!
//! Handles are cheap to clone and share one disk, so a test keeps one while a log owns another.
//! [`MemoryDisk::crash`] gives a second disk, as the first would be found after a crash at this
//! moment; the first goes on as if nothing had happened.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::area::{Area, Arrived};
use crate::buffer::{BLOCK_BYTES, Buffer};
use crate::disk::{Completion, Disk, SegmentFile, is_full};

mod faults;
mod image;

pub use faults::{Fault, Odds};

use faults::Random;
use image::{Image, SECTOR_BYTES};

/// Retired files kept for reuse, with whatever is in them.
const SPARES_MAX: usize = 2;

/// When operations end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// In the call that begins them.
    AtOnce,
    /// When [`MemoryDisk::finish`] says so, or, in an order that the seed decides, when somebody
    /// waits for them.
    Stepwise,
}

/// How a machine or a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The power goes. Sectors of writes under way, and others that were never reported safe, are
    /// there or are not.
    Power,
    /// The process is killed. What of its writes can be read is not safe until it is synced.
    Kill,
}

/// An operation under way, as [`MemoryDisk::under_way`] tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderWay {
    /// A write.
    Write {
        /// As given to [`Disk::write`].
        token: u64,
        /// The segment.
        segment: u64,
        /// Where in it.
        offset_bytes: u64,
        /// How much.
        bytes: usize,
    },
    /// A segment is being made.
    Prepare {
        /// The segment.
        segment: u64,
    },
    /// A segment is being taken away.
    Retire {
        /// The segment.
        segment: u64,
    },
}

/// A handle to a disk in memory.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: Random,
    pace: Pace,
    files: BTreeMap<u64, Image>,
    spares: Vec<Image>,
    keeps_spares: bool,
    under_way: Vec<Operation>,
    done: VecDeque<Completion>,
    /// A preparation or retirement failed, so later ones are not done.
    chores_over: bool,
    /// Operations begun so far.
    operations: u64,
    planned: BTreeMap<u64, Fault>,
    odds: Odds,
    capacity_bytes: Option<u64>,
}

#[derive(Debug)]
struct Operation {
    what: What,
    fault: Option<Fault>,
}

#[derive(Debug)]
enum What {
    Write { token: u64, segment: u64, offset_bytes: u64, buffer: Buffer },
    Prepare { segment: u64, bytes: u64, header: Buffer },
    Retire { segment: u64 },
}

impl MemoryDisk {
    /// An empty disk without faults whose operations end at once.
    #[must_use]
    pub fn new(seed: u64) -> MemoryDisk {
        MemoryDisk::from_state(State {
            random: Random(seed),
            pace: Pace::AtOnce,
            files: BTreeMap::new(),
            spares: Vec::new(),
            keeps_spares: true,
            under_way: Vec::new(),
            done: VecDeque::new(),
            chores_over: false,
            operations: 0,
            planned: BTreeMap::new(),
            odds: Odds::default(),
            capacity_bytes: None,
        })
    }

    fn from_state(state: State) -> MemoryDisk {
        MemoryDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Sets when operations that begin from now on end.
    pub fn set_pace(&self, pace: Pace) {
        self.lock().pace = pace;
    }

    /// Sets how often operations that begin from now on go wrong.
    pub fn set_odds(&self, odds: Odds) {
        self.lock().odds = odds;
    }

    /// Sets the room for segments; preparing one beyond it ends with ENOSPC.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.lock().capacity_bytes = capacity_bytes;
    }

    /// Plans a fault for the operation with this number, counted as [`MemoryDisk::operations`]
    /// counts: the next one that begins has that number.
    pub fn plan(&self, operation: u64, fault: Fault) {
        self.lock().planned.insert(operation, fault);
    }

    /// Operations begun so far, of every kind but waiting for completions.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// What may end next: any of the writes, and the oldest of the other operations.
    #[must_use]
    pub fn under_way(&self) -> Vec<UnderWay> {
        let state = self.lock();
        let choices = state.choices();
        choices.iter().map(|&index| state.under_way[index].what.tell()).collect()
    }

    /// Lets the operation at this place of [`MemoryDisk::under_way`] end. Returns whether there was
    /// one.
    pub fn finish(&self, place: usize) -> bool {
        let mut state = self.lock();
        let index = state.choices().get(place).copied();
        index.is_some_and(|index| {
            state.end(index);
            true
        })
    }

    /// Lets everything under way end, in the order in which it began.
    pub fn finish_all(&self) {
        while self.finish(0) {}
    }

    /// Whether somebody who reaps would get something.
    #[must_use]
    pub fn has_completions(&self) -> bool {
        !self.lock().done.is_empty()
    }

    /// The disk as it would be found after a crash at this moment. Pace, odds and capacity stay;
    /// planned faults are forgotten and operations count from 0.
    #[must_use]
    pub fn crash(&self, how: Crash) -> MemoryDisk {
        let mut state = self.lock();
        MemoryDisk::from_state(state.crash(how))
    }

    /// The numbers of its segments, ascending.
    #[must_use]
    pub fn segments(&self) -> Vec<u64> {
        self.lock().files.keys().copied().collect()
    }

    /// What a reader would see of a segment; empty if there is none.
    #[must_use]
    pub fn content(&self, segment: u64) -> Vec<u8> {
        let state = self.lock();
        let Some(file) = state.files.get(&segment) else {
            return Vec::new();
        };
        let mut bytes = vec![0; file.len()];
        file.read(&mut bytes);
        bytes
    }

    /// Damages a segment: whatever `change` does to its bytes, also cutting it short.
    pub fn edit(&self, segment: u64, change: impl FnOnce(&mut Vec<u8>)) {
        self.lock().files.entry(segment).or_default().edit(change);
    }

    /// Loses a segment.
    pub fn remove(&self, segment: u64) {
        self.lock().files.remove(&segment);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a disk in memory does not panic")
    }
}

impl State {
    /// Counts an operation and says what goes wrong with it.
    fn begin(&mut self) -> Result<Option<Fault>, io::Error> {
        let planned = self.planned.remove(&self.operations);
        self.operations += 1;
        let fault = planned.or_else(|| self.odds.draw(&mut self.random));
        match fault {
            Some(Fault::Refused) => Err(Fault::Refused.error()),
            fault => Ok(fault),
        }
    }

    /// As [`State::begin`], for operations that end at once and can only fail.
    fn begin_simple(&mut self) -> Result<(), io::Error> {
        self.begin()?.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn start(&mut self, what: What) -> io::Result<()> {
        let fault = self.begin()?;
        self.under_way.push(Operation { what, fault });
        if self.pace == Pace::AtOnce {
            self.end(self.under_way.len() - 1);
        }
        Ok(())
    }

    fn choices(&self) -> Vec<usize> {
        let is_write = |operation: &Operation| matches!(operation.what, What::Write { .. });
        let mut chore_seen = false;
        let operations = self.under_way.iter().enumerate();
        operations
            .filter(|(_, operation)| {
                is_write(operation) || !std::mem::replace(&mut chore_seen, true)
            })
            .map(|(index, _)| index)
            .collect()
    }

    fn end(&mut self, index: usize) {
        let Operation { what, fault } = self.under_way.remove(index);
        let completion = match what {
            What::Write { token, segment, offset_bytes, buffer } => Completion::Written {
                token,
                result: self.end_write(segment, offset_bytes as usize, &buffer, fault),
                buffer,
            },
            _ if self.chores_over => return,
            chore => self.end_chore(&chore, fault),
        };
        self.done.push_back(completion);
    }

    fn end_chore(&mut self, chore: &What, fault: Option<Fault>) -> Completion {
        let result = match fault {
            Some(fault) => Err(fault.error()),
            None => self.do_chore(chore),
        };
        let only_full = matches!(chore, What::Prepare { .. });
        self.chores_over |= result.as_ref().is_err_and(|error| !(only_full && is_full(error)));
        match *chore {
            What::Prepare { segment, .. } => Completion::Prepared { segment, result },
            What::Retire { segment } => Completion::Retired { segment, result },
            What::Write { .. } => unreachable!("a write is no chore"),
        }
    }

    fn do_chore(&mut self, chore: &What) -> io::Result<()> {
        match chore {
            What::Prepare { segment, bytes, header } => self.make(*segment, *bytes, header),
            What::Retire { segment } => self.take_away(*segment),
            What::Write { .. } => unreachable!("a write is no chore"),
        }
    }

    fn end_write(
        &mut self,
        segment: u64,
        at: usize,
        bytes: &[u8],
        fault: Option<Fault>,
    ) -> io::Result<usize> {
        let mut target = (segment, at);
        let mut content = bytes.to_vec();
        if fault == Some(Fault::Misdirected) {
            target = self.elsewhere(target);
        }
        let random = &mut self.random;
        let file = self.files.get_mut(&target.0).ok_or(io::ErrorKind::NotFound)?;
        if target.1 + content.len() > file.len() && fault.is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sectors = (content.len() / SECTOR_BYTES) as u64;
        match fault {
            Some(fault @ (Fault::Failed | Fault::Refused)) => {
                file.tear(at, &content, false, random);
                return Err(fault.error());
            }
            Some(Fault::Full) => {
                content.truncate(SECTOR_BYTES * random.below(sectors) as usize);
                file.write(at, &content);
                return Err(Fault::Full.error());
            }
            Some(Fault::Short) => content.truncate(SECTOR_BYTES * random.below(sectors) as usize),
            Some(Fault::Lost) => return Ok(bytes.len()),
            Some(Fault::Flipped) => flip(&mut content, random),
            Some(Fault::Misdirected) | None => {}
        }
        file.write(target.1, &content);
        Ok(content.len())
    }

    /// Another block of this segment or the same of another.
    fn elsewhere(&mut self, (segment, at): (u64, usize)) -> (u64, usize) {
        let others: Vec<u64> = self.files.keys().copied().filter(|&it| it != segment).collect();
        if !others.is_empty() && self.random.coin() {
            return (others[self.random.below(others.len() as u64) as usize], at);
        }
        let blocks = self.files.get(&segment).map_or(0, |file| file.len() / BLOCK_BYTES).max(2);
        let shift = 1 + self.random.below(blocks as u64 - 1) as usize;
        (segment, BLOCK_BYTES * ((at / BLOCK_BYTES + shift) % blocks))
    }

    fn make(&mut self, segment: u64, bytes: u64, header: &[u8]) -> io::Result<()> {
        let used: usize = self.files.values().chain(&self.spares).map(Image::len).sum();
        let wanted = bytes as usize;
        let mut file = match self.spares.iter().position(|spare| spare.len() == wanted) {
            Some(index) => self.spares.remove(index),
            None if self.capacity_bytes.is_some_and(|room| used as u64 + bytes > room) => {
                return Err(Fault::Full.error());
            }
            None => Image::new(vec![0; wanted]),
        };
        file.sync();
        file.write(0, header);
        self.files.insert(segment, file);
        Ok(())
    }

    fn take_away(&mut self, segment: u64) -> io::Result<()> {
        let file = self.files.remove(&segment).ok_or(io::ErrorKind::NotFound)?;
        if self.keeps_spares && self.spares.len() < SPARES_MAX {
            self.spares.push(file);
        }
        Ok(())
    }

    fn forget_owner(&mut self) {
        if !self.under_way.is_empty() {
            let found = self.crash(Crash::Kill);
            (self.files, self.spares) = (found.files, found.spares);
            self.under_way.clear();
        }
        self.done.clear();
        self.chores_over = false;
    }

    fn crash(&mut self, how: Crash) -> State {
        let mut found = State {
            random: Random(self.random.next()),
            pace: self.pace,
            files: self.files.clone(),
            spares: self.spares.clone(),
            keeps_spares: true,
            under_way: Vec::new(),
            done: VecDeque::new(),
            chores_over: false,
            operations: 0,
            planned: BTreeMap::new(),
            odds: self.odds,
            capacity_bytes: self.capacity_bytes,
        };
        let random = &mut self.random;
        let mut chores_go_on = !self.chores_over;
        for operation in &self.under_way {
            match &operation.what {
                What::Write { segment, offset_bytes, buffer, .. } => {
                    if let Some(file) = found.files.get_mut(segment) {
                        file.tear(*offset_bytes as usize, buffer, how == Crash::Power, random);
                    }
                }
                chore => {
                    // They are done one after the other, and a name changes at once or not at all.
                    chores_go_on = chores_go_on && random.coin() && found.do_chore(chore).is_ok();
                }
            }
        }
        if how == Crash::Power {
            for file in found.files.values_mut().chain(&mut found.spares) {
                file.cut_power(random);
            }
        }
        found
    }
}

impl Disk for MemoryDisk {
    /// Whoever lists is a new owner. What an earlier one left under way ends as after a kill.
    fn list(&mut self) -> io::Result<Vec<SegmentFile>> {
        let mut state = self.lock();
        state.forget_owner();
        state.begin_simple()?;
        let files = state.files.iter();
        Ok(files
            .map(|(&segment, file)| SegmentFile { segment, bytes: file.len() as u64 })
            .collect())
    }

    fn read(&mut self, segment: u64, offset_bytes: u64, buffer: &mut Buffer) -> io::Result<usize> {
        let mut state = self.lock();
        let fault = state.begin()?;
        let file = state.files.get(&segment).ok_or(io::ErrorKind::NotFound)?;
        let offset = usize::try_from(offset_bytes).expect("files here are small");
        let mut upto = vec![0; offset + buffer.len()];
        let read = file.read(&mut upto).saturating_sub(offset);
        buffer[..read].copy_from_slice(&upto[offset..offset + read]);
        match fault {
            None => {}
            Some(Fault::Flipped) => flip(&mut buffer[..read], &mut state.random),
            Some(fault) => return Err(fault.error()),
        }
        Ok(read)
    }

    /// Parts end anywhere, in the middle of frames too.
    fn read_through(
        &mut self,
        segment: u64,
        mut area: Area,
        look: &mut dyn FnMut(&mut Arrived<'_>) -> bool,
    ) -> io::Result<(usize, Area)> {
        let mut buffer = Buffer::zeroed(area.capacity());
        let read = self.read(segment, 0, &mut buffer)?;
        let part = (buffer.len() / 5).max(1000) + segment as usize % 100;
        let mut upto = 0;
        while upto < read {
            let from = upto;
            upto = (from + part).min(read);
            area.fill(from, &buffer[from..upto]);
            // SAFETY: nobody else has this memory.
            if !look(&mut unsafe { area.arrived(upto) }) {
                return Ok((upto, area));
            }
        }
        Ok((read, area))
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_simple()?;
        let file = state.files.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        file.sync();
        Ok(())
    }

    fn prepare(&mut self, segment: u64, bytes: u64, header: Buffer) -> io::Result<()> {
        self.lock().start(What::Prepare { segment, bytes, header })
    }

    fn retire(&mut self, segment: u64) -> io::Result<()> {
        self.lock().start(What::Retire { segment })
    }

    /// They go at once, and nothing is reported.
    fn keep_spares(&mut self, keep: bool) -> io::Result<()> {
        let mut state = self.lock();
        state.keeps_spares = keep;
        if !keep {
            state.spares.clear();
        }
        Ok(())
    }

    fn write(
        &mut self,
        token: u64,
        segment: u64,
        offset_bytes: u64,
        buffer: Buffer,
    ) -> io::Result<()> {
        self.lock().start(What::Write { token, segment, offset_bytes, buffer })
    }

    fn reap(&mut self, wait: bool) -> io::Result<Option<Completion>> {
        let mut state = self.lock();
        if wait && state.done.is_empty() {
            let choices = state.choices();
            if !choices.is_empty() {
                let place = state.random.below(choices.len() as u64) as usize;
                state.end(choices[place]);
            }
        }
        Ok(state.done.pop_front())
    }

    fn wait(&mut self, _at_most: Duration) -> io::Result<()> {
        Ok(())
    }

    fn is_busy(&self) -> bool {
        let state = self.lock();
        !state.under_way.is_empty() || !state.done.is_empty()
    }

    fn wake_fd(&self) -> Option<RawFd> {
        None
    }
}

impl What {
    fn tell(&self) -> UnderWay {
        match self {
            What::Write { token, segment, offset_bytes, buffer } => UnderWay::Write {
                token: *token,
                segment: *segment,
                offset_bytes: *offset_bytes,
                bytes: buffer.len(),
            },
            What::Prepare { segment, .. } => UnderWay::Prepare { segment: *segment },
            What::Retire { segment } => UnderWay::Retire { segment: *segment },
        }
    }
}

fn flip(bytes: &mut [u8], random: &mut Random) {
    if !bytes.is_empty() {
        let bit = random.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}
