//! What any backup holds, whoever wrote it: the state of a whole cluster at one revision, without
//! its members.
//!
//! A [`Backup`] is what fits in memory. The versions of the keys do not have to: they pass by in
//! order of their positions, or sorted by key.

use crate::keys::{LeaseId, Revision};

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
    /// Moves the revision on by `by`, and says that all before has been compacted: so that whoever
    /// saw later revisions than the backup has does not take what comes for what it knows.
    ///
    /// # Errors
    /// `None` when no such revision exists.
    #[must_use]
    pub fn bumped(mut self, by: u64) -> Option<Backup> {
        let revision = self.revision.0.checked_add(i64::try_from(by).ok()?)?;
        self.revision = Revision(revision);
        self.compacted = self.revision;
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

/// Users and roles, as records that are passed on and not looked into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// Whether a client has to say who it is.
    pub enabled: bool,
    /// How often users or roles changed.
    pub revision: u64,
    /// Each user's name and `authpb.User`, by name.
    pub users: Vec<(Vec<u8>, Vec<u8>)>,
    /// Each role's name and `authpb.Role`, by name.
    pub roles: Vec<(Vec<u8>, Vec<u8>)>,
}
