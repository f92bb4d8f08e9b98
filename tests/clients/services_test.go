package clients

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	election "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lock "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func TestLockService(t *testing.T) {
	at := place(t)
	locks := lock.NewLockClient(conn)
	one, two := grant(t, 600, 0x1234abcd).ID, grant(t, 600, 0).ID
	held := must(locks.Lock(soon(t), &lock.LockRequest{Name: []byte(at + "l"), Lease: one}))(t)
	equal(t, "its key", string(held.Key), at+"l/1234abcd")
	equal(t, "the key's lease", get(t, string(held.Key)).Lease, one)
	equal(t, "the key's value", string(get(t, string(held.Key)).Value), "")
	if held.Header.GetRevision() == 0 || held.Header.GetMemberId() == 0 {
		t.Fatalf("header %v", held.Header)
	}
	again := must(locks.Lock(soon(t), &lock.LockRequest{Name: []byte(at + "l"), Lease: one}))(t)
	equal(t, "who holds it may ask again", string(again.Key), string(held.Key))

	waiting := make(chan *lock.LockResponse, 1)
	go func() {
		got, err := locks.Lock(soon(t), &lock.LockRequest{Name: []byte(at + "l"), Lease: two})
		if err != nil {
			t.Error(err)
		}
		waiting <- got
	}()
	for get(t, fmt.Sprintf("%sl/%x", at, two)) == nil {
		time.Sleep(5 * time.Millisecond)
	}
	select {
	case got := <-waiting:
		t.Fatal("two hold it: ", got)
	case <-time.After(50 * time.Millisecond):
	}
	must(locks.Unlock(soon(t), &lock.UnlockRequest{Key: held.Key}))(t)
	equal(t, "the next one's key", string((<-waiting).Key), fmt.Sprintf("%sl/%x", at, two))
	must(locks.Unlock(soon(t), &lock.UnlockRequest{Key: []byte(at + "nothing")}))(t)
}

func TestLockServiceGivesItsOwnLease(t *testing.T) {
	at := place(t)
	locks := lock.NewLockClient(conn)
	held := must(locks.Lock(soon(t), &lock.LockRequest{Name: []byte(at)}))(t)
	id := get(t, string(held.Key)).Lease
	ttl := must(leases.LeaseTimeToLive(soon(t), &pb.LeaseTimeToLiveRequest{ID: id}))(t)
	equal(t, "a minute", ttl.GrantedTTL, 60)
	must(leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: id}))(t)
}

func TestLockServiceErrors(t *testing.T) {
	at := place(t)
	locks := lock.NewLockClient(conn)
	_, err := locks.Lock(soon(t), &lock.LockRequest{Name: []byte(at), Lease: 404})
	// The service is a client of its own server, and a client's error has lost its code.
	wantError(t, err, codes.Unknown, "etcdserver: requested lease not found")
	_, err = locks.Unlock(soon(t), &lock.UnlockRequest{})
	wantError(t, err, codes.Unknown, "etcdserver: key is not provided")
	// A waiter that gives up leaves no key behind that others would wait for.
	one, two := grant(t, 600, 0).ID, grant(t, 600, 0).ID
	must(locks.Lock(soon(t), &lock.LockRequest{Name: []byte(at), Lease: one}))(t)
	ctx, cancel := context.WithCancel(soon(t))
	given := make(chan error, 1)
	go func() {
		_, err := locks.Lock(ctx, &lock.LockRequest{Name: []byte(at), Lease: two})
		given <- err
	}()
	mine := fmt.Sprintf("%s/%x", at, two)
	for get(t, mine) == nil {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	wantError(t, <-given, codes.Canceled, "context canceled")
	for get(t, mine) != nil {
		time.Sleep(5 * time.Millisecond)
	}
}

func TestElectionService(t *testing.T) {
	at := place(t)
	elections := election.NewElectionClient(conn)
	one, two := grant(t, 600, 0xfeed).ID, grant(t, 600, 0).ID
	name := []byte(at + "e")
	_, err := elections.Leader(soon(t), &election.LeaderRequest{Name: name})
	wantError(t, err, codes.Unknown, "election: no leader")
	observed := must(elections.Observe(soon(t), &election.LeaderRequest{Name: name}))(t)
	won := must(elections.Campaign(soon(t), &election.CampaignRequest{Name: name, Lease: one, Value: []byte("one")}))(t)
	equal(t, "key", string(won.Leader.Key), at+"e/feed")
	equal(t, "lease", won.Leader.Lease, one)
	equal(t, "name", string(won.Leader.Name), string(name))
	equal(t, "revision", won.Leader.Rev, get(t, at+"e/feed").CreateRevision)
	equal(t, "observed", string(must(observed.Recv())(t).Kv.Value), "one")
	must(elections.Proclaim(soon(t), &election.ProclaimRequest{Leader: won.Leader, Value: []byte("still one")}))(t)
	equal(t, "observed", string(must(observed.Recv())(t).Kv.Value), "still one")
	leader := must(elections.Leader(soon(t), &election.LeaderRequest{Name: name}))(t)
	equal(t, "leader", string(leader.Kv.Value), "still one")
	next := make(chan *election.CampaignResponse, 1)
	go func() {
		won, err := elections.Campaign(soon(t), &election.CampaignRequest{Name: name, Lease: two, Value: []byte("two")})
		if err != nil {
			t.Error(err)
		}
		next <- won
	}()
	for get(t, fmt.Sprintf("%se/%x", at, two)) == nil {
		time.Sleep(5 * time.Millisecond)
	}
	must(elections.Resign(soon(t), &election.ResignRequest{Leader: won.Leader}))(t)
	equal(t, "then", fmt.Sprintf("%x", (<-next).Leader.Lease), fmt.Sprintf("%x", two))
	equal(t, "observed", string(must(observed.Recv())(t).Kv.Value), "two")
	_, err = elections.Proclaim(soon(t), &election.ProclaimRequest{Leader: won.Leader, Value: []byte("late")})
	wantError(t, err, codes.Unknown, "election: not leader")
	_, err = elections.Proclaim(soon(t), &election.ProclaimRequest{})
	wantError(t, err, codes.Unknown, `"leader" field must be provided`)
	_, err = elections.Resign(soon(t), &election.ResignRequest{})
	wantError(t, err, codes.Unknown, `"leader" field must be provided`)
	_, err = elections.Campaign(soon(t), &election.CampaignRequest{Name: name, Lease: 404})
	wantError(t, err, codes.Unknown, "etcdserver: requested lease not found")
}

func TestHealthService(t *testing.T) {
	health := grpc_health_v1.NewHealthClient(conn)
	ok := must(health.Check(soon(t), &grpc_health_v1.HealthCheckRequest{}))(t)
	equal(t, "the server", ok.Status, grpc_health_v1.HealthCheckResponse_SERVING)
	_, err := health.Check(soon(t), &grpc_health_v1.HealthCheckRequest{Service: "nobody"})
	wantError(t, err, codes.NotFound, "unknown service")
	stream := must(health.Watch(soon(t), &grpc_health_v1.HealthCheckRequest{}))(t)
	equal(t, "watched", must(stream.Recv())(t).Status, grpc_health_v1.HealthCheckResponse_SERVING)
	other := must(health.Watch(soon(t), &grpc_health_v1.HealthCheckRequest{Service: "nobody"}))(t)
	equal(t, "watched, unknown", must(other.Recv())(t).Status, grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN)
	list := must(health.List(soon(t), &grpc_health_v1.HealthListRequest{}))(t)
	equal(t, "listed", fmt.Sprint(list.Statuses), fmt.Sprint(map[string]*grpc_health_v1.HealthCheckResponse{"": {Status: grpc_health_v1.HealthCheckResponse_SERVING}}))
}

func TestMaintenanceStatus(t *testing.T) {
	at := place(t)
	put(t, at, "v")
	status := must(client.Status(soon(t), endpoint))(t)
	equal(t, "version", status.Version, "3.7.3")
	equal(t, "storage version", status.StorageVersion, "3.7.0")
	equal(t, "leader", status.Leader, status.Header.MemberId)
	equal(t, "revision", status.Header.Revision, now(t))
	equal(t, "learner", status.IsLearner, false)
	equal(t, "errors", len(status.Errors), 0)
	equal(t, "term", status.RaftTerm, status.Header.RaftTerm)
	if status.RaftIndex == 0 || status.RaftAppliedIndex == 0 || status.RaftAppliedIndex > status.RaftIndex || status.DbSize <= 0 || status.DbSizeInUse <= 0 || status.DbSizeQuota != 2<<30 {
		t.Fatalf("%v", status)
	}
	put(t, at, "w")
	later := must(client.Status(soon(t), endpoint))(t)
	if later.RaftIndex <= status.RaftIndex {
		t.Fatalf("a write moves the index: %d, then %d", status.RaftIndex, later.RaftIndex)
	}
	alarms := must(client.AlarmList(soon(t)))(t)
	equal(t, "alarms", len(alarms.Alarms), 0)
	must(client.Defragment(soon(t), endpoint))(t)
}

func TestMemberList(t *testing.T) {
	for _, linearizable := range []bool{false, true} {
		list := must(pb.NewClusterClient(conn).MemberList(soon(t), &pb.MemberListRequest{Linearizable: linearizable}))(t)
		equal(t, "members", len(list.Members), 1)
		member := list.Members[0]
		equal(t, "id", member.ID, list.Header.MemberId)
		equal(t, "learner", member.IsLearner, false)
		if member.Name == "" || len(member.PeerURLs) == 0 || len(member.ClientURLs) == 0 {
			t.Fatalf("%v", member)
		}
		equal(t, "the header has no revision", list.Header.Revision, 0)
	}
}

func TestAuthIsOff(t *testing.T) {
	status := must(pb.NewAuthClient(conn).AuthStatus(soon(t), &pb.AuthStatusRequest{}))(t)
	equal(t, "enabled", status.Enabled, false)
}

// A call that asks for a leader is served, because there is one.
func TestRequireLeader(t *testing.T) {
	at := place(t)
	ctx := clientv3.WithRequireLeader(soon(t))
	must(kv.Put(ctx, &pb.PutRequest{Key: []byte(at)}))(t)
	stream := must(pb.NewWatchClient(conn).Watch(ctx))(t)
	if err := stream.Send(create(&pb.WatchCreateRequest{Key: []byte(at)})); err != nil {
		t.Fatal(err)
	}
	equal(t, "created", must(stream.Recv())(t).Created, true)
}
