//! The quota, as etcd has it: looked at before anything else about a request, on whatever core it
//! comes in. Who goes beyond it raises the alarm `NOSPACE`; from then on the engine refuses by that,
//! and what is in use no longer matters until somebody ends the alarm.

use cored_proto::etcdserverpb as pb;
use pb::AlarmType;
use pb::alarm_request::AlarmAction;

use super::Api;
use super::status::Status;
use crate::engine::Request;

impl Api {
    /// Whether a request that costs `cost_bytes` fits in; if not, the alarm is raised before this
    /// returns. A request of no cost always fits.
    ///
    /// # Errors
    /// [`Status::NO_SPACE`].
    pub(super) async fn within_quota(&self, cost_bytes: u64) -> Result<(), Status> {
        let quota_bytes = self.settings.quota_bytes;
        let cost_bytes = i64::try_from(cost_bytes).unwrap_or(i64::MAX);
        let wanted = self.settings.usage.bytes_in_use().saturating_add(cost_bytes);
        if quota_bytes < 0 || cost_bytes == 0 || wanted < quota_bytes {
            return Ok(());
        }
        // In a box, so that the futures of puts stay as small as they are.
        Box::pin(self.out_of_space()).await
    }

    async fn out_of_space(&self) -> Result<(), Status> {
        let raise = pb::AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: self.door.identity().member_id,
            alarm: AlarmType::Nospace as i32,
        };
        // Without a leader there is nobody to raise it, and nobody to write anything either.
        let _ = self.door.ask(Request::Alarm(raise)).await;
        Err(Status::NO_SPACE)
    }
}

#[cfg(test)]
mod tests {
    use cored_proto::v3lockpb;
    use pb::request_op::Request as Op;

    use super::*;
    use crate::api::Settings;
    use crate::api::status::Code;
    use crate::api::tests::double::{IDENTITY, World, settings};

    fn world(quota_bytes: i64) -> World {
        World::with(Settings { quota_bytes, ..settings() })
    }

    fn put(world: &mut World, key: &str, value_bytes: usize) -> Result<(), Status> {
        let value = vec![b'v'; value_bytes].into();
        let put = pb::PutRequest { key: key.to_owned().into(), value, ..Default::default() };
        world.call::<pb::PutResponse>("etcdserverpb.KV/Put", &put).map(drop)
    }

    fn alarms(world: &World) -> Vec<pb::AlarmMember> {
        world.model.alarms.of(0).collect()
    }

    #[test]
    fn what_would_reach_the_quota_is_refused_and_raises_the_alarm() {
        let mut world = world(10_000);
        world.api.settings().usage.changed(0, 9_000);
        assert_eq!(put(&mut world, "a", 742), Ok(()), "9,999 bytes");
        assert_eq!(alarms(&world), []);
        assert_eq!(put(&mut world, "a", 743), Err(Status::NO_SPACE));
        let member_id = IDENTITY.member_id;
        let raised = pb::AlarmMember { member_id, alarm: AlarmType::Nospace as i32 };
        assert_eq!(alarms(&world), [raised]);
        world.api.settings().usage.changed(9_000, 0);
        assert_eq!(put(&mut world, "a", 1), Err(Status::NO_SPACE), "until the alarm ends");
        world.model.alarms = Default::default();
        assert_eq!(put(&mut world, "a", 1), Ok(()));
    }

    #[test]
    fn the_quota_is_looked_at_before_anything_that_is_wrong_with_a_request() {
        let mut world = world(10_000);
        world.api.settings().usage.changed(0, 20_000);
        assert_eq!(put(&mut world, "", 1), Err(Status::NO_SPACE));
        assert_eq!(put(&mut world, "a", 4 << 20), Err(Status::NO_SPACE));
        let op = pb::RequestOp { request: Some(Op::RequestPut(pb::PutRequest::default())) };
        let txn = pb::TxnRequest { success: vec![op; 200], ..Default::default() };
        let refused = world.call::<pb::TxnResponse>("etcdserverpb.KV/Txn", &txn);
        assert_eq!(refused, Err(Status::NO_SPACE));
        let grant = pb::LeaseGrantRequest { id: 1, ttl: i64::MAX };
        let refused = world.call::<pb::LeaseGrantResponse>("etcdserverpb.Lease/LeaseGrant", &grant);
        assert_eq!(refused, Err(Status::NO_SPACE));
        let lock = v3lockpb::LockRequest { name: "l".into(), lease: 0 };
        let refused = world.call::<v3lockpb::LockResponse>("v3lockpb.Lock/Lock", &lock);
        assert_eq!(refused, Err(Status { code: Code::Unknown, ..Status::NO_SPACE }));
    }

    #[test]
    fn what_does_not_grow_needs_no_room_and_without_a_quota_nothing_does() {
        let mut full = world(10_000);
        full.api.settings().usage.changed(0, 20_000);
        let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
        let answer = full.call::<pb::DeleteRangeResponse>("etcdserverpb.KV/DeleteRange", &delete);
        assert!(answer.is_ok());
        let op = pb::RequestOp { request: Some(Op::RequestDeleteRange(delete)) };
        let txn = pb::TxnRequest { success: vec![op], ..Default::default() };
        assert!(full.call::<pb::TxnResponse>("etcdserverpb.KV/Txn", &txn).is_ok());
        assert_eq!(alarms(&full), []);
        let mut unlimited = world(-1);
        unlimited.api.settings().usage.changed(0, i64::MAX);
        assert_eq!(put(&mut unlimited, "a", 1), Ok(()));
    }

    #[test]
    fn too_long_a_lease_is_refused_by_the_alarms_first() {
        let mut world = world(-1);
        let grant = pb::LeaseGrantRequest { id: 1, ttl: i64::MAX };
        let path = "etcdserverpb.Lease/LeaseGrant";
        let mut refused = || world.call::<pb::LeaseGrantResponse>(path, &grant).err();
        assert_eq!(refused(), Some(Status::LEASE_TTL_TOO_LARGE));
        world.model.alarms.set(AlarmType::Nospace as i32, 1, true);
        let mut refused = || world.call::<pb::LeaseGrantResponse>(path, &grant).err();
        assert_eq!(refused(), Some(Status::NO_SPACE));
        world.model.alarms.set(AlarmType::Corrupt as i32, 1, true);
        let mut refused = || world.call::<pb::LeaseGrantResponse>(path, &grant).err();
        assert_eq!(refused(), Some(Status::CORRUPT));
    }
}
