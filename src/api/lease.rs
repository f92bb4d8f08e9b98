//! The Lease service. Chooses numbers for leases whose caller has none; who has how much time left
//! is the engine's to know.

use bytes::Bytes;
use cored_proto::Method;
use cored_proto::etcdserverpb as pb;

use super::status::Status;
use super::stream::{Requests, Responses};
use super::{Api, check, decode, decode_streamed, encode};
use crate::engine::{Answer, Error, Reply, Request};
use crate::keys::LeaseId;
use crate::txn::cost;

impl Api {
    pub(super) async fn lease(&self, method: &Method, request: Bytes) -> Result<Bytes, Status> {
        match method.name {
            "LeaseGrant" => {
                let grant: pb::LeaseGrantRequest = decode(request)?;
                Ok(encode(&self.grant(LeaseId(grant.id), grant.ttl).await?))
            }
            "LeaseRevoke" => {
                let revoke: pb::LeaseRevokeRequest = decode(request)?;
                let id = LeaseId(revoke.id);
                let header = Some(self.done(Request::LeaseRevoke { id }).await?);
                Ok(encode(&pb::LeaseRevokeResponse { header }))
            }
            "LeaseTimeToLive" => {
                let query: pb::LeaseTimeToLiveRequest = decode(request)?;
                let id = LeaseId(query.id);
                let ask = Request::LeaseTimeToLive { id, keys: query.keys };
                let Answer { revision, reply: Reply::TimeToLive { ttl_s, granted_s, keys } } =
                    self.door.ask(ask).await?
                else {
                    unreachable!("a question for time is answered with time")
                };
                Ok(encode(&pb::LeaseTimeToLiveResponse {
                    header: Some(self.door.header(revision.0)),
                    id: id.0,
                    ttl: ttl_s,
                    granted_ttl: granted_s,
                    keys,
                }))
            }
            "LeaseLeases" => {
                let pb::LeaseLeasesRequest {} = decode(request)?;
                let Answer { revision, reply: Reply::Leases(ids) } =
                    self.door.ask(Request::LeaseLeases).await?
                else {
                    unreachable!("a question for leases is answered with leases")
                };
                Ok(encode(&pb::LeaseLeasesResponse {
                    header: Some(self.door.header(revision.0)),
                    leases: ids.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect(),
                }))
            }
            name => Err(Status::unimplemented(name)),
        }
    }

    /// One after the other, as in etcd: a client reads its answers in the order of its questions.
    /// A lease that does not exist has 0 seconds and does not end the stream.
    pub(super) async fn lease_keep_alive(
        &self,
        requests: &mut Requests,
        responses: &Responses,
    ) -> Result<(), Status> {
        while let Some(request) = requests.next().await {
            let keep: pb::LeaseKeepAliveRequest = decode_streamed(request?)?;
            let ask = Request::LeaseKeepAlive { id: LeaseId(keep.id) };
            let Answer { revision, reply: Reply::Ttl(ttl) } = self.door.ask(ask).await? else {
                unreachable!("a renewal is answered with seconds")
            };
            let header = Some(self.door.header(revision.0));
            responses.push(encode(&pb::LeaseKeepAliveResponse { header, id: keep.id, ttl }));
            responses.ready().await;
        }
        Ok(())
    }

    /// Makes a lease of at least the least time; without a number of the caller's, under a new one.
    pub(super) async fn grant(
        &self,
        wanted: LeaseId,
        ttl_s: i64,
    ) -> Result<pb::LeaseGrantResponse, Status> {
        self.within_quota(cost::LEASE_BYTES).await?;
        let ttl_s = match check::lease_ttl_s(ttl_s, self.settings.min_lease_ttl_s) {
            Ok(ttl_s) => ttl_s,
            // etcd looks at the alarms before it looks at the time.
            Err(status) => return Err(self.alarmed().await?.unwrap_or(status)),
        };
        loop {
            let id = if wanted.is_some() { wanted } else { self.lease_id() };
            let answer = match self.door.ask(Request::LeaseGrant { id, ttl_s }).await {
                // A number of ours that is taken: nobody's mistake, and the next one is not.
                Err(Error::LeaseExists) if !wanted.is_some() => continue,
                answer => answer?,
            };
            let Answer { revision, reply: Reply::Ttl(ttl) } = answer else {
                unreachable!("a grant is answered with seconds")
            };
            let header = Some(self.door.header(revision.0));
            return Ok(pb::LeaseGrantResponse { header, id: id.0, ttl, error: String::new() });
        }
    }

    /// The next generated number: positive, and scattered by the mixing function of splitmix64, so
    /// that the sequences of two cores or starts do not run into each other.
    fn lease_id(&self) -> LeaseId {
        loop {
            let state = self.leases.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
            self.leases.set(state);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let id = LeaseId(((mixed ^ (mixed >> 31)) & i64::MAX as u64) as i64);
            if id.is_some() {
                return id;
            }
        }
    }
}
