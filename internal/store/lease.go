package store

import (
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// LeaseState is what Heartbeat found for one lease.
type LeaseState struct {
	openworkflow.Lease
	// Held is false when the run no longer carries the worker id; the lease was
	// then not extended.
	Held bool
	// Status of the run, whoever holds it; empty when the run does not exist.
	Status openworkflow.RunStatus
	// Suspended asks the holder to park the run.
	Suspended  bool
	DeadlineAt *time.Time
}
