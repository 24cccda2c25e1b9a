package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// bulkBudget is how long a turn begins forks. It is well below the time for which a claim of a
	// request holds, so that no two managers work on one request.
	bulkBudget = 10 * time.Second
	// bulkConcurrency is the number of forks that are made at a time. Each takes a connection.
	bulkConcurrency = 4
	// bulkTries is how often in a row a fork may fail for a reason that is not its run's, until the
	// run is passed over: the other runs of the request then do not wait for it for ever.
	bulkTries = 5
	// bulkMessage is the longest message about a run, in bytes.
	bulkMessage = 512
)

// bulkRetrySweep forks the runs that the requests of a database select, at the rate of each
// request.
//
// A fork's id follows from the request and the run, and the place of a request in the history is
// stored after its forks. So a manager that dies in between goes through some runs again, and
// finds their forks.
type bulkRetrySweep struct {
	conn *backend.Connection
	// stuck is the run whose fork has failed last, and how often in a row.
	stuck struct {
		runID string
		tries int
	}
}

// run makes the batches that are due, for a limited time.
func (s *bulkRetrySweep) run(ctx context.Context) error {
	for end := time.Now().Add(bulkBudget); time.Now().Before(end); {
		work, err := s.conn.Store.ClaimBulkRetry(ctx)
		if err != nil {
			return fmt.Errorf("claim a bulk retry: %w", err)
		}
		if work == nil {
			return nil
		}
		if err := s.batch(ctx, work, end); err != nil {
			return err
		}
	}
	return nil
}

// batch makes the forks of one claim and stores the progress, also that before an error.
func (s *bulkRetrySweep) batch(ctx context.Context, work *store.BulkWork, end time.Time) error {
	progress := store.BulkProgress{Cursor: work.Cursor}
	var failure error
	for failure == nil && !progress.Done && progress.Started < work.Batch && time.Now().Before(end) {
		work.Cursor = progress.Cursor
		failure = s.page(ctx, work, end, &progress)
	}
	if work.Batch == 0 || work.Spec.MaxRuns > 0 && work.Started+progress.Started >= work.Spec.MaxRuns {
		progress.Done = true
	}
	if err := s.conn.Store.AdvanceBulkRetry(ctx, work, progress); err != nil {
		return errors.Join(failure, fmt.Errorf("store the progress of bulk retry %q: %w", work.Name, err))
	}
	metrics.BulkRetried.WithLabelValues("started").Add(float64(progress.Started))
	metrics.BulkRetried.WithLabelValues("skipped").Add(float64(progress.Skipped))
	metrics.BulkRetried.WithLabelValues("failed").Add(float64(len(progress.Failed)))
	if progress.Done {
		ctrl.LoggerFrom(ctx).Info("Finished a bulk retry", "bulkRetry", work.Name, "started", work.Started+progress.Started,
			"skipped", work.Skipped+progress.Skipped, "failed", work.Failed+len(progress.Failed))
	}
	return failure
}

// page forks runs of the next page until the batch is full, the time is over, or a fork fails for
// a reason that is not its run's.
func (s *bulkRetrySweep) page(ctx context.Context, work *store.BulkWork, end time.Time, progress *store.BulkProgress) error {
	page, err := s.conn.Store.BulkSources(ctx, work)
	if err != nil {
		return fmt.Errorf("list runs of bulk retry %q: %w", work.Name, err)
	}
	for rest := page.Matching; len(rest) > 0; {
		n := min(bulkConcurrency, len(rest), work.Batch-progress.Started)
		if n == 0 || time.Now().After(end) {
			return nil
		}
		for i, result := range s.forkAll(ctx, work, rest[:n]) {
			if ctx.Err() != nil && result != nil { // it says nothing about the run
				return ctx.Err()
			}
			if err := s.count(&rest[i], result, progress); err != nil {
				return fmt.Errorf("bulk retry %q: fork run %s: %w", work.Name, rest[i].ID, err)
			}
		}
		rest = rest[n:]
	}
	progress.Cursor, progress.Done = page.Last, page.Whole
	return nil
}

// forkAll forks runs at the same time, and returns the error of each.
func (s *bulkRetrySweep) forkAll(ctx context.Context, work *store.BulkWork, sources []store.BulkSource) []error {
	results := make([]error, len(sources))
	var forks sync.WaitGroup
	for i := range sources {
		forks.Go(func() {
			results[i] = s.conn.Contain(ctx, "fork", func() error { return s.fork(ctx, work, &sources[i]) })
		})
	}
	forks.Wait()
	return results
}

func (s *bulkRetrySweep) fork(ctx context.Context, work *store.BulkWork, source *store.BulkSource) error {
	id := work.ForkID(source.ID)
	switch source.SupersededBy {
	case "":
	case id:
		return nil // by a claim whose progress was not stored
	default:
		return store.ErrSuperseded
	}
	_, err := s.conn.Store.Fork(ctx, store.ForkRequest{
		Source: source.ID, Run: store.NewRun{ID: id}, Once: true,
		From: store.ForkPoint{Step: work.Spec.Step, LastFailed: work.Spec.LastFailed}, RestartChildren: work.Spec.RestartChildren,
	})
	return err
}

// count adds the result for a run to the progress. It returns errors that say nothing about the
// run: it is tried again then, with those after it.
func (s *bulkRetrySweep) count(source *store.BulkSource, err error, progress *store.BulkProgress) error {
	switch {
	case err == nil:
		progress.Started++
	case errors.Is(err, store.ErrSuperseded), errors.Is(err, store.ErrNotFound): // forked, or removed by the retention
		progress.Skipped++
	case isOfSource(err) || s.givesUp(source.ID):
		progress.Failed = append(progress.Failed, store.BulkFailure{RunID: source.ID, Message: bulkFailure(err)})
	default:
		return err
	}
	progress.Cursor = source.Cursor
	return nil
}

// givesUp counts the tries of a run in a row.
func (s *bulkRetrySweep) givesUp(runID string) bool {
	if s.stuck.runID != runID {
		s.stuck.runID, s.stuck.tries = runID, 0
	}
	s.stuck.tries++
	return s.stuck.tries >= bulkTries
}

// isOfSource reports whether an error of a fork is about the run or its values.
func isOfSource(err error) bool {
	for _, kind := range []error{
		store.ErrNotEnded, store.ErrInvalidFork, store.ErrInvalidJSON, store.ErrTooLarge, store.ErrUnexpectedAnswer, store.ErrLocked,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// bulkFailure is the text for an error of a fork. Those of the request name steps; others may hold
// what a server has sent, so only their class is shown.
func bulkFailure(err error) string {
	text := "the database did not answer; the manager's log has more"
	for _, kind := range []error{
		store.ErrInvalidJSON, store.ErrTooLarge, store.ErrUnexpectedAnswer, store.ErrLocked,
	} {
		if errors.Is(err, kind) {
			text = kind.Error()
		}
	}
	if errors.Is(err, store.ErrInvalidFork) || errors.Is(err, store.ErrNotEnded) {
		text = err.Error()
	}
	return strings.ToValidUTF8(text[:min(len(text), bulkMessage)], "")
}
