package clients

import (
	"bytes"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

func TestPutMovesTheRevisionByOne(t *testing.T) {
	at := place(t)
	base := now(t)
	for i := range int64(3) {
		equal(t, "revision", put(t, at+"k", "same").Header.Revision, base+1+i)
	}
	equal(t, "key", show(get(t, at+"k"), base), "k=same create=1 mod=3 version=3 lease=0")
}

func TestPutKeepsBytes(t *testing.T) {
	at := place(t)
	value := bytes.Repeat([]byte{0, 255, '\n', 128}, 1000)
	key := []byte(at + "\x00\xff\x80")
	must(kv.Put(soon(t), &pb.PutRequest{Key: key, Value: value}))(t)
	response := must(kv.Range(soon(t), &pb.RangeRequest{Key: key}))(t)
	if !bytes.Equal(response.Kvs[0].Value, value) || !bytes.Equal(response.Kvs[0].Key, key) {
		t.Fatal("bytes changed on the way")
	}
	put(t, at+"empty", "")
	if got := get(t, at+"empty"); got == nil || len(got.Value) != 0 {
		t.Fatalf("an empty value is a value: %v", got)
	}
}

func TestPutPrevKv(t *testing.T) {
	at := place(t)
	base := now(t)
	first := must(kv.Put(soon(t), &pb.PutRequest{Key: []byte(at + "k"), Value: []byte("1"), PrevKv: true}))(t)
	equal(t, "nothing before", show(first.PrevKv, base), "-")
	second := must(kv.Put(soon(t), &pb.PutRequest{Key: []byte(at + "k"), Value: []byte("2"), PrevKv: true}))(t)
	equal(t, "before", show(second.PrevKv, base), "k=1 create=1 mod=1 version=1 lease=0")
	third := put(t, at+"k", "3")
	equal(t, "not asked for", show(third.PrevKv, base), "-")
}

func TestPutIgnoreValueAndLease(t *testing.T) {
	at := place(t)
	lease := must(leases.LeaseGrant(soon(t), &pb.LeaseGrantRequest{TTL: 600, ID: 7001}))(t).ID
	defer leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: lease})
	base := now(t)
	key := []byte(at + "k")
	put(t, at+"k", "1")
	must(kv.Put(soon(t), &pb.PutRequest{Key: key, IgnoreValue: true, Lease: lease}))(t)
	equal(t, "lease attached, value kept", show(get(t, at+"k"), base), "k=1 create=1 mod=2 version=2 lease=7001")
	must(kv.Put(soon(t), &pb.PutRequest{Key: key, Value: []byte("2"), IgnoreLease: true}))(t)
	equal(t, "value changed, lease kept", show(get(t, at+"k"), base), "k=2 create=1 mod=3 version=3 lease=7001")
	must(kv.Put(soon(t), &pb.PutRequest{Key: key, IgnoreValue: true, IgnoreLease: true}))(t)
	equal(t, "both kept", show(get(t, at+"k"), base), "k=2 create=1 mod=4 version=4 lease=7001")
	put(t, at+"k", "3")
	equal(t, "a plain put detaches", show(get(t, at+"k"), base), "k=3 create=1 mod=5 version=5 lease=0")
	remove(t, at+"k")
	_, err := kv.Put(soon(t), &pb.PutRequest{Key: key, IgnoreValue: true})
	wantError(t, err, codes.InvalidArgument, "etcdserver: key not found")
	equal(t, "nothing happened", now(t), base+6)
}

func TestDeleteRange(t *testing.T) {
	at := place(t)
	base := five(t, at)
	none := remove(t, at+"x")
	equal(t, "absent: deleted", none.Deleted, 0)
	equal(t, "absent: revision", none.Header.Revision, base+8)
	some := must(kv.DeleteRange(soon(t), &pb.DeleteRangeRequest{Key: []byte(at + "b"), RangeEnd: []byte(at + "d"), PrevKv: true}))(t)
	equal(t, "deleted", some.Deleted, 2)
	equal(t, "one revision", some.Header.Revision, base+9)
	equal(t, "prev b", show(some.PrevKvs[0], base), "b=3 create=2 mod=6 version=2 lease=0")
	equal(t, "prev c", show(some.PrevKvs[1], base), "c=4 create=3 mod=3 version=1 lease=0")
	inverted := must(kv.DeleteRange(soon(t), &pb.DeleteRangeRequest{Key: []byte(at + "e"), RangeEnd: []byte(at + "a")}))(t)
	equal(t, "inverted", inverted.Deleted, 0)
	rest := must(kv.DeleteRange(soon(t), &pb.DeleteRangeRequest{Key: []byte(at), RangeEnd: end(at)}))(t)
	equal(t, "rest", rest.Deleted, 3)
	equal(t, "no prev unless asked", len(rest.PrevKvs), 0)
	old := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at), Revision: base + 8}))(t)
	equal(t, "history stays", keys(old.Kvs), "a b c d e")
}

func TestDeleteFromKey(t *testing.T) {
	// Nothing lies behind it: all other keys begin with less.
	at := "\xff\xff\xff\xff\xff" + place(t)
	five(t, at)
	all := must(kv.DeleteRange(soon(t), &pb.DeleteRangeRequest{Key: []byte(at), RangeEnd: []byte{0}}))(t)
	equal(t, "deleted", all.Deleted, 5)
}

func TestCompact(t *testing.T) {
	at := place(t)
	base := five(t, at)
	remove(t, at+"e")
	_, err := kv.Compact(soon(t), &pb.CompactionRequest{Revision: base + 100})
	wantError(t, err, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
	for _, physical := range []bool{false, true} {
		to := base + 5
		if physical {
			to = base + 7
		}
		done := must(kv.Compact(soon(t), &pb.CompactionRequest{Revision: to, Physical: physical}))(t)
		equal(t, "the revision stays", done.Header.Revision, base+9)
		for _, below := range []int64{to, to - 1, 0, -1} {
			_, err = kv.Compact(soon(t), &pb.CompactionRequest{Revision: below})
			wantError(t, err, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
		}
		_, err = kv.Range(soon(t), &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at), Revision: to - 1})
		wantError(t, err, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
		edge := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at), Revision: to}))(t)
		equal(t, "the compacted revision itself can be read", keys(edge.Kvs), "a b c d e")
	}
	must(kv.Compact(soon(t), &pb.CompactionRequest{Revision: base + 9, Physical: true}))(t)
	after := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at), Revision: base + 9}))(t)
	equal(t, "what lives", keys(after.Kvs), "a b c d")
	equal(t, "whole", show(after.Kvs[0], base), "a=7 create=1 mod=8 version=3 lease=0")
}
