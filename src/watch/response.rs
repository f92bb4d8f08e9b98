//! The bytes of watch responses. What they say and when is the [hub](super::hub)'s.

use bytes::{BufMut, Bytes, BytesMut};
use cored_proto::etcdserverpb as pb;
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::Event;
use crate::keys::Revision;

/// Tags of `WatchResponse`: header (1) length-delimited, watch_id (2) and fragment (7) varints.
const HEADER_TAG: u8 = 1 << 3 | 2;
const WATCH_ID_TAG: u8 = 2 << 3;
const FRAGMENT_TAG: u8 = 7 << 3;

/// An encoded response header, as a field of a response: one serves many responses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head(Vec<u8>);

impl Head {
    pub(super) fn new(cluster: u64, member: u64, term: u64, revision: Revision) -> Head {
        let header = pb::ResponseHeader {
            cluster_id: cluster,
            member_id: member,
            revision: revision.0,
            raft_term: term,
        };
        let mut bytes = vec![HEADER_TAG];
        header.encode_length_delimited(&mut bytes).expect("a growing buffer takes everything");
        Head(bytes)
    }

    /// A response without events; its own header is left unset.
    pub(super) fn control(&self, response: &pb::WatchResponse) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.0.len() + response.encoded_len());
        bytes.put_slice(&self.0);
        response.encode(&mut bytes).expect("the buffer was made for it");
        bytes.freeze()
    }

    /// The length of a response with `events_len` bytes of events.
    fn len(&self, id: i64, is_fragment: bool, events_len: usize) -> usize {
        let id_len = if id == 0 { 0 } else { 1 + encoded_len_varint(id as u64) };
        self.0.len() + id_len + if is_fragment { 2 } else { 0 } + events_len
    }

    /// A response with events.
    fn events(&self, id: i64, events: &[&Event], previous: bool, more: bool) -> Bytes {
        let events_len = events.iter().map(|event| event.field_len(previous)).sum();
        let mut bytes = BytesMut::with_capacity(self.len(id, more, events_len));
        bytes.put_slice(&self.0);
        if id != 0 {
            bytes.put_u8(WATCH_ID_TAG);
            encode_varint(id as u64, &mut bytes);
        }
        if more {
            bytes.put_slice(&[FRAGMENT_TAG, 1]);
        }
        for event in events {
            event.put_field(&mut bytes, previous);
        }
        bytes.freeze()
    }

    /// Responses that carry `events`, each of whole revisions and about `bytes_wanted` long. With
    /// `fragment_bytes`, one that reaches this is cut into fragments below it, of at least one event.
    pub(super) fn responses(
        &self,
        id: i64,
        events: &[&Event],
        previous: bool,
        bytes_wanted: usize,
        fragment_bytes: Option<usize>,
        send: &mut dyn FnMut(Bytes),
    ) {
        let (mut first, mut len) = (0, 0);
        for (at, event) in events.iter().enumerate() {
            let begins = at > first && events[at - 1].revision != event.revision;
            if begins && len >= bytes_wanted {
                self.fragments(id, &events[first..at], previous, fragment_bytes, send);
                (first, len) = (at, 0);
            }
            len += event.field_len(previous);
        }
        self.fragments(id, &events[first..], previous, fragment_bytes, send);
    }

    fn fragments(
        &self,
        id: i64,
        events: &[&Event],
        previous: bool,
        fragment_bytes: Option<usize>,
        send: &mut dyn FnMut(Bytes),
    ) {
        let total: usize = events.iter().map(|event| event.field_len(previous)).sum();
        let limit = fragment_bytes.unwrap_or(usize::MAX);
        if self.len(id, false, total) < limit || events.len() < 2 {
            return send(self.events(id, events, previous, false));
        }
        let (mut first, mut len) = (0, 0);
        for (at, event) in events.iter().enumerate() {
            let more = event.field_len(previous);
            if at > first && self.len(id, true, len + more) >= limit {
                send(self.events(id, &events[first..at], previous, true));
                (first, len) = (at, 0);
            }
            len += more;
        }
        send(self.events(id, &events[first..], previous, false));
    }
}
