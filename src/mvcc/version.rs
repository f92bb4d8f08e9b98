//! One version of one key: its packed bytes, and the view that readers get of it.
//!
//! This file knows nothing of the other versions of the key, of indexes or of who may see what.

use std::collections::VecDeque;

use bytes::Bytes;

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

/// A version: 16 bytes and an allocation.
pub(super) enum Version {
    Packed(Box<[u8]>),
    Boxed(Box<Boxed>),
}

const _: () = assert!(size_of::<Version>() == 16, "part of the cost of a key");

/// What has no place in 16 bytes.
pub(super) enum Boxed {
    Shared(Shared),
    /// Several versions in the place of one: only in a key's slot (see [`super::slots`]), which has no
    /// room to tell the two apart, and never handed out as a version.
    List(VecDeque<Version>),
}

const _: () = assert!(size_of::<Boxed>() <= 40, "part of the cost of a list");

/// A version whose value lies in memory that many share, and that goes with the last of them.
///
/// At a start the values are where the logs were read to: to copy them would take the memory twice.
pub(super) struct Shared {
    value: Bytes,
    fields: Box<Fields>,
}

#[derive(Clone, Copy)]
struct Fields {
    at: Position,
    create: Revision,
    version: i64,
    lease: LeaseId,
}

/// Shorter values are copied: they cost less than a [`Shared`].
const SHARED_BYTES_MIN: usize = 64;

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
        Version::Packed(bytes.into_boxed_slice())
    }

    /// As [`Version::put`], of a value whose memory is there anyway.
    pub(super) fn share(
        at: Position,
        create: Revision,
        version: i64,
        lease: LeaseId,
        value: Bytes,
    ) -> Version {
        if value.len() < SHARED_BYTES_MIN {
            return Version::put(at, create, version, lease, &value);
        }
        let fields = Box::new(Fields { at, create, version, lease });
        Version::Boxed(Box::new(Boxed::Shared(Shared { value, fields })))
    }

    /// A version that says the key is gone.
    pub(super) fn tombstone(at: Position) -> Version {
        let mut bytes = Vec::with_capacity(FIXED_BYTES);
        push_fixed(&mut bytes, at, TOMBSTONE);
        Version::Packed(bytes.into_boxed_slice())
    }

    /// No version at all; costs no allocation. Only ever a placeholder inside [`super::slots`].
    pub(super) fn absent() -> Version {
        Version::Packed(Box::default())
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Version::Packed(bytes) if bytes.is_empty())
    }

    pub(super) fn modified(&self) -> Revision {
        self.position().0
    }

    pub(super) fn position(&self) -> Position {
        match self {
            Version::Packed(bytes) => Packed(bytes).position(),
            Version::Boxed(boxed) => boxed.shared().fields.at,
        }
    }

    /// Whether the key has a value by this version.
    pub(super) fn is_live(&self) -> bool {
        match self {
            Version::Packed(bytes) => Packed(bytes).is_live(),
            Version::Boxed(_) => true,
        }
    }

    /// What a reader sees. A tombstone shows etcd's view of one: key and modified revision alone.
    #[inline]
    pub(super) fn view<'a>(&'a self, key: &'a [u8]) -> VersionRef<'a> {
        match self {
            Version::Packed(bytes) => Packed(bytes).view(key),
            Version::Boxed(boxed) => {
                let Shared { value, fields } = boxed.shared();
                let Fields { at: (modified, sub), create, version, lease } = **fields;
                VersionRef { key, value, create, modified, sub, version, lease }
            }
        }
    }

    /// Memory that the version takes, or keeps.
    pub(super) fn block_bytes(&self) -> usize {
        match self {
            Version::Packed(bytes) => block_bytes(bytes.len()),
            Version::Boxed(boxed) => {
                block_bytes(size_of::<Boxed>())
                    + block_bytes(size_of::<Fields>())
                    + boxed.shared().value.len()
            }
        }
    }

    /// Bytes of the value.
    pub(super) fn value_len(&self) -> usize {
        match self {
            Version::Packed(bytes) => bytes.len() - Packed(bytes).value_at(),
            Version::Boxed(boxed) => boxed.shared().value.len(),
        }
    }
}

impl Boxed {
    fn shared(&self) -> &Shared {
        match self {
            Boxed::Shared(shared) => shared,
            Boxed::List(_) => unreachable!("a list is no version"),
        }
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
