//! Groups that form while writes are in flight. It knows frames but no file, no checksum and no
//! acknowledgement: those are added when a group is written.

use std::collections::{BTreeMap, VecDeque};

use crate::buffer::Buffer;
use crate::record::{self, CARRY, FIRST, FRAME_ALIGN, HEADER_BYTES, Header, LAST, SEAL};

/// Buffers kept for reuse: two in flight, one forming, one to spare.
const POOL_BUFFERS_MAX: usize = 4;

/// Carried state: who, and what.
pub(crate) type Carry = ((u16, u8), Box<[u8]>);

/// What one write will hold.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) buffer: Buffer,
    /// The newest record whose last frame is here.
    pub(crate) ends: Option<u64>,
    /// Records whose last frame is here.
    pub(crate) records: u64,
    /// Carried state that was set while this group was the last. It takes effect after the group
    /// has found its place: the head of a segment must not be ahead of what follows it.
    pub(crate) carries: Vec<Carry>,
}

impl Group {
    /// The newest record begun before this group's first frame.
    pub(crate) fn begun_before(&self) -> u64 {
        let first = record::header(&self.buffer);
        first.sequence - u64::from(first.flags & FIRST != 0)
    }
}

/// Appended records that wait for a write, as groups in order.
#[derive(Debug)]
pub(crate) struct Queue {
    groups: VecDeque<Group>,
    group_bytes_max: usize,
    waiting_bytes: usize,
    /// The newest sequence given out.
    newest: u64,
    pool: Vec<Buffer>,
}

impl Queue {
    pub(crate) fn new(group_bytes_max: usize, newest: u64) -> Queue {
        Queue {
            groups: VecDeque::new(),
            group_bytes_max,
            waiting_bytes: 0,
            newest,
            pool: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(crate) fn front(&self) -> Option<&Group> {
        self.groups.front()
    }

    pub(crate) fn pop(&mut self) -> Option<Group> {
        let group = self.groups.pop_front()?;
        self.waiting_bytes -= group.buffer.len();
        Some(group)
    }

    /// Takes back a buffer whose write is over.
    pub(crate) fn reuse(&mut self, mut buffer: Buffer) {
        if buffer.capacity() == self.group_bytes_max && self.pool.len() < POOL_BUFFERS_MAX {
            buffer.clear();
            self.pool.push(buffer);
        }
    }

    /// Gives out the next sequence without storing anything: for a log that has failed.
    pub(crate) fn skip(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// Copies a record into the last group, or into as many as it takes. Returns its sequence.
    pub(crate) fn append(&mut self, lane: u16, kind: u8, payload: &[&[u8]]) -> u64 {
        let total: usize = payload.iter().map(|part| part.len()).sum();
        assert!(total <= record::PAYLOAD_BYTES_MAX, "a record above 1 GiB");
        let sequence = self.skip();
        let mut source = Gather { parts: payload, done: 0 };
        let mut remaining = total;
        let mut flags = FIRST;
        self.make_room(record::frame_bytes(total));
        loop {
            let group = self.groups.back_mut().expect("make_room leaves a group");
            let before = group.buffer.len();
            let room = self.group_bytes_max - before - HEADER_BYTES;
            let len_bytes = remaining.min(room);
            remaining -= len_bytes;
            if remaining == 0 {
                flags |= LAST;
            }
            let header = Header {
                sequence,
                len_bytes: u32::try_from(len_bytes).expect("at most 1 GiB"),
                lane,
                kind,
                flags,
                ..Header::default()
            };
            record::begin(&mut group.buffer, &header);
            source.copy(len_bytes, &mut group.buffer);
            group.buffer.pad_to(FRAME_ALIGN);
            self.waiting_bytes += group.buffer.len() - before;
            if remaining == 0 {
                group.ends = Some(sequence);
                group.records += 1;
                return sequence;
            }
            flags = 0;
            self.open_group();
        }
    }

    /// Adds the frame that says, in a group of its own, what is durable.
    pub(crate) fn seal(&mut self) {
        self.make_room(HEADER_BYTES);
        let group = self.groups.back_mut().expect("make_room leaves a group");
        let header = Header { sequence: self.newest, flags: SEAL, ..Header::default() };
        record::begin(&mut group.buffer, &header);
        self.waiting_bytes += HEADER_BYTES;
    }

    /// Sets carried state as of now: behind what is appended, before what follows. Gives it back
    /// when nothing waits, since it then takes effect at once.
    pub(crate) fn set_carry(&mut self, carry: Carry) -> Option<Carry> {
        match self.groups.back_mut() {
            Some(group) => {
                group.carries.push(carry);
                None
            }
            None => Some(carry),
        }
    }

    /// Makes sure that the last group takes at least the beginning of a frame of `bytes`. A record
    /// that fits into a group of its own is not split.
    fn make_room(&mut self, bytes: usize) {
        let fits = self
            .groups
            .back()
            .is_some_and(|group| group.buffer.len() + bytes <= self.group_bytes_max);
        if !fits {
            self.open_group();
        }
    }

    fn open_group(&mut self) {
        let buffer = self.pool.pop().unwrap_or_else(|| Buffer::with_capacity(self.group_bytes_max));
        self.groups.push_back(Group { buffer, ends: None, records: 0, carries: Vec::new() });
    }
}

/// The head of a new segment: carried state, then the group that opens the segment.
pub(crate) fn with_head(carried: &BTreeMap<(u16, u8), Box<[u8]>>, group: &Group) -> Buffer {
    let head_bytes: usize = carried.values().map(|state| record::frame_bytes(state.len())).sum();
    let mut buffer = Buffer::with_capacity(head_bytes + group.buffer.len());
    let sequence = group.begun_before();
    let last = carried.keys().next_back();
    for (who @ &(lane, kind), state) in carried {
        let header = Header {
            sequence,
            len_bytes: u32::try_from(state.len()).expect("bounded by set_carry"),
            lane,
            kind,
            flags: if Some(who) == last { CARRY | LAST } else { CARRY },
            ..Header::default()
        };
        record::begin(&mut buffer, &header);
        buffer.extend(state);
        buffer.pad_to(FRAME_ALIGN);
    }
    buffer.extend(&group.buffer);
    buffer
}

/// Reads a record's parts as one stream of bytes.
struct Gather<'a> {
    parts: &'a [&'a [u8]],
    /// Bytes of the first part that are copied already.
    done: usize,
}

impl Gather<'_> {
    fn copy(&mut self, mut bytes: usize, to: &mut Buffer) {
        while bytes > 0 {
            let (part, rest) = self.parts.split_first().expect("the total was computed");
            let take = bytes.min(part.len() - self.done);
            to.extend(&part[self.done..self.done + take]);
            bytes -= take;
            self.done += take;
            if self.done == part.len() {
                self.parts = rest;
                self.done = 0;
            }
        }
    }
}
