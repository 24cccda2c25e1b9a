package runner_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// P6, P1: Postgres stops under load and comes back. Every run ends, no stored step is
// executed again, and the log has no line per failed try.
func TestP6PostgresRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	b := benchOn(t, server.URL())
	const runs, steps = 60, 5
	var c calls
	halfway := make(chan struct{})
	var once sync.Once
	w := workflow.Define("load", func(ctx context.Context, n int) (int, error) {
		for i := range steps {
			name := fmt.Sprintf("step-%d", i)
			if _, err := step.Run(ctx, name, func(context.Context) (int, error) {
				c.add(fmt.Sprintf("%d/%s", n, name))
				if c.add("all") == runs*steps/2 {
					once.Do(func() { close(halfway) })
				}
				return i, nil
			}); err != nil {
				return 0, err
			}
		}
		return n, nil
	})
	var log lines
	b.work(runner.Options{Concurrency: 10, Logger: slog.New(slog.NewTextHandler(&log, nil))}, w)
	ids := make([]string, runs)
	for i := range ids {
		ids[i] = b.start(w, fmt.Sprint(i))
	}
	receive(t, halfway, "half of the steps")
	server.Stop()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if got := b.completed(id); got != fmt.Sprint(i) {
			t.Errorf("run %d returned %s", i, got)
		}
	}
	for i := range runs {
		for s := range steps {
			if n := c.of(fmt.Sprintf("%d/step-%d", i, s)); n != 1 {
				t.Errorf("step %d of run %d was executed %d times; its worker was never lost", s, i, n)
			}
		}
	}
	if n := log.count("WARN"); n > 20 {
		t.Errorf("the outage left %d warnings in the log", n)
	}
}

// lines counts what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), word)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// with returns the first line that has both texts, empty if there is none.
func (l *lines) with(text, other string) string {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) && strings.Contains(line, other) {
			return line
		}
	}
	return ""
}
