//! The life of a lease on the keeper's core: renewals, questions, expiry, its end.

use super::keeper::Then;
use super::message::Origin;
use super::whole::Task;
use super::{Effects, Engine, Error, PastControl, Reply};
use crate::keys::LeaseId;
use crate::lane::redo::Control;
use crate::txn::Refusal;

/// Leases whose end may be under way because they expired.
const EXPIRING_MAX: usize = 16;

/// Leases whose remaining time one record holds at most.
const REMAINING_MAX: usize = 1000;

impl Engine {
    /// Takes leases over from earlier epochs, each with the time that was logged last.
    pub(super) fn restore_leases(&mut self, control: &PastControl) {
        let now_ms = self.now_ms;
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        for (&lease, &(ttl_s, left_s)) in &control.leases {
            keeper.clock.grant(lease, ttl_s, left_s, now_ms);
        }
    }

    pub(super) fn revoke(&mut self, origin: Origin, lease: LeaseId, fx: &mut Effects) {
        if !self.control.leases.contains(lease) {
            return self.answer_state(origin, Err(Refusal::LeaseNotFound.into()));
        }
        if !self.leased_known {
            return self.answer_state(origin, Err(Error::Corrupt));
        }
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        if let Some(others) = keeper.revoking.get_mut(&lease) {
            return others.push(origin);
        }
        keeper.revoking.insert(lease, Vec::new());
        self.begin_whole(Task::Revoke(lease, Some(origin)), fx);
    }

    pub(super) fn keep_alive(&mut self, origin: Origin, lease: LeaseId) {
        let now_ms = self.now_ms;
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        if keeper.revoking.contains_key(&lease) {
            return self.answer_state(origin, Ok(Reply::Ttl(0)));
        }
        match keeper.clock.renew(lease, now_ms) {
            None => self.answer_state(origin, Ok(Reply::Ttl(0))),
            Some(renewed) if renewed.must_log => {
                // A restart would give the lease the little time that was logged before.
                let then = Then::Renewed(renewed.ttl_s, origin);
                self.control_record(Control::Remaining(vec![(lease, 0)]), None, then);
            }
            Some(renewed) => self.answer_state(origin, Ok(Reply::Ttl(renewed.ttl_s))),
        }
    }

    pub(super) fn time_to_live(
        &mut self,
        origin: Origin,
        lease: LeaseId,
        keys: bool,
        fx: &mut Effects,
    ) {
        let now_ms = self.now_ms;
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        let is_known = self.control.leases.contains(lease);
        let time = keeper.clock.time_to_live(lease, now_ms).filter(|_| is_known);
        let Some((granted_s, ttl_s)) = time else {
            let gone = Reply::TimeToLive { ttl_s: -1, granted_s: 0, keys: Vec::new() };
            return self.answer_state(origin, Ok(gone));
        };
        if keys && !self.leased_known {
            self.answer_state(origin, Err(Error::Corrupt));
        } else if keys {
            self.begin_whole(Task::KeysOf { lease, granted_s, ttl_s, origin }, fx);
        } else {
            let reply = Reply::TimeToLive { ttl_s, granted_s, keys: Vec::new() };
            self.answer_state(origin, Ok(reply));
        }
    }

    /// Begins to end leases whose time is over; none while it is unknown which keys must go with them.
    pub(super) fn expire_leases(&mut self, fx: &mut Effects) {
        if !self.leased_known {
            return;
        }
        let now_ms = self.now_ms;
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        let room = EXPIRING_MAX.saturating_sub(keeper.revoking.len());
        for lease in keeper.clock.expired(now_ms, room) {
            if keeper.revoking.contains_key(&lease) {
                continue;
            }
            keeper.revoking.insert(lease, Vec::new());
            keeper.expired += 1;
            self.local.push_back(super::Message::Expired { lease });
        }
        self.run_local(fx);
    }

    /// Logs how long leases still have, of those that lost much since it was logged last.
    pub(super) fn log_remaining(&mut self) {
        let now_ms = self.now_ms;
        let keeper = self.keeper.as_mut().expect("on the keeper's core");
        let remaining = keeper.clock.checkpoint(now_ms, REMAINING_MAX);
        if !remaining.is_empty() {
            self.control_record(Control::Remaining(remaining), None, Then::Nothing);
        }
    }

    /// A lease is gone on this core. On the keeper's it may begin anew from now on.
    pub(super) fn lease_gone(&mut self, lease: LeaseId) {
        self.control.leases.revoke(lease);
        let Some(keeper) = &mut self.keeper else { return };
        keeper.clock.revoke(lease);
        for origin in keeper.revoking.remove(&lease).unwrap_or_default() {
            self.answer_state(origin, Err(Error::Refused(Refusal::LeaseNotFound)));
        }
    }
}
