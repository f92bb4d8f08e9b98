package clients

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// Five keys whose orders by key, version, create revision, mod revision and value all differ.
// It returns the revision before the first write.
func five(t *testing.T, at string) int64 {
	t.Helper()
	base := now(t)
	for _, write := range []string{"a=5", "b=3", "c=4", "d=1", "e=2", "b=3", "a=9", "a=7"} {
		key, value, _ := strings.Cut(write, "=")
		put(t, at+key, value)
	}
	return base
}

func TestRangeOptions(t *testing.T) {
	at := place(t)
	base := five(t, at)
	asc, desc := pb.RangeRequest_ASCEND, pb.RangeRequest_DESCEND
	for _, row := range []struct {
		name  string
		with  func(*pb.RangeRequest)
		keys  string
		more  bool
		count int64
	}{
		{"all", func(r *pb.RangeRequest) {}, "a b c d e", false, 5},
		{"one key", func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte(at+"c"), nil }, "c", false, 1},
		{"absent key", func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte(at+"x"), nil }, "", false, 0},
		{"half-open", func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte(at+"b"), []byte(at+"d") }, "b c", false, 2},
		{"inverted", func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte(at+"d"), []byte(at+"b") }, "", false, 0},
		{"empty", func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte(at+"b"), []byte(at+"b") }, "", false, 0},
		{"limit cuts", func(r *pb.RangeRequest) { r.Limit = 2 }, "a b", true, 5},
		{"limit fits", func(r *pb.RangeRequest) { r.Limit = 5 }, "a b c d e", false, 5},
		{"negative limit", func(r *pb.RangeRequest) { r.Limit = -1 }, "a b c d e", false, 5},
		{"count only", func(r *pb.RangeRequest) { r.CountOnly = true }, "", false, 5},
		{"count only ignores limit", func(r *pb.RangeRequest) { r.CountOnly, r.Limit = true, 2 }, "", false, 5},
		{"serializable", func(r *pb.RangeRequest) { r.Serializable = true }, "a b c d e", false, 5},
		{"key descending", func(r *pb.RangeRequest) { r.SortOrder = desc }, "e d c b a", false, 5},
		{"key descending, limit", func(r *pb.RangeRequest) { r.SortOrder, r.Limit = desc, 2 }, "e d", true, 5},
		{"key ascending", func(r *pb.RangeRequest) { r.SortOrder = asc }, "a b c d e", false, 5},
		{"create", func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder = pb.RangeRequest_CREATE, desc }, "e d c b a", false, 5},
		{"mod", func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder = pb.RangeRequest_MOD, asc }, "c d e b a", false, 5},
		{"mod, no order means ascending", func(r *pb.RangeRequest) { r.SortTarget = pb.RangeRequest_MOD }, "c d e b a", false, 5},
		{"mod descending, limit", func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder, r.Limit = pb.RangeRequest_MOD, desc, 2 }, "a b", true, 5},
		{"value", func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder = pb.RangeRequest_VALUE, asc }, "d e b c a", false, 5},
		{"value descending", func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder = pb.RangeRequest_VALUE, desc }, "a c b e d", false, 5},
		{"version descending, limit", func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder, r.Limit = pb.RangeRequest_VERSION, desc, 2 }, "a b", true, 5},
		{"min mod", func(r *pb.RangeRequest) { r.MinModRevision = base + 5 }, "a b e", false, 5},
		{"max mod", func(r *pb.RangeRequest) { r.MaxModRevision = base + 5 }, "c d e", false, 5},
		{"min and max mod", func(r *pb.RangeRequest) { r.MinModRevision, r.MaxModRevision = base+4, base+6 }, "b d e", false, 5},
		{"min create", func(r *pb.RangeRequest) { r.MinCreateRevision = base + 4 }, "d e", false, 5},
		{"max create", func(r *pb.RangeRequest) { r.MaxCreateRevision = base + 2 }, "a b", false, 5},
		{"filter, then limit", func(r *pb.RangeRequest) { r.MinModRevision, r.Limit = base+5, 2 }, "a b", true, 5},
		{"filter, sort, limit", func(r *pb.RangeRequest) {
			r.MaxModRevision, r.SortOrder, r.Limit = base+6, desc, 2
		}, "e d", true, 5},
		{"then", func(r *pb.RangeRequest) { r.Revision = base + 3 }, "a b c", false, 3},
		{"then, before anything", func(r *pb.RangeRequest) { r.Revision = base }, "", false, 0},
		{"then, limit", func(r *pb.RangeRequest) { r.Revision, r.Limit = base+4, 1 }, "a", true, 4},
		{"then, counted", func(r *pb.RangeRequest) { r.Revision, r.CountOnly = base+4, true }, "", false, 4},
		{"negative revision is now", func(r *pb.RangeRequest) { r.Revision = -7 }, "a b c d e", false, 5},
	} {
		t.Run(row.name, func(t *testing.T) {
			request := &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at)}
			row.with(request)
			response := must(kv.Range(soon(t), request))(t)
			equal(t, "keys", keys(response.Kvs), row.keys)
			equal(t, "more", response.More, row.more)
			equal(t, "count", response.Count, row.count)
			equal(t, "header revision", response.Header.Revision, base+8)
		})
	}
}

func TestRangeFromKeyAndEverything(t *testing.T) {
	base := five(t, "\xff\xff"+place(t))
	response := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte("\xff\xff"), RangeEnd: []byte{0}}))(t)
	equal(t, "from key", keys(response.Kvs), "a b c d e")
	all := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true}))(t)
	if all.Count < 5 || len(all.Kvs) != 0 {
		t.Fatalf("everything counted: %v", all)
	}
	old := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte("\xff\xff"), RangeEnd: []byte{0}, Revision: base + 2}))(t)
	equal(t, "from key, then", keys(old.Kvs), "a b")
}

func TestRangeTellsVersions(t *testing.T) {
	at := place(t)
	base := five(t, at)
	equal(t, "now", show(get(t, at+"a"), base), "a=7 create=1 mod=8 version=3 lease=0")
	old := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte(at + "a"), Revision: base + 7}))(t)
	equal(t, "then", show(old.Kvs[0], base), "a=9 create=1 mod=7 version=2 lease=0")
	only := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte(at + "a"), KeysOnly: true}))(t)
	equal(t, "keys only", show(only.Kvs[0], base), "a= create=1 mod=8 version=3 lease=0")
	remove(t, at+"a")
	put(t, at+"a", "again")
	equal(t, "a second life", show(get(t, at+"a"), base), "a=again create=10 mod=10 version=1 lease=0")
	gone := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte(at + "a"), Revision: base + 9}))(t)
	equal(t, "between its lives", len(gone.Kvs), 0)
}

func TestRangeOfManyKeys(t *testing.T) {
	at := place(t)
	for i := range 30 {
		ops := make([]clientv3.Op, 100)
		for j := range ops {
			ops[j] = clientv3.OpPut(fmt.Sprintf("%s%04d", at, i*100+j), strings.Repeat("v", 100))
		}
		must(client.Txn(soon(t)).Then(ops...).Commit())(t)
	}
	all := must(client.Get(soon(t), at, clientv3.WithPrefix()))(t)
	equal(t, "count", all.Count, 3000)
	for i, pair := range all.Kvs {
		equal(t, "key", string(pair.Key), fmt.Sprintf("%s%04d", at, i))
	}
	// Page by page, as etcdctl and Kubernetes do: the rest is counted at each page.
	next, seen := at, 0
	for {
		page := must(client.Get(soon(t), next, clientv3.WithRange(string(end(at))), clientv3.WithLimit(700), clientv3.WithRev(all.Header.Revision)))(t)
		equal(t, "count of a page", page.Count, int64(3000-seen))
		seen += len(page.Kvs)
		if !page.More {
			break
		}
		next = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	equal(t, "keys of all pages", seen, 3000)

	stream := must(kv.RangeStream(soon(t), &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at)}))(t)
	merged, chunks := merge(t, stream)
	if chunks < 2 {
		t.Fatalf("3,000 keys came in %d chunk", chunks)
	}
	equal(t, "keys of the stream", len(merged.Kvs), 3000)
	wantSame(t, merged, (*pb.RangeResponse)(all))

	// The stock client's own way.
	through := must(client.GetStream(soon(t), at, clientv3.WithPrefix()))(t)
	whole := must(clientv3.GetStreamToGetResponse(through))(t)
	equal(t, "keys through the client", len(whole.Kvs), 3000)
}

func TestRangeStreamEqualsRange(t *testing.T) {
	at := place(t)
	base := five(t, at)
	for name, with := range map[string]func(*pb.RangeRequest){
		"all":       func(r *pb.RangeRequest) {},
		"one":       func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte(at+"c"), nil },
		"absent":    func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte(at+"x"), nil },
		"limit":     func(r *pb.RangeRequest) { r.Limit = 2 },
		"count":     func(r *pb.RangeRequest) { r.CountOnly = true },
		"keys only": func(r *pb.RangeRequest) { r.KeysOnly = true },
		"then":      func(r *pb.RangeRequest) { r.Revision = base + 3 },
		"ascending": func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_ASCEND },
	} {
		t.Run(name, func(t *testing.T) {
			request := &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at)}
			with(request)
			merged, _ := merge(t, must(kv.RangeStream(soon(t), request))(t))
			wantSame(t, merged, must(kv.Range(soon(t), request))(t))
		})
	}
}

func TestRangeStreamRefusals(t *testing.T) {
	at := place(t)
	base := five(t, at)
	for _, row := range []struct {
		name string
		with func(*pb.RangeRequest)
		code codes.Code
		text string
	}{
		{"empty key", func(r *pb.RangeRequest) { r.Key = nil }, codes.InvalidArgument, "etcdserver: key is not provided"},
		{"descending", func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_DESCEND }, codes.Unimplemented, "RangeStream does not support custom sort orders"},
		{"by value", func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder = pb.RangeRequest_VALUE, pb.RangeRequest_ASCEND }, codes.Unimplemented, "RangeStream does not support custom sort orders"},
		{"filter", func(r *pb.RangeRequest) { r.MinModRevision = 2 }, codes.Unimplemented, "RangeStream does not support revision filters"},
		{"bad order", func(r *pb.RangeRequest) { r.SortOrder = 9 }, codes.InvalidArgument, "etcdserver: invalid sort option"},
		{"future", func(r *pb.RangeRequest) { r.Revision = base + 1000 }, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
	} {
		t.Run(row.name, func(t *testing.T) {
			request := &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at)}
			row.with(request)
			stream := must(kv.RangeStream(soon(t), request))(t)
			_, err := stream.Recv()
			wantError(t, err, row.code, row.text)
		})
	}
}

// A stream shows one revision, whatever is written while it runs.
func TestRangeStreamIsPinned(t *testing.T) {
	at := place(t)
	value := strings.Repeat("v", 64<<10)
	for i := range 100 {
		put(t, fmt.Sprintf("%s%03d", at, i), value)
	}
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	before := now(t)
	stream := must(kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte(at), RangeEnd: end(at)}))(t)
	first := must(stream.Recv())(t)
	must(kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(at), RangeEnd: end(at)}))(t)
	rest, _ := merge(t, stream)
	equal(t, "keys", len(first.RangeResponse.Kvs)+len(rest.Kvs), 100)
	equal(t, "revision", rest.Header.Revision, before)
}

func merge(t *testing.T, stream pb.KV_RangeStreamClient) (*pb.RangeResponse, int) {
	t.Helper()
	whole, chunks := &pb.RangeResponse{}, 0
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return whole, chunks
		}
		if err != nil {
			t.Fatal(err)
		}
		if whole.Header != nil {
			t.Fatal("a chunk after the one with the header")
		}
		chunks++
		proto.Merge(whole, response.RangeResponse)
	}
}

func wantSame(t *testing.T, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}
