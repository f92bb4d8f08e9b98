//! Whether the store still holds what it acknowledged. During the load each client notes its acknowledged
//! and its unanswered writes; afterwards every key it wrote is read and compared. It knows no network.
//!
//! The rules, for one key:
//! - what is found must not be older than the newest acknowledged write;
//! - at that very revision the value must be the one that was written;
//! - something newer is in order if a write without an answer explains it, and *foreign* otherwise: that is for the
//!   user to judge, who knows whether anybody else writes here.

use std::collections::HashMap;

use crate::workload::Write;

/// The head of each value that tells which write made it: the tag in hexadecimal.
pub const TAG_BYTES: usize = 16;

/// Writes `tag` over the first [`TAG_BYTES`] of a value at least that long.
pub fn write_tag(value: &mut [u8], tag: u64) {
    for (i, byte) in value[..TAG_BYTES].iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(tag >> (60 - 4 * i)) as usize & 15];
    }
}

/// The tag that a value begins with, if it does.
#[must_use]
pub fn read_tag(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.get(..TAG_BYTES)?).ok()?;
    u64::from_str_radix(text, 16).ok()
}

/// What is known of one key.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Revision of the newest acknowledged write; 0 for none.
    revision: i64,
    /// What that write left; no tag after a deletion.
    tag: Option<u64>,
    /// Writes whose outcome nobody told.
    open_tags: Vec<u64>,
    /// Deletions whose outcome nobody told.
    open_deletion: bool,
}

/// The notes of one client, or of many after [`Acknowledged::merge`].
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    keys: HashMap<u64, Known>,
    last_revision: i64,
    out_of_order: u64,
}

impl Acknowledged {
    /// A write that the server answered for, with the revision it gave.
    ///
    /// One client's writes follow each other, so their revisions must grow; those that do not are counted.
    pub fn written(&mut self, key: u64, write: Write, revision: i64) {
        let (keys, tag) = match write {
            Write::None => return,
            Write::Value { tag, keys } => (keys, Some(tag)),
            Write::Deletion => (1, None),
        };
        // A deletion of nothing makes no revision and repeats the last one.
        let in_order = revision > self.last_revision
            || (write == Write::Deletion && revision == self.last_revision);
        self.out_of_order += u64::from(!in_order);
        self.last_revision = self.last_revision.max(revision);
        for key in key..key + keys {
            let known = self.keys.entry(key).or_default();
            if revision >= known.revision {
                (known.revision, known.tag) = (revision, tag);
            }
        }
    }

    /// A write that may or may not have happened.
    pub fn unanswered(&mut self, key: u64, write: Write) {
        match write {
            Write::None => {}
            Write::Value { tag, keys } => {
                for key in key..key + keys {
                    self.keys.entry(key).or_default().open_tags.push(tag);
                }
            }
            Write::Deletion => self.keys.entry(key).or_default().open_deletion = true,
        }
    }

    /// Adds another client's notes.
    pub fn merge(&mut self, other: Acknowledged) {
        self.out_of_order += other.out_of_order;
        for (key, theirs) in other.keys {
            let mine = self.keys.entry(key).or_default();
            if theirs.revision > mine.revision {
                (mine.revision, mine.tag) = (theirs.revision, theirs.tag);
            }
            mine.open_tags.extend(theirs.open_tags);
            mine.open_deletion |= theirs.open_deletion;
        }
    }

    /// The numbers of all keys that were written, in order.
    #[must_use]
    pub fn key_numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.keys.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Judges one key as it was read back; `None` when it is absent, else its revision and the tag of its
    /// value. Values too short for a tag are judged by revision alone: give `tagged` as false.
    pub fn check(
        &self,
        key: u64,
        found: Option<(i64, Option<u64>)>,
        tagged: bool,
        verdict: &mut Verdict,
    ) {
        let Some(known) = self.keys.get(&key) else { return };
        verdict.keys += 1;
        let (count, what) = match found {
            None if known.tag.is_none() || known.open_deletion => return,
            None => (&mut verdict.lost, "absent".to_owned()),
            Some((revision, _)) if revision < known.revision => {
                (&mut verdict.lost, format!("found revision {revision}"))
            }
            Some((revision, tag)) if revision == known.revision => {
                if !tagged || tag == known.tag {
                    return;
                }
                (&mut verdict.wrong, "found another value at that revision".to_owned())
            }
            Some((_, Some(tag))) if tagged && known.open_tags.contains(&tag) => return,
            // Without tags an open write may explain anything newer.
            Some(_) if !tagged && !known.open_tags.is_empty() => return,
            Some(_) => {
                verdict.foreign += 1;
                return;
            }
        };
        *count += 1;
        if verdict.examples.len() < EXAMPLES_MAX {
            verdict.examples.push(format!(
                "key number {key}: revision {} was acknowledged, {what}",
                known.revision
            ));
        }
    }

    /// A verdict to begin with, before any key is checked.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict { out_of_order: self.out_of_order, ..Verdict::default() }
    }
}

/// Faults that are told one by one.
const EXAMPLES_MAX: usize = 10;

/// What reading everything back has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Keys that were compared.
    pub keys: u64,
    /// Acknowledged writes that are gone.
    pub lost: u64,
    /// Values that nobody wrote at their revision.
    pub wrong: u64,
    /// Keys that somebody else seems to have written since.
    pub foreign: u64,
    /// Acknowledgements whose revision was not above the client's one before.
    pub out_of_order: u64,
    /// The first faults, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Nothing that was acknowledged is lost, changed or out of order.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.wrong == 0 && self.out_of_order == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(tag: u64) -> Write {
        Write::Value { tag, keys: 1 }
    }

    fn judge(notes: &Acknowledged, found: Option<(i64, Option<u64>)>) -> Verdict {
        let mut verdict = notes.verdict();
        notes.check(1, found, true, &mut verdict);
        verdict
    }

    #[test]
    fn tags_survive_the_round_trip() {
        let mut bytes = [b'x'; 20];
        write_tag(&mut bytes, 0x0123_4567_89ab_cdef);
        assert_eq!(&bytes, b"0123456789abcdefxxxx");
        assert_eq!(read_tag(&bytes), Some(0x0123_4567_89ab_cdef));
        assert_eq!(read_tag(b"short"), None);
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let mut notes = Acknowledged::default();
        notes.written(1, value(10), 5);
        notes.written(1, value(11), 6);
        assert!(judge(&notes, Some((6, Some(11)))).is_good());
        assert_eq!(judge(&notes, None).lost, 1);
        assert_eq!(judge(&notes, Some((5, Some(10)))).lost, 1);
        assert_eq!(judge(&notes, Some((6, Some(10)))).wrong, 1);
        let foreign = judge(&notes, Some((7, Some(99))));
        assert!(foreign.is_good() && foreign.foreign == 1);
    }

    #[test]
    fn an_unanswered_write_may_have_happened_or_not() {
        let mut notes = Acknowledged::default();
        notes.written(1, value(10), 5);
        notes.unanswered(1, value(11));
        for found in [(5, Some(10)), (6, Some(11))] {
            let verdict = judge(&notes, Some(found));
            assert!(verdict.is_good() && verdict.foreign == 0);
        }
        assert_eq!(judge(&notes, None).lost, 1);
        notes.unanswered(1, Write::Deletion);
        assert!(judge(&notes, None).is_good());
    }

    #[test]
    fn a_deletion_is_a_write_too() {
        let mut notes = Acknowledged::default();
        notes.written(1, value(10), 5);
        notes.written(1, Write::Deletion, 6);
        notes.written(1, Write::Deletion, 6);
        assert!(judge(&notes, None).is_good());
        assert_eq!(judge(&notes, Some((5, Some(10)))).lost, 1);
    }

    #[test]
    fn the_newest_of_all_clients_counts_and_each_client_must_see_revisions_grow() {
        let (mut one, mut other) = (Acknowledged::default(), Acknowledged::default());
        one.written(1, value(10), 8);
        other.written(1, value(20), 7);
        other.written(2, value(21), 7);
        one.merge(other);
        assert_eq!(one.key_numbers(), [1, 2]);
        let verdict = judge(&one, Some((8, Some(10))));
        assert_eq!((verdict.lost, verdict.wrong, verdict.out_of_order), (0, 0, 1));
    }

    #[test]
    fn a_fill_is_checked_key_by_key() {
        let mut notes = Acknowledged::default();
        notes.written(1, Write::Value { tag: 3, keys: 2 }, 5);
        let mut verdict = notes.verdict();
        notes.check(1, Some((5, Some(3))), true, &mut verdict);
        notes.check(2, None, true, &mut verdict);
        assert_eq!((verdict.keys, verdict.lost), (2, 1));
    }
}
