package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

var header = regexp.MustCompile(`"header":\{"cluster_id":"\d+","member_id":"\d+",("revision":"\d+",)?"raft_term":"\d+"\}`)

// compact drops the blanks that etcd's encoder strews at random, and shortens whole headers to H.
func compact(t *testing.T, body []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, body); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return header.ReplaceAllString(out.String(), "H")
}

func post(t *testing.T, path, body string) (*http.Response, []byte) {
	t.Helper()
	return fetch(t, http.MethodPost, path, body)
}

func fetch(t *testing.T, method, path, body string) (*http.Response, []byte) {
	t.Helper()
	request := must(http.NewRequestWithContext(soon(t), method, "http://"+endpoint+path, strings.NewReader(body)))(t)
	response := must(web.Do(request))(t)
	defer response.Body.Close()
	return response, must(io.ReadAll(response.Body))(t)
}

// fill puts revisions and keys into a template: {0} is the base revision, {7} seven after it, and
// <text> the base64 of the key or value `text`.
func fill(template, at string, base int64) string {
	template = regexp.MustCompile(`\{(\d+)\}`).ReplaceAllStringFunc(template, func(n string) string {
		var add int64
		fmt.Sscanf(n, "{%d}", &add)
		return fmt.Sprint(base + add)
	})
	return regexp.MustCompile(`<([^>]*)>`).ReplaceAllStringFunc(template, func(text string) string {
		name := text[1 : len(text)-1]
		if value, found := strings.CutPrefix(name, "="); found {
			return b64(value)
		}
		return b64(at + name)
	})
}

func TestGatewayRoutes(t *testing.T) {
	at := place(t)
	base := now(t)
	for _, row := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/v3/kv/put", `{"key":"<a>","value":"<=1>"}`, 200, `{H}`},
		{"/v3/kv/put", `{"key":"<a>","value":"<=2>","prev_kv":true}`, 200,
			`{H,"prev_kv":{"key":"<a>","create_revision":"{1}","mod_revision":"{1}","version":"1","value":"<=1>"}}`},
		{"/v3/kv/put", `{"key":"<a>","value":"<=3>","prevKv":true}`, 200,
			`{H,"prev_kv":{"key":"<a>","create_revision":"{1}","mod_revision":"{2}","version":"2","value":"<=2>"}}`},
		{"/v3/kv/put", `{"key":"<b>"}`, 200, `{H}`},
		{"/v3/kv/range", `{"key":"<a>"}`, 200,
			`{H,"kvs":[{"key":"<a>","create_revision":"{1}","mod_revision":"{3}","version":"3","value":"<=3>"}],"count":"1"}`},
		{"/v3/kv/range", `{"key":"<>","range_end":"<~>","limit":1,"unknown":{"x":[1]}}`, 200,
			`{H,"kvs":[{"key":"<a>","create_revision":"{1}","mod_revision":"{3}","version":"3","value":"<=3>"}],"more":true,"count":"2"}`},
		{"/v3/kv/range", `{"key":"<>","rangeEnd":"<~>","limit":"1","sortOrder":"DESCEND","sort_target":"KEY"}`, 200,
			`{H,"kvs":[{"key":"<b>","create_revision":"{4}","mod_revision":"{4}","version":"1"}],"more":true,"count":"2"}`},
		{"/v3/kv/range", `{"key":"<>","range_end":"<~>","sort_order":2,"count_only":true}`, 200, `{H,"count":"2"}`},
		{"/v3/kv/range", `{"key":"<absent>"}`, 200, `{H}`},
		{"/v3/kv/range", `{"key":"<a>","revision":"{1}"}`, 200,
			`{H,"kvs":[{"key":"<a>","create_revision":"{1}","mod_revision":"{1}","version":"1","value":"<=1>"}],"count":"1"}`},
		{"/v3beta/kv/range", `{"key":"<absent>"}`, 200, `{H}`},
		{"/v3/kv/txn", `{"compare":[{"target":"VERSION","key":"<a>","version":"3"}],
			"success":[{"request_put":{"key":"<c>","value":"<=x>"}},{"request_range":{"key":"<c>"}},
				{"request_delete_range":{"key":"<b>"}},{"request_txn":{"failure":[]}}],
			"failure":[{"request_put":{"key":"<d>"}}]}`, 200,
			`{H,"succeeded":true,"responses":[{"response_put":{"header":{"revision":"{5}"}}},
			{"response_range":{"header":{"revision":"{5}"},"kvs":[{"key":"<c>","create_revision":"{5}","mod_revision":"{5}","version":"1","value":"<=x>"}],"count":"1"}},
			{"response_delete_range":{"header":{"revision":"{5}"},"deleted":"1"}},{"response_txn":{"header":{},"succeeded":true}}]}`},
		{"/v3/kv/txn", `{"compare":[{"result":"NOT_EQUAL","target":2,"key":"<a>","modRevision":"{3}"}],"failure":[{"requestRange":{"key":"<absent>"}}]}`, 200,
			`{H,"responses":[{"response_range":{"header":{"revision":"{5}"}}}]}`},
		{"/v3/kv/txn", `{}`, 200, `{H,"succeeded":true}`},
		{"/v3/kv/deleterange", `{"key":"<>","range_end":"<~>","prev_kv":true}`, 200,
			`{H,"deleted":"2","prev_kvs":[{"key":"<a>","create_revision":"{1}","mod_revision":"{3}","version":"3","value":"<=3>"},{"key":"<c>","create_revision":"{5}","mod_revision":"{5}","version":"1","value":"<=x>"}]}`},
		{"/v3/kv/deleterange", `{"key":"<a>"}`, 200, `{H}`},
		{"/v3/kv/compaction", `{"revision":"{2}","physical":true}`, 200, `{H}`},
		{"/v3/lease/grant", `{"TTL":"100","ID":"7100"}`, 200, `{H,"ID":"7100","TTL":"100"}`},
		{"/v3/lease/grant", `{"TTL":100,"ID":7101}`, 200, `{H,"ID":"7101","TTL":"100"}`},
		{"/v3/kv/put", `{"key":"<l>","value":"<=1>","lease":"7100"}`, 200, `{H}`},
		{"/v3/lease/timetolive", `{"ID":"7100","keys":true}`, 200, `{H,"ID":"7100","TTL":"99","grantedTTL":"100","keys":["<l>"]}`},
		{"/v3/kv/lease/timetolive", `{"ID":"404"}`, 200, `{H,"ID":"404","TTL":"-1"}`},
		{"/v3/lease/keepalive", `{"ID":"7100"}`, 200, `{"result":{H,"ID":"7100","TTL":"100"}}`},
		{"/v3/lease/keepalive", `{"ID":"404"}`, 200, `{"result":{H,"ID":"404"}}`},
		{"/v3/lease/revoke", `{"ID":"7100"}`, 200, `{H}`},
		{"/v3/kv/lease/revoke", `{"ID":"7101"}`, 200, `{H}`},
		{"/v3/maintenance/alarm", `{}`, 200, `{H}`},
		{"/v3/maintenance/defragment", `{}`, 200, `{}`},
		{"/v3/auth/status", `{}`, 200, `{H,"authRevision":"1"}`},

		{"/v3/kv/range", `{}`, 400, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"/v3/kv/range", ``, 400, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"/v3/kv/range", `{`, 400, `{"code":3,"message":"unexpected EOF"}`},
		{"/v3/kv/range", `{"key":"<a>","revision":"1"}`, 400, `{"code":11,"message":"etcdserver: mvcc: required revision has been compacted"}`},
		{"/v3/kv/range", `{"key":"<a>","revision":"{99}"}`, 400, `{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}`},
		{"/v3/kv/put", `{"key":"<a>","lease":"404"}`, 404, `{"code":5,"message":"etcdserver: requested lease not found"}`},
		{"/v3/kv/compaction", `{"revision":"{2}"}`, 400, `{"code":11,"message":"etcdserver: mvcc: required revision has been compacted"}`},
		{"/v3/lease/grant", `{"TTL":"9000000001"}`, 400, `{"code":11,"message":"etcdserver: too large lease TTL"}`},
		{"/v3/lease/revoke", `{"ID":"7100"}`, 404, `{"code":5,"message":"etcdserver: requested lease not found"}`},
		{"/v3/auth/authenticate", `{"name":"a","password":"b"}`, 400, `{"code":9,"message":"etcdserver: authentication is not enabled"}`},
		{"/v3/election/leader", `{"name":"<e>"}`, 500, `{"code":2,"message":"election: no leader"}`},
		{"/v3/election/proclaim", `{}`, 500, `{"code":2,"message":"\"leader\" field must be provided"}`},
		{"/v3/election/resign", `{}`, 500, `{"code":2,"message":"\"leader\" field must be provided"}`},
		{"/v3/lock/lock", `{"name":"<l>","lease":"404"}`, 500, `{"code":2,"message":"etcdserver: requested lease not found"}`},
		{"/v3/nothing", `{}`, 404, `{"code":5,"message":"Not Found"}`},
		{"/v3/kv/range/more", `{}`, 404, `{"code":5,"message":"Not Found"}`},
	} {
		t.Run(row.path, func(t *testing.T) {
			response, body := post(t, row.path, fill(row.body, at, base))
			want := strings.NewReplacer("\n", "", "\t", "").Replace(fill(row.want, at, base))
			equal(t, "body of "+row.body, compact(t, body), want)
			equal(t, "status", response.StatusCode, row.status)
			equal(t, "content type", response.Header.Get("Content-Type"), "application/json")
			mark := ""
			if row.status == 200 {
				mark = "application/grpc"
			}
			equal(t, "grpc mark", response.Header.Get("Grpc-Metadata-Content-Type"), mark)
		})
	}
}

// Answers whose numbers differ from server to server: their shape.
func TestGatewayShapes(t *testing.T) {
	fields := func(path, body string) map[string]any {
		t.Helper()
		response, text := post(t, path, body)
		equal(t, path, response.StatusCode, 200)
		var value map[string]any
		if err := json.Unmarshal(text, &value); err != nil {
			t.Fatal(err)
		}
		return value
	}
	status := fields("/v3/maintenance/status", "{}")
	for _, name := range []string{"header", "version", "dbSize", "leader", "raftIndex", "raftTerm", "raftAppliedIndex", "dbSizeInUse", "storageVersion", "dbSizeQuota", "downgradeInfo"} {
		if _, there := status[name]; !there {
			t.Errorf("status lacks %s: %v", name, status)
		}
	}
	equal(t, "hashkv", fmt.Sprintf("%T", fields("/v3/maintenance/hashkv", "{}")["hash"]), "float64")
	equal(t, "hash", fmt.Sprintf("%T", fields("/v3/maintenance/hash", "{}")["hash"]), "float64")
	grant(t, 600, 7102)
	for _, path := range []string{"/v3/lease/leases", "/v3/kv/lease/leases"} {
		if list := fmt.Sprint(fields(path, "{}")["leases"]); !strings.Contains(list, "map[ID:7102]") {
			t.Errorf("%s: %s", path, list)
		}
	}
	members := fields("/v3/cluster/member/list", "{}")
	member := members["members"].([]any)[0].(map[string]any)
	for _, name := range []string{"ID", "name", "peerURLs", "clientURLs"} {
		if _, there := member[name]; !there {
			t.Errorf("a member lacks %s: %v", name, member)
		}
	}
	if _, there := members["header"].(map[string]any)["revision"]; there {
		t.Error("the member list's header has a revision")
	}
}

func TestGatewayLockAndElection(t *testing.T) {
	at := place(t)
	grant(t, 600, 0xabc)
	base := now(t)
	for _, row := range []struct{ path, body, want string }{
		{"/v3/lock/lock", `{"name":"<l>","lease":"2748"}`, `{H,"key":"<l/abc>"}`},
		{"/v3/lock/unlock", `{"key":"<l/abc>"}`, `{H}`},
		{"/v3/election/campaign", `{"name":"<e>","lease":"2748","value":"<=one>"}`, `{H,"leader":{"name":"<e>","key":"<e/abc>","rev":"{3}","lease":"2748"}}`},
		{"/v3/election/proclaim", `{"leader":{"name":"<e>","key":"<e/abc>","rev":"{3}","lease":"2748"},"value":"<=two>"}`, `{H}`},
		{"/v3/election/leader", `{"name":"<e>"}`, `{H,"kv":{"key":"<e/abc>","create_revision":"{3}","mod_revision":"{4}","version":"2","value":"<=two>","lease":"2748"}}`},
		{"/v3/election/resign", `{"leader":{"name":"<e>","key":"<e/abc>","rev":"{3}","lease":"2748"}}`, `{H}`},
	} {
		response, body := post(t, row.path, fill(row.body, at, base))
		equal(t, row.path, compact(t, body), fill(row.want, at, base))
		equal(t, "status", response.StatusCode, 200)
	}
}

// lines opens a streaming route and yields its lines.
func lines(t *testing.T, path, body string) func() string {
	t.Helper()
	ctx, cancel := context.WithCancel(soon(t))
	t.Cleanup(cancel)
	request := must(http.NewRequestWithContext(ctx, http.MethodPost, "http://"+endpoint+path, strings.NewReader(body)))(t)
	response := must(http.DefaultClient.Do(request))(t)
	t.Cleanup(func() { response.Body.Close() })
	equal(t, "status", response.StatusCode, 200)
	equal(t, "content type", response.Header.Get("Content-Type"), "application/json")
	reader := bufio.NewReader(response.Body)
	return func() string {
		t.Helper()
		line, err := reader.ReadBytes('\n')
		if err == io.EOF {
			return "end"
		}
		if err != nil {
			t.Fatal(err)
		}
		return compact(t, line)
	}
}

func TestGatewayWatch(t *testing.T) {
	at := place(t)
	base := now(t)
	put(t, at+"a", "1")
	next := lines(t, "/v3/watch", fill(`{"create_request":{"key":"<>","range_end":"<~>","start_revision":"{1}","prev_kv":true,"watch_id":"7"}}`, at, base))
	equal(t, "created", next(), `{"result":{H,"watch_id":"7","created":true}}`)
	equal(t, "past", next(), fill(`{"result":{H,"watch_id":"7","events":[{"kv":{"key":"<a>","create_revision":"{1}","mod_revision":"{1}","version":"1","value":"<=1>"}}]}}`, at, base))
	remove(t, at+"a")
	equal(t, "live", next(), fill(`{"result":{H,"watch_id":"7","events":[{"type":"DELETE","kv":{"key":"<a>","mod_revision":"{2}"},"prev_kv":{"key":"<a>","create_revision":"{1}","mod_revision":"{1}","version":"1","value":"<=1>"}}]}}`, at, base))
	must(kv.Compact(soon(t), &pb.CompactionRequest{Revision: base + 2}))(t)
	gone := lines(t, "/v3/watch", fill(`{"create_request":{"key":"<>","start_revision":"{1}"}}`, at, base))
	equal(t, "created", gone(), `{"result":{H,"created":true}}`)
	equal(t, "compacted", gone(), fill(`{"result":{H,"canceled":true,"compact_revision":"{2}"}}`, at, base))
	never := lines(t, "/v3/watch", fill(`{"create_request":{"key":"<>","start_revision":"-1"}}`, at, base))
	equal(t, "refused", never(), `{"result":{H,"watch_id":"-1","created":true,"canceled":true,"cancel_reason":"etcdserver: mvcc: required revision has been compacted"}}`)
}

func TestGatewayObserve(t *testing.T) {
	at := place(t)
	grant(t, 600, 0xabd)
	base := now(t)
	post(t, "/v3/election/campaign", fill(`{"name":"<e>","lease":"2749","value":"<=one>"}`, at, 0))
	next := lines(t, "/v3/election/observe", fill(`{"name":"<e>"}`, at, 0))
	equal(t, "observed", next(), fill(`{"result":{H,"kv":{"key":"<e/abd>","create_revision":"{1}","mod_revision":"{1}","version":"1","value":"<=one>","lease":"2749"}}}`, at, base))
	post(t, "/v3/election/proclaim", fill(`{"leader":{"name":"<e>","key":"<e/abd>","rev":"{1}","lease":"2749"},"value":"<=two>"}`, at, base))
	equal(t, "then", next(), fill(`{"result":{H,"kv":{"key":"<e/abd>","create_revision":"{1}","mod_revision":"{2}","version":"2","value":"<=two>","lease":"2749"}}}`, at, base))
}

// Several requests may follow each other in one body.
func TestGatewayKeepAliveOfSeveral(t *testing.T) {
	grant(t, 600, 7103)
	next := lines(t, "/v3/lease/keepalive", `{"ID":"7103"}{"ID":"404"}`+"\n"+`{"ID":"7103"}`)
	equal(t, "first", next(), `{"result":{H,"ID":"7103","TTL":"600"}}`)
	equal(t, "second", next(), `{"result":{H,"ID":"404"}}`)
	equal(t, "third", next(), `{"result":{H,"ID":"7103","TTL":"600"}}`)
	equal(t, "then", next(), "end")
}

func TestGatewayBadJSON(t *testing.T) {
	for _, body := range []string{`[]`, `{"key":7}`, `{"key":"!"}`, `{"key":`, `nonsense`, `{"limit":"x","key":"YQ=="}`, `{"limit":1.5,"key":"YQ=="}`, `{"key":{}}`, `{"key":"YQ==","limit":"99999999999999999999"}`, "\xff\xfe"} {
		response, text := post(t, "/v3/kv/range", body)
		if response.StatusCode != 400 || !strings.HasPrefix(compact(t, text), `{"code":3,"message":"`) {
			t.Errorf("%s: %d %s", body, response.StatusCode, text)
		}
	}
	for _, body := range []string{`{"key":"YQ==","limit":1e0}`, `{"key":"YQ"}`, `{"key":"YQ==","limit":null}`, `{"key":"YQ==","sort_order":"SIDEWAYS"}`, ` {"key":"YQ=="} `} {
		if response, text := post(t, "/v3/kv/range", body); response.StatusCode != 200 {
			t.Errorf("%s: %d %s", body, response.StatusCode, text)
		}
	}
}

func TestGatewayLargeValues(t *testing.T) {
	at := place(t)
	response, body := post(t, "/v3/kv/put", fill(`{"key":"<a>","value":"`, at, 0)+b64(strings.Repeat("v", 1_600_000))+`"}`)
	equal(t, "too large", response.StatusCode, 400)
	equal(t, "text", compact(t, body), `{"code":3,"message":"etcdserver: request is too large"}`)
	response, body = post(t, "/v3/kv/put", fill(`{"key":"<a>","value":"`, at, 0)+b64(strings.Repeat("v", 2_200_000))+`"}`)
	equal(t, "larger than a message", response.StatusCode, 429)
	if !strings.HasPrefix(compact(t, body), `{"code":8,"message":"grpc: received message larger than max (`) {
		t.Fatal(string(body))
	}
	response, _ = post(t, "/v3/kv/put", fill(`{"key":"<a>","value":"`, at, 0)+b64(strings.Repeat("v", 1_500_000))+`"}`)
	equal(t, "large", response.StatusCode, 200)
}

func TestPlainPages(t *testing.T) {
	for _, row := range []struct {
		method, path string
		status       int
		body, kind   string
	}{
		{"GET", "/health", 200, `{"health":"true","reason":""}`, "text/plain; charset=utf-8"},
		{"GET", "/health?serializable=true", 200, `{"health":"true","reason":""}`, "text/plain; charset=utf-8"},
		{"GET", "/health?exclude=NOSPACE", 200, `{"health":"true","reason":""}`, "text/plain; charset=utf-8"},
		{"GET", "/version", 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`, "application/json"},
		{"GET", "/livez", 200, "ok\n", "text/plain; charset=utf-8"},
		{"GET", "/readyz", 200, "ok\n", "text/plain; charset=utf-8"},
		{"GET", "/livez/serializable_read", 200, "ok\n", "text/plain; charset=utf-8"},
		{"GET", "/readyz/linearizable_read", 200, "ok\n", "text/plain; charset=utf-8"},
		{"GET", "/readyz/non_learner", 200, "ok\n", "text/plain; charset=utf-8"},
		{"GET", "/readyz/data_corruption", 200, "ok\n", "text/plain; charset=utf-8"},
		{"GET", "/livez?verbose", 200, "[+]serializable_read ok\nok\n", "text/plain; charset=utf-8"},
		{"GET", "/nothing", 404, "404 page not found\n", "text/plain; charset=utf-8"},
		{"POST", "/health", 405, "Method Not Allowed\n", "text/plain; charset=utf-8"},
		{"POST", "/version", 405, "Method Not Allowed\n", "text/plain; charset=utf-8"},
		{"GET", "/v3/kv/range", 501, `{"code":12,"message":"Method Not Allowed"}`, "application/json"},
		{"PUT", "/v3/kv/put", 501, `{"code":12,"message":"Method Not Allowed"}`, "application/json"},
	} {
		response, body := fetch(t, row.method, row.path, "")
		name := row.method + " " + row.path
		text := string(body)
		if row.kind == "application/json" {
			text = compact(t, body)
		}
		equal(t, name, text, row.body)
		equal(t, name+": status", response.StatusCode, row.status)
		equal(t, name+": content type", response.Header.Get("Content-Type"), row.kind)
		equal(t, name+": origin", response.Header.Get("Access-Control-Allow-Origin"), "*")
		if row.status == 405 {
			equal(t, name+": allow", response.Header.Get("Allow"), "GET")
		}
	}
	_, verbose := fetch(t, "GET", "/readyz?verbose", "")
	for _, check := range []string{"non_learner", "data_corruption", "serializable_read", "linearizable_read"} {
		if !strings.Contains(string(verbose), "[+]"+check+" ok\n") {
			t.Errorf("/readyz?verbose lacks %s: %s", check, verbose)
		}
	}
	for _, path := range []string{"/v3/kv/range", "/health", "/anything"} {
		response, _ := fetch(t, "OPTIONS", path, "")
		equal(t, "OPTIONS "+path, response.StatusCode, 200)
		equal(t, "methods", response.Header.Get("Access-Control-Allow-Methods"), "POST, GET, OPTIONS, PUT, DELETE")
		equal(t, "headers", response.Header.Get("Access-Control-Allow-Headers"), "accept, content-type, authorization")
	}
}

func TestMetrics(t *testing.T) {
	at := place(t)
	sample := func() map[string]float64 {
		response, body := fetch(t, "GET", "/metrics", "")
		equal(t, "status", response.StatusCode, 200)
		if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
			t.Fatal(kind)
		}
		values := map[string]float64{}
		for line := range strings.Lines(string(body)) {
			name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
			var value float64
			if _, err := fmt.Sscan(number, &value); err == nil && !strings.HasPrefix(line, "#") {
				values[name] = value
			}
		}
		return values
	}
	before := sample()
	put(t, at+"a", "1")
	must(kv.Range(soon(t), &pb.RangeRequest{Key: []byte(at)}))(t)
	remove(t, at+"a")
	after := sample()
	moved := func(name string, by float64) {
		t.Helper()
		if _, there := after[name]; !there {
			t.Errorf("%s is missing", name)
		} else if got := after[name] - before[name]; got != by {
			t.Errorf("%s moved by %v, want %v", name, got, by)
		}
	}
	moved("etcd_mvcc_put_total", 1)
	moved("etcd_mvcc_delete_total", 1)
	moved("etcd_debugging_mvcc_current_revision", 2)
	moved(`grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`, 1)
	for name, value := range map[string]float64{"etcd_server_has_leader": 1, "etcd_server_is_leader": 1, "etcd_server_is_learner": 0} {
		equal(t, name, after[name], value)
	}
	for _, name := range []string{"etcd_server_proposals_committed_total", "etcd_disk_wal_fsync_duration_seconds_count", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "etcd_mvcc_db_total_size_in_bytes", "etcd_network_client_grpc_received_bytes_total"} {
		if after[name] <= 0 {
			t.Errorf("%s is %v", name, after[name])
		}
	}
}
