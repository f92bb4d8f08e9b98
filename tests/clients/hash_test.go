package clients

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// stored is one revision of the history as etcd hashes it.
type stored struct {
	main, sub int64
	event     *mvccpb.Event
}

// bytes is the record key and the protobuf KeyValue; a tombstone's holds the key alone. Written
// field by field, because the order of the fields is part of the hash.
func (s stored) bytes() []byte {
	out := binary.BigEndian.AppendUint64(nil, uint64(s.main))
	out = append(out, '_')
	out = binary.BigEndian.AppendUint64(out, uint64(s.sub))
	kv := s.event.Kv
	if s.event.Type == mvccpb.Event_DELETE {
		out = append(out, 't')
	}
	out = protowire.AppendTag(out, 1, protowire.BytesType)
	out = protowire.AppendBytes(out, kv.Key)
	if s.event.Type == mvccpb.Event_DELETE {
		return out
	}
	number := func(field protowire.Number, value int64) {
		if value != 0 {
			out = protowire.AppendTag(out, field, protowire.VarintType)
			out = protowire.AppendVarint(out, uint64(value))
		}
	}
	number(2, kv.CreateRevision)
	number(3, kv.ModRevision)
	number(4, kv.Version)
	if len(kv.Value) > 0 {
		out = protowire.AppendTag(out, 5, protowire.BytesType)
		out = protowire.AppendBytes(out, kv.Value)
	}
	number(6, kv.Lease)
	return out
}

// hashOf recomputes HashKV at a revision from everything that ever happened. Of what lies at or
// below the compaction only the latest put of each key counts, and only if nothing newer does.
func hashOf(events []*mvccpb.Event, revision, compacted int64) uint32 {
	var records []stored
	latest := map[string]int{}
	for _, event := range events {
		main, sub := event.Kv.ModRevision, int64(0)
		if main > revision {
			break
		}
		if n := len(records); n > 0 && records[n-1].main == main {
			sub = records[n-1].sub + 1
		}
		latest[string(event.Kv.Key)] = len(records)
		records = append(records, stored{main, sub, event})
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, []byte("key"))
	for i, record := range records {
		lives := latest[string(record.event.Kv.Key)] == i && record.event.Type == mvccpb.Event_PUT
		if record.main > compacted || lives {
			sum = crc32.Update(sum, table, record.bytes())
		}
	}
	return sum
}

func TestHashKV(t *testing.T) {
	maintenance := pb.NewMaintenanceClient(conn)
	hash := func(t *testing.T, revision int64) *pb.HashKVResponse {
		t.Helper()
		return must(maintenance.HashKV(soon(t), &pb.HashKVRequest{Revision: revision}))(t)
	}
	check := func(t *testing.T, revision int64) {
		t.Helper()
		got := hash(t, revision)
		if revision == 0 {
			revision = got.Header.Revision
		}
		equal(t, "hash revision", got.HashRevision, revision)
		equal(t, "hash", got.Hash, hashOf(history.until(t, revision), revision, got.CompactRevision))
	}
	at := place(t)
	base := five(t, at)
	lease := grant(t, 600, 0).ID
	putLeased(t, at+"leased", "", lease)
	txn(t, &pb.TxnRequest{Success: []*pb.RequestOp{opPut(at+"z", "1"), opDelete(at+"b", ""), opPut(at+"y", "")}})
	remove(t, at+"z")
	put(t, at+"z", "again")
	for _, revision := range []int64{0, base + 12, base + 10, base + 9, base + 4, base} {
		check(t, revision)
	}
	// With the tombstone of z at the compaction revision itself, then beyond it.
	for _, compact := range []int64{base + 11, base + 12} {
		must(kv.Compact(soon(t), &pb.CompactionRequest{Revision: compact, Physical: true}))(t)
		put(t, at+"after", "1")
		check(t, 0)
		equal(t, "compact revision", hash(t, 0).CompactRevision, compact)
		check(t, compact+1)
	}
}

func TestHash(t *testing.T) {
	maintenance := pb.NewMaintenanceClient(conn)
	one := must(maintenance.Hash(soon(t), &pb.HashRequest{}))(t)
	equal(t, "revision", one.Header.Revision, now(t))
}
