//! Numbers and strings in the bytes of a manifest, and their bounds.

use bytes::{Buf, BufMut};

/// The bytes end too early, or hold what no writer of this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed at byte {offset_bytes}")]
pub struct Malformed {
    /// Where reading stopped.
    pub offset_bytes: usize,
}

/// Appends a string: its length in four bytes, then itself.
pub(super) fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    out.put_u32_le(u32::try_from(string.len()).expect("keys and control records are below 4 GiB"));
    out.put_slice(string);
}

/// Reads fields one after the other.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, len: bytes.len() }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.need(4)?;
        Ok(self.rest.get_u32_le())
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.need(8)?;
        Ok(self.rest.get_u64_le())
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.need(8)?;
        Ok(self.rest.get_i64_le())
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u32()? as usize;
        self.need(len)?;
        let (string, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(string)
    }

    /// Reads as many items as the next four bytes say, each of `least_bytes` at least: a number that
    /// can not be true is no allocation.
    pub(super) fn many<T>(
        &mut self,
        least_bytes: usize,
        mut one: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        self.need(count.saturating_mul(least_bytes))?;
        (0..count).map(|_| one(self)).collect()
    }

    /// That nothing is left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    pub(super) fn malformed(&self) -> Malformed {
        Malformed { offset_bytes: self.len - self.rest.len() }
    }

    fn need(&self, bytes: usize) -> Result<(), Malformed> {
        if self.rest.len() < bytes { Err(self.malformed()) } else { Ok(()) }
    }
}
