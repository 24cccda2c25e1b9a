//go:build interop

package interop

import (
	"fmt"
	"sync"
	"testing"
)

// TestLocks_P8_NoDeadlockBetweenTheLanguages: runs in both languages send signals to runs
// that the other language executes, have children, and are canceled, all at once. Postgres
// breaks no deadlock, whose victim would be a failed run if it is OpenWorkflow's. No sender
// fails.
func TestLocks_P8_NoDeadlockBetweenTheLanguages(t *testing.T) {
	l := newLab(t)
	listeners, callers, sends := 20, 20, 10
	if !testing.Short() {
		listeners, callers, sends = 60, 75, 10
	}
	for range 2 {
		l.worker(typescript, "caller", "echo")
		l.worker(golang, "listener", "echo")
	}
	l.worker(golang, "caller@go")
	ours, theirs := l.client(golang), l.client(typescript)

	var signals []string
	for i := range max(4, listeners/6) {
		signals = append(signals, fmt.Sprint("news ", i))
	}
	type object = map[string]any
	var listening, calling []string
	for i := range listeners {
		listening = append(listening, ours.start(newRun{workflow: "listener", input: object{
			"signal": signals[i%len(signals)], "waits": 12, "milliseconds": 40,
		}}))
	}
	for i := range callers {
		input := object{"signals": signals, "first": i, "sends": sends}
		calling = append(calling,
			theirs.start(newRun{workflow: "caller", input: input}),
			ours.start(newRun{workflow: "caller", version: "go", input: input}))
	}

	// Meanwhile clients send, and cancel listeners.
	var tasks sync.WaitGroup
	for _, client := range []starter{ours, theirs} {
		tasks.Go(func() {
			for i := range 3 * sends {
				client.signal(signals[i%len(signals)], i, "")
			}
		})
	}
	tasks.Go(func() {
		for i, run := range listening[:listeners/5] {
			[]starter{ours, theirs}[i%2].cancel(run)
		}
	})
	tasks.Wait()

	for _, run := range calling {
		if _, failure := ours.result(run); failure != "" {
			t.Errorf("sender %s: %s", run, failure)
		}
	}
	for _, run := range listening[listeners/5:] {
		if _, failure := ours.result(run); failure != "" {
			t.Errorf("receiver %s: %s", run, failure)
		}
	}
	// Sessions add to these counters once they are idle, within a second.
	l.exec(`SELECT pg_stat_force_next_flush()`)
	if n := read[int](l, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n > 0 {
		t.Errorf("Postgres broke %d deadlocks", n)
	}
}
