//! Reads a log from its first segment, finds its end, and tells a torn tail from damage. It
//! changes nothing on the disk; it says what has to be overwritten before the log goes on.
//!
//! Frames form one chain: each names the checksum of the one before, and is valid only for its use
//! of its file. After a frame at most three places can hold the next one: right behind it (same
//! group), the next block (next group), or the first block of the next segment. When none of them
//! does, the log ends here or is damaged here, and every valid frame anywhere behind this point is
//! asked what it knew to be durable when it was written:
//!
//! - Some frame says `acked_through` ≥ the sequence that is missing: that record was reported
//!   durable and is gone. This is damage ([`Error::Corrupt`]), and nothing is changed.
//! - No frame says so: what is missing was never reported durable, as far as anyone can know. With
//!   two writes in flight the later one may be whole; it is dropped with the earlier.
//!
//! A segment that the log can not have reached is looked at only at its head: where the one before
//! has room for more than the writes under way, and no frame is at the head, which is where the log
//! enters a segment. Only two separate damages could hide something there: one of all the room that
//! the segment before seems to have, and one of the head. And where no frame is in the next 64 groups
//! behind the end (16 MiB), the rest of the segment is looked at here and there: a damage would have to
//! be as large as that, and to leave less than 16 groups behind it. [`crate::Log::verify`] reads all.
//!
//! **Why a dropped tail stays dropped.** `Found::voids` lists every block behind the end that
//! holds anything with the mark of its segment. The log overwrites them with zeros, durably, before
//! it accepts a record, and goes on at the next block. A power cut in between leaves a subset of
//! the same blocks, none of which continues the chain, so the next recovery decides alike. The rest
//! of a block that holds valid frames is never overwritten: a torn frame there can not become whole
//! later, since its missing part would have to appear in blocks that now belong to other groups,
//! which begin with a frame of their own. Records that were recovered without proof that they had
//! been reported are made durable and sealed first, since from now on they count as reported.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::area::{Area, Arrived};
use crate::buffer::{BLOCK_BYTES, Buffer};
use crate::disk::Disk;
use crate::error::Error;
use crate::options::Options;
use crate::record::{self, CARRY, FIRST, Frame, HEADER_BYTES, Header, LAST, SEAL, Sequence};
use crate::segment::{self, FIRST_FRAME, Key, SegmentHeader};

mod tail;

use tail::Tail;

/// A record as recovery hands it out.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The caller's lane.
    pub lane: u16,
    /// The caller's kind.
    pub kind: u8,
    /// Whether this is carried state, repeated at the head of a segment. Of carried and ordinary
    /// records of one lane and kind the one that comes last holds.
    pub carry: bool,
    /// Its place; carried state has that of the record before it.
    pub sequence: Sequence,
    /// The segment in which it begins.
    pub segment: u64,
    /// What was appended, as a slice of memory that its whole segment shares and that goes when the
    /// last such slice does. Only a record that lies in two segments has memory of its own.
    pub payload: &'a Bytes,
}

/// What recovery found, besides the records themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Ordinary records handed out.
    pub records: u64,
    /// Carried records handed out.
    pub carries: u64,
    /// Payload bytes handed out.
    pub bytes: u64,
    /// Segments that exist.
    pub segments: u64,
    /// The oldest segment.
    pub oldest_segment: u64,
    /// The newest record handed out.
    pub newest: Sequence,
    /// Where an unfinished tail was dropped, if there was one.
    pub torn: Option<Torn>,
}

/// The place of a dropped tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment file.
    pub file: String,
    /// Where what was dropped begins.
    pub offset_bytes: u64,
}

/// Blocks behind the end that must be zero before the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Void {
    pub(crate) segment: u64,
    pub(crate) from_bytes: u64,
    pub(crate) to_bytes: u64,
}

/// Everything the log needs to go on.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) recovered: Recovered,
    pub(crate) headers: Vec<SegmentHeader>,
    /// Index into `headers` of the segment that holds the end.
    pub(crate) current: usize,
    /// The block where the next group goes.
    pub(crate) offset_bytes: u64,
    /// Checksum of the last frame.
    pub(crate) previous: u32,
    /// The newest sequence that was ever begun, whole or not.
    pub(crate) begun: u64,
    /// The highest `acked_through` that the log itself tells.
    pub(crate) acked_through: u64,
    pub(crate) voids: Vec<Void>,
    /// The newest segment whose head is whole, or 0.
    pub(crate) headed: u64,
    pub(crate) carried: BTreeMap<(u16, u8), Box<[u8]>>,
    /// Per segment the first sequence that begins in it or later.
    pub(crate) begins: BTreeMap<u64, u64>,
}

/// Reads every segment of the log in order and hands each whole record to `visit`.
///
/// # Errors
/// As [`crate::Log::open`]. Records may have been handed out before damage is found.
pub(crate) fn recover<D: Disk>(
    disk: &mut D,
    options: &Options,
    thorough: bool,
    visit: &mut dyn FnMut(Record<'_>),
) -> Result<Found, Error> {
    let headers = headers(disk, options)?;
    let mut chain = Chain::new(headers.first().map_or(1, |header| header.segment));
    let mut found = Found {
        recovered: Recovered {
            segments: headers.len() as u64,
            oldest_segment: headers.first().map_or(0, |header| header.segment),
            ..Recovered::default()
        },
        current: 0,
        offset_bytes: FIRST_FRAME,
        previous: 0,
        begun: 0,
        acked_through: 0,
        voids: Vec::new(),
        headed: 0,
        carried: BTreeMap::new(),
        begins: BTreeMap::new(),
        headers,
    };
    let mut tail = Tail::default();
    // Whether the segment before was not written to, or has so much room left that the next was not.
    let mut is_far = false;
    let mut area = None;
    for index in 0..found.headers.len() {
        let header = found.headers[index];
        if is_far && !thorough && is_untouched(disk, options, &header)? {
            tail.missing.get_or_insert(index);
            continue;
        }
        let quiet_bytes = if thorough { u64::MAX } else { quiet_bytes(options) };
        let mut reading = Reading { header, index, at: FIRST_FRAME, entered: false, quiet_bytes };
        let bytes = usize::try_from(header.segment_bytes).expect("at most 1 GiB");
        let next = area.take().map_or_else(|| Area::new(bytes), |area: Area| area.again(bytes));
        let mut ended = None;
        let mut look = |arrived: &mut Arrived<'_>| {
            ended = reading.look(arrived, &mut chain, &mut tail, &mut found, visit);
            ended.is_none()
        };
        let read = disk.read_through(header.segment, next, &mut look);
        let (read, used) = read.map_err(|source| {
            Error::io("read", segment::file_name(options.log, header.segment), 0, source)
        })?;
        area = Some(used);
        match ended {
            Some(ended) => look_behind(disk, options, &header, ended, &found, &mut tail)?,
            None => {
                return Err(Error::Corrupt {
                    file: segment::file_name(options.log, header.segment),
                    segment: header.segment,
                    offset_bytes: read as u64,
                    lane: None,
                });
            }
        }
        let room = header.segment_bytes.saturating_sub(found.offset_bytes);
        is_far = found.current == index && room >= far_bytes(options);
    }
    tail.judge(&chain, &found, options)?;
    found.recovered.torn = tail.torn(options);
    found.recovered.newest = Sequence(chain.whole);
    found.voids = tail.voids;
    found.previous = chain.previous;
    found.begun = chain.begun;
    found.acked_through = chain.acked_through;
    found.headed = chain.headed;
    Ok(found)
}

/// So much room behind the end of the log that no write under way can have been behind it. Twice what
/// two groups take: the head of a segment may be larger.
fn far_bytes(options: &Options) -> u64 {
    4 * options.group_bytes_max as u64
}

/// So much behind the end of the log without a frame says that nothing is behind it, unless a damage is
/// as large as this.
fn quiet_bytes(options: &Options) -> u64 {
    64 * options.group_bytes_max as u64
}

/// Looks for frames behind the part of a segment that was read: here and there, and everywhere where
/// there is one. Frames fill a segment without a gap, so what is left of many shows in one of the places.
fn look_behind<D: Disk>(
    disk: &mut D,
    options: &Options,
    header: &SegmentHeader,
    read_bytes: u64,
    found: &Found,
    tail: &mut Tail,
) -> Result<(), Error> {
    let group_bytes = options.group_bytes_max as u64;
    let from = read_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let mut at = from;
    while at < header.segment_bytes {
        let mut place = Tail::default();
        place.search_at(disk, options, header, at, 2 * group_bytes)?;
        if !place.voids.is_empty() {
            tail.suspect.get_or_insert((header.segment, found.offset_bytes, None));
            return tail.search_at(disk, options, header, from, header.segment_bytes);
        }
        at += 16 * group_bytes;
    }
    Ok(())
}

/// Whether nothing was written to a segment since it was made: then there is nothing at its head, where
/// the log enters it.
fn is_untouched<D: Disk>(
    disk: &mut D,
    options: &Options,
    header: &SegmentHeader,
) -> Result<bool, Error> {
    let mut head = Tail::default();
    head.search_at(disk, options, header, FIRST_FRAME, far_bytes(options))?;
    Ok(head.voids.is_empty())
}

/// A segment that is being read.
#[derive(Debug)]
struct Reading {
    header: SegmentHeader,
    index: usize,
    /// Behind the last frame of the chain.
    at: u64,
    /// Whether the chain goes on in this segment.
    entered: bool,
    /// So much behind the last frame without another one is enough.
    quiet_bytes: u64,
}

impl Reading {
    /// Looks at what has arrived, and says where it ended when that was enough. A frame that is not all
    /// there reads as none, so that none is known to be the last before much more is there.
    fn look(
        &mut self,
        arrived: &mut Arrived<'_>,
        chain: &mut Chain,
        tail: &mut Tail,
        found: &mut Found,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Option<u64> {
        let (header, key) = (self.header, self.header.key());
        let end = arrived.range().end as u64;
        let mut all_there = end == header.segment_bytes;
        if !self.entered {
            let continues = chain.goes_on_at(Window::of(arrived), FIRST_FRAME, key);
            self.entered = match self.index {
                0 => continues || all_there,
                _ => chain.known && continues && tail.missing.is_none(),
            };
            if self.entered {
                // Whatever the segment before holds behind its last frame, the chain goes on here.
                *tail = Tail::default();
                found.current = self.index;
                let begin = chain.next_begin(Window::of(arrived), key);
                found.begins.insert(header.segment, begin);
            }
        }
        if self.entered {
            self.at = chain.walk(Window::of(arrived), self.at, &header);
            let mut quiet = None;
            if end.saturating_sub(self.at) >= self.quiet_bytes {
                // Once is enough: either it is quiet here, or everything has to be read.
                self.quiet_bytes = u64::MAX;
                let mut behind = Tail::default();
                behind.search(&Window::of(arrived), &header, self.at);
                quiet = Some(behind).filter(|behind| behind.suspect.is_none());
                all_there |= quiet.is_some();
            }
            if all_there {
                chain.keep_open_part(Window::of(arrived));
                found.offset_bytes = self.at.next_multiple_of(BLOCK_BYTES as u64);
                match quiet {
                    Some(behind) => *tail = behind,
                    None => tail.search(&Window::of(arrived), &header, self.at),
                }
                arrived.cut(self.at as usize);
            }
            chain.hand_out(arrived, self.at, found, visit);
        } else if all_there {
            let window = Window::of(arrived);
            if window.decode(FIRST_FRAME, key).is_some_and(|it| it.header.belongs_at(FIRST_FRAME)) {
                // This head is whole, so what is missing lies before it.
                let current = found.headers[found.current].segment;
                tail.suspect.get_or_insert((current, found.offset_bytes, None));
            }
            tail.search(&window, &header, FIRST_FRAME);
            tail.missing.get_or_insert(self.index);
        }
        all_there.then_some(end)
    }
}

/// Some bytes of a segment: what has arrived and was not handed out.
#[derive(Debug)]
struct Window<'a> {
    /// Where in the segment they begin.
    from: usize,
    bytes: &'a mut [u8],
}

impl<'a> Window<'a> {
    fn of(arrived: &'a mut Arrived<'_>) -> Window<'a> {
        Window { from: arrived.range().start, bytes: arrived.bytes() }
    }

    /// The valid frame at a byte of the segment, whether it belongs there or not.
    fn decode(&self, at: u64, key: Key) -> Option<Frame<'_>> {
        record::decode(self.bytes, usize::try_from(at).ok()?.checked_sub(self.from)?, key)
    }

    /// Bytes of the segment.
    fn get(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range.start - self.from..range.end - self.from]
    }
}

/// The headers of all segments, in order and without gaps.
fn headers<D: Disk>(disk: &mut D, options: &Options) -> Result<Vec<SegmentHeader>, Error> {
    let mut files = disk.list().map_err(|source| Error::io("list", "", 0, source))?;
    files.sort_unstable_by_key(|file| file.segment);
    let mut headers: Vec<SegmentHeader> = Vec::with_capacity(files.len());
    let mut block = Buffer::zeroed(BLOCK_BYTES);
    for file in files {
        if let Some(before) = headers.last()
            && file.segment != before.segment + 1
        {
            return Err(Error::Missing {
                file: segment::file_name(options.log, before.segment + 1),
            });
        }
        let read = read(disk, options, file.segment, 0, &mut block)?;
        let header = SegmentHeader::decode(&block[..read], options, file.segment)?;
        if header.segment_bytes != file.bytes {
            // The file had its full size, synced, before it got its name.
            return Err(Error::Corrupt {
                file: segment::file_name(options.log, file.segment),
                segment: file.segment,
                offset_bytes: file.bytes.min(header.segment_bytes),
                lane: None,
            });
        }
        headers.push(header);
    }
    Ok(headers)
}

fn read<D: Disk>(
    disk: &mut D,
    options: &Options,
    segment: u64,
    offset_bytes: u64,
    buffer: &mut Buffer,
) -> Result<usize, Error> {
    disk.read(segment, offset_bytes, buffer).map_err(|source| {
        Error::io("read", segment::file_name(options.log, segment), offset_bytes, source)
    })
}

/// What is open when the next frame comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// Nothing: the next record frame begins a record.
    Nothing,
    /// A record whose beginning was read.
    Part,
    /// A record whose beginning may have been recycled.
    Orphan,
}

/// The chain of frames, as far as it was read.
#[derive(Debug)]
struct Chain {
    /// Whether the place in the chain is known. It is not before the first frame of a log whose
    /// first segments were recycled.
    known: bool,
    previous: u32,
    /// The newest segment whose carried state was read to its end.
    carried: u64,
    /// The newest segment of which that and something else was read: it has a whole head.
    headed: u64,
    /// The newest sequence begun.
    begun: u64,
    /// The newest sequence of a whole record.
    whole: u64,
    acked_through: u64,
    open: Open,
    /// The payload of the open record so far: what earlier segments had of it, and where the bytes
    /// of this segment lie, side by side. Then the segment in which it begins.
    parts: Vec<u8>,
    here: Range<usize>,
    parts_segment: u64,
    /// Records of this segment that are whole.
    whole_here: Vec<Whole>,
}

/// A whole record that waits to be handed out.
#[derive(Debug)]
struct Whole {
    lane: u16,
    kind: u8,
    carry: bool,
    sequence: u64,
    segment: u64,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    /// Bytes of the segment that was read last.
    Here(Range<usize>),
    /// It began in an earlier segment.
    Joined(Vec<u8>),
}

impl Chain {
    fn new(first_segment: u64) -> Chain {
        Chain {
            known: first_segment == 1,
            previous: 0,
            carried: 0,
            headed: 0,
            begun: 0,
            whole: 0,
            acked_through: 0,
            open: Open::Nothing,
            parts: Vec::new(),
            here: 0..0,
            parts_segment: 0,
            whole_here: Vec::new(),
        }
    }

    /// The oldest sequence that is missing when no further frame is found.
    fn missing(&self) -> u64 {
        match self.open {
            Open::Nothing => self.begun + 1,
            Open::Part | Open::Orphan => self.begun,
        }
    }

    fn goes_on_at(&self, window: Window<'_>, at: u64, key: Key) -> bool {
        self.next(&window, at, key).is_some()
    }

    /// The frame at `at`, if it is valid and the next one of the chain.
    fn next<'a>(&self, window: &'a Window<'_>, at: u64, key: Key) -> Option<Frame<'a>> {
        let frame = window.decode(at, key)?;
        let header = &frame.header;
        let follows = match header.flags {
            SEAL => header.sequence == self.begun,
            flags if flags & CARRY != 0 => header.sequence == self.begun,
            flags if flags & FIRST != 0 => header.sequence == self.begun + 1,
            _ => header.sequence == self.begun && self.open != Open::Nothing,
        };
        let follows = !self.known || (follows && header.previous == self.previous);
        (follows && header.belongs_at(at)).then_some(frame)
    }

    /// The first sequence that begins in the segment or later, of which the beginning is given.
    fn next_begin(&self, window: Window<'_>, key: Key) -> u64 {
        let first = self.next(&window, FIRST_FRAME, key);
        first.map_or(self.begun + 1, |frame| {
            frame.header.sequence + u64::from(frame.header.flags & FIRST == 0)
        })
    }

    /// Follows the chain through a segment from `at` on, as far as it has arrived, and returns where
    /// its last frame ends. The frames of a record are moved together, over headers that were read;
    /// [`Chain::hand_out`] is owed the whole ones.
    fn walk(&mut self, mut window: Window<'_>, mut at: u64, header: &SegmentHeader) -> u64 {
        let key = header.key();
        loop {
            let block = at.next_multiple_of(BLOCK_BYTES as u64);
            let places = [at, block];
            let next =
                places.iter().find_map(|&place| Some((place, self.next(&window, place, key)?)));
            let Some((place, frame)) = next else { return at };
            let (header_of, crc, len_bytes) = (frame.header, frame.crc, frame.payload.len());
            let begin = place as usize + HEADER_BYTES;
            self.accept(&header_of, crc, begin..begin + len_bytes, header.segment, &mut window);
            at = place + record::frame_bytes(len_bytes) as u64;
        }
    }

    /// At the end of a segment: copies what it has of the open record.
    fn keep_open_part(&mut self, window: Window<'_>) {
        if !self.here.is_empty() {
            self.parts.extend_from_slice(window.get(std::mem::take(&mut self.here)));
        }
    }

    /// Hands out the whole records of what was walked, which is all up to `at`.
    fn hand_out(
        &mut self,
        arrived: &mut Arrived<'_>,
        at: u64,
        found: &mut Found,
        visit: &mut dyn FnMut(Record<'_>),
    ) {
        let from = arrived.range().start;
        let at = usize::try_from(at).expect("at most 1 GiB").min(arrived.range().end);
        let bytes = arrived.give(if self.here.is_empty() { at } else { self.here.start }.max(from));
        for whole in self.whole_here.drain(..) {
            let payload = match whole.payload {
                Payload::Here(range) => bytes.slice(range.start - from..range.end - from),
                Payload::Joined(bytes) => bytes.into(),
            };
            let record = Record {
                lane: whole.lane,
                kind: whole.kind,
                carry: whole.carry,
                sequence: Sequence(whole.sequence),
                segment: whole.segment,
                payload: &payload,
            };
            found.hand_out(record, visit);
        }
    }

    fn accept(
        &mut self,
        header: &Header,
        crc: u32,
        payload: Range<usize>,
        segment: u64,
        window: &mut Window<'_>,
    ) {
        if !self.known {
            self.known = true;
            self.begun = header.sequence - u64::from(header.flags & FIRST != 0);
            self.whole = self.begun.saturating_sub(1);
            self.open = Open::Orphan;
        }
        self.previous = crc;
        let is_carry = header.flags & CARRY != 0;
        let ends_head =
            if is_carry { header.flags & LAST != 0 } else { header.belongs_at(FIRST_FRAME) };
        if ends_head {
            self.carried = segment;
        }
        if !is_carry && self.carried == segment {
            self.headed = segment;
        }
        self.acked_through = self.acked_through.max(header.acked_through);
        match header.flags {
            SEAL => {
                // A seal is written when nothing waits, so what is open was given up.
                self.open = Open::Nothing;
                self.here = 0..0;
                self.whole = self.whole.max(header.acked_through);
            }
            _ if is_carry => self.is_whole(header, segment, Payload::Here(payload)),
            _ => self.accept_part(header, payload, segment, window),
        }
    }

    fn accept_part(
        &mut self,
        header: &Header,
        payload: Range<usize>,
        segment: u64,
        window: &mut Window<'_>,
    ) {
        let first = header.flags & FIRST != 0;
        let last = header.flags & LAST != 0;
        if first {
            // A record that was open was cut off by a crash and is given up, or its end was recycled.
            if self.open == Open::Orphan {
                self.whole = self.begun;
            }
            self.begun = header.sequence;
            self.open = Open::Part;
            self.parts.clear();
            self.here = 0..0;
            self.parts_segment = segment;
        }
        if self.open == Open::Part {
            if self.here.is_empty() {
                self.here = payload;
            } else {
                let end = self.here.end - window.from;
                self.here.end += payload.len();
                let payload = payload.start - window.from..payload.end - window.from;
                window.bytes.copy_within(payload, end);
            }
            if last {
                let here = std::mem::take(&mut self.here);
                let payload = if self.parts.is_empty() {
                    Payload::Here(here)
                } else {
                    self.parts.extend_from_slice(window.get(here));
                    Payload::Joined(std::mem::take(&mut self.parts))
                };
                self.is_whole(header, self.parts_segment, payload);
            }
        }
        if last {
            self.open = Open::Nothing;
            self.whole = header.sequence;
        }
    }

    fn is_whole(&mut self, header: &Header, segment: u64, payload: Payload) {
        self.whole_here.push(Whole {
            lane: header.lane,
            kind: header.kind,
            carry: header.flags & CARRY != 0,
            sequence: header.sequence,
            segment,
            payload,
        });
    }
}

impl Found {
    fn hand_out(&mut self, record: Record<'_>, visit: &mut dyn FnMut(Record<'_>)) {
        let who = (record.lane, record.kind);
        if record.carry {
            self.recovered.carries += 1;
            self.carried.insert(who, record.payload[..].into());
        } else {
            self.recovered.records += 1;
            if let Some(state) = self.carried.get_mut(&who) {
                *state = record.payload[..].into();
            }
        }
        self.recovered.bytes += record.payload.len() as u64;
        visit(record);
    }
}
