package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// by maps steps to the language that executed them.
type by map[string]string

// workflows returns all workflows by their names and versions. ../typescript/workflows.mjs
// has the same ones: same names, same steps, same inputs and outputs.
func workflows(l *ledger) map[string]workflow.Definition {
	known := map[string]workflow.Definition{}
	for _, w := range append(l.plain(), l.composed()...) {
		key := w.Name()
		if w.Version() != "" {
			key += "@" + w.Version()
		}
		known[key] = w
	}
	return known
}

// work is a step that writes itself into the ledger and returns the language of the worker
// that executed it.
func (l *ledger) work(ctx context.Context, name string, options ...step.Option) (string, error) {
	return l.workAnd(ctx, name, func(context.Context, int) error { return nil }, options...)
}

func (l *ledger) workAnd(ctx context.Context, name string, more func(ctx context.Context, execution int) error, options ...step.Option) (string, error) {
	return step.Run(ctx, name, func(ctx context.Context) (string, error) {
		execution, err := l.enter(ctx, workflow.Info(ctx).ID, name)
		if err != nil {
			return "", err
		}
		return language, more(ctx, execution)
	}, options...)
}

// plain are the workflows that know of no other run.
func (l *ledger) plain() []workflow.Definition {
	all := []workflow.Definition{
		// steps has four of them, the third of which waits for its gate to be opened.
		workflow.Define("steps", func(ctx context.Context, in struct{ Hold bool }) (by, error) {
			held := func(ctx context.Context, _ int) error {
				if !in.Hold {
					return nil
				}
				return l.gate(ctx, workflow.Info(ctx).ID)
			}
			done := by{}
			for _, name := range []string{"one", "two", "held", "last"} {
				more := held
				if name != "held" {
					more = func(context.Context, int) error { return nil }
				}
				language, err := l.workAnd(ctx, name, more)
				if err != nil {
					return nil, err
				}
				done[name] = language
			}
			return done, nil
		}),

		// nap sleeps between its steps.
		workflow.Define("nap", func(ctx context.Context, in struct{ Milliseconds int }) (by, error) {
			one, err := l.work(ctx, "one")
			if err != nil {
				return nil, err
			}
			if err := step.Sleep(ctx, "rest", milliseconds(in.Milliseconds)); err != nil {
				return nil, err
			}
			last, err := l.work(ctx, "last")
			return by{"one": one, "last": last}, err
		}),

		// flaky has a step that fails the given number of times.
		workflow.Define("flaky", func(ctx context.Context, in struct{ Failures, Attempts, Milliseconds int }) (by, error) {
			one, err := l.work(ctx, "one")
			if err != nil {
				return nil, err
			}
			fail := func(_ context.Context, execution int) error {
				if execution <= in.Failures {
					return fmt.Errorf("execution %d failed", execution)
				}
				return nil
			}
			interval := milliseconds(in.Milliseconds)
			flaky, err := l.workAnd(ctx, "flaky", fail, step.Retry(workflow.RetryPolicy{
				InitialInterval: interval, BackoffCoefficient: 1, MaximumInterval: interval, MaximumAttempts: in.Attempts,
			}))
			if err != nil {
				return nil, err
			}
			last, err := l.work(ctx, "last")
			return by{"one": one, "flaky": flaky, "last": last}, err
		}),

		// parallel has three steps at once, and a fourth after them.
		workflow.Define("parallel", func(ctx context.Context, _ any) (by, error) {
			done := by{}
			futures := map[string]*step.Future[string]{}
			for _, name := range []string{"a", "b", "c"} {
				futures[name] = step.Go(ctx, name, func(ctx context.Context) (string, error) {
					_, err := l.enter(ctx, workflow.Info(ctx).ID, name)
					return language, err
				})
			}
			for _, name := range []string{"a", "b", "c"} {
				language, err := futures[name].Await()
				if err != nil {
					return nil, err
				}
				done[name] = language
			}
			last, err := l.work(ctx, "last")
			done["last"] = last
			return done, err
		}),

		// echo returns its input, through a step.
		workflow.Define("echo", func(ctx context.Context, in json.RawMessage) (json.RawMessage, error) {
			return step.Run(ctx, "echo", func(ctx context.Context) (json.RawMessage, error) {
				_, err := l.enter(ctx, workflow.Info(ctx).ID, "echo")
				return in, err
			})
		}),

		// failing fails outside of steps.
		workflow.Define("failing", func(_ context.Context, in struct{ Message string }) (any, error) {
			return nil, errors.New(in.Message)
		}),
	}
	// versioned tells which version of itself was executed.
	for _, version := range []string{"", "1", "2"} {
		var options []workflow.Option
		if version != "" {
			options = append(options, workflow.Version(version))
		}
		all = append(all, workflow.Define("versioned", func(ctx context.Context, _ any) (by, error) {
			language, err := l.work(ctx, "by")
			return by{"version": version, "by": language}, err
		}, options...))
	}
	return all
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }
