//! How long leases have: deadlines in milliseconds of a monotonic clock that is passed in, and what
//! must be logged so that the remaining time survives a restart. Deletes nothing and logs nothing
//! itself; every operation is O(log leases).

use std::collections::{BTreeMap, BTreeSet};

use crate::keys::LeaseId;

/// A lease is worth logging again when it lost this many seconds since it was logged last…
const LOST_MIN_S: i64 = 5;
/// …or this part of its whole time, whichever is more.
const LOST_PART: i64 = 10;

/// What became of a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renewed {
    /// Seconds the lease has again.
    pub ttl_s: i64,
    /// The log says that the lease has less: before the renewal is acknowledged, remaining time 0
    /// (which stands for all of it) must be logged.
    pub must_log: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl_s: i64,
    deadline_ms: u64,
    /// What the log gives it at a restart.
    logged_s: i64,
    /// Remaining time that is about to be logged.
    logging_s: Option<i64>,
    /// Handed out by [`Clock::expired`].
    is_ending: bool,
}

impl Lease {
    /// Seconds left, begun ones counted in full: a lease may live longer than asked, never shorter.
    fn left_s(&self, now_ms: u64) -> i64 {
        self.deadline_ms.saturating_sub(now_ms).div_ceil(1000) as i64
    }

    /// When enough time is lost to log what is left, if that comes before the end.
    fn log_due_ms(&self) -> Option<u64> {
        let known_s = self.logging_s.unwrap_or(self.logged_s);
        let left_s = known_s - LOST_MIN_S.max(self.ttl_s / LOST_PART);
        let due_ms = self.deadline_ms.saturating_sub(millis(left_s));
        (left_s > 0 && !self.is_ending).then_some(due_ms)
    }
}

/// The time of all leases.
#[derive(Debug, Default)]
pub struct Clock {
    leases: BTreeMap<LeaseId, Lease>,
    /// Deadlines of leases that are not ending.
    deadlines: BTreeSet<(u64, LeaseId)>,
    /// When to log what is left.
    log_due: BTreeSet<(u64, LeaseId)>,
}

impl Clock {
    /// A lease begins, or is taken over from the log with `left_s` seconds (0: all of them).
    pub fn grant(&mut self, id: LeaseId, ttl_s: i64, left_s: i64, now_ms: u64) {
        self.revoke(id);
        let logged_s = if left_s > 0 { left_s } else { ttl_s };
        let deadline_ms = now_ms.saturating_add(millis(logged_s));
        let lease = Lease { ttl_s, deadline_ms, logged_s, logging_s: None, is_ending: false };
        self.insert(id, lease);
    }

    /// Gives a lease its whole time again; `None` when there is no such lease or its time is over,
    /// even if its end is still to be carried out.
    pub fn renew(&mut self, id: LeaseId, now_ms: u64) -> Option<Renewed> {
        let mut lease = *self.leases.get(&id)?;
        if lease.is_ending || lease.deadline_ms <= now_ms {
            return None;
        }
        self.remove(id);
        lease.deadline_ms = now_ms.saturating_add(millis(lease.ttl_s));
        self.insert(id, lease);
        let known_s = lease.logging_s.map_or(lease.logged_s, |s| s.min(lease.logged_s));
        Some(Renewed { ttl_s: lease.ttl_s, must_log: known_s < lease.ttl_s })
    }

    /// Seconds granted and whole seconds left.
    #[must_use]
    pub fn time_to_live(&self, id: LeaseId, now_ms: u64) -> Option<(i64, i64)> {
        let lease = self.leases.get(&id)?;
        Some((lease.ttl_s, (lease.deadline_ms.saturating_sub(now_ms) / 1000) as i64))
    }

    /// A lease is gone; nothing happens if there is none.
    pub fn revoke(&mut self, id: LeaseId) {
        self.remove(id);
    }

    /// The seconds that the log says a lease has left, if those are not all that it was granted.
    #[must_use]
    pub fn logged_s(&self, id: LeaseId) -> Option<(LeaseId, i64)> {
        let lease = self.leases.get(&id)?;
        let known_s = lease.logging_s.map_or(lease.logged_s, |s| s.min(lease.logged_s));
        (known_s < lease.ttl_s).then_some((id, known_s))
    }

    /// Leases whose time is over, at most `max`, the longest overdue first. Each is handed out once,
    /// until [`Clock::revoke`] or [`Clock::retry`].
    pub fn expired(&mut self, now_ms: u64, max: usize) -> Vec<LeaseId> {
        let due = self.deadlines.iter().take_while(|(deadline_ms, _)| *deadline_ms <= now_ms);
        let due: Vec<LeaseId> = due.take(max).map(|(_, id)| *id).collect();
        for &id in &due {
            let mut lease = self.remove(id).expect("it has a deadline");
            lease.is_ending = true;
            self.insert(id, lease);
        }
        due
    }

    /// Ending an expired lease failed: [`Clock::expired`] will hand it out again.
    pub fn retry(&mut self, id: LeaseId) {
        if let Some(mut lease) = self.remove(id) {
            lease.is_ending = false;
            self.insert(id, lease);
        }
    }

    /// Leases that lost much of their time since it was logged last, at most `max`, with the seconds
    /// they have left. The caller logs them at once and says so with [`Clock::logged`] once it is
    /// durable.
    pub fn checkpoint(&mut self, now_ms: u64, max: usize) -> Vec<(LeaseId, i64)> {
        let due = self.log_due.iter().take_while(|(due_ms, _)| *due_ms <= now_ms);
        let due: Vec<LeaseId> = due.take(max).map(|(_, id)| *id).collect();
        due.into_iter().filter_map(|id| self.log_now(id, now_ms)).collect()
    }

    /// Every lease whose time left is not what the log says, for a log record before a clean stop.
    pub fn all_remaining(&mut self, now_ms: u64) -> Vec<(LeaseId, i64)> {
        let known = |lease: &Lease| lease.logging_s.unwrap_or(lease.logged_s);
        let differs = |lease: &Lease| lease.left_s(now_ms) != known(lease);
        let ids = self.leases.iter().filter(|(_, lease)| !lease.is_ending && differs(lease));
        let ids: Vec<LeaseId> = ids.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.log_now(id, now_ms)).collect()
    }

    fn log_now(&mut self, id: LeaseId, now_ms: u64) -> Option<(LeaseId, i64)> {
        let mut lease = self.remove(id)?;
        // 0 would stand for all of its time.
        let left_s = lease.left_s(now_ms).max(1);
        // From now on a renewal must be logged behind this, though this may not be durable yet.
        lease.logging_s = Some(left_s);
        self.insert(id, lease);
        Some((id, left_s))
    }

    /// These remaining times are durable, in the order in which they were logged; 0 stands for all.
    pub fn logged(&mut self, remaining: &[(LeaseId, i64)]) {
        for &(id, left_s) in remaining {
            let Some(mut lease) = self.remove(id) else { continue };
            if lease.logging_s == Some(left_s) {
                lease.logging_s = None;
            }
            lease.logged_s = if left_s > 0 { left_s } else { lease.ttl_s };
            self.insert(id, lease);
        }
    }

    /// Gives each lease what the log says, counted from now: the begin of a new reign.
    pub fn restart(&mut self, now_ms: u64) {
        for (id, lease) in std::mem::take(self).leases {
            self.grant(id, lease.ttl_s, lease.logged_s, now_ms);
        }
    }

    fn insert(&mut self, id: LeaseId, lease: Lease) {
        if !lease.is_ending {
            self.deadlines.insert((lease.deadline_ms, id));
        }
        if let Some(due_ms) = lease.log_due_ms() {
            self.log_due.insert((due_ms, id));
        }
        self.leases.insert(id, lease);
    }

    fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.deadline_ms, id));
        if let Some(due_ms) = lease.log_due_ms() {
            self.log_due.remove(&(due_ms, id));
        }
        Some(lease)
    }
}

fn millis(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

#[cfg(test)]
mod tests;
