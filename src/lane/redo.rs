//! What is replicated: the bytes of redo records (formats in `docs/formats.md`, section "Redo").
//!
//! A record says what *became* true, not what was asked: "revision 41: key `a` is now this value".
//! One Raft entry holds the records of one turn, one after the other. Numbers are LEB128 varints,
//! byte strings carry their length. This file encodes and decodes; it applies nothing.

mod auth;

use bytes::Bytes;

pub use auth::{Auth, Named};

use crate::keys::{LaneId, LeaseId, Revision};

/// One key that a record changes. Its place in the record is its sub-revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// What became of it.
    pub change: Change,
}

/// What becomes of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new version.
    Put {
        /// Its value.
        value: Bytes,
        /// Revision at which the key came into being.
        create: Revision,
        /// Versions since then, this one included.
        version: i64,
        /// The lease that holds it, or none.
        lease: LeaseId,
    },
    /// A tombstone.
    Delete,
}

/// One record of a lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A transaction that wrote: one revision, any number of keys.
    Write {
        /// Its revision.
        revision: Revision,
        /// The keys it changed, by sub-revision.
        writes: Vec<Write>,
    },
    /// A change of control state (lane 0), at its place in the order.
    Control {
        /// Counter when it was proposed: its place in the revision order (R13).
        stamp: Revision,
        /// The change.
        control: Control,
    },
    /// A lease is gone, and in one revision every key that it held.
    Revoke {
        /// The revision, or only a stamp when the lease held no key.
        at: Revision,
        /// The lease.
        lease: LeaseId,
        /// Tombstones of its keys; empty means that `at` is a stamp.
        writes: Vec<Write>,
    },
    /// Opens an epoch in this lane (R5).
    Barrier {
        /// The epoch.
        epoch: u64,
    },
    /// Says where the epoch cuts (lane 0).
    Epoch {
        /// The epoch.
        epoch: u64,
        /// P of R5.
        cut: Revision,
        /// Per lane the barrier's (index, term).
        barriers: Vec<(u64, u64)>,
    },
}

/// Changes of control state that touch no key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// A lease begins.
    Grant {
        /// Its number.
        lease: LeaseId,
        /// Seconds to live, renewed by each keepalive.
        ttl_s: i64,
    },
    /// Leases had this many seconds left; 0 stands for all of their time.
    Remaining(Vec<(LeaseId, i64)>),
    /// History up to this revision is given up.
    Compact(Revision),
    /// An alarm of a member is raised or ended.
    Alarm {
        /// The member's number, as the caller gave it.
        member: u64,
        /// etcd's number of the kind of alarm.
        alarm: i32,
        /// Whether it is raised.
        on: bool,
    },
    /// The range map: lane 0's first range starts at the empty key, the others at their boundary.
    Map {
        /// Grows by one with each change.
        version: u64,
        /// First key of each range and the lane that owns it, ascending.
        ranges: Vec<(Bytes, LaneId)>,
    },
    /// All users and roles.
    Auth(Auth),
}

impl Record {
    /// The record's place in the revision order, if it has one.
    #[must_use]
    pub fn at(&self) -> Option<Revision> {
        match self {
            Record::Write { revision, .. } => Some(*revision),
            Record::Control { stamp, .. } => Some(*stamp),
            Record::Revoke { at, .. } => Some(*at),
            Record::Barrier { .. } | Record::Epoch { .. } => None,
        }
    }

    /// The revision that the record took from the sequencer, if it took one.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Record::Write { revision, .. } => Some(*revision),
            Record::Revoke { at, writes, .. } if !writes.is_empty() => Some(*at),
            _ => None,
        }
    }
}

const WRITE: u8 = 1;
const REVOKE: u8 = 2;
const GRANT: u8 = 3;
const REMAINING: u8 = 4;
const COMPACT: u8 = 5;
const MAP: u8 = 6;
const BARRIER: u8 = 7;
const EPOCH: u8 = 8;
const ALARM: u8 = 9;
const AUTH: u8 = 10;

const PUT: u8 = 0;
const DELETE: u8 = 1;

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Lease numbers and the like may be negative: as their two's complement.
fn signed(out: &mut Vec<u8>, n: i64) {
    number(out, n as u64);
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends one put to a record begun with [`begin_write`]: the hot path, without a [`Write`].
pub fn put(
    out: &mut Vec<u8>,
    key: &[u8],
    value: &[u8],
    create: Revision,
    version: i64,
    lease: LeaseId,
) {
    out.push(PUT);
    string(out, key);
    string(out, value);
    signed(out, create.0);
    signed(out, version);
    signed(out, lease.0);
}

/// Begins a [`Record::Write`] of `count` keys; each must follow by [`put`] or [`delete`].
pub fn begin_write(out: &mut Vec<u8>, revision: Revision, count: usize) {
    out.push(WRITE);
    signed(out, revision.0);
    number(out, count as u64);
}

/// Appends one tombstone to a record begun with [`begin_write`].
pub fn delete(out: &mut Vec<u8>, key: &[u8]) {
    out.push(DELETE);
    string(out, key);
}

fn writes(out: &mut Vec<u8>, writes: &[Write]) {
    number(out, writes.len() as u64);
    for write in writes {
        match &write.change {
            Change::Put { value, create, version, lease } => {
                put(out, &write.key, value, *create, *version, *lease);
            }
            Change::Delete => delete(out, &write.key),
        }
    }
}

/// Appends a record to a batch.
pub fn encode(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Write { revision, writes: changes } => {
            out.push(WRITE);
            signed(out, revision.0);
            writes(out, changes);
        }
        Record::Revoke { at, lease, writes: changes } => {
            out.push(REVOKE);
            signed(out, at.0);
            signed(out, lease.0);
            writes(out, changes);
        }
        Record::Control { stamp, control } => encode_control(out, *stamp, control),
        Record::Barrier { epoch } => {
            out.push(BARRIER);
            number(out, *epoch);
        }
        Record::Epoch { epoch, cut, barriers } => {
            out.push(EPOCH);
            number(out, *epoch);
            signed(out, cut.0);
            number(out, barriers.len() as u64);
            for (index, term) in barriers {
                number(out, *index);
                number(out, *term);
            }
        }
    }
}

fn encode_control(out: &mut Vec<u8>, stamp: Revision, control: &Control) {
    let tag = match control {
        Control::Grant { .. } => GRANT,
        Control::Remaining(_) => REMAINING,
        Control::Compact(_) => COMPACT,
        Control::Map { .. } => MAP,
        Control::Alarm { .. } => ALARM,
        Control::Auth(_) => AUTH,
    };
    out.push(tag);
    signed(out, stamp.0);
    match control {
        Control::Grant { lease, ttl_s } => {
            signed(out, lease.0);
            signed(out, *ttl_s);
        }
        Control::Remaining(leases) => {
            number(out, leases.len() as u64);
            for (lease, left_s) in leases {
                signed(out, lease.0);
                signed(out, *left_s);
            }
        }
        Control::Compact(at) => signed(out, at.0),
        Control::Alarm { member, alarm, on } => {
            number(out, *member);
            signed(out, i64::from(*alarm));
            number(out, u64::from(*on));
        }
        Control::Auth(auth) => auth.encode(out),
        Control::Map { version, ranges } => {
            number(out, *version);
            number(out, ranges.len() as u64);
            for (start, lane) in ranges {
                string(out, start);
                number(out, u64::from(lane.0));
            }
        }
    }
}

/// The bytes are no batch of redo records. They passed the log's checksum, so this is a newer
/// format or a defect, never bad luck.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("redo batch is malformed at byte {offset_bytes}")]
pub struct Malformed {
    /// Where reading stopped.
    pub offset_bytes: usize,
}

/// A record as it lies in its batch. Those of which there are millions borrow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen<'a> {
    /// As [`Record::Write`].
    Write {
        /// Its revision.
        revision: Revision,
        /// The keys it changed, by sub-revision.
        writes: Writes<'a>,
    },
    /// As [`Record::Revoke`].
    Revoke {
        /// The revision, or only a stamp when the lease held no key.
        at: Revision,
        /// The lease.
        lease: LeaseId,
        /// Tombstones of its keys; empty means that `at` is a stamp.
        writes: Writes<'a>,
    },
    /// Any other record.
    Other(Record),
}

/// The writes of a record, which were looked at once: they are well-formed. Iterates over them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writes<'a> {
    /// Most records have one, so that it is not read twice.
    first: Option<SeenWrite<'a>>,
    /// How many follow, and where they lie.
    left: usize,
    bytes: &'a [u8],
}

/// A key, and what becomes of it.
type SeenWrite<'a> = (&'a [u8], SeenChange<'a>);

/// As [`Change`], borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeenChange<'a> {
    /// A new version.
    Put {
        /// Its value.
        value: &'a [u8],
        /// Revision at which the key came into being.
        create: Revision,
        /// Versions since then, this one included.
        version: i64,
        /// The lease that holds it, or none.
        lease: LeaseId,
    },
    /// A tombstone.
    Delete,
}

impl<'a> SeenChange<'a> {
    fn value(&self) -> &'a [u8] {
        match self {
            SeenChange::Put { value, .. } => value,
            SeenChange::Delete => &[],
        }
    }

    /// The lease that holds the key from now on, or none.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        match self {
            SeenChange::Put { lease, .. } => *lease,
            SeenChange::Delete => LeaseId::NONE,
        }
    }
}

impl Writes<'_> {
    /// Whether there are none left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.left == 0
    }

    /// Size of those that are left, with what stands between them or without.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        let first = self.first.map_or(0, |(key, change)| key.len() + change.value().len());
        first + self.bytes.len()
    }

    /// Copies of those that are left.
    #[must_use]
    pub fn to_vec(self) -> Vec<Write> {
        let owned = self.map(|(key, change)| {
            let change = match change {
                SeenChange::Put { value, create, version, lease } => {
                    Change::Put { value: Bytes::copy_from_slice(value), create, version, lease }
                }
                SeenChange::Delete => Change::Delete,
            };
            Write { key: Bytes::copy_from_slice(key), change }
        });
        owned.collect()
    }
}

impl<'a> Iterator for Writes<'a> {
    type Item = SeenWrite<'a>;

    #[inline]
    fn next(&mut self) -> Option<SeenWrite<'a>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let write = reader.write().expect("looked at before");
        self.bytes = &self.bytes[reader.at..];
        Some(write)
    }
}

/// Reads a batch record by record, in place.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the beginning.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader::from(bytes, 0)
    }

    /// Reads `bytes` from `at` on, where a record begins.
    #[must_use]
    pub fn from(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { bytes, at }
    }

    /// Where the next record begins.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next record, or `None` at the end.
    ///
    /// # Errors
    /// [`Malformed`] where the bytes make no sense.
    pub fn record(&mut self) -> Result<Option<Seen<'a>>, Malformed> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let record = match self.byte()? {
            WRITE => Seen::Write { revision: self.revision()?, writes: self.writes()? },
            REVOKE => Seen::Revoke {
                at: self.revision()?,
                lease: LeaseId(self.signed()?),
                writes: self.writes()?,
            },
            BARRIER => Seen::Other(Record::Barrier { epoch: self.number()? }),
            EPOCH => Seen::Other(Record::Epoch {
                epoch: self.number()?,
                cut: self.revision()?,
                barriers: self.many(|reader| Ok((reader.number()?, reader.number()?)))?,
            }),
            tag => {
                let stamp = self.revision()?;
                Seen::Other(Record::Control { stamp, control: self.control(tag)? })
            }
        };
        Ok(Some(record))
    }

    fn control(&mut self, tag: u8) -> Result<Control, Malformed> {
        Ok(match tag {
            GRANT => Control::Grant { lease: LeaseId(self.signed()?), ttl_s: self.signed()? },
            REMAINING => Control::Remaining(
                self.many(|reader| Ok((LeaseId(reader.signed()?), reader.signed()?)))?,
            ),
            COMPACT => Control::Compact(self.revision()?),
            ALARM => Control::Alarm {
                member: self.number()?,
                alarm: i32::try_from(self.signed()?).map_err(|_| self.malformed())?,
                on: self.flag()?,
            },
            AUTH => Control::Auth(Auth::decode(self)?),
            MAP => Control::Map {
                version: self.number()?,
                ranges: self.many(|reader| {
                    let start = Bytes::copy_from_slice(reader.string()?);
                    let lane = u16::try_from(reader.number()?).map_err(|_| reader.malformed())?;
                    Ok((start, LaneId(lane)))
                })?,
            },
            _ => return Err(self.malformed()),
        })
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed()),
        }
    }

    fn writes(&mut self) -> Result<Writes<'a>, Malformed> {
        let count = self.count()?;
        let first = if count > 0 { Some(self.write()?) } else { None };
        let (from, left) = (self.at, count.saturating_sub(1));
        for _ in 0..left {
            self.write()?;
        }
        Ok(Writes { first, left, bytes: &self.bytes[from..self.at] })
    }

    #[inline]
    fn write(&mut self) -> Result<SeenWrite<'a>, Malformed> {
        let tag = self.byte()?;
        let key = self.string()?;
        let change = match tag {
            PUT => SeenChange::Put {
                value: self.string()?,
                create: self.revision()?,
                version: self.signed()?,
                lease: LeaseId(self.signed()?),
            },
            DELETE => SeenChange::Delete,
            _ => return Err(self.malformed()),
        };
        Ok((key, change))
    }

    fn many<T>(
        &mut self,
        mut one: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        (0..self.count()?).map(|_| one(self)).collect()
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.number()?;
        // Each item takes a byte at least: a count beyond that is nonsense, not an allocation.
        if count > (self.bytes.len() - self.at) as u64 {
            return Err(self.malformed());
        }
        Ok(count as usize)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| self.malformed())?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn number(&mut self) -> Result<u64, Malformed> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(self.malformed())
    }

    #[inline]
    fn signed(&mut self) -> Result<i64, Malformed> {
        Ok(self.number()? as i64)
    }

    #[inline]
    fn revision(&mut self) -> Result<Revision, Malformed> {
        Ok(Revision(self.signed()?))
    }

    #[inline]
    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.number()?;
        if len > (self.bytes.len() - self.at) as u64 {
            return Err(self.malformed());
        }
        let from = self.at;
        self.at += len as usize;
        Ok(&self.bytes[from..self.at])
    }

    fn malformed(&self) -> Malformed {
        Malformed { offset_bytes: self.at }
    }
}
