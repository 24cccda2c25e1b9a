package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
	"github.com/openworkflow-operator/operator/workflow"
)

// idempotencyWindow is how long a run keeps its idempotency key (R51).
const idempotencyWindow = 24 * time.Hour

// StartOption changes how a run is started.
type StartOption interface{ start(run *store.NewRun) error }

type startOption func(run *store.NewRun) error

func (o startOption) start(run *store.NewRun) error { return o(run) }

// KeyOption is the option that IdempotencyKey returns.
type KeyOption string

// IdempotencyKey makes a start or a signal happen once, however often it is asked for:
//
//   - A start with the key of a run of the same workflow (of any version) that was
//     created within the last 24 hours returns that run, whatever its input and
//     whatever has become of it.
//   - A signal with the key of a signal of the same name that was delivered before
//     delivers nothing and returns the recipients of then. A key whose signal reached
//     nobody is not used up.
func IdempotencyKey(key string) KeyOption { return KeyOption(key) }

var errEmptyKey = errors.New("the idempotency key is empty")

func (o KeyOption) start(run *store.NewRun) error {
	if o == "" {
		return errEmptyKey
	}
	run.IdempotencyKey, run.KeyWindow = new(string(o)), idempotencyWindow
	return nil
}

func (o KeyOption) signal(signal *store.Signal) error {
	if o == "" {
		return errEmptyKey
	}
	signal.IdempotencyKey = new(string(o))
	return nil
}

// ID sets the run's id, which is a new UUID otherwise. A start with the id of a run that
// exists returns that run, however old, so an id must not be used for another purpose. A
// Backend's retention takes an id that is no UUID for a key, which it keeps for longer.
func ID(id string) StartOption {
	return startOption(func(run *store.NewRun) error {
		if id == "" {
			return errors.New("the id is empty")
		}
		run.ID = id
		return nil
	})
}

// Delay lets the run begin no sooner than after d, by this machine's clock.
func Delay(d time.Duration) StartOption {
	return startOption(func(run *store.NewRun) error {
		run.AvailableAt = new(time.Now().Add(d))
		return nil
	})
}

// At lets the run begin no sooner than t.
func At(t time.Time) StartOption {
	return startOption(func(run *store.NewRun) error {
		run.AvailableAt = &t
		return nil
	})
}

// Deadline fails the run if it has not ended by t. It also ends the contexts of its
// steps then.
func Deadline(t time.Time) StartOption {
	return startOption(func(run *store.NewRun) error {
		run.DeadlineAt = &t
		return nil
	})
}

// Start starts a run of the workflow with this input. Once it has returned, the run is
// stored and will be executed by a worker that serves the workflow, now or whenever
// there is one. The workflow may be defined in this program, or declared
// (workflow.Declare) when another program or language implements it.
//
// Starts at the same time share transactions, without an ID or an IdempotencyKey, and each
// succeeds or fails by itself.
//
// When the error is ErrUnreachable the run may have been stored: repeat the call with
// the same ID or IdempotencyKey.
func Start[In, Out any](ctx context.Context, c *Client, w *workflow.Workflow[In, Out], in In, options ...StartOption) (*Handle[Out], error) {
	ctx, run, err := prepare(ctx, c, w, in, options)
	if err != nil {
		return nil, err
	}
	created, err := c.batcher.create(ctx, run)
	if err != nil {
		return nil, run.failed(err)
	}
	return handle[Out](c, run.started(created)), nil
}

// StartTx is Start as a part of a transaction of yours: the run exists if and only if
// the transaction commits, together with whatever else it writes (the pattern is called
// a transactional outbox). The transaction must be on the client's database, and its
// role must be allowed to write OpenWorkflow's tables.
//
// Workers are not told, as a notification that is part of a transaction would hold up
// all others. Call Client.Wake after the commit, or let the workers find the run,
// within a second. Before the commit, the Handle's Result is ErrNotFound.
//
// A failed StartTx fails the transaction, like any failed statement. An idempotency key
// needs the isolation level read committed, Postgres's default, and other starts with
// the key wait for the end of the transaction.
func StartTx[In, Out any](
	ctx context.Context, c *Client, tx pgx.Tx, w *workflow.Workflow[In, Out], in In, options ...StartOption,
) (*Handle[Out], error) {
	ctx, run, err := prepare(ctx, c, w, in, options)
	if err != nil {
		return nil, err
	}
	created, err := c.store.CreateRunsIn(ctx, tx, []store.NewRun{run.NewRun})
	if err != nil {
		return nil, run.failed(err)
	}
	return handle[Out](c, run.started(created[0])), nil
}

// Item is one run of a batch.
type Item[In any] struct {
	Input In
	// Options are this run's, on top of those of the batch.
	Options []StartOption
}

// Started is what has become of an Item: a handle, or an error.
type Started[Out any] struct {
	*Handle[Out]
	Err error
}

// StartBatch starts a run for each of the items, all in one statement, and returns what
// has become of each, in their order. An item that cannot be stored has an error and
// does not keep the others from being started. The options apply to all. An error of the call
// itself means trouble with the database; some may have been started then, so repeat
// it with the same IDs or IdempotencyKeys.
func StartBatch[In, Out any](
	ctx context.Context, c *Client, w *workflow.Workflow[In, Out], items []Item[In], options ...StartOption,
) ([]Started[Out], error) {
	results := make([]Started[Out], len(items))
	var runs []newRun
	var rows []store.NewRun
	var at []int // index in runs → index in results
	for i, item := range items {
		_, run, err := prepare(ctx, c, w, item.Input, options, item.Options)
		if err != nil {
			results[i].Err = err
			continue
		}
		runs, rows, at = append(runs, run), append(rows, run.NewRun), append(at, i)
	}
	created, err := c.store.CreateRuns(ctx, rows)
	if err != nil {
		for _, run := range runs {
			_ = run.failed(err)
		}
		return nil, startError(w.Name(), err)
	}
	for i, run := range runs {
		if err := created[i].Err; err != nil {
			results[at[i]].Err = run.failed(err)
			continue
		}
		results[at[i]].Handle = handle[Out](c, run.started(created[i]))
	}
	return results, nil
}

// newRun is a run about to be created, and the span of its creation.
type newRun struct {
	store.NewRun
	// unique is true when the id was generated for this run and it has no key, so that
	// its creation cannot conflict with another.
	unique bool
	span   tracing.Span
}

// prepare builds the run that the arguments describe and starts its span. The caller ends
// the span with failed or started.
func prepare[In, Out any](
	ctx context.Context, c *Client, w *workflow.Workflow[In, Out], in In, options ...[]StartOption,
) (context.Context, newRun, error) {
	id := openworkflow.NewID()
	run := newRun{NewRun: store.NewRun{ID: id, WorkflowName: w.Name(), Version: durable.DefinitionOf(w).Version}}
	for _, option := range slices.Concat(options...) {
		if err := option.start(&run.NewRun); err != nil {
			return ctx, run, startError(w.Name(), err)
		}
	}
	input, err := json.Marshal(in)
	if err != nil {
		return ctx, run, startError(w.Name(), fmt.Errorf("encode the input: %w", err))
	}
	run.Input = input
	run.unique = run.ID == id && run.IdempotencyKey == nil

	ctx, run.span = c.tracer.StartCreate(ctx, tracing.Creation{
		Workflow: durable.DefinitionOf(w).Definition, NamespaceID: c.namespace, RunID: run.ID,
	})
	if carrier := c.tracer.Carrier(ctx); carrier != nil { // R160
		run.Context = openworkflow.RunContext{TraceContext: carrier}.Encode()
	}
	return ctx, run, nil
}

// failed ends the span of a run that was not created, and returns the error for the caller.
func (r newRun) failed(err error) error {
	r.span.End("", err)
	return startError(r.WorkflowName, err)
}

// started ends the span of a run that was created.
func (r newRun) started(created store.Created) store.Created {
	r.span.SetRun(created.RunID)
	r.span.End("", nil)
	return created
}

func startError(name string, err error) error { return fmt.Errorf("start workflow %q: %w", name, err) }
