package clients

import (
	"bytes"
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// Every refusal that one member without auth, alarms and quota can give, by code and text.
func TestErrors(t *testing.T) {
	at := place(t)
	base := five(t, at)
	must(kv.Compact(soon(t), &pb.CompactionRequest{Revision: base + 3}))(t)
	grant(t, 600, 7003)
	key := []byte(at + "a")
	ctx := soon(t)
	rng := func(r *pb.RangeRequest) func() error {
		return func() error { _, err := kv.Range(ctx, r); return err }
	}
	puts := func(r *pb.PutRequest) func() error {
		return func() error { _, err := kv.Put(ctx, r); return err }
	}
	deletes := func(r *pb.DeleteRangeRequest) func() error {
		return func() error { _, err := kv.DeleteRange(ctx, r); return err }
	}
	txns := func(r *pb.TxnRequest) func() error {
		return func() error { _, err := kv.Txn(ctx, r); return err }
	}
	then := func(ops ...*pb.RequestOp) func() error { return txns(&pb.TxnRequest{Success: ops}) }
	compacts := func(revision int64) func() error {
		return func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: revision}); return err }
	}
	repeat := func(n int) []*pb.RequestOp {
		ops := make([]*pb.RequestOp, n)
		for i := range ops {
			ops[i] = opGet(&pb.RangeRequest{Key: key})
		}
		return ops
	}
	member := pb.NewClusterClient(conn)
	maintenance := pb.NewMaintenanceClient(conn)
	authentication := pb.NewAuthClient(conn)
	const (
		emptyKey  = "etcdserver: key is not provided"
		badSort   = "etcdserver: invalid sort option"
		compacted = "etcdserver: mvcc: required revision has been compacted"
		future    = "etcdserver: mvcc: required revision is a future revision"
		tooMany   = "etcdserver: too many operations in txn request"
		notFound  = "etcdserver: key not found"
		noLease   = "etcdserver: requested lease not found"
		tooLarge  = "etcdserver: request is too large"
	)
	for _, row := range []struct {
		name string
		call func() error
		code codes.Code
		text string
	}{
		{"range: no key", rng(&pb.RangeRequest{}), codes.InvalidArgument, emptyKey},
		{"range: no key but an end", rng(&pb.RangeRequest{RangeEnd: []byte{0}}), codes.InvalidArgument, emptyKey},
		{"range: unknown order", rng(&pb.RangeRequest{Key: key, SortOrder: 3}), codes.InvalidArgument, badSort},
		{"range: unknown target", rng(&pb.RangeRequest{Key: key, SortTarget: 5}), codes.InvalidArgument, badSort},
		{"range: negative target", rng(&pb.RangeRequest{Key: key, SortTarget: -1}), codes.InvalidArgument, badSort},
		{"range: compacted", rng(&pb.RangeRequest{Key: key, Revision: base + 2}), codes.OutOfRange, compacted},
		{"range: future", rng(&pb.RangeRequest{Key: key, Revision: base + 9}), codes.OutOfRange, future},
		{"range: serializable, future", rng(&pb.RangeRequest{Key: key, Revision: base + 9, Serializable: true}), codes.OutOfRange, future},
		{"put: no key", puts(&pb.PutRequest{Value: key}), codes.InvalidArgument, emptyKey},
		{"put: ignored value provided", puts(&pb.PutRequest{Key: key, Value: key, IgnoreValue: true}), codes.InvalidArgument, "etcdserver: value is provided"},
		{"put: ignored lease provided", puts(&pb.PutRequest{Key: key, Lease: 7003, IgnoreLease: true}), codes.InvalidArgument, "etcdserver: lease is provided"},
		{"put: value first", puts(&pb.PutRequest{Key: key, Value: key, IgnoreValue: true, Lease: 7003, IgnoreLease: true}), codes.InvalidArgument, "etcdserver: value is provided"},
		{"put: value of an absent key", puts(&pb.PutRequest{Key: []byte(at + "x"), IgnoreValue: true}), codes.InvalidArgument, notFound},
		{"put: lease of an absent key", puts(&pb.PutRequest{Key: []byte(at + "x"), IgnoreLease: true}), codes.InvalidArgument, notFound},
		{"put: unknown lease", puts(&pb.PutRequest{Key: key, Lease: 404}), codes.NotFound, noLease},
		{"put: too large", puts(&pb.PutRequest{Key: key, Value: bytes.Repeat([]byte("v"), 1_600_000)}), codes.InvalidArgument, tooLarge},
		{"put: larger than a message may be", puts(&pb.PutRequest{Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 2_200_000)}), codes.ResourceExhausted, "grpc: received message larger than max (2200008 vs. 2097152)"},
		{"delete: no key", deletes(&pb.DeleteRangeRequest{}), codes.InvalidArgument, emptyKey},
		{"delete: no key but an end", deletes(&pb.DeleteRangeRequest{RangeEnd: []byte{0}}), codes.InvalidArgument, emptyKey},
		{"txn: compare without key", txns(&pb.TxnRequest{Compare: []*pb.Compare{{}}}), codes.InvalidArgument, emptyKey},
		{"txn: range without key", then(opGet(&pb.RangeRequest{})), codes.InvalidArgument, emptyKey},
		{"txn: put without key", then(opPut("", "v")), codes.InvalidArgument, emptyKey},
		{"txn: delete without key", then(opDelete("", "")), codes.InvalidArgument, emptyKey},
		{"txn: an operation that is none", then(&pb.RequestOp{}), codes.InvalidArgument, notFound},
		{"txn: else branch is checked too", txns(&pb.TxnRequest{Failure: []*pb.RequestOp{opPut("", "v")}}), codes.InvalidArgument, emptyKey},
		{"txn: sort", then(opGet(&pb.RangeRequest{Key: key, SortOrder: 7})), codes.InvalidArgument, badSort},
		{"txn: 129 operations", then(repeat(129)...), codes.InvalidArgument, tooMany},
		{"txn: 129 compares", txns(&pb.TxnRequest{Compare: func() []*pb.Compare {
			compares := make([]*pb.Compare, 129)
			for i := range compares {
				compares[i] = &pb.Compare{Key: key}
			}
			return compares
		}()}), codes.InvalidArgument, tooMany},
		{"txn: 129 operations come before an empty key", then(append(repeat(128), opPut("", ""))...), codes.InvalidArgument, tooMany},
		{"txn: nested has the rest", then(append(repeat(99), opTxn(&pb.TxnRequest{Success: repeat(29)}))...), codes.InvalidArgument, tooMany},
		{"txn: duplicate", then(opPut(at+"a", "1"), opPut(at+"a", "1")), codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
		{"txn: duplicate in a branch that would not run", txns(&pb.TxnRequest{Failure: []*pb.RequestOp{opPut(at+"a", "1"), opPut(at+"a", "1")}}), codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
		{"txn: compacted inside", then(opPut(at+"a", "1"), opGet(&pb.RangeRequest{Key: key, Revision: base + 2})), codes.OutOfRange, compacted},
		{"txn: future inside", then(opGet(&pb.RangeRequest{Key: key, Revision: base + 9})), codes.OutOfRange, future},
		{"txn: value given and ignored", then(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: key, IgnoreValue: true}}}), codes.InvalidArgument, "etcdserver: value is provided"},
		{"compact: at the compacted", compacts(base + 3), codes.OutOfRange, compacted},
		{"compact: nothing", compacts(0), codes.OutOfRange, compacted},
		{"compact: negative", compacts(-1), codes.OutOfRange, compacted},
		{"compact: future", compacts(base + 9), codes.OutOfRange, future},
		{"lease: exists", func() error {
			_, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60, ID: 7003})
			return err
		}, codes.FailedPrecondition, "etcdserver: lease already exists"},
		{"lease: too long", func() error {
			_, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 9_000_000_001})
			return err
		}, codes.OutOfRange, "etcdserver: too large lease TTL"},
		{"lease: revoke unknown", func() error {
			_, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 404})
			return err
		}, codes.NotFound, noLease},
		{"lease: revoke none", func() error {
			_, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{})
			return err
		}, codes.NotFound, noLease},
		{"hashkv: future", func() error {
			_, err := maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: base + 1000})
			return err
		}, codes.OutOfRange, future},
		{"hashkv: compacted", func() error {
			_, err := maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: base + 2})
			return err
		}, codes.OutOfRange, compacted},
		{"auth: authenticate while it is off", func() error {
			_, err := authentication.Authenticate(ctx, &pb.AuthenticateRequest{Name: "a", Password: "b"})
			return err
		}, codes.FailedPrecondition, "etcdserver: authentication is not enabled"},
	} {
		t.Run(row.name, func(t *testing.T) { wantError(t, row.call(), row.code, row.text) })
	}
	equal(t, "none of them changed anything", now(t), base+8)
	_ = member
}

func TestLimitsThatStillPass(t *testing.T) {
	at := place(t)
	ops := make([]*pb.RequestOp, 128)
	for i := range ops {
		ops[i] = opGet(&pb.RangeRequest{Key: []byte(at)})
	}
	equal(t, "128 operations", len(txn(t, &pb.TxnRequest{Success: ops}).Responses), 128)
	ops = append(ops[:99:99], opTxn(&pb.TxnRequest{Success: ops[:28]}))
	equal(t, "nested, the rest used up", len(txn(t, &pb.TxnRequest{Success: ops}).Responses), 100)
	big := bytes.Repeat([]byte("v"), 1_500_000)
	must(kv.Put(soon(t), &pb.PutRequest{Key: []byte(at + "big"), Value: big}))(t)
	if !bytes.Equal(get(t, at+"big").Value, big) {
		t.Fatal("a large value changed on the way")
	}
}

// The stock client turns texts into its own errors, and callers compare with those.
func TestErrorsThroughTheClient(t *testing.T) {
	at := place(t)
	ctx := soon(t)
	_, err := client.Get(ctx, at, clientv3.WithRev(now(t)+1000))
	equal(t, "future", err == rpctypes.ErrFutureRev, true)
	_, err = client.Put(ctx, "", "v")
	equal(t, "empty key", err == rpctypes.ErrEmptyKey, true)
	_, err = client.Revoke(ctx, 404)
	equal(t, "lease", err == rpctypes.ErrLeaseNotFound, true)
}

func TestUnknownMethodsAndDeadlines(t *testing.T) {
	ctx := soon(t)
	err := conn.Invoke(ctx, "/etcdserverpb.KV/Nothing", &pb.RangeRequest{}, &pb.RangeResponse{})
	wantError(t, err, codes.Unimplemented, "unknown method Nothing for service etcdserverpb.KV")
	err = conn.Invoke(ctx, "/nobody.Here/Range", &pb.RangeRequest{}, &pb.RangeResponse{})
	wantError(t, err, codes.Unimplemented, "unknown service nobody.Here")
	over, cancel := context.WithTimeout(ctx, 0)
	defer cancel()
	_, err = kv.Range(over, &pb.RangeRequest{Key: []byte("a")})
	wantError(t, err, codes.DeadlineExceeded, "context deadline exceeded")
}
