package store

import (
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Worker is a runner process as it reported itself.
type Worker struct {
	PodUID string
	// Process is the nonce of the process's life, the second part of worker ids.
	Process string
	PodName string
	Pool    string
	// Workflows are what it serves.
	Workflows []openworkflow.Definition
	// SeenAt is the server's time of its last report. SaveWorker ignores it.
	SeenAt time.Time
}
