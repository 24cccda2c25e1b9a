package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/workflow"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(workerURLVariable); url != "" {
		if err := runWorkerProcess(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testpg.Main(m)
}

// bench is a test with its own database and a store on it.
type bench struct {
	*testing.T
	url   string
	store *store.Store
}

func newBench(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	return benchOn(t, testpg.New(t))
}

func benchOn(t *testing.T, url string) *bench {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &bench{T: t, url: url, store: s}
}

// in returns the bench for a subtest.
func (b *bench) in(t *testing.T) *bench { return &bench{T: t, url: b.url, store: b.store} }

// work starts a runner of these workflows, and returns a function that stops it.
func (b *bench) work(options runner.Options, workflows ...workflow.Definition) (r *runner.Runner, stop func()) {
	b.Helper()
	return b.workOn(b.store, options, workflows...)
}

func (b *bench) workOn(s runner.Store, options runner.Options, workflows ...workflow.Definition) (r *runner.Runner, stop func()) {
	b.Helper()
	if options.Logger == nil {
		options.Logger = slog.New(slog.NewTextHandler(b.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r, err := runner.New(s, definitions(workflows...), options)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var task sync.WaitGroup
	task.Go(func() {
		if err := r.Run(ctx, 10*time.Second); err != nil {
			b.Errorf("Run returned %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		task.Wait()
	})
	b.Cleanup(stop)
	return r, stop
}

func definitions(workflows ...workflow.Definition) []durable.Definition {
	definitions := make([]durable.Definition, len(workflows))
	for i, w := range workflows {
		definitions[i] = durable.DefinitionOf(w)
	}
	return definitions
}

// start creates a run and returns its id.
func (b *bench) start(w workflow.Definition, input string, change ...func(*store.NewRun)) string {
	b.Helper()
	run := store.NewRun{ID: openworkflow.NewID(), WorkflowName: w.Name(), Input: json.RawMessage(input)}
	if v := w.Version(); v != "" {
		run.Version = &v
	}
	for _, c := range change {
		c(&run)
	}
	created, err := b.store.CreateRuns(b.Context(), []store.NewRun{run})
	if err != nil || created[0].Err != nil {
		b.Fatalf("create run: %v %v", err, created)
	}
	return created[0].RunID
}

// await waits until the run's row is as asked, and returns it.
func (b *bench) await(id, what string, ok func(*openworkflow.Run) bool) *openworkflow.Run {
	b.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(60 * time.Second)
	var last *openworkflow.Run
	for {
		runs, err := b.store.GetRuns(b.Context(), []string{id})
		if err == nil {
			last = runs[id]
			if last != nil && ok(last) {
				return last
			}
		}
		select {
		case <-ticker.C:
		case <-deadline:
			b.Fatalf("gave up waiting for run %s to be %s; it is %+v (%v)", id, what, last, err)
		}
	}
}

// result waits until the run has ended, and returns it.
func (b *bench) result(id string) *openworkflow.Run {
	b.Helper()
	return b.await(id, "ended", func(r *openworkflow.Run) bool { return r.Status.Terminal() })
}

// completed waits until the run has completed, and returns its output.
func (b *bench) completed(id string) string {
	b.Helper()
	run := b.result(id)
	if run.Status != openworkflow.RunCompleted {
		b.Fatalf("run is %s with error %s, want completed", run.Status, run.Error)
	}
	return string(run.Output)
}

// failed waits until the run has failed, and returns its error.
func (b *bench) failed(id string) openworkflow.Error {
	b.Helper()
	run := b.result(id)
	if run.Status != openworkflow.RunFailed {
		b.Fatalf("run is %s with output %s, want failed", run.Status, run.Output)
	}
	return openworkflow.DecodeError(run.Error)
}

func (b *bench) steps(id string) []openworkflow.StepAttempt {
	b.Helper()
	steps, err := b.store.LoadSteps(b.Context(), []string{id})
	if err != nil {
		b.Fatal(err)
	}
	return steps[id]
}

// calls counts what the steps of a test have done.
type calls struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *calls) add(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[name]++
	return c.n[name]
}

func (c *calls) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[name]
}

// receive waits for what a goroutine under test sends.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(60 * time.Second):
		t.Fatalf("gave up waiting for %s", what)
		panic("unreachable")
	}
}
