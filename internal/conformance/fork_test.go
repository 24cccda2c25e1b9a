package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// source executes a run by the writes, each in a transaction of its own, and fails it with the
// error, or completes it if that is empty.
func (b bench) source(failure string, writes func(l openworkflow.Lease) []store.StepWrite, change ...func(*store.NewRun)) string {
	b.Helper()
	l := b.start(change...)
	for _, w := range writes(l) {
		b.mustStep(w)
		for written := time.Now(); time.Since(written) < 2*time.Microsecond; { // instants have microseconds, and memory is fast
			runtime.Gosched()
		}
	}
	end := ending(l, store.RunComplete)
	if failure != "" {
		end.Op, end.Error = store.RunFail, json.RawMessage(failure)
	}
	b.mustRun(end)
	return l.RunID
}

func (b bench) fork(r store.ForkRequest) store.ForkResult {
	b.Helper()
	result, err := b.Fork(b.Context(), r)
	if err != nil {
		b.Fatalf("Fork: %v", err)
	}
	if !result.Inserted {
		b.Fatalf("Fork made no run: %+v", result)
	}
	return result
}

// outcomes are the attempts of a run in their order, as "name status value".
func (b bench) outcomes(id string) []string {
	b.Helper()
	var all []string
	for _, a := range b.steps(id) {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s%s", a.StepName, a.Status, a.Output, a.Error)))
	}
	return all
}

const (
	declined = `{"name": "Error", "message": "declined"}`
	wrapped  = `{"name": "Error", "message": "order 7: step \"c\" failed: declined"}`
)

// TestFork_P1_TakesOverWhatWasBeforeTheForkPoint has the rule for sequential steps: a, b, c, d.
func TestFork_P1_TakesOverWhatWasBeforeTheForkPoint(t *testing.T) {
	abcd := func(l openworkflow.Lease) []store.StepWrite {
		return []store.StepWrite{
			function(l, "a", complete, `1`), function(l, "b", fail, `{"message": "once"}`), function(l, "b", complete, `2`),
			function(l, "c", fail, declined), function(l, "c", fail, declined), function(l, "d", complete, `4`),
		}
	}
	throughC := func(l openworkflow.Lease) []store.StepWrite { return abcd(l)[:5] }
	kept := func(outcomes ...string) []string { return outcomes }
	for name, c := range map[string]struct {
		writes  func(l openworkflow.Lease) []store.StepWrite
		failure string
		from    store.ForkPoint
		outputs map[string]json.RawMessage
		step    string
		want    []string
	}{
		"from nothing":           {abcd, declined, store.ForkPoint{}, nil, "NULL", nil},
		"from the first step":    {abcd, declined, store.ForkPoint{Step: new("a")}, nil, "a", nil},
		"from a completed step":  {abcd, declined, store.ForkPoint{Step: new("b")}, nil, "b", kept("a completed 1")},
		"from a failed step":     {abcd, declined, store.ForkPoint{Step: new("c")}, nil, "c", kept("a completed 1", "b completed 2")},
		"of a completed run":     {abcd, "", store.ForkPoint{Step: new("b")}, nil, "b", kept("a completed 1")},
		"from the failure":       {throughC, declined, store.ForkPoint{LastFailed: true}, nil, "c", kept("a completed 1", "b completed 2")},
		"from a wrapped failure": {throughC, wrapped, store.ForkPoint{LastFailed: true}, nil, "c", kept("a completed 1", "b completed 2")},
		// d compensates for c.
		"from a failure that was compensated for": {
			abcd, wrapped, store.ForkPoint{LastFailed: true}, nil, "c", kept("a completed 1", "b completed 2"),
		},
		// d is what the workflow did instead of c. To try c again would do both.
		"of a workflow that went on after a failure": {
			abcd, `{"message": "a bug"}`, store.ForkPoint{LastFailed: true}, nil, "NULL",
			kept("a completed 1", "b completed 2", "c failed "+declinedStored, "c failed "+declinedStored, "d completed 4"),
		},
		"of a workflow that failed by itself": {
			throughC, `{"message": "a bug"}`, store.ForkPoint{LastFailed: true}, nil, "NULL", kept("a completed 1", "b completed 2"),
		},
		"with another output of a step before": {
			abcd, declined, store.ForkPoint{Step: new("c")}, map[string]json.RawMessage{"a": json.RawMessage(`{"b":1,"a":[]}`)}, "c",
			kept(`a completed {"a": [], "b": 1}`, "b completed 2"),
		},
		"with an output of the step itself": {
			throughC, declined, store.ForkPoint{LastFailed: true}, map[string]json.RawMessage{"c": json.RawMessage(`3`)}, "c",
			kept("a completed 1", "b completed 2", "c completed 3"),
		},
		"with the output null": {
			throughC, declined, store.ForkPoint{LastFailed: true}, map[string]json.RawMessage{"c": json.RawMessage(`null`)}, "c",
			kept("a completed 1", "b completed 2", "c completed"),
		},
		"with an output of what had failed before": {
			abcd, `{"message": "a bug"}`, store.ForkPoint{LastFailed: true}, map[string]json.RawMessage{"c": json.RawMessage(`3`)}, "NULL",
			kept("a completed 1", "b completed 2", "c completed 3", "d completed 4"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s Store) {
				b := bench{t, s}
				source := b.source(c.failure, c.writes)
				before, stepsBefore := b.run(source), b.steps(source)
				result := b.fork(store.ForkRequest{Source: source, From: c.from, Outputs: c.outputs})
				if diff := cmp.Diff(c.want, b.outcomes(result.RunID)); diff != "" {
					t.Errorf("attempts of the fork (-want +got):\n%s", diff)
				}
				completed := slices.DeleteFunc(slices.Clone(c.want), func(o string) bool { return strings.Contains(o, " failed ") })
				if text(result.Step) != c.step || result.Kept != len(completed) {
					t.Errorf("leaves the history at %s with %d steps, want %s with %d", text(result.Step), result.Kept, c.step, len(completed))
				}

				// P4: of the source nothing changes but the name of its successor.
				before.SupersededBy = &result.RunID
				if diff := cmp.Diff(before, b.run(source)); diff != "" {
					t.Errorf("the source has changed:\n%s", diff)
				}
				if diff := cmp.Diff(stepsBefore, b.steps(source)); diff != "" {
					t.Errorf("attempts of the source have changed:\n%s", diff)
				}
			})
		})
	}
}

// declinedStored is declined as jsonb prints it, which orders members by their length.
const declinedStored = `{"name": "Error", "message": "declined"}`

// TestFork_P1_ParallelSteps has four of them at once, of which b fails. The others do not depend
// on it, so a retry keeps them, whenever they were written.
func TestFork_P1_ParallelSteps(t *testing.T) {
	long := func(w store.StepWrite, d time.Duration) store.StepWrite {
		w.Elapsed = d
		return w
	}
	writes := func(l openworkflow.Lease) []store.StepWrite {
		return []store.StepWrite{
			long(function(l, "p:1", complete, `1`), 58*time.Second), // the second to begin, the first to end
			long(function(l, "p:2", fail, declined), 57*time.Second),
			long(function(l, "p:3", complete, `3`), 56*time.Second),
			long(function(l, "p", complete, `0`), 59*time.Second),
			function(l, "after", complete, `5`), // began after the failure
		}
	}
	for name, c := range map[string]struct {
		from store.ForkPoint
		want []string
	}{
		"a retry keeps what does not follow from the failure": {
			store.ForkPoint{LastFailed: true}, []string{"p:1 completed 1", "p:3 completed 3", "p completed 0"},
		},
		"a named step is the first that is executed anew": {
			store.ForkPoint{Step: new("p:2")}, []string{"p:1 completed 1", "p completed 0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s Store) {
				b := bench{t, s}
				fork := b.fork(store.ForkRequest{Source: b.source(declined, writes), From: c.from})
				if diff := cmp.Diff(c.want, b.outcomes(fork.RunID)); diff != "" {
					t.Errorf("attempts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestFork_P1_AWaitWrittenWithTheFailureFollowsIt has a compensation that is a child run: its
// attempt is written in one transaction with the failure that led to it.
func TestFork_P1_AWaitWrittenWithTheFailureFollowsIt(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		failed := ended(wait(l, "approval"), fail, declined)
		undo := child(l)
		undo.Elapsed = time.Millisecond
		b.mustStep(failed, undo)
		b.mustStep(ended(undo, complete, `"undone"`))
		end := ending(l, store.RunFail)
		end.Error = json.RawMessage(declined)
		b.mustRun(end)
		fork := b.fork(store.ForkRequest{Source: l.RunID, From: store.ForkPoint{LastFailed: true}})
		if got := b.outcomes(fork.RunID); len(got) != 0 || text(fork.Step) != "approval" {
			t.Errorf("from %s the fork keeps %v, want nothing of what came after the failure", text(fork.Step), got)
		}
	})
}

func TestFork_TheNewRun(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		version := "7"
		source := b.create(1, func(n *store.NewRun) {
			n.Version, n.Input, n.Context = &version, json.RawMessage(`{"order": 7}`), json.RawMessage(`{"kubernetes": {"uid": "x"}}`)
			n.IdempotencyKey, n.DeadlineAt = new("order-7"), new(later())
		})[0]
		claim := request(1)
		claim.Served = []openworkflow.Definition{{Name: "wf", Version: &version}}
		claimed, err := b.Claim(t.Context(), *claim)
		if err != nil || len(claimed) != 1 {
			t.Fatalf("claimed %v, %v", claimed, err)
		}
		end := ending(leaseOf(claimed[0]), store.RunFail)
		end.Error = json.RawMessage(declined)
		b.mustStep(function(end.Lease, "b", fail, declined))
		b.mustRun(end)

		plain := b.run(b.fork(store.ForkRequest{Source: source, From: store.ForkPoint{LastFailed: true}}).RunID)
		if plain.WorkflowName != "wf" || text(plain.Version) != version || string(plain.Input) != `{"order": 7}` ||
			plain.Status != openworkflow.RunPending || plain.Attempts != 0 || plain.Context != nil || plain.IdempotencyKey != nil ||
			plain.DeadlineAt != nil || plain.Error != nil || plain.ParentStepAttemptID != nil || !due(plain) {
			t.Errorf("new run is %+v", plain)
		}
		if text(plain.ForkedFrom) != source || text(plain.ForkStep) != "b" || plain.SupersededBy != nil {
			t.Errorf("lineage is %s, %s, %s", text(plain.ForkedFrom), text(plain.ForkStep), text(plain.SupersededBy))
		}

		at := later().Truncate(time.Millisecond)
		rerun := store.ForkRequest{Source: source, Run: store.NewRun{
			ID: "mine", WorkflowName: "ignored", IdempotencyKey: new("again"), Input: json.RawMessage(`{"order": 8}`),
			Context: json.RawMessage(`{"kubernetes": {"uid": "y"}}`), AvailableAt: &at, DeadlineAt: &at, Suspended: true,
		}}
		if got := b.fork(rerun); got.RunID != "mine" || got.Kept != 0 || got.Step != nil {
			t.Errorf("rerun: %+v", got)
		}
		full := b.run("mine")
		if full.WorkflowName != "wf" || string(full.Input) != `{"order": 8}` || string(full.Context) != `{"kubernetes": {"uid": "y"}}` ||
			text(full.IdempotencyKey) != "again" || !full.DeadlineAt.Equal(at) || full.SuspendedAt == nil || full.AvailableAt != nil {
			t.Errorf("new run is %+v", full)
		}
		if text(full.ForkedFrom) != source || full.ForkStep != nil || text(b.run(source).SupersededBy) != "mine" {
			t.Errorf("lineage is %s, %s; the source is superseded by %s",
				text(full.ForkedFrom), text(full.ForkStep), text(b.run(source).SupersededBy))
		}
		if n, err := b.ResumeRuns(t.Context(), []string{"mine"}); err != nil || n != 1 {
			t.Errorf("resumed %d, %v", n, err)
		}
		if r := b.run("mine"); r.AvailableAt == nil || !r.AvailableAt.Equal(at) || text(r.ForkedFrom) != source {
			t.Errorf("resumed fork is %+v", r)
		}
	})
}

// TestFork_TheCopies checks the columns of attempts.
func TestFork_TheCopies(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		a := function(l, "a", complete, `1`) // ids increase
		sleep := wait(l, "nap")
		sleep.Attempt.Kind, sleep.Attempt.Context = openworkflow.KindSleep, json.RawMessage(`{"kind": "sleep", "resumeAt": "2020-01-01T00:00:00.000Z"}`)
		signal, sub := wait(l, "approval"), child(l)
		for _, w := range []store.StepWrite{
			a, sleep, ended(sleep, complete, ""), signal, ended(signal, complete, `{"data": "yes"}`),
			sub, ended(sub, complete, `2`), function(l, "never ended", running, ""),
		} {
			b.mustStep(w)
		}
		if _, err := b.CancelRuns(t.Context(), []string{l.RunID}); err != nil {
			t.Fatal(err)
		}
		source := b.steps(l.RunID)
		fork := b.fork(store.ForkRequest{Source: l.RunID, From: store.ForkPoint{LastFailed: true}})
		copies := b.steps(fork.RunID)
		if len(copies) != 4 || fork.Kept != 4 {
			t.Fatalf("the fork has %d attempts and %d kept steps, want 4: %v", len(copies), fork.Kept, b.outcomes(fork.RunID))
		}
		for i, c := range copies {
			if c.ID == source[i].ID || c.WorkflowRunID != fork.RunID {
				t.Errorf("copy %s of %s is an attempt of %s", c.ID, source[i].ID, c.WorkflowRunID)
			}
			c.ID, c.WorkflowRunID, c.UpdatedAt = source[i].ID, source[i].WorkflowRunID, source[i].UpdatedAt
			if diff := cmp.Diff(source[i], c); diff != "" {
				t.Errorf("copy differs from its source:\n%s", diff)
			}
		}
		if copies[3].ChildWorkflowRunID == nil {
			t.Error("the copy of a child step has lost its child")
		}

		anew := b.fork(store.ForkRequest{Source: l.RunID, From: store.ForkPoint{LastFailed: true}, RestartChildren: true})
		if got := b.outcomes(anew.RunID); len(got) != 3 || strings.Contains(fmt.Sprint(got), "child") {
			t.Errorf("with children started anew, the fork has %v", got)
		}
		corrected := b.fork(store.ForkRequest{Source: l.RunID, From: store.ForkPoint{LastFailed: true}, RestartChildren: true,
			Outputs: map[string]json.RawMessage{
				"child": json.RawMessage(`3`), "approval": json.RawMessage(`{"by": "Ada"}`), "never ended": json.RawMessage(`4`),
			}})
		want := []string{
			"a completed 1", "nap completed", `approval completed {"data": {"by": "Ada"}}`, "child completed 3", "never ended completed 4",
		}
		if diff := cmp.Diff(want, b.outcomes(corrected.RunID)); diff != "" {
			t.Errorf("corrected outputs (-want +got):\n%s", diff)
		}
		for _, a := range b.steps(corrected.RunID) {
			if a.FinishedAt == nil || a.StartedAt == nil {
				t.Errorf("copy of %s has not finished", a.StepName)
			}
		}
	})
}

// TestFork_P5_RepeatedAfterACrash forks with one id, again and again, also when the source has a
// newer fork, and when another request comes with that id.
func TestFork_P5_RepeatedAfterACrash(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		source := b.source(declined, func(l openworkflow.Lease) []store.StepWrite {
			return []store.StepWrite{function(l, "a", complete, `1`), function(l, "b", fail, declined)}
		})
		request := store.ForkRequest{Source: source, Run: store.NewRun{ID: "mine"}, From: store.ForkPoint{LastFailed: true}}
		b.fork(request)
		newer := b.fork(store.ForkRequest{Source: source}).RunID
		l := b.lease("mine")
		b.mustStep(function(l, "b", complete, `2`))
		run, steps := b.run("mine"), b.steps("mine")
		for _, r := range []store.ForkRequest{
			request,
			{Source: source, Run: store.NewRun{ID: "mine"}},
			{Source: "removed", Run: store.NewRun{ID: "mine"}, From: store.ForkPoint{Step: new("nobody's")}},
		} {
			again, err := b.Fork(t.Context(), r)
			if err != nil || again.RunID != "mine" || again.Inserted {
				t.Errorf("again: %+v, %v", again, err)
			}
		}
		if diff := cmp.Diff(run, b.run("mine")); diff != "" {
			t.Errorf("the fork has changed:\n%s", diff)
		}
		if diff := cmp.Diff(steps, b.steps("mine")); diff != "" {
			t.Errorf("its attempts have changed:\n%s", diff)
		}
		if got := text(b.run(source).SupersededBy); got != newer {
			t.Errorf("the source is superseded by %s, want the newest fork %s", got, newer)
		}

		keyed := store.ForkRequest{Source: source, Run: store.NewRun{IdempotencyKey: new("retry-7")}, From: store.ForkPoint{Step: new("b")}}
		first := b.fork(keyed)
		again, err := b.Fork(t.Context(), keyed)
		if err != nil || again.RunID != first.RunID || again.Inserted {
			t.Errorf("with the same key: %+v, %v, want %s", again, err, first.RunID)
		}
		if got := len(b.steps(first.RunID)); got != 1 {
			t.Errorf("the run that holds the key has %d attempts, want 1", got)
		}
	})
}

func TestFork_P7_SaysWhatIsWrong(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		failed := b.source(declined, func(l openworkflow.Lease) []store.StepWrite {
			nap := wait(l, "nap")
			nap.Attempt.Kind = openworkflow.KindSleep
			send := function(l, "send", complete, `{"workflowRunIds": []}`)
			send.Attempt.Kind = openworkflow.KindSignalSend
			return []store.StepWrite{
				function(l, "reserve", complete, `1`), function(l, "charge", complete, `2`), function(l, "charge:1", complete, `2`),
				nap, ended(nap, complete, ""), send, function(l, "ship", fail, declined), function(l, "undo", complete, `3`),
			}
		})
		completed := b.source("", func(openworkflow.Lease) []store.StepWrite { return nil })
		parked := b.start()
		b.mustRun(ending(parked, store.RunPark))
		value := func(step, output string) map[string]json.RawMessage {
			return map[string]json.RawMessage{step: json.RawMessage(output)}
		}
		last := store.ForkPoint{LastFailed: true}
		for name, c := range map[string]struct {
			request store.ForkRequest
			err     error
			want    string
		}{
			"no such run": {store.ForkRequest{Source: "missing"}, store.ErrNotFound, "run missing: not found"},
			"an open run": {store.ForkRequest{Source: parked.RunID}, store.ErrNotEnded, "run " + parked.RunID + " is running: run has not ended"},
			"no such step": {
				store.ForkRequest{Source: failed, From: store.ForkPoint{Step: new("chrge")}}, store.ErrInvalidFork,
				"invalid fork: run " + failed + ` has no step "chrge"; the nearest of its 7 steps: "charge", "charge:1", "ship"`,
			},
			"no steps at all": {
				store.ForkRequest{Source: completed, From: store.ForkPoint{Step: new("a")}}, store.ErrInvalidFork,
				"invalid fork: run " + completed + ` has no step "a": it has none at all`,
			},
			"retry of a completed run": {
				store.ForkRequest{Source: completed, From: last}, store.ErrInvalidFork,
				"invalid fork: run " + completed + " has completed, so none of its steps has made it fail: name a step, or start from nothing",
			},
			"two fork points": {
				store.ForkRequest{Source: failed, From: store.ForkPoint{Step: new("ship"), LastFailed: true}}, store.ErrInvalidFork,
				"invalid fork: a fork starts either from a named step or from the one that failed, not from both",
			},
			"itself": {
				store.ForkRequest{Source: failed, Run: store.NewRun{ID: failed}}, store.ErrInvalidFork,
				"invalid fork: run " + failed + " cannot be its own fork: the new run needs another id",
			},
			"output of no such step": {
				store.ForkRequest{Source: failed, From: last, Outputs: value("shop", `1`)}, store.ErrInvalidFork,
				"output of a step: invalid fork: run " + failed + ` has no step "shop"; the nearest of its 7 steps: "ship", "nap", "send"`,
			},
			"output of a later step": {
				store.ForkRequest{Source: failed, From: last, Outputs: value("undo", `1`)}, store.ErrInvalidFork,
				`invalid fork: output of step "undo": it began after step "ship", from which the fork starts`,
			},
			"output of a rerun": {
				store.ForkRequest{Source: failed, Outputs: value("charge", `1`)}, store.ErrInvalidFork,
				`invalid fork: output of step "charge": a fork that starts from nothing takes over no outputs`,
			},
			"output of a sleep": {
				store.ForkRequest{Source: failed, From: last, Outputs: value("nap", `1`)}, store.ErrInvalidFork,
				`invalid fork: output of step "nap": a step of kind sleep has none that could be corrected`,
			},
			"output of a send": {
				store.ForkRequest{Source: failed, From: last, Outputs: value("send", `1`)}, store.ErrInvalidFork,
				`invalid fork: output of step "send": a step of kind signal-send has none that could be corrected`,
			},
			"no JSON": {
				store.ForkRequest{Source: failed, From: last, Outputs: value("charge", `{`)}, store.ErrInvalidFork,
				`invalid fork: output of step "charge": it is not JSON`,
			},
			"an output that cannot be stored": {
				store.ForkRequest{Source: failed, From: last, Outputs: value("charge", `"\u0000"`)}, store.ErrInvalidJSON, "",
			},
			"an input that cannot be stored": {
				store.ForkRequest{Source: failed, Run: store.NewRun{Input: json.RawMessage(`"\u0000"`)}}, store.ErrInvalidJSON, "",
			},
		} {
			result, err := b.Fork(t.Context(), c.request)
			if !errors.Is(err, c.err) || c.want != "" && err.Error() != c.want {
				t.Errorf("%s: %+v, %v\nwant %s", name, result, err, c.want)
			}
		}
		for _, id := range []string{failed, completed, parked.RunID} {
			if got := b.run(id).SupersededBy; got != nil {
				t.Errorf("a fork that was refused supersedes its source: %s", *got)
			}
		}
	})
}

// TestFork_P5_OnceRefusesASourceThatHasAFork: two who want to retry a run must not both do so.
func TestFork_P5_OnceRefusesASourceThatHasAFork(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		source := b.source(declined, func(l openworkflow.Lease) []store.StepWrite {
			return []store.StepWrite{function(l, "a", fail, declined)}
		})
		request := store.ForkRequest{Source: source, Run: store.NewRun{ID: "first"}, From: store.ForkPoint{LastFailed: true}, Once: true}
		b.fork(request)
		if again, err := b.Fork(b.Context(), request); err != nil || again.Inserted || again.RunID != "first" {
			b.Errorf("repeated: %+v, %v", again, err)
		}
		request.Run.ID = "second"
		if _, err := b.Fork(b.Context(), request); !errors.Is(err, store.ErrSuperseded) ||
			err.Error() != "run "+source+", by run first: run has been forked already" {
			b.Errorf("a second fork: %v", err)
		}
		request.Once = false
		b.fork(request)
	})
}
