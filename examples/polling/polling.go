package main

import (
	"context"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Video is the input of a rendering, and Film its output.
type (
	Video struct {
		Title string `json:"title"`
	}
	Film struct {
		URL string `json:"url"`
		// Polls is the number of calls of Farm.State.
		Polls int `json:"polls"`
	}
)

// State is the state of a job.
type State struct {
	// Phase is queued, rendering, done or broken.
	Phase string `json:"phase"`
	// URL is the address of the film, once it is done.
	URL string `json:"url,omitempty"`
	// Problem is the reason for the phase broken.
	Problem string `json:"problem,omitempty"`
}

// Farm renders videos. It sends no notification when a job ends.
type Farm interface {
	// Submit starts a job, one for each key.
	Submit(ctx context.Context, key string, video Video) (job string, err error)
	State(ctx context.Context, job string) (State, error)
}

const (
	firstDelay = 10 * time.Second
	maxDelay   = 10 * time.Minute
	maxPolls   = 200 // about 33 hours; well below the step limit of a run
)

// Rendering returns the workflow "rendering". It submits a job to a farm and polls the job's
// state, with delays from 10 s to 10 minutes, until the job has ended. Between two polls the
// run sleeps and occupies no worker.
func Rendering(farm Farm) *workflow.Workflow[Video, Film] {
	return workflow.Define("rendering", func(ctx context.Context, video Video) (Film, error) {
		job, err := step.Run(ctx, "submit", func(ctx context.Context) (string, error) {
			return farm.Submit(ctx, workflow.Info(ctx).ID, video)
		})
		if err != nil {
			return Film{}, err
		}
		delay := firstDelay
		for polls := 1; polls <= maxPolls; polls++ {
			// The durable names of these steps are state, state:1, state:2, …
			state, err := step.Run(ctx, "state", func(ctx context.Context) (State, error) {
				return farm.State(ctx, job)
			}, step.MaxDuration(30*time.Second))
			if err != nil {
				return Film{}, err
			}
			switch state.Phase {
			case "done":
				return Film{URL: state.URL, Polls: polls}, nil
			case "broken":
				return Film{}, fmt.Errorf("the farm could not render %q: %s", video.Title, state.Problem)
			}
			if err := step.Sleep(ctx, "wait", delay); err != nil {
				return Film{}, err
			}
			delay = min(2*delay, maxDelay)
		}
		return Film{}, fmt.Errorf("the farm has not rendered %q after %d polls", video.Title, maxPolls)
	})
}
