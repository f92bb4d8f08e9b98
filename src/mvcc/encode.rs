//! A version as the protobuf message `mvccpb.KeyValue`, without building one: what clients are sent
//! is copied from the store once.

use bytes::BufMut;
use prost::encoding::encoded_len_varint;

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
        self.put_behind(Small::default(), out);
    }

    /// Writes the message, `len` bytes, as field `tag` of a larger one.
    #[inline]
    pub fn put_field(&self, tag: u8, len: usize, out: &mut impl BufMut) {
        let mut small = Small::default();
        small.length(tag, len);
        self.put_behind(small, out);
    }

    #[inline]
    fn put_behind(&self, mut small: Small, out: &mut impl BufMut) {
        small.put_bytes(KEY, self.key, out);
        small.number(CREATE, self.create.0);
        small.number(MODIFIED, self.modified.0);
        small.number(VERSION, self.version);
        small.put_bytes(VALUE, self.value, out);
        small.number(LEASE, self.lease.0);
        small.put(out);
    }

    /// Writes the value that etcd's backend keeps for this version: the message, which for a tombstone
    /// holds the key alone.
    pub fn put_value(&self, out: &mut impl BufMut) {
        let modified = if self.is_tombstone() { Revision::ZERO } else { self.modified };
        VersionRef { modified, ..*self }.put_kv(out);
    }
}

/// Fields of a few bytes that go out together with what follows them: a buffer that grows looks for room
/// once for each write, and so for each byte of a number.
struct Small {
    bytes: [u8; SMALL_BYTES],
    len: usize,
}

/// Between two fields of bytes there are at most three numbers and the head of the next one, each with its
/// tag and ten bytes.
const SMALL_BYTES: usize = 4 * 11;

impl Default for Small {
    #[inline]
    fn default() -> Small {
        Small { bytes: [0; SMALL_BYTES], len: 0 }
    }
}

impl Small {
    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.push(n as u8);
    }

    #[inline]
    fn length(&mut self, tag: u8, len: usize) {
        self.push(tag);
        self.varint(len as u64);
    }

    #[inline]
    fn number(&mut self, tag: u8, n: i64) {
        if n != 0 {
            self.push(tag);
            self.varint(n as u64);
        }
    }

    #[inline]
    fn put_bytes(&mut self, tag: u8, bytes: &[u8], out: &mut impl BufMut) {
        if !bytes.is_empty() {
            self.length(tag, bytes.len());
            self.put(out);
            out.put_slice(bytes);
        }
    }

    #[inline]
    fn put(&mut self, out: &mut impl BufMut) {
        out.put_slice(&self.bytes[..self.len]);
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;
    use crate::keys::LeaseId;

    /// The longest numbers and the empty fields, compared with the message that prost makes.
    #[test]
    fn it_is_the_message_that_prost_writes() {
        for n in [0, 1, 127, 128, i64::MAX, -1] {
            for (key, value) in [(&b"k"[..], &b""[..]), (b"", b"v"), (b"key", &[7; 300])] {
                let (create, modified) = (Revision(n), Revision(n));
                let lease = LeaseId(n);
                let version =
                    VersionRef { key, value, create, modified, sub: 0, version: n, lease };
                let message = cored_proto::mvccpb::KeyValue {
                    key: Bytes::from_static(key),
                    value: Bytes::from_static(value),
                    create_revision: n,
                    mod_revision: n,
                    version: n,
                    lease: n,
                };
                let expected = message.encode_to_vec();
                let mut out = Vec::new();
                version.put_kv(&mut out);
                assert_eq!(out, expected);
                assert_eq!(version.kv_len(), expected.len());
                let mut field = Vec::new();
                version.put_field(0x12, expected.len(), &mut field);
                let mut whole = vec![0x12];
                prost::encoding::encode_varint(expected.len() as u64, &mut whole);
                whole.extend(expected);
                assert_eq!(field, whole);
            }
        }
    }
}
