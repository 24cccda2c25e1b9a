//go:build interop

package interop

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// TestKeptSignals_P8_ReachRunsOfEitherLanguage: the signal is there before the run, and is delivered as
// the manager does it. The worker need not announce that the run waits.
func TestKeptSignals_P8_ReachRunsOfEitherLanguage(t *testing.T) {
	t.Parallel()
	for _, language := range []string{typescript, golang} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.worker(language, "waiter")
			s := l.store
			k := store.KeptSignal{ID: openworkflow.NewID(), Name: "kept", Data: json.RawMessage(`{"n":1}`), ExpiresAt: time.Now().Add(time.Hour)}
			if result, err := s.KeepSignal(t.Context(), k); err != nil || result.State != store.SignalWaiting {
				t.Fatalf("KeepSignal: %+v, %v", result, err)
			}
			client := l.client(language)
			run := client.start(newRun{workflow: "waiter", input: map[string]any{"signal": "kept"}})
			var result store.SignalResult
			for end := time.Now().Add(time.Minute); result.State != store.SignalDelivered; time.Sleep(10 * time.Millisecond) {
				ids, _, err := s.DueSignals(t.Context(), openworkflow.Cursor{}, 10)
				if err != nil || time.Now().After(end) {
					t.Fatalf("nobody waits for the signal: %v", err)
				}
				for _, id := range ids {
					if result, err = s.DeliverKept(t.Context(), id); err != nil {
						t.Fatal(err)
					}
				}
			}
			if len(result.Deliveries) != 1 || result.Deliveries[0].RunID != run {
				t.Errorf("delivered to %+v, want run %s", result.Deliveries, run)
			}
			output, failure := client.result(run)
			if failure != "" {
				t.Fatal(failure)
			}
			l.checkOutput(output, fill(`{"one": "2", "received": true, "data": {"n": 1}, "last": "2"}`, "2", language))
		})
	}
}
