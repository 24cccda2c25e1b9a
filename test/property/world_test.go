package property

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/faults"
	"github.com/openworkflow-operator/operator/internal/memstore"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
)

// database is what an execution of a program happens on.
type database interface {
	runner.Store
	CreateRuns(ctx context.Context, runs []store.NewRun) ([]store.Created, error)
	GetRuns(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error)
}

// world executes programs on databases of one kind.
type world struct {
	*interpreter
	// open returns an empty database, and what waits until a run on it has ended.
	open func(served []openworkflow.Definition) (db database, wait func(ctx context.Context, id string) error, done func(), err error)
	// patience is how long one execution may take.
	patience time.Duration
	options  runner.Options
}

// execution is what became of a program once.
type execution struct {
	// outcome is the result of the run, in words.
	outcome string
	// writes counts the writes of all runs.
	writes int
}

// execute executes a program, with workers that die as strike says. The error says
// which promise was broken.
func (w *world) execute(p Program, strike func(faults.Write) faults.Strike) (execution, error) {
	var e execution
	definitions := make([]durable.Definition, 0, 3)
	var served []openworkflow.Definition
	for _, d := range w.workflows() {
		definitions = append(definitions, durable.DefinitionOf(d))
		served = append(served, durable.DefinitionOf(d).Definition)
	}
	db, wait, done, err := w.open(served)
	if err != nil {
		return e, err
	}
	defer done()
	var mu sync.Mutex
	var broken error
	f := faults.New(db, func(write faults.Write) faults.Strike {
		mu.Lock()
		defer mu.Unlock()
		e.writes++
		return strike(write)
	})
	for i, d := range definitions {
		definitions[i] = f.Intercept(d, func(ctx context.Context, call faults.Call) (json.RawMessage, error) {
			failed, err := f.BeforeCall(call.Worker, call.Run.ID, call.Step)
			if err != nil {
				if errors.Is(err, faults.ErrAgain) {
					mu.Lock()
					defer mu.Unlock()
					broken = err
				}
				return nil, err
			}
			return call.Next(context.WithValue(ctx, failedKey{}, failed))
		})
	}
	r, err := runner.New(f, definitions, w.options)
	if err != nil {
		return e, err
	}
	ctx, stop := context.WithTimeout(context.Background(), w.patience)
	defer stop()
	var task sync.WaitGroup
	task.Go(func() { _ = r.Run(ctx, 0) })
	defer func() {
		stop()
		task.Wait()
	}()

	id, err := w.start(ctx, db, p)
	if err != nil {
		return e, err
	}
	if err := wait(ctx, id); err != nil {
		return e, fmt.Errorf("the run has not ended: %w\n%s", err, describe(db, id))
	}
	runs, err := db.GetRuns(context.WithoutCancel(ctx), []string{id})
	if err != nil {
		return e, err
	}
	steps, err := db.LoadSteps(context.WithoutCancel(ctx), []string{id})
	if err != nil {
		return e, err
	}
	mu.Lock()
	defer mu.Unlock()
	e.outcome = outcome(runs[id])
	return e, errors.Join(broken, completedOnce(steps[id]))
}

// start starts the program, and what sends it signals.
func (w *world) start(ctx context.Context, db database, p Program) (id string, err error) {
	id = openworkflow.NewID()
	runs := []store.NewRun{{ID: id, WorkflowName: w.workflowOf(p).Name()}}
	if runs[0].Input, err = json.Marshal(p); err != nil {
		return "", err
	}
	for signal, value := range p.sent() {
		input, err := json.Marshal(message{signal, value})
		if err != nil {
			return "", err
		}
		runs = append(runs, store.NewRun{WorkflowName: w.sender.Name(), Input: input})
	}
	created, err := db.CreateRuns(ctx, runs)
	for _, c := range created {
		err = errors.Join(err, c.Err)
	}
	if err != nil {
		return "", err
	}
	return id, db.Notify(ctx)
}

func outcome(r *openworkflow.Run) string {
	if r.Status == openworkflow.RunCompleted {
		return "completed " + string(r.Output)
	}
	failure := openworkflow.DecodeError(r.Error)
	return fmt.Sprintf("%s after %d failures of its own: %s: %s", r.Status, r.Failures, failure.Name, failure.Message)
}

func completedOnce(steps []openworkflow.StepAttempt) error {
	completed := map[string]bool{}
	for _, a := range steps {
		if a.Status == openworkflow.StepCompleted && completed[a.StepName] {
			return fmt.Errorf("step %q has completed twice", a.StepName)
		}
		completed[a.StepName] = completed[a.StepName] || a.Status == openworkflow.StepCompleted
	}
	return nil
}

// describe says how far a run is.
func describe(db database, id string) string {
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	runs, err := db.GetRuns(ctx, []string{id})
	if err != nil || runs[id] == nil {
		return fmt.Sprint("the run cannot be read: ", err)
	}
	text := fmt.Sprintf("run is %s, held %v, due %v", runs[id].Status, runs[id].WorkerID != nil, runs[id].AvailableAt)
	steps, err := db.LoadSteps(ctx, []string{id})
	if err != nil {
		return text
	}
	for _, a := range steps[id] {
		text += fmt.Sprintf("\n  %s %q is %s: %s %s %s", a.Kind, a.StepName, a.Status, a.Context, a.Output, a.Error)
	}
	return text
}

// newMemory is the world in which time is skipped.
func newMemory() *world {
	return &world{
		interpreter: newInterpreter(time.Minute),
		patience:    time.Minute,
		// Nothing may depend on the poll.
		options: runner.Options{Lease: time.Hour, PollInterval: time.Hour, Logger: slog.New(slog.DiscardHandler)},
		open: func(served []openworkflow.Definition) (database, func(context.Context, string) error, func(), error) {
			db := memstore.New(served...)
			return db, func(ctx context.Context, id string) error {
				for {
					ended, err := db.AwaitIdle(ctx, id)
					if ended || err != nil {
						return err
					}
					if !db.Advance(time.Time{}) {
						return errors.New("it waits for nothing")
					}
				}
			}, func() {}, nil
		},
	}
}

// listener is a database that says when runs end.
type listener interface {
	database
	ListenEnds(ctx context.Context, wake func()) error
}

// awaitEnd waits for the end of a run on a database that has real time.
func awaitEnd(ctx context.Context, db listener, id string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ends := make(chan struct{}, 1)
	var task sync.WaitGroup
	defer func() {
		stop()
		task.Wait()
	}()
	task.Go(func() {
		_ = db.ListenEnds(ctx, func() {
			select {
			case ends <- struct{}{}:
			default:
			}
		})
	})
	const net = 100 * time.Millisecond // below the notifications
	ticker := time.NewTicker(net)
	defer ticker.Stop()
	for {
		runs, err := db.GetRuns(ctx, []string{id})
		if err != nil {
			return err
		}
		if runs[id].Status.Terminal() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ends:
		case <-ticker.C:
		}
	}
}

// strikeAt kills the worker at one write.
func strikeAt(at int, how faults.Strike) func(faults.Write) faults.Strike {
	seen := 0
	return func(faults.Write) faults.Strike {
		if seen++; seen != at {
			return faults.None
		}
		return how
	}
}

// storm kills a worker before and after everything that is written.
func storm() func(faults.Write) faults.Strike {
	left := map[string][]faults.Strike{}
	return func(w faults.Write) faults.Strike {
		what := w.RunID + " " + w.String()
		strikes, known := left[what]
		if !known {
			strikes = []faults.Strike{faults.Before, faults.After}
			if w.Claim {
				strikes = []faults.Strike{faults.After}
			}
		}
		if len(strikes) == 0 {
			return faults.None
		}
		left[what] = strikes[1:]
		return strikes[0]
	}
}

func undisturbed(faults.Write) faults.Strike { return faults.None }

// kinds lists the kinds of nodes of a program, for a test's coverage.
func (p Program) kinds() (all []Op) {
	var collect func(nodes []Node)
	collect = func(nodes []Node) {
		for _, n := range nodes {
			if !slices.Contains(all, n.Op) {
				all = append(all, n.Op)
			}
			collect(n.Branches)
			if n.Child != nil {
				collect(n.Child.Nodes)
			}
		}
	}
	collect(p.Nodes)
	return all
}
