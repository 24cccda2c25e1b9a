// Command polling is a worker with one workflow that polls a job in another system, with
// increasing delays, until the job has ended.
//
// Its render farm is a fake: each film takes 30 s.
package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/worker"
)

func main() { worker.Main(Rendering(madeUp{took: 30 * time.Second})) }

// madeUp is a farm without state: the name of a job contains its start time.
type madeUp struct{ took time.Duration }

func (madeUp) Submit(_ context.Context, key string, _ Video) (string, error) {
	return fmt.Sprintf("%d-%s", time.Now().Unix(), key), nil
}

func (f madeUp) State(_ context.Context, job string) (State, error) {
	started, _, _ := strings.Cut(job, "-")
	seconds, err := strconv.ParseInt(started, 10, 64)
	if err != nil {
		return State{}, fmt.Errorf("there is no job %q", job)
	}
	if time.Since(time.Unix(seconds, 0)) < f.took {
		return State{Phase: "rendering"}, nil
	}
	return State{Phase: "done", URL: "https://films.example.com/" + job}, nil
}
