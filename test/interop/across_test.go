//go:build interop

package interop

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// A run of one version is for the workers that have this version, whatever they are
// written in.
func TestP8VersionsGoToTheLanguageThatHasThem(t *testing.T) {
	t.Parallel()
	for _, pair := range languages {
		first, second := pair[0], pair[1]
		t.Run("version 1 in "+first, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			versioned := []*process{l.worker(first, "versioned@1"), l.worker(second, "versioned@2")}
			client := l.client(second)
			want := map[string]string{"1": first, "2": second}
			runs := map[string]string{}
			for version := range want {
				runs[version] = client.start(newRun{workflow: "versioned", version: version})
			}
			unversioned := client.start(newRun{workflow: "versioned"})
			for version, language := range want {
				output, failure := client.result(runs[version])
				if failure != "" {
					t.Fatal(failure)
				}
				l.checkOutput(output, fill(`{"version": "1", "by": "2"}`, "1", version, "2", language))
			}
			if n := l.executions(unversioned, "by"); len(n) > 0 {
				t.Errorf("the run without a version was executed: %v", n)
			}
			// A worker in TypeScript also claims what it does not have, to put it off for
			// longer each time, and can keep winning the run from the one that has it.
			for _, w := range versioned {
				w.kill()
			}
			l.worker(first, "versioned")
			output, failure := client.result(unversioned)
			if failure != "" {
				t.Fatal(failure)
			}
			l.checkOutput(output, fill(`{"version": "", "by": "1"}`, "1", first))
			l.checkLedger()
		})
	}
}

// P5: clients of both languages that use one idempotency key at the same moment get
// the same run, whatever characters the key has (R51, R52).
func TestP5OneIdempotencyKeyIsOneRunForBothLanguages(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	keys := []string{"plain", "a \"b\" \\ /", "<&>", "tab\tand\nline\x01\x7f", "\u00e9\u2028\u2029\U0001F600", "' OR ''='", " "}
	clients := []starter{l.client(golang), l.client(golang), l.client(typescript), l.client(typescript)}
	var started sync.Mutex
	runs := map[string]map[string]bool{}
	var starts sync.WaitGroup
	for _, key := range keys {
		runs[key] = map[string]bool{}
		for _, c := range clients {
			starts.Go(func() {
				for range 5 {
					run := c.start(newRun{workflow: "echo", key: key, input: key})
					started.Lock()
					runs[key][run] = true
					started.Unlock()
				}
			})
		}
	}
	starts.Wait()
	for key, ids := range runs {
		if len(ids) != 1 {
			t.Errorf("key %q is of %d runs", key, len(ids))
		}
	}
	if n := read[int](l, `SELECT count(*) FROM openworkflow.workflow_runs`); n != len(keys) {
		t.Errorf("there are %d runs for %d keys", n, len(keys))
	}
	// Another workflow's key is another one.
	if run := clients[0].start(newRun{workflow: "steps", key: keys[0]}); runs[keys[0]][run] {
		t.Error("the key of one workflow is taken for that of another")
	}
}

// A client cancels what a worker of the other language executes. What the worker
// would still write is refused, and it executes nothing after that.
func TestCancelReachesTheOtherLanguage(t *testing.T) {
	t.Parallel()
	for _, pair := range languages {
		canceler, executor := pair[0], pair[1]
		t.Run(canceler+" cancels "+executor, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.worker(executor, "steps", "nap")
			client := l.client(canceler)
			run := client.start(newRun{workflow: "steps", input: map[string]any{"hold": true}})
			parked := client.start(newRun{workflow: "nap", input: map[string]any{"milliseconds": 60_000}})
			l.entered(run, "held", executor)
			l.parked(parked, "rest")
			client.cancel(run)
			client.cancel(parked)
			for _, id := range []string{run, parked} {
				if _, failure := client.result(id); failure == "" {
					t.Error("a canceled run has a result")
				} else {
					l.checkFailure(failure, "canceled")
				}
			}
			if executor == golang {
				l.entered(run, "interrupted: workflow run was canceled", golang)
			}
			// The function ends, its result is refused, and the worker is free for others.
			l.open(run, executor)
			if _, failure := client.result(client.start(newRun{workflow: "steps", input: map[string]any{}})); failure != "" {
				t.Error(failure)
			}
			if row := l.run(run); row.Status != openworkflow.RunCanceled {
				t.Errorf("the canceled run is %s", row.Status)
			}
			if n := l.executions(run, "last"); len(n) > 0 {
				t.Errorf("a canceled run went on: %v", n)
			}
		})
	}
}

// A deadline that one language set ends the run in the other, with the same words.
func TestDeadlinesHoldInTheOtherLanguage(t *testing.T) {
	t.Parallel()
	for _, pair := range languages {
		starter, executor := pair[0], pair[1]
		t.Run(starter+" to "+executor, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.worker(executor, "nap", "flaky")
			client := l.client(starter)
			soon := read[time.Time](l, `SELECT now() + interval '1.5 s'`)
			runs := map[string]string{
				"asleep":   client.start(newRun{workflow: "nap", input: map[string]any{"milliseconds": 60_000}, deadlineAt: soon}),
				"retrying": client.start(newRun{workflow: "flaky", input: map[string]any{"failures": 99, "attempts": 99, "milliseconds": 200}, deadlineAt: soon}),
				"not due":  client.start(newRun{workflow: "nap", availableAt: soon.Add(time.Minute), deadlineAt: soon}),
			}
			for name, run := range runs {
				want := "deadline exceeded"
				if name == "retrying" {
					want = "" // or the error of its last attempt, when the next one would be too late (R100)
				}
				_, failure := client.result(run)
				l.checkFailure(failure, want)
				if row := l.run(run); row.Status != openworkflow.RunFailed {
					t.Errorf("%s: the run is %s: %s", name, row.Status, row.Error)
				}
			}
		})
	}
}

// Workers of both languages at once, with the same workflows: every run completes,
// and no step whose result was stored is executed again.
func TestP3BothLanguagesShareTheRunsOfOneNamespace(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	served := []string{"steps", "nap", "flaky", "parallel", "parent"}
	for _, pair := range languages {
		l.worker(pair[0], served...)
	}
	// Who is first takes a run, which OpenWorkflow's worker, whose polls are further apart,
	// may not be for a while.
	shares := map[string]int{}
	for begun := time.Now(); shares[golang] == 0 || shares[typescript] == 0; {
		if time.Since(begun) > patience {
			t.Fatalf("one language has executed nothing: %v", shares)
		}
		l.load(200, served)
		l.completeAll()
		for _, language := range []string{golang, typescript} {
			shares[language] = read[int](l, `SELECT count(*) FROM ledger WHERE language = $1`, language)
		}
	}
	mixed := read[int](l, `SELECT count(*) FROM (SELECT FROM ledger GROUP BY run_id HAVING count(DISTINCT language) = 2) AS runs`)
	t.Logf("steps executed: %v; %d runs were executed by both", shares, mixed)
	l.checkLedger()
}

// Workers of both languages at once, with different workflows: each run is executed
// by the one that has its workflow. OpenWorkflow's worker claims what it does not
// have too, and gives it back (R62), which must not harm the run.
func TestP3EachLanguageExecutesItsOwnWorkflows(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	served := map[string][]string{golang: {"steps", "flaky"}, typescript: {"nap", "parallel"}}
	for language, workflows := range served {
		l.worker(language, workflows...)
	}
	l.load(100, slices.Concat(served[golang], served[typescript]))
	l.completeAll()
	// OpenWorkflow's worker claims ours too and gives them back, for 5 s, then for 10 s, and
	// so on. Ours takes them then, and does not make them due, so that they do not go to and
	// fro.
	if n := read[int](l, `SELECT max(attempts) FROM openworkflow.workflow_runs WHERE workflow_name = 'steps'`); n > 4 {
		t.Errorf("a run without any wait was claimed %d times", n)
	}
	for language, workflows := range served {
		for executor, n := range map[string]int{language: 1, other(language): 0} {
			got := read[int](l, `
				SELECT count(*) FROM ledger JOIN openworkflow.workflow_runs r ON r.id = run_id
				WHERE language = $1 AND workflow_name = ANY ($2)`, executor, workflows)
			if (got > 0) != (n > 0) {
				t.Errorf("%s has executed %d steps of %v", executor, got, workflows)
			}
		}
	}
	l.checkLedger()
}

// load starts n runs of the workflows, from clients of both languages. In the short form
// there are fewer.
func (l *lab) load(n int, workflows []string) {
	l.Helper()
	if testing.Short() {
		n /= 5
	}
	clients := []starter{l.client(golang), l.client(typescript)}
	inputs := map[string]any{
		"steps":  map[string]any{},
		"nap":    map[string]any{"milliseconds": 300},
		"flaky":  map[string]any{"failures": 2, "attempts": 5, "milliseconds": 50},
		"parent": map[string]any{"child": "steps", "input": map[string]any{}},
	}
	for i := range n {
		workflow := workflows[i%len(workflows)]
		clients[i/len(workflows)%2].start(newRun{workflow: workflow, input: inputs[workflow], key: fmt.Sprint("load-", l.loaded)})
		l.loaded++
	}
}

// completeAll waits until all runs of the load and their children have completed.
func (l *lab) completeAll() {
	l.Helper()
	l.until(fmt.Sprintf("%d runs to complete", l.loaded), `
		SELECT count(*) FILTER (WHERE idempotency_key LIKE 'load-%') = $1 AND bool_and(status = 'completed')
		FROM openworkflow.workflow_runs`, l.loaded)
}
