//! What one watch stream with one watcher heard, held against the history: ordered, unique, whole
//! revisions, nothing left out, previous versions right.

use cored_proto::etcdserverpb as pb;
use cored_proto::mvccpb::event::EventType;
use cored_proto::mvccpb::{Event, KeyValue};
use pb::watch_create_request::FilterType;

use super::check::{States, Violation, to_kv};
use crate::keys::{KeyRange, Revision};
use crate::lane::redo::{Change, Write};

/// One stream.
pub(super) struct Watched {
    create: pb::WatchCreateRequest,
    /// First revision of interest; known once the watcher is created.
    from: Option<Revision>,
    heard: Vec<Event>,
    /// Everything up to here was promised to have been heard.
    complete: Revision,
    closed: bool,
    cancel_asked: bool,
    canceled: bool,
}

impl Watched {
    pub(super) fn new(create: pb::WatchCreateRequest) -> Watched {
        Watched {
            create,
            from: None,
            heard: Vec::new(),
            complete: Revision::ZERO,
            closed: false,
            cancel_asked: false,
            canceled: false,
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn cancel_asked(&mut self) {
        self.cancel_asked = true;
    }

    pub(super) fn heard(&mut self, response: pb::WatchResponse) -> Result<(), Violation> {
        let header = Revision(response.header.as_ref().map_or(0, |header| header.revision));
        if self.canceled {
            return Err(self.violation("heard after it was canceled"));
        }
        if response.created {
            if self.from.is_some() {
                return Err(self.violation("created twice"));
            }
            let start = self.create.start_revision;
            self.from = Some(if start > 0 { Revision(start) } else { header.next() });
            return Ok(());
        }
        let Some(from) = self.from else { return Err(self.violation("heard before created")) };
        if response.canceled {
            if response.compact_revision <= 0 && !self.cancel_asked {
                return Err(self.violation("canceled without a reason"));
            }
            self.canceled = true;
            return Ok(());
        }
        // What was promised to be complete must have been heard by then, not just some time.
        let last = self.heard.last().map_or(from.prev(), modified).max(self.complete);
        let first = response.events.first().map(modified);
        if first.is_some_and(|first| first <= last) {
            return Err(self.violation(format!("{first:?} after {last:?}")));
        }
        if !response.events.is_sorted_by_key(modified) {
            return Err(self.violation("out of order"));
        }
        if response.events.last().map(modified).is_some_and(|newest| newest > header) {
            return Err(self.violation("an event above the header's revision"));
        }
        if response.events.is_empty() {
            self.complete = self.complete.max(header);
        }
        self.heard.extend(response.events);
        Ok(())
    }

    pub(super) fn at_rest(&mut self, watermark: Revision) -> Result<(), Violation> {
        if self.closed || self.canceled {
            return Ok(());
        }
        if self.from.is_none() {
            return Err(self.violation("never created"));
        }
        self.complete = self.complete.max(watermark);
        Ok(())
    }

    /// Everything between the first revision of interest and the last that was heard of.
    pub(super) fn finish(&self, states: &States, compacted: Revision) -> Result<(), Violation> {
        let Some(from) = self.from else { return Ok(()) };
        let through = self.heard.last().map_or(Revision::ZERO, modified).max(self.complete);
        let range = KeyRange::from_request(&self.create.key, &self.create.range_end);
        let mut heard = self.heard.iter();
        // Writes above revision 1 only; a watcher that waits for the future has no range yet.
        for (at, writes) in states.writes.iter().filter(|(at, _)| **at >= from && **at <= through) {
            for write in writes.iter().filter(|write| self.wants(&range, write)) {
                let Some(event) = heard.next() else {
                    return Err(self.violation(format!("{at} of {:?} was not heard", write.key)));
                };
                self.compare(event, *at, write, states, compacted)?;
            }
        }
        match heard.next() {
            Some(event) => Err(self.violation(format!("heard {event:?}, which never happened"))),
            None => Ok(()),
        }
    }

    fn wants(&self, range: &KeyRange, write: &Write) -> bool {
        let filter = match write.change {
            Change::Put { .. } => FilterType::Noput,
            Change::Delete => FilterType::Nodelete,
        };
        range.contains(&write.key) && !self.create.filters.contains(&(filter as i32))
    }

    fn compare(
        &self,
        event: &Event,
        at: Revision,
        write: &Write,
        states: &States,
        compacted: Revision,
    ) -> Result<(), Violation> {
        let kv = match &write.change {
            Change::Put { value, create, version, lease } => KeyValue {
                key: write.key.clone(),
                create_revision: create.0,
                mod_revision: at.0,
                version: *version,
                value: value.clone(),
                lease: lease.0,
            },
            Change::Delete => {
                KeyValue { key: write.key.clone(), mod_revision: at.0, ..Default::default() }
            }
        };
        let is_delete = event.r#type() == EventType::Delete;
        if event.kv.as_ref() != Some(&kv) || is_delete != (write.change == Change::Delete) {
            return Err(self.violation(format!("heard {event:?}, happened {write:?} at {at}")));
        }
        let before = states.at(at.prev())?;
        let previous = before.get_key_value(&write.key).map(|(key, row)| to_kv(key, row));
        let told = &event.prev_kv;
        let gone = told.is_none() && compacted >= at.prev();
        // A key written twice in one transaction is not: the API refuses that.
        if self.create.prev_kv && !gone && *told != previous {
            return Err(self.violation(format!("previous {told:?}, happened {previous:?}")));
        }
        Ok(())
    }

    fn violation(&self, what: impl std::fmt::Display) -> Violation {
        Violation::new(format!("watch {:?}: {what}", self.create))
    }
}

fn modified(event: &Event) -> Revision {
    Revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
}
