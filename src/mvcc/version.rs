//! One version of one key: its packed bytes, and the view that readers get of it.
//!
//! This file knows nothing of the other versions of the key, of indexes or of who may see what.

use std::sync::Arc;

use super::thin::{LENGTH_BYTES, Thin};
use crate::keys::{LeaseId, Revision};

/// Where a version stands in the order of all writes: its revision, then its place inside it.
pub type Position = (Revision, u32);

/// Bits of the flag byte.
const TOMBSTONE: u8 = 1;
const FIRST: u8 = 2;
const LEASED: u8 = 4;

/// Offsets of the fields that every version has.
const SUB_AT: usize = 8;
const FLAGS_AT: usize = 12;
const FIXED_BYTES: usize = 13;

/// Length of the longest header.
const HEADER_BYTES_MAX: usize = FIXED_BYTES + 24;

/// A version: 16 bytes, and an allocation that it has alone or shares.
pub(super) enum Version {
    /// None at all. Only ever a placeholder inside [`super::slots`].
    Absent,
    /// Packed bytes.
    Alone(Thin),
    /// One of the versions of a pack, by where it lies there.
    Shared(u32, Arc<Pack>),
}

const _: () = assert!(size_of::<Version>() == 16, "part of the cost of a key");

/// What a layer counts of a version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// Whether the key has a value by it.
    pub(super) live: bool,
    /// Bytes of the value.
    pub(super) value_bytes: u32,
    /// Memory that it takes, or keeps.
    pub(super) block_bytes: u32,
}

/// Packed versions one behind the other, each behind its length, in memory that goes with the last of
/// them: a start makes very many at once.
#[derive(Debug, Default)]
pub(super) struct Pack {
    bytes: Vec<u8>,
}

impl Pack {
    /// With room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Pack {
        Pack { bytes: Vec::with_capacity(bytes) }
    }

    /// Adds a version that gives its key a value, and says where it lies.
    pub(super) fn put(
        &mut self,
        at: Position,
        create: Revision,
        version: i64,
        lease: LeaseId,
        value: &[u8],
    ) -> (u32, Counted) {
        self.push(&Header::put(at, create, version, lease), value, true)
    }

    /// Adds a version that says its key is gone.
    pub(super) fn tombstone(&mut self, at: Position) -> (u32, Counted) {
        self.push(&Header::tombstone(at), &[], false)
    }

    fn push(&mut self, header: &Header, value: &[u8], live: bool) -> (u32, Counted) {
        let at = u32::try_from(self.bytes.len()).expect("a pack has less than 4 GiB");
        let header = header.bytes();
        let len = (header.len() + value.len()) as u32;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(value);
        let block_bytes = LENGTH_BYTES as u32 + len;
        (at, Counted { live, value_bytes: value.len() as u32, block_bytes })
    }

    /// Gives memory back that it will not need, where that is worth a copy.
    pub(super) fn shrink(&mut self) {
        if self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
    }

    #[inline]
    fn packed(&self, at: u32) -> Packed<'_> {
        let (length, rest) =
            self.bytes[at as usize..].split_first_chunk().expect("where a version lies");
        Packed(&rest[..u32::from_ne_bytes(*length) as usize])
    }
}

/// What stands before the value.
struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    len: usize,
}

impl Header {
    fn put(at: Position, create: Revision, version: i64, lease: LeaseId) -> Header {
        let first = version == 1 && create == at.0;
        let flags = if first { FIRST } else { 0 } | if lease.is_some() { LEASED } else { 0 };
        let mut header = Header::fixed(at, flags);
        if !first {
            header.push(&create.0.to_le_bytes());
            header.push(&version.to_le_bytes());
        }
        if lease.is_some() {
            header.push(&lease.0.to_le_bytes());
        }
        header
    }

    fn tombstone(at: Position) -> Header {
        Header::fixed(at, TOMBSTONE)
    }

    fn fixed(at: Position, flags: u8) -> Header {
        let mut header = Header { bytes: [0; HEADER_BYTES_MAX], len: 0 };
        header.push(&at.0.0.to_le_bytes());
        header.push(&at.1.to_le_bytes());
        header.push(&[flags]);
        header
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    #[inline]
    fn push(&mut self, field: &[u8]) {
        self.bytes[self.len..self.len + field.len()].copy_from_slice(field);
        self.len += field.len();
    }
}

/// ```text
/// offset  size  field
///      0     8  modified   little-endian, as all numbers here
///      8     4  sub        place inside the revision
///     12     1  flags      1 tombstone · 2 first of its life (create is modified, version is 1) · 4 leased
///     13    16  create, version   absent for a tombstone and a first version
///      .     8  lease             only when leased
///      .   len  value             up to the end of the allocation
/// ```
///
/// Most keys of most stores are written once and carry no lease, so 13 bytes of header are the rule,
/// and a value of 256 bytes fits, with the length of it all, a 288-byte block of glibc's allocator.
struct Packed<'a>(&'a [u8]);

impl Version {
    /// A version that gives the key a value.
    pub(super) fn put(
        at: Position,
        create: Revision,
        version: i64,
        lease: LeaseId,
        value: &[u8],
    ) -> Version {
        Version::Alone(Thin::concat(Header::put(at, create, version, lease).bytes(), value))
    }

    /// A version that says the key is gone.
    pub(super) fn tombstone(at: Position) -> Version {
        Version::Alone(Thin::concat(Header::tombstone(at).bytes(), &[]))
    }

    #[inline]
    fn packed(&self) -> Packed<'_> {
        match self {
            Version::Alone(bytes) => Packed(bytes),
            Version::Shared(at, pack) => pack.packed(*at),
            Version::Absent => unreachable!("that is no version"),
        }
    }

    pub(super) fn modified(&self) -> Revision {
        self.position().0
    }

    pub(super) fn position(&self) -> Position {
        self.packed().position()
    }

    /// Whether the key has a value by this version.
    pub(super) fn is_live(&self) -> bool {
        self.packed().is_live()
    }

    /// What a reader sees. A tombstone shows etcd's view of one: key and modified revision alone.
    #[inline]
    pub(super) fn view<'a>(&'a self, key: &'a [u8]) -> VersionRef<'a> {
        self.packed().view(key)
    }

    pub(super) fn counted(&self) -> Counted {
        let packed = self.packed();
        let bytes = LENGTH_BYTES + packed.0.len();
        let block_bytes = match self {
            Version::Shared(..) => bytes,
            _ => block_bytes(bytes),
        } as u32;
        let value_bytes = (packed.0.len() - packed.value_at()) as u32;
        Counted { live: packed.is_live(), value_bytes, block_bytes }
    }
}

impl<'a> Packed<'a> {
    fn position(&self) -> Position {
        let sub = self.0[SUB_AT..FLAGS_AT].try_into().expect("four bytes");
        (Revision(self.number(0)), u32::from_le_bytes(sub))
    }

    fn is_live(&self) -> bool {
        self.0[FLAGS_AT] & TOMBSTONE == 0
    }

    fn lease(&self) -> LeaseId {
        match self.0[FLAGS_AT] & LEASED {
            0 => LeaseId::NONE,
            _ => LeaseId(self.number(self.value_at() - 8)),
        }
    }

    #[inline]
    fn view(&self, key: &'a [u8]) -> VersionRef<'a> {
        let flags = self.0[FLAGS_AT];
        let (modified, sub) = self.position();
        let (create, version) = match flags & (FIRST | TOMBSTONE) {
            0 => (Revision(self.number(FIXED_BYTES)), self.number(FIXED_BYTES + 8)),
            FIRST => (modified, 1),
            _ => (Revision::ZERO, 0),
        };
        let value = &self.0[self.value_at()..];
        VersionRef { key, value, create, modified, sub, version, lease: self.lease() }
    }

    fn value_at(&self) -> usize {
        let flags = self.0[FLAGS_AT];
        FIXED_BYTES
            + if flags & (FIRST | TOMBSTONE) == 0 { 16 } else { 0 }
            + if flags & LEASED == 0 { 0 } else { 8 }
    }

    fn number(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }
}

/// What an allocation takes from glibc's allocator: eight bytes of its own, in steps of sixteen, never
/// less than two.
pub(super) fn block_bytes(len: usize) -> usize {
    (len + 8).next_multiple_of(16).max(32)
}

/// A version as readers see it: everything borrows from the store, nothing is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value; empty for a tombstone, but an empty value is legal for a live version too.
    pub value: &'a [u8],
    /// Revision at which the key came to life; zero for a tombstone.
    pub create: Revision,
    /// Revision of this version.
    pub modified: Revision,
    /// Place of this version inside its revision.
    pub sub: u32,
    /// How many puts since the key came to life, this one included; zero for a tombstone.
    pub version: i64,
    /// The lease that the key is bound to by this version.
    pub lease: LeaseId,
}

impl VersionRef<'_> {
    /// Whether this version says that the key is gone.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// Revision and place inside it.
    #[must_use]
    pub fn position(&self) -> Position {
        (self.modified, self.sub)
    }
}
