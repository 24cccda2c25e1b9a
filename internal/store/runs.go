package store

import (
	"encoding/json"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// NewRun is a run to create (R50).
type NewRun struct {
	// ID is the run's id. Empty means a new one.
	ID           string
	WorkflowName string
	// Version nil is the unversioned workflow.
	Version *string
	// IdempotencyKey, when not nil, attaches to the run that already holds the
	// key for this workflow instead of creating one.
	IdempotencyKey *string
	Input          json.RawMessage
	Context        json.RawMessage
	// AvailableAt nil means now.
	AvailableAt *time.Time
	DeadlineAt  *time.Time
	// Suspended runs are created but not claimable until ResumeRuns.
	Suspended bool
}

// Created is what became of a NewRun.
type Created struct {
	// RunID differs from NewRun.ID when an idempotency key attached the caller to
	// a run that exists.
	RunID string
	// Inserted is false when the run existed already.
	Inserted bool
	// Err is this run's own fault (ErrInvalidJSON, ErrTooLarge). The others of
	// the call are not affected.
	Err error
}

// ObjectRun is an open run that mirrors a Kubernetes object.
type ObjectRun struct {
	RunID  string
	Object openworkflow.ObjectRef
}
