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
	// uncounted deaths set no run aside. A storm strikes a run more often than it may kill its
	// worker, and only where time is skipped may it be set aside for a minute.
	uncounted bool
	// graves are the processes that have stopped and whose goroutines have not ended.
	graves sync.WaitGroup
}

// faultPlan says when workers die.
type faultPlan struct {
	// strike kills the worker of one run, at one of its writes.
	strike func(faults.Write) faults.Strike
	// die stops the whole process without an error, at a transaction; the container is started
	// again.
	die func(writes []faults.Write) faults.Strike
}

// execution is what became of a program once.
type execution struct {
	// outcome is the result of the run, in words.
	outcome string
	// writes counts the writes of all runs, and transactions those with at least one.
	writes, transactions int
	// deaths counts the processes that stopped.
	deaths int
}

// execute executes a program, with workers that die as planned. The error says which promise was
// broken.
func (w *world) execute(p Program, plan faultPlan) (e execution, err error) {
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
	// A process that has stopped may still be about to write when the run has ended.
	var mu sync.Mutex
	var writes, transactions int
	var broken error
	f := faults.New(db, func(write faults.Write) faults.Strike {
		mu.Lock()
		defer mu.Unlock()
		writes++
		return plan.strike(write)
	})
	pod := &pod{world: w, faults: f, definitions: definitions, uid: openworkflow.NewID()}
	pod.die = func(writes []faults.Write) faults.Strike {
		mu.Lock()
		defer mu.Unlock()
		transactions++
		return plan.die(writes)
	}
	pod.broken = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		broken = err
	}
	ctx, stop := context.WithTimeout(context.Background(), w.patience)
	defer stop()
	var container sync.WaitGroup
	container.Go(func() { pod.run(ctx) })
	defer func() {
		stop()
		container.Wait()
		e.deaths = pod.deaths
		if pod.deaths == 0 {
			pod.processes.Wait()
			done()
			return
		}
		w.graves.Go(func() { // a process without its database takes a second to end
			pod.processes.Wait()
			done()
		})
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
	e.outcome, e.writes, e.transactions = outcome(runs[id]), writes, transactions
	return e, errors.Join(broken, completedOnce(steps[id]))
}

// pod is a worker whose container is started again when its process stops.
type pod struct {
	*world
	faults      *faults.Store
	definitions []durable.Definition
	uid         string
	die         func(writes []faults.Write) faults.Strike
	broken      func(err error) // called when a step is executed again

	processes sync.WaitGroup
	deaths    int // to be read when run has returned
}

// run runs one process after the other, until ctx ends.
func (p *pod) run(ctx context.Context) {
	for {
		process := p.faults.Process(p.die)
		process.Uncounted = p.uncounted
		options := p.options
		options.PodUID = p.uid
		r, err := runner.New(process, p.intercepted(process), options)
		if err != nil {
			p.broken(err)
			return
		}
		life, kill := context.WithCancel(ctx)
		p.processes.Go(func() { _ = r.Run(life, 0) })
		select {
		case <-ctx.Done():
			kill()
			return
		case <-process.Stopped():
			kill()
			process.AwaitCalls()
			p.deaths++
		}
	}
}

// intercepted returns the definitions with functions that are called only as long as the process
// lives, and that may not be called once their completion is stored.
func (p *pod) intercepted(process *faults.Process) []durable.Definition {
	definitions := slices.Clone(p.definitions)
	for i, d := range definitions {
		definitions[i] = p.faults.Intercept(d, func(ctx context.Context, call faults.Call) (json.RawMessage, error) {
			failed, err := p.faults.BeforeCall(call.Worker, call.Run.ID, call.Step)
			switch {
			case process.Dead(): // then another process may have completed the step meanwhile
				return nil, faults.ErrDead
			case errors.Is(err, faults.ErrAgain):
				p.broken(err)
			}
			if err != nil {
				return nil, err
			}
			return call.Next(context.WithValue(ctx, failedKey{}, failed))
		})
	}
	return definitions
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
		options: runner.Options{Lease: time.Hour, PollInterval: time.Hour, MaxWorkerDeaths: 1000, Logger: slog.New(slog.DiscardHandler)},
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

// strikes are the deaths that everything that is written meets in a storm, one after the other.
// What a run survives without progress depends on their number.
var strikes = []faults.Strike{faults.Before, faults.After}

var undisturbed = faultPlan{
	strike: func(faults.Write) faults.Strike { return faults.None },
	die:    func([]faults.Write) faults.Strike { return faults.None },
}

// strikeAt kills the worker of a run at one write.
func strikeAt(at int, how faults.Strike) faultPlan {
	plan := undisturbed
	seen := 0
	plan.strike = func(faults.Write) faults.Strike {
		if seen++; seen != at {
			return faults.None
		}
		return how
	}
	return plan
}

// dieAt stops the process at one transaction.
func dieAt(at int, how faults.Strike) faultPlan {
	plan := undisturbed
	seen := 0
	plan.die = func([]faults.Write) faults.Strike {
		if seen++; seen != at {
			return faults.None
		}
		return how
	}
	return plan
}

// storm kills the worker of a run before and after everything that is written.
func storm() faultPlan {
	plan, left := undisturbed, strikesLeft{}
	plan.strike = left.next
	return plan
}

// stops stops the process before and after everything that is written.
func stops() faultPlan {
	plan, left := undisturbed, strikesLeft{}
	plan.die = func(writes []faults.Write) faults.Strike {
		how := faults.None
		for _, w := range writes {
			if how == faults.None {
				how = left.next(w)
			}
		}
		return how
	}
	return plan
}

// strikesLeft are those that a write has not met, by what it writes.
type strikesLeft map[string][]faults.Strike

func (left strikesLeft) next(w faults.Write) faults.Strike {
	what := w.RunID + " " + w.String()
	rest, known := left[what]
	if !known {
		rest = strikes
		if w.Claim {
			rest = []faults.Strike{faults.After}
		}
	}
	if len(rest) == 0 {
		return faults.None
	}
	left[what] = rest[1:]
	return rest[0]
}

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
