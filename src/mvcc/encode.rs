//! A version as the protobuf message `mvccpb.KeyValue`, without building one: what clients are sent
//! is copied from the store once.

use bytes::BufMut;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::VersionRef;
use crate::keys::Revision;

/// Field tags of `mvccpb.KeyValue`; zero and empty fields are left out, as protobuf does.
const KEY: u8 = 1 << 3 | 2;
const CREATE: u8 = 2 << 3;
const MODIFIED: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;

impl VersionRef<'_> {
    /// The length of the encoded message.
    #[inline]
    #[must_use]
    pub fn kv_len(&self) -> usize {
        let number = |n: i64| if n == 0 { 0 } else { 1 + encoded_len_varint(n as u64) };
        let field = |bytes: &[u8]| match bytes.len() {
            0 => 0,
            len => 1 + encoded_len_varint(len as u64) + len,
        };
        field(self.key)
            + number(self.create.0)
            + number(self.modified.0)
            + number(self.version)
            + field(self.value)
            + number(self.lease.0)
    }

    /// Writes the message.
    #[inline]
    pub fn put_kv(&self, out: &mut impl BufMut) {
        put_bytes(KEY, self.key, out);
        put_number(CREATE, self.create.0, out);
        put_number(MODIFIED, self.modified.0, out);
        put_number(VERSION, self.version, out);
        put_bytes(VALUE, self.value, out);
        put_number(LEASE, self.lease.0, out);
    }

    /// Writes the value that etcd's backend keeps for this version: the message, which for a tombstone
    /// holds the key alone.
    pub fn put_value(&self, out: &mut impl BufMut) {
        let modified = if self.is_tombstone() { Revision::ZERO } else { self.modified };
        VersionRef { modified, ..*self }.put_kv(out);
    }
}

#[inline]
fn put_number(tag: u8, n: i64, out: &mut impl BufMut) {
    if n != 0 {
        out.put_u8(tag);
        encode_varint(n as u64, out);
    }
}

#[inline]
fn put_bytes(tag: u8, bytes: &[u8], out: &mut impl BufMut) {
    if !bytes.is_empty() {
        out.put_u8(tag);
        encode_varint(bytes.len() as u64, out);
        out.put_slice(bytes);
    }
}
