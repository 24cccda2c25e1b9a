package store

import (
	"encoding/json"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// StepWrite records a step attempt of a leased run (R46).
type StepWrite struct {
	openworkflow.Lease
	// Attempt's ID, StepName, Kind, Status, Context, Output and Error are used.
	// Status running inserts the row; completed and failed end it, inserting it
	// first when no running row was written.
	Attempt openworkflow.StepAttempt
	// Elapsed is how long ago the attempt started: its started_at is the server's
	// now less Elapsed when this write inserts the row.
	Elapsed time.Duration
}

// RunOp is what a RunWrite does with a leased run (R42).
type RunOp int

// Every RunOp ends the lease.
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
}
