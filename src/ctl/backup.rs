//! What any backup holds, whoever wrote it: the state of a whole cluster at one revision, without
//! its members.
//!
//! A [`Backup`] is what fits in memory. The versions of the keys do not have to: they pass by in
//! order of their positions, or sorted by key.

use std::collections::BTreeMap;

use crate::keys::{LeaseId, Revision};
use crate::lane::redo::{self, Auth, Control, Malformed, Reader, Record, Seen};

/// All of a backup but the versions of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    /// The store's revision: every write up to this one is inside.
    pub revision: Revision,
    /// The last compaction; [`Revision::ZERO`] without one.
    pub compacted: Revision,
    /// By id.
    pub leases: Vec<Lease>,
    /// Alarms that were raised.
    pub alarms: Vec<Alarm>,
    /// Users and roles.
    pub auth: Auth,
}

impl Backup {
    /// Reads the control state of a checkpoint at `revision`. Epochs, and which lane owns which keys, are
    /// the member's own.
    ///
    /// # Errors
    /// [`Malformed`] when it is none.
    pub fn of_control(
        control: &[u8],
        revision: Revision,
        compacted: Revision,
    ) -> Result<Backup, Malformed> {
        let mut backup = Backup { revision, compacted, ..Backup::default() };
        let mut leases = BTreeMap::new();
        let mut records = Reader::new(control);
        while let Some(record) = records.record()? {
            // No keys are in a control state, and no ends of leases: they were taken out of it.
            let Seen::Other(Record::Control { control, .. }) = record else { continue };
            match control {
                Control::Grant { lease: id, ttl_s: ttl } => {
                    leases.insert(id, Lease { id, ttl, remaining: 0 });
                }
                Control::Remaining(left) => {
                    for (id, left_s) in left {
                        leases.entry(id).and_modify(|lease| lease.remaining = left_s);
                    }
                }
                Control::Compact(at) => backup.compacted = backup.compacted.max(at.min(revision)),
                Control::Alarm { member, alarm, on } => {
                    let alarm = Alarm { member, alarm };
                    backup.alarms.retain(|known| *known != alarm);
                    backup.alarms.extend(on.then_some(alarm));
                }
                Control::Auth(auth) => backup.auth = auth,
                Control::Map { .. } => {}
            }
        }
        backup.leases = leases.into_values().collect();
        Ok(backup)
    }

    /// The control state as a new member begins with it.
    #[must_use]
    pub fn control(&self) -> Vec<u8> {
        let stamp = self.revision;
        let mut out = Vec::new();
        let mut put = |control| redo::encode(&mut out, &Record::Control { stamp, control });
        put(Control::Compact(self.compacted));
        for &Lease { id: lease, ttl: ttl_s, .. } in &self.leases {
            put(Control::Grant { lease, ttl_s });
        }
        let left = self.leases.iter().filter(|lease| lease.remaining > 0);
        put(Control::Remaining(left.map(|lease| (lease.id, lease.remaining)).collect()));
        for &Alarm { member, alarm } in &self.alarms {
            put(Control::Alarm { member, alarm, on: true });
        }
        if !self.auth.is_empty() {
            put(Control::Auth(self.auth.clone()));
        }
        out
    }

    /// Moves the revision on by `by`, and says that all before has been compacted: so that whoever
    /// saw later revisions than the backup has does not take what comes for what it knows. 0 changes nothing.
    ///
    /// `None` when no such revision exists.
    #[must_use]
    pub fn bumped(mut self, by: u64) -> Option<Backup> {
        if by > 0 {
            self.revision = Revision(self.revision.0.checked_add(i64::try_from(by).ok()?)?);
            self.compacted = self.revision;
        }
        Some(self)
    }
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// Seconds that it lives without being kept alive.
    pub ttl: i64,
    /// Seconds that were left when somebody last wrote it down; 0 means all of them.
    pub remaining: i64,
}

/// An alarm of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The member's number.
    pub member: u64,
    /// etcd's number of the alarm.
    pub alarm: i32,
}
