package store

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// StepWrite inserts or ends a step attempt of a leased run (R46).
type StepWrite struct {
	openworkflow.Lease
	// Attempt's ID, StepName, Kind, Status, Context, Output and Error are used. Status running
	// inserts the row. Completed and failed end it, and insert it first if there is no running
	// row. Each attempt has an id of its own.
	Attempt openworkflow.StepAttempt
	// New says that no write of the attempt was ever sent, so the statement need not look for
	// its row. A wrong New costs time and nothing else: the batch is applied again without it.
	New bool
	// Elapsed is how long ago the attempt started. A write that inserts the row sets
	// started_at to the server's now less Elapsed.
	Elapsed time.Duration
	// Child, not nil, is a run to create in the same transaction for an attempt of kind
	// workflow, and to link with it in both directions (R98c). Its ID is required;
	// WorkflowName, Version, Input and Context are used. It is due now. If the
	// attempt is linked already, the link stays. If an earlier write created the child
	// without linking it, this one links it.
	Child *NewRun
	// Approval, not nil, is what the step asks for. It is published in the same transaction, unless
	// an earlier write has published it.
	Approval *NewApproval
	// State, not nil, is what the run has published since its last write.
	State *NewState
}

// RunOp is what a RunWrite does with a leased run (R42).
type RunOp int

// Every RunOp ends the lease. If the run is suspended and does not end, it is not due before
// ResumeRuns, whatever At says.
const (
	// RunPark parks the run until At, or until it is woken.
	RunPark RunOp = iota
	// RunComplete ends the run with Output.
	RunComplete
	// RunFail ends the run with Error.
	RunFail
	// RunRetry makes the run pending again at At, with Error.
	RunRetry
	// RunRelease gives the run back to be claimed again, due now.
	RunRelease
	// RunSetAside gives the run back to be claimed again at At. Unlike RunPark, it does not look
	// whether a wait of the run is over.
	RunSetAside
)

// String returns the operation's name, by which runsSQL knows it.
func (op RunOp) String() string {
	return [...]string{
		RunPark: "park", RunComplete: "complete", RunFail: "fail", RunRetry: "retry", RunRelease: "release", RunSetAside: "set aside",
	}[op]
}

// RunWrite ends a lease.
type RunWrite struct {
	openworkflow.Lease
	Op RunOp
	// At is when a parked, retried or set aside run is due. Zero means now.
	At     time.Time
	Output json.RawMessage
	Error  json.RawMessage
	// FinishedAt is when the run failed, by the caller's clock (R7). Zero means now by the
	// server's.
	FinishedAt time.Time
	// Failure says that the workflow itself has failed. A RunRetry or RunFail then counts in
	// the run's Failures.
	Failure bool
	// HasParent says that the run is a child: its end wakes the parent.
	HasParent bool
	// State, not nil, is what the run has published since its last write.
	State *NewState
}

// Batch is what one call of ApplyAndClaim writes and claims. Its zero value does nothing.
type Batch struct {
	// Steps are written first. Several writes of one attempt are written as one, with the
	// outcome if one of them has it. Nil for none.
	Steps []StepWrite
	// Runs end leases, after all Steps. Of several writes for one lease, the first is carried
	// out; the others report ErrLeaseLost. Nil for none.
	Runs []RunWrite
	// Claim, not nil, is carried out after the writes, so that a worker that ends runs claims the
	// next ones with them, also those that became due by the ends.
	Claim *ClaimRequest
	// Hints notify listeners after the commit.
	Hints Hints
	// NoWait says that a write whose run is locked gets ErrLocked at once. Such a batch claims
	// nothing. It is for a write that got ErrLocked before.
	NoWait bool
}

// BatchResult is what became of a Batch.
type BatchResult struct {
	// Steps and Runs have one element for each element of the batch's, at the same index:
	//
	//	nil             the row says what the write asked for, by this call or an earlier one
	//	ErrLeaseLost    the run does not carry the worker id; nothing was written
	//	ErrInvalidJSON  a value of this write cannot be stored; nothing was written
	//	ErrTooLarge     likewise
	//	ErrLocked       another session holds a lock that the write needs; nothing was written
	//
	// If a step write has a value that cannot be stored, the run write of the same lease gets
	// the same error and is not carried out.
	Steps, Runs []error
	// Claimed are the runs that were claimed, in no order. There may be fewer than are due.
	// There are none if a value cannot be stored.
	Claimed []openworkflow.Run
}

// ApplyAndClaim writes step attempts, ends leases and claims runs, in one round trip.
//
// Atomicity: a batch is one transaction. If Postgres refuses a value in it, or an attempt
// that is New exists, the batch is applied in several transactions instead, first the
// steps, then the runs, and nothing is claimed. One write is atomic in any case: a child
// run is created and linked together with its attempt, and the end of a child wakes its
// parked parent (R82). A run that parked although its wait had a result is made due right
// after the commit (R83), and listeners are notified of that whatever Hints say.
//
// Locks are taken in this order: the runs that are written, with the parents of children
// that end, by id; the advisory locks of children's keys, by number; step attempts. The
// claim locks runs last, and skips those that are locked. A batch that waits for a lock
// longer than the connection's lock_timeout is rolled back. Those of its writes that need no
// locked row are then applied, without the claim; the others get ErrLocked.
//
// The error is about the database, not about a write. It is then unknown whether anything
// was written: repeat the call without Claim, as its worker ids may already be in rows.
// Claimed lists the runs that are claimed for certain; other claims, if any, end with their
// leases. Repeated writes change nothing. Steps and RunComplete succeed again. After the other
// operations the row has no worker id, so a repetition reports ErrLeaseLost even if the first
// call succeeded; in either case the lease is over.
func (s *Store) ApplyAndClaim(ctx context.Context, batch Batch) (BatchResult, error) {
	c := s.newClaim(batch.Claim)
	var result BatchResult
	err := errNoWait
	if !batch.NoWait {
		result, err = s.applyValid(ctx, batch, c)
	}
	if errors.Is(err, errNoWait) || isConflict(err) {
		if result, err = s.applyUnlocked(ctx, batch); err == nil {
			_ = s.notify(ctx, batch.Hints) // a lost hint is made up for by polling
		}
	}
	if err == nil {
		err = s.wakeParked(ctx, batch.Runs)
	}
	if err != nil {
		return BatchResult{Claimed: result.Claimed}, Classify(err)
	}
	return result, nil
}

// errNoWait stands for the conflict of a batch that is not to wait for one.
var errNoWait = errors.New("the batch may wait for no lock")

// applyValid applies a batch as a whole or, if Postgres refuses a value in it, in parts.
func (s *Store) applyValid(ctx context.Context, batch Batch, c *claim) (BatchResult, error) {
	result, err := s.applyOnce(ctx, batch, c)
	if err == nil && c != nil {
		c.advanceCursors(s)
		result.Claimed = c.runs
	}
	if err != nil && (isValueError(err) || isUniqueViolation(err)) {
		if result, err = s.applyBisecting(ctx, batch); err == nil {
			_ = s.notify(ctx, batch.Hints) // a lost hint is made up for by polling
		}
	}
	return result, err
}

// applyOnce sends all writes, and the claim c if it is not nil, as one SQL batch.
func (s *Store) applyOnce(ctx context.Context, batch Batch, c *claim) (result BatchResult, err error) {
	if len(batch.Steps) == 0 && len(batch.Runs) == 0 && c == nil {
		return BatchResult{}, nil
	}
	var b sqlBatch
	children := s.childrenOf(batch.Steps)
	steps, runs := newStepWrites(batch.Steps), newRunWrites(batch.Runs)
	waits := endedSignalWaits(batch.Steps)
	if len(children) > 0 || len(waits) > 0 || len(endedChildren(batch.Runs)) > 0 || !steps.locksAllRuns(batch.Runs) {
		b.Queue(s.sql(lockRunsSQL), s.namespace, batch.runIDs(), endedChildren(batch.Runs))
	}
	if len(children) > 0 {
		s.queueChildKeys(&b, children)
	}
	if len(waits) > 0 {
		b.Queue(s.sql(lockWaitsSQL), s.namespace, waits)
	}
	if len(batch.Steps) > 0 {
		steps.queue(s, &b)
	}
	if len(children) > 0 {
		s.queueChildren(&b, children)
	}
	s.queueApprovals(&b, batch.Steps)
	s.queueStates(&b, batch)
	if len(batch.Runs) > 0 {
		runs.queue(s, &b)
	}
	if c != nil {
		c.queue(s, &b)
	}
	if err := s.sendAndNotify(ctx, &b, batch.Hints); err != nil {
		return BatchResult{}, err
	}
	if result.Steps, err = steps.results(ctx, s); err == nil {
		result.Runs, err = runs.results(ctx, s)
	}
	return result, err
}

// applyBisecting applies the writes of a batch in parts, to find those whose values
// Postgres refuses. All steps come before the runs.
func (s *Store) applyBisecting(ctx context.Context, batch Batch) (result BatchResult, err error) {
	steps := slices.Clone(batch.Steps)
	for i := range steps {
		steps[i].New = false
	}
	result.Steps, err = bisect(steps, isValueError, func(part []StepWrite) ([]error, error) {
		applied, err := s.applyOnce(ctx, Batch{Steps: part}, nil)
		return applied.Steps, err
	})
	if err != nil {
		return BatchResult{}, err
	}
	valueErrs := map[openworkflow.Lease]error{}
	for i, err := range result.Steps {
		if err != nil && isValueError(err) {
			valueErrs[steps[i].Lease] = err
		}
	}
	result.Runs = make([]error, len(batch.Runs))
	valid, at := make([]RunWrite, 0, len(batch.Runs)), make([]int, 0, len(batch.Runs))
	for i, w := range batch.Runs {
		if valueErr := valueErrs[w.Lease]; valueErr != nil {
			result.Runs[i] = valueErr
			continue
		}
		valid, at = append(valid, w), append(at, i)
	}
	validErrs, err := bisect(valid, isValueError, func(part []RunWrite) ([]error, error) {
		applied, err := s.applyOnce(ctx, Batch{Runs: part}, nil)
		return applied.Runs, err
	})
	if err != nil {
		return BatchResult{}, err
	}
	for i, err := range validErrs {
		result.Runs[at[i]] = err
	}
	return result, nil
}

// bisect applies items in ever smaller parts, until each part succeeds or is one item whose
// error is its own. It returns one result for each item.
func bisect[T any](items []T, isOfOne func(error) bool, apply func([]T) ([]error, error)) ([]error, error) {
	if len(items) == 0 {
		return nil, nil
	}
	errs, err := apply(items)
	switch {
	case err == nil:
		return errs, nil
	case !isOfOne(err):
		return nil, err
	case len(items) == 1:
		return []error{Classify(err)}, nil
	}
	left, err := bisect(items[:len(items)/2], isOfOne, apply)
	if err != nil {
		return nil, err
	}
	right, err := bisect(items[len(items)/2:], isOfOne, apply)
	if err != nil {
		return nil, err
	}
	return append(left, right...), nil
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
