package workflowtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/faults"
	"github.com/openworkflow-operator/operator/internal/memstore"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/workflow"
)

// Env is an environment: a worker, and a store in memory with a clock of its own. Make one for
// each test with [New]. Its methods may be called concurrently.
type Env struct {
	t         TB
	store     *memstore.Store
	faults    *faults.Store
	startedAt time.Time

	// advance is held by the goroutine that advances the clock.
	advance sync.Mutex

	mu        sync.Mutex
	closed    bool
	mocks     map[string]func(ctx context.Context) (json.RawMessage, error)
	failures  map[string][]error
	crashes   map[crashPoint]int
	crashHook func(faults.Write) faults.Strike
	signals   []*queuedSignal
	decisions []*queuedDecision
	started   []string
}

// crashPoint is a step at whose completion the worker dies.
type crashPoint struct {
	step   string
	strike faults.Strike
}

// queuedSignal is a signal that the test will send.
type queuedSignal struct {
	store.Signal
	at time.Time // zero: once a run waits for it
}

// The worker checks for cancellations every third of heartbeat. Leases last longer than any
// test, so that a slow machine loses none.
const (
	heartbeat = 3 * time.Second
	lease     = 24 * time.Hour
	parallel  = 100
)

// New returns an environment that executes runs of the workflows, until the test ends. To
// fake a child workflow, pass another definition of the same name and version. New fails the
// test when two definitions have the same name and version.
func New(t TB, workflows ...workflow.Definition) *Env {
	t.Helper()
	env, stop := newEnv(t, nil, workflows)
	t.Cleanup(stop)
	return env
}

func newEnv(t TB, crashHook func(faults.Write) faults.Strike, workflows []workflow.Definition) (env *Env, stop func()) {
	t.Helper()
	env = &Env{
		t:         t,
		mocks:     map[string]func(context.Context) (json.RawMessage, error){},
		failures:  map[string][]error{},
		crashes:   map[crashPoint]int{},
		crashHook: crashHook,
	}
	var served []openworkflow.Definition
	definitions := make([]durable.Definition, len(workflows))
	for i, w := range workflows {
		definitions[i] = durable.DefinitionOf(w)
		served = append(served, definitions[i].Definition)
	}
	env.store = memstore.New(served...)
	env.startedAt = env.store.Now()
	env.faults = faults.New(longLeases{env.store}, env.decideCrash)
	for i, d := range definitions {
		definitions[i] = env.faults.Intercept(d, env.call)
	}
	r, err := runner.New(env.faults, definitions, runner.Options{
		Concurrency: parallel,
		Lease:       heartbeat,
		Logger:      slog.New(slog.NewTextHandler(logWriter{env}, nil)),
	})
	if err != nil {
		t.Fatalf("workflowtest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var task sync.WaitGroup
	task.Go(func() {
		if err := r.Run(ctx, 0); err != nil {
			env.errorf("workflowtest: the worker stopped: %v", err)
		}
	})
	return env, func() {
		cancel()
		task.Wait()
		env.mu.Lock()
		defer env.mu.Unlock()
		env.closed = true
	}
}

// longLeases is a store whose leases last longer than a test.
type longLeases struct{ *memstore.Store }

func (s longLeases) Claim(ctx context.Context, request store.ClaimRequest) ([]openworkflow.Run, error) {
	request.Lease = lease
	return s.Store.Claim(ctx, request)
}

func (s longLeases) Heartbeat(ctx context.Context, leases []openworkflow.Lease, _ time.Duration) ([]store.LeaseState, error) {
	return s.Store.Heartbeat(ctx, leases, lease)
}

// logWriter writes the worker's log to the log of the test, until the test has ended.
type logWriter struct{ env *Env }

func (w logWriter) Write(line []byte) (int, error) {
	w.env.mu.Lock()
	defer w.env.mu.Unlock()
	if !w.env.closed {
		w.env.t.Logf("%s", strings.TrimSuffix(string(line), "\n"))
	}
	return len(line), nil
}

// errorf fails the test, unless the test has ended.
func (env *Env) errorf(format string, args ...any) {
	env.t.Helper()
	env.mu.Lock()
	defer env.mu.Unlock()
	if !env.closed {
		env.t.Errorf(format, args...)
	}
}

// Now returns the time of the environment's clock.
func (env *Env) Now() time.Time { return env.store.Now() }

// Signal queues a signal. It is sent as soon as a run waits for it and no run can continue
// without it, and reaches all runs that wait for it then. Signals of the same name are sent in
// the order of the calls, one for each wait. The data is encoded with encoding/json.
func (env *Env) Signal(signal string, data any) {
	env.t.Helper()
	env.queueSignal(time.Time{}, signal, data)
}

// SignalAfter sends a signal when the environment's clock has advanced by d since [New]. If no
// run waits for the signal then, it is lost, as in production.
func (env *Env) SignalAfter(d time.Duration, signal string, data any) {
	env.t.Helper()
	env.queueSignal(env.startedAt.Add(d), signal, data)
}

func (env *Env) queueSignal(at time.Time, signal string, data any) {
	env.t.Helper()
	encoded, err := json.Marshal(data)
	if err != nil {
		env.t.Fatalf("workflowtest: encode the data of signal %q: %v", signal, err)
	}
	env.mu.Lock()
	defer env.mu.Unlock()
	env.signals = append(env.signals, &queuedSignal{Signal: store.Signal{Name: signal, Data: encoded}, at: at})
}

// MockStep replaces the function of each step with this durable name by fn, in all workflows of
// the environment. fn may be called concurrently.
func MockStep[T any](env *Env, name string, fn func(ctx context.Context) (T, error)) {
	env.mu.Lock()
	defer env.mu.Unlock()
	env.mocks[name] = func(ctx context.Context) (json.RawMessage, error) {
		value, err := fn(ctx)
		if err != nil {
			return nil, err
		}
		return json.Marshal(value)
	}
}

// FailStep makes the first attempts of each step with this durable name fail, one attempt for
// each error, without calling its function. Its policy decides about retries; the clock jumps
// over the delays. A second call for a name replaces the first.
func (env *Env) FailStep(name string, failures ...error) {
	env.mu.Lock()
	defer env.mu.Unlock()
	env.failures[name] = failures
}

// CrashBefore kills the worker after the function of a step with this durable name has
// returned and before its result is stored. Another worker claims the run and calls the
// function again. Each call causes one crash.
func (env *Env) CrashBefore(name string) { env.addCrash(name, faults.Before) }

// CrashAfter kills the worker after the result of a step with this durable name is stored and
// before the workflow continues. Another worker claims the run. Each call causes one crash.
func (env *Env) CrashAfter(name string) { env.addCrash(name, faults.After) }

func (env *Env) addCrash(name string, strike faults.Strike) {
	env.mu.Lock()
	defer env.mu.Unlock()
	env.crashes[crashPoint{name, strike}]++
}

// decideCrash says whether the worker dies at a write, and on which side of it.
func (env *Env) decideCrash(w faults.Write) faults.Strike {
	env.mu.Lock()
	defer env.mu.Unlock()
	for _, s := range w.Steps {
		if s.Attempt.Status != openworkflow.StepCompleted && w.Signal == nil {
			continue
		}
		for _, strike := range []faults.Strike{faults.Before, faults.After} {
			if c := (crashPoint{s.Attempt.StepName, strike}); env.crashes[c] > 0 {
				env.crashes[c]--
				return strike
			}
		}
	}
	if env.crashHook != nil {
		return env.crashHook(w)
	}
	return faults.None
}

// call calls a step's function, or its mock or failure.
func (env *Env) call(ctx context.Context, call faults.Call) (json.RawMessage, error) {
	failed, err := env.faults.BeforeCall(call.Worker, call.Run.ID, call.Step)
	if err != nil {
		if errors.Is(err, faults.ErrAgain) {
			env.errorf("workflowtest: %v", err)
		}
		return nil, err
	}
	env.mu.Lock()
	failures, mock := env.failures[call.Step], env.mocks[call.Step]
	env.mu.Unlock()
	switch {
	case failed < len(failures):
		return nil, failures[failed]
	case mock != nil:
		return mock(ctx)
	default:
		return call.Next(ctx)
	}
}

// awaitEnd advances the clock whenever all runs wait, until the run has ended.
func (env *Env) awaitEnd(id string) {
	env.t.Helper()
	ctx := context.Background()
	if t, ok := env.t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := t.Deadline(); ok {
			const report = time.Second
			var cancel func()
			ctx, cancel = context.WithDeadline(ctx, deadline.Add(-report))
			defer cancel()
		}
	}
	env.advance.Lock()
	defer env.advance.Unlock()
	for {
		ended, err := env.store.AwaitIdle(ctx, id)
		switch {
		case ended:
			return
		case err != nil:
			env.t.Fatalf("workflowtest: the test's time is up, and a step has not returned:\n%s", env.describe())
		}
		if missing := env.store.Unserved(); len(missing) > 0 {
			env.t.Fatalf("workflowtest: workflow %q was started, but the environment does not serve it: "+
				"give New its definition, or a fake of that name and version", missing[0])
		}
		if env.deliverAwaited() || env.decideAwaited() {
			continue
		}
		if !env.store.Advance(env.nextSignal()) {
			env.t.Fatalf("workflowtest: run %s waits for what never comes:\n%s", id, env.describe())
		}
		env.deliverDue()
	}
}

// deliverAwaited sends the first queued signal without a time that a run waits for.
func (env *Env) deliverAwaited() bool {
	for i, signal := range env.queuedSignals() {
		if signal.at.IsZero() && env.store.Waiting(signal.Name) {
			env.deliver(i)
			return true
		}
	}
	return false
}

// deliverDue sends the queued signals that are due.
func (env *Env) deliverDue() {
	now := env.store.Now()
	for {
		next := -1
		signals := env.queuedSignals()
		for i, signal := range signals {
			if !signal.at.IsZero() && !signal.at.After(now) && (next < 0 || signal.at.Before(signals[next].at)) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		env.deliver(next)
	}
}

// nextSignal returns the earliest time of a queued signal, zero when none has one.
func (env *Env) nextSignal() (at time.Time) {
	for _, signal := range env.queuedSignals() {
		if !signal.at.IsZero() && (at.IsZero() || signal.at.Before(at)) {
			at = signal.at
		}
	}
	return at
}

func (env *Env) queuedSignals() []*queuedSignal {
	env.mu.Lock()
	defer env.mu.Unlock()
	return append([]*queuedSignal(nil), env.signals...)
}

// deliver sends queued signal i.
func (env *Env) deliver(i int) {
	env.t.Helper()
	env.mu.Lock()
	signal := env.signals[i]
	env.signals = append(env.signals[:i:i], env.signals[i+1:]...)
	env.mu.Unlock()
	if _, err := env.store.SendSignals(context.Background(), []store.Signal{signal.Signal}); err != nil {
		env.t.Fatalf("workflowtest: send signal %q: %v", signal.Name, err)
	}
	env.notify()
}

func (env *Env) notify() {
	_ = env.store.Notify(context.Background())
	_ = env.store.NotifyEnds(context.Background())
}

// describe lists the runs of the environment and their steps, for a failure's message.
func (env *Env) describe() string {
	var b strings.Builder
	runs := env.store.Runs()
	for _, r := range runs {
		fmt.Fprintf(&b, "  %s of %s is %s\n", r.ID, r.WorkflowName, r.Status)
		for _, s := range env.steps(r.ID) {
			fmt.Fprintf(&b, "    %s\n", s)
		}
	}
	return b.String()
}
