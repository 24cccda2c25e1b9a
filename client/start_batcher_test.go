package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/workflow"
)

// TestStart_SharesTransactions: many concurrent starts use few transactions, and each has its
// own result.
func TestStart_SharesTransactions(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const starts = 1000
	w := workflow.Declare[string, string]("wf")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var mu sync.Mutex
	byKey := make(map[string]map[string]bool)
	ids := make(map[string]bool)
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range starts {
		all.Go(func() {
			<-begin
			input := fmt.Sprint(i)
			switch i % 50 {
			case 0: // one of two with the same key
				key := fmt.Sprint("key ", i/100)
				run, err := client.Start(t.Context(), f.Client, w, input, client.IdempotencyKey(key))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if byKey[key] == nil {
					byKey[key] = make(map[string]bool)
				}
				byKey[key][run.ID()] = true
			case 1:
				_, err := client.Start(t.Context(), f.Client, w, "a\x00b")
				if err == nil || !strings.Contains(err.Error(), "value cannot be stored") {
					t.Errorf("a zero byte: %v", err)
				}
			case 2:
				if _, err := client.Start(gone, f.Client, w, input); !errors.Is(err, context.Canceled) {
					t.Errorf("a context that has ended: %v", err)
				}
			default:
				run, err := client.Start(t.Context(), f.Client, w, input)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				ids[run.ID()] = true
			}
		})
	}
	close(begin)
	all.Wait()
	if n := len(ids); n != starts*47/50 {
		t.Errorf("%d ids, want one for each start", n)
	}
	for key, runs := range byKey {
		if len(runs) != 1 {
			t.Errorf("%s has %d runs", key, len(runs))
		}
	}
	var rows, transactions int
	err := f.db.QueryRow(t.Context(), `
SELECT count(*), count(DISTINCT xmin::text)
FROM openworkflow.workflow_runs`).Scan(&rows, &transactions)
	if err != nil {
		t.Fatal(err)
	}
	if want := len(ids) + len(byKey); rows != want {
		t.Errorf("%d rows, want %d", rows, want)
	}
	t.Logf("%d runs in %d transactions", rows, transactions)
	if transactions > rows/4 {
		t.Errorf("%d transactions for %d runs", transactions, rows)
	}
}

// TestStart_AKeyThatIsHeldDelaysNoOtherStart: a start with the key of an open transaction
// waits for its end; other starts do not.
func TestStart_AKeyThatIsHeldDelaysNoOtherStart(t *testing.T) {
	t.Parallel()
	f := setup(t)
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := client.IdempotencyKey("key")
	holder := started(t)(client.StartTx(t.Context(), f.Client, tx, plain, order{}, key))
	var waiting, others sync.WaitGroup
	waiting.Go(func() {
		run, err := client.Start(t.Context(), f.Client, plain, order{}, key)
		if err != nil || run.ID() != holder.ID() {
			t.Errorf("run %v, %v, want that of the transaction", run, err)
		}
	})
	for range 50 {
		others.Go(func() {
			for range 4 {
				if _, err := client.Start(t.Context(), f.Client, plain, order{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	others.Wait()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
}

// TestClose_LetsStartsEnd: a start during Close succeeds or has an error.
func TestClose_LetsStartsEnd(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var all sync.WaitGroup
	some := make(chan struct{}, 200)
	for range 200 {
		all.Go(func() {
			for {
				_, err := client.Start(t.Context(), f.Client, plain, order{})
				some <- struct{}{}
				if err != nil {
					return
				}
			}
		})
	}
	go func() {
		all.Wait()
		close(some)
	}()
	n := 0
	for range some {
		if n++; n == 500 {
			f.Close()
		}
	}
}
