package conformance

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/memstore"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// Store is the interface that both stores implement.
type Store interface {
	runner.Store
	CreateRuns(ctx context.Context, runs []store.NewRun) ([]store.Created, error)
	GetRuns(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error)
	CancelRuns(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error)
	SuspendRuns(ctx context.Context, ids []string) (int, error)
	ResumeRuns(ctx context.Context, ids []string) (int, error)
	Fork(ctx context.Context, r store.ForkRequest) (store.ForkResult, error)
	FailExpired(ctx context.Context, limit int) ([]string, error)
	SendSignals(ctx context.Context, signals []store.Signal) ([][]string, error)
	Decide(ctx context.Context, in store.DecideInput) (store.Decision, error)
	ListenEnds(ctx context.Context, wake func()) error
	ListenWaits(ctx context.Context, wake func()) error
	KeepSignal(ctx context.Context, k store.KeptSignal) (store.SignalResult, error)
	DeliverKept(ctx context.Context, id string) (store.SignalResult, error)
	DueSignals(ctx context.Context, after openworkflow.Cursor, limit int) ([]string, openworkflow.Cursor, error)
	DueDecisions(ctx context.Context, steps []store.ApprovalStep) ([]int, error)
	WithdrawSignals(ctx context.Context, ids []string) error
	Workers(ctx context.Context, within time.Duration) ([]store.Worker, error)
}

var (
	_ Store = (*store.Store)(nil)
	_ Store = (*memstore.Store)(nil)
)

// onBoth executes a case on each store.
func onBoth(t *testing.T, test func(t *testing.T, s Store)) {
	t.Helper()
	t.Parallel()
	t.Run("Postgres", func(t *testing.T) {
		t.Parallel()
		test(t, postgres(t))
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, memstore.New())
	})
}

func postgres(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{URL: testpg.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// bench is a store under test, with helpers for the cases.
type bench struct {
	*testing.T
	Store
}

var served = []openworkflow.Definition{{Name: "wf"}}

const (
	minute   = time.Minute
	running  = openworkflow.StepRunning
	complete = openworkflow.StepCompleted
	fail     = openworkflow.StepFailed
)

// create creates runs of workflow "wf" and returns their ids.
func (b bench) create(n int, change ...func(*store.NewRun)) []string {
	b.Helper()
	runs := make([]store.NewRun, n)
	ids := make([]string, n)
	for i := range runs {
		ids[i] = openworkflow.NewID()
		runs[i] = store.NewRun{ID: ids[i], WorkflowName: "wf"}
		for _, c := range change {
			c(&runs[i])
		}
	}
	created, err := b.CreateRuns(b.Context(), runs)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range created {
		if c.Err != nil || !c.Inserted {
			b.Fatalf("CreateRuns: %+v", c)
		}
	}
	return ids
}

// claim claims up to n runs with leases of d.
func (b bench) claim(n int, d time.Duration) []openworkflow.Run {
	b.Helper()
	r := request(n)
	r.Lease = d
	runs, err := b.Claim(b.Context(), *r)
	if err != nil {
		b.Fatal(err)
	}
	return runs
}

func leaseOf(run openworkflow.Run) openworkflow.Lease {
	return openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}
}

// lease claims the run, which must be due.
func (b bench) lease(id string) openworkflow.Lease { return b.leaseFor(id, minute) }

func (b bench) leaseFor(id string, d time.Duration) openworkflow.Lease {
	b.Helper()
	for _, run := range b.claim(100, d) {
		if run.ID == id {
			return leaseOf(run)
		}
	}
	b.Fatalf("run %s is not due; it is %+v", id, b.run(id))
	return openworkflow.Lease{}
}

// start creates a run and claims it.
func (b bench) start(change ...func(*store.NewRun)) openworkflow.Lease {
	b.Helper()
	return b.lease(b.create(1, change...)[0])
}

// expiring is start with a lease that has run out.
func (b bench) expiring() openworkflow.Lease {
	b.Helper()
	return b.leaseFor(b.create(1)[0], -minute)
}

func (b bench) run(id string) *openworkflow.Run {
	b.Helper()
	runs, err := b.GetRuns(b.Context(), []string{id})
	if err != nil || runs[id] == nil {
		b.Fatalf("GetRuns(%s): %v, %v", id, runs, err)
	}
	return runs[id]
}

func (b bench) steps(id string) []openworkflow.StepAttempt {
	b.Helper()
	steps, err := b.LoadSteps(b.Context(), []string{id})
	if err != nil {
		b.Fatal(err)
	}
	return steps[id]
}

func (b bench) step(runID, attemptID string) openworkflow.StepAttempt {
	b.Helper()
	steps := b.steps(runID)
	i := slices.IndexFunc(steps, func(a openworkflow.StepAttempt) bool { return a.ID == attemptID })
	if i < 0 {
		b.Fatalf("run %s has no attempt %s", runID, attemptID)
	}
	return steps[i]
}

func (b bench) apply(steps []store.StepWrite, runs []store.RunWrite) (stepErrs, runErrs []error) {
	b.Helper()
	result, err := b.ApplyAndClaim(b.Context(), store.Batch{Steps: steps, Runs: runs})
	if err != nil {
		b.Fatalf("Apply: %v", err)
	}
	return result.Steps, result.Runs
}

// must applies writes that have to succeed.
func (b bench) must(steps []store.StepWrite, runs []store.RunWrite) {
	b.Helper()
	stepErrs, runErrs := b.apply(steps, runs)
	for _, err := range slices.Concat(stepErrs, runErrs) {
		if err != nil {
			b.Fatalf("write failed: %v", err)
		}
	}
}

func (b bench) mustStep(steps ...store.StepWrite) {
	b.Helper()
	b.must(steps, nil)
}

func (b bench) mustRun(w store.RunWrite) {
	b.Helper()
	b.must(nil, []store.RunWrite{w})
}

// function is a write of a function step's new attempt.
func function(l openworkflow.Lease, name string, status openworkflow.StepStatus, value string) store.StepWrite {
	w := store.StepWrite{Lease: l, Attempt: openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: name, Kind: openworkflow.KindFunction, Status: status,
	}}
	if status == fail {
		w.Attempt.Error = json.RawMessage(value)
	} else {
		w.Attempt.Output = json.RawMessage(value)
	}
	return w
}

// child is a write that starts a child.
func child(l openworkflow.Lease) store.StepWrite {
	return store.StepWrite{
		Lease: l,
		Attempt: openworkflow.StepAttempt{
			ID: openworkflow.NewID(), StepName: "child", Kind: openworkflow.KindWorkflow, Status: running,
			Context: json.RawMessage(`{"kind":"workflow","timeoutAt":"2100-01-01T00:00:00.000Z"}`),
		},
		Child: &store.NewRun{ID: openworkflow.NewID(), WorkflowName: "wf", Input: json.RawMessage(`{"of": 1}`)},
	}
}

// wait is a write that starts to wait for a signal.
func wait(l openworkflow.Lease, signal string) store.StepWrite {
	name, err := json.Marshal(signal)
	if err != nil {
		panic(err)
	}
	return store.StepWrite{Lease: l, Attempt: openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: signal, Kind: openworkflow.KindSignalWait, Status: running,
		Context: json.RawMessage(`{"kind":"signal-wait","signal":` + string(name) + `,"timeoutAt":"2100-01-01T00:00:00.000Z"}`),
	}}
}

// ended is the same attempt with this outcome.
func ended(w store.StepWrite, status openworkflow.StepStatus, value string) store.StepWrite {
	w.Child = nil
	w.Attempt.Status, w.Attempt.Output, w.Attempt.Error = status, nil, nil
	if status == fail {
		w.Attempt.Error = json.RawMessage(value)
	} else {
		w.Attempt.Output = json.RawMessage(value)
	}
	return w
}

// later is an instant after the end of the test.
func later() time.Time { return time.Now().Add(time.Hour) }

func ending(l openworkflow.Lease, op store.RunOp) store.RunWrite {
	return store.RunWrite{
		HasParent: true,
		Lease:     l, Op: op, At: later(), FinishedAt: time.Now(),
		Output: json.RawMessage(`{"done": true}`), Error: json.RawMessage(`{"message": "no"}`),
	}
}

var ops = map[string]store.RunOp{
	"park": store.RunPark, "complete": store.RunComplete, "fail": store.RunFail, "retry": store.RunRetry, "release": store.RunRelease,
}

// due reports whether a claim would take the run, by its columns.
func due(r *openworkflow.Run) bool {
	return r.AvailableAt != nil && r.AvailableAt.Before(time.Now().Add(minute/2))
}

func text(s *string) string {
	if s == nil {
		return "NULL"
	}
	return *s
}
