package store_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// FuzzTexts looks for a name, a version, a key or an id that comes back as another one, that is
// taken for another one, or that fails the run that is written with it.
func FuzzTexts(f *testing.F) {
	for _, v := range [][5]string{
		{"wf", "1", "key", "step", "signal"},
		{"", "", "", "", ""},
		{"\x00", "\x00", "\x00", "\x00", "\x00"},
		{"\xff", "\xed\xa0\x80", "a\xffb", "\xc0\x80", "\xf4\x90\x80\x80"},
		{"%_\\", "' OR 1=1 --", "$1", "{schema}", "\"];"},
		{"ﬁ\u0301", "\u200b", "\ufeffkey", "STEP ", " step"},
		{strings.Repeat("n", 3000), strings.Repeat("☃", 3000), strings.Repeat("k", 3000), strings.Repeat("s", 9000), strings.Repeat("x", 9000)},
		{`wf" (version: 1`, "\u2028", "__workflow:default:x", "a:1", "__signal:x"},
	} {
		f.Add(v[0], v[1], v[2], v[3], v[4])
	}
	x := setup(f)
	f.Fuzz(func(t *testing.T, name, version, key, stepName, signal string) {
		x := x.in(t)
		x.exec(`DELETE FROM openworkflow.workflow_signals; DELETE FROM openworkflow.step_attempts; DELETE FROM openworkflow.workflow_runs`)
		bad := store.NewRun{ID: openworkflow.NewID(), WorkflowName: name, Version: &version, IdempotencyKey: &key}
		good := store.NewRun{ID: openworkflow.NewID(), WorkflowName: "good"}
		created, err := x.CreateRuns(t.Context(), []store.NewRun{bad, good})
		if err != nil || created[1].Err != nil {
			t.Fatalf("the good run is refused: %v, %v", err, created)
		}
		served := []openworkflow.Definition{{Name: "good"}}
		if refusedText(t, created[0].Err, name, version, key) {
			bad.ID = ""
		} else {
			served = append(served, openworkflow.Definition{Name: name, Version: &version}, openworkflow.Definition{Name: name})
		}
		leases := map[string]openworkflow.Lease{}
		for _, run := range x.claim(10, served...) {
			leases[run.ID] = leaseOf(run)
			if run.ID == bad.ID && (run.WorkflowName != name || *run.Version != version || *run.IdempotencyKey != key) {
				t.Errorf("%q, %q, %q came back as %q, %q, %q", name, version, key, run.WorkflowName, *run.Version, *run.IdempotencyKey)
			}
		}
		if leases[good.ID].RunID == "" || bad.ID != "" && leases[bad.ID].RunID == "" {
			t.Fatalf("claimed %v", leases)
		}
		if bad.ID != "" {
			again, err := x.CreateRuns(t.Context(), []store.NewRun{{ID: openworkflow.NewID(), WorkflowName: name, IdempotencyKey: &key}})
			if err != nil || again[0].RunID != bad.ID {
				t.Errorf("the key %q finds %+v, %v", key, again, err)
			}
		}
		x.writeTexts(leases[good.ID], stepName, signal)
	})
}

// writeTexts writes a step and a wait for a signal beside another step, and sends the signal.
func (f *fixture) writeTexts(l openworkflow.Lease, stepName, signal string) {
	f.t.Helper()
	named, other := step(l, stepName, completed, `1`), step(l, "other", completed, `2`)
	wait := store.StepWrite{Lease: l, Attempt: openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: "wait", Kind: openworkflow.KindSignalWait, Status: openworkflow.StepRunning,
		Context: openworkflow.WaitContext{Kind: openworkflow.KindSignalWait, Signal: &signal, TimeoutAt: "2999-01-01T00:00:00.000Z"}.Encode(),
	}}
	errs, _ := f.apply([]store.StepWrite{named, other, wait}, nil)
	if errs[1] != nil {
		f.t.Fatalf("the other step is refused: %v", errs[1])
	}
	steps, err := f.LoadSteps(f.t.Context(), []string{l.RunID})
	if err != nil {
		f.t.Fatal(err)
	}
	stored := map[string]openworkflow.StepAttempt{}
	for _, a := range steps[l.RunID] {
		stored[a.ID] = a
	}
	if !refusedText(f.t, errs[0], stepName) && stored[named.Attempt.ID].StepName != stepName {
		f.t.Errorf("step %q came back as %q", stepName, stored[named.Attempt.ID].StepName)
	}
	if !refusedText(f.t, errs[2], signal) {
		got := openworkflow.DecodeWaitContext(stored[wait.Attempt.ID].Context).Signal
		recipients, err := f.SendSignals(f.t.Context(), []store.Signal{{Name: signal, IdempotencyKey: &stepName}})
		switch {
		case !utf8.ValidString(signal): // JSON holds another text, which the runner refuses before
		case err != nil && refusedText(f.t, err, stepName):
		case err != nil || len(recipients[0]) != 1 || got == nil || *got != signal:
			f.t.Errorf("signal %q reached %v; the attempt waits for %v; %v", signal, recipients, got, err)
		}
	}
}

// refusedText reports whether Postgres has refused a text, and checks that it had to.
func refusedText(t testing.TB, err error, texts ...string) bool {
	t.Helper()
	if err == nil {
		return false
	}
	long := false
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return true
		}
		long = long || len(text) > 500 // entries of indexes have at most 2,704 bytes together
	}
	if !long || !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("%q is refused: %v", texts, err)
	}
	return true
}
