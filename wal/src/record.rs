//! The bytes of one frame: encode, finish, check, decode. A record is one frame, or several when it
//! is longer than a group. This file knows no file and no order beyond the frame before.

use crate::buffer::Buffer;
use crate::segment::Key;

/// The longest record: 1 GiB.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 40;

/// Frames begin at multiples of this.
pub const FRAME_ALIGN: usize = 8;

const _: () = assert!(HEADER_BYTES.is_multiple_of(FRAME_ALIGN), "payloads must start aligned too");

/// The place of a record in its log: the first is 1, each later one is one more. Zero stands for
/// "none yet".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

/// The first frame of a record.
pub const FIRST: u8 = 1;
/// The last frame of a record.
pub const LAST: u8 = 2;
/// Carried state at the head of a segment, whole in one frame. With [`LAST`], the last of the head.
pub const CARRY: u8 = 4;
/// The seal of an idle log: no payload, only `acked_through`.
pub const SEAL: u8 = 8;

/// The bytes before the payload of every frame, little-endian.
///
/// ```text
/// offset  size  field
///      0     4  crc32c         over bytes 4..40 and the payload, seeded by the segment's key
///      4     4  mark           from the segment's key: which use of which file this frame is for
///      8     8  sequence       of the record; carried state and seals repeat the latest begun one
///     16     8  acked_through  every record up to this was durable when the frame was written
///     24     4  previous       crc32c of the frame before, across groups and segments; 0 at first
///     28     4  len_bytes      payload in this frame
///     32     2  lane
///     34     1  kind
///     35     1  flags          first 1, last 2, carry 4 (or 6), seal 8
///     36     4  place          where in its file the frame was meant to be, in units of 8 bytes
///     40   len  payload        then zeros up to the next multiple of 8
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Header {
    /// The record's place in the log.
    pub sequence: u64,
    /// Every record up to this one was durable when the frame was written.
    pub acked_through: u64,
    /// Checksum of the frame before.
    pub previous: u32,
    /// Payload bytes in this frame.
    pub len_bytes: u32,
    /// The caller's lane.
    pub lane: u16,
    /// The caller's kind.
    pub kind: u8,
    /// [`FIRST`], [`LAST`], [`CARRY`], [`SEAL`].
    pub flags: u8,
    /// Where in its file the frame was meant to be, in units of [`FRAME_ALIGN`].
    pub place: u32,
}

impl Header {
    /// Whether the frame was meant for this byte of its file. A write can go astray and be whole.
    #[must_use]
    pub fn belongs_at(&self, offset_bytes: u64) -> bool {
        u64::from(self.place) * FRAME_ALIGN as u64 == offset_bytes
    }
}

/// A frame that passed every check.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its own checksum: what the next frame repeats as `previous`.
    pub crc: u32,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Bytes that a frame with this much payload takes, padding included.
#[must_use]
pub fn frame_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(FRAME_ALIGN)
}

/// Begins a frame in a forming group. What depends on the moment and place of the write (checksum,
/// mark, `acked_through`, `previous`, place) stays zero until [`finish`]. The caller appends exactly
/// `header.len_bytes` and pads to [`FRAME_ALIGN`].
pub(crate) fn begin(buffer: &mut Buffer, header: &Header) {
    let mut bytes = [0; HEADER_BYTES];
    bytes[8..16].copy_from_slice(&header.sequence.to_le_bytes());
    bytes[28..32].copy_from_slice(&header.len_bytes.to_le_bytes());
    bytes[32..34].copy_from_slice(&header.lane.to_le_bytes());
    bytes[34] = header.kind;
    bytes[35] = header.flags;
    buffer.extend(&bytes);
}

/// Completes every frame of a group that is about to be written at `offset_bytes` of its file, and
/// returns the checksum of the last one.
pub(crate) fn finish(
    group: &mut [u8],
    key: Key,
    offset_bytes: u64,
    acked_through: u64,
    mut previous: u32,
) -> u32 {
    let first_place = offset_bytes as usize / FRAME_ALIGN;
    let mut at = 0;
    while at < group.len() {
        let frame = &mut group[at..];
        let len_bytes = read_u32(frame, 28) as usize;
        let place = u32::try_from(first_place + at / FRAME_ALIGN).expect("at most 1 GiB");
        frame[4..8].copy_from_slice(&key.mark.to_le_bytes());
        frame[16..24].copy_from_slice(&acked_through.to_le_bytes());
        frame[24..28].copy_from_slice(&previous.to_le_bytes());
        frame[36..40].copy_from_slice(&place.to_le_bytes());
        previous = crc32c::crc32c_append(key.seed, &frame[4..HEADER_BYTES + len_bytes]);
        frame[0..4].copy_from_slice(&previous.to_le_bytes());
        at += frame_bytes(len_bytes);
    }
    previous
}

/// Whether the bytes at `at` begin like a frame of this segment. Only a hint: nothing is checked.
#[must_use]
pub fn is_marked(bytes: &[u8], at: usize, key: Key) -> bool {
    bytes.len() >= at + HEADER_BYTES && read_u32(bytes, at + 4) == key.mark
}

/// The frame at `at`, if its mark, shape and checksum are right. Whether it belongs there is another
/// question.
#[must_use]
pub fn decode(bytes: &[u8], at: usize, key: Key) -> Option<Frame<'_>> {
    if !is_marked(bytes, at, key) {
        return None;
    }
    let frame = &bytes[at..];
    let header = header(frame);
    let end = HEADER_BYTES.checked_add(header.len_bytes as usize)?;
    if end > frame.len() || !is_sane(&header) {
        return None;
    }
    let crc = read_u32(frame, 0);
    let sum = crc32c::crc32c_append(key.seed, &frame[4..end]);
    (crc == sum).then_some(Frame { header, crc, payload: &frame[HEADER_BYTES..end] })
}

/// The fields of a header, unchecked. `frame` holds at least [`HEADER_BYTES`].
pub(crate) fn header(frame: &[u8]) -> Header {
    Header {
        sequence: read_u64(frame, 8),
        acked_through: read_u64(frame, 16),
        previous: read_u32(frame, 24),
        len_bytes: read_u32(frame, 28),
        lane: u16::from_le_bytes([frame[32], frame[33]]),
        kind: frame[34],
        flags: frame[35],
        place: read_u32(frame, 36),
    }
}

fn is_sane(header: &Header) -> bool {
    match header.flags {
        flags if flags & !(FIRST | LAST) == 0 => header.acked_through < header.sequence,
        SEAL => header.len_bytes == 0 && header.acked_through <= header.sequence,
        flags if flags & !LAST == CARRY => header.acked_through <= header.sequence,
        _ => false,
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_frames(key: Key) -> Buffer {
        let mut buffer = Buffer::with_capacity(4096);
        for (sequence, payload) in [(7, b"seven".as_slice()), (8, b"")] {
            let header = Header {
                sequence,
                len_bytes: payload.len() as u32,
                lane: 3,
                kind: 9,
                flags: FIRST | LAST,
                ..Header::default()
            };
            begin(&mut buffer, &header);
            buffer.extend(payload);
            buffer.pad_to(FRAME_ALIGN);
        }
        finish(&mut buffer, key, 8192, 6, 77);
        buffer
    }

    #[test]
    fn what_is_written_is_read_and_chained() {
        let key = Key::new(1, 2, 3, 4);
        let bytes = two_frames(key);
        let first = decode(&bytes, 0, key).expect("valid");
        assert_eq!(first.payload, b"seven");
        assert_eq!(first.header.previous, 77);
        assert!(first.header.belongs_at(8192) && !first.header.belongs_at(4096));
        assert_eq!((first.header.lane, first.header.kind), (3, 9));
        let second = decode(&bytes, frame_bytes(5), key).expect("valid");
        assert_eq!(second.header.previous, first.crc);
        assert!(second.header.belongs_at(8192 + frame_bytes(5) as u64));
        assert_eq!(second.header.acked_through, 6);
        assert_eq!(second.payload, b"");
    }

    #[test]
    fn a_frame_is_valid_for_one_use_of_one_file_only() {
        let bytes = two_frames(Key::new(1, 2, 3, 4));
        for other in
            [Key::new(0, 2, 3, 4), Key::new(1, 3, 3, 4), Key::new(1, 2, 4, 4), Key::new(1, 2, 3, 5)]
        {
            assert!(decode(&bytes, 0, other).is_none());
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        assert!(decode(&[0; 4096], 0, Key::new(0, 0, 0, 0)).is_none());
    }
}
