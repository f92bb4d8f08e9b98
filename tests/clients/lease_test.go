package clients

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

func grant(t *testing.T, ttl, id int64) *pb.LeaseGrantResponse {
	t.Helper()
	granted := must(leases.LeaseGrant(soon(t), &pb.LeaseGrantRequest{TTL: ttl, ID: id}))(t)
	t.Cleanup(func() { leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: granted.ID}) })
	return granted
}

func putLeased(t *testing.T, key, value string, lease int64) {
	t.Helper()
	must(kv.Put(soon(t), &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease}))(t)
}

func TestLeaseGrant(t *testing.T) {
	base := now(t)
	picked := grant(t, 60, 0)
	if picked.ID <= 0 {
		t.Fatalf("picked id %d", picked.ID)
	}
	equal(t, "ttl", picked.TTL, 60)
	equal(t, "own id", grant(t, 60, 4711).ID, 4711)
	equal(t, "largest id", grant(t, 60, 1<<63-1).ID, 1<<63-1)
	for _, low := range []int64{0, -5, 1} {
		equal(t, "least ttl", grant(t, low, 0).TTL, 2)
	}
	equal(t, "largest ttl", grant(t, 9_000_000_000, 0).TTL, 9_000_000_000)
	equal(t, "leases leave the revision", now(t), base)
	_, err := leases.LeaseGrant(soon(t), &pb.LeaseGrantRequest{TTL: 60, ID: 4711})
	wantError(t, err, codes.FailedPrecondition, "etcdserver: lease already exists")
	_, err = leases.LeaseGrant(soon(t), &pb.LeaseGrantRequest{TTL: 9_000_000_001})
	wantError(t, err, codes.OutOfRange, "etcdserver: too large lease TTL")
}

func TestLeaseTimeToLive(t *testing.T) {
	at := place(t)
	id := grant(t, 600, 0).ID
	for _, key := range []string{"b", "a", "c"} {
		putLeased(t, at+key, "v", id)
	}
	put(t, at+"c", "detached")
	bare := must(leases.LeaseTimeToLive(soon(t), &pb.LeaseTimeToLiveRequest{ID: id}))(t)
	if bare.TTL > 600 || bare.TTL < 570 || bare.GrantedTTL != 600 || bare.ID != id {
		t.Fatalf("%v", bare)
	}
	equal(t, "no keys unless asked", len(bare.Keys), 0)
	full := must(leases.LeaseTimeToLive(soon(t), &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}))(t)
	var names []string
	for _, key := range full.Keys {
		names = append(names, strings.TrimPrefix(string(key), at))
	}
	slices.Sort(names)
	equal(t, "keys", strings.Join(names, " "), "a b")
	unknown := must(leases.LeaseTimeToLive(soon(t), &pb.LeaseTimeToLiveRequest{ID: 404, Keys: true}))(t)
	equal(t, "unknown: ttl", unknown.TTL, -1)
	equal(t, "unknown: granted", unknown.GrantedTTL, 0)
	equal(t, "unknown: id", unknown.ID, 404)
	equal(t, "unknown: revision", unknown.Header.Revision, now(t))
}

func TestLeaseRevokeIsOneRevision(t *testing.T) {
	at := place(t)
	id := grant(t, 600, 0).ID
	for _, key := range []string{"c", "a", "b"} {
		putLeased(t, at+key, "v", id)
	}
	base := now(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at)})
	revoked := must(leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: id}))(t)
	equal(t, "revision", revoked.Header.Revision, base+1)
	equal(t, "one response, in key order", tell(w.next().Events, base), "DELETE a=@1, DELETE b=@1, DELETE c=@1")
	_, err := leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: id})
	wantError(t, err, codes.NotFound, "etcdserver: requested lease not found")
	_, err = kv.Put(soon(t), &pb.PutRequest{Key: []byte(at + "a"), Lease: id})
	wantError(t, err, codes.NotFound, "etcdserver: requested lease not found")
	bare := grant(t, 600, 0).ID
	quiet := must(leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: bare}))(t)
	equal(t, "without keys the revision stays", quiet.Header.Revision, base+1)
}

func TestLeaseMovesWithThePut(t *testing.T) {
	at := place(t)
	one, two := grant(t, 600, 0).ID, grant(t, 600, 0).ID
	putLeased(t, at+"k", "1", one)
	putLeased(t, at+"k", "2", two)
	must(leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: one}))(t)
	equal(t, "it belongs to the other lease now", string(get(t, at+"k").Value), "2")
	must(leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: two}))(t)
	if get(t, at+"k") != nil {
		t.Fatal("the key outlived its lease")
	}
}

// A key deleted and put again without a lease is free of the old one.
func TestLeaseForgetsDeletedKeys(t *testing.T) {
	at := place(t)
	id := grant(t, 600, 0).ID
	putLeased(t, at+"k", "1", id)
	remove(t, at+"k")
	put(t, at+"k", "2")
	must(leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: id}))(t)
	equal(t, "it stays", string(get(t, at+"k").Value), "2")
}

func TestLeaseExpires(t *testing.T) {
	at := place(t)
	id := grant(t, 2, 0).ID
	for _, key := range []string{"b", "a"} {
		putLeased(t, at+key, "v", id)
	}
	base := now(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at)})
	equal(t, "one revision", tell(w.next().Events, base), "DELETE a=@1, DELETE b=@1")
	gone := must(leases.LeaseTimeToLive(soon(t), &pb.LeaseTimeToLiveRequest{ID: id}))(t)
	equal(t, "gone", gone.TTL, -1)
}

func TestLeaseKeepAlive(t *testing.T) {
	at := place(t)
	id := grant(t, 2, 0).ID
	putLeased(t, at+"k", "v", id)
	stream := must(leases.LeaseKeepAlive(soon(t)))(t)
	ask := func(id int64) *pb.LeaseKeepAliveResponse {
		t.Helper()
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		return must(stream.Recv())(t)
	}
	// Twice as long as it would live by itself.
	for range 8 {
		alive := ask(id)
		equal(t, "ttl", alive.TTL, 2)
		equal(t, "id", alive.ID, id)
		time.Sleep(500 * time.Millisecond)
	}
	if get(t, at+"k") == nil {
		t.Fatal("the lease expired though it was kept alive")
	}
	equal(t, "an unknown lease is told by ttl 0", ask(404).TTL, 0)
	equal(t, "and the stream lives", ask(id).TTL, 2)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Fatalf("a stream closed by its client ends well: %v", err)
	}
}

func TestLeaseLeases(t *testing.T) {
	have := func() map[int64]bool {
		set := map[int64]bool{}
		for _, lease := range must(leases.LeaseLeases(soon(t), &pb.LeaseLeasesRequest{}))(t).Leases {
			set[lease.ID] = true
		}
		return set
	}
	one, two := grant(t, 600, 0).ID, grant(t, 600, 0).ID
	if set := have(); !set[one] || !set[two] {
		t.Fatalf("%d or %d is missing in %v", one, two, set)
	}
	must(leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: one}))(t)
	if set := have(); set[one] || !set[two] {
		t.Fatalf("after revoking %d: %v", one, set)
	}
}

func TestLeaseThroughTheClient(t *testing.T) {
	at := place(t)
	ctx := soon(t)
	granted := must(client.Grant(ctx, 3))(t)
	alive := must(client.KeepAlive(ctx, granted.ID))(t)
	must(client.Put(ctx, at+"service/1", "10.0.0.1", clientv3.WithLease(granted.ID)))(t)
	for range 2 {
		equal(t, "ttl", (<-alive).TTL, 3)
	}
	once := must(client.KeepAliveOnce(ctx, granted.ID))(t)
	equal(t, "once", once.TTL, 3)
	ttl := must(client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys()))(t)
	equal(t, "keys", fmt.Sprintf("%s", ttl.Keys), "["+at+"service/1]")
	must(client.Revoke(ctx, granted.ID))(t)
	_, err := client.KeepAliveOnce(ctx, granted.ID)
	equal(t, "revoked", fmt.Sprint(err), "etcdserver: requested lease not found")
}
