package memstore

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Store is one namespace. Make one with New. Its methods may be called concurrently. Each is
// one transaction at one instant.
type Store struct {
	mu sync.Mutex
	// skippedTo is the store's time at the instant skippedAt of the machine's clock. Two
	// instants, since a time.Duration holds 292 years at most.
	skippedTo, skippedAt time.Time
	// served are the workflows whose runs AwaitIdle and Advance consider.
	served map[openworkflow.DefinitionKey]bool

	runs map[string]*run
	// open are the runs that have not ended.
	open     map[string]*run
	attempts map[string]*openworkflow.StepAttempt
	steps    map[string][]*openworkflow.StepAttempt // by run, in the order of creation
	// deliveries are by attempt: there is at most one (R105).
	deliveries map[string]*delivery
	approvals  map[stepKey]*approval
	// states are what runs have published.
	states  map[string]store.NewState
	workers map[workerKey]store.Worker
	kept    map[string]*keptSignal

	// claimCount alternates which branch of a claim gets the odd slot.
	claimCount uint64
	sweptAt    time.Time
	// sweepCursor is the last parked run that a sweep has read.
	sweepCursor string

	due, ends, waits listeners
	// changed is closed and replaced after every call that may have changed something.
	changed chan struct{}
}

type run struct {
	openworkflow.Run
	// resumeAt is when a suspended run would be due.
	resumeAt *time.Time
}

type delivery struct {
	signal string
	data   json.RawMessage
	key    *string
	runID  string
	at     time.Time
}

type workerKey struct{ podUID, process string }

// New returns an empty store. AwaitIdle and Advance consider only runs of the served
// workflows: those of others are never executed.
func New(served ...openworkflow.Definition) *Store {
	now := time.Now()
	s := &Store{
		skippedTo:  now,
		skippedAt:  now,
		served:     map[openworkflow.DefinitionKey]bool{},
		runs:       map[string]*run{},
		open:       map[string]*run{},
		attempts:   map[string]*openworkflow.StepAttempt{},
		steps:      map[string][]*openworkflow.StepAttempt{},
		deliveries: map[string]*delivery{},
		approvals:  map[stepKey]*approval{},
		states:     map[string]store.NewState{},
		workers:    map[workerKey]store.Worker{},
		kept:       map[string]*keptSignal{},
		changed:    make(chan struct{}),
	}
	for _, d := range served {
		s.served[d.Key()] = true
	}
	return s
}

// begin starts a transaction and returns its instant. Call commit to end it.
func (s *Store) begin(ctx context.Context) (now time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	s.mu.Lock()
	return s.now(), nil
}

// now returns the time at the precision of Postgres.
func (s *Store) now() time.Time {
	return s.skippedTo.Add(time.Since(s.skippedAt)).Round(0).UTC().Truncate(time.Microsecond)
}

// commit ends a transaction that may have changed something.
func (s *Store) commit() {
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

// Now returns the store's time.
func (s *Store) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now()
}

// milliseconds truncates an instant to the precision of instants that clients pass (R7). It
// returns nil for the zero time.
func milliseconds(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC().Truncate(time.Millisecond))
}

// checkText refuses a text that Postgres cannot store.
func checkText(texts ...string) error {
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w: invalid byte sequence for encoding UTF8: %q", store.ErrInvalidJSON, text)
		}
	}
	return nil
}

// normalizeJSON is jsonb for several columns of one row, in place.
func normalizeJSON(values ...*json.RawMessage) error {
	for _, value := range values {
		normal, err := jsonb(*value)
		if err != nil {
			return err
		}
		*value = slices.Clip(normal)
	}
	return nil
}

// held returns the run of a lease that is held, or nil (R45).
func (s *Store) held(l openworkflow.Lease) *run {
	r := s.runs[l.RunID]
	if r == nil || r.Status != openworkflow.RunRunning || r.WorkerID == nil || *r.WorkerID != l.WorkerID {
		return nil
	}
	return r
}

// sortedKeys returns a map's keys in order, so that tests are deterministic.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// setDue makes a run due at an instant: now, or once it is resumed.
func (r *run) setDue(at time.Time) {
	if r.SuspendedAt == nil {
		r.AvailableAt, r.resumeAt = &at, nil
	} else {
		r.AvailableAt, r.resumeAt = nil, &at
	}
}

// wake makes a run due now unless it is due already (R42), and reports whether it did.
func (r *run) wake(now time.Time) (woken bool) {
	due := r.AvailableAt
	if r.SuspendedAt != nil {
		due = r.resumeAt
	}
	if due != nil && !due.After(now) {
		return false
	}
	r.setDue(now)
	r.UpdatedAt = now
	return true
}

func isOpen(status openworkflow.RunStatus) bool {
	switch status {
	case openworkflow.RunPending, openworkflow.RunRunning, openworkflow.RunSleeping:
		return true
	default:
		return false
	}
}

// copyOf returns a run for a caller. Nothing writes to what it points to.
func (r *run) copyOf() openworkflow.Run { return r.Run }
