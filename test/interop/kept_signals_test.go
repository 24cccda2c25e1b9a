//go:build interop

package interop

import (
	"encoding/json"
	"slices"
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
			l.until("the run to wait", `SELECT EXISTS (SELECT FROM openworkflow.step_attempts
				WHERE workflow_run_id = $1 AND kind = 'signal-wait' AND status = 'running')`, run)
			if ids, _, err := s.DueSignals(t.Context(), openworkflow.Cursor{}, 10); err != nil || !slices.Equal(ids, []string{k.ID}) {
				t.Fatalf("DueSignals: %v, %v", ids, err)
			}
			result, err := s.DeliverKept(t.Context(), k.ID)
			if err != nil || result.State != store.SignalDelivered {
				t.Fatalf("DeliverKept: %+v, %v", result, err)
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
