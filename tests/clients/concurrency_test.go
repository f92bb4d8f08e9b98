package clients

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func session(t *testing.T, ttl int) *concurrency.Session {
	t.Helper()
	s := must(concurrency.NewSession(client, concurrency.WithTTL(ttl)))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestMutexExcludes(t *testing.T) {
	at := place(t)
	var inside, worst, entries atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		s := session(t, 30)
		all.Go(func() {
			mutex := concurrency.NewMutex(s, at+"lock")
			for range 5 {
				if err := mutex.Lock(soon(t)); err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n > worst.Load() {
					worst.Store(n)
				}
				entries.Add(1)
				inside.Add(-1)
				if err := mutex.Unlock(soon(t)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	equal(t, "entries", entries.Load(), 40)
	equal(t, "holders at once", worst.Load(), 1)
}

func TestMutexTryLock(t *testing.T) {
	at := place(t)
	one, two := concurrency.NewMutex(session(t, 30), at+"lock"), concurrency.NewMutex(session(t, 30), at+"lock")
	if err := one.TryLock(soon(t)); err != nil {
		t.Fatal(err)
	}
	equal(t, "taken", two.TryLock(soon(t)), concurrency.ErrLocked)
	if err := one.Unlock(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := two.TryLock(soon(t)); err != nil {
		t.Fatal(err)
	}
}

// The lock of a holder that died passes on when its lease ends.
func TestMutexPassesOnWhenItsHolderDies(t *testing.T) {
	at := place(t)
	dead := session(t, 2)
	if err := concurrency.NewMutex(dead, at+"lock").Lock(soon(t)); err != nil {
		t.Fatal(err)
	}
	dead.Orphan()
	if err := concurrency.NewMutex(session(t, 30), at+"lock").Lock(soon(t)); err != nil {
		t.Fatal(err)
	}
}

func TestElection(t *testing.T) {
	at := place(t)
	ctx := soon(t)
	first, second := concurrency.NewElection(session(t, 30), at+"e"), concurrency.NewElection(session(t, 30), at+"e")
	_, err := first.Leader(ctx)
	equal(t, "nobody", err, concurrency.ErrElectionNoLeader)
	observed := second.Observe(ctx)
	if err := first.Campaign(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	equal(t, "observed", string((<-observed).Kvs[0].Value), "one")
	elected := make(chan error, 1)
	go func() { elected <- second.Campaign(ctx, "two") }()
	if err := first.Proclaim(ctx, "one again"); err != nil {
		t.Fatal(err)
	}
	equal(t, "observed", string((<-observed).Kvs[0].Value), "one again")
	select {
	case err := <-elected:
		t.Fatal("two leaders at once: ", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := first.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-elected; err != nil {
		t.Fatal(err)
	}
	equal(t, "observed", string((<-observed).Kvs[0].Value), "two")
	equal(t, "leader", string(must(second.Leader(ctx))(t).Kvs[0].Value), "two")
}

// Transfers between accounts by software transactional memory: the sum stays.
func TestSTM(t *testing.T) {
	for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			at := place(t)
			const accounts = 5
			for i := range accounts {
				put(t, fmt.Sprint(at, i), "100")
			}
			var all sync.WaitGroup
			for worker := range 4 {
				all.Go(func() {
					for i := range 10 {
						from, to := fmt.Sprint(at, (worker+i)%accounts), fmt.Sprint(at, (worker*2+i+1)%accounts)
						if from == to {
							continue
						}
						_, err := concurrency.NewSTM(client, func(s concurrency.STM) error {
							have, _ := strconv.Atoi(s.Get(from))
							other, _ := strconv.Atoi(s.Get(to))
							s.Put(from, strconv.Itoa(have-7))
							s.Put(to, strconv.Itoa(other+7))
							return nil
						}, concurrency.WithIsolation(level), concurrency.WithAbortContext(soon(t)))
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			sum := 0
			for _, pair := range must(client.Get(context.Background(), at, clientv3.WithPrefix()))(t).Kvs {
				n, _ := strconv.Atoi(string(pair.Value))
				sum += n
			}
			equal(t, "sum", sum, accounts*100)
		})
	}
}

// Counters raised by compare-and-set from many clients lose nothing.
func TestCompareAndSet(t *testing.T) {
	at := place(t)
	put(t, at+"n", "0")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for done := 0; done < 25; {
				have, err := client.Get(soon(t), at+"n")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(have.Kvs[0].Value))
				set, err := client.Txn(soon(t)).
					If(clientv3.Compare(clientv3.ModRevision(at+"n"), "=", have.Kvs[0].ModRevision)).
					Then(clientv3.OpPut(at+"n", strconv.Itoa(n+1))).Commit()
				if err != nil {
					t.Error(err)
					return
				}
				if set.Succeeded {
					done++
				}
			}
		})
	}
	all.Wait()
	equal(t, "counted", string(get(t, at+"n").Value), "100")
}
