//! Submit and complete: one aligned write per group, the next group forms meanwhile. It knows which
//! sequence is durable and where the next group goes, but not how a disk writes or what a record
//! means.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::time::Duration;

use crate::buffer::{BLOCK_BYTES, Buffer};
use crate::disk::{Completion, Disk, is_full};
use crate::error::Error;
use crate::group::{self, Group, Queue};
use crate::options::Options;
use crate::record::{self, Sequence};
use crate::recover::{self, Found, Record, Recovered};
use crate::segment::{self, FIRST_FRAME, SegmentHeader};

mod begin;
mod room;

use begin::{first_segment, make_safe, retire_misfits};

/// Where the next group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment.
    pub segment: u64,
    /// The byte in it.
    pub offset_bytes: u64,
}

/// What a log has done since it was opened. All counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Groups whose write was started. A runtime that wants latencies notes its own time for each
    /// group number up to here, and again when `groups_finished` passes it.
    pub groups_started: u64,
    /// Groups whose write ended, and all before them, in order.
    pub groups_finished: u64,
    /// Records in finished groups.
    pub records: u64,
    /// Bytes written in finished groups, padding included.
    pub bytes: u64,
    /// Seals written.
    pub seals: u64,
    /// Segments begun.
    pub segments: u64,
    /// Times that a group had to wait because the next segment was not ready.
    pub segment_waits: u64,
    /// Times that the disk had no room for the next segment.
    pub segments_refused: u64,
}

/// A durable sequence of byte records on a disk `D`.
///
/// After any error the log has failed: every later call that can return an error returns that one,
/// what is appended goes nowhere, and [`Log::durable`] stands still.
#[derive(Debug)]
pub struct Log<D> {
    disk: D,
    options: Options,
    queue: Queue,
    in_flight: VecDeque<Flight>,
    durable: u64,
    /// The highest `acked_through` in a frame that is itself durable.
    sealed_through: u64,
    /// When the seal is due, and how many groups had finished when that was decided.
    seal_due: Option<(u64, u64)>,
    now_ms: u64,
    /// Checksum of the last frame that was placed.
    previous: u32,
    current: Place,
    /// Prepared segments after the current one, in order.
    ready: VecDeque<SegmentHeader>,
    preparing: Option<SegmentHeader>,
    refused: Option<room::Refused>,
    epoch: u64,
    segments: Segments,
    carried: BTreeMap<(u16, u8), Box<[u8]>>,
    failed: Option<Error>,
    stats: Stats,
}

/// The segment that is written to.
#[derive(Clone, Copy, Debug)]
struct Place {
    header: SegmentHeader,
    offset_bytes: u64,
}

/// A write under way.
#[derive(Debug)]
struct Flight {
    /// Also the number of the group, from 1.
    token: u64,
    position: Position,
    bytes: usize,
    ends: Option<u64>,
    records: u64,
    acked_through: u64,
    /// Whether this group opens its segment.
    head: bool,
    done: bool,
}

/// Which segments exist and from where on they may go.
#[derive(Debug, Default)]
struct Segments {
    /// Per segment the first sequence that begins in it or later.
    begins: BTreeMap<u64, u64>,
    /// The newest segment whose first group, carried state included, is durable.
    headed: u64,
    /// The first segment whose head repeats everything that is carried now.
    carries_from: u64,
}

impl<D: Disk> Log<D> {
    /// Opens the log on `disk`, making it if there is none, and hands every record to `visit`, in
    /// order, carried state included. Waits for the disk; the only other calls that do are
    /// [`Log::close`] and [`Log::flush`].
    ///
    /// When it returns, everything handed out is durable, and a torn tail can not come back.
    ///
    /// # Errors
    /// - [`Error::Corrupt`], [`Error::Missing`] if something that was reported durable is gone.
    ///   Records may have been handed out before; nothing was changed on the disk.
    /// - [`Error::Foreign`], [`Error::WrongLog`], [`Error::NewerFormat`] if the files are not ours.
    /// - [`Error::Options`] if the options contradict each other or what is carried.
    /// - [`Error::Io`] if the disk fails.
    pub fn open(
        mut disk: D,
        options: Options,
        mut visit: impl FnMut(Record<'_>),
    ) -> Result<(Log<D>, Recovered), Error> {
        options.check()?;
        let mut found = recover::recover(&mut disk, &options, false, &mut visit)?;
        let recovered = found.recovered.clone();
        let epoch = 1 + found.headers.iter().map(|header| header.epoch).max().unwrap_or(0);
        if found.headers.is_empty() {
            found.headers.push(first_segment(&mut disk, &options, epoch)?);
            found.begins.insert(1, 1);
        } else {
            make_safe(&mut disk, &options, &found)?;
            retire_misfits(&mut disk, &options, &mut found)?;
        }
        let mut log = Log::resume(disk, options, found, epoch);
        if log.carry_bytes() > log.options.carry_bytes_max() {
            return Err(Error::Options("segment_bytes is too small for the carried state"));
        }
        if !log.is_sealed() {
            // What was handed out counts as reported from now on, so it needs its proof first.
            log.queue.seal();
            log.stats.seals += 1;
            log.flush()?;
        }
        Ok((log, recovered))
    }

    /// Reads the log as [`Log::open`] does and hands every record to `visit`, but makes and changes
    /// nothing: what it finds is not durable for that, and a torn tail is still there.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn verify(
        mut disk: D,
        options: Options,
        mut visit: impl FnMut(Record<'_>),
    ) -> Result<Recovered, Error> {
        options.check()?;
        Ok(recover::recover(&mut disk, &options, true, &mut visit)?.recovered)
    }

    fn resume(disk: D, options: Options, found: Found, epoch: u64) -> Log<D> {
        let header = found.headers[found.current];
        let whole = found.recovered.newest.0;
        Log {
            disk,
            queue: Queue::new(options.group_bytes_max, found.begun),
            options,
            in_flight: VecDeque::new(),
            durable: whole,
            sealed_through: found.acked_through,
            seal_due: None,
            now_ms: 0,
            previous: found.previous,
            current: Place { header, offset_bytes: found.offset_bytes },
            ready: found.headers[found.current + 1..].iter().copied().collect(),
            preparing: None,
            refused: None,
            epoch,
            segments: Segments { begins: found.begins, headed: found.headed, carries_from: 0 },
            carried: found.carried,
            failed: None,
            stats: Stats::default(),
        }
    }

    /// Copies a record, given in parts, into the forming group; starts nothing. The record is
    /// durable when [`Log::durable`] reaches the returned sequence. A record longer than a group
    /// is split and comes back whole or not at all.
    ///
    /// What waits is not bounded here: the caller bounds it, see [`Log::waiting_bytes`].
    ///
    /// # Panics
    /// If the payload is longer than [`crate::PAYLOAD_BYTES_MAX`].
    pub fn append(&mut self, lane: u16, kind: u8, payload: &[&[u8]]) -> Sequence {
        if self.failed.is_some() {
            return Sequence(self.queue.skip());
        }
        Sequence(self.queue.append(lane, kind, payload))
    }

    /// Sets the state that the head of every later segment repeats for this lane and kind, as of
    /// what is appended so far. It is not written now: append it as a record too, with the same
    /// lane, kind and payload and no [`Log::submit`] or [`Log::complete`] in between, so that the
    /// segments up to the next head hold it. Recovery gives both; the last one holds.
    ///
    /// Recovery knows what the head of some segment repeated, but not what was first set after the
    /// last head: set everything again after [`Log::open`], or recycling may lose it.
    ///
    /// # Panics
    /// If all carried state together passes [`Options::carry_bytes_max`].
    pub fn set_carry(&mut self, lane: u16, kind: u8, payload: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if let Some((who, state)) = self.queue.set_carry(((lane, kind), payload.into())) {
            self.carry(who, state);
        }
    }

    fn carry(&mut self, who: (u16, u8), state: Box<[u8]>) {
        if self.carried.insert(who, state).is_none() {
            // Until a head repeats it, the only copy may lie in any older segment.
            self.segments.carries_from = self.current.header.segment + 1;
        }
        assert!(
            self.carry_bytes() <= self.options.carry_bytes_max(),
            "carried state above a quarter of a segment"
        );
    }

    fn carry_bytes(&self) -> usize {
        self.carried.values().map(|state| record::frame_bytes(state.len())).sum()
    }

    /// Starts what may be started: one write when none is in flight, a second when enough waits
    /// for it. Never waits.
    ///
    /// # Errors
    /// [`Error::Io`]; the log has failed then.
    pub fn submit(&mut self) -> Result<(), Error> {
        self.check()?;
        let result = self.start_groups();
        self.latch(result)
    }

    /// Takes note of what has ended and starts the next group if one waits. Returns the newest
    /// durable sequence if it advanced. Groups count strictly in order. Makes no system call when
    /// nothing has ended.
    ///
    /// # Errors
    /// [`Error::Io`]; the log has failed then.
    pub fn complete(&mut self) -> Result<Option<Sequence>, Error> {
        self.check()?;
        let result = self.reap(false);
        self.latch(result)
    }

    /// Waits until a write ends, but not longer than `at_most`: for a caller that has nothing else to
    /// do meanwhile, this is much cheaper than to be woken. May return early.
    ///
    /// # Errors
    /// [`Error::Io`]; the log has failed then.
    pub fn wait(&mut self, at_most: Duration) -> Result<(), Error> {
        self.check()?;
        let result = self.disk.wait(at_most);
        let segment = self.current.header.segment;
        let result = self.io("wait for a write to", segment, 0, result);
        self.latch(result)
    }

    /// Everything up to here is durable.
    #[must_use]
    pub fn durable(&self) -> Sequence {
        Sequence(self.durable)
    }

    /// Whether anything appended is not yet known to be durable.
    #[must_use]
    pub fn pending(&self) -> bool {
        !self.queue.is_empty() || !self.in_flight.is_empty()
    }

    /// Writes under way: 0, 1 or 2.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes appended whose write has not started.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.queue.waiting_bytes()
    }

    /// Writes the seal of a log that has been idle for long enough. `now_ms` is any clock that
    /// does not go back.
    ///
    /// # Errors
    /// [`Error::Io`]; the log has failed then.
    pub fn tick(&mut self, now_ms: u64) -> Result<(), Error> {
        self.check()?;
        self.now_ms = now_ms;
        if self.pending() || self.is_sealed() {
            return Ok(());
        }
        let finished = self.stats.groups_finished;
        match self.seal_due {
            Some((due_ms, at)) if at == finished => {
                if now_ms >= due_ms {
                    self.queue.seal();
                    self.stats.seals += 1;
                    return self.submit();
                }
            }
            _ => self.seal_due = Some((now_ms + self.options.seal_after_ms, finished)),
        }
        Ok(())
    }

    /// When [`Log::tick`] is wanted, on the clock that is given to it; a time that has passed means
    /// now. `None` while writes are under way (ask again after [`Log::complete`]) and for a log
    /// that is idle and sealed.
    #[must_use]
    pub fn next_tick_ms(&self) -> Option<u64> {
        if self.failed.is_some() || self.pending() || self.is_sealed() {
            return None;
        }
        Some(self.seal_due.map_or(self.now_ms, |(due_ms, _)| due_ms))
    }

    /// Whether anything is under way, of which [`Log::wake_fd`] will tell.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.disk.is_busy()
    }

    /// A descriptor that becomes readable when [`Log::complete`] has something to do.
    #[must_use]
    pub fn wake_fd(&self) -> Option<RawFd> {
        self.disk.wake_fd()
    }

    /// Where the next group goes, unless it needs a new segment.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { segment: self.current.header.segment, offset_bytes: self.current.offset_bytes }
    }

    /// The segment in which this record begins; for one that is not written yet, a lower bound.
    /// `None` if its segment is gone.
    #[must_use]
    pub fn segment_of(&self, sequence: Sequence) -> Option<u64> {
        let begins = self.segments.begins.iter().rev();
        begins.filter(|&(_, &first)| first <= sequence.0).map(|(&segment, _)| segment).next()
    }

    /// The oldest segment that the log still has.
    #[must_use]
    pub fn oldest_segment(&self) -> u64 {
        let oldest = self.segments.begins.keys().next();
        oldest.copied().unwrap_or(self.current.header.segment)
    }

    /// Lets go of segments below `segment`: nothing in them is needed any more, except what is
    /// carried. Keeps those whose carried state no durable head repeats yet. Returns how many go;
    /// they go in the background.
    ///
    /// # Errors
    /// [`Error::Io`]; the log has failed then.
    pub fn recycle_below(&mut self, segment: u64) -> Result<usize, Error> {
        self.check()?;
        let headed = self.segments.headed;
        if headed < self.segments.carries_from {
            return Ok(0);
        }
        let limit = segment.min(headed);
        let mut retired = 0;
        while let Some(entry) = self.segments.begins.first_entry() {
            let oldest = *entry.key();
            if oldest >= limit {
                break;
            }
            entry.remove();
            retired += 1;
            let result = self.disk.retire(oldest);
            self.io("retire", oldest, 0, result)?;
        }
        Ok(retired)
    }

    /// What has been done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Waits until everything appended is durable, and returns the newest durable sequence. It does
    /// not wait for room on a full disk.
    ///
    /// # Errors
    /// [`Error::Io`]; the log has failed then.
    pub fn flush(&mut self) -> Result<Sequence, Error> {
        self.submit()?;
        while self.pending() {
            if self.is_stuck() && !self.disk.is_busy() {
                self.give_up()?;
            }
            let result = self.reap(true);
            self.latch(result)?;
        }
        Ok(Sequence(self.durable))
    }

    /// Writes what waits, waits for it, and seals. Segments that were retired have gone then: the next
    /// start would read them.
    ///
    /// # Errors
    /// [`Error::Io`], or the error with which the log had failed.
    pub fn close(mut self) -> Result<(), Error> {
        self.flush()?;
        if !self.is_sealed() {
            self.queue.seal();
            self.stats.seals += 1;
            self.flush()?;
        }
        self.disk.hurry();
        // Everything is durable, so a file that does not go away is no failure: it is read once more.
        while self.disk.is_busy() && self.reap(true).is_ok() {}
        Ok(())
    }

    fn is_sealed(&self) -> bool {
        self.sealed_through >= self.durable
    }

    fn check(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn latch<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    fn io<T>(
        &mut self,
        op: &'static str,
        segment: u64,
        offset_bytes: u64,
        result: std::io::Result<T>,
    ) -> Result<T, Error> {
        let file = || segment::file_name(self.options.log, segment);
        let result = result.map_err(|source| Error::io(op, file(), offset_bytes, source));
        self.latch(result)
    }

    /// Handles every completion there is; with `wait`, waits for the first one.
    fn reap(&mut self, mut wait: bool) -> Result<Option<Sequence>, Error> {
        let before = self.durable;
        loop {
            let completion = self.disk.reap(wait);
            let completion = self.io("wait for", self.current.header.segment, 0, completion)?;
            wait = false;
            match completion {
                None => break,
                Some(Completion::Written { token, buffer, result }) => {
                    self.written(token, buffer, result)?
                }
                Some(Completion::Prepared { segment, result: Err(error) }) if is_full(&error) => {
                    let file = segment::file_name(self.options.log, segment);
                    self.refuse(Error::io("prepare", file, 0, error));
                }
                Some(Completion::Prepared { segment, result }) => {
                    self.io("prepare", segment, 0, result)?;
                    self.refused = None;
                    let header = self.preparing.take();
                    let header = header.filter(|header| header.segment == segment);
                    self.ready.push_back(header.expect("a disk reports what was asked for"));
                }
                Some(Completion::Retired { segment, result }) => {
                    self.io("retire", segment, 0, result)?;
                    // Where it was there is room now.
                    self.try_again()?;
                }
            }
        }
        self.start_groups()?;
        Ok((self.durable > before).then_some(Sequence(self.durable)))
    }

    fn written(
        &mut self,
        token: u64,
        buffer: Buffer,
        result: std::io::Result<usize>,
    ) -> Result<(), Error> {
        let flight = self.in_flight.iter_mut().find(|f| f.token == token);
        let flight = flight.expect("a disk reports each write once");
        flight.done = true;
        let (position, bytes) = (flight.position, flight.bytes);
        let result = result.and_then(|written| short_is_failed(written, bytes));
        self.io("write", position.segment, position.offset_bytes, result)?;
        self.queue.reuse(buffer);
        while self.in_flight.front().is_some_and(|flight| flight.done) {
            let flight = self.in_flight.pop_front().expect("just seen");
            self.durable = flight.ends.unwrap_or(self.durable);
            self.sealed_through = self.sealed_through.max(flight.acked_through);
            if flight.head {
                self.segments.headed = flight.position.segment;
            }
            self.stats.groups_finished += 1;
            self.stats.records += flight.records;
            self.stats.bytes += flight.bytes as u64;
        }
        if self.is_sealed() {
            self.seal_due = None;
        }
        Ok(())
    }

    fn start_groups(&mut self) -> Result<(), Error> {
        while self.may_start() {
            let group = self.queue.front().expect("may_start saw one");
            let Some(bytes) = self.find_place(group) else {
                if self.may_ask() {
                    self.stats.segment_waits += u64::from(self.preparing.is_none());
                    self.prepare_next()?;
                }
                break;
            };
            let group = self.queue.pop().expect("just seen");
            self.start(group, bytes)?;
            let place = &self.current;
            let late = place.offset_bytes > place.header.segment_bytes / 4;
            if late && self.ready.is_empty() && self.may_ask() {
                self.prepare_next()?;
            }
        }
        Ok(())
    }

    fn may_start(&self) -> bool {
        if self.queue.is_empty() || self.in_flight.len() >= self.options.in_flight_max {
            return false;
        }
        self.in_flight.is_empty()
            || self.queue.groups() > 1
            || self.queue.waiting_bytes() >= self.options.second_write_bytes
    }

    /// Whether the group opens the next segment, or `None` if it must and there is none.
    fn find_place(&self, group: &Group) -> Option<bool> {
        let bytes = group.buffer.len().next_multiple_of(BLOCK_BYTES) as u64;
        let fits = self.current.offset_bytes + bytes <= self.current.header.segment_bytes;
        match (fits, self.ready.front()) {
            (true, _) => Some(false),
            (false, Some(_)) => Some(true),
            (false, None) => None,
        }
    }

    fn start(&mut self, mut group: Group, head: bool) -> Result<(), Error> {
        let mut buffer = group.buffer;
        if head {
            let header = self.ready.pop_front().expect("find_place saw one");
            group.buffer = buffer;
            self.segments.begins.insert(header.segment, group.begun_before() + 1);
            buffer = group::with_head(&self.carried, &group);
            self.current = Place { header, offset_bytes: FIRST_FRAME };
            self.stats.segments += 1;
        }
        let key = self.current.header.key();
        let at = self.current.offset_bytes;
        self.previous = record::finish(&mut buffer, key, at, self.durable, self.previous);
        buffer.pad_to(BLOCK_BYTES);
        for (who, state) in group.carries {
            self.carry(who, state);
        }
        self.stats.groups_started += 1;
        let (token, bytes, position) = (self.stats.groups_started, buffer.len(), self.position());
        self.in_flight.push_back(Flight {
            token,
            position,
            bytes,
            ends: group.ends,
            records: group.records,
            acked_through: self.durable,
            head,
            done: false,
        });
        self.current.offset_bytes += bytes as u64;
        let result = self.disk.write(token, position.segment, position.offset_bytes, buffer);
        self.io("write", position.segment, position.offset_bytes, result)
    }

    /// Begins to prepare the segment after the last one, unless that is under way.
    fn prepare_next(&mut self) -> Result<(), Error> {
        if self.preparing.is_some() {
            return Ok(());
        }
        let last = self.ready.back().unwrap_or(&self.current.header).segment;
        let header = SegmentHeader::new(&self.options, last + 1, self.epoch);
        let bytes = header.segment_bytes;
        let result = self.disk.prepare(last + 1, bytes, header.encode());
        self.preparing = Some(header);
        self.io("prepare", last + 1, 0, result)
    }
}

fn short_is_failed(written: usize, bytes: usize) -> std::io::Result<()> {
    if written == bytes {
        return Ok(());
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::WriteZero,
        format!("only {written} of {bytes} bytes were written"),
    ))
}
