package store_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// waitStep returns the write of a step that starts to wait for a signal.
func waitStep(l openworkflow.Lease, signal string) store.StepWrite {
	w := step(l, signal, running, "")
	w.Attempt.Kind = openworkflow.KindSignalWait
	w.Attempt.Context = json.RawMessage(`{"kind":"signal-wait","signal":"` + signal + `","timeoutAt":"2100-01-01T00:00:00.000Z"}`)
	return w
}

func (f *fixture) results(ids ...string) map[string]store.WaitResult {
	f.t.Helper()
	results, err := f.WaitResults(f.t.Context(), ids)
	if err != nil {
		f.t.Fatalf("WaitResults: %v", err)
	}
	return results
}

func TestArrivals_R98d_Children(t *testing.T) {
	t.Parallel()
	for status, resolved := range map[string]bool{
		"pending": false, "running": false, "sleeping": false,
		"completed": true, "succeeded": true, "failed": true, "canceled": true,
	} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			w := childStep(l, "a")
			f.must([]store.StepWrite{w}, nil)
			f.exec(`UPDATE openworkflow.workflow_runs SET status = $2, output = '[1]', error = '{"message":"no"}', finished_at = now() WHERE id = $1`,
				w.Child.ID, status)
			runs, err := f.GetRuns(t.Context(), []string{w.Child.ID})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]store.WaitResult{}
			if resolved {
				child := runs[w.Child.ID]
				want[w.Attempt.ID] = store.WaitResult{Child: &openworkflow.Run{
					ID: child.ID, Status: child.Status, Output: child.Output, Error: child.Error, FinishedAt: child.FinishedAt,
				}}
			}
			if diff := cmp.Diff(want, f.results(w.Attempt.ID, "nobody")); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
			end := step(l, "a", completed, `1`)
			end.Attempt.ID = w.Attempt.ID
			f.must([]store.StepWrite{end}, nil)
			if got := f.results(w.Attempt.ID); len(got) != 0 {
				t.Errorf("an attempt that has ended waits for %v", got)
			}
		})
	}
}

func TestArrivals_R99c_Signals(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	with, without, none := waitStep(l, "with"), waitStep(l, "without"), waitStep(l, "none")
	function := step(l, "f", running, "")
	f.must([]store.StepWrite{with, without, none, function}, nil)
	ids := []string{with.Attempt.ID, without.Attempt.ID, none.Attempt.ID, function.Attempt.ID}
	if got := f.results(ids...); len(got) != 0 {
		t.Errorf("resolved before they were sent: %v", got)
	}

	f.send(store.Signal{Name: "with", Data: json.RawMessage(`{"a": 1}`)}, store.Signal{Name: "without"})

	want := map[string]store.WaitResult{with.Attempt.ID: {Data: json.RawMessage(`{"a": 1}`)}, without.Attempt.ID: {}}
	if diff := cmp.Diff(want, f.results(ids...)); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func TestArrivals_NothingIsNothing(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t) // not even a schema
	if got := f.results(); len(got) != 0 {
		t.Errorf("results %v", got)
	}
}
