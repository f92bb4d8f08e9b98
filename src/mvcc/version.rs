//! One version of one key: its packed bytes, and the view that readers get of it.
//!
//! This file knows nothing of the other versions of the key, of indexes or of who may see what.

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

/// A version in one allocation.
///
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
/// and a value of 256 bytes fits a 288-byte block of glibc's allocator.
pub(super) struct Version(Box<[u8]>);

impl Version {
    /// A version that gives the key a value.
    pub(super) fn put(
        at: Position,
        create: Revision,
        version: i64,
        lease: LeaseId,
        value: &[u8],
    ) -> Version {
        let first = version == 1 && create == at.0;
        let flags = if first { FIRST } else { 0 } | if lease.is_some() { LEASED } else { 0 };
        let header = FIXED_BYTES + if first { 0 } else { 16 } + if lease.is_some() { 8 } else { 0 };
        let mut bytes = Vec::with_capacity(header + value.len());
        push_fixed(&mut bytes, at, flags);
        if !first {
            bytes.extend_from_slice(&create.0.to_le_bytes());
            bytes.extend_from_slice(&version.to_le_bytes());
        }
        if lease.is_some() {
            bytes.extend_from_slice(&lease.0.to_le_bytes());
        }
        bytes.extend_from_slice(value);
        Version(bytes.into_boxed_slice())
    }

    /// A version that says the key is gone.
    pub(super) fn tombstone(at: Position) -> Version {
        let mut bytes = Vec::with_capacity(FIXED_BYTES);
        push_fixed(&mut bytes, at, TOMBSTONE);
        Version(bytes.into_boxed_slice())
    }

    /// No version at all; costs no allocation. Only ever a placeholder inside [`super::slots`].
    pub(super) fn absent() -> Version {
        Version(Box::default())
    }

    pub(super) fn is_absent(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn modified(&self) -> Revision {
        Revision(self.number(0))
    }

    pub(super) fn position(&self) -> Position {
        let sub = self.0[SUB_AT..FLAGS_AT].try_into().expect("four bytes");
        (self.modified(), u32::from_le_bytes(sub))
    }

    /// Whether the key has a value by this version.
    pub(super) fn is_live(&self) -> bool {
        self.0[FLAGS_AT] & TOMBSTONE == 0
    }

    pub(super) fn lease(&self) -> LeaseId {
        match self.0[FLAGS_AT] & LEASED {
            0 => LeaseId::NONE,
            _ => LeaseId(self.number(self.value_at() - 8)),
        }
    }

    /// What a reader sees. A tombstone shows etcd's view of one: key and modified revision alone.
    #[inline]
    pub(super) fn view<'a>(&'a self, key: &'a [u8]) -> VersionRef<'a> {
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

    /// Memory that the version takes.
    pub(super) fn block_bytes(&self) -> usize {
        block_bytes(self.0.len())
    }

    /// Bytes of the value.
    pub(super) fn value_len(&self) -> usize {
        self.0.len() - self.value_at()
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

fn push_fixed(bytes: &mut Vec<u8>, at: Position, flags: u8) {
    bytes.extend_from_slice(&at.0.0.to_le_bytes());
    bytes.extend_from_slice(&at.1.to_le_bytes());
    bytes.push(flags);
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
