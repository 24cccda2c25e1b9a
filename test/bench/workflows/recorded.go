package workflows

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Ledger is the environment variable that names the file in which Recorded writes down each
// execution of a step.
const Ledger = "BENCH_LEDGER"

// Work is what a run of Recorded does.
type Work struct {
	Steps int `json:"steps"`
	// Millis is the length of each step.
	Millis int `json:"millis,omitempty"`
}

// Recorded has steps one after the other, as Five and Ticking do. At its start, each function
// writes a line with the run and the step into the ledger, which outlives the process.
var Recorded = workflow.Define("recorded", func(ctx context.Context, in Work) (int, error) {
	id := workflow.Info(ctx).ID
	for i := range in.Steps {
		_, err := step.Run(ctx, strconv.Itoa(i), func(ctx context.Context) (int, error) {
			if err := record(id, i); err != nil {
				return 0, err
			}
			select {
			case <-time.After(time.Duration(in.Millis) * time.Millisecond):
				return i, nil
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return in.Steps, nil
}, workflow.StepLimit(100_000))

// Poison kills the process that executes it, as the kernel does when memory runs out.
var Poison = workflow.Define("poison", func(ctx context.Context, _ struct{}) (int, error) {
	return step.Run(ctx, "kill", func(ctx context.Context) (int, error) {
		if err := record(workflow.Info(ctx).ID, 0); err != nil {
			return 0, err
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return 0, err
		}
		select {} // the signal is on its way
	})
})

// ledger is the file. The kernel appends each line as a whole, also of several processes.
var ledger = sync.OnceValues(func() (*os.File, error) {
	return os.OpenFile(os.Getenv(Ledger), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
})

func record(run string, step int) error {
	file, err := ledger()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s %d\n", run, step)
	return err
}
