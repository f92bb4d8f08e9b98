// Package clients holds what any endpoint of the etcd 3.7 API must do, seen through etcd's own Go
// client and through plain HTTP. It knows nothing of the server's inside; every expectation was
// first met by etcd itself.
package clients

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

var (
	// endpoint is host:port of the server under test.
	endpoint string
	// onCored is set when the server is cored, where it must differ from etcd in one place.
	onCored bool
	client  *clientv3.Client
	conn    *grpc.ClientConn
	kv      pb.KVClient
	leases  pb.LeaseClient
	history recorder
)

func TestMain(m *testing.M) {
	endpoint = strings.TrimPrefix(os.Getenv("CLIENTS_ENDPOINT"), "http://")
	if endpoint == "" {
		fmt.Fprintln(os.Stderr, "CLIENTS_ENDPOINT=host:port names the server to test; its data will be deleted")
		os.Exit(2)
	}
	onCored = os.Getenv("CLIENTS_SERVER") == "cored"
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "the server at", endpoint, "cannot be used:", err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// prepare connects, empties the server and begins to record its history, so that the hash of the
// whole history can be recomputed at the end.
func prepare() error {
	var err error
	client, err = clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	conn, err = grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	kv, leases = pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	deleted, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		return err
	}
	if now := deleted.Header.Revision; now > 1 {
		// Everything is a tombstone at or below `now`, and a compaction there forgets all of it.
		_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: now, Physical: true})
		if err != nil && status.Code(err) != codes.OutOfRange {
			return err
		}
	}
	history.first = deleted.Header.Revision + 1
	return history.begin()
}

// recorder watches everything from the start of the run. It is the reference for HashKV, and it
// checks by itself that revisions come without gap, repetition or disorder.
type recorder struct {
	first  int64
	mu     sync.Mutex
	events []*mvccpb.Event
	last   int64
	fault  string
	moved  *sync.Cond
}

func (r *recorder) begin() error {
	r.moved = sync.NewCond(&r.mu)
	r.last = r.first - 1
	stream, err := pb.NewWatchClient(conn).Watch(context.Background())
	if err != nil {
		return err
	}
	err = stream.Send(create(&pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: r.first}))
	if err != nil {
		return err
	}
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				r.note(fmt.Sprint("the recording watch ended: ", err))
				return
			}
			if response.Canceled {
				r.note("the recording watch was canceled: " + response.CancelReason)
				return
			}
			r.take(response.Events)
		}
	}()
	return nil
}

func (r *recorder) take(events []*mvccpb.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, event := range events {
		revision := event.Kv.ModRevision
		if revision != r.last+1 && !(revision == r.last && i > 0) && r.fault == "" {
			r.fault = fmt.Sprintf("revision %d of %q follows %d", revision, event.Kv.Key, r.last)
		}
		r.last = revision
	}
	r.events = append(r.events, events...)
	r.moved.Broadcast()
}

func (r *recorder) note(fault string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault == "" {
		r.fault = fault
	}
	r.moved.Broadcast()
}

// until waits for the events up to `revision` and returns all so far.
func (r *recorder) until(t *testing.T, revision int64) []*mvccpb.Event {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { r.note("events did not arrive in 20 s") })
	defer timer.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.last < revision && r.fault == "" {
		r.moved.Wait()
	}
	if r.fault != "" {
		t.Fatal(r.fault)
	}
	return append([]*mvccpb.Event(nil), r.events...)
}

var prefixes atomic.Int64

// place is a prefix of keys that no other test uses.
func place(t *testing.T) string {
	return fmt.Sprintf("%s/%d/", t.Name(), prefixes.Add(1))
}

// soon is a context for calls that should take milliseconds.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func put(t *testing.T, key, value string) *pb.PutResponse {
	t.Helper()
	return must(kv.Put(soon(t), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}))(t)
}

func remove(t *testing.T, key string) *pb.DeleteRangeResponse {
	t.Helper()
	return must(kv.DeleteRange(soon(t), &pb.DeleteRangeRequest{Key: []byte(key)}))(t)
}

func get(t *testing.T, key string) *mvccpb.KeyValue {
	t.Helper()
	response := must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte(key)}))(t)
	if len(response.Kvs) == 0 {
		return nil
	}
	return response.Kvs[0]
}

// now is the current revision.
func now(t *testing.T) int64 {
	t.Helper()
	return must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte("?")}))(t).Header.Revision
}

func end(prefix string) []byte { return []byte(clientv3.GetPrefixRangeEnd(prefix)) }

// wantError compares code and text, the two things by which clients know an error.
func wantError(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v %q", code, text)
	}
	got := status.Convert(err)
	if got.Code() != code || got.Message() != text {
		t.Fatalf("got %v %q, want %v %q", got.Code(), got.Message(), code, text)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// keys joins the last path elements of some keys.
func keys(kvs []*mvccpb.KeyValue) string {
	names := make([]string, len(kvs))
	for i, kv := range kvs {
		names[i] = string(kv.Key[strings.LastIndexByte(string(kv.Key), '/')+1:])
	}
	return strings.Join(names, " ")
}

// show is a key-value without its prefix, everything else told.
func show(kv *mvccpb.KeyValue, base int64) string {
	if kv == nil {
		return "-"
	}
	return fmt.Sprintf("%s=%s create=%d mod=%d version=%d lease=%d", keys([]*mvccpb.KeyValue{kv}), kv.Value,
		kv.CreateRevision-base, kv.ModRevision-base, kv.Version, kv.Lease)
}

// web is an HTTP client that never takes one connection's trouble for another's.
var web = &http.Client{Timeout: 20 * time.Second}
