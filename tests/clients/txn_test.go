package clients

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

func opPut(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func opGet(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opDelete(key, end string) *pb.RequestOp {
	request := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: true}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: request}}
}

func opTxn(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

func txn(t *testing.T, r *pb.TxnRequest) *pb.TxnResponse {
	t.Helper()
	return must(kv.Txn(soon(t), r))(t)
}

func TestTxnIsOneRevision(t *testing.T) {
	at := place(t)
	put(t, at+"a", "0")
	base := now(t)
	done := txn(t, &pb.TxnRequest{Success: []*pb.RequestOp{
		opGet(&pb.RangeRequest{Key: []byte(at + "b")}),
		opPut(at+"b", "1"),
		opGet(&pb.RangeRequest{Key: []byte(at), RangeEnd: end(at)}),
		opDelete(at+"a", ""),
		opPut(at+"c", "2"),
		opGet(&pb.RangeRequest{Key: []byte(at), RangeEnd: end(at)}),
	}})
	equal(t, "no compares succeed", done.Succeeded, true)
	equal(t, "revision", done.Header.Revision, base+1)
	equal(t, "before the put", keys(done.Responses[0].GetResponseRange().Kvs), "")
	equal(t, "after the put", keys(done.Responses[2].GetResponseRange().Kvs), "a b")
	equal(t, "after all", keys(done.Responses[5].GetResponseRange().Kvs), "b c")
	equal(t, "deleted", done.Responses[3].GetResponseDeleteRange().Deleted, 1)
	equal(t, "deleted, before", show(done.Responses[3].GetResponseDeleteRange().PrevKvs[0], base), "a=0 create=0 mod=0 version=1 lease=0")
	equal(t, "b", show(get(t, at+"b"), base), "b=1 create=1 mod=1 version=1 lease=0")
	equal(t, "c", show(get(t, at+"c"), base), "c=2 create=1 mod=1 version=1 lease=0")
}

// The inner headers carry only a revision, and which one is worth knowing.
func TestTxnHeaders(t *testing.T) {
	at := place(t)
	put(t, at+"a", "0")
	base := now(t)
	done := txn(t, &pb.TxnRequest{Success: []*pb.RequestOp{
		opGet(&pb.RangeRequest{Key: []byte(at + "a")}),
		opPut(at+"b", "1"),
		opGet(&pb.RangeRequest{Key: []byte(at + "b")}),
		opDelete(at+"x", ""),
		opDelete(at+"a", ""),
		opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opGet(&pb.RangeRequest{Key: []byte(at + "b")})}}),
	}})
	headers := []*pb.ResponseHeader{
		done.Responses[0].GetResponseRange().Header,
		done.Responses[1].GetResponsePut().Header,
		done.Responses[2].GetResponseRange().Header,
		done.Responses[3].GetResponseDeleteRange().Header,
		done.Responses[4].GetResponseDeleteRange().Header,
		done.Responses[5].GetResponseTxn().Header,
		done.Responses[5].GetResponseTxn().Responses[0].GetResponseRange().Header,
	}
	got := ""
	for _, h := range headers {
		if h == nil {
			got += "none "
			continue
		}
		if h.ClusterId != 0 || h.MemberId != 0 || h.RaftTerm != 0 {
			t.Fatalf("an inner header carries more than its revision: %v", h)
		}
		if h.Revision == 0 {
			got += "unset "
			continue
		}
		got += fmt.Sprintf("%+d ", h.Revision-base)
	}
	equal(t, "inner headers", got, "+0 +1 +1 +1 +1 unset +1 ")
	if h := done.Header; h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 {
		t.Fatalf("the outer header is whole: %v", h)
	}
}

func TestTxnReadsAndFailuresLeaveTheRevision(t *testing.T) {
	at := place(t)
	put(t, at+"a", "0")
	base := now(t)
	empty := txn(t, &pb.TxnRequest{})
	equal(t, "an empty txn succeeds", empty.Succeeded, true)
	equal(t, "an empty txn: revision", empty.Header.Revision, base)
	read := txn(t, &pb.TxnRequest{Success: []*pb.RequestOp{
		opGet(&pb.RangeRequest{Key: []byte(at + "a"), Serializable: true}),
		opGet(&pb.RangeRequest{Key: []byte(at + "a"), Revision: base - 1}),
	}})
	equal(t, "a read-only txn: revision", read.Header.Revision, base)
	equal(t, "an old revision inside", len(read.Responses[1].GetResponseRange().Kvs), 0)
	failed := txn(t, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(at + "a"), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{Version: 9}}},
		Success: []*pb.RequestOp{opPut(at+"a", "never")},
		Failure: []*pb.RequestOp{opDelete(at+"nothing", "")},
	})
	equal(t, "failed", failed.Succeeded, false)
	equal(t, "deleting nothing: revision", failed.Header.Revision, base)
	equal(t, "the else branch ran", failed.Responses[0].GetResponseDeleteRange().Deleted, 0)
}

func TestTxnCompares(t *testing.T) {
	at := place(t)
	lease := must(leases.LeaseGrant(soon(t), &pb.LeaseGrantRequest{TTL: 600, ID: 7002}))(t).ID
	defer leases.LeaseRevoke(soon(t), &pb.LeaseRevokeRequest{ID: lease})
	base := now(t)
	put(t, at+"a", "m")
	must(kv.Put(soon(t), &pb.PutRequest{Key: []byte(at + "a"), Value: []byte("m"), Lease: lease}))(t)
	put(t, at+"b", "n")
	a, b, absent := at+"a", at+"b", at+"absent"
	number := func(target pb.Compare_CompareTarget, n int64) func(*pb.Compare) {
		return func(c *pb.Compare) {
			c.Target = target
			switch target {
			case pb.Compare_VERSION:
				c.TargetUnion = &pb.Compare_Version{Version: n}
			case pb.Compare_CREATE:
				c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: n}
			case pb.Compare_MOD:
				c.TargetUnion = &pb.Compare_ModRevision{ModRevision: n}
			case pb.Compare_LEASE:
				c.TargetUnion = &pb.Compare_Lease{Lease: n}
			}
		}
	}
	value := func(v string) func(*pb.Compare) {
		return func(c *pb.Compare) {
			c.Target, c.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: []byte(v)}
		}
	}
	nothing := func(target pb.Compare_CompareTarget) func(*pb.Compare) {
		return func(c *pb.Compare) { c.Target = target }
	}
	// Each row: which of = > < != hold, in this order.
	for _, row := range []struct {
		name, key, end string
		with           func(*pb.Compare)
		holds          string
	}{
		{"version less", a, "", number(pb.Compare_VERSION, 1), "> !="},
		{"version same", a, "", number(pb.Compare_VERSION, 2), "="},
		{"version more", a, "", number(pb.Compare_VERSION, 3), "< !="},
		{"create", a, "", number(pb.Compare_CREATE, base+1), "="},
		{"mod", a, "", number(pb.Compare_MOD, base+1), "> !="},
		{"lease", a, "", number(pb.Compare_LEASE, lease), "="},
		{"no lease", b, "", number(pb.Compare_LEASE, 0), "="},
		{"value less", a, "", value("l"), "> !="},
		{"value same", a, "", value("m"), "="},
		{"value longer", a, "", value("mm"), "< !="},
		{"value empty", a, "", value(""), "> !="},
		{"absent: version 0", absent, "", number(pb.Compare_VERSION, 0), "="},
		{"absent: create 5", absent, "", number(pb.Compare_CREATE, 5), "< !="},
		{"absent: mod -1", absent, "", number(pb.Compare_MOD, -1), "> !="},
		{"absent: lease 0", absent, "", number(pb.Compare_LEASE, 0), "="},
		{"absent: value never compares", absent, "", value(""), ""},
		{"no target given: version 0", absent, "", nothing(pb.Compare_VERSION), "="},
		{"no target given: mod 0", a, "", nothing(pb.Compare_MOD), "> !="},
		{"no target given: value", a, "", nothing(pb.Compare_VALUE), "> !="},
		{"range: all must hold", at, string(end(at)), number(pb.Compare_VERSION, 0), "> !="},
		{"range: one does not", at, string(end(at)), number(pb.Compare_VERSION, 1), ""},
		{"range: values", at, string(end(at)), value("l"), "> !="},
		{"range: values differ", at, string(end(at)), value("m"), ""},
		{"range: empty is absent", at + "x", string(end(at)), number(pb.Compare_CREATE, 0), "="},
		{"range: empty, value", at + "x", string(end(at)), value("m"), ""},
		{"range: from key", "\xff\xff\xff\xff", "\x00", number(pb.Compare_CREATE, 0), "="},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := ""
			for i, sign := range []string{"=", ">", "<", "!="} {
				compare := &pb.Compare{Key: []byte(row.key), RangeEnd: []byte(row.end)}
				row.with(compare)
				compare.Result = pb.Compare_CompareResult(i)
				if txn(t, &pb.TxnRequest{Compare: []*pb.Compare{compare}}).Succeeded {
					if got != "" {
						got += " "
					}
					got += sign
				}
			}
			equal(t, "holds", got, row.holds)
		})
	}
	both := txn(t, &pb.TxnRequest{Compare: []*pb.Compare{
		{Key: []byte(a), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 2}},
		{Key: []byte(b), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 2}},
	}})
	equal(t, "all compares must hold", both.Succeeded, false)
}

func TestTxnNested(t *testing.T) {
	at := place(t)
	base := now(t)
	exists := func(key string) []*pb.Compare {
		return []*pb.Compare{{Key: []byte(key), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{}}}
	}
	done := txn(t, &pb.TxnRequest{Success: []*pb.RequestOp{
		opPut(at+"a", "1"),
		// Compares of all levels are decided before anything is written.
		opTxn(&pb.TxnRequest{
			Compare: exists(at + "a"),
			Success: []*pb.RequestOp{opPut(at+"b", "then")},
			Failure: []*pb.RequestOp{opPut(at+"b", "else"), opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{
				opPut(at+"c", "deep"), opGet(&pb.RangeRequest{Key: []byte(at), RangeEnd: end(at)}),
			}})},
		}),
		opPut(at+"d", "2"),
	}})
	equal(t, "revision", done.Header.Revision, base+1)
	inner := done.Responses[1].GetResponseTxn()
	equal(t, "inner succeeded", inner.Succeeded, false)
	deep := inner.Responses[1].GetResponseTxn()
	equal(t, "deep sees what was written", keys(deep.Responses[1].GetResponseRange().Kvs), "a b c")
	equal(t, "b", show(get(t, at+"b"), base), "b=else create=1 mod=1 version=1 lease=0")
	// The two branches of one transaction may write the same key.
	txn(t, &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{
		Compare: exists(at + "z"),
		Success: []*pb.RequestOp{opPut(at+"b", "x")},
		Failure: []*pb.RequestOp{opPut(at+"b", "y")},
	})}})
	equal(t, "b again", show(get(t, at+"b"), base), "b=y create=1 mod=2 version=2 lease=0")
}

// A transaction that is refused changes nothing, wherever in it the reason lies.
func TestTxnRefusedChangesNothing(t *testing.T) {
	at := place(t)
	put(t, at+"b", "1")
	base := now(t)
	ignore := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), IgnoreValue: true}}}
	}
	for _, row := range []struct {
		name string
		ops  []*pb.RequestOp
		code codes.Code
		text string
	}{
		{"ignore_value of an absent key", []*pb.RequestOp{opPut(at+"a", "1"), ignore(at + "absent")}, codes.InvalidArgument, "etcdserver: key not found"},
		{"unknown lease", []*pb.RequestOp{opPut(at+"a", "1"), {Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(at + "c"), Lease: 404}}}}, codes.NotFound, "etcdserver: requested lease not found"},
		{"future revision", []*pb.RequestOp{opPut(at+"a", "1"), opGet(&pb.RangeRequest{Key: []byte(at), Revision: base + 9})}, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{"its own revision", []*pb.RequestOp{opPut(at+"a", "1"), opGet(&pb.RangeRequest{Key: []byte(at), Revision: base + 1})}, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{"two puts", []*pb.RequestOp{opPut(at+"a", "1"), opPut(at+"a", "2")}, codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
		{"put after its delete", []*pb.RequestOp{opDelete(at+"a", at+"c"), opPut(at+"b", "2")}, codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
		{"put inside, delete outside", []*pb.RequestOp{opDelete(at+"a", at+"c"), opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(at+"b", "2")}})}, codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
		{"puts in two inner txns", []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(at+"b", "2")}}), opTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{opPut(at+"b", "2")}})}, codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := kv.Txn(soon(t), &pb.TxnRequest{Success: row.ops})
			wantError(t, err, row.code, row.text)
			equal(t, "revision", now(t), base)
			if get(t, at+"a") != nil {
				t.Fatal("something was written")
			}
		})
	}
	double := txn(t, &pb.TxnRequest{Success: []*pb.RequestOp{opDelete(at+"b", ""), opDelete(at, string(end(at)))}})
	equal(t, "deletes may overlap; the second finds nothing", double.Responses[1].GetResponseDeleteRange().Deleted, 0)
}

// The one place where cored must differ: etcd 3.7.3 panics here, and again at every start.
func TestTxnThatPanicsEtcd(t *testing.T) {
	if !onCored {
		t.Skip("etcd 3.7.3 would not survive it; set CLIENTS_SERVER=cored against cored")
	}
	at := "\xff\xff" + place(t)
	put(t, at+"b", "1")
	base := now(t)
	_, err := kv.Txn(soon(t), &pb.TxnRequest{Success: []*pb.RequestOp{
		opDelete(at+"a", "\x00"),
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(at + "b"), IgnoreValue: true}}},
	}})
	wantError(t, err, codes.InvalidArgument, "etcdserver: key not found")
	equal(t, "revision", now(t), base)
	equal(t, "b", show(get(t, at+"b"), base), "b=1 create=0 mod=0 version=1 lease=0")
}
