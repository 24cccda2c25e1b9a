package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Apply is ApplyAndClaim without the claim. It repeats a batch of which nothing could be
// written because rows were locked.
func (s *Store) Apply(ctx context.Context, steps []StepWrite, runs []RunWrite) (stepErrs, runErrs []error, err error) {
	for {
		result, err := s.ApplyAndClaim(ctx, Batch{Steps: steps, Runs: runs})
		all := slices.Concat(result.Steps, result.Runs)
		if err != nil || len(all) == 0 || slices.ContainsFunc(all, func(err error) bool { return !errors.Is(err, ErrLocked) }) {
			return result.Steps, result.Runs, err
		}
	}
}

// ClaimsFromStart is how many claims have read their ranges from the start.
func (s *Store) ClaimsFromStart() int {
	s.cursors.mu.Lock()
	defer s.cursors.mu.Unlock()
	return s.cursors.number
}

// LimitForks bounds the histories that are forked, instead of by numbers that take minutes to reach.
func (s *Store) LimitForks(attempts, texts int) { s.forkLimits = forkLimits{attempts, texts} }

// PlanOnceSQL is the statement that each connection runs first.
const PlanOnceSQL = sessionSQL

// The statements whose plans tests check.
func (s *Store) ClaimSQL() string          { return s.sql(claimTemplate) }
func (s *Store) ClaimGivenBackSQL() string { return s.sql(claimGivenBackTemplate) }
func (s *Store) ReleaseSQL() string        { return s.sql(releaseSQL) }
func (s *Store) CountTakeoverSQL() string  { return s.sql(countTakeoverSQL) }
func (s *Store) ExpiredSQL() string        { return s.sql(expiredSQL) }
func (s *Store) OpenObjectRunsSQL() string { return s.sql(openObjectRunsSQL) }
func (s *Store) StepsSQL() string          { return s.sql(anyStepsSQL) }
func (s *Store) NewStepsSQL() string       { return s.sql(newStepsSQL) }
func (s *Store) NewStepSQL() string        { return s.sql(newStepSQL) }
func (s *Store) StepsDoneSQL() string      { return s.sql(stepsDoneSQL) }
func (s *Store) CompletedSQL() string      { return s.sql(completedSQL) }
func (s *Store) RunsSQL() string           { return s.sql(runsSQL) }
func (s *Store) LockRunsSQL() string       { return s.sql(lockRunsSQL) }
func (s *Store) HeartbeatSQL() string      { return s.sql(heartbeatSQL) }
func (s *Store) LoadStepsSQL() string      { return s.sql(loadStepsSQL) }
func (s *Store) NewestStepsSQL() string    { return s.sql(newestStepsSQL) }
func (s *Store) WakeParentsSQL() string    { return s.sql(wakeParentsSQL) }
func (s *Store) KeyHoldersSQL() string     { return s.sql(keyHoldersSQL) }
func (s *Store) SuspendSQL() string        { return s.sql(suspendSQL) }
func (s *Store) ResumeSQL() string         { return s.sql(resumeSQL) }
func (s *Store) CancelSQL() string         { return s.sql(cancelSQL) }
func (s *Store) FailExpiredSQL() string    { return s.sql(failExpiredSQL) }

// The statements of waits.
func (s *Store) LockChildKeysSQL() string { return s.sql(lockChildKeysSQL) }
func (s *Store) StartChildrenSQL() string { return s.sql(startChildrenSQL) }
func (s *Store) WaitResultsSQL() string   { return s.sql(waitResultsSQL) }
func (s *Store) ReceiversSQL() string     { return s.sql(receiversSQL) }
func (s *Store) DeliverSQL() string       { return s.sql(deliverAnySQL) }
func (s *Store) DeliverStepSQL() string   { return s.sql(deliverStepSQL) }
func (s *Store) WakeReceiversSQL() string { return s.sql(wakeReceiversSQL) }
func (s *Store) WriteSendSQL() string     { return s.sql(writeSendSQL) }

// The statements of signals that are kept.
func (s *Store) DueSignalsSQL() string    { return s.sql(dueSignalsSQL) }
func (s *Store) KeptReceiversSQL() string { return s.sql(keptReceiversSQL) }
func (s *Store) DeliverKeptSQL() string   { return s.sql(deliverKeptSQL) }
func (s *Store) SettleSQL() string        { return s.sql(settleSQL) }
func (s *Store) DueDecisionsSQL() string  { return s.sql(dueDecisionsSQL) }
func (s *Store) WakeParkedSQL() string    { return s.sql(wakeParkedSQL) }
func (s *Store) SweepWaitsSQL() string    { return s.sql(sweepWaitsSQL) }

// The statements of forks.
func (s *Store) ForkHistorySQL() string { return s.sql(forkHistorySQL) }
func (s *Store) ForksSQL() string       { return s.sql(forksSQL) }
func (s *Store) CopyStepsSQL() string   { return s.sql(copyStepsSQL) }
func (s *Store) LinkForkSQL() string    { return s.sql(linkForkSQL) }

// The statements of payloads.
func (s *Store) RunPayloadsSQL() string {
	return s.sql(strings.TrimPrefix(runPayloadsSQL, declarePayloads))
}

func (s *Store) StepPayloadsSQL() string {
	return s.sql(strings.NewReplacer(declarePayloads, "", "{after}", "").Replace(stepPayloadsSQL))
}

func (s *Store) ChildrenSQL() string { return s.sql(childrenSQL) }
func (s *Store) OutcomesSQL() string { return s.sql(outcomesSQL) }

// The statements of retention.
func (s *Store) EndedRunsSQL() string        { return s.sql(endedRunsSQL) }
func (s *Store) SizesSQL() string            { return s.sql(sizesSQL) }
func (s *Store) LockEndedSQL() string        { return s.sql(lockEndedSQL) }
func (s *Store) RemoveDeliveriesSQL() string { return s.sql(removeDeliveriesSQL) }
func (s *Store) RemoveRunsSQL() string       { return s.sql(removeRunsSQL) }
func (s *Store) ArchiveSizesSQL() string {
	return s.sql(strings.TrimPrefix(archiveSizesSQL, declareSizes))
}
func (s *Store) ArchiveLinesSQL() string {
	return s.sql(strings.TrimPrefix(archiveLinesSQL, declareArchive))
}
func (s *Store) IndexArchiveSQL() string    { return s.sql(indexArchiveSQL) }
func (s *Store) StrayDeliveriesSQL() string { return s.sql(strayDeliveriesSQL) }
func (s *Store) RemoveSlotsSQL() string     { return s.sql(removeSlotsSQL) }
func (s *Store) RecordSlotsSQL() string     { return s.sql(recordSlotsSQL) }

// Plans counts the plans that a connection's prepared statements had.
func (s *Store) Plans(ctx context.Context) (generic, custom int, err error) {
	err = s.pool.QueryRow(ctx, `
SELECT coalesce(sum(generic_plans), 0), coalesce(sum(custom_plans), 0)
FROM pg_prepared_statements
WHERE statement NOT LIKE '%pg_prepared_statements%'`).Scan(&generic, &custom)
	return generic, custom, err
}

// BulkPageSQL returns the statement of BulkSources and its arguments.
func (s *Store) BulkPageSQL(spec *BulkSpec, after openworkflow.Cursor, limit int) (sql string, args []any) {
	return s.sql(bulkPageSQL), s.bulkPageArgs(spec, after, time.Time{}, limit)
}
