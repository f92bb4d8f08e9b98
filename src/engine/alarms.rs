//! Alarms: what is raised, by and for which member, and what must not be done meanwhile. A copy on
//! every core, changed by control records (R13). Why one is raised is not known here.

use std::collections::BTreeSet;

use cored_proto::etcdserverpb as pb;
use pb::AlarmType;
use pb::alarm_request::AlarmAction;

use super::keeper::Then;
use super::message::Origin;
use super::{Engine, Error, Reply, Request};
use crate::lane::redo::Control;
use crate::txn::cost;

/// The alarms that are raised. etcd takes any number for the kind of an alarm, and so does this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms(BTreeSet<(i32, u64)>);

impl Alarms {
    /// Raises or ends an alarm of a member; whether that changed anything.
    pub fn set(&mut self, alarm: i32, member: u64, on: bool) -> bool {
        if on { self.0.insert((alarm, member)) } else { self.0.remove(&(alarm, member)) }
    }

    /// Whether any member has this alarm.
    #[must_use]
    pub fn is_raised(&self, alarm: AlarmType) -> bool {
        self.of(alarm as i32).next().is_some()
    }

    /// The alarms of this kind, by member; 0 (`NONE`) stands for all kinds.
    pub fn of(&self, alarm: i32) -> impl Iterator<Item = pb::AlarmMember> {
        let any = alarm == AlarmType::None as i32;
        let wanted = move |(kind, _): &&(i32, u64)| any || *kind == alarm;
        self.0.iter().filter(wanted).map(|&(alarm, member_id)| pb::AlarmMember { member_id, alarm })
    }

    /// Why a request is refused while these alarms are raised, if it is: etcd's rules. When the
    /// store is damaged nothing may change, when it is full nothing may grow; reads go on.
    #[must_use]
    pub fn refuse(&self, request: &Request) -> Option<Error> {
        if self.0.is_empty() {
            return None;
        }
        let cost_bytes = cost_bytes(request)?;
        if self.is_raised(AlarmType::Corrupt) {
            Some(Error::Corrupt)
        } else if cost_bytes > 0 && self.is_raised(AlarmType::Nospace) {
            Some(Error::NoSpace)
        } else {
            None
        }
    }
}

/// The bytes by which a request lets the store grow, at most; `None` when it changes nothing.
pub(super) fn cost_bytes(request: &Request) -> Option<u64> {
    match request {
        Request::Put(put) => Some(cost::put(put)),
        Request::Txn(txn) if cost::only_reads(txn) => None,
        Request::Txn(txn) => Some(cost::txn(txn)),
        Request::LeaseGrant { .. } => Some(cost::LEASE_BYTES),
        Request::DeleteRange(_) | Request::Compact { .. } | Request::LeaseRevoke { .. } => Some(0),
        Request::Range(_)
        | Request::LeaseKeepAlive { .. }
        | Request::LeaseTimeToLive { .. }
        | Request::LeaseLeases
        | Request::HashKv { .. }
        | Request::Hash
        | Request::Alarm(_)
        | Request::Checkpoint
        | Request::Status
        | Request::ReadIndex => None,
    }
}

impl Engine {
    /// On the keeper's core: raises an alarm of this member by itself; whether it was not raised yet.
    pub(super) fn raise(&mut self, alarm: AlarmType) -> bool {
        let (alarm, member) = (alarm as i32, self.member_id);
        let proposed = &mut self.keeper.as_mut().expect("on the keeper's core").alarms;
        let changes = proposed.set(alarm, member, true);
        if changes {
            self.control_record(Control::Alarm { member, alarm, on: true }, None, Then::Nothing);
        }
        changes
    }

    /// On the keeper's core: tells the alarms, raises one or ends one. What is told of a change is
    /// the alarm, and nothing when there was none to end, as in etcd.
    pub(super) fn alarm(&mut self, origin: Origin, request: pb::AlarmRequest) {
        let pb::AlarmRequest { action, member_id, alarm } = request;
        let on = match AlarmAction::try_from(action) {
            Ok(AlarmAction::Activate) => true,
            Ok(AlarmAction::Deactivate) => false,
            Ok(AlarmAction::Get) | Err(_) => {
                let alarms = self.control.alarms.of(alarm).collect();
                return self.answer_state(origin, Ok(Reply::Alarms(alarms)));
            }
        };
        if alarm == AlarmType::None as i32 {
            return self.answer_state(origin, Ok(Reply::Alarms(Vec::new())));
        }
        let proposed = &mut self.keeper.as_mut().expect("on the keeper's core").alarms;
        let changes = proposed.set(alarm, member_id, on);
        let told = (on || changes).then_some(pb::AlarmMember { member_id, alarm });
        // While a change is under way an answer must not overtake it.
        if changes || *proposed != self.control.alarms {
            let record = Control::Alarm { member: member_id, alarm, on };
            self.control_record(record, None, Then::Alarm(told, origin));
        } else {
            self.answer_state(origin, Ok(Reply::Alarms(told.into_iter().collect())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_kept_by_kind_and_member() {
        let mut alarms = Alarms::default();
        assert!(alarms.set(1, 9, true) && !alarms.set(1, 9, true));
        assert!(alarms.set(7, 5, true) && alarms.set(1, 3, true));
        let members =
            |alarms: &Alarms, kind| alarms.of(kind).map(|a| a.member_id).collect::<Vec<_>>();
        assert_eq!(members(&alarms, 0), [3, 9, 5]);
        assert_eq!(members(&alarms, 1), [3, 9]);
        assert!(alarms.is_raised(AlarmType::Nospace) && !alarms.is_raised(AlarmType::Corrupt));
        assert!(alarms.set(1, 3, false) && !alarms.set(1, 3, false));
        assert_eq!(members(&alarms, 1), [9]);
    }
}
