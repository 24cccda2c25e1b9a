// Command polling is a worker with one workflow, which polls a job elsewhere until it has
// ended, with a growing delay.
//
// Its farm is made up: each film takes half a minute.
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

// madeUp is a farm without memory: the name of a job says when it began.
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
