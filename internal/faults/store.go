// Package faults kills workers at chosen moments, for tests. It stands between an execution
// engine and its store. It drops a write, or the acknowledgement of a write, and ends the
// lease of the run, so that all that the worker held in memory is lost. Another claim then
// takes the run over, as after any death of a worker. This is the death of the worker of one run,
// which learns that it has lost the run. A Process dies with all its runs, and learns nothing.
//
// It records what was stored, apart from the store. Tests compare with that record that no
// step is executed again once its completion is stored.
package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Strike says what happens at a write.
type Strike int

const (
	// None lets the write be made.
	None Strike = iota
	// Before kills the worker before the write: it is not made.
	Before
	// After kills the worker after the write, before the acknowledgement.
	After
)

func (s Strike) String() string {
	return [...]string{None: "none", Before: "before", After: "after"}[s]
}

// Write is everything that one call writes for one claimed run.
type Write struct {
	openworkflow.Lease
	// Claim says that the run was claimed. Only After strikes here.
	Claim bool
	// Steps are the step attempts that are written, at most one for a signal.
	Steps []store.StepWrite
	// Signal is the name of the signal that is sent, nil for none.
	Signal *string
	// Run is the end of the lease, nil for none.
	Run *store.RunWrite
}

// String describes the write, without ids and other values that differ each time.
func (w Write) String() string {
	var parts []string
	if w.Claim {
		parts = append(parts, "claim")
	}
	for _, s := range w.Steps {
		parts = append(parts, fmt.Sprintf("%s %s %q", s.Attempt.Status, s.Attempt.Kind, s.Attempt.StepName))
	}
	if w.Signal != nil {
		parts = append(parts, fmt.Sprintf("signal %q", *w.Signal))
	}
	if w.Run != nil {
		parts = append(parts, w.Run.Op.String())
	}
	return strings.Join(parts, ", ")
}

// Store is a runner's store in which workers die. Make one with New.
type Store struct {
	runner.Store
	strike func(Write) Strike

	// applying is held while steps are written and recorded, so that no function is called
	// between the two.
	applying sync.Mutex

	mu      sync.Mutex
	holders map[string]string // run id → worker id of the last claim
	dead    map[string]bool   // worker ids
	record  map[stepKey]*outcomes
}

type stepKey struct{ runID, step string }

// outcomes are the attempts of a function step that are stored.
type outcomes struct {
	completed bool
	failed    int
	attempts  map[string]bool
}

// New returns a store that calls strike for each write. Strike is called by one goroutine at a
// time, and must not call the store.
func New(inner runner.Store, strike func(Write) Strike) *Store {
	return &Store{
		Store:   inner,
		strike:  strike,
		holders: map[string]string{},
		dead:    map[string]bool{},
		record:  map[stepKey]*outcomes{},
	}
}

// Claim implements runner.Store.
func (s *Store) Claim(ctx context.Context, request store.ClaimRequest) ([]openworkflow.Run, error) {
	runs, err := s.Store.Claim(ctx, request)
	if err != nil {
		return nil, err
	}
	alive, dead := s.strikeClaims(runs)
	return alive, s.release(ctx, dead)
}

// strikeClaims asks strike about each run that was claimed. It returns the runs whose
// worker lives, and the leases of the others.
func (s *Store) strikeClaims(runs []openworkflow.Run) (alive []openworkflow.Run, dead []openworkflow.Lease) {
	alive = runs[:0]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, run := range runs {
		lease := openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}
		s.holders[run.ID] = lease.WorkerID
		if s.strike(Write{Lease: lease, Claim: true}) == After {
			s.dead[lease.WorkerID] = true
			dead = append(dead, lease)
		} else {
			alive = append(alive, run)
		}
	}
	return alive, dead
}

// ApplyAndClaim implements runner.Store. What it writes for one lease is one Write.
func (s *Store) ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error) {
	dropped, dead := s.strikeWrites(batch)
	sent := store.Batch{Claim: batch.Claim, Hints: batch.Hints}
	for _, w := range batch.Steps {
		if !dropped[w.Lease] {
			sent.Steps = append(sent.Steps, w)
		}
	}
	for _, w := range batch.Runs {
		if !dropped[w.Lease] {
			sent.Runs = append(sent.Runs, w)
		}
	}
	result, err := s.applyAndRecord(ctx, sent)
	claimed, deadClaims := s.strikeClaims(result.Claimed)
	if err != nil {
		return store.BatchResult{Claimed: claimed}, err
	}
	if err := s.release(ctx, slices.Concat(dead, deadClaims)); err != nil {
		return store.BatchResult{Claimed: claimed}, err
	}
	struck := map[openworkflow.Lease]bool{}
	for _, l := range dead {
		struck[l] = true
	}
	return store.BatchResult{
		Steps:   alignResults(batch.Steps, result.Steps, dropped, struck, func(w store.StepWrite) openworkflow.Lease { return w.Lease }),
		Runs:    alignResults(batch.Runs, result.Runs, dropped, struck, func(w store.RunWrite) openworkflow.Lease { return w.Lease }),
		Claimed: claimed,
	}, nil
}

// alignResults returns a result for each write: that of the store if the write was sent, and a
// lost lease if the worker died.
func alignResults[W any](writes []W, some []error, dropped, struck map[openworkflow.Lease]bool, lease func(W) openworkflow.Lease) []error {
	errs := make([]error, len(writes))
	i := 0
	for n, w := range writes {
		l := lease(w)
		if dropped[l] || struck[l] {
			errs[n] = store.ErrLeaseLost
		} else {
			errs[n] = some[i]
		}
		if !dropped[l] {
			i++
		}
	}
	return errs
}

func (s *Store) applyAndRecord(ctx context.Context, batch store.Batch) (store.BatchResult, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	result, err := s.Store.ApplyAndClaim(ctx, batch)
	if err == nil {
		s.recordOutcomes(batch.Steps, result.Steps)
	}
	return result, err
}

// strikeWrites calls strike for the writes of each lease. It returns the leases whose writes
// are dropped, and all leases whose worker is dead.
func (s *Store) strikeWrites(batch store.Batch) (dropped map[openworkflow.Lease]bool, dead []openworkflow.Lease) {
	dropped = map[openworkflow.Lease]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, write := range writesOf(batch) {
		l, strike := write.Lease, Before
		if !s.dead[l.WorkerID] {
			strike = s.strike(write)
		}
		if strike == None {
			continue
		}
		s.dead[l.WorkerID] = true
		dead = append(dead, l)
		dropped[l] = strike == Before
	}
	return dropped, dead
}

// writesOf returns what a batch writes for each lease.
func writesOf(batch store.Batch) []Write {
	var writes []Write
	index := map[openworkflow.Lease]int{}
	of := func(l openworkflow.Lease) *Write {
		i, known := index[l]
		if !known {
			i = len(writes)
			index[l], writes = i, append(writes, Write{Lease: l})
		}
		return &writes[i]
	}
	for _, w := range batch.Steps {
		write := of(w.Lease)
		write.Steps = append(write.Steps, w)
	}
	for i, w := range batch.Runs {
		of(w.Lease).Run = &batch.Runs[i]
	}
	return writes
}

// SendSignal implements runner.Store.
func (s *Store) SendSignal(ctx context.Context, step store.StepWrite, signal store.Signal) ([]string, error) {
	s.mu.Lock()
	strike := Before
	if !s.dead[step.WorkerID] {
		strike = s.strike(Write{Lease: step.Lease, Steps: []store.StepWrite{step}, Signal: &signal.Name})
	}
	if strike != None {
		s.dead[step.WorkerID] = true
	}
	s.mu.Unlock()
	switch strike {
	case None:
		return s.Store.SendSignal(ctx, step, signal)
	case After:
		if _, err := s.Store.SendSignal(ctx, step, signal); err != nil {
			return nil, err
		}
	case Before:
	}
	if err := s.release(ctx, []openworkflow.Lease{step.Lease}); err != nil {
		return nil, err
	}
	return nil, store.ErrLeaseLost
}

// release ends the leases of dead workers, so that nobody has to wait until they expire.
func (s *Store) release(ctx context.Context, leases []openworkflow.Lease) error {
	if len(leases) == 0 {
		return nil
	}
	writes := make([]store.RunWrite, len(leases))
	for i, l := range leases {
		writes[i] = store.RunWrite{Lease: l, Op: store.RunRelease}
	}
	_, err := s.Store.ApplyAndClaim(ctx, store.Batch{Runs: writes, Hints: store.Hints{Due: true}})
	return err
}

// recordOutcomes records the ends of function steps that were stored.
func (s *Store) recordOutcomes(writes []store.StepWrite, errs []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range writes {
		if errs[i] != nil || w.Attempt.Kind != openworkflow.KindFunction || w.Attempt.Status == openworkflow.StepRunning {
			continue
		}
		o := s.recordOf(w.RunID, w.Attempt.StepName)
		if o.attempts[w.Attempt.ID] {
			continue // the same write again
		}
		o.attempts[w.Attempt.ID] = true
		if w.Attempt.Status == openworkflow.StepCompleted {
			o.completed = true
		} else {
			o.failed++
		}
	}
}

func (s *Store) recordOf(runID, step string) *outcomes {
	key := stepKey{runID, step}
	if s.record[key] == nil {
		s.record[key] = &outcomes{attempts: map[string]bool{}}
	}
	return s.record[key]
}

// The errors of BeforeCall.
var (
	// ErrDead means that the worker is dead and must not call the function.
	ErrDead = errors.New("the worker has died")
	// ErrAgain means that the step's completion is stored: it must not be executed.
	ErrAgain = errors.New("a step is executed again although its completion is stored")
)

// BeforeCall is called when a worker is about to call the function of a step. It returns how
// many failed attempts of the step are stored.
func (s *Store) BeforeCall(workerID, runID, step string) (failed int, err error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.recordOf(runID, step)
	switch {
	case s.dead[workerID]:
		return o.failed, ErrDead
	case o.completed:
		return o.failed, fmt.Errorf("%w: %q of run %s", ErrAgain, step, runID)
	default:
		return o.failed, nil
	}
}

// Holder returns the worker id of a run's last claim.
func (s *Store) Holder(runID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holders[runID]
}
