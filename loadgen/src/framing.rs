//! gRPC's framing of messages in a byte stream: one flag byte, four length bytes, the message.
//! It knows nothing of HTTP/2 and of what the messages mean.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// Flag and length before each message.
pub const PREFIX_BYTES: usize = 5;

/// The message with its prefix, in one allocation.
#[must_use]
pub fn frame(message: &impl Message) -> Bytes {
    let len_bytes = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + len_bytes);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(len_bytes).expect("a request is far below 4 GiB"));
    message.encode(&mut framed).expect("the buffer grows as needed");
    framed.freeze()
}

/// Why a byte stream is not a sequence of messages.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FramingError {
    /// The reader offers no compression, so the peer must not use it.
    #[error("a compressed message, though none was offered")]
    Compressed,
    /// The stream ended inside a message.
    #[error("the stream ended inside a message")]
    Truncated,
}

/// Cuts a byte stream into messages. A message that arrives whole in one chunk is not copied.
#[derive(Debug, Default)]
pub struct Messages {
    pending: Bytes,
}

impl Messages {
    /// Adds what arrived next.
    pub fn push(&mut self, chunk: Bytes) {
        if self.pending.is_empty() {
            self.pending = chunk;
        } else {
            let mut joined = BytesMut::with_capacity(self.pending.len() + chunk.len());
            joined.extend_from_slice(&self.pending);
            joined.extend_from_slice(&chunk);
            self.pending = joined.freeze();
        }
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// [`FramingError::Compressed`] when the flag byte is set.
    pub fn take(&mut self) -> Result<Option<Bytes>, FramingError> {
        let Some((&[flag, a, b, c, d], rest)) = self.pending.split_first_chunk() else {
            return Ok(None);
        };
        if flag != 0 {
            return Err(FramingError::Compressed);
        }
        let len_bytes = u32::from_be_bytes([a, b, c, d]) as usize;
        if rest.len() < len_bytes {
            return Ok(None);
        }
        let mut message = self.pending.split_to(PREFIX_BYTES + len_bytes);
        Ok(Some(message.split_off(PREFIX_BYTES)))
    }

    /// To be asked when the stream has ended.
    ///
    /// # Errors
    /// [`FramingError::Truncated`] when part of a message is left.
    pub fn finish(&self) -> Result<(), FramingError> {
        if self.pending.is_empty() { Ok(()) } else { Err(FramingError::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cored_proto::etcdserverpb::PutRequest;

    #[test]
    fn messages_survive_every_cut_of_the_stream() {
        let put = |n: u8| PutRequest { key: Bytes::from(vec![n; 3]), ..PutRequest::default() };
        let stream: Vec<u8> = (0..3).flat_map(|n| frame(&put(n)).to_vec()).collect();
        for cut in 0..=stream.len() {
            let mut messages = Messages::default();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                messages.push(Bytes::copy_from_slice(part));
                while let Some(message) = messages.take().unwrap() {
                    seen.push(PutRequest::decode(message).unwrap());
                }
            }
            assert_eq!(seen, [put(0), put(1), put(2)], "cut at {cut}");
            assert_eq!(messages.finish(), Ok(()));
        }
    }

    #[test]
    fn an_empty_message_is_a_message() {
        let mut messages = Messages::default();
        messages.push(frame(&PutRequest::default()));
        assert_eq!(messages.take(), Ok(Some(Bytes::new())));
        assert_eq!(messages.take(), Ok(None));
    }

    #[test]
    fn compression_and_truncation_are_errors() {
        let mut messages = Messages::default();
        messages.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(messages.take(), Err(FramingError::Compressed));
        let mut messages = Messages::default();
        messages.push(Bytes::from_static(&[0, 0, 0, 0, 2, 9]));
        assert_eq!(messages.take(), Ok(None));
        assert_eq!(messages.finish(), Err(FramingError::Truncated));
    }
}
