package store

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// StepWrite records a step attempt of a leased run (R46).
type StepWrite struct {
	openworkflow.Lease
	// Attempt's ID, StepName, Kind, Status, Context, Output and Error are used.
	// Status running inserts the row; completed and failed end it, inserting it
	// first when no running row was written. An attempt's id belongs to one
	// attempt for ever.
	Attempt openworkflow.StepAttempt
	// New says that no write of the attempt was ever sent, so that none needs to be looked
	// for. Where that is wrong, the call finds out, and takes longer.
	New bool
	// Elapsed is how long ago the attempt started: its started_at is the server's
	// now less Elapsed when this write inserts the row.
	Elapsed time.Duration
	// Child, not nil, is a run to create in the same transaction for an attempt of
	// kind workflow, and to link with it in both directions (R98c). Its ID is
	// required; WorkflowName, Version, Input and Context are used. It is due now. An
	// attempt that has a child keeps it, and one that exists without gets the run that
	// was created for it, if there is one.
	Child *NewRun
}

// RunOp is what a RunWrite does with a leased run (R42).
type RunOp int

// Every RunOp ends the lease. A suspended run that does not end with it is set
// aside until ResumeRuns, whatever the operation says about when it is due.
const (
	// RunPark sets the run aside until At, or until it is woken.
	RunPark RunOp = iota
	// RunComplete ends the run with Output.
	RunComplete
	// RunFail ends the run with Error.
	RunFail
	// RunRetry makes the run pending again at At, with Error.
	RunRetry
	// RunRelease hands the run back, due now.
	RunRelease
)

// String returns the operation's name, by which runsSQL knows it.
func (op RunOp) String() string {
	return [...]string{RunPark: "park", RunComplete: "complete", RunFail: "fail", RunRetry: "retry", RunRelease: "release"}[op]
}

// RunWrite ends a lease.
type RunWrite struct {
	openworkflow.Lease
	Op RunOp
	// At is when a parked run is due, or a retried one. Zero means now.
	At     time.Time
	Output json.RawMessage
	Error  json.RawMessage
	// FinishedAt is when the run failed, by the caller's clock (R7). Zero means
	// now by the server's.
	FinishedAt time.Time
	// Failure says that the workflow itself has failed: a RunRetry or RunFail with
	// it is counted in the run's Failures.
	Failure bool
	// HasParent says that the run is a child: its end wakes the parent.
	HasParent bool
}

// ApplyAndClaim writes step attempts, then ends leases, then claims, in one transaction
// and one round trip. Each write succeeds or fails by itself, and its result stands at its
// index in stepErrs or runErrs: nil, ErrLeaseLost, or what is wrong with its own
// values (ErrInvalidJSON, ErrTooLarge). When a step write has such a fault, a
// run write for the same lease is not carried out and has the same result.
//
// A child is created and linked together with its attempt, or neither is. Ends of runs
// that have parents wake those that wait for them in the same transaction (R82). Of all
// that, listeners are notified as hints says. A run that parks although what it waits for
// has come is made due (R83), and listeners are notified of that in any case.
//
// The claim, if one is requested, is Claim: whoever ends runs takes the next ones with
// them. It may claim fewer than there are; none when a write has a fault of its own.
//
// The error err means trouble with the database itself: it is unknown whether
// anything was written, and the caller repeats the same call. Repeated writes
// change nothing: those of steps and RunComplete report success again. RunPark,
// RunFail, RunRetry and RunRelease leave no trace of the worker id behind, so
// after a first success they report ErrLeaseLost; in either case the lease is
// over. With an error it returns what is claimed for certain. A call is repeated without
// the request, whose worker ids may be used: what has been claimed and was not returned
// is due again when its lease ends.
func (s *Store) ApplyAndClaim(
	ctx context.Context, steps []StepWrite, runs []RunWrite, request *ClaimRequest, hints Hints,
) (stepErrs, runErrs []error, claimed []openworkflow.Run, err error) {
	c := s.newClaim(request)
	stepErrs, runErrs, err = s.applyOnce(ctx, steps, runs, c, hints)
	if err == nil && c != nil {
		c.advanceCursors(s)
		claimed = c.runs
	}
	if err != nil && (isValueError(err) || isUniqueViolation(err)) {
		if stepErrs, runErrs, err = s.applyBisecting(ctx, steps, runs); err == nil {
			_ = s.notify(ctx, hints) // a poll finds what nobody was told of
		}
	}
	if err == nil {
		err = s.wakeParked(ctx, runs)
	}
	if err != nil {
		return nil, nil, claimed, Classify(err)
	}
	return stepErrs, runErrs, claimed, nil
}

// applyOnce sends all writes, and the claim if there is one, as one batch.
func (s *Store) applyOnce(
	ctx context.Context, steps []StepWrite, runs []RunWrite, c *claim, hints Hints,
) (stepErrs, runErrs []error, err error) {
	if len(steps) == 0 && len(runs) == 0 && c == nil {
		return nil, nil, nil
	}
	var b sqlBatch
	children := s.childrenOf(steps)
	stepWrites, runWrites := newStepWrites(steps), newRunWrites(runs)
	if len(children) > 0 || len(endedChildren(runs)) > 0 || !stepWrites.locksAllRuns(runs) {
		s.queueLocks(&b, steps, runs)
	}
	if len(children) > 0 {
		s.queueChildKeys(&b, children)
	}
	if len(steps) > 0 {
		stepWrites.queue(s, &b)
	}
	if len(children) > 0 {
		s.queueChildren(&b, children)
	}
	if len(runs) > 0 {
		runWrites.queue(s, &b)
	}
	if c != nil {
		c.queue(s, &b)
	}
	if err := s.sendAndNotify(ctx, &b, hints); err != nil {
		return nil, nil, err
	}
	if stepErrs, err = stepWrites.results(ctx, s); err == nil {
		runErrs, err = runWrites.results(ctx, s)
	}
	return stepErrs, runErrs, err
}

// applyBisecting finds the writes whose values Postgres refuses, by bisecting, and applies
// all others. Order is kept: all steps, then the runs.
func (s *Store) applyBisecting(ctx context.Context, steps []StepWrite, runs []RunWrite) (stepErrs, runErrs []error, err error) {
	steps = slices.Clone(steps)
	for i := range steps {
		steps[i].New = false
	}
	stepErrs, err = bisect(steps, func(part []StepWrite) ([]error, error) {
		errs, _, err := s.applyOnce(ctx, part, nil, nil, Hints{})
		return errs, err
	})
	if err != nil {
		return nil, nil, err
	}
	valueErrs := map[openworkflow.Lease]error{}
	for i, err := range stepErrs {
		if err != nil && isValueError(err) {
			valueErrs[steps[i].Lease] = err
		}
	}
	runErrs = make([]error, len(runs))
	valid, at := make([]RunWrite, 0, len(runs)), make([]int, 0, len(runs))
	for i, w := range runs {
		if valueErr := valueErrs[w.Lease]; valueErr != nil {
			runErrs[i] = valueErr
			continue
		}
		valid, at = append(valid, w), append(at, i)
	}
	validErrs, err := bisect(valid, func(part []RunWrite) ([]error, error) {
		_, errs, err := s.applyOnce(ctx, nil, part, nil, Hints{})
		return errs, err
	})
	if err != nil {
		return nil, nil, err
	}
	for i, err := range validErrs {
		runErrs[at[i]] = err
	}
	return stepErrs, runErrs, nil
}

// bisect applies items in ever smaller parts until each part succeeds or is one
// item that fails because of its value. It returns one result for each item.
func bisect[T any](items []T, apply func([]T) ([]error, error)) ([]error, error) {
	if len(items) == 0 {
		return nil, nil
	}
	errs, err := apply(items)
	switch {
	case err == nil:
		return errs, nil
	case !isValueError(err):
		return nil, err
	case len(items) == 1:
		return []error{Classify(err)}, nil
	}
	left, err := bisect(items[:len(items)/2], apply)
	if err != nil {
		return nil, err
	}
	right, err := bisect(items[len(items)/2:], apply)
	if err != nil {
		return nil, err
	}
	return append(left, right...), nil
}

func (s *Store) queueLocks(b *sqlBatch, steps []StepWrite, runs []RunWrite) {
	ids := make([]string, 0, len(steps)+len(runs))
	for _, w := range steps {
		ids = append(ids, w.RunID)
	}
	for _, w := range runs {
		ids = append(ids, w.RunID)
	}
	b.Queue(s.sql(lockRunsSQL), s.namespace, ids, endedChildren(runs))
}

// endedChildren returns the children that the writes end for good.
func endedChildren(runs []RunWrite) []string {
	var ids []string
	for _, w := range runs {
		if w.HasParent && (w.Op == RunComplete || w.Op == RunFail) {
			ids = append(ids, w.RunID)
		}
	}
	return ids
}
