package conformance

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestStepWrites_R46(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		begun := wait(l, "s")
		begun.Elapsed = time.Minute
		b.mustStep(begun)
		a := b.step(l.RunID, begun.Attempt.ID)
		if a.Status != running || a.FinishedAt != nil || a.Output != nil || a.Error != nil || a.NamespaceID != "default" || a.StepName != "s" ||
			a.Kind != openworkflow.KindSignalWait ||
			string(a.Context) != `{"kind": "signal-wait", "signal": "s", "timeoutAt": "2100-01-01T00:00:00.000Z"}` {
			t.Errorf("begun attempt is %+v", a)
		}
		if d := a.CreatedAt.Sub(*a.StartedAt); d < minute-time.Second || d > minute+time.Second {
			t.Errorf("it was started %v before it was created, want a minute", d)
		}

		b.mustStep(ended(begun, complete, `{"data":1}`))
		e := b.step(l.RunID, begun.Attempt.ID)
		if e.Status != complete || string(e.Output) != `{"data": 1}` || e.Error != nil || e.FinishedAt == nil ||
			!e.StartedAt.Equal(*a.StartedAt) || !e.CreatedAt.Equal(a.CreatedAt) || !e.UpdatedAt.After(a.UpdatedAt) ||
			string(e.Context) != string(a.Context) {
			t.Errorf("completed attempt is %+v", e)
		}

		failed := function(l, "f", fail, `{"message":"no"}`)
		failed.Attempt.Output = json.RawMessage(`"dropped"`)
		b.mustStep(failed)
		f := b.step(l.RunID, failed.Attempt.ID)
		if f.Status != fail || f.Output != nil || string(f.Error) != `{"message": "no"}` || f.FinishedAt == nil || f.Context != nil {
			t.Errorf("failed attempt is %+v", f)
		}
	})
}

func TestStepWrites_MayBeRepeated(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		begun := function(l, "a", running, "")
		done, failed := function(l, "b", complete, `1`), function(l, "c", fail, `{"message": "c"}`)
		all := []store.StepWrite{begun, done, failed}
		b.mustStep(all...)
		before := b.steps(l.RunID)
		b.mustStep(all...)
		if diff := cmp.Diff(before, b.steps(l.RunID)); diff != "" {
			t.Errorf("the same writes again changed:\n%s", diff)
		}

		for name, w := range map[string]store.StepWrite{
			"failing what completed": ended(done, fail, `{"message": "no"}`), "completing what failed": ended(failed, complete, `2`),
		} {
			if errs, _ := b.apply([]store.StepWrite{w}, nil); !errors.Is(errs[0], store.ErrLeaseLost) {
				t.Errorf("%s: %v", name, errs[0])
			}
		}
		b.mustStep(ended(done, running, "")) // a late start
		if diff := cmp.Diff(before, b.steps(l.RunID)); diff != "" {
			t.Errorf("an outcome has changed:\n%s", diff)
		}

		b.mustRun(ending(l, store.RunPark))
		b.mustStep(done, failed) // the acknowledgement was lost, and then the lease
		errs, _ := b.apply([]store.StepWrite{begun}, nil)
		if !errors.Is(errs[0], store.ErrLeaseLost) {
			t.Errorf("beginning again without a lease: %v", errs[0])
		}
	})
}

func TestStepWrites_OfOneAttemptInOneCallBecomeOne(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		begun := function(l, "a", running, "")
		b.mustStep(begun, ended(begun, complete, `1`))
		steps := b.steps(l.RunID)
		if len(steps) != 1 || steps[0].Status != complete || string(steps[0].Output) != `1` {
			t.Errorf("steps are %+v", steps)
		}
	})
}

func TestStepWrites_AnIDBelongsToOneRun(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l, other := b.start(), b.start()
		begun := function(l, "a", running, "")
		b.mustStep(begun)
		stolen := ended(begun, complete, `1`)
		stolen.Lease = other
		if errs, _ := b.apply([]store.StepWrite{stolen}, nil); !errors.Is(errs[0], store.ErrLeaseLost) {
			t.Errorf("ending the attempt of another run: %v", errs[0])
		}
		if a := b.step(l.RunID, begun.Attempt.ID); a.Status != running {
			t.Errorf("it is %s", a.Status)
		}
	})
}

func TestLoadSteps_R71_InTheOrderOfCreation(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l, other := b.start(), b.start()
		var want []string
		for range 5 {
			var batch []store.StepWrite
			for range 4 {
				batch = append(batch, function(l, "a", running, ""))
				want = append(want, batch[len(batch)-1].Attempt.ID)
			}
			slices.Reverse(batch)
			b.mustStep(batch...)
		}
		b.mustStep(function(other, "b", running, ""))
		loaded, err := b.LoadSteps(t.Context(), []string{l.RunID, other.RunID, "missing"})
		if err != nil || len(loaded) != 2 {
			t.Fatalf("loaded %v, %v", loaded, err)
		}
		var got []string
		for _, a := range loaded[l.RunID] {
			got = append(got, a.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("order differs (-want +got):\n%s", diff)
		}
	})
}

// losses are the ways to lose a lease that has run out.
var losses = map[string]func(b bench, l openworkflow.Lease){
	"claimed by another": func(b bench, l openworkflow.Lease) { b.lease(l.RunID) },
	"canceled": func(b bench, l openworkflow.Lease) {
		if _, err := b.CancelRuns(b.Context(), []string{l.RunID}); err != nil {
			b.Fatal(err)
		}
	},
	"released with its pod": func(b bench, _ openworkflow.Lease) {
		if _, err := b.ReleaseLeases(b.Context(), store.ReleaseRequest{PodUID: "pod"}); err != nil {
			b.Fatal(err)
		}
	},
	"completed": func(b bench, l openworkflow.Lease) { b.mustRun(ending(l, store.RunComplete)) },
	"failed":    func(b bench, l openworkflow.Lease) { b.mustRun(ending(l, store.RunFail)) },
	"retried":   func(b bench, l openworkflow.Lease) { b.mustRun(ending(l, store.RunRetry)) },
	"parked":    func(b bench, l openworkflow.Lease) { b.mustRun(ending(l, store.RunPark)) },
	"released":  func(b bench, l openworkflow.Lease) { b.mustRun(ending(l, store.RunRelease)) },
}

func TestFence_P2_EveryWriteAfterTheLeaseIsLostFails(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		for name, lose := range losses {
			t.Run(name, func(t *testing.T) {
				b := bench{t, s}
				waiting := b.start()
				b.mustStep(wait(waiting, name))
				l := b.expiring()
				begun, parent := function(l, "begun", running, ""), child(l)
				b.mustStep(begun, parent)
				lose(b, l)
				run, steps := b.run(l.RunID), b.steps(l.RunID)

				late := child(l)
				stepErrs, _ := b.apply([]store.StepWrite{
					begun, ended(begun, complete, `1`), function(l, "x", running, ""), function(l, "y", complete, `1`),
					function(l, "z", fail, `{"message":"z"}`), late, ended(parent, complete, `1`),
				}, nil)
				for i, err := range stepErrs {
					if !errors.Is(err, store.ErrLeaseLost) {
						t.Errorf("step write %d: %v, want %v", i, err, store.ErrLeaseLost)
					}
				}
				for opName, op := range ops {
					if name == opName+"d" && op == store.RunComplete {
						continue // the same completion again
					}
					stepErrs, runErrs := b.apply([]store.StepWrite{function(l, "w", complete, `1`)}, []store.RunWrite{ending(l, op)})
					if !errors.Is(stepErrs[0], store.ErrLeaseLost) || !errors.Is(runErrs[0], store.ErrLeaseLost) {
						t.Errorf("%s: %v, %v, want %v", opName, stepErrs, runErrs, store.ErrLeaseLost)
					}
				}
				send := function(l, "send", running, "")
				if _, err := b.SendSignal(t.Context(), send, store.Signal{Name: name}); !errors.Is(err, store.ErrLeaseLost) {
					t.Errorf("SendSignal: %v, want %v", err, store.ErrLeaseLost)
				}
				states, err := b.Heartbeat(t.Context(), []openworkflow.Lease{l}, minute)
				if err != nil || states[0].Held {
					t.Errorf("Heartbeat: %+v, %v, want it lost", states, err)
				}

				if diff := cmp.Diff(run, b.run(l.RunID)); diff != "" {
					t.Errorf("a lost lease changed the run:\n%s", diff)
				}
				if diff := cmp.Diff(steps, b.steps(l.RunID)); diff != "" {
					t.Errorf("a lost lease changed the steps:\n%s", diff)
				}
				if children, err := b.GetRuns(t.Context(), []string{late.Child.ID}); err != nil || len(children) != 0 {
					t.Errorf("a lost lease created a child: %v, %v", children, err)
				}
				if results, err := b.WaitResults(t.Context(), []string{b.steps(waiting.RunID)[0].ID}); err != nil || len(results) != 0 {
					t.Errorf("a lost lease sent a signal: %v, %v", results, err)
				}
			})
		}
	})
}

func TestFence_LostLeasesLeaveTheBatchAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		b.create(6)
		var steps []store.StepWrite
		var ends []store.RunWrite
		for i, run := range b.claim(6, minute) {
			l := leaseOf(run)
			if i%2 == 0 {
				l.WorkerID = "pod.proc.stale"
			}
			steps, ends = append(steps, function(l, "a", complete, `1`)), append(ends, ending(l, store.RunComplete))
		}
		stepErrs, runErrs := b.apply(steps, ends)
		for i, w := range ends {
			lost := i%2 == 0
			if lost != errors.Is(stepErrs[i], store.ErrLeaseLost) || lost != errors.Is(runErrs[i], store.ErrLeaseLost) ||
				lost == b.run(w.RunID).Status.Terminal() {
				t.Errorf("write %d: %v, %v; lost is %v", i, stepErrs[i], runErrs[i], lost)
			}
		}
	})
}

func TestFaults_R23_ConcernTheirOwnRunAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		good, badStep, badOutput, badName, badChild := b.start(), b.start(), b.start(), b.start(), b.start()
		faultyChild := child(badChild)
		faultyChild.Child.Input = json.RawMessage(`"\u0000"`)
		outputEnd := ending(badOutput, store.RunComplete)
		outputEnd.Output = json.RawMessage(`{"x": "\udc00"}`)
		stepErrs, runErrs := b.apply([]store.StepWrite{
			function(good, "a", complete, `1`),
			function(badStep, "fine", complete, `1`),
			function(badStep, "a", complete, `"\u0000"`),
			function(badOutput, "a", complete, `1`),
			function(badName, "a\x00", complete, `1`),
			faultyChild,
		}, []store.RunWrite{
			ending(good, store.RunComplete), ending(badStep, store.RunPark), outputEnd,
			ending(badName, store.RunComplete), ending(badChild, store.RunComplete),
		})
		for i, faulty := range []bool{false, false, true, false, true, true} {
			if faulty != errors.Is(stepErrs[i], store.ErrInvalidJSON) || !faulty && stepErrs[i] != nil {
				t.Errorf("step write %d: %v, faulty %v", i, stepErrs[i], faulty)
			}
		}
		for i, faulty := range []bool{false, true, true, true, true} {
			if faulty != errors.Is(runErrs[i], store.ErrInvalidJSON) || !faulty && runErrs[i] != nil {
				t.Errorf("run write %d: %v, faulty %v", i, runErrs[i], faulty)
			}
		}
		for _, l := range []openworkflow.Lease{badStep, badOutput, badName, badChild} {
			if r := b.run(l.RunID); r.Status != openworkflow.RunRunning || r.WorkerID == nil || *r.WorkerID != l.WorkerID {
				t.Errorf("a run whose write is at fault is %+v, want it still held", r)
			}
		}
		if steps := b.steps(badChild.RunID); len(steps) != 0 {
			t.Errorf("the attempt of a faulty child is %+v, want neither", steps)
		}
		b.mustStep(ended(function(badStep, "a", complete, `"\u0000"`), fail, `{"message":"cannot be stored"}`))
	})
}

// TestJSON_R20_R22 is what a value looks like when it comes back.
func TestJSON_R20_R22(t *testing.T) {
	values := map[string]string{
		``: ``, `null`: ``, ` null `: ``, `"null"`: `"null"`, `true`: `true`, `""`: `""`, `[]`: `[]`, `{}`: `{}`, ` [ ] `: `[]`,
		`0`: `0`, `-0`: `0`, `-0.0`: `0.0`, `0.0`: `0.0`, `1.50`: `1.50`, `1e21`: `1000000000000000000000`, `1E5`: `100000`,
		`1e-3`: `0.001`, `12.5e1`: `125`, `1.25e1`: `12.5`, `1.0e1`: `10`, `1.00e1`: `10.0`, `0e5`: `0`, `0.00e1`: `0.0`, `-1.5e-2`: `-0.015`,
		`12345678901234567890.123456789`: `12345678901234567890.123456789`, `-1`: `-1`, `100e-2`: `1.00`,
		`{"b":1,"a":2}`: `{"a": 2, "b": 1}`, `{"aa":1,"b":2}`: `{"b": 2, "aa": 1}`, `{"a":1,"a":[2]}`: `{"a": [2]}`,
		`{"é":1,"zz":2,"z":3}`: `{"z": 3, "zz": 2, "é": 1}`, `[1,[2,{"x":null}]]`: `[1, [2, {"x": null}]]`,
		`"\u00e9\u2028\/<>&"`: "\"é\u2028/<>&\"", `"\ud83d\ude00"`: `"😀"`, `"\b\f\n\r\t\"\\\u001f\u007f"`: "\"\\b\\f\\n\\r\\t\\\"\\\\\\u001f\x7f\"",
		"{\n\t\"a\" : 1 }": `{"a": 1}`, `[null]`: `[null]`,
		`1e` + "131071": `1` + strings.Repeat("0", 131071), `0e99999`: `0`,
		`1e-16383`: `0.` + strings.Repeat("0", 16382) + `1`,
	}
	refused := []string{
		`"\u0000"`, `{"\u0000":1}`, `"\ud800"`, `"\udc00"`, `"\ud800\ud800"`, `"\ud800x"`, `{`, `nul`, `1 2`, `01`, "\"\xff\"", "\"\x00\"", `"a` + "\n" + `"`,
		`1e131072`, `1e-16384`, `1e99999999999999999999`, `-1e131072`, `[1,]`, `'a'`, `"\x"`, `NaN`,
	}
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		for in, want := range values {
			w := function(l, "a", complete, in)
			b.mustStep(w)
			if got := string(b.step(l.RunID, w.Attempt.ID).Output); got != want {
				t.Errorf("%.60s comes back as %.60s, want %.60s", in, got, want)
			}
		}
		for _, in := range refused {
			errs, _ := b.apply([]store.StepWrite{function(l, "a", complete, in)}, nil)
			if !errors.Is(errs[0], store.ErrInvalidJSON) {
				t.Errorf("%.60q: %v, want it refused", in, errs[0])
			}
		}
	})
}
