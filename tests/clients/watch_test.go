package clients

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

func create(r *pb.WatchCreateRequest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

func cancelWatch(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

func progress() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

// watching is one raw watch stream.
type watching struct {
	t      *testing.T
	stream pb.Watch_WatchClient
}

func watch(t *testing.T) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return &watching{t, must(pb.NewWatchClient(conn).Watch(ctx))(t)}
}

func (w *watching) send(request *pb.WatchRequest) {
	w.t.Helper()
	if err := w.stream.Send(request); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) next() *pb.WatchResponse {
	w.t.Helper()
	return must(w.stream.Recv())(w.t)
}

// create begins a watch and takes its `created` response.
func (w *watching) create(r *pb.WatchCreateRequest) *pb.WatchResponse {
	w.t.Helper()
	w.send(create(r))
	response := w.next()
	if !response.Created {
		w.t.Fatalf("not created: %v", response)
	}
	return response
}

// events collects at least n events of one watch.
func (w *watching) events(n int) []*mvccpb.Event {
	w.t.Helper()
	var events []*mvccpb.Event
	for len(events) < n {
		response := w.next()
		if response.Canceled {
			w.t.Fatalf("canceled: %v", response)
		}
		events = append(events, response.Events...)
	}
	return events
}

// tell writes events as text: type, key=value, revisions from `base`, what was before.
func tell(events []*mvccpb.Event, base int64) string {
	var lines []string
	for _, e := range events {
		line := fmt.Sprintf("%s %s=%s@%d", e.Type, keys([]*mvccpb.KeyValue{e.Kv}), e.Kv.Value, e.Kv.ModRevision-base)
		if e.PrevKv != nil {
			line += fmt.Sprintf("(%s@%d)", e.PrevKv.Value, e.PrevKv.ModRevision-base)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, ", ")
}

func TestWatchFromNow(t *testing.T) {
	at := place(t)
	base := now(t)
	w := watch(t)
	made := w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at)})
	equal(t, "first id of a stream", made.WatchId, 0)
	equal(t, "revision at creation", made.Header.Revision, base)
	put(t, at+"a", "1")
	put(t, at+"other/../a", "not a neighbour")
	remove(t, at+"a")
	events := w.events(3)
	equal(t, "events", tell(events, base), "PUT a=1@1, PUT a=not a neighbour@2, DELETE a=@3")
	first, last := events[0].Kv, events[2].Kv
	equal(t, "a put tells all", show(first, base), "a=1 create=1 mod=1 version=1 lease=0")
	equal(t, "a delete tells key and revision", show(last, base), fmt.Sprintf("a= create=%d mod=3 version=0 lease=0", -base))
}

func TestWatchFromThePast(t *testing.T) {
	at := place(t)
	base := five(t, at)
	put(t, place(t)+"elsewhere", "x")
	remove(t, at+"e")
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), StartRevision: base + 4})
	equal(t, "events", tell(w.events(6), base), "PUT d=1@4, PUT e=2@5, PUT b=3@6, PUT a=9@7, PUT a=7@8, DELETE e=@10")
	put(t, at+"f", "live")
	equal(t, "and goes on", tell(w.events(1), base), "PUT f=live@11")
}

func TestWatchOneKeyAndFromKey(t *testing.T) {
	at := "\xff\xff\xff" + place(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at + "c"), WatchId: 31})
	w.create(&pb.WatchCreateRequest{Key: []byte(at + "d"), RangeEnd: []byte{0}, WatchId: 32})
	base := five(t, at)
	got := map[int64]string{}
	for len(got[31])+len(got[32]) < len("PUT c=4@3PUT d=1@4PUT e=2@5") {
		response := w.next()
		got[response.WatchId] += tell(response.Events, base)
	}
	equal(t, "one key", got[31], "PUT c=4@3")
	equal(t, "from key", got[32], "PUT d=1@4PUT e=2@5")
}

func TestWatchFromTheFuture(t *testing.T) {
	at := place(t)
	base := now(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), StartRevision: base + 3})
	for _, value := range []string{"1", "2", "3", "4"} {
		put(t, at+"a", value)
	}
	equal(t, "events", tell(w.events(2), base), "PUT a=3@3, PUT a=4@4")
}

func TestWatchPrevKv(t *testing.T) {
	at := place(t)
	base := now(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), PrevKv: true})
	put(t, at+"a", "1")
	put(t, at+"a", "2")
	remove(t, at+"a")
	put(t, at+"a", "3")
	want := "PUT a=1@1, PUT a=2@2(1@1), DELETE a=@3(2@2), PUT a=3@4"
	equal(t, "live", tell(w.events(4), base), want)
	past := watch(t)
	past.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), PrevKv: true, StartRevision: base + 1})
	equal(t, "from the past", tell(past.events(4), base), want)
	must(kv.Compact(soon(t), &pb.CompactionRequest{Revision: base + 2, Physical: true}))(t)
	short := watch(t)
	short.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), PrevKv: true, StartRevision: base + 2})
	equal(t, "what was before the compaction is not told", tell(short.events(3), base), "PUT a=2@2, DELETE a=@3(2@2), PUT a=3@4")
}

func TestWatchFilters(t *testing.T) {
	at := place(t)
	base := now(t)
	for name, row := range map[string]struct {
		filters []pb.WatchCreateRequest_FilterType
		want    string
	}{
		"no put":    {[]pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}, "DELETE a=@2, DELETE a=@4"},
		"no delete": {[]pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}, "PUT a=1@1, PUT a=2@3"},
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t)
			w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), Filters: row.filters})
			live := now(t)
			for _, value := range []string{"1", "2"} {
				put(t, at+"a", value)
				remove(t, at+"a")
			}
			equal(t, "live", tell(w.events(2), live), row.want)
			past := watch(t)
			past.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), Filters: row.filters, StartRevision: live + 1})
			equal(t, "from the past", tell(past.events(2), live), row.want)
		})
	}
	_ = base
}

func TestWatchIds(t *testing.T) {
	at := place(t)
	w := watch(t)
	ask := func(id int64) *pb.WatchResponse {
		t.Helper()
		return w.create(&pb.WatchCreateRequest{Key: []byte(at), WatchId: id})
	}
	equal(t, "picked", ask(0).WatchId, 0)
	equal(t, "own", ask(2).WatchId, 2)
	equal(t, "picked next", ask(0).WatchId, 1)
	equal(t, "picked past the own one", ask(0).WatchId, 3)
	again := ask(2)
	equal(t, "in use: id", again.WatchId, -1)
	equal(t, "in use: canceled", again.Canceled, true)
	equal(t, "in use: reason", again.CancelReason, "mvcc: duplicate watch ID provided on the WatchStream")
	w.send(cancelWatch(2))
	canceled := w.next()
	equal(t, "canceled", canceled.Canceled && canceled.WatchId == 2 && !canceled.Created, true)
	equal(t, "no reason", canceled.CancelReason, "")
	equal(t, "free again", ask(2).WatchId, 2)
	w.send(cancelWatch(77))
	equal(t, "an unknown id is passed over in silence", ask(0).WatchId, 4)
}

func TestWatchCanceledGetsNoMore(t *testing.T) {
	at := place(t)
	base := now(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), WatchId: 5})
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), WatchId: 6})
	w.send(cancelWatch(5))
	equal(t, "canceled", w.next().Canceled, true)
	put(t, at+"a", "1")
	response := w.next()
	equal(t, "the other", response.WatchId, 6)
	equal(t, "its event", tell(response.Events, base), "PUT a=1@1")
	w.send(progress())
	equal(t, "and nothing else came", w.next().WatchId, -1)
}

func TestWatchRefusals(t *testing.T) {
	at := place(t)
	w := watch(t)
	for _, row := range []struct {
		name string
		with *pb.WatchCreateRequest
		text string
	}{
		{"negative start", &pb.WatchCreateRequest{Key: []byte(at), StartRevision: -1}, "etcdserver: mvcc: required revision has been compacted"},
		{"inverted range", &pb.WatchCreateRequest{Key: []byte(at + "b"), RangeEnd: []byte(at + "a")}, "mvcc: watcher range is empty"},
		{"empty range", &pb.WatchCreateRequest{Key: []byte(at + "b"), RangeEnd: []byte(at + "b")}, "mvcc: watcher range is empty"},
	} {
		response := w.create(row.with)
		equal(t, row.name, response.CancelReason, row.text)
		equal(t, row.name+": id", response.WatchId, -1)
		equal(t, row.name+": canceled", response.Canceled, true)
	}
	// A request without content is passed over, and the stream lives.
	w.send(&pb.WatchRequest{})
	equal(t, "still usable", w.create(&pb.WatchCreateRequest{Key: []byte(at)}).WatchId, 0)
}

func TestWatchCompactedStart(t *testing.T) {
	at := place(t)
	base := five(t, at)
	must(kv.Compact(soon(t), &pb.CompactionRequest{Revision: base + 4}))(t)
	w := watch(t)
	made := w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), StartRevision: base + 3})
	equal(t, "created first", made.Canceled, false)
	over := w.next()
	equal(t, "canceled", over.Canceled, true)
	equal(t, "compact revision", over.CompactRevision, base+4)
	equal(t, "header revision", over.Header.Revision, 0)
	equal(t, "reason", over.CancelReason, "")
	equal(t, "id", over.WatchId, made.WatchId)
	edge := watch(t)
	edge.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), StartRevision: base + 4})
	equal(t, "the compacted revision itself", tell(edge.events(5), base), "PUT d=1@4, PUT e=2@5, PUT b=3@6, PUT a=9@7, PUT a=7@8")
	// The stock client tells it by its error.
	for response := range client.Watch(soon(t), at, clientv3.WithPrefix(), clientv3.WithRev(base+1)) {
		equal(t, "client", response.CompactRevision, base+4)
		equal(t, "client's error", fmt.Sprint(response.Err()), "etcdserver: mvcc: required revision has been compacted")
		break
	}
}

// All events of a transaction come in one response, in its order, at one revision.
func TestWatchTxnIsAtomic(t *testing.T) {
	at := place(t)
	put(t, at+"old", "1")
	base := now(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at)})
	var ops []*pb.RequestOp
	want := []string{}
	for i := range 60 {
		key := fmt.Sprintf("k%02d", (i*37)%60)
		ops = append(ops, opPut(at+key, "v"))
		want = append(want, "PUT "+key+"=v@1")
	}
	ops = append(ops, opDelete(at+"old", ""))
	want = append(want, "DELETE old=@1")
	txn(t, &pb.TxnRequest{Success: ops})
	response := w.next()
	equal(t, "live", tell(response.Events, base), strings.Join(want, ", "))
	equal(t, "header", response.Header.Revision, base+1)
	past := watch(t)
	past.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), StartRevision: base + 1})
	equal(t, "from the past", tell(past.next().Events, base), strings.Join(want, ", "))
}

func TestWatchFragments(t *testing.T) {
	at := place(t)
	value := strings.Repeat("v", 300<<10)
	const count = 12
	base := now(t)
	for i := range count {
		put(t, fmt.Sprintf("%s%02d", at, i), value)
	}
	// One revision, larger than a message may be once it tells what was before.
	must(kv.DeleteRange(soon(t), &pb.DeleteRangeRequest{Key: []byte(at), RangeEnd: end(at)}))(t)
	ask := &pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at), StartRevision: base + count + 1, PrevKv: true}
	whole := watch(t)
	whole.create(ask)
	equal(t, "without fragments a revision is one response", len(whole.next().Events), count)
	ask.Fragment, ask.StartRevision = true, base+1
	w := watch(t)
	w.create(ask)
	seen, fragments := 0, 0
	for seen < 2*count {
		response := w.next()
		if size := proto.Size(response); size > 2<<20 {
			t.Fatalf("a fragment of %d bytes", size)
		}
		for _, event := range response.Events {
			equal(t, "key", string(event.Kv.Key), fmt.Sprintf("%s%02d", at, seen%count))
			equal(t, "deleted", event.Type == mvccpb.Event_DELETE, seen >= count)
			seen++
		}
		if response.Fragment && seen > count {
			fragments++
		}
		if seen == 2*count {
			equal(t, "the last is no fragment", response.Fragment, false)
		}
	}
	if fragments == 0 {
		t.Fatal("a revision of 3.6 MB was not fragmented")
	}
	// The stock client puts them together.
	for response := range client.Watch(soon(t), at, clientv3.WithPrefix(), clientv3.WithRev(base+count+1), clientv3.WithFragment(), clientv3.WithPrevKV()) {
		equal(t, "joined", len(response.Events), count)
		break
	}
}

func TestWatchProgressOnRequest(t *testing.T) {
	at := place(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at)})
	w.create(&pb.WatchCreateRequest{Key: []byte(at + "b"), StartRevision: now(t) + 2})
	base := now(t)
	put(t, at+"a", "1")
	equal(t, "event", tell(w.events(1), base), "PUT a=1@1")
	put(t, place(t)+"elsewhere", "x")
	w.send(progress())
	response := w.next()
	equal(t, "for all of the stream", response.WatchId, -1)
	equal(t, "no events", len(response.Events), 0)
	equal(t, "revision", response.Header.Revision, base+2)
	// The stock client.
	ctx := soon(t)
	events := client.Watch(ctx, at, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	if err := client.RequestProgress(ctx); err != nil {
		t.Fatal(err)
	}
	notice := <-events
	equal(t, "through the client", notice.IsProgressNotify(), true)
}

// Thousands of watchers of one stream: each sees each event once and in order.
func TestWatchManyOnOneStream(t *testing.T) {
	at := place(t)
	const watchers, writes = 2000, 5
	w := watch(t)
	go func() {
		for range watchers {
			if w.stream.Send(create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at)})) != nil {
				return
			}
		}
	}()
	for i := range watchers {
		equal(t, "id", w.next().WatchId, int64(i))
	}
	base := now(t)
	for i := range writes {
		put(t, fmt.Sprint(at, i), "v")
	}
	seen := make([]int64, watchers)
	for left := watchers * writes; left > 0; {
		response := w.next()
		for _, event := range response.Events {
			seen[response.WatchId]++
			equal(t, "revision", event.Kv.ModRevision, base+seen[response.WatchId])
			left--
		}
	}
}

// A reader that stays away for a while still gets everything, in order, once.
func TestWatchSlowReader(t *testing.T) {
	at := place(t)
	base := now(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at)})
	value := strings.Repeat("v", 32<<10)
	const count = 600
	for i := range count {
		put(t, fmt.Sprint(at, i%7), value)
	}
	for i, event := range w.events(count) {
		equal(t, "revision", event.Kv.ModRevision, base+int64(i)+1)
	}
}

// A client that will ask nothing more still listens: the JSON gateway relies on it.
func TestWatchOutlivesItsLastRequest(t *testing.T) {
	at := place(t)
	base := now(t)
	w := watch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte(at), RangeEnd: end(at)})
	if err := w.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	put(t, at+"a", "1")
	equal(t, "events", tell(w.events(1), base), "PUT a=1@1")
	ctx, cancel := context.WithCancel(context.Background())
	other := must(pb.NewWatchClient(conn).Watch(ctx))(t)
	cancel()
	_, err := other.Recv()
	wantError(t, err, codes.Canceled, "context canceled")
}

// A client with many watches over one connection, the way services use it.
func TestWatchThroughTheClient(t *testing.T) {
	at := place(t)
	base := now(t)
	ctx := soon(t)
	events := client.Watch(ctx, at, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	equal(t, "created", (<-events).Created, true)
	must(client.Put(ctx, at+"a", "1"))(t)
	must(client.Put(ctx, at+"a", "2"))(t)
	var all []*clientv3.Event
	for len(all) < 2 {
		all = append(all, (<-events).Events...)
	}
	equal(t, "create", all[0].IsCreate(), true)
	equal(t, "modify", all[1].IsModify(), true)
	equal(t, "before", string(all[1].PrevKv.Value), "1")
	equal(t, "revision", all[1].Kv.ModRevision, base+2)
}
