package store

import (
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ClaimRequest asks for runs to execute.
type ClaimRequest struct {
	// Served lists what may be claimed, exact in name and version (R61).
	Served []openworkflow.Definition
	// WorkerIDs are the fencing tokens, one for each run to claim at most. None
	// may ever have been used before.
	WorkerIDs []string
	// Lease is how long the claims last without a heartbeat.
	Lease time.Duration
}
