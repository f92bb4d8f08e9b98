//! One change of one key, encoded once and copied to each watcher. Knows protobuf, not watchers.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::keys::Revision;
use crate::mvcc::{Position, VersionRef};

/// `WatchResponse.events`: field 11, length-delimited.
const EVENTS_TAG: u8 = 11 << 3 | 2;
/// `Event.type`: field 1, varint; followed by the type's number.
const TYPE_DELETE: [u8; 2] = [1 << 3, 1];
/// `Event.kv` and `Event.prev_kv`: fields 2 and 3, length-delimited.
const KV_TAG: u8 = 2 << 3 | 2;
const PREV_KV_TAG: u8 = 3 << 3 | 2;

/// One change. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The revision that made it.
    pub revision: Revision,
    /// Its place inside the revision.
    pub sub: u32,
    /// Whether the key was deleted.
    pub delete: bool,
    /// An encoded `mvccpb.Event`: its type and `kv` in the first `plain_bytes`, then `prev_kv` if
    /// there is one. So both forms of the event are a prefix of the same bytes.
    body: Bytes,
    plain_bytes: u32,
}

impl Event {
    /// A key got a value; `before` is the live version that it replaces, if that is wanted.
    #[must_use]
    pub fn put(version: &VersionRef<'_>, before: Option<&VersionRef<'_>>) -> Event {
        Event::new(version, false, before)
    }

    /// A key was deleted; `before` is its last live version, if that is wanted.
    #[must_use]
    pub fn delete(
        key: &[u8],
        revision: Revision,
        sub: u32,
        before: Option<&VersionRef<'_>>,
    ) -> Event {
        // etcd shows a deletion as a pair of which only key and modified revision are set.
        let gone = VersionRef {
            key,
            value: b"",
            create: Revision::ZERO,
            modified: revision,
            sub,
            version: 0,
            lease: crate::keys::LeaseId::NONE,
        };
        Event::new(&gone, true, before)
    }

    fn new(version: &VersionRef<'_>, delete: bool, before: Option<&VersionRef<'_>>) -> Event {
        let type_bytes = if delete { TYPE_DELETE.len() } else { 0 };
        let kv_bytes = version.kv_len();
        let plain_bytes = type_bytes + field_len(kv_bytes);
        let before_bytes = before.map(VersionRef::kv_len);
        let mut body = BytesMut::with_capacity(plain_bytes + before_bytes.map_or(0, field_len));
        if delete {
            body.put_slice(&TYPE_DELETE);
        }
        version.put_field(KV_TAG, kv_bytes, &mut body);
        if let (Some(before), Some(bytes)) = (before, before_bytes) {
            before.put_field(PREV_KV_TAG, bytes, &mut body);
        }
        Event {
            revision: version.modified,
            sub: version.sub,
            delete,
            body: body.freeze(),
            plain_bytes: u32::try_from(plain_bytes).expect("keys and values are bounded"),
        }
    }

    /// Where it stands in the order of all changes.
    #[must_use]
    pub fn position(&self) -> Position {
        (self.revision, self.sub)
    }

    /// Roughly how much memory it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len() + size_of::<Event>()
    }

    /// Whether it carries the version before.
    #[must_use]
    pub fn has_previous(&self) -> bool {
        self.body.len() > self.plain_bytes as usize
    }

    /// How long it is as a field of a `WatchResponse`.
    #[must_use]
    pub fn field_len(&self, previous: bool) -> usize {
        field_len(self.part(previous).len())
    }

    /// Writes itself as a field of a `WatchResponse`, with the version before if that is wanted and
    /// known. `out` must have room for [`Event::field_len`].
    #[inline]
    pub fn put_field(&self, out: &mut BytesMut, previous: bool) {
        let part = self.part(previous);
        out.put_u8(EVENTS_TAG);
        encode_varint(part.len() as u64, out);
        out.put_slice(part);
    }

    fn part(&self, previous: bool) -> &[u8] {
        if previous { &self.body } else { &self.body[..self.plain_bytes as usize] }
    }
}

/// A one-byte tag, a length, and so many bytes.
fn field_len(bytes: usize) -> usize {
    1 + encoded_len_varint(bytes as u64) + bytes
}

#[cfg(test)]
mod tests {
    use cored_proto::{etcdserverpb as pb, mvccpb};
    use prost::Message as _;

    use super::*;
    use crate::keys::LeaseId;

    fn version<'a>(value: &'a [u8], modified: i64, count: i64, lease: i64) -> VersionRef<'a> {
        VersionRef {
            key: b"key",
            value,
            create: Revision(modified - count + 1),
            modified: Revision(modified),
            sub: 3,
            version: count,
            lease: LeaseId(lease),
        }
    }

    fn decoded(event: &Event, previous: bool) -> mvccpb::Event {
        let mut bytes = BytesMut::new();
        event.put_field(&mut bytes, previous);
        assert_eq!(bytes.len(), event.field_len(previous));
        pb::WatchResponse::decode(bytes.freeze()).expect("well-formed").events.remove(0)
    }

    #[test]
    fn a_put_is_what_prost_makes_of_it() {
        let long = vec![7; 300];
        let (now, before) = (version(&long, 1 << 40, 2, -1), version(b"", 9, 1, 0));
        let event = Event::put(&now, Some(&before));
        assert_eq!(event.position(), (Revision(1 << 40), 3));

        let seen = decoded(&event, true);
        let kv = seen.kv.expect("always there");
        assert_eq!((kv.key.as_ref(), kv.value.len(), kv.lease), (&b"key"[..], 300, -1));
        assert_eq!((kv.create_revision, kv.mod_revision), ((1 << 40) - 1, 1 << 40));
        assert_eq!(kv.version, 2);
        let prev = seen.prev_kv.expect("asked for");
        assert_eq!((prev.mod_revision, prev.version, prev.value.len()), (9, 1, 0));
        assert_eq!(decoded(&event, false).prev_kv, None, "not asked for");
        assert!(!Event::put(&now, None).has_previous());
    }

    #[test]
    fn a_deletion_shows_key_and_modified_revision_alone() {
        let event = Event::delete(b"key", Revision(7), 1, Some(&version(b"old", 6, 1, 0)));
        let expected = mvccpb::KeyValue {
            key: b"key".to_vec().into(),
            mod_revision: 7,
            ..mvccpb::KeyValue::default()
        };
        let seen = decoded(&event, true);
        assert_eq!(seen.r#type, 1);
        assert_eq!(seen.kv, Some(expected));
        assert_eq!(seen.prev_kv.map(|kv| kv.mod_revision), Some(6));
    }
}
