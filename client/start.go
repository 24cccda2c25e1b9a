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

// StartOption is an option of [Start], [StartTx] and [StartBatch], and of [Fork] and [Retry].
type StartOption interface {
	ForkOption
	start(run *store.NewRun) error
}

type startOption func(run *store.NewRun) error

func (o startOption) start(run *store.NewRun) error { return o(run) }

// KeyOption is returned by [IdempotencyKey]. It is an option of starts, forks and signals.
type KeyOption string

// IdempotencyKey makes a repeated start or signal take effect once. The key must not be empty.
//
//   - Start: if a run of the same workflow, in any version, was created with this key within the
//     last 24 hours, the call returns that run, whatever its input and status (R51).
//   - Signal: if a signal of the same name was delivered with this key before, the call delivers
//     nothing and returns the recipients of that time (R104). A signal that reached no run does
//     not use up its key.
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

// ID sets the id of the run. Default: a new UUID. If a run with this id exists in the namespace,
// the start returns that run, however old it is and whatever its workflow. The id must not be
// empty.
//
// An id that is not a UUID counts as a key for a Backend's retention, which keeps such runs for
// longer (idempotencyKeyTTLSeconds).
func ID(id string) StartOption {
	return startOption(func(run *store.NewRun) error {
		if id == "" {
			return errors.New("the id is empty")
		}
		run.ID = id
		return nil
	})
}

// Delay starts the execution of the run no sooner than d after its creation, by the clock of the
// database.
func Delay(d time.Duration) StartOption {
	return startOption(func(run *store.NewRun) error {
		run.AvailableAt, run.Delay = nil, max(d, 0)
		return nil
	})
}

// At starts the execution of the run no sooner than at t, in the years 1 to 9999.
func At(t time.Time) StartOption {
	return startOption(func(run *store.NewRun) error {
		run.AvailableAt, run.Delay = &t, 0
		return checkYear("At", t)
	})
}

// Deadline fails the run if it has not ended at t, in the years 1 to 9999. The contexts of its steps
// then end with workflow.ErrDeadlineExceeded.
func Deadline(t time.Time) StartOption {
	return startOption(func(run *store.NewRun) error {
		run.DeadlineAt = &t
		return checkYear("Deadline", t)
	})
}

// checkYear refuses a time that Kubernetes, JSON or OpenWorkflow's clients cannot represent. For ever
// is no deadline.
func checkYear(option string, t time.Time) error {
	if year := t.UTC().Year(); year < 1 || year > 9999 {
		return fmt.Errorf("%s: the time %v is not in the years 1 to 9999", option, t.UTC())
	}
	return nil
}

// Start starts a run of the workflow. When it returns without an error, the run is stored, and
// is executed as soon as a worker serves the workflow. Use [workflow.Declare] for a workflow
// that another program implements. The input is encoded with encoding/json.
//
// Concurrent starts without an ID or IdempotencyKey share a transaction. Each still succeeds or
// fails on its own.
//
// If the error is [ErrUnreachable], the run may have been stored. With an ID or IdempotencyKey,
// the call can be repeated safely.
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

// StartTx starts a run within the caller's transaction, as a transactional outbox: the run
// exists if and only if the transaction commits. The transaction must be on the client's
// database, and its role must be allowed to write OpenWorkflow's tables.
//
// StartTx does not notify workers, because transactions that notify commit one after the other.
// Call [Client.Wake] after the commit; without it, workers find the run within a second. Before
// the commit, the Handle's Result returns [ErrNotFound].
//
// A failed StartTx aborts the transaction, like any failed statement. With an IdempotencyKey,
// the isolation level must be read committed (Postgres's default), and other starts with the key
// wait until the transaction ends, for up to half a minute.
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

// Item is one run of [StartBatch].
type Item[In any] struct {
	Input In
	// Options are options of this run, applied after those of the batch.
	Options []StartOption
}

// Started is the result of an Item: a Handle, or an error.
type Started[Out any] struct {
	*Handle[Out]
	Err error
}

// StartBatch starts a run for each item with one statement, and returns the results in the order
// of the items. An item that cannot be stored has an error; the others are started. The options
// apply to all items.
//
// If StartBatch itself returns an error, the database failed, and some of the runs may have been
// started. With IDs or IdempotencyKeys, the call can be repeated safely.
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
	created, err := bounded(ctx, func(ctx context.Context) ([]store.Created, error) {
		return c.store.CreateRuns(ctx, rows)
	})
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
