package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

// The farm needs an hour, which takes the test no time.
func TestRenderingAsksAtGrowingIntervals(t *testing.T) {
	t.Parallel()
	farm := &farm{}
	rendering := Rendering(farm)
	env := workflowtest.New(t, rendering)
	farm.now, farm.doneAt = env.Now, env.Now().Add(time.Hour)
	env.FailStep("state:2", errors.New("no answer"))
	film, err := workflowtest.Start(env, rendering, Video{Title: "Dawn"}).Result()
	if err != nil {
		t.Fatal(err)
	}
	if film.URL != "film of job of Dawn" || film.Polls != len(farm.asked) {
		t.Errorf("film is %+v, the farm was asked %d times", film, len(farm.asked))
	}
	var delays []time.Duration
	for i := range farm.asked[1:] {
		delays = append(delays, farm.asked[i+1].Sub(farm.asked[i]).Round(10*time.Second))
	}
	want := []time.Duration{
		10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second,
		320 * time.Second, 10 * time.Minute, 10 * time.Minute, 10 * time.Minute, 10 * time.Minute, 10 * time.Minute,
	}
	if diff := cmp.Diff(want, delays); diff != "" {
		t.Errorf("delays (-want +got):\n%s", diff)
	}
}

func TestRenderingFailsWithTheFarm(t *testing.T) {
	t.Parallel()
	farm := &farm{problem: "no such codec"}
	rendering := Rendering(farm)
	env := workflowtest.New(t, rendering)
	farm.now = env.Now
	_, err := workflowtest.Start(env, rendering, Video{Title: "Dawn"}).Result()
	if err == nil || !strings.Contains(err.Error(), `could not render "Dawn": no such codec`) {
		t.Errorf("error is %v", err)
	}
}

func TestRenderingGivesUp(t *testing.T) {
	t.Parallel()
	farm := &farm{}
	rendering := Rendering(farm)
	env := workflowtest.New(t, rendering)
	farm.now, farm.doneAt = env.Now, env.Now().AddDate(1, 0, 0)
	_, err := workflowtest.Start(env, rendering, Video{Title: "Dawn"}).Result()
	if err == nil || len(farm.asked) != maxPolls {
		t.Errorf("after %d questions the error is %v", len(farm.asked), err)
	}
}

// farm has rendered everything at doneAt.
type farm struct {
	now     func() time.Time
	doneAt  time.Time
	problem string

	mu    sync.Mutex
	asked []time.Time
}

func (f *farm) Submit(_ context.Context, _ string, video Video) (string, error) {
	return "job of " + video.Title, nil
}

func (f *farm) State(_ context.Context, job string) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	f.asked = append(f.asked, now)
	switch {
	case f.problem != "":
		return State{Phase: "broken", Problem: f.problem}, nil
	case now.Before(f.doneAt):
		return State{Phase: "rendering"}, nil
	default:
		return State{Phase: "done", URL: "film of " + job}, nil
	}
}
