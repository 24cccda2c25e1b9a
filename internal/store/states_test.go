package store_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/store"
)

func TestRunStates_AreRunsWithoutTheirInput(t *testing.T) {
	f := setup(t)
	ids := f.create(2, func(r *store.NewRun) { r.Input = json.RawMessage(`{"a": 1}`) })
	want, err := f.GetRuns(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range want {
		if run.Input == nil {
			t.Fatal("the run has no input to leave out")
		}
		run.Input = nil
	}
	got, err := f.RunStates(t.Context(), append(ids, "absent"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
